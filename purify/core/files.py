"""Files written whole or not at all, JSON of a known form, and paths that people write."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

from purify.core.errors import UserError
from purify.core.types import Facts

# The next step where a file of a stage is not as it was written.
AGAIN = 'Delete its stage folder and run again.'
FULL = (errno.ENOSPC, errno.EDQUOT)
SHUT = (errno.EACCES, errno.EPERM, errno.EROFS)
BLOCKED = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)

T = TypeVar('T')


@contextlib.contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turns errors of a full disk, a shut folder or a file in the way into `UserError`s."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        number = _errno_of(error)
        if number in FULL:
            free = shutil.disk_usage(existing_parent(path)).free / 2**20
            raise UserError(
                f'{path}: the disk is full ({free:.0f} MiB free). What is finished is kept: free'
                ' some space or choose another --workdir, and start the same command again.'
            ) from error
        if number in SHUT:
            raise UserError(
                f'{path}: cannot write here ({os.strerror(number)}). Choose a --workdir you own.'
            ) from error
        if number in BLOCKED:
            raise UserError(
                f'{path}: cannot be made ({os.strerror(number)}). Move what is in the way, or'
                ' choose another --workdir.'
            ) from error
        raise


def _errno_of(error: Exception) -> int:
    """The errno, or 0; array_record and orbax write from C++ and give it in words alone."""
    if isinstance(error, OSError):
        return error.errno or 0
    return next((number for number in (*FULL, *SHUT) if os.strerror(number) in str(error)), 0)


def existing_parent(path: Path) -> Path:
    """The nearest folder on the way up that exists."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path


def write_bytes(path: Path, data: bytes) -> str:
    """Writes `data` whole or not at all, by renaming a temporary file; returns the SHA-256."""
    path = Path(path)
    part = path.with_name(f'{path.name}.{os.getpid()}.{threading.get_ident()}.part')
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, 'wb') as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()


def write_json(path: Path, value: Any) -> str:
    """Writes `value` as readable JSON, whole or not at all; returns the SHA-256. NaN is refused."""
    return write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + '\n').encode())


@overload
def read_json(path: Path, *, cure: str = ...) -> Any: ...
@overload
def read_json(path: Path, schema: type[T], *, cure: str = ...) -> T: ...
def read_json(path: Path, schema: Any = Any, *, cure: str = AGAIN) -> Any:
    """Reads a JSON file and checks that it has the form it should have.

    `schema` is a type that JSON itself has: a `TypedDict`, `dict[str, int]`, `list[str]`, ... Keys
    that it does not name are kept. Raises `UserError` that names the file, the place in it and what
    was expected, when it is missing, broken or of another form; `cure` is the next step for the
    last two. What is not finite (NaN, Infinity) is let through where `schema` sets no bounds.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding='utf-8'), object_pairs_hook=_without_twins)
        # It would leave out of a `TypedDict` what that does not name.
        msgspec.convert(value, type=schema)
        return value
    except FileNotFoundError as error:
        raise UserError(
            f'{path}: no such file. Is {path.parent} the right folder, and what writes it finished?'
        ) from error
    except IsADirectoryError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}). {cure}') from error
    except OSError as error:
        raise UserError(
            f'{path}: cannot be read ({error.strerror}). Give a folder that holds {path.name}.'
        ) from error
    except msgspec.ValidationError as error:
        raise UserError(f'{path}: not what this program writes there ({error}). {cure}') from error
    except RecursionError as error:
        raise UserError(f'{path}: nested deeper than any file of this kind. {cure}') from error
    except ValueError as error:  # not JSON, not UTF-8, or a number of more digits than Python reads
        raise UserError(f'{path}: not valid JSON ({error}). {cure}') from error


def _without_twins(pairs: list[tuple[str, Any]]) -> Facts:
    """A JSON object as a dict; ValueError where a key stands twice, as readers disagree then."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twin = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f'the key {twin!r:.200} stands twice in one object')
    return value


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def fingerprint(value: Mapping[str, Any]) -> str:
    """Twelve hex digits that change whenever anything in the JSON-able `value` does."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def user_path(text: str | Path) -> Path:
    """The path that a person wrote, with home folders in place of `~` and `~name`.

    Nothing has to exist there yet. Raises `UserError` for an unknown user and for what can name no
    file here (too long, a NUL, a loop of links, a shut folder).
    """
    try:
        path = Path(text).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f'{str(text)!r:.200}: not a usable path ({reason}). Write the path out in full,'
            ' or choose another.'
        ) from error
    return path
