"""The gallery: one HTML file that shows, offline, what attacks do to images."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from purify.core.errors import UserError
from purify.core.files import write_bytes, write_json
from purify.core.types import Settings
from purify.metrics.images import max_difference, psnr, ssim
from purify.report.markup import encode, render
from purify.report.thumbs import MAX_COLUMNS, THUMB_PX, GridRow, make_thumb
from purify.report.words import MISSING, flatten, say_command, say_duration, say_number

GAIN = 10  # how many times a difference is enlarged in its picture
GREY = 128  # what no difference looks like
MAX_PIXELS = 3_000_000  # of all thumbnails together; keeps the page at a few MB
STAMPS = {'test': 'stamped', 'training': 'in training', 'cover': 'as cover'}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One attack and what it made of images.

    Attributes:
      name: of the attack; need not be unique.
      settings: of the attack, plain values by name; 'scheme' is shown in the table at the top.
      clean: u8[n h w c] before.
      test: u8[n h w c] stamped as at test time.
      training: u8[n h w c] stamped as a poisoned training image; None where that is the same.
      cover: u8[n h w c] stamped as an image that keeps its label; None where that is the same as in
        training.
      fit_seconds: how long the attack took to be made ready; None where it needs nothing of the
        kind.
      note: a sentence for the reader, or nothing.
    """

    name: str
    settings: Settings
    clean: np.ndarray
    test: np.ndarray
    training: np.ndarray | None = None
    cover: np.ndarray | None = None
    fit_seconds: float | None = None
    note: str = ''

    def stamped(self) -> dict[str, np.ndarray]:
        """Lists stamped images by mode: 'test' always, 'training' and 'cover' where they differ."""
        found = {'test': self.test, 'training': self.training, 'cover': self.cover}
        return {mode: images for mode, images in found.items() if images is not None}


@dataclasses.dataclass(frozen=True)
class Closeness:
    """How far stamped images lie from the clean ones.

    Attributes:
      psnr: dB, mean over the images that changed (an unchanged one has none); None where none did.
      ssim: at most 1, mean over all images.
      max_difference: largest change of a pixel value in grey levels, 0 to 255, mean over all
        images.
      changed: how many images changed at all.
      count: how many images there are.
    """

    psnr: float | None
    ssim: float
    max_difference: float
    changed: int
    count: int


def measure(clean: np.ndarray, stamped: np.ndarray) -> Closeness:
    """Compares `clean: u8[n h w c]` with `stamped`.

    Raises `UserError` for other arrays, unlike shapes and no image.
    """
    if not len(clean):
        raise UserError('a gallery of no images shows nothing. Give at least one image.')
    ratios, largest = psnr(clean, stamped), max_difference(clean, stamped)
    changed = largest > 0
    return Closeness(
        psnr=float(ratios[changed].mean()) if changed.any() else None,
        ssim=float(ssim(clean, stamped).mean()),
        max_difference=float(largest.mean()),
        changed=int(changed.sum()),
        count=len(clean),
    )


def draw_difference(clean: np.ndarray, stamped: np.ndarray) -> np.ndarray:
    """Draws differences as 128 + 10 (stamped - clean), cut to 0..255, of u8 images of any shape.

    Raised values are bright, lowered ones dark.
    """
    change = stamped.astype(np.int32) - clean.astype(np.int32)
    return np.clip(GREY + GAIN * change, 0, 255).astype(np.uint8)


def write_gallery(folder: Path, entries: Sequence[Entry], environment: Settings) -> Path:
    """Writes the page `index.html` and its numbers `gallery.json`; returns the path of the page.

    All images are measured. The first `MAX_COLUMNS` of each entry are shown, fewer where the page
    would get heavy. `environment` says what ran where, with the `command` that ran it. Raises
    `UserError` for no entries, images of another kind and a folder that cannot be written; no file
    changes where entries are refused.
    """
    if not entries:
        raise UserError('a gallery of no attacks shows nothing. Name at least one attack.')
    shown, measured, sections = _count_shown(entries), [], []
    for number, entry in enumerate(entries, 1):
        stamped = entry.stamped().items()
        measured.append({mode: measure(entry.clean, images) for mode, images in stamped})
        sections.append(_lay_out(entry, measured[-1], number, shown))
    command = environment.get('command')
    page = render(
        'gallery.html',
        sections=sections,
        timed=any(entry.fit_seconds is not None for entry in entries),
        images=_say_images(entries),
        environment=flatten({key: own for key, own in environment.items() if key != 'command'}),
        command=say_command(command) if command else None,
    )
    folder = Path(folder)
    write_json(folder / 'gallery.json', _list_numbers(entries, measured, environment))
    write_bytes(folder / 'index.html', encode(page))
    return folder / 'index.html'


