"""The table of one run: ACC, ASR and RA before and after the defence, for terminals and pages."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from purify.report.classifiers import ClassifierScores
from purify.report.headline import say_outcome
from purify.report.results import Results
from purify.report.words import MISSING, say_interval, say_percent

MEASURES = {
    'acc': 'clean test images given their true class',
    'asr': 'triggered test images given the target class',
    'ra': 'triggered test images given their true class',
}


@dataclass(frozen=True)
class Reading:
    """A measured share in 0..1, its counts, and its 95 % interval; None where not known."""

    value: float
    hits: int | None = None
    total: int | None = None
    low: float | None = None
    high: float | None = None

    def say(self) -> str:
        """The share as '99.1 %'."""
        return say_percent(self.value)

    def say_counts(self) -> str:
        """The counts as '9,912 of 10,000'."""
        if self.hits is None or self.total is None:
            return MISSING
        return f'{self.hits:,} of {self.total:,}'

    def say_interval(self) -> str:
        """The interval as '98.9 to 99.3 %'."""
        return say_interval(self.low, self.high)


@dataclass(frozen=True)
class BeforeAfter:
    """One row of the before/after table; None where it was not measured.

    `of` names the classifier that is after, '' for a student.
    """

    name: str
    meaning: str
    before: Reading | None
    after: Reading | None
    of: str = ''

    @property
    def title(self) -> str:
        """What is measured: 'ACC', or 'ACC, repaired'."""
        return f'{self.name.upper()}, {self.of}' if self.of else self.name.upper()


def before_after(results: Results) -> list[BeforeAfter]:
    """Lists ACC, ASR and RA of the teacher (before) and of each classifier after the defence.

    Where nobody knows a trigger only those that were measured.
    """
    known = results.truth_known
    unknown = MEASURES | {'acc': 'test images given the class on their label'}
    meanings, rows = MEASURES if known else unknown, []
    for side in results.outcomes or ('student',):
        of, after = '' if side == 'student' else side, results.outcomes.get(side)
        for name, meaning in meanings.items():
            said = f'{meaning}; after: {say_outcome(results, side)}' if of else meaning
            before = read_share(results.teacher, name)
            rows.append(BeforeAfter(name, said, before, read_share(after, name), of))
    return [row for row in rows if known or row.before or row.after]


def read_share(side: ClassifierScores | None, name: str) -> Reading | None:
    """Reads a share of a classifier with its counts and interval; None where not measured."""
    if side is None or (value := getattr(side, name)) is None:
        return None
    unknown = (None, None)
    return Reading(
        value, *(side.counts.get(name) or unknown), *(side.intervals.get(name) or unknown)
    )


class Screen(Console):
    """A console whose closed pipe is Python's `BrokenPipeError`; rich would end the program."""

    def on_broken_pipe(self) -> None:
        """Leaves it to the caller."""
        raise BrokenPipeError


def print_before_after(results: Results, console: Console) -> None:
    """Prints the before/after table; aligned plain lines when the console is not a terminal."""
    rows = [
        [row.title, *(text for side in (row.before, row.after) for text in _say_reading(side))]
        for row in before_after(results)
    ]
    head = ['', 'before', 'counts', '95 % interval', 'after', 'counts', '95 % interval']
    if not console.is_terminal:
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        for first, *others in [head, *rows]:
            right = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
            line = '  '.join([first.ljust(widths[0]), *right])
            console.print(Text(line.rstrip()), soft_wrap=True)
        return
    plain = {'box': None, 'pad_edge': False, 'padding': (0, 2, 0, 0)}
    table = Table(title=Text(results.name), title_justify='left', **plain)
    for i, name in enumerate(head):
        style = 'bold' if name in ('', 'before', 'after') else 'dim'
        table.add_column(name, justify='right' if i else 'left', style=style, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _say_reading(share: Reading | None) -> tuple[str, ...]:
    """Value, counts and interval for a terminal that may know ASCII only."""
    if share is None:
        return ('-',) * 3
    said = (share.say(), share.say_counts(), share.say_interval())
    return tuple(text.replace(MISSING, '-') for text in said)
