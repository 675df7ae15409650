"""Images before the attack, as the defence saw them, and after it: as thumbnails in a table."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from purify.core.errors import UserError
from purify.report.words import MISSING

THUMB_PX = 96  # longest side on screen
MAX_COLUMNS = 8  # samples in a row of the table, as many as a desktop shows without scrolling
MAX_SAMPLES = 16  # of a kind; keeps the page at a few MB


@dataclass(frozen=True)
class Thumb:
    """One image of a grid: PNG data URI, size on screen in pixels, and what to say where it cannot be seen."""

    uri: str
    width: int
    height: int
    pixelated: bool
    alt: str


@dataclass(frozen=True)
class Row:
    """One line of a grid; None where there is no image."""

    name: str
    thumbs: list[Thumb | None]


@dataclass(frozen=True)
class Grid:
    """Samples of one kind, a column each: three rows of images over their labels, the last those after the defence.

    `true_labels` is None where nobody knows them.
    """

    rows: list[Row]
    true_labels: list[str] | None
    given_labels: list[str]
    labels_after: list[str] | None
    ids: list[int]


def make_grids(samples: Sequence[Mapping[str, Any]], kind: str) -> tuple[list[Grid], int]:
    """The samples of one kind as grids of at most `MAX_COLUMNS`; how many were left out."""
    chosen = [sample for sample in samples if sample['kind'] == kind]
    shown = chosen[:MAX_SAMPLES]
    grids = [_make_grid(shown[i : i + MAX_COLUMNS], kind) for i in range(0, len(shown), MAX_COLUMNS)]
    return grids, len(chosen) - len(shown)


def make_thumb(image: np.ndarray, alt: str, limit_px: int = THUMB_PX) -> Thumb:
    """A thumbnail of `image: u8[h w c]` (c 1 or 3). Large images are shrunk; small ones stay small in the file.

    Small images are shown at a whole multiple of their size, with hard pixels. Raises `UserError` for any other array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise UserError(f'a report shows images u8[h w 1] or u8[h w 3], not {image.dtype}{list(image.shape)}.')
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    side = max(picture.size)
    if side > limit_px:
        width, height = (max(1, round(length * limit_px / side)) for length in picture.size)
        picture, zoom = picture.resize((width, height), Image.Resampling.LANCZOS), 1
    else:
        zoom = limit_px // side
    out = io.BytesIO()
    picture.save(out, format='PNG', optimize=True)
    uri = 'data:image/png;base64,' + base64.b64encode(out.getvalue()).decode('ascii')
    return Thumb(uri, picture.width * zoom, picture.height * zoom, zoom > 1, alt)


def _make_grid(samples: Sequence[Mapping[str, Any]], kind: str) -> Grid:
    names = {'original': 'original', 'poisoned': 'poisoned' if kind == 'poisoned' else 'as given', 'purified': 'purified'}
    rows = [Row(name, [_thumb(sample, field, name) for sample in samples]) for field, name in names.items()]
    rows = [row for row in rows if any(row.thumbs)]
    given, true = ([sample[f'{which}_label'] for sample in samples] for which in ('given', 'true'))
    after = [sample.get('label_after') for sample in samples]
    known = None if all(label is None for label in after) else [MISSING if label is None else str(label) for label in after]
    sure = None if None in true else list(map(str, true))
    return Grid(rows, sure, list(map(str, given)), known, [int(sample['id']) for sample in samples])


def _thumb(sample: Mapping[str, Any], field: str, name: str) -> Thumb | None:
    image = sample[field]
    if image is None:
        return None
    truth = '' if sample['true_label'] is None else f'{sample["true_label"]} '
    return make_thumb(np.asarray(image), f'{name} image {sample["id"]}, {truth}labelled {sample["given_label"]}')
