"""Folders that stay shut while a defence is at work."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_OS_CALLS = ('listdir', 'scandir', 'rename', 'link', 'symlink')
_EVENTS = ('open', 'shutil.copyfile', *(f'os.{call}' for call in _OS_CALLS))
_seals: list[tuple[list[str], list[str]]] = []  # what is shut, and what of it stays open
_hooked = False


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _seals or event not in _EVENTS:
        return
    for arg in args[:2]:
        if isinstance(arg, str | bytes | os.PathLike):
            real = os.path.realpath(os.fsdecode(arg))
            if any(_is_under(real, shut) and not _is_under(real, left) for shut, left in _seals):
                raise PermissionError(
                    f'{real} is sealed: a stage may open its own inputs alone, and a defence may'
                    ' not read the truth'
                )


def _is_under(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root + os.sep) for root in roots)


@contextlib.contextmanager
def sealed(*folders: Path, but: Sequence[Path] = ()) -> Iterator[None]:
    """While open, Python code in this process can open, list, link or move nothing in `folders`.

    Args:
      *folders: that are shut, whether they are there yet or not.
      but: files and folders among them that stay open.

    Held by an audit hook, so it also covers libraries and threads; that is what keeps a defence
    blind even if it guesses where the truth lies. Raises `PermissionError` in whoever tries. Code
    that opens files from C++ by itself is out of its reach, and so is a path relative to an open
    folder (`dir_fd`): it stops mistakes, not malice.
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True
    shut, left = ([os.path.realpath(folder) for folder in group] for group in (folders, but))
    _seals.append((shut, left))
    try:
        yield
    finally:
        _seals.remove((shut, left))
