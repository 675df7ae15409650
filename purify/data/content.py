"""Files in folders, and what tells a changed file from the one that was there before."""

import functools
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from purify.core.errors import UserError
from purify.core.files import sha256_of

SMALL_BYTES = 64 * 2**20


def marks(files: Mapping[str, Path], *, hashed: bool = False) -> dict[str, str]:
    """What tells each of the `files`, by name, from another in its place.

    Files are hashed where they hold `SMALL_BYTES` at most together, or all of them if `hashed`. Of
    more, size and time of change count: a file that was replaced by one of the same size under its
    old time is not seen.
    """
    facts = map(_stat, files.values())  # looked at twice rather than held: they are large
    small = hashed or sum(known.st_size for known in facts if known) <= SMALL_BYTES
    return {name: _mark(path, _stat(path), small) for name, path in files.items()}


def _stat(path: Path) -> os.stat_result | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts if stat.S_ISREG(facts.st_mode) else None


def _mark(path: Path, facts: os.stat_result | None, small: bool) -> str:
    if facts is None:
        return 'missing'
    if not small:
        return f'{facts.st_size} {facts.st_mtime_ns}'
    try:
        return _digest(path, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    except OSError:  # whoever reads it says so, by name
        return 'unreadable'


@functools.lru_cache(2**16)
def _digest(path: Path, size: int, changed_ns: int, touched_ns: int) -> str:
    """SHA-256 of a file; every command and sweep asks several times."""
    return sha256_of(path)


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file under `folder`, always in the same order; links are followed, circles are not.

    Raises `UserError` for a folder that cannot be listed.
    """
    waiting: list[tuple[Path, tuple[str, ...]]] = [(folder, ())]
    while waiting:
        here, above = waiting.pop()
        real = os.path.realpath(here)
        if real in above:
            continue
        folders = []
        for entry in scan(here):
            if is_folder(entry):
                folders.append((Path(entry.path), (*above, real)))
            else:
                yield entry
        waiting += reversed(folders)


def scan(
    folder: Path, advice: str = 'Choose another, or give yourself the right to read it.'
) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name.

    Raises `UserError`, ending in `advice`, where it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = 'no such folder' if missing else f'cannot be read ({error.strerror})'
        raise UserError(f'{folder}: {reason}. {advice}') from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; False, without an error, for links in a circle."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))