def _list_numbers(
    entries: Sequence[Entry], measured: Sequence[Mapping[str, Closeness]], environment: Settings
) -> Settings:
    attacks = []
    for entry, numbers in zip(entries, measured, strict=True):
        told = {mode: dataclasses.asdict(own) for mode, own in numbers.items()}
        facts = {'name': entry.name, 'settings': dict(entry.settings)}
        facts |= {'image_shape': list(entry.clean.shape[1:])} | dict.fromkeys(STAMPS) | told
        attacks.append(facts | {'fit_seconds': entry.fit_seconds, 'note': entry.note})
    return {'version': 1, 'attacks': attacks, 'environment': dict(environment)}


def _lay_out(entry: Entry, measured: Mapping[str, Closeness], number: int, shown: int) -> Settings:
    """A section of the page."""
    kept = {mode: own for mode, own in measured.items() if own.changed < own.count}
    return {
        'anchor': f'attack-{number}',
        'name': entry.name,
        'scheme': str(entry.settings.get('scheme') or MISSING).replace('_', ' '),
        'settings': [pair for pair in flatten(entry.settings) if pair[1] not in ('', MISSING)],
        'images': _say_images([entry]),
        'measures': [(STAMPS[mode], *say_closeness(numbers)) for mode, numbers in measured.items()],
        'unchanged': [(STAMPS[mode], n.count - n.changed, n.count) for mode, n in kept.items()],
        'fit': None if entry.fit_seconds is None else say_duration(entry.fit_seconds),
        'note': entry.note,
        'rows': _make_rows(entry, shown),
        'left_out': max(0, len(entry.clean) - shown),
    }


def _count_shown(entries: Sequence[Entry]) -> int:
    """How many images of each entry fit on the page: up to `MAX_COLUMNS`, at least one."""
    column = 0
    for entry in entries:
        height, width = entry.clean.shape[1:3]
        shrink = min(1, THUMB_PX / max(height, width))
        column += (1 + 2 * len(entry.stamped())) * height * width * shrink**2
    return max(1, min(MAX_COLUMNS, int(MAX_PIXELS // column)))


def _make_rows(entry: Entry, shown: int) -> list[GridRow]:
    """Clean images, then each kind of stamped ones over their difference."""
    clean = entry.clean[:shown]
    rows = [_make_row('clean', clean)]
    for mode, images in entry.stamped().items():
        changes = draw_difference(clean, images[:shown])
        rows.append(_make_row(STAMPS[mode], images[:shown]))
        rows.append(_make_row(f'difference ×\N{NO-BREAK SPACE}{GAIN}', changes, STAMPS[mode]))
    return rows


def _make_row(name: str, images: np.ndarray, of: str = '') -> GridRow:
    alt = f'{name}, {of}' if of else name
    thumbs = [make_thumb(image, f'{alt}, image {i}') for i, image in enumerate(images, 1)]
    return GridRow(name, [*thumbs])


def say_closeness(numbers: Closeness) -> tuple[str, str, str]:
    """Writes PSNR, SSIM and the largest difference; SSIM is never rounded to 1."""
    ratio = '∞' if numbers.psnr is None else f'{numbers.psnr:.1f}\N{NO-BREAK SPACE}dB'
    likeness = '>0.9999' if numbers.ssim > 0.99995 else f'{numbers.ssim:.4f}'
    return ratio, '1' if numbers.ssim == 1 else likeness, say_number(numbers.max_difference)


def _say_images(entries: Sequence[Entry]) -> str:
    """What all entries are made of: '8 grey images of 16 × 16 pixels'; '' where they differ."""
    if len({entry.clean.shape for entry in entries}) > 1:
        return ''
    count, height, width, channels = entries[0].clean.shape
    kind = f'{"grey" if channels == 1 else "colour"} {"image" if count == 1 else "images"}'
    return f'{count} {kind} of {width} × {height} pixels'
