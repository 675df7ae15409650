"""SIGTERM and Ctrl-C are remembered, so that a stage saves its work and exits with 75."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from purify.core.errors import Preempted

_asked = False


def asked() -> bool:
    """Whether a stop was asked for."""
    return _asked


def check() -> None:
    """Raises `Preempted` if a stop was asked for. Call where everything finished is on disk."""
    if _asked:
        raise Preempted


def _remember(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked and number == signal.SIGINT:  # a second Ctrl-C means now
        raise KeyboardInterrupt
    _asked = True
    name = signal.Signals(number).name
    os.write(2, f'\npurify: {name}: saving at the next step, then leaving\n'.encode())


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """While open, SIGTERM and SIGINT only set the flag that `asked` reads."""
    global _asked
    _asked = False
    old = {number: signal.signal(number, _remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        _asked = False
        for number, handler in old.items():
            signal.signal(number, handler)
