"""What a defence found: bars of the evidence against each label, and the sets of images."""

from collections import defaultdict
from collections.abc import Sequence

from matplotlib import ticker

from purify.report.canvas import COLOURS, DASHED, Drawing, draw_grid, finish, new_axes
from purify.report.findings import Findings, Row
from purify.report.quantities import Line
from purify.report.words import (
    MISSING,
    say_class,
    say_classes,
    say_number,
    say_percent,
    say_value,
    shorten,
)

MAX_BARS = 24  # the targets and the labels nearest to being one, where there are more
_NAME_CHARS = 13
_BAR_PX = 17
_MEANINGS = {
    'score': 'How far a label stands out by the labels of its candidates',
    'index': 'How many deviations the score of a label lies above the median',
    'nd': (
        'S_ND: how much worse the density of a class fits the images of others than its own, 1 for'
        ' the median class; a low one is suspect. S_D may name a class too: see the table of tests'
    ),
    'share': 'Share of the smaller of two clusters of a class; a small one is suspect',
}
_SYMBOLS = {'nd': 'S_ND'}
_LOW = ('share', 'nd')  # quantities that speak against a label where they are low
_LEFT_OUT = 'labels that are no targets, with {} than those shown, are left out.'
_RULES = {
    'significant': (
        'Two excesses over the lower half of the other labels: of the scatter, and of the share of'
        ' images that have another label for good; the larger is shown, 1 being the least that is'
        ' asked for ({score} nats, {share} of the images, or {deviations} deviations of the others,'
        ' whichever is more). A label beyond it is named where chance does not explain so many'
        ' (level {level}), and its images leave for more than one label.'
    ),
    'mad': 'A label beyond the threshold is named.',
}
_SETS = {
    'benign': 'images keep their label on nearly all candidates',
    'poisoned': 'images turn to one other label',
    'suspicious': 'images change between labels',
}


def read_bars(facts: Findings) -> tuple[str, float, list[Row]]:
    """Picks what the bars of a method's findings show: (quantity, threshold, rows).

    Rows are {'label', 'target', the quantity}: the labels and the chart of methods that score
    labels, the classes and the size of methods that cluster classes. No rows for others.
    """
    if facts.labels and facts.chart:
        name = facts.chart.quantity
        rows = [row for row in facts.labels if row[name] is not None]
        return name, float(facts.chart.threshold), [*rows]
    if facts.size is not None and facts.classes:
        rows = [row | {'target': row['flagged']} for row in facts.classes]
        return 'share', float(facts.size), [*rows]
    return '', 0.0, []


def draw_targets(facts: Findings, classes: Sequence[str], prefix: str) -> Drawing | None:
    """Draws bars of the evidence against each label and the threshold; None without evidence.

    Labels that are named are marked 'target', with the test that named them where their bar does
    not reach the threshold.
    """
    name, threshold, rows = read_bars(facts)
    if not rows:
        return None
    sign, symbol = 1 if name in _LOW else -1, _SYMBOLS.get(name, name)
    worst = sorted(rows, key=lambda row: (not row['target'], sign * row[name]))[:MAX_BARS]
    shown = sorted(worst, key=lambda row: row['label'])
    values = [float(row[name]) for row in shown]
    marks = [_mark(row, name, threshold) for row in shown]
    room = 0.04 if max(map(len, marks)) <= len('target') else 0.12
    with new_axes(44 + _BAR_PX * len(shown), 0.27, 0.6 - room, 36, 6) as (figure, axes):
        low, high = min(0.0, *values), max(threshold, *values, 1e-9)
        axes.set(xlim=(1.05 * low, 1.05 * high), ylim=(len(shown) - 0.5, -0.5))
        names = [shorten(say_class(row['label'], classes), _NAME_CHARS) for row in shown]
        axes.set_yticks(range(len(shown)), labels=names)
        axes.tick_params(axis='y', labelcolor=COLOURS['ink'], length=0)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
        draw_grid(axes, 'x')
        for y, (row, value) in enumerate(zip(shown, values, strict=True)):
            axes.barh(y, value, height=0.62, color=COLOURS['before' if row['target'] else 'after'])
            if row['target']:
                axes.text(1.07 * high, y, marks[y], va='center', fontsize=10, fontweight='bold')
        axes.axvline(threshold, color=COLOURS['ink'], **DASHED)
        axes.set_xlabel(f'{symbol}; dashed: {say_number(threshold)}', labelpad=1)
        pairs = zip(shown, values, strict=True)
        said = [f'{say_class(row["label"], classes)} {say_number(value)}' for row, value in pairs]
        named = say_classes([row['label'] for row in rows if row['target']], classes)
        text = f'Bars. {symbol} by label: {"; ".join(said)}. Threshold {say_number(threshold)}.'
        text += f' Targets: {named}.'
        if left := len(rows) - len(shown):
            text += f' {left} {_LEFT_OUT.format("more" if sign > 0 else "less")}'
        return finish(figure, prefix, text)


def say_chart(facts: Findings) -> str:
    """Writes the caption below the bars: what they are, and by which rule labels are named."""
    quantity, rule = read_bars(facts)[0], facts.rule
    # Older runs name fewer.
    said = defaultdict(lambda: MISSING, {name: say_value(value) for name, value in rule.items()})
    how = _RULES.get(rule.get('name', ''), '').format_map(said)
    both = ' Low ones are named too.' if rule.get('two_sided') else ''
    return f'{_MEANINGS.get(quantity, quantity)}. Dashed: the threshold. {how}{both}'.strip()


def list_sets(facts: Findings) -> list[Line]:
    """Lists name, size and meaning of each set of images."""
    sets, whole = facts.sets, sum(facts.sets.values()) or 1
    return [
        (name.capitalize(), f'{count:,}', f'{say_percent(count / whole)}: {_SETS.get(name, "")}')
        for name, count in sets.items()
    ]


def _mark(row: Row, name: str, threshold: float) -> str:
    if not row['target']:
        return ''
    return 'target (S_D)' if name == 'nd' and row[name] >= threshold else 'target'
