"""What a prior was made from: noted beside its weights, and said in the report.

A prior that has seen the trigger paints it back (Zhou 2024, table 4), so a report must say where the prior comes from. The note
holds what a defender knows of himself: whether he trained it on reference images or on the data as they came, never whether
those are poisoned.
"""

from pathlib import Path
from typing import Any

from purify.core.files import read_json, write_json
from purify.pipelines.artifacts import EMBEDDED

PROVENANCE_FILE = 'provenance.json'
REFERENCE, POISONED, PUBLISHED = 'trained_on_reference', 'trained_on_poisoned', 'published'
KINDS = ('embedded', REFERENCE, POISONED, PUBLISHED, 'unknown')
_SAME_TRIGGER = 'A prior that was trained on the same trigger puts it back, and the defence fails (Zhou 2024, table 4).'
_WARNINGS = {
    POISONED: (
        'The prior was trained on the very data that are under suspicion, or on others that nobody vouched for. '
        f'{_SAME_TRIGGER} Train it on reference images, or load one from a source you trust.'
    ),
    PUBLISHED: f'What a published prior has seen is known from its authors alone. {_SAME_TRIGGER}',
    'unknown': f'Nothing beside this prior says what it was trained on. {_SAME_TRIGGER} Make sure before you trust the result.',
}


def note_training(folder: Path, settings: dict[str, Any], images: int, start: Path | None) -> None:
    """Writes provenance.json of a prior trained here, by the settings of its stage, on so many images, from a checkpoint."""
    kind = {'reference': REFERENCE, 'poisoned': POISONED}[settings['data']]
    note = {'kind': kind, 'source': settings['source'], 'images': images, 'seeds': settings['seeds']}
    write_json(folder / PROVENANCE_FILE, note | {'started_from': None if start is None else read_note(start)})


def note_published(folder: Path, model: str, file: str, digest: str) -> None:
    """Writes provenance.json of a prior that others published and that was converted from `file` (SHA-256 `digest`)."""
    write_json(folder / PROVENANCE_FILE, {'kind': PUBLISHED, 'model': model, 'file': file, 'sha256': digest})


def read_note(folder: Path) -> dict[str, Any]:
    """What the provenance.json in a prior's folder says; {'kind': 'unknown'} where there is none, or none of ours."""
    file = Path(folder) / PROVENANCE_FILE
    note = read_json(file) if file.is_file() else None
    return note if isinstance(note, dict) and note.get('kind') in (REFERENCE, POISONED, PUBLISHED) else {'kind': 'unknown'}


def describe(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """{'kind', 'text', 'warning'} for the report on the prior in `folder`, the config's `prior`; `warning` '' where none is due.

    Kinds are `KINDS`.
    """
    part = config['prior']
    load, note = part.get('load', ''), read_note(folder)
    if load in EMBEDDED:
        kind, text = (
            'embedded',
            f'The prior {load!r} that comes with this program: trained on images that no run trains or tests on.',
        )
    elif note['kind'] == 'unknown' and load and not Path(load).expanduser().is_dir():
        pinned = f'revision {part["revision"]}' if part.get('revision') else 'at no pinned revision'
        kind, text = PUBLISHED, f'The published prior {load}, {pinned}.'
    else:
        kind, text = _worst(note), _tell(note) + (f' Loaded from {load}.' if load else '')
    return {'kind': kind, 'text': text, 'warning': _WARNINGS.get(kind, '')}


def _worst(note: dict[str, Any]) -> str:
    """The kind that is to be warned of: what a training started from counts too."""
    kinds, started = [note['kind']], note.get('started_from')
    if isinstance(started, dict):
        kinds.append(_worst({'kind': 'unknown'} | started))
    return next(kind for kind in (POISONED, 'unknown', PUBLISHED, REFERENCE) if kind in kinds)


def _tell(note: dict[str, Any]) -> str:
    if note['kind'] == 'unknown':
        return 'A prior of unknown origin.'
    if note['kind'] == PUBLISHED:
        return f'{note.get("model")} as published, converted from {note.get("file")} (SHA-256 {str(note.get("sha256"))[:12]}).'
    which = {
        REFERENCE: 'reference images of {source}, which are in no training or test set of it',
        POISONED: 'training images of {source}, as they came',
    }
    text = f'A prior trained on {note.get("images")} {which[note["kind"]].format(source=note.get("source"))}.'
    started = note.get('started_from')
    return f'{text} It started from this: {_tell({"kind": "unknown"} | started)}' if isinstance(started, dict) else text
