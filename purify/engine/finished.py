"""The record of a finished stage: its settings, its cost, and the hash of every file."""

import concurrent.futures
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from purify.core import preemption
from purify.core.errors import UserError
from purify.core.files import AGAIN, read_json, sha256_of
from purify.core.progress import say
from purify.core.types import Settings
from purify.train.cost import COST_FILE, Spent

DONE = 'DONE'  # the file in a stage's folder that says so
# Folder of an unfinished or finished training, beside the weights; nobody reads it after the end.
STATE = 'checkpoints'
PART = '.part'  # the end of the name of a file that is being written
SHOWN = 3  # files that a message names
# Folder of a network's checkpoint, of which a reader takes whatever step is the newest.
WEIGHTS = 'weights'
# What people and systems leave and no reader takes: notes at the top, hidden files anywhere.
_STRAY = re.compile(r'[^/]+\.(txt|md|log)|(.*/)?(\.[^/]*(/.*)?|Thumbs\.db|desktop\.ini)')
PRINT = re.compile(r'.*-[0-9a-f]{12}')  # a stage folder's name, which ends in the fingerprint


class Done(TypedDict):
    """The file `DONE`; `files` maps paths to SHA-256 (versions before 0.2 did not note them)."""

    stage: str
    fingerprint: str
    settings: Settings
    inputs: dict[str, str]
    cost: Spent
    files: NotRequired[dict[str, str]]


def read_done(folder: Path, advice: str = '', *, older: bool = False) -> Done:
    """What the finished stage in `folder` says of itself.

    Raises `UserError`, with `advice` as the next step, where it is not finished, `DONE` is damaged
    or notes no hashes (unless the folder may be of an `older` version), or the stage is another one
    than the folder's name says, where that ends in a fingerprint.
    """
    advice = advice or f'Delete {folder} and run again.'
    done = read_json(folder / DONE, Done, cure=advice)
    names = (folder.name, folder.resolve().name)
    named = next((name for name in names if PRINT.fullmatch(name)), None)
    if named is not None and not named.endswith(f'-{done["fingerprint"]}'):
        raise UserError(
            f'{folder / DONE}: is of the stage {done["stage"]!r} with the fingerprint'
            f' {done["fingerprint"]!r}, not of the one that {named} is named for. {advice}'
        )
    if 'files' not in done and not older:
        raise UserError(
            f'{folder / DONE}: notes no hashes, as versions before 0.2, or is damaged. {advice}'
        )
    return done


def files_of(folder: Path) -> dict[str, Path]:
    """All files that a stage hands on, by path: no `DONE`, costs, training states or parts."""
    found = {}
    for path in sorted(folder.rglob('*')):
        name = path.relative_to(folder)
        own = name == Path(DONE) or name.name == COST_FILE or name.suffix == PART
        if (path.is_file() or path.is_symlink()) and not own and STATE not in name.parts:
            found[name.as_posix()] = path
    return found


def hash_folder(folder: Path) -> dict[str, str]:
    """Hashes all that a stage hands on, once what a killed writer left half written is deleted."""
    for path in sorted(folder.rglob(f'*{PART}')):
        path.unlink(missing_ok=True)
    return hash_files(files_of(folder))


def hash_files(files: Mapping[str, Path]) -> dict[str, str]:
    """The SHA-256 of files by name, several read at once.

    Raises `UserError` for one that cannot be read, `Preempted` when SIGTERM came.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter lock
        return dict(zip(files, pool.map(_hash, files.values()), strict=True))


def _hash(path: Path) -> str:
    preemption.check()
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}). {AGAIN}') from error


def check_files(
    folder: Path, done: Done, advice: str, hashes: Mapping[str, str] | None = None
) -> None:
    """Raises `UserError` unless `folder` holds every file of `done` as the stage wrote it.

    `advice` is the next step. Nor may there be other files that a reader could take for the
    stage's; how many notes and hidden files are there is said. `hashes` are those of `files_of` the
    folder, where they are known already. A `done` without hashes is not checked, which is said.
    """
    if 'files' not in done:
        say(f'{folder}: an older version noted no hashes, so nobody knows whether it is the same.')
        return
    named, there = done['files'], files_of(folder)
    found = hashes or hash_files({name: there[name] for name in named if name in there})
    if wrong := [name for name in named if found.get(name) != named[name]]:
        raise UserError(
            f'{", ".join(str(folder / name) for name in wrong[:SHOWN])}{_more(wrong)}: missing, or'
            f' changed since the stage {done["stage"]!r} wrote it. {advice}'
        )
    extra = [name for name in there if name not in named]
    if taken := [x for x in extra if WEIGHTS in Path(x).parts[:-1] or not _STRAY.fullmatch(x)]:
        raise UserError(
            f'{", ".join(str(folder / name) for name in taken[:SHOWN])}{_more(taken)}: not written'
            f' by the stage {done["stage"]!r}, and could be taken for its results. Move what is not'
            f' its own out of {folder} and run again.'
        )
    if extra:
        say(f'{folder}: {len(extra)} files are not of its stage, such as {extra[0]}; none is read.')


def _more(names: list[str]) -> str:
    """How many names a message leaves out."""
    return f' (and {len(names) - SHOWN} more files)' if len(names) > SHOWN else ''
