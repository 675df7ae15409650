"""Tables on disk: what 'measure' writes shard by shard, and what 'decide' writes at once, read back alike."""

import csv
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from purify.core.errors import UserError
from purify.core.files import read_json, write_bytes, write_json
from purify.data.edits import Edited
from purify.data.loader import Split
from purify.defenses.method import Table

FINDINGS, FACTS, SHEET = 'findings.npz', 'findings.json', 'verdicts.csv'
_PART = re.compile(r'rows-(\d{5,})-of-(\d{5,})\.npz')


def part_path(folder: Path, part: int, parts: int) -> Path:
    """The file of one shard of a measured table."""
    return folder / f'rows-{part:05d}-of-{parts:05d}.npz'


def write_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes columns [n ...] as one npz, whole or not at all; equal columns give equal bytes (zip entries bear no date)."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: columns[name] for name in sorted(columns)})  # pyright: ignore[reportArgumentType]
    write_bytes(path, buffer.getvalue())


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """The columns of one npz. Raises `UserError` for a file that is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f'{path}: cannot be read ({error}). Delete its stage folder and run again.') from error


def write_table(folder: Path, table: Table) -> None:
    """Findings as columns, as facts, and as a sheet for people: one line per image with all columns that are numbers."""
    write_columns(folder / FINDINGS, table.columns)
    names = ['ids', *sorted(name for name, column in table.columns.items() if column.ndim == 1 and name != 'ids')]
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
    """The table of a finished 'measure' or 'decide' step. Raises `UserError` if there is none, or part of it is missing."""
    if (folder / FINDINGS).exists():
        return Table(read_columns(folder / FINDINGS), read_json(folder / FACTS))
    found = {path: match for path in sorted(folder.glob('rows-*.npz')) if (match := _PART.fullmatch(path.name))}
    counts = {int(match[2]) for match in found.values()}
    if len(counts) != 1 or len(found) != max(counts):
        raise UserError(f'{folder}: holds no whole table ({len(found)} parts). Delete the folder and run its stage again.')
    parts = [read_columns(path) for path in found]
    return Table({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def edit(split: Split, inputs: Mapping[str, Path]) -> Split:
    """`split` as the input `edits` leaves it, with images from the inputs `replaced...`; itself where there is no such input."""
    if 'edits' not in inputs:
        return split
    table = read_table(inputs['edits'])
    check_ids(table, split, inputs['edits'])
    kept = table['candidate'][table['keep']]
    folders = [folder for role, folder in inputs.items() if role.startswith('replaced')] if (kept >= 0).any() else []
    full = [folder for folder in folders if (folder / 'dataset_info.json').exists()]  # where none was picked there is none
    return Edited(split, table['keep'], table['labels'], table['candidate'], [Split(folder, 'train') for folder in full])


def check_ids(table: Table, split: Split, folder: Path) -> None:
    """Raises `UserError` unless the table is of just these images, in their order."""
    if not np.array_equal(table['ids'], split.ids):
        raise UserError(f'{folder}: its {len(table["ids"])} rows are not the {len(split)} images of {split.folder}.')
