"""Images and labels in two npz files."""

import sys
from pathlib import Path

import numpy as np

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.data.content import marks
from purify.data.names import tell_apart
from purify.data.sources.source import Pool, Source, check_apart, root_of

ARRAYS = ('images', 'labels', 'ids', 'class_names')


def read_arrays(
    channels: int, path: str, *, train: str = 'train.npz', test: str = 'test.npz'
) -> Source:
    """Reads `path/train.npz` and `test.npz`: images u8[n h w c] or [n h w], integer labels [n].

    `class_names` and `ids` [n] may be there too. Never unpickles. Raises `UserError` that names the
    file and the array.
    """
    root = root_of(path)
    check_apart(root / train, root / test)
    pools, found = [], []
    for file in (root / train, root / test):
        pixels, labels, ids, names = _read_npz(file, channels)
        pools.append(make_pool(pixels, labels, ids))
        found.append(names)
    if all(found) and found[0] != found[1]:
        odd = next(([a, b] for a, b in zip(*found, strict=False) if a != b), [])
        first = f' The first that differ: {tell_apart(odd)}.' if odd else ''
        raise UserError(
            f'{root}: class_names differ: {train} has {found[0][:20]}, {test} has'
            f' {found[1][:20]}.{first} Make them equal.'
        )
    highest = max(int(pool.labels.max(initial=-1)) for pool in pools)
    names = found[0] or found[1] or [str(k) for k in range(min(highest + 1, sum(map(len, pools))))]
    if highest >= len(names):
        raise UserError(
            f'{root}: a label is {highest}, but there are only {len(names)} classes; number from 0.'
        )
    return Source(names, *pools)


def sign_arrays(path: str, *, train: str = 'train.npz', test: str = 'test.npz') -> dict[str, str]:
    """The hashes of the files that `read_arrays` reads, by name."""
    return marks({name: root_of(path) / name for name in (train, test)}, hashed=True)


def make_pool(pixels: np.ndarray, labels: np.ndarray, ids: np.ndarray | None = None) -> Pool:
    """A pool of images in memory, u8[n h w c]; ids count from 0 unless given."""
    ids = np.arange(len(labels)) if ids is None else ids
    return Pool(ids.astype(np.int64), labels.astype(np.int32), pixels.__getitem__)


def _read_npz(
    file: Path, channels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
    data = _load(file)
    if missing := {'images', 'labels'} - set(data):
        raise UserError(
            f'{file}: has no array {", ".join(sorted(missing))}; give images u8[n h w c], labels'
            ' [n].'
        )
    pixels, labels, ids = data['images'], data['labels'], data.get('ids')
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    _check_pixels(file, pixels, channels)
    for name, values in {'labels': labels, **({} if ids is None else {'ids': ids})}.items():
        # NumPy counts timedelta64 among the integers.
        if values.dtype.kind not in 'iu' or values.ndim != 1:
            raise UserError(
                f'{file}: {name} are {values.dtype}{list(values.shape)}; they must be integers [n].'
            )
        if len(pixels) != len(values):
            counts = f'{len(pixels)} images but {len(values)} {name}'
            raise UserError(f'{file}: {counts}, which must agree.')
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < 2**31:
            raise UserError(
                f'{file}: {name} run from {values.min()} to {values.max()}; they must lie in 0 to'
                f' {2**31 - 1}.'
            )
    return pixels, labels, ids, _class_names(file, data.get('class_names', np.array([], str)))


def _load(file: Path) -> Facts:
    try:
        with open(file, 'rb') as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as arrays:
            data = {name: arrays[name] for name in ARRAYS if name in arrays}
    except FileNotFoundError as error:
        raise UserError(
            f'{file}: no such file. The source needs train.npz and test.npz.'
        ) from error
    except Exception as error:
        # A broken archive fails in as many ways as zipfile, zlib and NumPy have.
        raise UserError(
            f'{file}: not a readable npz file without pickles ({error}). Write it again with'
            ' np.savez.'
        ) from error
    if odd := [name for name, values in data.items() if not isinstance(values, np.ndarray)]:
        kind = type(data[odd[0]]).__name__
        raise UserError(f'{file}: {odd[0]} is no array, but {kind}. Write it again with np.savez.')
    return data


def _check_pixels(file: Path, pixels: np.ndarray, channels: int) -> None:
    if np.issubdtype(pixels.dtype, np.floating) and not np.isfinite(pixels).all():
        raise UserError(f'{file}: images hold NaN or infinity; clean them and store uint8 0..255.')
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or 0 in pixels.shape[1:]:
        raise UserError(
            f'{file}: images are {pixels.dtype}{list(pixels.shape)}; they must be uint8 [n h w c].'
        )
    if pixels.shape[-1] != channels:
        raise UserError(
            f'{file}: images have {pixels.shape[-1]} channels, but source.channels={channels}. Set'
            ' it, or convert the images.'
        )
    if pixels.size > 1 and pixels.max() == 1:
        raise UserError(
            f'{file}: no value of images is above 1: they look scaled to 0..1, and then cut to'
            ' whole numbers. Store 0..255: np.round(255 * images).astype(np.uint8), of the images'
            ' before they were cut (of black-and-white ones, of these).'
        )


def _class_names(file: Path, names: np.ndarray) -> list[str]:
    if names.dtype.kind not in 'USiu' or names.ndim > 1:
        raise UserError(
            f'{file}: class_names are {names.dtype}{list(names.shape)}; they must be texts [k].'
        )
    names = np.ascontiguousarray(np.atleast_1d(names))
    if names.dtype.kind == 'U' and names.itemsize:
        codes = names.view(np.dtype(np.uint32).newbyteorder(names.dtype.byteorder))
        if codes.max(initial=0) > sys.maxunicode:  # NumPy would fail on them in ways of its own
            raise UserError(f'{file}: class_names hold what is no text. Write the file again.')
    try:
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
    except UnicodeDecodeError as error:
        raise UserError(
            f'{file}: the class name {error.object!r} is not UTF-8. Store class_names as texts.'
        ) from error
