"""Finished models that users name by folder, file or hub id: where they lie, and their digests."""

import functools
from pathlib import Path

from purify.core.errors import UserError
from purify.core.files import fingerprint, sha256_of, user_path
from purify.engine.finished import DONE, STATE, check_files, files_of, read_done
from purify.generative.sscd_encoder import PUBLISHED, copy_file
from purify.models.files.hub import COMPONENTS, EMBEDDED, INDEX, read_index, resolve
from purify.stages.networks_on_disk import NETWORK_FILE, read_facts

_READ = ('.safetensors', '.json', '.txt')  # of a prior's folder


def finished_folder(path: str) -> tuple[Path, str]:
    """Checks the folder of a finished network that a user names; returns its path and a digest.

    Raises `UserError` where it is none, or its files are not those that its stage wrote.
    """
    folder = user_path(path).absolute()
    read_facts(folder)
    return folder, _checked_digest(folder)


def start_folder(path: str) -> tuple[Path, str]:
    """Checks what a user names to start a training from; returns its path and a digest of it.

    Raises `UserError` where a finished stage's files are not those that it wrote.
    """
    start = user_path(path).absolute()
    return start, _checked_digest(start)


def _checked_digest(path: Path) -> str:
    """The digest of a file or of all files in a folder, once `_check_stage` has looked at them."""
    _check_stage(path)
    return _digest(path) if path.is_file() else fingerprint(_digests(path))


def _check_stage(path: Path) -> None:
    """Checks a folder or file that a user names against the finished stage that it is or lies in.

    A folder of a stage before 0.2, which noted no hashes, is taken without `DONE` as any other
    folder is.
    """
    advice = f'Train it again, give another, or delete {DONE} there if you know that it is whole.'
    for folder in dict.fromkeys((path, path.parent, path.resolve().parent)):
        if (folder / DONE).exists():
            check_files(folder, read_done(folder, advice), advice, _digests(folder))
            return


def _digests(folder: Path) -> dict[str, str]:
    return {name: _digest(file) for name, file in files_of(folder).items()}


def is_local(load: str) -> bool:
    """Whether what a user names is on this machine, or could only be; else it is on the hub."""
    here = load.startswith(('/', './', '../', '~')) or user_path(load).exists()
    file = Path(load).suffix in ('.safetensors', '.pt', '.pth')
    return here or file or load in EMBEDDED or load.count('/') != 1


def prior_folder(load: str, revision: str) -> tuple[Path, str]:
    """Finds a prior (embedded, a folder, a hub id); returns its folder and a digest."""
    folder = resolve(load, revision=revision or None)
    _check_stage(folder)
    return folder, _folder_digest(folder, 'a prior is a folder in diffusers format')


def encoder_folder(load: str, revision: str) -> tuple[Path, str]:
    """Finds an encoder (CLIP, SSCD or a finished network); returns where it is and a digest."""
    if (user_path(load) / NETWORK_FILE).is_file():
        return finished_folder(load)
    if (file := copy_file(user_path(load).absolute())) is not None:
        return file, _checked_digest(file)
    if Path(load).suffix in ('.safetensors', *PUBLISHED) or user_path(load).is_file():
        raise UserError(
            f"{load}: no such file of SSCD, which is a '.safetensors'; or give the folder of"
            ' another encoder.'
        )
    folder = resolve(load, revision=revision or None)
    return folder, _folder_digest(
        folder, "an encoder is a folder of CLIP, a file of SSCD, or a finished classifier's folder"
    )


def _folder_digest(folder: Path, expected: str) -> str:
    files = sorted(path for path in folder.rglob('*') if path.suffix in _READ)
    files = [path for path in files if STATE not in path.parts]
    whole = (folder / INDEX).is_file()
    read = COMPONENTS.get(read_index(folder)['_class_name']) if whole else None
    if read is not None:
        top = lambda path: path.relative_to(folder).parts[0]
        files = [path for path in files if path.parent == folder or top(path) in read]
    if not any(path.suffix == '.safetensors' for path in files):
        raise UserError(f'{folder}: holds no *.safetensors; {expected}.')
    return fingerprint({str(path.relative_to(folder)): _digest(path) for path in files})


def _digest(path: Path) -> str:
    """SHA-256 of a file, computed once in a process: files may have gigabytes."""
    try:
        stat = path.stat()
        return _digest_once(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}). Give another.') from error


@functools.cache
def _digest_once(path: Path, size: int, changed_ns: int) -> str:
    return sha256_of(path)
