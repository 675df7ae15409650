"""What a file says of how its picture is to be shown, against values by hand and against OpenCV."""

import struct

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin
from support.pictures import encoded, png

from purify.core.errors import UserError
from purify.data import images
from purify.data.notes import KINDS, Notes

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 4, 3), np.uint8)


def shown(data, channels=3):
    """The pixels, and the kinds of notes that were taken."""
    notes = Notes()
    return images.decode(data, 'x', channels, notes), set(notes.counts())


def tiff(width, data, order='<', **tags):
    """A TIFF of one row from bytes; `tags` change the grey, uncompressed one."""
    numbers = {'bits': 258, 'photometric': 262, 'samples': 277, 'highest': 281}
    values = {256: width, 257: 1, 258: 16, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: len(data)}
    values |= {numbers[name]: value for name, value in tags.items()}
    values[273] = 8 + 2 + 12 * len(values) + 4
    out = (b'II' if order == '<' else b'MM') + struct.pack(order + 'HIH', 42, 8, len(values))
    for tag, value in sorted(values.items()):
        out += struct.pack(order + 'HHIHH', tag, 3, 1, value, 0)
    return out + struct.pack(order + 'I', 0) + data


# ------------------------------------------------------------------ orientation


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_pictures_stand_as_exif_says(kind, orientation):
    """Row and column of the upright picture's first pixel, by the table of the EXIF standard."""
    smooth = np.zeros((24, 40, 3), np.uint8)
    smooth[:8, :8] = 255  # the stored picture's top left
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    found, noted = shown(encoded(Image.fromarray(smooth), kind, exif=exif))
    assert found.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    top, left = {
        1: (1, 1),
        2: (1, 0),
        3: (0, 0),
        4: (0, 1),
        5: (1, 1),
        6: (1, 0),
        7: (0, 0),
        8: (0, 1),
    }[orientation]
    corner = found[:8] if top else found[-8:]
    corner = corner[:, :8] if left else corner[:, -8:]
    assert corner.min() > 200
    assert found.astype(float).mean() == pytest.approx(smooth.mean(), abs=3)
    assert not noted


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_is_that_of_opencv(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(
        Image.fromarray(np.kron(COLOUR, np.ones((8, 8, 1), np.uint8))),
        'JPEG',
        exif=exif,
        quality=95,
    )
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    # they upsample colours with other filters
    assert np.abs(shown(data)[0].astype(int) - by_opencv).max() <= 4


def test_broken_exif_data_are_counted_and_the_picture_is_read():
    found, noted = shown(png(1, 1, 8, 2, [b'\1\2\3'], (b'eXIf', b'nonsense')))
    assert found.tolist() == [[[1, 2, 3]]]
    assert noted == {'exif'}


# ------------------------------------------------------------------ transparency


def test_what_is_transparent_shows_the_white_below_and_not_what_lies_under_it():
    pixels = np.array([[[255, 0, 255, 0], [255, 0, 255, 255], [100, 200, 0, 51]]], np.uint8)
    for kind in ('PNG', 'WEBP', 'TIFF'):
        options = {'lossless': True} if kind == 'WEBP' else {}
        found, noted = shown(encoded(Image.fromarray(pixels), kind, **options))
        # .2 of the colour and .8 of 255: 224, 244, 204
        np.testing.assert_array_equal(found, [[[255, 255, 255], [255, 0, 255], [224, 244, 204]]])
        assert noted == {'alpha'}


def test_transparent_grey():
    pixels = np.array([[[10, 0], [10, 255], [100, 51]]], np.uint8)
    found, noted = shown(encoded(Image.fromarray(pixels, 'LA')), 1)
    np.testing.assert_array_equal(found[..., 0], [[255, 10, 224]])
    assert noted == {'alpha'}


def test_an_opaque_alpha_channel_is_no_transparency():
    found, noted = shown(
        encoded(Image.fromarray(np.dstack([COLOUR, np.full((6, 4), 255, np.uint8)])))
    )
    np.testing.assert_array_equal(found, COLOUR)
    assert not noted


@pytest.mark.parametrize('kind', ['PNG', 'GIF'])
def test_the_transparent_colour_of_a_palette(kind):
    picture = Image.new('P', (3, 1))
    picture.putpalette([255, 0, 255, 0, 0, 9, 40, 50, 60])
    picture.putdata([0, 1, 2])
    found, noted = shown(encoded(picture, kind, transparency=0))
    np.testing.assert_array_equal(found, [[[255, 255, 255], [0, 0, 9], [40, 50, 60]]])
    assert noted == {'alpha'}


def test_a_palette_with_alpha():
    picture = Image.new('P', (2, 1))
    picture.putpalette([100, 200, 0, 1, 2, 3])
    picture.putdata([0, 1])
    found, _ = shown(encoded(picture, transparency=b'\x33\xff'))
    np.testing.assert_array_equal(found, [[[224, 244, 204], [1, 2, 3]]])


@pytest.mark.parametrize(
    ('bits', 'row', 'expected'),
    [
        (1, bytes([0b01000000]), [0, 255]),  # white on white; black stays
        (2, bytes([0b00011011]), [0, 255, 170, 255]),
        (4, bytes([0x01, 0xF2]), [0, 255, 255, 34]),
        (8, bytes([0, 1, 2]), [0, 255, 2]),
        (16, struct.pack('>3H', 0, 1, 51400), [0, 255, 200]),
    ],
)
def test_the_transparent_grey_of_a_png_is_given_in_its_own_depth(bits, row, expected):
    found, noted = shown(png(len(expected), 1, bits, 0, [row], (b'tRNS', struct.pack('>H', 1))), 1)
    np.testing.assert_array_equal(found[0, :, 0], expected)
    assert 'alpha' in noted


def test_the_transparent_colour_of_sixteen_bits():
    row = struct.pack('>6H', 65535, 0, 0x1234, 257, 514, 51400)
    found, noted = shown(png(2, 1, 16, 2, [row], (b'tRNS', struct.pack('>3H', 65535, 0, 0x1234))))
    np.testing.assert_array_equal(found, [[[255, 255, 255], [1, 2, 200]]])
    assert noted == {'alpha'}


def test_the_transparent_colour_of_sixteen_bits_is_told_from_its_neighbours_by_all_bits():
    key, near = (65535, 0, 0x1234), (65535, 0, 0x1235)  # equal in their higher eight bits
    row = struct.pack('>6H', *near, *key)
    rotated = Image.Exif()
    rotated[ExifTags.Base.Orientation] = 2  # mirrored
    for chunks in ((), ((b'eXIf', rotated.tobytes()[6:]),)):
        found, noted = shown(png(2, 1, 16, 2, [row], (b'tRNS', struct.pack('>3H', *key)), *chunks))
        expected = [[255, 0, 0x12], [255, 255, 255]]
        np.testing.assert_array_equal(found, [expected[::-1] if chunks else expected])
        assert noted == {'alpha'}
    found, noted = shown(
        png(1, 1, 16, 2, [struct.pack('>3H', *near)], (b'tRNS', struct.pack('>3H', *key)))
    )
    assert (found.tolist(), noted) == ([[[255, 0, 0x12]]], set())


# ------------------------------------------------------------------ depth


def test_sixteen_bits_of_every_format_are_those_of_opencv():
    deep = np.array([[0, 255, 256, 4095, 30_000, 51_400, 65_535]], np.uint16)
    pgm = b'P5 7 1 65535\n' + deep.astype('>u2').tobytes()
    lossless = encoded(Image.fromarray(deep), 'JPEG2000', irreversible=False)
    for data in (
        encoded(Image.fromarray(deep)),
        pgm,
        tiff(7, deep.tobytes()),
        tiff(7, deep.astype('>u2').tobytes(), '>'),
        lossless,
    ):
        opened = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(opened, deep)
        found, noted = shown(data, 1)
        np.testing.assert_array_equal(found[..., 0], opened >> 8)
        assert not noted


def test_the_maximum_of_a_pgm_is_white():
    data = b'P5 3 1 4095\n' + np.array([0, 2048, 4095], '>u2').tobytes()
    # 2048 / 4095 of 255 is 127.5
    np.testing.assert_array_equal(shown(data, 1)[0][0, :, 0], [0, 128, 255])
    found = shown(b'P5 3 1 15\n' + bytes([0, 5, 15]), 1)[0][0, :, 0]
    np.testing.assert_array_equal(found, [0, 85, 255])
    np.testing.assert_array_equal(shown(b'P2 2 1 1000\n500 1000\n', 1)[0][0, :, 0], [128, 255])


def test_twelve_bits_of_a_tiff():
    packed = tiff(2, bytes([0xAB, 0xC1, 0x23]), bits=12)
    assert shown(packed, 1)[0].ravel().tolist() == [0xAB, 0x12]
    values = np.array([0, 2048, 4095], '<u2').tobytes()
    found, noted = shown(tiff(3, values, highest=4095), 1)
    assert found.ravel().tolist() == [0, 128, 255]
    assert not noted
    # nothing tells that these are 12 bits: said, not guessed
    found, noted = shown(tiff(3, values), 1)
    assert found.ravel().tolist() == [0, 8, 15]
    assert noted == {'dark'}
    # how light the picture is, says TIFF 6.0, not how deep
    found, noted = shown(tiff(3, values, highest=3000), 1)
    assert found.ravel().tolist() == [0, 8, 15]
    assert noted == {'dark'}


def test_white_may_be_zero():
    values = np.array([0, 256, 65535], '<u2').tobytes()
    assert shown(tiff(3, values, photometric=0), 1)[0].ravel().tolist() == [255, 254, 0]
    found = shown(tiff(3, bytes([0, 1, 255]), photometric=0, bits=8), 1)[0].ravel().tolist()
    assert found == [255, 254, 0]


def test_dark_colours_of_sixteen_bits_are_counted():
    found, noted = shown(png(1, 1, 16, 2, [struct.pack('>3H', 4095, 2048, 7)]))
    assert (found.tolist(), noted) == ([[[15, 8, 0]]], {'dark'})
    found, noted = shown(png(1, 1, 16, 2, [struct.pack('>3H', 4096, 2048, 7)]))
    assert (found.tolist(), noted) == ([[[16, 8, 0]]], set())
    assert shown(encoded(Image.fromarray(np.array([[200, 3]], np.uint16))))[1] == {'dark'}
    assert not shown(encoded(Image.fromarray(np.zeros((2, 2), np.uint16))))[1], 'black is black'


@pytest.mark.parametrize('channels', [1, 3])
def test_pictures_scaled_to_one_are_counted(channels):
    scaled = (COLOUR / 255).round().astype(np.uint8)
    scaled[0, 0] = 1
    assert shown(encoded(Image.fromarray(scaled)), channels)[1] == {'scaled'}
    assert shown(encoded(Image.fromarray(scaled * 2)), channels)[1] == set()
    bits = Image.fromarray(scaled[..., 0].astype(bool))
    assert shown(encoded(bits), channels)[1] == set(), 'of one bit, 1 is white'
    palette = Image.fromarray(scaled[..., 0], 'P')
    palette.putpalette([0, 0, 0, 200, 10, 30])
    assert shown(encoded(palette), channels)[1] == set(), 'numbers of colours'
    assert shown(encoded(Image.new('RGB', (2, 2))), channels)[1] == set(), 'black is black'


@pytest.mark.parametrize('kind', [np.float32, np.int32])
def test_values_without_a_known_range_are_refused(kind):
    said = r'^x: signed, floating-point or 32-bit values of no known range'
    with pytest.raises(UserError, match=said):
        shown(encoded(Image.fromarray(np.array([[1, 300]], kind)), 'TIFF'))


# ------------------------------------------------------------------ colours

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def profile(red, green, blue, gamma, space=b'RGB ', white=(0.9642, 1.0, 0.8249)):
    """A display profile (ICC v2), primaries as XYZ under D50 and one gamma, or grey with that."""

    def xyz(values):
        return b'XYZ \0\0\0\0' + struct.pack('>3i', *(round(value * 65536) for value in values))

    curve = b'curv\0\0\0\0' + struct.pack('>IH', 1, round(gamma * 256))
    tags = {
        b'desc': b'desc\0\0\0\0' + struct.pack('>I', 2) + b'x\0' + bytes(78),
        b'cprt': b'text\0\0\0\0x\0',
        b'wtpt': xyz(white),
    }
    if space == b'RGB ':
        tags |= {b'rXYZ': xyz(red), b'gXYZ': xyz(green), b'bXYZ': xyz(blue), b'rTRC': curve}
        tags |= {b'gTRC': curve, b'bTRC': curve}
    else:
        tags |= {b'kTRC': curve}
    start, table, body = 128 + 4 + 12 * len(tags), b'', b''
    for name, data in tags.items():
        table += name + struct.pack('>II', start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = (
        struct.pack('>I4sI4s4s4s', start + len(body), b'lcms', 0x02400000, b'mntr', space, b'XYZ ')
        + bytes(12)
        + b'acsp'
    )
    header += bytes(28) + struct.pack('>3i', 63190, 65536, 54061)
    return header + bytes(128 - len(header)) + struct.pack('>I', len(tags)) + table + body


# ICC's numbers, D50
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
ADOBE_RGB = profile(*ADOBE, 2.19921875)
TO_SRGB = np.linalg.inv(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


def srgb_of_adobe(pixels):
    """By the two standards' formulas."""
    light = (pixels / 255) ** 2.19921875 @ np.array(ADOBE) @ TO_SRGB.T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'TIFF', 'JPEG'])
def test_an_embedded_profile_is_brought_to_srgb(kind):
    flat = np.broadcast_to(np.array([150, 120, 90], np.uint8), (16, 16, 3))
    options = {'WEBP': {'lossless': True}, 'JPEG': {'quality': 100}}.get(kind, {})
    found, noted = shown(encoded(Image.fromarray(flat), kind, icc_profile=ADOBE_RGB, **options))
    expected = srgb_of_adobe(flat.astype(float))
    assert np.abs(expected - flat).max() > 10
    assert np.abs(found - expected).max() <= (3 if kind == 'JPEG' else 1.5)
    assert not noted


def test_a_profile_of_srgb_changes_nothing():
    found, noted = shown(encoded(Image.fromarray(COLOUR), icc_profile=SRGB))
    np.testing.assert_array_equal(found, COLOUR)
    assert not noted
    grey = COLOUR[..., 0]
    seen = shown(encoded(Image.fromarray(grey), icc_profile=SRGB), 1)[0][..., 0]
    np.testing.assert_array_equal(seen, grey)


def test_grey_with_a_profile_of_grey():
    grey = np.arange(256, dtype=np.uint8)[None]
    found, noted = shown(
        encoded(Image.fromarray(grey), icc_profile=profile(*ADOBE, 1.0, b'GRAY')), 1
    )
    light = grey / 255  # a linear profile
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(found[..., 0] - expected).max() <= 2
    assert not noted


def test_transparent_pictures_keep_their_profile_and_their_white():
    pixels = np.array([[[150, 120, 90, 255], [150, 120, 90, 0]]], np.uint8)
    found, noted = shown(encoded(Image.fromarray(pixels), icc_profile=ADOBE_RGB))
    assert np.abs(found[0, 0] - srgb_of_adobe(pixels[0, 0, :3].astype(float))).max() <= 1.5
    assert found[0, 1].tolist() == [255, 255, 255]
    assert noted == {'alpha'}


@pytest.mark.parametrize(
    'wrong',
    [b'nonsense', ADOBE_RGB[:200], profile(*ADOBE, 1.0, b'GRAY')],
    ids=['none', 'cut', 'grey'],
)
def test_a_profile_that_does_not_fit_is_counted(wrong):
    found, noted = shown(encoded(Image.fromarray(COLOUR), icc_profile=wrong))
    np.testing.assert_array_equal(found, COLOUR)
    assert noted == {'profile'}


def test_inks_become_colours():
    inks = Image.new('CMYK', (16, 16), (0, 255, 255, 0))
    for kind in ('TIFF', 'JPEG'):
        found, noted = shown(encoded(inks, kind))
        assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 4
        assert not noted


def test_lab_becomes_colours():
    """L 53.6, a 80.4, b 69.9 under D50 is sRGB's red (Lindbloom: 54.29, 80.81, 69.89)."""
    lab = Image.fromarray(
        np.broadcast_to(np.array([138, 81, 70], np.uint8), (2, 2, 3)).copy(), 'LAB'
    )
    found, _ = shown(encoded(lab, 'TIFF'))
    assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 6


SRGB_XY = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_XY = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    ('chunk', 'noted'),
    [
        ((b'cHRM', struct.pack('>8I', *SRGB_XY)), set()),
        ((b'cHRM', struct.pack('>8I', *P3_XY)), {'colours'}),
        ((b'cICP', bytes([1, 13, 0, 1])), set()),  # H.273: BT.709's primaries, sRGB's curve
        ((b'cICP', bytes([12, 13, 0, 1])), {'colours'}),  # Display P3
        ((b'cICP', bytes([1, 16, 0, 1])), {'colours'}),  # PQ
        ((b'cICP', bytes([1, 8, 0, 1])), {'colours'}),  # linear
        ((b'tEXt', b'a\0cICP\x0c\x10'), set()),
    ],
)
def test_primaries_that_are_not_srgbs_are_counted(chunk, noted):
    pixels, found = shown(png(1, 1, 8, 2, [b'\1\2\3'], (b'tEXt', b'a\0' + bytes(5000)), chunk))
    assert (pixels.tolist(), found) == ([[[1, 2, 3]]], noted)
    grey = png(1, 1, 8, 0, [b'\7'], (b'cHRM', struct.pack('>8I', *P3_XY)))
    assert not shown(grey)[1], 'grey has no primaries'


