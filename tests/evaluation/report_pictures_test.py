"""Pictures of generations: which are chosen, and that each is the one its id names."""

import numpy as np
import pytest

from purify.core.files import write_json
from purify.data.builders import DatasetWriter, make_features
from purify.engine.chain import Chain
from purify.engine.finished import DONE
from purify.engine.stage import Input, Stage
from purify.engine.tables import write_columns
from purify.evaluation import report_pictures as exhibits
from purify.evaluation.copies import FILE, NUMBERS
from purify.evaluation.dissect import ARRAYS
from purify.evaluation.report_pictures import (
    MOST_GROUP,
    MOST_PAIRS,
    choose_groups,
    choose_pairs,
    show_copies,
    show_groups,
)

NAMES = ['zero', 'one', 'two']


def picture(identity, shift):
    return np.full((4, 4, 1), identity + shift, np.uint8)


def write_dataset(folder, ids, labels, shift):
    """Every pixel of an image is its id and `shift`."""
    writer = DatasetWriter(
        folder, folder.name.partition('-')[0], 'train', make_features(4, 1, NAMES), 1
    )
    rows = [
        {'image': picture(i, shift), 'id': i, 'label': label}
        for i, label in zip(ids, labels, strict=True)
    ]
    writer.write(0, rows)
    writer.finish([len(rows)])


@pytest.fixture(scope='module')
def chain(tmp_path_factory):
    """A finished run: 60 generations, 30 of a probe for label 1, and 40 training images."""
    data = {'generated': (60, 0), 'probe': (30, 100), 'given': (40, 200)}
    tables = {'generated_features': 'generated', 'given_features': 'given'}
    whole = [Stage(name, print, {}) for name in data]
    whole += [
        Stage(name, print, {}, {'poisoned': Input(source)}) for name, source in tables.items()
    ]
    whole.append(
        Stage('dissect', print, {}, {name: Input(name) for name in ('generated', 'probe')})
    )
    features = dict(zip(('generated', 'given'), map(Input, tables), strict=True))
    chain = Chain(
        [*whole, Stage('replicate', print, {}, features)], tmp_path_factory.mktemp('store')
    )
    for name in chain.stages:
        chain.folder(name).mkdir()
        write_json(chain.folder(name) / DONE, {})
    rng, arrays, rows = np.random.default_rng(0), {}, {}
    for name, (count, shift) in data.items():
        labels = [1] * count if name == 'probe' else [i % 3 for i in range(count)]
        write_dataset(chain.folder(name), range(count), labels, shift)
        columns = {
            'ids': np.arange(count)[::-1].copy(),
            'label': np.array(labels, np.int32)[::-1].copy(),
        }
        columns |= {
            'predicted': rng.integers(0, 3, count).astype(np.int32),
            'trigger': rng.random(count).astype(np.float32),
        }
        columns['group'] = rng.choice([1, 2, 4], count, p=[0.6, 0.1, 0.3]).astype(np.uint8)
        arrays |= (
            {f'{name}_{key}': column for key, column in columns.items()} if name != 'given' else {}
        )
        rest = {'images': count, 'counts': [count, 0, 0, 0], 'shares': [1.0, 0.0, 0.0, 0.0]}
        rest |= {'triggered': 0.0, 'interval': [0.0, 0.1], 'p_t': None}
        rows[name] = [{'label': 1, 'target': True} | rest, {'label': 2, 'target': False} | rest]
    write_columns(chain.folder('dissect') / ARRAYS, arrays)
    judges, fid = {'labeller': {}, 'detector': None}, {'all': None, 'others': None}
    numbers = {'judges': judges, 'fid': fid | {'network': '', 'notes': []}, 'auroc': []}
    numbers |= {'sets': {name: rows[name] for name in ('generated', 'probe')}}
    write_json(
        chain.folder('dissect') / 'numbers.json',
        numbers | {'sampler': 'ddim', 'guidance': 1.0, 'steps': 5},
    )
    pairs = {'ids': np.arange(20), 'match': np.arange(20) // 2, 'twin': 39 - np.arange(20)}
    pairs |= {'poisoned': np.arange(20) < 3}
    pairs |= {
        name: np.linspace(0.9, 0.1, 20, dtype=np.float32)
        for name in ('similarity', 'twin_similarity')
    }
    write_columns(chain.folder('replicate') / FILE, pairs)
    blank = dict.fromkeys(('mean', 'poisoned_matches', 'poisoned_interval', 'poisoned', 'copied'))
    blank |= {'above': {'limit': 0.3, 'share': None, 'count': 0, 'interval': None}}
    write_json(
        chain.folder('replicate') / NUMBERS,
        {'encoder': 'CLIP', 'copy_detection': False, 'pairs': 20} | blank,
    )
    return chain


def test_the_first_of_each_group_by_id_of_the_labels_asked_for():
    rng = np.random.default_rng(1)
    columns = {
        'ids': rng.permutation(200),
        'label': rng.integers(0, 3, 200),
        'group': rng.choice([1, 2, 4], 200),
    }
    rows = choose_groups(columns, [0, 2])
    for group in (1, 2, 3, 4):
        own = [i for i in range(200) if columns['group'][i] == group and columns['label'][i] != 1]
        first = sorted(own, key=lambda i: columns['ids'][i])[:MOST_GROUP]
        assert rows[columns['group'][rows] == group].tolist() == first


def test_each_training_image_is_shown_once_beside_its_likest():
    found = {
        'ids': np.array([4, 1, 3, 2, 9]),
        'match': np.array([7, 7, 5, 5, 6]),
        'similarity': np.array([0.5, 0.9, 0.7, 0.7, 0.8], np.float32),
    }
    assert choose_pairs(found).tolist() == [1, 4, 3]


def test_pictures_of_the_probe_are_those_of_its_ids(chain):
    shown = show_groups(chain)
    assert shown is not None
    assert set(shown['label'].tolist()) == {1}
    assert np.all(np.diff(shown['group'].astype(int)) >= 0)
    for image, identity in zip(shown['image'], shown['ids'].tolist(), strict=True):
        np.testing.assert_array_equal(image, picture(identity, 100))


def test_without_targets_in_the_probe_the_generated_set_is_shown(chain, monkeypatch):
    numbers = {
        'sets': {
            'probe': [{'label': 1, 'target': False}],
            'generated': [{'label': 2, 'target': True}],
        }
    }
    real = exhibits.read_dissection
    monkeypatch.setattr(exhibits, 'read_dissection', lambda folder: (numbers, real(folder)[1]))
    shown = show_groups(chain)
    assert shown is not None
    assert set(shown['label'].tolist()) == {2}
    assert shown['image'][:, 0, 0, 0].tolist() == shown['ids'].tolist()


def test_pairs_have_pictures_and_labels_of_all_three(chain):
    shown = show_copies(chain)
    assert shown is not None
    assert shown['shown'].tolist() == list(range(0, 2 * MOST_PAIRS, 2))
    for name, ids, shift in (('made', 'ids', 0), ('match', 'match', 200), ('twin', 'twin', 200)):
        own = shown[ids][shown['shown']]
        assert shown[f'{name}_image'][:, 0, 0, 0].tolist() == (own + shift).tolist()
        assert shown[f'{name}_label'].tolist() == (own % 3).tolist()


def test_runs_without_a_dissection_show_nothing(tmp_path):
    chain = Chain([Stage('evaluate', print, {})], tmp_path)
    assert show_groups(chain) is show_copies(chain) is None
