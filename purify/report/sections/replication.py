"""How alike generations and training images are: dots for the most alike pairs, and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from purify.report.canvas import COLOURS, DASHED, Drawing, draw_dots, draw_grid, finish, new_axes
from purify.report.markup import Section, fill
from purify.report.quantities import Line
from purify.report.results import Results
from purify.report.run import Arrays, Finished
from purify.report.thumbs import GridRow, Thumb, make_thumb
from purify.report.words import say_class, say_interval, say_number, say_percent

SSCD_LIMIT = 0.3  # of the cosine, from which on Pan 2024 (section 6) see a copy
ROWS = {'made': 'generation A', 'match': 'nearest training image B', 'twin': 'its nearest, C'}


@dataclass(frozen=True)
class Triplets:
    """Pictures of A, B and C (see `ROWS`), a column each, over what is known of them."""

    ids: list[int]
    rows: list[GridRow]
    lines: list[tuple[str, list[str]]]


def section(run: Finished) -> Section | None:
    """Shows the numbers of all pairs, dots for the most alike, and the best of them as pictures."""
    results, copies = run.results, run.copies
    if results.replication is None:
        return None
    return fill(
        'replication',
        'Replication',
        known=results.truth_known,
        lines=list_copies(results),
        note=say_copies(results),
        plot=draw_copies(copies, results, 'copies'),
        triplets=make_triplets(copies, results.classes),
    )


def draw_copies(copies: Arrays | None, results: Results, prefix: str) -> Drawing | None:
    """Draws the similarity of A and B across, of B and C upwards (Pan 2024, Figure 5).

    `copies` of k pairs: 'ids', 'match', 'twin' i64[k], 'similarity', 'twin_similarity' f32[k],
    'poisoned' bool[k], which is missing where nobody knows. None where there is none.
    """
    if copies is None or not len(copies['ids']):
        return None
    x, y = (copies[name] for name in ('similarity', 'twin_similarity'))
    poisoned = copies.get('poisoned', np.zeros(len(x), np.bool_))
    limit = float(results.replication.above.limit) if results.replication else SSCD_LIMIT
    with new_axes(300, 0.13, 0.83, 40, 20) as (figure, axes):
        low = min(float(min(x.min(), y.min())), limit)
        high = max(float(max(x.max(), y.max())), limit)
        room = 0.04 * max(high - low, 1e-3)
        axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
        draw_grid(axes, 'both')
        for draw in (axes.axvline, axes.axhline):
            draw(limit, color=COLOURS['ink'], **DASHED)
        points = np.stack([x, y], -1).astype(np.float64)
        draw_dots(axes, points[~poisoned], 'after', 4.5)
        draw_dots(axes, points[poisoned], 'before', 4.5)
        axes.set_xlabel('similarity of A and B', labelpad=1)
        style = {'transform': axes.transAxes, 'color': COLOURS['quiet']}
        axes.text(-0.13 / 0.83, 1.03, 'similarity of B and C', **style)
        kinds = {'pairs': ~poisoned}
        if 'poisoned' in copies:
            kinds = {'with a clean B': ~poisoned, 'with a poisoned B': poisoned}
        counts = [(int((own & (x > limit)).sum()), int(own.sum())) for own in kinds.values()]
        said = [f'{hits} of {n} {name}' for name, (hits, n) in zip(kinds, counts, strict=True)]
        text = f'Dots, {len(x):,} pairs. Beyond {limit:g}: {", ".join(said)}.'
        return finish(figure, prefix, text)


def list_copies(results: Results) -> list[Line]:
    """Lists the numbers of all pairs; none for runs that looked for no copies."""
    found = results.replication
    if found is None:
        return []
    meaning = f'of {found.pairs:,} generations to the training image most alike'
    lines = [('Mean similarity', say_number(found.mean), meaning)]
    above, copied = found.above, found.copied
    if above.share is not None:
        interval = f'; 95 % interval {say_interval(*above.interval)}' if above.interval else ''
        meaning = f'of generations{", taken for copies" if found.copy_detection else ""}{interval}'
        lines.append((f'Above {above.limit:g}', say_percent(above.share), meaning))
    if found.poisoned_matches is not None:
        meaning = 'of generations are most alike to a poisoned one of the training images'
        if found.poisoned is not None:
            meaning += f', of which {say_percent(found.poisoned)} are poisoned'
        lines.append(('Poisoned matches', say_percent(found.poisoned_matches), meaning))
    if copied and copied.mean is not None:
        meaning = 'mean similarity to training images that are there several times'
        if copied.share is not None:
            meaning += f'; {say_percent(copied.share)} of generations have one as match'
        lines.append(('Of copied images', say_number(copied.mean), meaning))
    return lines


def say_copies(results: Results) -> str:
    """Says which encoder compares, and what that means; '' for runs that looked for no copies."""
    found = results.replication
    if found is None:
        return ''
    text = f'Similarity is the cosine of features of {found.encoder}.'
    if not found.copy_detection:
        text += (
            f' It was not made to find copies: the line at {found.above.limit:g} is that of SSCD'
            ' and decides nothing here. Compare with runs of this encoder only.'
        )
    return text


def make_triplets(copies: Arrays | None, classes: Sequence[str]) -> Triplets | None:
    """Makes pictures of the pairs that are shown; None where there is none.

    `copies` holds of m of its pairs, most alike first: 'shown' i64[m] which; 'made_image',
    'match_image', 'twin_image' u8[m h w c] and 'made_label', 'match_label', 'twin_label' i32[m],
    the last two as given.
    """
    if copies is None or not len(copies.get('shown', ())):
        return None
    pairs = copies['shown'].tolist()
    rows = []
    labels = {
        key: [say_class(int(label), classes) for label in copies[f'{key}_label']] for key in ROWS
    }
    for key, name in ROWS.items():
        ids = copies[{'made': 'ids'}.get(key, key)][copies['shown']].tolist()
        thumbs: list[Thumb | None] = []
        for image, identity, label in zip(copies[f'{key}_image'], ids, labels[key], strict=True):
            thumbs.append(make_thumb(image, f'{name}, image {identity} under label {label}'))
        rows.append(GridRow(name, thumbs))
    lines = [('label of A', labels['made']), ('label of B', labels['match'])]
    if 'poisoned' in copies:
        told = ['poisoned' if copies['poisoned'][pair] else 'clean' for pair in pairs]
        lines.append(('B is', told))
    for title, name in (('A and B', 'similarity'), ('B and C', 'twin_similarity')):
        lines.append((title, [f'{copies[name][pair]:.3f}' for pair in pairs]))
    return Triplets([int(copies['ids'][pair]) for pair in pairs], rows, lines)