def test_numbers_for_colours_go_before_other_marks():
    linear = (b'gAMA', struct.pack('>I', 100_000))
    assert not shown(png(1, 1, 8, 2, [b'\1\2\3'], linear, (b'cICP', bytes([1, 13, 0, 1]))))[1]


@pytest.mark.parametrize(('primaries', 'noted'), [(SRGB_XY, set()), (P3_XY, {'colours'})])
def test_primaries_of_tiff_are_counted(primaries, noted):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[319] = tuple(value / 100_000 for value in primaries[2:])
    assert shown(encoded(Image.fromarray(COLOUR), 'TIFF', tiffinfo=tags))[1] == noted


@pytest.mark.parametrize(
    ('primaries', 'curve', 'noted'), [(1, 13, set()), (12, 13, {'colours'}), (1, 16, {'colours'})]
)
def test_primaries_and_curves_of_avif_are_counted(primaries, curve, noted):
    data = encoded(Image.fromarray(COLOUR), 'AVIF')
    at = data.index(b'colrnclx') + 8
    assert shown(data[:at] + struct.pack('>HH', primaries, curve) + data[at + 4 :])[1] == noted


def test_a_gamma_that_is_not_srgbs_is_counted():
    for gamma, noted in ((45455, set()), (100_000, {'colours'})):
        data = png(1, 1, 8, 2, [b'\1\2\3'], (b'gAMA', struct.pack('>I', gamma)))
        assert shown(data)[1] == noted
    both = png(1, 1, 8, 2, [b'\1\2\3'], (b'sRGB', b'\0'), (b'gAMA', struct.pack('>I', 100_000)))
    assert not shown(both)[1]


