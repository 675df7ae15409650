import io

import numpy as np
import pytest
from PIL import Image
from support.pictures import encoded, png

from purify.core.errors import UserError
from purify.data import images

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (9, 7, 3), np.uint8)
GREY = RNG.integers(0, 256, (9, 7, 1), np.uint8)


def test_png_keeps_every_pixel():
    for image in (COLOUR, GREY):
        found = images.decode(images.encode_png(image), 'x', image.shape[-1])
        np.testing.assert_array_equal(found, image)


def test_grey_becomes_equal_channels_and_colour_becomes_luminance():
    found = images.decode(images.encode_png(GREY), 'x', 3)
    np.testing.assert_array_equal(found, np.repeat(GREY, 3, -1))
    luminance = COLOUR @ np.array([0.299, 0.587, 0.114])
    found = images.decode(images.encode_png(COLOUR), 'x', 1)[..., 0]
    np.testing.assert_allclose(found, luminance, atol=0.51)


@pytest.mark.parametrize(
    ('kind', 'options'),
    [('JPEG', {'quality': 95}), ('WEBP', {}), ('WEBP', {'lossless': True}), ('BMP', {})],
)
def test_other_formats_show_the_same_picture(kind, options):
    smooth = np.linspace(0, 255, 24 * 24 * 3).reshape(24, 24, 3).astype(np.uint8)
    found = images.decode(encoded(Image.fromarray(smooth), kind, **options), 'x', 3)
    assert found.shape == smooth.shape
    assert np.abs(found.astype(int) - smooth).mean() < 4


def test_palettes_are_looked_up():
    palette = Image.fromarray(COLOUR).quantize(16)
    found = images.decode(encoded(palette), 'x', 3)
    np.testing.assert_array_equal(found, np.asarray(palette.convert('RGB')))
    bits = Image.fromarray(GREY[..., 0] > 99)
    found = images.decode(encoded(bits), 'x', 1)[..., 0]
    np.testing.assert_array_equal(found, 255 * (GREY[..., 0] > 99))


def test_sixteen_bits_are_scaled_not_cut_off():
    deep = np.array([[0, 255, 256, 30_000, 65_535]], np.uint16)
    for channels in (1, 3):
        found = images.decode(encoded(Image.fromarray(deep)), 'x', channels)
        np.testing.assert_array_equal(found, np.repeat(deep[..., None] // 256, channels, -1))


def test_values_without_a_known_range_are_refused():
    data = encoded(Image.fromarray(np.float32([[0.5, 300]])), 'TIFF')
    said = r'^a\.tif: signed, floating-point or 32-bit values.*8 or 16 bits'
    with pytest.raises(UserError, match=said):
        images.decode(data, 'a.tif', 3)


@pytest.mark.filterwarnings('ignore::UserWarning')  # Pillow on odd TIFF tags
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM'])
def test_half_a_file_is_no_picture(kind):
    data = encoded(Image.fromarray(COLOUR), kind)
    for length in range(0, len(data) // 2, 7):
        with pytest.raises(UserError, match=r'^cut: not a readable picture'):
            images.decode(data[:length], 'cut', 3)


@pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize(
    'kind', ['PNG', 'JPEG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF']
)
def test_no_damaged_file_ends_in_anything_but_a_picture_or_a_users_error(kind):
    try:
        whole = encoded(Image.fromarray(COLOUR), kind)
    except KeyError:
        pytest.skip(f'this Pillow does not write {kind}')
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), 4):
            data[position] = rng.integers(256)
        try:
            assert images.decode(bytes(data), 'x', 3).dtype == np.uint8
        except UserError:
            refused += 1
    # those hold pixels without a check on them
    assert refused > 0 or kind in ('BMP', 'PPM', 'JPEG')


def test_a_broken_file_is_named_with_the_next_step(tmp_path):
    (tmp_path / 'cut.png').write_bytes(images.encode_png(COLOUR)[:60])
    (tmp_path / 'text.jpg').write_text('no picture')
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'gone.png').symlink_to(tmp_path / 'nowhere')
    for name, expected in {
        'cut.png': 'not a readable',
        'text.jpg': 'not a readable',
        'folder.png': 'cannot',
        'gone.png': 'cannot',
    }.items():
        with pytest.raises(UserError, match=rf'{name}: {expected}.*Repair or remove'):
            images.read(tmp_path / name, 3)


@pytest.mark.parametrize(('width', 'height'), [(8_001, 8_000), (60_000, 60_000)])
def test_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch, width, height):
    huge = png(width, height, 8, 0, ())  # a few hundred bytes
    monkeypatch.setattr(Image.Image, 'convert', lambda *args: pytest.fail('decoded'))
    with pytest.raises(UserError, match=r'^b\.png: .*(limit|bomb)'):
        images.decode(huge, 'b.png', 3)


def test_formats_that_start_other_programs_are_not_opened(monkeypatch):
    monkeypatch.setattr(
        'PIL.EpsImagePlugin.Ghostscript', lambda *args, **options: pytest.fail('started a program')
    )
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n'
    assert Image.open(io.BytesIO(eps)).format == 'EPS'  # Pillow by itself would
    with pytest.raises(UserError, match='not a readable picture'):
        images.decode(eps, 'x.png', 3)


@pytest.mark.parametrize('resample', sorted(images.FILTERS))
@pytest.mark.parametrize('image', [COLOUR, GREY], ids=['colour', 'grey'])
def test_resize_squashes_to_a_square_with_pillows_filter(image, resample):
    picture = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])
    expected = np.asarray(
        picture.resize((5, 5), getattr(Image.Resampling, resample.upper()))
    ).reshape(5, 5, -1)
    np.testing.assert_array_equal(images.resize(image, 5, resample), expected)


def test_equal_sizes_pass_untouched():
    square = RNG.integers(0, 256, (6, 6, 3), np.uint8)
    assert images.resize(square, 6, 'bicubic') is square
