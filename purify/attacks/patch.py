"""BadNets: a small patch that replaces pixels (Gu et al. 2017, arXiv:1708.06733)."""

import dataclasses

import numpy as np

from purify.attacks.attack import Attack, whole_number, word_of
from purify.attacks.pixels import check_image, fit_channels, parse_colour
from purify.core.errors import UserError

PATTERN_COLOURS = {'checkerboard': ('white', 'black'), 'solid': ('white',)}
CORNERS = ('bottom_right', 'bottom_left', 'top_right', 'top_left', 'random')


@dataclasses.dataclass(frozen=True)
class Patch(Attack):
    """Replace `size_px` x `size_px` pixels; all others stay as they are.

    Pattern 'checkerboard' takes two `colours` and 'solid' one; left empty they are white and black, and white. The
    second colour of the checkerboard lies where row and column (inside the patch) have the same parity, so its top left
    pixel is black by default, as in Struppek et al. 2023. Corner 'random' draws row and column independently and
    uniformly per (seed, id). `margin_px` is the distance to the border. On grey images a colour is its luminance.
    Raises `UserError` for values out of range, and when the patch does not fit into an image.
    """

    size_px: int
    pattern: str = 'checkerboard'
    colours: tuple[str, ...] = ()
    corner: str = 'bottom_right'
    margin_px: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        word_of('pattern', self.pattern, tuple(PATTERN_COLOURS))
        word_of('corner', self.corner, CORNERS)
        defaults = PATTERN_COLOURS[self.pattern]
        colours = (self.colours,) if isinstance(self.colours, str) else tuple(self.colours) or defaults
        if len(colours) != len(defaults):
            raise UserError(f'colours={colours!r}: {self.pattern!r} takes {len(defaults)}, for example {defaults!r}.')
        for colour in colours:
            parse_colour(colour)
        self._keep(
            size_px=whole_number('size_px', self.size_px, 1),
            margin_px=whole_number('margin_px', self.margin_px, 0),
            colours=colours,
        )

    def stamp(self, image: np.ndarray, id: int) -> np.ndarray:
        """`image: u8[h w c]` -> a new `u8[h w c]` with the patch in its place."""
        check_image(image)
        row, column = self.place(image.shape[0], image.shape[1], id)
        stamped = image.copy()
        rows, columns = slice(row, row + self.size_px), slice(column, column + self.size_px)
        stamped[rows, columns] = fit_channels(self.pattern_pixels(), image.shape[-1])
        return stamped

    def place(self, height: int, width: int, id: int) -> tuple[int, int]:
        """Row and column of the patch's top left pixel in image `id` of `height` x `width` pixels."""
        random = self.corner == 'random'
        needed = self.size_px + self.margin_px * (2 if random else 1)
        if needed > min(height, width):
            raise UserError(
                f'a patch of size_px={self.size_px} with margin_px={self.margin_px} (corner {self.corner!r}) needs '
                f'{needed} pixels, but image {id} has {height} x {width}. Lower size_px or margin_px.'
            )
        last_row, last_column = height - self.size_px - self.margin_px, width - self.size_px - self.margin_px
        if random:
            rng = np.random.default_rng([self.seed, id])
            row, column = rng.integers(self.margin_px, [last_row, last_column], endpoint=True)
            return int(row), int(column)
        vertical, horizontal = self.corner.split('_')
        row = last_row if vertical == 'bottom' else self.margin_px
        return row, last_column if horizontal == 'right' else self.margin_px

    def pattern_pixels(self) -> np.ndarray:
        """The patch: `u8[size_px size_px 3]`."""
        palette = np.array([parse_colour(colour) for colour in self.colours], np.uint8)
        i, j = np.indices((self.size_px, self.size_px))
        same_parity = (i + j) % 2 == 0
        return palette[same_parity * (len(palette) - 1)]
