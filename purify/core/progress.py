"""One progress bar per stage with rate and time left; plain lines where nobody watches."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL_S = 10.0
_quiet = False


def keep_quiet(quiet: bool) -> None:
    """Shows no progress from here on, or shows it again."""
    global _quiet
    _quiet = quiet


class Bar:
    """A progress bar: `with Bar('teacher', total=2400) as bar: bar.advance(64, 'loss 0.31')`."""

    def __init__(self, name: str, total: int, *, shown: bool = True):
        self.name, self.total, self.shown = name, total, shown and not _quiet
        self.done = self.fresh = 0
        self.begun = self.said = time.monotonic()
        self.console = Console(stderr=True)
        self.rich: Progress | None = None

    def __enter__(self) -> 'Bar':
        if self.shown and self.console.is_terminal:
            self.rich = Progress(
                TextColumn('{task.description:>12}'),
                BarColumn(),
                TextColumn('{task.percentage:>3.0f} %'),
                TextColumn('{task.fields[note]}'),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.rich.start()
            self.task = self.rich.add_task(self.name, total=self.total, note='')
        return self

    def skip(self, count: int) -> None:
        """Counts what an earlier run finished: on the bar, not in the rate."""
        self.done += count
        if self.rich is not None:
            self.rich.update(self.task, completed=self.done)

    def advance(self, count: int, note: str = '') -> None:
        """Counts `count` images done."""
        self.done += count
        self.fresh += count
        now = time.monotonic()
        rate = self.fresh / max(now - self.begun, 1e-9)
        text = f'{rate:,.0f} images/s' + (f'  {note}' if note else '')
        if self.rich is not None:
            self.rich.update(self.task, completed=self.done, note=text)
        elif self.shown and now - self.said >= PLAIN_INTERVAL_S:
            self.said = now
            left = (self.total - self.done) / max(rate, 1e-9)
            done = f'{self.done:,}/{self.total:,} images'
            say(f'{self.name}: {done}, {text}, {left:,.0f} s left', passing=True)

    def __exit__(self, *error: object) -> None:
        if self.rich is not None:
            self.rich.stop()


def say(text: str, *, shown: bool = True, passing: bool = False) -> None:
    """One line for the person who watches; `passing` lines, of progress, are left out if quiet."""
    if shown and not (passing and _quiet):
        print(text, file=sys.stderr, flush=True)
