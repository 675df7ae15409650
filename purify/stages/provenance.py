"""What a prior was made from: noted beside its weights, and said in the report.

A prior that has seen the trigger paints it back (Zhou 2024, table 4), so a report must say where
the prior comes from. The note holds what a defender knows of himself: which images he trained it
on, never whether those are poisoned. Images cut from the source under suspicion are vouched for by
nobody, in whatever way they were cut.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from purify.core.errors import UserError
from purify.core.files import read_json, sha256_of, user_path, write_json
from purify.core.types import Facts, Settings
from purify.engine.finished import STATE
from purify.models.files.hub import EMBEDDED

PROVENANCE_FILE = 'provenance.json'
SEEN_FILE = 'seen.json'  # of an embedded prior whose images others may have too
REFERENCE, HELD_OUT, POISONED = 'trained_on_reference', 'trained_on_held_out', 'trained_on_poisoned'
PUBLISHED, UNKNOWN = 'published', 'unknown'
EMBEDDED_PRIOR = 'embedded'
KINDS = (EMBEDDED_PRIOR, REFERENCE, HELD_OUT, POISONED, PUBLISHED, UNKNOWN)
_WORST_FIRST = (POISONED, HELD_OUT, UNKNOWN, PUBLISHED, REFERENCE, EMBEDDED_PRIOR)
_TOLD = {'source': str, 'reference': str, 'images': int}
_FIELDS = {
    **dict.fromkeys((REFERENCE, HELD_OUT, POISONED), _TOLD),
    PUBLISHED: {'model': str, 'file': str, 'sha256': str},
    EMBEDDED_PRIOR: {'name': str},
}
_TRAINED_ON = {
    'own': 'reference images of {source}, which are in no training or test set of it',
    'held_out': 'images of {source} that were held out of the training images',
    'first': 'of the first training images of {source}, which were held out',
    'other_classes': 'images of {source} that are of other classes than the training images',
    'none': 'training images of {source}, as they came',
}
_EMBEDDED_SAW = {
    'digits': 'images that no run trains or tests on',
    'photos32': (
        'the first 30,000 training images of CIFAR-10, which a run on CIFAR-10 must leave out'
        ' (source.skip=30000)'
    ),
}
_SAME_TRIGGER = (
    'A prior that was trained on the same trigger puts it back, and the defence fails (Zhou 2024,'
    ' table 4).'
)
_WARNINGS = {
    POISONED: (
        'The prior was trained on the very data that are under suspicion, or on others that nobody'
        f' vouched for. {_SAME_TRIGGER} Train it on reference images, or load one from a source you'
        ' trust.'
    ),
    HELD_OUT: (
        'The prior was trained on images cut from the same source as training images. Who poisons'
        f' a source can have poisoned these too. {_SAME_TRIGGER} Train it on images of a source you'
        ' trust, or load one from there.'
    ),
    PUBLISHED: f'What a published prior has seen is known from its authors alone. {_SAME_TRIGGER}',
    UNKNOWN: (
        'Nothing beside this prior that can be believed says what it was trained on.'
        f' {_SAME_TRIGGER} Make sure before you trust the result.'
    ),
}


class Seen(TypedDict):
    """The file seen.json: how many images a prior was trained on, and marks of some of them."""

    images: int
    marks: list[str]


def note_training(folder: Path, settings: Settings, images: int, start: Path | None) -> None:
    """Writes provenance.json for a prior trained here on `images` images, starting from `start`.

    The weights are written already: the note is of these alone. `settings['reference']` says how
    reference images were got, as `source.reference` does.
    """
    how = settings['reference'] if settings['data'] == 'reference' else 'none'
    note = {
        'kind': {'none': POISONED, 'own': REFERENCE}.get(how, HELD_OUT),
        'source': settings['source'],
        'reference': how,
        'images': images,
        'seeds': settings['seeds'],
        'weights': _weights(folder),
        'started_from': None if start is None else _note_of(start),
    }
    write_json(folder / PROVENANCE_FILE, note)


def _note_of(folder: Path) -> Facts:
    """The note of a prior; one that comes with this program is known by its place."""
    here = folder.resolve()
    name = next((name for name, place in EMBEDDED.items() if place.resolve() == here), None)
    return read_note(folder) if name is None else {'kind': EMBEDDED_PRIOR, 'name': name}


def note_published(folder: Path, model: str, file: str, digest: str) -> None:
    """Writes provenance.json for a published prior, converted from `file` (SHA-256 `digest`).

    The converted weights are written already.
    """
    note = {'kind': PUBLISHED, 'model': model, 'file': file, 'sha256': digest}
    write_json(folder / PROVENANCE_FILE, note | {'weights': _weights(folder)})


def _weights(folder: Path) -> dict[str, str]:
    """SHA-256 of the safetensors in a prior's folder, by path."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob('*.safetensors'))}
    return {at.as_posix(): sha256_of(files[at]) for at in files if STATE not in at.parts}


