"""Lock files, which the kernel frees when their process dies."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from purify.core import preemption
from purify.core.files import explain_os_errors

POLL_S = 0.2


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds an exclusive lock file; the kernel frees it when the process dies, however it dies.

    Where another process holds it, calls `on_wait` once and waits; `Preempted` ends the wait.
    """
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, 'a')  # noqa: SIM115
    with file:
        waited = False
        while not _lock_now(file):
            if on_wait is not None and not waited:
                on_wait()
            waited = True
            preemption.check()
            time.sleep(POLL_S)
        yield


def _lock_now(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
