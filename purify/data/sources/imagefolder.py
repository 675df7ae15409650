"""Folders of pictures, one per class."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from purify.core.devices import say_once
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.data import images
from purify.data.content import is_folder, marks, scan, walk
from purify.data.names import tell_apart
from purify.data.notes import Notes
from purify.data.sources.source import (
    TEST_SHARE,
    Pool,
    Source,
    check_apart,
    held_out,
    root_of,
    say_share_unused,
)

TRAIN, TEST = ('train', 'training'), ('test', 'val', 'validation')
# Names that spare a look inside.
PICTURES = r'\.(a?png|jpe?g?|jfif|webp|bmp|dib|gif|tiff?|p[pgbn]m|jp2|j2k|jpx|avif)$'
LEAVINGS = ('thumbs.db', 'desktop.ini')  # of Windows; those of other systems begin with a dot
NAMED = 5  # files that a message names
LAYOUT = 'An imagefolder needs train/<class>/ and test/<class>/ folders, or <class>/ folders alone.'


def read_imagefolder(
    channels: int, path: str, *, train: str = '', test: str = '', test_share: float = TEST_SHARE
) -> Source:
    """Reads pictures from a folder per class; ids follow the sorted file names.

    Formats are those of `images.FORMATS`. Every file of a class folder counts, however deep: what
    begins like a picture is one, whatever its name; what is left out is counted and named, also
    beside the folders that are read. Links are followed.

    Args:
      channels: 1 or 3.
      path: the folder with `train/<class>/` and `test/<class>/`, or with `<class>/` folders alone.
      train: the folder of training images, seen from `path`; '' takes the first there is of
        `TRAIN`.
      test: the same for test images, of `TEST`.
      test_share: share of each class that is held out for testing where there is no test folder.

    Raises:
      UserError: for missing folders, those of unlike classes, and those that hold the same images.
    """
    root, notes = root_of(path), Notes()
    folders = _split_folders(root, train, test)
    names = [_class_folders(folder) for folder in folders]
    if names[0] != names[-1]:
        odd = sorted(set(names[0]) ^ set(names[-1]))
        raise UserError(
            f'{root}: the class folders of {folders[0].name!r} and {folders[-1].name!r} differ:'
            f' {tell_apart(odd)}. Both need every class.'
        )
    pools = [_pool(folder, names[0], channels, notes) for folder in folders]
    if len(pools) == 1:
        mask = held_out(pools[0].labels, test_share)
        pools = [pools[0].take(np.flatnonzero(~mask)), pools[0].take(np.flatnonzero(mask))]
        say_once(
            f'{root}: no test folder, so {test_share:g} of each class is held out for testing:'
            f' {len(pools[0]):,} training and {len(pools[1]):,} test images.'
        )
    else:
        say_share_unused(str(root), test_share)
    return Source(names[0], *pools, notes=notes)


def sign_imagefolder(path: str, *, train: str = '', test: str = '') -> dict[str, str]:
    """What tells every file that `read_imagefolder` may look at from another (`content.marks`).

    These lie under `train` and `test`, and under `path` unless both are given.
    """
    root = root_of(path)
    given = [root / user_path(name) for name in (train, test) if name]
    folders = given if len(given) == 2 else [root, *given]
    files = [entry.path for folder in folders if folder.is_dir() for entry in walk(folder)]
    return marks({os.path.relpath(file, root): Path(file) for file in files})


def _split_folders(root: Path, train: str, test: str) -> list[Path]:
    """The folders of training and test images, or one folder that holds both."""
    there = _folders(root)
    first, second = _choose(root, there, train, TRAIN), _choose(root, there, test, TEST)
    if not first and not second:
        return [root]
    if first and second:
        check_apart(root / first, root / second)
    if (first and second) or there == [first]:
        folders = [root / name for name in (first, second) if name]
        _say_beside(root, folders)
        return folders
    lacking = 'test' if first else 'training'
    raise UserError(
        f'{root}: a folder {first or second!r}, but none of {lacking} images'
        f' ({" or ".join(TEST if first else TRAIN)}); there are: {tell_apart(there)}. {LAYOUT}'
        ' Other names: source.train=, source.test=.'
    )


def _choose(root: Path, there: Sequence[str], given: str, usual: Sequence[str]) -> str:
    if given:
        given = str(user_path(given))
        if not (root / given).is_dir():
            raise UserError(
                f'{root / given}: no such folder; there are {tell_apart(there) or "none"}. {LAYOUT}'
            )
        return given
    return next((name for word in usual for name in there if name.casefold() == word), '')


def _say_beside(root: Path, folders: Sequence[Path]) -> None:
    """Says what lies beside the folders that are read."""
    read = [os.path.realpath(folder) for folder in folders]
    others, files, hidden = [], [], []
    for entry in scan(root, LAYOUT):
        here = os.path.realpath(entry.path)
        if any(Path(folder).is_relative_to(here) for folder in read):
            continue
        kind = hidden if _is_hidden(entry, root) else others if is_folder(entry) else files
        kind.append(entry.name)
    kinds = {'folders': others, 'files': files, 'hidden files or folders': hidden}
    parts = [f'{len(found):,} {kind} ({_shorten(found)})' for kind, found in kinds.items() if found]
    if parts:
        say_once(
            f'{root}: reads {" and ".join(folder.name for folder in folders)}, and leaves out'
            f' beside them {", ".join(parts)}.'
        )


def _shorten(names: Sequence[str]) -> str:
    return ', '.join([*names[:NAMED], *(['...'] if len(names) > NAMED else [])])


def _folders(folder: Path) -> list[str]:
    folders = [entry.name for entry in scan(folder, LAYOUT) if is_folder(entry)]
    return [name for name in folders if not name.startswith('.')]


def _class_folders(folder: Path) -> list[str]:
    names = _folders(folder)
    if not names:
        raise UserError(f'{folder}: no class folders. {LAYOUT}')
    return names


@dataclass
class _LeftOut:
    """What lies in the folders of a split and is not read, or where nobody would look for it."""

    others: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    hidden_folders: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    deeper: int = 0

    def count(self, entry: os.DirEntry[str], folder: Path) -> None:
        """Counts one more file that is left out."""
        some = self.hidden if _is_hidden(entry, folder) else self.others
        some.append(os.path.join(folder.name, os.path.relpath(entry.path, folder)))

    def count_beside(self, entry: os.DirEntry[str], folder: Path) -> None:
        """Counts what lies beside the class folders of a split."""
        if is_folder(entry):
            self.hidden_folders.append(entry.name)
        elif not _is_hidden(entry, folder) and _is_picture(entry):
            self.loose.append(entry.name)
        else:
            self.count(entry, folder)

    def say_all(self, folder: Path) -> None:
        """Says the counts, and the names of the first files."""
        if self.deeper:
            say_once(
                f'{folder}: {self.deeper:,} pictures lie deeper in a class folder and count as of'
                ' it.'
            )
        for names, what, cure in (
            (self.others, 'files that are no pictures', ''),
            (self.hidden, 'hidden files', ''),
            (self.loose, 'pictures that lie in no class folder', ''),
            (self.hidden_folders, 'folders that begin with a dot', ' Rename classes among them.'),
        ):
            if names:
                say_once(f'{folder}: left out {len(names):,} {what} ({_shorten(names)}).{cure}')


def _pool(folder: Path, names: Sequence[str], channels: int, notes: Notes) -> Pool:
    left = _LeftOut()
    found = [_pictures(folder / name, left) for name in names]
    files = [file for own in found for file in own]
    for entry in scan(folder, LAYOUT):
        if entry.name not in names:
            left.count_beside(entry, folder)
    left.say_all(folder)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(own) for own in found])
    read = lambda i: images.read(Path(files[i]), channels, notes)
    return Pool(np.arange(len(files)), labels, read)


def _pictures(folder: Path, left: _LeftOut) -> list[str]:
    files = []  # as text, which takes less memory than a Path
    for entry in walk(folder):
        if _is_hidden(entry, folder) or not _is_picture(entry):
            left.count(entry, folder)
            continue
        files.append(entry.path)
        left.deeper += os.path.dirname(entry.path) != str(folder)
    if not files:
        formats = ', '.join(images.FORMATS)
        raise UserError(f'{folder}: no pictures in this class folder (formats: {formats}).')
    return files


def _is_hidden(entry: os.DirEntry[str], folder: Path) -> bool:
    parts = Path(entry.path).relative_to(folder).parts
    return any(part.startswith('.') for part in parts) or entry.name.lower() in LEAVINGS


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """By its suffix; by a look at the header where that says nothing.

    A link to nowhere counts: reading it names it.
    """
    known = re.search(PICTURES, entry.name, re.IGNORECASE) is not None
    if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):
        return known or images.looks_like_picture(Path(entry.path))
    return known and entry.is_symlink()
