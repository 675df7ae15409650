import numpy as np
import pytest
from support.tiny import ROOT, SMALL

from purify.commands.poison import poison
from purify.core.errors import UserError

FLAGS = [flag for flag in SMALL if 'teacher' not in flag]


def test_a_poisoned_dataset_from_python_is_a_tfds_builder(tmp_path):
    spec = f'{ROOT}/configs/attacks.py:attack=warp,rate=0.2'
    found = poison(spec, tmp_path, FLAGS)
    rows = {int(row['id']): row for row in found.builder.as_data_source('train')}
    clean = {
        int(row['id']): row
        for row in poison(f'{spec.partition("=")[0]}=none', tmp_path, FLAGS).builder.as_data_source(
            'train'
        )
    }
    assert found.builder.info.splits['train'].num_examples == len(rows) == 96
    assert found.manifest.poisoned.sum() == 19
    (attack,) = found.attacks
    for identity, hit in zip(found.manifest.ids.tolist(), found.manifest.poisoned, strict=True):
        before, now = clean[identity], rows[identity]
        wanted = attack.stamp(before['image'], identity, 'training') if hit else before['image']
        np.testing.assert_array_equal(now['image'], wanted)
        assert now['label'] == (0 if hit else before['label'])
    assert found.test.info.splits['test'].num_examples == 48


def test_it_is_made_once(tmp_path):
    spec = f'{ROOT}/configs/attacks.py:attack=relabel_only'
    first = poison(spec, tmp_path, FLAGS)
    stamp = (first.folder / 'DONE').stat().st_mtime_ns
    assert (poison(spec, tmp_path, FLAGS).folder / 'DONE').stat().st_mtime_ns == stamp


def test_mistakes_are_user_errors(tmp_path):
    with pytest.raises(UserError, match='choose from adaptive_blend'):
        poison(f'{ROOT}/configs/attacks.py:attack=wrap', tmp_path)
