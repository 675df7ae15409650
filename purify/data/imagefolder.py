"""Folders of pictures, one per class."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from purify.core.errors import UserError
from purify.core.progress import say
from purify.data import images
from purify.data.content import is_folder, marks, scan, walk
from purify.data.names import tell_apart
from purify.data.notes import Notes
from purify.data.pools import Pool, Source, held_out, root_of

TRAIN, TEST = ('train', 'training'), ('test', 'val', 'validation')
PICTURES = r'\.(a?png|jpe?g?|jfif|webp|bmp|dib|gif|tiff?|p[pgbn]m|jp2|j2k|jpx|avif)$'  # names that spare a look inside
LEAVINGS = ('thumbs.db', 'desktop.ini')  # of Windows; those of other systems begin with a dot
NAMED = 5  # files that a message names
LAYOUT = 'An imagefolder source needs train/<class>/ and test/<class>/ folders, or <class>/ folders alone.'


def read_imagefolder(channels: int, path: str, *, train: str = '', test: str = '', test_share: float = 0.2) -> Source:
    """Reads pictures from a folder per class, of any format in `images.FORMATS`; ids follow the sorted file names.

    Every file of a class folder counts, however deep: what begins like a picture is one, whatever its name; what is left out
    is counted and named. Links are followed.

    Args:
      channels: 1 or 3.
      path: the folder with `train/<class>/` and `test/<class>/`, or with `<class>/` folders alone.
      train: the folder of training images within `path`; '' takes the first there is of `TRAIN`.
      test: the same for test images, of `TEST`.
      test_share: share of each class that is held out for testing where there is no test folder.

    Raises:
      UserError: for folders that are missing, or do not hold the same classes.
    """
    root, notes = root_of(path), Notes()
    folders = _split_folders(root, train, test)
    names = [_class_folders(folder) for folder in folders]
    if names[0] != names[-1]:
        odd = sorted(set(names[0]) ^ set(names[-1]))
        raise UserError(
            f'{root}: the class folders of {folders[0].name!r} and {folders[-1].name!r} differ: {tell_apart(odd)}. '
            'Both need every class.'
        )
    pools = [_pool(folder, names[0], channels, notes) for folder in folders]
    if len(pools) == 1:
        mask = held_out(pools[0].labels, test_share)
        pools = [pools[0].take(np.flatnonzero(~mask)), pools[0].take(np.flatnonzero(mask))]
        say(
            f'{root}: no test folder, so {test_share:g} of each class is held out for testing: {len(pools[0]):,} training and '
            f'{len(pools[1]):,} test images.'
        )
    return Source(names[0], *pools, notes=notes)


def sign_imagefolder(path: str) -> dict[str, str]:
    """{file: what tells it from another} of all that lies under `path`; see `content.marks`."""
    root = root_of(path)
    return marks({os.path.relpath(entry.path, root): Path(entry.path) for entry in walk(root)} if root.is_dir() else {})


def _split_folders(root: Path, train: str, test: str) -> list[Path]:
    """The folders of training and test images, or one folder that holds both."""
    there = _folders(root)
    first, second = _choose(root, there, train, TRAIN), _choose(root, there, test, TEST)
    if first and second:
        return [root / first, root / second]
    if not first and not second:
        return [root]
    if first and there == [first]:
        return [root / first]
    lacking = 'test' if first else 'training'
    raise UserError(
        f'{root}: a folder {first or second!r}, but none of {lacking} images ({" or ".join(TEST if first else TRAIN)}); there are: '
        f'{tell_apart(there)}. {LAYOUT} Other names: source.train=, source.test=.'
    )


def _choose(root: Path, there: Sequence[str], given: str, usual: Sequence[str]) -> str:
    if given:
        if not (root / given).is_dir():
            raise UserError(f'{root / given}: no such folder. There are: {tell_apart(there) or "none"}. {LAYOUT}')
        return given
    found = [name for word in usual for name in there if name.casefold() == word]
    if len(found) > 1:
        say(f'{root}: takes the folder {found[0]}, and leaves out {", ".join(found[1:])}.')
    return found[0] if found else ''


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in scan(folder, LAYOUT) if is_folder(entry) and not entry.name.startswith('.')]


def _class_folders(folder: Path) -> list[str]:
    names = _folders(folder)
    if not names:
        raise UserError(f'{folder}: no class folders. {LAYOUT}')
    return names


@dataclass
class _LeftOut:
    """What lies in the folders of a split and is not read, or lies where one would not look for it."""

    others: list[str] = field(default_factory=list)
    hidden: int = 0
    deeper: int = 0

    def count(self, entry: os.DirEntry[str], folder: Path) -> None:
        """One file more that is left out."""
        if _is_hidden(entry, folder):
            self.hidden += 1
        else:
            self.others.append(os.path.join(folder.name, os.path.relpath(entry.path, folder)))

    def say_all(self, folder: Path) -> None:
        """The counts, and the names of the first files."""
        if self.deeper:
            say(f'{folder}: {self.deeper:,} pictures lie in folders within a class folder; they count as of that class.')
        if self.others or self.hidden:
            shown = ', '.join([*self.others[:NAMED], *(['...'] if len(self.others) > NAMED else [])])
            named = f' ({shown})' if shown else ''
            say(f'{folder}: left out {len(self.others):,} files that are no pictures{named} and {self.hidden:,} hidden ones.')


def _pool(folder: Path, names: Sequence[str], channels: int, notes: Notes) -> Pool:
    left = _LeftOut()
    files = [(file, k) for k, name in enumerate(names) for file in _pictures(folder / name, left)]
    for entry in scan(folder, LAYOUT):
        if not is_folder(entry):
            left.count(entry, folder)
    left.say_all(folder)
    labels = np.array([k for _, k in files], np.int32)
    return Pool(np.arange(len(files)), labels, lambda i: images.read(files[i][0], channels, notes))


def _pictures(folder: Path, left: _LeftOut) -> list[Path]:
    files = []
    for entry in walk(folder):
        if _is_hidden(entry, folder) or not _is_picture(entry):
            left.count(entry, folder)
            continue
        files.append(Path(entry.path))
        left.deeper += files[-1].parent != folder
    if not files:
        raise UserError(f'{folder}: no pictures in this class folder (formats: {", ".join(images.FORMATS)}).')
    return files


def _is_hidden(entry: os.DirEntry[str], folder: Path) -> bool:
    parts = Path(entry.path).relative_to(folder).parts
    return any(part.startswith('.') for part in parts) or entry.name.lower() in LEAVINGS


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """By its suffix; by a look at the header where that says nothing. A link to nowhere counts: reading it names it."""
    known = re.search(PICTURES, entry.name, re.IGNORECASE) is not None
    if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):
        return known or images.looks_like_picture(Path(entry.path))
    return known and entry.is_symlink()