def test_adobe_rgb_in_exif_alone_is_counted():
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 2
    assert shown(encoded(Image.fromarray(COLOUR), 'JPEG', exif=exif))[1] == {'colours'}
    assert not shown(encoded(Image.fromarray(COLOUR), 'JPEG', exif=exif, icc_profile=SRGB))[1]
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 1
    assert not shown(encoded(Image.fromarray(COLOUR), 'JPEG', exif=exif))[1]


# ------------------------------------------------------------------ several pictures in a file, and
# counting


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF', 'MPO', 'AVIF'])
def test_the_first_of_several_pictures_is_taken_and_that_is_counted(kind):
    frames = [Image.new('RGB', (16, 16), (level, level, level)) for level in (40, 200, 90)]
    try:
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    except KeyError:
        pytest.skip(f'this Pillow does not write {kind}')
    found, noted = shown(data)
    assert np.abs(found.astype(int) - 40).max() <= 3
    assert noted == {'frames'}


def test_each_kind_is_said_once_and_every_picture_counted_once(capsys):
    notes, transparent = Notes(), encoded(Image.new('RGBA', (2, 2)))
    for name in ('a.png', 'b.png', 'a.png'):
        images.decode(transparent, name, 3, notes)
    images.decode(encoded(Image.new('RGB', (2, 2))), 'c.png', 3, notes)
    assert notes.counts() == {'alpha': 2}
    said = capsys.readouterr().err
    assert said == f'a.png: {KINDS["alpha"]}. Others like it are read the same way.\n'
    notes.say_counts('source birds')
    assert capsys.readouterr().err == f'source birds: 2 of the pictures read: {KINDS["alpha"]}.\n'
