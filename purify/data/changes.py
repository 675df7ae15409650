"""Changes of one image that traced programs make: f32[h w c] in [0, 1] to the same.

Images have 1 channel (grey) or 3 (RGB).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
RATIOS = (3 / 4, 4 / 3)  # width to height of a crop


def draw_box(
    key: jax.Array, size: Sequence[int], areas: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
    """Draws the corner and sides, each (down, right) in pixels, of a crop of an image of `size`.

    Its share of the area is drawn evenly from `areas`, its width to height evenly on a logarithm
    from 3/4 to 4/3; sides longer than the image's are cut to it (Szegedy et al. 2015).
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    whole = jnp.array(size, jnp.float32)
    area = jax.random.uniform(area_key, minval=areas[0], maxval=areas[1]) * whole.prod()
    low, high = jnp.log(jnp.array(RATIOS))
    ratio = jnp.exp(jax.random.uniform(ratio_key, minval=low, maxval=high))
    sides = jnp.minimum(jnp.sqrt(jnp.stack([area / ratio, area * ratio])), whole)
    return jax.random.uniform(place_key, (2,)) * (whole - sides), sides


def crop_resize(image: jax.Array, corner: jax.Array, sides: jax.Array) -> jax.Array:
    """Resizes the box at `corner` with `sides` (pixels, may be fractions) to the image's size."""
    scale = jnp.array(image.shape[:2]) / sides
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale, -corner * scale, 'linear', antialias=True
    )


def mirror(image: jax.Array) -> jax.Array:
    """Mirrors an image f32[h w c] left to right."""
    return image[:, ::-1]


def rotate(image: jax.Array, angle: jax.Array) -> jax.Array:
    """Turns f32[h w c] about its centre by `angle` (radians, down to right); black comes in."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return read_from(image, jnp.array([[cos, sin], [-sin, cos]]))


def read_from(image: jax.Array, matrix: jax.Array, shift: jax.Array | None = None) -> jax.Array:
    """Makes the image f32[h w c] whose pixel at place p has the value at matrix (p - shift).

    Places are (down, right) in pixels from the centre; bilinear, black outside.
    """
    centre = (jnp.array(image.shape[:2], jnp.float32)[:, None, None] - 1) / 2
    places = jnp.indices(image.shape[:2]).astype(jnp.float32) - centre
    places = places if shift is None else places - shift[:, None, None]
    places = jnp.einsum('ij,jhw->ihw', matrix, places, precision='highest') + centre
    read = functools.partial(
        jax.scipy.ndimage.map_coordinates, coordinates=list(places), order=1, mode='constant'
    )
    return jax.vmap(read, in_axes=-1, out_axes=-1)(image)


def soften(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blurs f32[h w c] with a Gaussian of `sigma` pixels, mirrored at the edges.

    It is cut off beyond a twentieth of the shorter side. Even the smallest image is blurred over
    its nearest neighbours, where SimCLR's code leaves sides under 20 pixels alone.
    """
    radius = max(1, min(image.shape[:2]) // 20)
    weights = jax.nn.softmax(-jnp.square(jnp.arange(-radius, radius + 1) / sigma) / 2)
    for axis in (0, 1):
        size = image.shape[axis]
        wide = [(radius, radius) if k == axis else (0, 0) for k in range(3)]
        padded = jnp.pad(image, wide, 'reflect')
        shifted = [
            w * jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k, w in enumerate(weights)
        ]
        image = functools.reduce(jnp.add, shifted)
    return image


def to_grey(image: jax.Array) -> jax.Array:
    """The luminance f32[h w 1] of an image f32[h w c]."""
    return image if image.shape[-1] == 1 else (image * jnp.array([[GREY]])).sum(-1, keepdims=True)


def blend(image: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    """Mixes `share` of the image with the rest of `other`, cut to [0, 1]; shares may exceed 1."""
    return jnp.clip(share * image + (1 - share) * other, 0, 1)


def brighten(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies f32[h w c] by a factor."""
    return blend(image, jnp.float32(0), factor)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves f32[h w c] away from its mean luminance by a factor."""
    return blend(image, to_grey(image).mean(), factor)


def saturate(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves the colours of f32[h w 3] away from grey by a factor; grey images stay."""
    return image if image.shape[-1] == 1 else blend(image, to_grey(image), factor)


def turn_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Moves the hues of f32[h w 3] by `turn` of a full circle; saturation and value stay (HSV).

    Grey images stay as they are.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value, low = image.max(-1), image.min(-1)
    chroma = value - low
    spread = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) / spread,
        jnp.where(value == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    # Of channel n: full chroma down from the value where the turned hue lies a third of the circle
    # or more away from it.
    away = (jnp.array([[[5.0, 3.0, 1.0]]]) + sixths[..., None] + 6 * turn) % 6
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(away, 4 - away), 0, 1)
