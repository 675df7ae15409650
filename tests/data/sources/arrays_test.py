"""What people put into npz files by mistake."""

import io
import os
import zipfile

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data.sources import open_source as sources
from purify.data.sources.arrays import sign_arrays

PIXELS = np.zeros((6, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
GOOD = {'images': PIXELS, 'labels': LABELS}


def open_with(folder, train, test=GOOD, channels=3):
    for name, arrays in (('train', train), ('test', test)):
        np.savez(folder / f'{name}.npz', **arrays)
    options = {'resample': 'nearest', 'classes': '', 'train_size': 0, 'test_size': 0}
    options |= {'reference': 'none', 'reference_size': 0}
    return sources.open_source(
        'arrays', size_px=8, channels=channels, split_seed=0, path=str(folder), **options
    )


@pytest.mark.parametrize(
    ('wrong', 'expected'),
    [
        (
            {'images': PIXELS},
            r'train\.npz: has no array labels; give images u8\[n h w c\], labels \[n\]',
        ),
        (GOOD | {'images': PIXELS[:5]}, r'train\.npz: 5 images but 6 labels, which must agree'),
        (GOOD | {'images': PIXELS / np.float32('nan')}, r'train\.npz: images hold NaN or infinity'),
        (
            GOOD | {'images': PIXELS.astype(np.float32)},
            r'images are float32\[6, 8, 8, 3\]; they must be uint8',
        ),
        (GOOD | {'images': PIXELS[:, 0, 0]}, r'images are uint8\[6, 3\]'),
        (GOOD | {'images': PIXELS[:, :0]}, r'images are uint8\[6, 0, 8, 3\]'),
        (
            GOOD | {'images': PIXELS[..., :2]},
            r'images have 2 channels, but source\.channels=3. Set it',
        ),
        (GOOD | {'labels': LABELS / 2}, r'labels are float64\[6\]; they must be integers \[n\]'),
        (GOOD | {'labels': np.array(list('abcabc'))}, r'labels are <U1\[6\]'),
        (GOOD | {'labels': LABELS[:, None]}, r'labels are int64\[6, 1\]'),
        (GOOD | {'labels': np.int64(3)}, r'labels are int64\[\]'),
        (GOOD | {'labels': LABELS - 1}, r'labels run from -1 to 1; they must lie in 0 to'),
        (GOOD | {'labels': LABELS + 2**32}, r'labels run from 4294967296 to 4294967298'),
        (
            GOOD | {'labels': LABELS + 2**31 - 3},
            r'a label is 2147483647, but there are only 12 classes',
        ),
        (GOOD | {'labels': LABELS * 2}, r'no training images of class 1, 3'),
        (
            GOOD | {'labels': LABELS * 0},
            r'all training images have one class; a network needs at least two',
        ),
        (
            GOOD | {'ids': np.array([1, 2, 3, 3, 4, 5])},
            r'training ids occur more than once; ids must be unique',
        ),
        (GOOD | {'ids': np.arange(5)}, r'6 images but 5 ids'),
        (GOOD | {'ids': np.arange(6) / 10}, r'ids are float64\[6\]; they must be integers'),
        (GOOD | {'ids': np.array(list('abcdef'))}, r'ids are <U1\[6\]'),
        (
            GOOD | {'ids': np.arange(6) - 3},
            r'ids run from -3 to 2; they must lie in 0 to 2147483647',
        ),
        (GOOD | {'ids': np.arange(6) + 2**40}, r'ids run from 1099511627776'),
        (GOOD | {'class_names': ['a', 'b']}, r'a label is 2, but there are only 2 classes'),
        (GOOD | {'class_names': ['a', 'b', 'c', 'd']}, r'no training images of class d'),
        (
            GOOD | {'class_names': ['a', 'b', 'b']},
            r"class names \['b', 'b'\]: each must be there once",
        ),
        (
            GOOD | {'class_names': ['a', 'b', ' ']},
            r"class names \[' '\]: each must be there once, without space",
        ),
        ({'images': PIXELS[:0], 'labels': LABELS[:0]}, r'no training images'),
        (
            GOOD | {'labels': LABELS.astype('timedelta64[s]')},
            r'labels are timedelta64\[s\]\[6\]; they must be integers',
        ),
        (
            GOOD | {'ids': np.arange(6).astype('timedelta64[D]')},
            r'ids are timedelta64\[D\]\[6\]; they must be integers',
        ),
        (
            GOOD | {'images': PIXELS.astype('timedelta64[s]')},
            r'images are timedelta64\[s\]\[6, 8, 8, 3\]; they must be uint8',
        ),
        (GOOD | {'class_names': np.arange(3.0)}, r'class_names are float64\[3\]'),
        (
            GOOD | {'class_names': np.array([['a', 'b', 'c']])},
            r'class_names are <U1\[1, 3\]; they must be texts',
        ),
        (
            GOOD | {'class_names': np.array([b'a', b'caf\xe9', b'c'])},
            r"the class name b'caf\\xe9' is not UTF-8. Store class_names as",
        ),
        (
            GOOD | {'class_names': np.array(['a', '\udce9', 'c'])},
            r"the class name b'\\xe9' is not UTF-8",
        ),
        (
            GOOD | {'class_names': np.array([97, 98, 0x110000], '<u4').view('<U1')},
            r'class_names hold what is no text',
        ),
        (
            GOOD | {'class_names': np.array(['caf\u00e9', 'cafe\u0301', 'c'])},
            r'differ in their Unicode form alone: .*U\+00E9.*U\+0301',
        ),
        (
            GOOD | {'class_names': np.array(['\ufb01sh', 'fish', 'c'])},
            r'differ in their Unicode form alone: \ufb01sh .U\+FB01 s h., fish .f i s h.',
        ),
        (
            GOOD | {'class_names': np.array(['a', 'cat', 'ca\u200bt'])},
            r'differ in their Unicode form alone: cat .c a t., ca\u200bt .c a U\+200B t.',
        ),
        (
            GOOD | {'images': np.ones_like(PIXELS)},
            (
                r'no value of images is above 1: they look scaled to 0\.\.1.*np\.round\(255 \*'
                r' images\)'
            ),
        ),
    ],
)
def test_the_mistake_is_named(tmp_path, wrong, expected):
    with pytest.raises(UserError, match=expected):
        open_with(tmp_path, wrong)


def test_class_names_that_differ_between_the_splits(tmp_path):
    said = r"class_names differ: train\.npz has \['a', 'b', 'c'\], test\.npz has \['a', 'c', 'b'\]"
    with pytest.raises(UserError, match=said):
        open_with(
            tmp_path,
            GOOD | {'class_names': ['a', 'b', 'c']},
            GOOD | {'class_names': ['a', 'c', 'b']},
        )


def test_class_names_that_differ_in_their_unicode_form_alone(tmp_path):
    said = r'class_names differ: .*The first that differ: .*U\+00E9.*U\+0301.*Make them equal'
    with pytest.raises(UserError, match=said):
        open_with(
            tmp_path,
            GOOD | {'class_names': ['a', 'b', '\u00e9']},
            GOOD | {'class_names': ['a', 'b', 'e\u0301']},
        )


def test_a_single_pixel_may_be_one_and_black_images_are_images(tmp_path):
    dark = np.zeros_like(PIXELS)
    open_with(tmp_path, GOOD | {'images': dark})
    dark[0, 0, 0, 0] = 2
    open_with(tmp_path, GOOD | {'images': dark})


def test_whatever_changes_in_an_array_changes_the_signature(tmp_path):
    np.savez(tmp_path / 'train.npz', **GOOD)
    np.savez(tmp_path / 'test.npz', **GOOD)
    before, facts = sign_arrays(str(tmp_path)), (tmp_path / 'test.npz').stat()
    assert set(before) == {'train.npz', 'test.npz'}
    np.savez(tmp_path / 'test.npz', **(GOOD | {'labels': LABELS[::-1]}))
    os.utime(tmp_path / 'test.npz', ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (tmp_path / 'test.npz').stat().st_size == facts.st_size
    after = sign_arrays(str(tmp_path))
    assert after['train.npz'] == before['train.npz']
    assert after['test.npz'] != before['test.npz']
    assert sign_arrays(str(tmp_path / 'none')) == {'train.npz': 'missing', 'test.npz': 'missing'}


def test_class_names_as_bytes_and_in_one_split_alone(tmp_path):
    source = open_with(tmp_path, GOOD, GOOD | {'class_names': np.array([b'a', b'b', b'c'])})
    assert source.class_names == ['a', 'b', 'c']


def test_a_class_missing_in_the_test_split(tmp_path):
    with pytest.raises(UserError, match='no test images of class 2'):
        open_with(tmp_path, GOOD, {'images': PIXELS[:2], 'labels': LABELS[:2]})


class Bomb:
    """Unpickling it would be noticed."""

    def __reduce__(self):
        return pytest.fail, ('unpickled',)


def saved(save, *args, **kwargs):
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def huge():
    """An npz whose header claims an array of 2**60 bytes."""
    buffer, member = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        member, {'descr': '|u1', 'fortran_order': False, 'shape': (2**50, 32, 32, 1)}
    )
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('images.npy', member.getvalue())
    return buffer.getvalue()


@pytest.mark.parametrize(
    'data',
    [
        saved(np.savez, images=np.array([Bomb()], object), labels=LABELS),
        saved(np.save, PIXELS),
        saved(np.savez, **GOOD)[:200],
        flipped(saved(np.savez_compressed, **GOOD), 120),
        b'',
        b'not an npz',
        huge(),
    ],
    ids=['pickles', 'npy', 'cut', 'flipped byte', 'empty', 'text', 'claims too much'],
)
def test_files_that_are_no_npz_of_plain_arrays(tmp_path, data):
    np.savez(tmp_path / 'test.npz', **GOOD)
    (tmp_path / 'train.npz').write_bytes(data)
    said = r'train\.npz: not a readable npz file without pickles \(.+\)\. Write it again'
    with pytest.raises(UserError, match=said):
        sources.read_arrays(3, str(tmp_path))


def test_a_missing_file(tmp_path):
    said = r'train\.npz: no such file. The source needs train\.npz and test\.npz'
    with pytest.raises(UserError, match=said):
        sources.read_arrays(3, str(tmp_path))


@pytest.mark.parametrize('test', ['train.npz', './train.npz', 'link.npz'])
def test_one_file_for_training_and_testing(tmp_path, test):
    np.savez(tmp_path / 'train.npz', **GOOD)
    (tmp_path / 'link.npz').symlink_to('train.npz')
    said = 'hold the same images: a model would be tested on what it was trained on'
    with pytest.raises(UserError, match=said):
        sources.read_arrays(3, str(tmp_path), test=test)
