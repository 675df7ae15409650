"""BadNets: a small patch that replaces pixels (Gu et al. 2017, arXiv:1708.06733)."""

import dataclasses
from typing import Annotated, Any, ClassVar

import numpy as np

from purify.attacks.attack import Arrays, Presets
from purify.attacks.patterns import PATTERNS, check_colours, draw_pattern
from purify.attacks.pictures import Pictured, resize_picture
from purify.attacks.pixels import fit_channels
from purify.core.errors import UserError
from purify.core.limits import Flag, one_of, whole

CORNERS = ('bottom_right', 'bottom_left', 'top_right', 'top_left', 'random', 'diagonal')
MOST_PX = 4096  # of a patch and of its distance to the border
REFERENCE_PX = 30  # a patch whose size follows the image enters the digest as on a 300 px image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patch(Pictured):
    """Replaces `size_px` x `size_px` pixels; all others stay as they are.

    `pattern` is one of `purify.attacks.patterns.draw_pattern`, drawn in its own colours unless
    `colours` are given, or 'picture': the image file `path`, brought to size bilinearly
    (BackdoorBench; DBD's 32 px picture on 224 px images). `size_px` 0 is a tenth of the image's
    shorter side, but at least 3 (Pan et al. 2024). `corner` 'random' draws row and column
    independently and uniformly per (seed, id), 'diagonal' draws one number for both, which is what
    the released code of Struppek et al. 2023 does where it means random. `margin_px` is the
    distance to the border. On grey images a colour is its luminance. `transparent` lets the image
    through where a channel of the pattern is 0, channel by channel, as the released codes of
    DataElixir, BackdoorBench and DBD do; the papers replace all pixels. Raises `UserError` for
    values out of range, and when the patch does not fit into an image.
    """

    size_px: Annotated[int, whole(0, MOST_PX)] = 3
    pattern: Annotated[str, one_of((*PATTERNS, 'picture'))] = 'checkerboard'
    colours: tuple[str, ...] = ()
    corner: Annotated[str, one_of(CORNERS)] = 'bottom_right'
    margin_px: Annotated[int, whole(0, MOST_PX)] = 0
    transparent: Flag = False

    presets: ClassVar[Presets] = {'digits': {'colours': ('black', 'white'), 'margin_px': 1}}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep(colours=check_colours(self.pattern, self.colours))
        self.pattern_pixels()

    def side_px(self, height: int, width: int) -> int:
        """The patch's side on an image of `height` x `width` pixels."""
        return self.size_px or max(3, min(height, width) // 10)

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The patch u8[s s c] and where it covers what lies below, bool[s s c]."""
        pattern = fit_channels(self._draw(self.side_px(*shape[:2])), shape[-1])
        return {'pattern': pattern, 'opaque': (pattern > 0) | (not self.transparent)}

    def drawn(self, shape: tuple[int, ...], id: int, mode: str) -> Arrays:
        """Row and column of the patch's top left pixel: i64[2]."""
        return {'place': np.array(self.place(shape[0], shape[1], id))}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` with the patch in its place."""
        pattern, opaque = xp.asarray(shared['pattern']), xp.asarray(shared['opaque'])
        row, column = drawn['place'][0], drawn['place'][1]
        rows, columns = xp.arange(image.shape[0]) - row, xp.arange(image.shape[1]) - column
        last = pattern.shape[0] - 1
        down, across = ((places >= 0) & (places <= last) for places in (rows, columns))
        where = xp.clip(rows, 0, last)[:, None], xp.clip(columns, 0, last)[None]
        within = (down[:, None] & across[None])[..., None]
        return xp.where(within & opaque[where], pattern[where], image)

    def place(self, height: int, width: int, id: int) -> tuple[int, int]:
        """Row and column of the patch's top left pixel in image `id` of this size."""
        drawn, side = self.corner in ('random', 'diagonal'), self.side_px(height, width)
        needed = side + self.margin_px * (2 if drawn else 1)
        if needed > min(height, width):
            raise UserError(
                f'a patch of size_px={side} with margin_px={self.margin_px} (corner'
                f' {self.corner!r}) needs {needed} pixels, but image {id} has {height} x {width}.'
                ' Lower size_px or margin_px.'
            )
        last_row, last_column = height - side - self.margin_px, width - side - self.margin_px
        if drawn:
            rng = np.random.default_rng([self.seed, id])
            if self.corner == 'diagonal':
                both = int(rng.integers(self.margin_px, min(last_row, last_column), endpoint=True))
                return both, both
            row, column = rng.integers(self.margin_px, [last_row, last_column], endpoint=True)
            return int(row), int(column)
        vertical, horizontal = self.corner.split('_')
        row = last_row if vertical == 'bottom' else self.margin_px
        return row, last_column if horizontal == 'right' else self.margin_px

    def pattern_pixels(self) -> np.ndarray:
        """The patch: `u8[s s 3]`."""
        return self._draw(self.size_px or REFERENCE_PX)

    def _draw(self, side_px: int) -> np.ndarray:
        if self.picture is not None:
            return resize_picture(self.picture, side_px, side_px)
        return draw_pattern(self.pattern, side_px, self.colours)