def read_note(folder: Path) -> Facts:
    """Reads provenance.json in a prior's folder; {'kind': 'unknown', 'why'} if it is not believed.

    One that is missing, cannot be read, is none of ours, or was written for other weights than lie
    there is not believed.
    """
    folder = Path(folder)
    file = folder / PROVENANCE_FILE
    try:
        if not file.is_file():
            return _doubt('it has no note')
        note = read_json(file)
        # What comes with this program is told by where it lies, not by a note.
        if not _is_ours(note) or note['kind'] == EMBEDDED_PRIOR:
            return _doubt('its note cannot be understood')
        here, noted = _weights(folder), note.get('weights')
    except (UserError, OSError, RecursionError):
        return _doubt('its note cannot be read')
    same = isinstance(noted, dict) and all(noted.get(name) == here[name] for name in here)
    if not here or not same:
        return _doubt('its note is not about these weights')
    return note


def _doubt(why: str) -> Facts:
    return {'kind': UNKNOWN, 'why': why}


def _is_ours(note: Any) -> bool:
    """Whether a note is of a kind that is written here, with all that is told of it."""
    if not isinstance(note, dict) or not isinstance(note.get('kind'), str):
        return False
    fields = _FIELDS.get(note['kind'])
    known = fields is not None and all(isinstance(note.get(name), fields[name]) for name in fields)
    if note['kind'] == EMBEDDED_PRIOR:
        return known and note['name'] in EMBEDDED
    return known and (note['kind'] == PUBLISHED or note['reference'] in _TRAINED_ON)


def mark_of(image: np.ndarray) -> str:
    """A short hash of the pixels of an image u8[h w c], to know it again."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def warn_of_seen(folder: Path, images: Callable[[], Iterable[np.ndarray]]) -> str:
    """Says so if a prior, or one that it started from, was trained on these images; else ''.

    Marks of a few of an embedded prior's training images, evenly chosen, lie beside its weights;
    what is among these images tells how many there are in all. They are known as they are: images
    of another size, or changed ones, are not. What other priors have seen is not known.

    Args:
      folder: of the prior.
      images: gives images u8[h w c]; called if they are to be looked through.
    """
    notes = _unfold(_note_of(folder))
    for name in [note['name'] for note in notes if note['kind'] == EMBEDDED_PRIOR]:
        file = EMBEDDED[name] / SEEN_FILE
        if not file.is_file():
            continue
        told = read_json(file, Seen)
        marks = set(told['marks'])
        if found := len(marks & set(map(mark_of, images()))):
            about = int(round(found / len(marks) * told['images'], -2))
            return (
                f'The prior {name!r} was trained on some of these very images, about {about:,} by'
                f' the {found} of {len(marks)} whose marks are known. The result says little of'
                ' images that it has not seen. Leave them out (source.skip, where images come in'
                ' the order of their source), or take another prior.'
            )
    return ''


def describe_prior(folder: Path, load: str, revision: str) -> dict[str, str]:
    """Describes the prior in `folder`, which a config calls `load` at `revision`, for the report.

    Returns {'kind', 'text', 'warning'}: one of `KINDS`, and a `warning` '' where none is due. A
    note that comes with a published prior is told, and does not vouch for it. One that the run
    trained itself has no name: `load` is ''.
    """
    notes = _unfold(_note_of(folder))
    kinds = [note['kind'] for note in notes]
    told = ' It started from this: '.join(map(_tell, notes))
    if kinds == [EMBEDDED_PRIOR]:
        text = told
    elif load and not user_path(load).is_dir():
        pinned = f'revision {revision}' if revision else 'at no pinned revision'
        text = f'The published prior {load}, {pinned}.'
        text += '' if kinds[0] == UNKNOWN else f' Its note says: {told}'
        kinds = [PUBLISHED, *(kinds if kinds[0] != UNKNOWN else [])]
    elif load:
        noted = f'Loaded from {load}. Its note says: {told}'
        text = f'{told} Loaded from {load}.' if kinds[0] == UNKNOWN else noted
    else:
        text = told
    kind = worst(kinds)
    return {'kind': kind, 'text': text, 'warning': _WARNINGS.get(kind, '')}


def worst(kinds: Iterable[str]) -> str:
    """Of the kinds of several priors, the one that a reader has to beware of most."""
    return min(kinds, key=_WORST_FIRST.index)


def _unfold(note: Facts) -> list[Facts]:
    """Lists the notes of a prior and of what it started from, up to the first unknown one."""
    notes = [note]
    while notes[-1]['kind'] != UNKNOWN and (start := notes[-1].get('started_from')) is not None:
        notes.append(start if _is_ours(start) else _doubt('nothing is known of its training'))
    return notes


def _tell(note: Facts) -> str:
    if note['kind'] == UNKNOWN:
        return f'A prior of unknown origin: {note["why"]}.'
    if note['kind'] == EMBEDDED_PRIOR:
        seen = _EMBEDDED_SAW[note['name']]
        return f'The prior {note["name"]!r} that comes with this program: trained on {seen}.'
    if note['kind'] == PUBLISHED:
        return (
            f'{note["model"]} as published, converted from {note["file"]} (SHA-256'
            f' {note["sha256"][:12]}).'
        )
    which = _TRAINED_ON[note['reference']].format(source=note['source'])
    return f'A prior trained on {note["images"]} {which}.'
