"""WaNet: warp the image by a smooth field (Nguyen and Tran 2021, arXiv:2102.10369)."""

import dataclasses
import functools
import zipfile
from typing import Annotated, Any, ClassVar

import numpy as np

from purify.attacks.attack import Arrays, Attack, Presets, digest_content, real, to_pixels
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.core.limits import number, whole

MOST_POINTS = 1024  # along each side; the field is made in memory
MOST = 1000  # of strength, rescale and noise: beyond every image, far below where numbers overflow
MOST_CONTROL = 1e6  # of a given control point, for the same reason
BICUBIC = -0.75  # the free parameter of cubic convolution, as PyTorch and OpenCV set it
REFERENCE_PX = 32  # a field without a size of its own enters the digest as on this image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warp(Attack):
    """Samples the image at places moved by a fixed smooth field; the border's pixels go on outside.

    The field: k x k control points, uniform over -1..1 for columns and rows, divided by their mean
    absolute value, then interpolated bicubically to h x w with the corners in place. The grid:
    identity + strength * field / size, times `rescale`, clamped to -1..1, where -1 and 1 are the
    centres of the outer pixels and each axis has its own size. Sampling is bilinear and rounded,
    not truncated, as an image moved by nothing must stay as it is.

    Attributes:
      control_px: k; 0 is one control point per pixel, i.e. no smoothing (Pan et al. 2024, with
        strength 1).
      strength: of the warp; where the field is 1, a pixel is taken from about strength / 2 pixels
        away.
      rescale: of the whole grid, 1 as in the paper.
      noise: in mode 'cover' every pixel's place also moves by U(-noise, noise) / size, drawn for
        every id anew: images warped in another way keep their label, so that only this warp becomes
        the trigger.
      control: control points to use as they are, undivided, instead of drawn ones: f[2 k k],
        columns first, in a .npy file or as nested sequences; a field that was already interpolated
        is one with k = h = w.

    Raises `UserError` for values out of range and for control points that are missing, broken or
    not finite.
    """

    control_px: int = 4
    strength: Annotated[float, number(above=0, most=MOST)] = 0.5
    rescale: Annotated[float, number(above=0, most=MOST)] = 1.0
    noise: Annotated[float, number(least=0, most=MOST)] = 1.0
    control: Any = dataclasses.field(default='', compare=False)
    content: str = dataclasses.field(init=False, repr=False)  # SHA-256 of the given control points
    points: np.ndarray | None = dataclasses.field(init=False, repr=False, compare=False)

    covers: ClassVar[float] = 2.0
    presets: ClassVar[Presets] = {
        'digits': {'strength': 1.0, 'covers': 0.0},
        'small': {'control_px': 32, 'strength': 1.0, 'covers': 0.0},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        drawn, limit = isinstance(self.control, str) and not self.control, whole(0, MOST_POINTS)
        points = None if drawn else _read_control(self.control)
        side = limit.check('control_px', self.control_px) if points is None else points.shape[-1]
        self._keep(control_px=side, points=points, content=digest_content(points))
        if points is not None and not isinstance(self.control, str):
            self._keep(control=tuple(tuple(map(tuple, axis)) for axis in points.tolist()))

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """Where each pixel is taken from, f64[h w 2]: column and row, -1..1."""
        return {'grid': _warp_grid(self, shape[0], shape[1])}

    def drawn(self, shape: tuple[int, ...], id: int, mode: str) -> Arrays:
        """For a cover image, the noise that moves each pixel's place: f64[h w 2]."""
        if mode != 'cover':
            return {}
        rng = np.random.default_rng([self.seed, id])
        moved = rng.uniform(-self.noise, self.noise, (*shape[:2], 2))
        return {'noise': moved / (shape[1], shape[0])}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` warped."""
        grid = real(xp, shared['grid'])
        if 'noise' in drawn:
            grid = xp.clip(grid + real(xp, drawn['noise']), -1, 1)
        rows, columns = image.shape[0] - 1, image.shape[1] - 1
        across, down = (grid[..., 0] + 1) / 2 * columns, (grid[..., 1] + 1) / 2 * rows
        left, top = xp.floor(across).astype(xp.int32), xp.floor(down).astype(xp.int32)
        to_right, to_bottom = (across - left)[..., None], (down - top)[..., None]
        right, bottom = xp.minimum(left + 1, columns), xp.minimum(top + 1, rows)
        pixels = real(xp, image)
        above = pixels[top, left] * (1 - to_right) + pixels[top, right] * to_right
        below = pixels[bottom, left] * (1 - to_right) + pixels[bottom, right] * to_right
        return to_pixels(xp, above * (1 - to_bottom) + below * to_bottom, rounded=True)

    def pattern_pixels(self) -> np.ndarray:
        """The control points as drawn or given: `f64[2 k k]`."""
        return self._draw(REFERENCE_PX, REFERENCE_PX) if self.points is None else self.points

    def _draw(self, height: int, width: int) -> np.ndarray:
        """Draws control points for an image of this size, before they are divided: f64[2 k k]."""
        size = (self.control_px, self.control_px) if self.control_px else (height, width)
        return np.random.default_rng(self.seed).uniform(-1, 1, (2, *size))


@functools.lru_cache(maxsize=8)
def _warp_grid(attack: Warp, height: int, width: int) -> np.ndarray:
    """Where each pixel is taken from, f64[height width 2]: column and row, -1..1."""
    points = attack.points
    if points is None:
        drawn = attack._draw(height, width)
        points = drawn / np.mean(np.abs(drawn))
    field = _interpolate(_interpolate(points, width).swapaxes(1, 2), height).swapaxes(1, 2)
    identity = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1)
    moved = identity + attack.strength * np.moveaxis(field, 0, -1) / (width, height)
    grid = np.clip(moved * attack.rescale, -1, 1)
    grid.flags.writeable = False
    return grid


def _interpolate(points: np.ndarray, size: int) -> np.ndarray:
    """Interpolates f[... k] to f64[... size] by cubic convolution; the end points stay in place."""
    last = points.shape[-1] - 1
    place = np.linspace(0, last, size)
    before = np.floor(place).astype(int)
    values = np.zeros((*points.shape[:-1], size))
    for step in (-1, 0, 1, 2):
        neighbour = np.clip(before + step, 0, last)
        values += points[..., neighbour] * _cubic(np.abs(place - before - step))
    return values


def _cubic(distance: np.ndarray) -> np.ndarray:
    """The weight of a point at a distance of 0..2."""
    near = ((BICUBIC + 2) * distance - (BICUBIC + 3)) * distance**2 + 1
    far = BICUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def _read_control(control: Any) -> np.ndarray:
    """Reads control points f64[2 k k] from a .npy file or nested sequences.

    Raises `UserError` for anything else.
    """
    named = isinstance(control, str)
    place = f'control={control!r}' if named else 'control'
    try:
        if named:
            with user_path(control).open('rb') as file:
                points = np.load(file, allow_pickle=False)
        else:
            points = np.asarray(control)
    except FileNotFoundError:
        raise UserError(
            f'{place} does not exist. Set control to a .npy file of shape [2, k, k].'
        ) from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f'{place} is broken ({error}). Set control to numbers of shape [2, k, k].'
        ) from error
    shape, kind = getattr(points, 'shape', ()), getattr(points, 'dtype', np.dtype(object)).kind
    if kind not in 'fiu' or len(shape) != 3 or shape[0] != 2 or not 0 < shape[1] == shape[2]:
        raise UserError(
            f'{place} holds no numbers of shape [2, k, k] but shape {list(shape)}. Replace it.'
        )
    if not np.isfinite(points).all() or np.abs(points.astype(np.float64)).max() > MOST_CONTROL:
        raise UserError(
            f'{place} holds values that are not finite or beyond {MOST_CONTROL:g}. Replace it.'
        )
    return np.asarray(points, np.float64)
