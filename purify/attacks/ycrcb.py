"""The 8-bit YCrCb of OpenCV: ITU-R BT.601 in fixed-point arithmetic, equal level by level."""

from typing import Any

SHIFT = 14  # factors are in units of 2^-14
HALF = 128


def rgb_to_ycrcb(xp: Any, image: Any) -> Any:
    """Converts RGB int[... 3] in 0..255 to luminance, red and blue difference, i32[... 3].

    Equals cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb) on uint8.
    """
    red, green, blue = _channels(xp, image)
    luminance = _rescale(4899 * red + 9617 * green + 1868 * blue)
    of_red = _rescale(11682 * (red - luminance)) + HALF
    of_blue = _rescale(9241 * (blue - luminance)) + HALF
    return xp.clip(xp.stack([luminance, of_red, of_blue], -1), 0, 255)


def ycrcb_to_rgb(xp: Any, image: Any) -> Any:
    """Converts Y, Cr, Cb int[... 3] in 0..255 to RGB u8[... 3].

    Equals cv2.cvtColor(image, cv2.COLOR_YCrCb2RGB) on uint8.
    """
    luminance, of_red, of_blue = _channels(xp, image)
    of_red, of_blue = of_red - HALF, of_blue - HALF
    red = luminance + _rescale(22987 * of_red)
    green = luminance + _rescale(-11698 * of_red - 5636 * of_blue)
    blue = luminance + _rescale(29049 * of_blue)
    return xp.clip(xp.stack([red, green, blue], -1), 0, 255).astype(xp.uint8)


def _channels(xp: Any, image: Any) -> tuple[Any, Any, Any]:
    wide = image.astype(xp.int32)
    return wide[..., 0], wide[..., 1], wide[..., 2]


def _rescale(products: Any) -> Any:
    """Units of 2^-14 -> whole numbers, halves up."""
    return (products + (1 << (SHIFT - 1))) >> SHIFT
