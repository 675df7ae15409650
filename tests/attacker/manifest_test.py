import json

import numpy as np
import pytest

from purify.attacker.manifest import ARRAYS, Manifest
from purify.core.errors import UserError

MANIFEST = Manifest(
    ids=np.array([3, 5, 8, 9]),
    true_labels=np.int32([1, 2, 0, 1]),
    given_labels=np.int32([1, 0, 0, 0]),
    poisoned=np.array([False, True, False, True]),
    cover=np.array([True, False, False, False]),
    trigger=np.int32([1, 0, -1, 0]),
    copy_of=np.array([-1, -1, -1, 3]),
    facts={
        'attack': {'name': 'patch', 'target': 0},
        'digest': 'abc',
        'seed': 7,
        'train_images': 4,
        'test_images': 2,
        'poisoned_images': 2,
        'cover_images': 1,
        'added_copies': 1,
        'class_names': ['ant', 'bee', 'cat'],
    },
)


@pytest.fixture
def folder(tmp_path):
    MANIFEST.write(tmp_path / 'truth')
    return tmp_path / 'truth'


def test_what_was_written_is_read(folder):
    found = Manifest.read(folder)
    for name in ARRAYS:
        expected = getattr(MANIFEST, name)
        np.testing.assert_array_equal(getattr(found, name), expected)
        assert getattr(found, name).dtype == expected.dtype
    assert found.facts == MANIFEST.facts


def test_the_poisoned_ids_can_be_read_without_python(folder):
    facts = json.loads((folder / 'manifest.json').read_text())
    assert facts['poisoned_ids'] == [5, 9]
    assert facts['attack'] == {'name': 'patch', 'target': 0}


@pytest.mark.parametrize('harm', ['flip', 'replace', 'remove', 'folder'])
def test_changed_arrays_are_found(folder, harm):
    path = folder / 'manifest.npz'
    data = path.read_bytes()
    if harm == 'flip':
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif harm == 'replace':
        np.savez(
            path,
            ids=MANIFEST.ids,
            true_labels=MANIFEST.given_labels,
            given_labels=MANIFEST.given_labels,
            poisoned=MANIFEST.poisoned,
        )
    else:
        path.unlink()
        if harm == 'folder':
            path.mkdir()
    said = r'manifest\.npz: missing or changed since it was written. Delete the prepare stage'
    with pytest.raises(UserError, match=said):
        Manifest.read(folder)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match=r'manifest\.json: no such file'):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'seed': 'seven'}, r'Expected `int`, got `str` - at `\$\.seed`'),
        ({'class_names': 3}, r'at `\$\.class_names`'),
        ({'sha256': None}, r'at `\$\.sha256`'),
        ({'attack': []}, r'at `\$\.attack`'),
    ],
)
def test_facts_of_another_type_are_named(folder, change, told):
    path = folder / 'manifest.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf'manifest\.json.*{told}'):
        Manifest.read(folder)
