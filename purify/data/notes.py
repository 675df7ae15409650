"""Counts of what pictures hold beside plain pixels, so that nothing is dropped in silence."""

import threading

import numpy as np

from purify.core.devices import say_once, sum_over_hosts
from purify.core.progress import say

KINDS = {
    'alpha': 'transparent in places, shown on white',
    'frames': 'more than one picture in the file, of which the first is taken',
    'dark': 'of 16 bits per value only the lowest are used, so it comes out dark; stretch them',
    'scaled': 'no value above 1, as if scaled to [0, 1], so that it comes out black; store 0..255',
    'profile': 'a colour profile that cannot be read, or does not fit; colours are taken for sRGB',
    'colours': 'colours marked as others than sRGB without a profile; they are taken for sRGB',
    'exif': 'EXIF data that cannot be read; the picture is taken as it is stored',
}


class Notes:
    """Counts the pictures of one source by what is peculiar to them; safe to share between threads.

    The first picture of each kind is said at once, by name; `say_counts` says how many there were.
    A picture that is read again counts once.
    """

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def add(self, kind: str, name: str) -> None:
        """Notes that the picture `name` is of the `kind`, one of `KINDS`."""
        with self._lock:
            names = self._names.setdefault(kind, set())
            first = not names
            names.add(name)
        if first:
            say(f'{name}: {KINDS[kind]}. Others like it are read the same way.')

    def counts(self) -> dict[str, int]:
        """How many pictures there are of each kind."""
        with self._lock:
            return {kind: len(names) for kind, names in self._names.items()}

    def say_counts(self, what: str) -> None:
        """Says how many pictures of `what` are of each kind; all hosts call this together."""
        own = self.counts()
        whole = sum_over_hosts(np.array([own.get(kind, 0) for kind in KINDS])).tolist()
        for kind, count in zip(KINDS, whole, strict=True):
            if count:
                say_once(f'{what}: {count:,} of the pictures read: {KINDS[kind]}.')
