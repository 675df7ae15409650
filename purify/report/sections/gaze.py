"""Where the teacher looks before and after a purification."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np

from purify.report.markup import Section, fill
from purify.report.run import Arrays, Finished
from purify.report.strips import Cell, SampleSheet, make_cell, make_sample_sheets, tell

_VIEWS = ('original', 'given', 'purified')


def section(run: Finished) -> Section | None:
    """Shows the teacher's gaze laid over images before the attack, as given, and purified."""
    sheets = make_heats(run.pictures, run.results.classes)
    return fill('gaze', 'Gaze', strips=sheets) if sheets else None


def make_heats(pictures: Arrays | None, classes: Sequence[str]) -> list[SampleSheet]:
    """Lays the teacher's gaze over the original, the given and the purified image."""
    if pictures is None:
        return []
    head = ['original', 'gaze', 'as given', 'gaze', 'purified', 'gaze']

    def cells(row: int) -> list[Cell]:
        found = []
        for number, view in enumerate(_VIEWS):
            if view == 'purified' and not pictures['has_purified'][row]:
                found += [Cell(None, '', False)] * 2
                continue
            image = pictures[view][row]
            heat = pictures['heat'][row, number]
            label = int(pictures['heat_labels'][row, number])
            gaze = f'gaze ({say_place(heat)}) on the {view}'
            for shown, name in ((image, view), (lay_over(image, heat), gaze)):
                found.append(make_cell(pictures, row, shown, label, name, classes))
        return found

    return make_sample_sheets(pictures, head, cells, lambda row: tell(pictures, row, classes)[:2])


def lay_over(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lays `heat: u8[h w]` in colour over `image: u8[h w c]` in grey: u8[h w 3]."""
    share = heat[..., None].astype(np.float64) / 255
    grey = image.astype(np.float64).mean(-1, keepdims=True)
    colours = 255 * mpl.colormaps['inferno'](heat)[..., :3]
    return np.round(grey * (1 - 0.65 * share) + colours * 0.65 * share).astype(np.uint8)


def say_place(heat: np.ndarray) -> str:
    """Says where a map `u8[h w]` is hottest: 'lower right', 'centre'; 'nowhere' if it is empty."""
    if not heat.any():
        return 'nowhere'
    rows, columns = np.nonzero(heat == heat.max())
    down = ('upper', '', 'lower')[int((3 * rows / len(heat)).mean())]
    across = ('left', '', 'right')[int((3 * columns / heat.shape[1]).mean())]
    return f'{down} {across}'.strip() or 'centre'
