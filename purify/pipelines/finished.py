"""What a finished stage says of itself: its settings, what it cost, and the hash of every file that it leaves."""

import concurrent.futures
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from purify.core import preemption
from purify.core.errors import UserError
from purify.core.files import read_json, sha256_of
from purify.core.progress import say
from purify.train.cost import COST_FILE

DONE = 'DONE'  # the file in a stage's folder that says so
STATE = 'checkpoints'  # folder of an unfinished or finished training, beside the weights; nobody reads it after the end
PART = '.part'  # the end of the name of a file that is being written
SHOWN = 3  # files that a message names


class Done(TypedDict):
    """The file `DONE`; `files` maps the path of every file to its SHA-256, which versions before 0.2 did not note."""

    stage: str
    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    cost: dict[str, Any]
    files: NotRequired[dict[str, str]]


def read_done(folder: Path) -> Done:
    """What the finished stage in `folder` says of itself. Raises `UserError` where it is not finished or `DONE` is damaged."""
    return read_json(folder / DONE, Done)


def files_of(folder: Path) -> dict[str, Path]:
    """Every file that a stage hands on, by its path in the stage's folder: all but `DONE`, costs, training states and parts."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob('*')) if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in found.items()
        if name != Path(DONE) and name.name != COST_FILE and name.suffix != PART and STATE not in name.parts
    }


def remove_parts(folder: Path) -> None:
    """Deletes what a killed writer left half written, in the folder of a stage in which nobody writes any more."""
    for path in sorted(folder.rglob(f'*{PART}')):
        path.unlink(missing_ok=True)


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
        raise UserError(f'{path}: cannot be read ({error.strerror}). Delete its stage folder and run again.') from error


def check_files(folder: Path, done: Done, advice: str, hashes: Mapping[str, str] | None = None) -> None:
    """Raises `UserError` unless every file that `done` names is in `folder` as the stage wrote it; `advice` is the next step.

    `hashes` are those of `files_of` the folder, where they are known already. A `done` without hashes cannot be checked; that is
    said, and so is how many files are there besides.
    """
    if 'files' not in done:
        say(f'{folder}: an older version wrote it and noted no hashes, so nobody knows whether its files are still the same.')
        return
    named, there = done['files'], files_of(folder)
    found = hashes if hashes is not None else hash_files({name: there[name] for name in named if name in there})
    if wrong := [name for name in named if found.get(name) != named[name]]:
        more = f' (and {len(wrong) - SHOWN} more files)' if len(wrong) > SHOWN else ''
        raise UserError(
            f'{", ".join(str(folder / name) for name in wrong[:SHOWN])}{more}: missing, or changed since the stage '
            f'{done["stage"]!r} wrote it. {advice}'
        )
    if extra := [name for name in there if name not in named]:
        say(f'{folder}: holds {len(extra)} files that its stage did not write, such as {extra[0]}; they were not checked.')
