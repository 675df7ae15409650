"""Tables on disk: written shard by shard by 'measure', at once by 'decide', read back alike."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from purify.core.errors import UserError
from purify.core.files import AGAIN, read_json, write_bytes, write_json
from purify.core.types import Facts
from purify.data.edits import Edited
from purify.data.loader import Split
from purify.data.table import Table

Columns = dict[str, np.ndarray]
FINDINGS, FACTS, SHEET = 'findings.npz', 'findings.json', 'verdicts.csv'
_PART = re.compile(r'rows-(\d{5,})-of-(\d{5,})\.npz')


def part_path(folder: Path, part: int, parts: int) -> Path:
    """The file of one shard of a measured table."""
    return folder / f'rows-{part:05d}-of-{parts:05d}.npz'


def write_columns(path: Path, columns: Columns, *, compressed: bool = False) -> str:
    """Writes columns [n ...] as one npz, whole or not at all; returns its SHA-256.

    Equal columns give equal bytes: zip entries bear no date.
    """
    buffer, save = io.BytesIO(), np.savez_compressed if compressed else np.savez
    save(buffer, **{name: columns[name] for name in sorted(columns)})  # pyright: ignore[reportArgumentType]
    return write_bytes(path, buffer.getvalue())


def read_columns(path: Path, *groups: Mapping[str, str]) -> Columns:
    """Reads the columns of one npz.

    `groups` say what it must hold: column -> the kinds of NumPy its numbers may be of ('i', 'fiu',
    ...); the columns of a group are of one length. Raises `UserError` for a file that is none, is
    damaged, or lacks some of that.
    """
    try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
            columns = dict(arrays)
    except Exception as error:  # a zip of arrays can be broken in as many ways as there are layers
        raise UserError(f'{path}: cannot be read ({error}). {AGAIN}') from error
    for group in groups:
        for name, kinds in group.items():
            column = columns.get(name)
            if column is None or column.dtype.kind not in kinds or not column.ndim:
                raise UserError(f'{path}: column {name!r} is missing or of another type. {AGAIN}')
        _check_lengths(path, {name: columns[name] for name in group})
    return columns


def _check_lengths(path: Path, columns: Columns) -> None:
    """Raises `UserError` unless all columns are arrays of one length."""
    lengths = {len(column) if column.ndim else -1 for column in columns.values()}
    if len(lengths) > 1 or -1 in lengths:
        names = ', '.join(sorted(columns))
        raise UserError(f'{path}: its columns {names} are not of one length. {AGAIN}')


def write_table(folder: Path, table: Table) -> None:
    """Writes findings as columns, as facts, and as a sheet for people with one line per image."""
    write_columns(folder / FINDINGS, table.columns)
    flat = [name for name, column in table.columns.items() if column.ndim == 1 and name != 'ids']
    names = ['ids', *sorted(flat)]
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator='\n')
    writer.writerow(names)
    writer.writerows(zip(*(_plain(table[name]) for name in names), strict=True))
    write_bytes(folder / SHEET, sheet.getvalue().encode())
    write_json(folder / FACTS, table.facts)


def _plain(column: np.ndarray) -> list[object]:
    """Values as people write them: truth as 0 and 1, numbers in full."""
    return (column.astype(np.int8) if column.dtype == bool else column).tolist()


def read_table(folder: Path) -> Table:
    """Reads the table of a finished 'measure' or 'decide' step.

    Raises `UserError` if there is none, or part of it is missing.
    """
    paths = sorted(folder.glob('rows-*.npz'))
    found = {path: match for path in paths if (match := _PART.fullmatch(path.name))}
    if (folder / FINDINGS).exists():
        if found:
            other = next(iter(found)).name
            raise UserError(f'{folder}: holds two tables, {FINDINGS} and {other}. {AGAIN}')
        return Table(_read_part(folder / FINDINGS), read_json(folder / FACTS, Facts))
    counts = {int(match[2]) for match in found.values()}
    numbers = sorted(int(match[1]) for match in found.values())
    if len(counts) != 1 or numbers != list(range(max(counts))):
        raise UserError(f'{folder}: holds no whole table ({len(found)} parts). {AGAIN}')
    parts = [_read_part(path) for path in found]
    kinds = [{name: (x.dtype.kind, x.shape[1:]) for name, x in part.items()} for part in parts]
    if any(kind != kinds[0] for kind in kinds):
        raise UserError(f'{folder}: the parts of its table hold different columns. {AGAIN}')
    return Table({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _read_part(path: Path) -> Columns:
    columns = read_columns(path, {'ids': 'iu'})
    _check_lengths(path, columns)
    return columns


def apply_edits(split: Split, inputs: Mapping[str, Path]) -> Split:
    """Applies a defence's decisions to a split: the table among the inputs, if there is one.

    `edits` says who is kept, under which label, with images from the inputs `replaced...`; of
    `flagged` the flagged are left alone.
    """
    role = next((role for role in ('edits', 'flagged') if role in inputs), None)
    if role is None:
        return split
    table = read_table(inputs[role])
    check_ids(table, split, inputs[role])
    if role == 'flagged':
        return Edited(split, table['flagged'], split.labels, np.full(len(split), -1), [])
    some = (table['candidate'][table['keep']] >= 0).any()
    folders = [folder for role, folder in inputs.items() if some and role.startswith('replaced')]
    # Where no candidate was picked, there is no dataset.
    splits = [
        Split(folder, 'train') for folder in folders if (folder / 'dataset_info.json').exists()
    ]
    return Edited(split, table['keep'], table['labels'], table['candidate'], splits)


def check_ids(table: Table, split: Split, folder: Path) -> None:
    """Raises `UserError` unless the table is of just these images, in their order."""
    if not np.array_equal(table['ids'], split.ids):
        raise UserError(
            f'{folder}: its {len(table["ids"])} rows are not the {len(split)} images of'
            f' {split.folder}. {AGAIN}'
        )
