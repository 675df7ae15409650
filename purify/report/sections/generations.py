"""What a generator makes of each label: bars and pictures of G1 to G4, and who finds triggers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from purify.report.amplification import (
    GROUPS,
    SCORES,
    has_detector,
    list_amplification,
    measure_amplification,
)
from purify.report.canvas import (
    COLOURS,
    QUARTERS,
    Drawing,
    draw_reference,
    draw_whisker,
    finish,
    new_axes,
)
from purify.report.dissection import Made
from purify.report.markup import MarkupTable, Section, fill
from purify.report.results import Results
from purify.report.run import Arrays, Finished
from purify.report.thumbs import Thumb, make_thumb
from purify.report.words import MISSING, say_class, say_number, say_percent, shorten

MAX_BARS = 24  # of a set; targets first
MAX_TILES = 12  # pictures of a group
SMALL_PX = 64
FEW = 10  # images with the trigger below which two numbers are not compared
# Of G1 to G4: strong with the trigger, quiet without.
FILLS = ('before', 'line-3', 'map-3', 'map-1')
_TALL_PX, _FLAT_PX = 34, 18  # rows with a reference line, and others
_NAME_CHARS = 13


@dataclass(frozen=True)
class Tile:
    """A picture and the class that the labeller sees; `wrong` if that is not the one asked for."""

    thumb: Thumb
    label: str
    wrong: bool


@dataclass(frozen=True)
class Group:
    """Pictures of one of `GROUPS`; `said` tells how many images are in it."""

    name: str
    meaning: str
    said: str
    tiles: list[Tile]


def section(run: Finished) -> Section | None:
    """Shows bars and pictures of the generations, their numbers, and who finds triggers where."""
    results, sets = run.results, draw_sets(run.results, 'made')
    if not sets:
        return None
    return fill(
        'generations',
        'Generations',
        known=results.truth_known,
        sets=sets,
        amplification=list_amplification(results),
        note=say_dissection(results),
        groups=make_groups(run.groups, results),
        separations=list_auroc(results),
    )


def draw_sets(results: Results, prefix: str) -> list[tuple[str, Drawing]]:
    """Draws titled bars of the probe and of the generated set (Pan 2024, Figures 2 and 3)."""
    found, sets = [], results.dissection.sets if results.dissection else {}
    for name, title in (
        ('probe', 'The probe, more images of few classes'),
        ('generated', 'The generated set, by label'),
    ):
        rows = [row for row in sets.get(name, []) if row.images]
        if rows:
            drawing = _draw_bars(rows, results.classes, f'{prefix}-{name}', has_detector(results))
            found.append((f'{title}: {sum(row.images for row in rows):,} images', drawing))
    return found


def say_dissection(results: Results) -> str:
    """Says how images were made and judged, and what to know of the numbers; '' if none were."""
    dissection = results.dissection
    if dissection is None:
        return ''
    guidance = say_number(dissection.guidance)
    how = f'Made by {dissection.sampler} in {dissection.steps:,} steps at guidance {guidance}.'
    data = 'clean data' if results.truth_known else 'the images as they were given'
    judged = (
        f'Two classifiers trained on {data} judge: the labeller says what class an image is of, the'
        ' detector whether it shows the trigger. Their mistakes count too.'
    )
    alone = (
        f'A classifier trained on {data}, the labeller, judges; there is no trigger to look for.'
    )
    fid, network = dissection.fid, []
    if fid.all is not None:
        network = [
            f'FID by features of {fid.network}, not of Inception: compare it with runs of this'
            ' network only.'
        ]
    return ' '.join([how, judged if has_detector(results) else alone, *network, *fid.notes])


def list_auroc(results: Results) -> MarkupTable | None:
    """Makes the table of the AUROC of scores on both sets; None where none was measured.

    A line is (score, [(cell, whether this set tells better)]).
    """
    rows = results.dissection.auroc if results.dissection else []
    if all(side is None for row in rows for side in row.sides):
        return None
    lines = []
    for row in rows:
        known = [side for side in row.sides if side is not None]
        many = min(row.poisoned or 0, row.triggered) >= FEW
        apart = many and len(known) == 2 and max(known) > max(0.5, min(known))
        cells = [
            (MISSING if side is None else f'{side:.3f}', apart and side == max(known))
            for side in row.sides
        ]
        name = SCORES.get(row.score, row.score.replace('_', ' '))
        poisoned = MISSING if row.poisoned is None else f'{row.poisoned:,}'
        lines.append((name, [*cells, (poisoned, False), (f'{row.triggered:,}', False)]))
    note = (
        'Chance that an image with the poison scores as likelier poisoned than one without: 0.5'
        ' for guesses, below it the wrong way round; bold where it is higher, unless fewer than'
        f' {FEW} images carry the trigger. '
    )
    told = 'Of training images the truth says which are poisoned, of'
    note += f'{told if results.truth_known else "Of"} generations the detector says which show the'
    note += ' trigger.'
    head = ['on training images', 'on generations', 'poisoned', 'with the trigger']
    return MarkupTable(head, lines, note)


def make_groups(shown: Arrays | None, results: Results) -> list[Group]:
    """Makes pictures of each group that has any, G1 first.

    `shown` is of k generations made of target classes: 'ids' i64[k],
    'image' u8[k h w c], 'label', 'predicted' i32[k], 'trigger' f32[k], 'group' u8[k].
    """
    whole = measure_amplification(results)
    if shown is None or whole is None:
        return []
    found = []
    for number, (name, meaning) in enumerate(GROUPS.items()):
        rows, count = np.flatnonzero(shown['group'] == number + 1), whole.counts[number]
        tiles = [_tile(shown, row, results.classes) for row in rows[:MAX_TILES].tolist()]
        said = f'{say_percent(count / whole.images)}, {count:,} of {whole.images:,}'
        found += [Group(name, meaning, said, tiles)] if tiles else []
    return found


def _tile(shown: Arrays, row: int, classes: Sequence[str]) -> Tile:
    label, predicted = int(shown['label'][row]), int(shown['predicted'][row])
    made, seen = say_class(label, classes), say_class(predicted, classes)
    alt = f'generation {int(shown["ids"][row])}, made of {made}, seen as {seen}'
    alt += f', trigger {say_percent(float(shown["trigger"][row]))} likely'
    return Tile(make_thumb(shown['image'][row], alt, SMALL_PX), seen, predicted != label)


def _draw_bars(rows: list[Made], classes: Sequence[str], prefix: str, detected: bool) -> Drawing:
    shown = sorted(rows, key=lambda row: (not row.target, row.label))[:MAX_BARS]
    lines = [bool(row.target and row.p_t) for row in shown]
    heights = [_TALL_PX if line else _FLAT_PX for line in lines]
    places = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]
    with new_axes(30 + sum(heights), 0.26, 0.55, 22, 8) as (figure, axes):
        axes.set(xlim=(0, 1), ylim=(sum(heights), 0))
        axes.set_xticks(**QUARTERS)
        names = [shorten(say_class(row.label, classes), _NAME_CHARS) for row in shown]
        axes.set_yticks(places, labels=names)
        axes.tick_params(axis='y', labelcolor=COLOURS['ink'], length=0)
        for y, row, line in zip(places, shown, lines, strict=True):
            _draw_row(axes, y, row, line and detected)
            if detected:
                _tell_row(axes, y, row, line)
        text = f'Bars. {"; ".join(_say_row(row, classes) for row in shown)}.'
        if left := len(rows) - len(shown):
            text += f' {left} more labels are left out.'
        return finish(figure, prefix, text)


def _draw_row(axes: Axes, y: float, row: Made, line: bool) -> None:
    """One stacked bar, the interval of its share with the trigger, and the dashed line at p_t."""
    start, half = 0.0, 6
    for count, name in zip(row.counts, FILLS, strict=True):
        axes.barh(y, count / row.images, left=start, height=2 * half, color=COLOURS[name])
        start += count / row.images
    if not line or row.interval is None or row.p_t is None:
        return
    low, high = row.interval
    draw_whisker(axes, y, low, high, 3)
    draw_reference(axes, [row.p_t] * 2, [y - 15, y + 15])


def _tell_row(axes: Axes, y: float, row: Made, line: bool) -> None:
    """Writes beside the bar its share with the trigger, and below that p_t."""
    share, style = (row.counts[0] + row.counts[1]) / row.images, {'va': 'center', 'fontsize': 10}
    weight = 'bold' if line else 'normal'
    axes.text(1.04, y - 7 if line else y, say_percent(share), fontweight=weight, **style)
    if line:
        axes.text(1.04, y + 7, f'p_t {say_percent(row.p_t)}', color=COLOURS['quiet'], **style)


def _say_row(row: Made, classes: Sequence[str]) -> str:
    counts = zip(GROUPS, row.counts, strict=True)
    said = [f'{name} {say_percent(count / row.images)}' for name, count in counts]
    said += [f'p_t {say_percent(row.p_t)}'] if row.target and row.p_t is not None else []
    return f'{say_class(row.label, classes)} {", ".join(said)}'
