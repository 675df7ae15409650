"""Colours of pictures that carry an ICC profile, brought to sRGB."""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

# ICC's colour spaces -> Pillow's modes.
MODES = {'RGB': 'RGB', 'GRAY': 'L', 'CMYK': 'CMYK', 'Lab': 'LAB'}
# Of 255: who moves no colour by more is sRGB (those of colord and Ghostscript: 1; Rec. 709: 16).
EQUAL_LEVELS = 2


def to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Converts a picture (L, RGB, CMYK or LAB) from the colours of `profile` to sRGB (L or RGB).

    A grey picture may carry a profile for colours: then its grey is one of them. Raises ValueError
    for a profile that cannot be read or is for another kind of picture.
    """
    mode = _mode_of(profile)
    if picture.mode == 'L' and mode == 'RGB':
        picture = picture.convert('RGB')
    if picture.mode != mode:
        raise ValueError(f'a profile for {mode}, a picture of {picture.mode}')
    transform = _transform(profile, mode)
    return picture if transform is None else ImageCms.applyTransform(picture, transform) or picture


def lab_to_srgb(picture: Image.Image) -> Image.Image:
    """Converts a picture of mode LAB (D50, as TIFF stores it) to RGB."""
    return ImageCms.applyTransform(picture, _lab()) or picture


@functools.cache
def _lab() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB')
    return ImageCms.buildTransform(lab, srgb, 'LAB', 'RGB')


@functools.lru_cache(256)
def _mode_of(profile: bytes) -> str:
    header: Any = _open(profile).profile
    space = header.xcolor_space.strip()
    if space not in MODES:
        raise ValueError(f'a profile for {space}')
    return MODES[space]


def _open(profile: bytes) -> ImageCms.ImageCmsProfile:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError(f'not a profile ({error})') from error


@functools.lru_cache(256)  # cameras and programs embed the same few
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion to sRGB; None where there is nothing to do."""
    # Its short cut is up to ten levels off in the dark.
    exact = ImageCms.Flags.NOOPTIMIZE if mode == 'L' else ImageCms.Flags.NONE
    try:
        srgb = ImageCms.createProfile('sRGB')
        found = ImageCms.buildTransform(_open(profile), srgb, mode, 'RGB', flags=exact)
    except ImageCms.PyCMSError as error:
        raise ValueError(f'no way from it to sRGB ({error})') from error
    if mode not in ('L', 'RGB'):
        return found
    levels = np.arange(0, 256, 17).astype(np.uint8)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    colours, picture = (ramp, ramp[..., 0]) if mode == 'L' else (cube, cube)
    moved = ImageCms.applyTransform(Image.fromarray(picture), found)
    return None if np.abs(np.asarray(moved).astype(int) - colours).max() <= EQUAL_LEVELS else found
