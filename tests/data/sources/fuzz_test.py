"""Damaged and odd data through every source: it works, or the user is told what is wrong.

500 cases in an ordinary run; PURIFY_FUZZ=10000 tries more, PURIFY_FUZZ_SEED another draw.
"""

import functools
import io
import os
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.pictures import encoded
from support.plain import PLAIN

from purify.core.errors import UserError
from purify.data import images
from purify.data.notes import Notes
from purify.data.sources import open_source as sources
from purify.data.sources.open_source import sign_source

CASES = int(os.environ.get('PURIFY_FUZZ', '500'))
SEED = int(os.environ.get('PURIFY_FUZZ_SEED', '0'))
PIECES = 10  # tests that share the cases
NAMES = (
    *(
        b'ant',
        b'bee',
        b'cat',
        b'caf\xc3\xa9',
        b'cafe\xcc\x81',
        b'caf\xe9',
        b'a\nb',
        b' x',
        b'train',
        b'test',
        b'.hidden',
        b'-',
    ),
    *(
        b'0.png',
        b'1.JPG',
        b'2',
        b'3.txt',
        b'4.tif',
        b'5.webp',
        b'Thumbs.db',
        b'\xff\xfe.png',
        b'6.pgm',
        b'x' * 200,
    ),
)
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings('ignore')]  # Pillow's on odd tags


@functools.cache
def wholes():
    """Whole files of every format and mode that Pillow writes, with the things that a file may say
    of its picture.
    """
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8))
    alpha = Image.fromarray(rng.integers(0, 256, (12, 10, 4), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (12, 10), np.uint16))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    modes = [
        colour,
        alpha,
        deep,
        *(colour.convert(mode) for mode in ('1', 'L', 'LA', 'P', 'CMYK', 'YCbCr', 'I', 'F')),
    ]
    found = []
    Image.init()
    for kind in images.FORMATS:
        for picture in modes:
            for options in (
                {},
                {'exif': exif, 'icc_profile': profile},
                {'save_all': True, 'append_images': [picture]},
            ):
                try:
                    found.append(encoded(picture, kind, **options))
                # a mode that this format does not have
                except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError):
                    continue
    packed = [
        encoded(colour, 'TIFF', compression=name)
        for name in ('tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg')
    ]
    fax = encoded(colour.convert('1'), 'TIFF', compression='group4')
    plain = (
        b'P5 3 2 4095\n' + bytes(range(12)),
        b'P2 2 1 9\n4 5\n',
        b'P3 1 1 255 1 2 3\n',
        b'Pf\n2 2\n-1.0\n' + bytes(16),
    )
    return [*found, *packed, fax, *plain]


