"""Picture files as arrays, the way a viewer shows them, with limits against hostile files."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from purify.core.errors import UserError
from purify.data.notes import Notes
from purify.data.profiles import lab_to_srgb, to_srgb

MAX_PIXELS = 64_000_000  # a larger picture is refused before it is decoded: decompression bombs
# Without those that start programs, such as EPS.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM', 'JPEG2000', 'AVIF')
FILTERS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
}
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE = 258, 262, 281  # TIFF's tags
SRGB_GAMMA = 1 / 2.2
# White, red, green, blue in xy, as PNG's cHRM has them.
SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
SRGB_CODES = (1, 2)  # H.273: BT.709's, or not said
SRGB_CURVES = (1, 2, 4, 6, 13, 14, 15)  # sRGB's, the like of BT.709's, gamma 2.2, or not said
PRIMARIES = 319  # TIFF's tag
ADOBE_RGB = 2  # of EXIF's ColorSpace; cameras write the interoperability index R03 instead

Note = Callable[[str], None]


def decode(data: bytes, name: str, channels: int, notes: Notes | None = None) -> np.ndarray:
    """Decodes a picture to u8[h w c], grey (c=1) or RGB (c=3), as shown on a white page.

    What the file says of how it is to be shown is followed: EXIF's orientation, palettes,
    transparency (on white, like a web page; most loaders show what happens to lie under it), an
    embedded colour profile (to sRGB), and the depth: of more than 8 bits the highest 8 are kept,
    counted from the depth that the file states (PGM's maximum, TIFF's BitsPerSample; of 16 bits, a
    MaxSampleValue like 4095 states the depth). What cannot be followed is counted in `notes`
    (`KINDS`).

    Raises:
      UserError: naming the file, when it is broken, too large, or has values of no known range.
    """
    told = set()

    def note(kind: str) -> None:
        told.add(kind)
        if notes is not None:
            notes.add(kind, name)

    Image.init()
    try:
        picture = Image.open(io.BytesIO(data), formats=_formats())
        if picture.width * picture.height > MAX_PIXELS:
            raise UserError(
                f'{name}: {picture.width}x{picture.height} pixels is more than the limit of'
                f' {MAX_PIXELS:,}. Shrink or remove it.'
            )
        shown = _shown(picture, data, name, note)
        pixels = np.asarray(shown.convert('L' if channels == 1 else 'RGB'))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        kinds = ', '.join(FORMATS)
        raise UserError(
            f'{name}: not a readable picture (of {kinds}). Repair or remove it and start again.'
        ) from error
    except Exception as error:  # broken files fail in as many ways as there are formats
        raise UserError(
            f'{name}: not a readable picture ({error}). Repair or remove the file and start again.'
        ) from error
    if pixels.max() == 1 and 'dark' not in told:
        note('scaled')
    return pixels.reshape(*pixels.shape[:2], channels)


def _formats() -> list[str]:
    return [form for form in FORMATS if form in Image.OPEN]


def _shown(picture: Image.Image, data: bytes, name: str, note: Note) -> Image.Image:
    """The picture upright, opaque and in sRGB, with 8 bits per value, ready for L or RGB."""
    if getattr(picture, 'is_animated', False):
        note('frames')
    raw = _raw_mode(picture)
    picture.load()
    _resolve_deep_key(picture, data, raw)
    _turn(picture, note)
    profile = picture.info.get('icc_profile')
    other_colours = not profile and _other_colours(picture, data)
    colours, alpha = _split_alpha(_eight_bits(picture, raw, name, note), picture, raw)
    if ';16' in raw and not picture.mode.startswith('I') and np.asarray(colours).max() < 16:
        note('dark')  # Pillow has dropped the lower eight bits
    colours = _in_srgb(colours, profile, note)
    if other_colours:
        note('colours')
    if alpha is None or alpha.getextrema()[0] == 255:
        return colours
    note('alpha')
    return Image.composite(colours, Image.new(colours.mode, colours.size, 'white'), alpha)


def _other_colours(picture: Image.Image, data: bytes) -> bool:
    """Whether a picture without a profile marks its colours as others than sRGB's.

    Marks are primaries, a gamma, or numbers for both as of ITU-T H.273, in the cICP chunk of a PNG,
    which goes before its other marks, and in the colr box of an AVIF; Pillow reads neither.
    """
    info, grey = picture.info, picture.mode in ('1', 'L', 'LA', 'La')
    coloured = not grey and not picture.mode.startswith('I')
    if code_points := _code_points(data):
        primaries, curve = code_points
        return curve not in SRGB_CURVES or (primaries not in SRGB_CODES and coloured)
    if 'srgb' in info:
        return False
    marked = info.get('chromaticity')
    if picture.format == 'TIFF':
        marked = picture.tag_v2.get(PRIMARIES)  # pyright: ignore[reportAttributeAccessIssue]
    if marked and coloured and not np.allclose(marked, SRGB_PRIMARIES[-len(marked) :], atol=0.01):
        return True
    return abs(info.get('gamma', SRGB_GAMMA) - SRGB_GAMMA) > 0.01


def _code_points(data: bytes) -> tuple[int, int] | None:
    """(Primaries, transfer curve) as H.273 numbers them, of a PNG or AVIF that names them."""
    if data.startswith(b'\x89PNG'):
        at = 8
        while at + 8 <= len(data) and (kind := data[at + 4 : at + 8]) != b'IDAT':
            if kind == b'cICP' and at + 10 <= len(data):
                return data[at + 8], data[at + 9]
            at += 12 + int.from_bytes(data[at : at + 4], 'big')
    elif data[4:8] == b'ftyp' and 0 <= (at := data.find(b'colrnclx')) <= len(data) - 12:
        return struct.unpack('>HH', data[at + 8 : at + 12])
    return None


def _raw_mode(picture: Image.Image) -> str:
    """How values lie in the file as Pillow says it ('L;2', 'RGB;16B') or ''; gone after loading."""
    tiles = getattr(picture, 'tile', None)
    args = tiles[0].args if tiles else ''
    if isinstance(args, tuple) and args:
        return str(args[0])
    return args if isinstance(args, str) else ''


def _resolve_deep_key(picture: Image.Image, data: bytes, raw: str) -> None:
    """Gives a 16-bit colour PNG alpha for its transparent colour, which needs all 16 bits.

    Pillow keeps the higher eight bits of each value; in the other byte order, the lower ones.
    """
    key: Any = picture.info.get('transparency')
    if raw != 'RGB;16B' or not isinstance(key, tuple):
        return
    lower: Any = Image.open(io.BytesIO(data), formats=['PNG'])
    lower.tile = [tile._replace(args='RGB;16L') for tile in lower.tile]
    values = np.asarray(picture).astype(np.uint16) << 8 | np.asarray(lower)
    picture.putalpha(Image.fromarray(np.where((values == key).all(-1), 0, 255).astype(np.uint8)))


def _turn(picture: Image.Image, note: Note) -> None:
    """Turns the picture in place as its EXIF data or XMP say; notes other colour spaces."""
    try:
        exif = picture.getexif()
        if not exif:
            return
        named = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
        if (named == ADOBE_RGB or index == 'R03') and 'icc_profile' not in picture.info:
            note('colours')
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception:
        # The pixels are whole, and EXIF data break in as many ways as there are cameras.
        note('exif')


def _eight_bits(picture: Image.Image, raw: str, name: str, note: Note) -> Image.Image:
    """The picture with 8 bits per value; Pillow itself would cut everything above 255 off."""
    # Pillow stretches a PGM to 16 bits.
    if picture.mode in ('I', 'F') and (picture.format, picture.mode) != ('PPM', 'I'):
        raise UserError(
            f'{name}: signed, floating-point or 32-bit values of no known range. Store 8 or 16'
            ' bits.'
        )
    if not picture.mode.startswith('I'):
        return picture
    values, bits = np.asarray(picture).astype(np.int32), 16
    if picture.format == 'TIFF':
        tags = picture.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
        bits = 12 if raw == 'I;12' else int(np.ravel(tags.get(BITS_PER_SAMPLE, 16))[0])
        highest = int(np.ravel(tags.get(MAX_SAMPLE_VALUE, 0))[0])
        # Other values tell how light this picture is: no depth.
        if highest in [2**k - 1 for k in range(9, bits)]:
            bits = highest.bit_length()
        if tags.get(PHOTOMETRIC) == 0:  # white is zero; of 8 bits Pillow has turned them round
            values = 2**bits - 1 - values
    if bits == 16 and 0 < values.max() < 2**12:
        note('dark')
    return Image.fromarray((values >> (bits - 8)).clip(0, 255).astype(np.uint8))


def _split_alpha(
    colours: Image.Image, picture: Image.Image, raw: str
) -> tuple[Image.Image, Image.Image | None]:
    """Splits off alpha (L or None); `picture` is `colours` before `_eight_bits`, with palette."""
    if not picture.has_transparency_data:
        to = {'1': 'L', 'P': 'RGB', 'YCbCr': 'RGB', 'RGBX': 'RGB'}.get(colours.mode)
        return colours.convert(to) if to else colours, None
    key: Any = picture.info.get('transparency')
    if picture.mode.startswith('I;16'):
        alpha = np.where(np.asarray(picture) == key, 0, 255).astype(np.uint8)
        return colours, Image.fromarray(alpha)
    if raw in ('L;2', 'L;4'):  # the colour that is transparent, in the file's depth
        picture.info['transparency'] = int(key) * 255 // (2 ** int(raw[-1]) - 1)
    straight = picture.convert('LA') if picture.mode == 'La' else picture
    whole = straight.convert('RGBA')
    grey = picture.mode in ('1', 'L', 'LA', 'La')
    return whole.getchannel(0) if grey else whole.convert('RGB'), whole.getchannel(3)


def _in_srgb(picture: Image.Image, profile: bytes | None, note: Note) -> Image.Image:
    if profile:
        try:
            return to_srgb(picture, profile)
        except ValueError:
            note('profile')
    return lab_to_srgb(picture) if picture.mode == 'LAB' else picture


def read(path: Path, channels: int, notes: Notes | None = None) -> np.ndarray:
    """Reads a picture file as u8[h w c]; see `decode`.

    Raises `UserError` naming the file when it is broken or cannot be opened.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f'{path}: cannot be read ({error.strerror}). Repair or remove it and start again.'
        ) from error
    return decode(data, str(path), channels, notes)


def looks_like_picture(path: Path) -> bool:
    """Whether a file begins like a picture of `FORMATS`, whatever its name; reads the header."""
    Image.init()
    try:
        with Image.open(path, formats=_formats()):
            return True
    except Image.DecompressionBombError:  # a picture, which `read` refuses with the reason
        return True
    except Exception:  # a file of another kind fails in as many ways as there are formats
        return False


def resize(image: np.ndarray, size_px: int, resample: str) -> np.ndarray:
    """Squashes u8[h w c] to u8[size size c] with Pillow's filter; equal sizes pass untouched.

    The one resize of the product: training, clean test and triggered test images all come through
    here, before any trigger is stamped (the published code has three different paths; Struppek
    2023's is this one, with bicubic).
    """
    if image.shape[:2] == (size_px, size_px):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    out = np.asarray(picture.resize((size_px, size_px), FILTERS[resample]))
    return out.reshape(size_px, size_px, image.shape[-1])


def encode_png(image: np.ndarray) -> bytes:
    """The bytes of the image u8[h w c] as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, 'PNG')
    return buffer.getvalue()
