"""The tests of class densities as a table: which classes they name, and by how much."""

import math
from collections.abc import Callable, Sequence

from purify.report.findings import Findings, Row
from purify.report.markup import MarkupTable
from purify.report.words import MISSING, say_class, say_number, say_percent

MOST_ROWS = 24  # of the table: the named classes and those nearest to being named
_TESTS = (
    'S_ND is asked first: a class that it names is non-disruptive whatever S_D says. S_D is the'
    ' share of a class that looks like no class: the images to which no other class gives a'
    ' log-density as high as μ.'
)
_BINOMIAL = (
    ' It is bold where such images are also too many to be chance, which in a small class takes'
    ' more than the threshold.'
)
_MARGIN = (
    ' Strangers look more like another class than like their own; a low S_ND names a class where'
    ' they are more than usual too, in bold. The margin is how far a class has come to being named,'
    ' by the test that comes nearest: above 1 it is reached.'
)


def list_tests(
    facts: Findings, aims: Sequence[int] | None, classes: Sequence[str]
) -> MarkupTable | None:
    """Makes the table of the tests S_ND and S_D; None for methods without them.

    A line is (class, [(cell, whether it speaks for poison)], whether the class is named). `aims`
    are the attack's targets, None where nobody knows them.
    """
    rows, rule, aimed = facts.labels, facts.rule, aims or ()
    low, high = facts.thresholds.nondisruptive, facts.thresholds.disruptive
    if low is None or high is None or not rows:
        return None

    def rank(row: Row) -> tuple[bool, bool, float, int]:
        near = math.inf if row['nd'] is None else row['nd']
        return not row['target'], row['label'] not in aimed, near, row['label']

    shown = sorted(sorted(rows, key=rank)[:MOST_ROWS], key=lambda row: row['label'])
    asked = all('margin' in row for row in rows)
    columns: dict[str, Callable[[Row], tuple[str, bool]]] = {
        'named': lambda row: (row['type'] or MISSING, row['target']),
        'images': lambda row: (f'{row["images"]:,}', False),
        f'S_ND (below {low:g})': lambda row: (say_number(row['nd']), _beyond(low, row['nd'])),
        'strangers': lambda row: (say_percent(row['strangers']), row['strange']),
        f'S_D (above {high:g})': lambda row: (
            say_number(row['disruptive']),
            row.get('suspect', _beyond(row['disruptive'], high)),
        ),
        'μ': lambda row: (say_number(row['mu']), False),
        'margin': lambda row: (say_number(row['margin']), row['margin'] > 1),
        'aimed at': lambda row: ('yes' if row['label'] in aimed else MISSING, False),
    }
    without = (() if asked else ('strangers', 'margin')) + (('aimed at',) if aims is None else ())
    columns = {title: tell for title, tell in columns.items() if title not in without}
    lines = []
    for row in shown:
        cells = [tell(row) for tell in columns.values()]
        lines.append((say_class(row['label'], classes), cells, bool(row['target'])))
    note = _TESTS + (_BINOMIAL if rule.get('name') == 'outlying' else '')
    note += _MARGIN if asked else ''
    if 'most' in rule:
        most = say_percent(rule['most'])
        note += f' A class of which more than {most} looks so is taken to lie apart.'
    return MarkupTable(list(columns), lines, note, len(rows) - len(shown))


def _beyond(larger: float | None, smaller: float | None) -> bool:
    return larger is not None and smaller is not None and larger > smaller