def damage(rng, data):
    """One to four random wounds: flipped, cut, doubled, zeroed, an extreme number written over."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
        if rng.random() < 0.5:  # headers hold what breaks
            at = min(at, int(rng.integers(min(len(data), 200))))
        kind = rng.integers(6)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at : at + length] = bytes(min(length, len(data) - at))
        elif kind == 4:
            number = int(rng.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1]))
            data[at : at + 4] = struct.pack('<I' if rng.random() < 0.5 else '>I', number)
        else:
            data[at] = int(rng.integers(256))
    return bytes(data)


def try_picture(rng, folder):
    data = damage(rng, wholes()[rng.integers(len(wholes()))])
    channels = int(rng.choice([1, 3]))
    found = images.decode(data, 'x', channels, Notes())
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert found.shape[2] == channels
    assert min(found.shape) > 0


def odd_array(rng):
    """An array as nobody should store one."""
    shapes = ((), (6,), (6, 8, 8, 3), (6, 8, 8), (0,), (6, 0, 8, 3), (2, 3), (7,))
    kinds = ('u1', 'i8', 'u8', 'f2', 'f8', 'c8', 'b1', 'm8[s]', 'M8[D]', 'S3', 'U3', 'S0', 'V4')
    kinds += ('>i4', '>U2', [('a', 'i4')])
    shape, kind = shapes[rng.integers(len(shapes))], kinds[rng.integers(len(kinds))]
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    if not size:
        return np.zeros(shape, kind)
    high = 256 if rng.random() < 0.5 else 2  # plausible, small numbers too
    return np.frombuffer(rng.integers(0, high, size, np.uint8).tobytes(), kind).reshape(shape)


def try_arrays(rng, folder):
    good = {
        'images': rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
        'labels': np.array([0, 1, 2, 0, 1, 2]),
        'ids': np.arange(6),
        'class_names': np.array(['a', 'b', 'c']),
    }
    # of the arrays of both files: mostly one, so that it is what is met
    harmed = rng.choice([0, 1, 1, 2, 4]) / 8
    for split in ('train', 'test'):
        arrays = dict(good)
        for name in list(arrays):
            if rng.random() < harmed:
                arrays[name] = odd_array(rng)
                if rng.random() < 0.2:
                    del arrays[name]
        buffer = io.BytesIO()
        (np.savez if rng.random() < 0.5 else np.savez_compressed)(buffer, **arrays)
        data = buffer.getvalue()
        (folder / f'{split}.npz').write_bytes(damage(rng, data) if rng.random() < 0.1 else data)
    open_all(folder, 'arrays')


def try_folder(rng, folder):
    """Folders with names, links and files as they come; half of them nearly right."""
    places, right = [os.fsencode(folder)], rng.random() < 0.6
    if right:
        for split in (b'train', b'test')[: rng.integers(1, 3)]:
            for name in (b'ant', b'bee'):
                places.append(os.path.join(os.fsencode(folder), split, name))
                for file in (b'0.png', b'1', b'2.jfif'):
                    put(rng, places[-1], file, harm=rng.random() < 0.02)
    for _ in range(rng.integers(0, 4) if right else rng.integers(1, 12)):
        place = places[rng.integers(len(places))]
        name = NAMES[rng.integers(len(NAMES))]
        if rng.random() < 0.5:
            try:
                os.mkdir(os.path.join(place, name))
            except FileExistsError:
                continue
            places.append(os.path.join(place, name))
        else:
            put(rng, place, name)
    open_all(folder, 'imagefolder')


def put(rng, place, name, *, harm=True):
    """A picture; with `harm` perhaps a damaged one, an empty file, a pipe or a link."""
    path = os.path.join(place, name)
    os.makedirs(place, exist_ok=True)
    if os.path.lexists(path):
        return
    kind = rng.integers(10) if harm else 9
    if kind == 0:
        os.symlink(b'nowhere', path)
    elif kind == 1:
        os.symlink(name, path)  # to itself
    elif kind == 2:
        os.symlink(b'..', path)
    elif kind == 3:
        os.mkfifo(path)
    else:
        data = wholes()[rng.integers(len(wholes()))]
        with open(path, 'wb') as file:
            file.write(damage(rng, data) if kind == 4 else b'' if kind == 5 else data)


def open_all(folder, kind):
    part = {'name': kind, 'path': str(folder)}
    assert sign_source(part) == sign_source(part)
    source = sources.open_source(**part, **PLAIN)
    for pool in (source.train, source.test):
        for i in range(len(pool)):
            assert pool.fetch(i).shape == (8, 8, 3)
    for name in source.class_names:
        name.encode()


def outcome(attempt, rng, folder):
    """True where it works, False where the user is told; the test fails on any other end."""
    try:
        attempt(rng, folder)
    except UserError as error:
        text = str(error)
        assert text.rstrip().endswith('.'), text
        assert 'Error(' not in text, text
        assert ' object at 0x' not in text, text
        return False
    return True


@pytest.mark.parametrize('piece', range(PIECES))
def test_every_case_works_or_is_explained(piece, tmp_path):
    worked = {try_picture: [], try_arrays: [], try_folder: []}
    for case in range(piece, CASES, PIECES):
        rng = np.random.default_rng([SEED, case])
        attempt = (try_picture, try_picture, try_arrays, try_folder)[case // PIECES % 4]
        folder = tmp_path / str(case)
        folder.mkdir()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                worked[attempt].append(outcome(attempt, rng, folder))
        except Exception as error:
            raise AssertionError(
                f'case {case} of PURIFY_FUZZ_SEED={SEED}: {type(error).__name__}: {error}'
            ) from error
    assert all(worked.values()), 'each kind has cases'


def test_the_cases_go_both_ways(tmp_path):
    """Neither all refused nor all accepted: else the cases would try nothing."""
    for attempt in (try_picture, try_arrays, try_folder):
        found = []
        for case in range(40):
            folder = tmp_path / f'{attempt.__name__}{case}'
            folder.mkdir()
            found.append(outcome(attempt, np.random.default_rng([SEED, case, 1]), folder))
        assert 0 < sum(found) < 40, attempt.__name__


def test_every_whole_file_is_read():
    refused = []
    for data in wholes():
        try:
            images.decode(data, 'x', 3)
        except UserError as error:
            refused.append(str(error))
    assert all('no known range' in text for text in refused), '32 bits and floating-point'
    assert len(refused) < len(wholes()) / 10
    kinds = {Image.open(io.BytesIO(data)).format for data in wholes()}
    assert {'PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'PPM', 'WEBP'} <= kinds
