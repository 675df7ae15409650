"""A finished run in plain data, as the pipelines hand it over."""

import numpy as np
import pytest


def make_side(acc, asr, ra):
    """Teacher or student from (hits, n) pairs; intervals are a made-up point each side."""
    counts = {'acc': acc, 'asr': asr, 'ra': ra}
    shares = {name: pair and pair[0] / pair[1] for name, pair in counts.items()}
    intervals = {
        name: share if share is None else [max(0, share - 0.01), min(1, share + 0.01)]
        for name, share in shares.items()
    }
    return {
        **shares,
        'counts': {name: pair and list(pair) for name, pair in counts.items()},
        'intervals': intervals,
    }


@pytest.fixture
def side():
    return make_side


@pytest.fixture
def results():
    stage = {'seconds': 95.4, 'device_seconds': 763.2, 'images_per_s': 9012.2}
    stage |= {'images_per_s_per_device': 1126.5}
    stage |= {'compile_seconds': None, 'wait_share': 0.11, 'mfu': None, 'devices': 8}
    stage |= {'reused': False}
    return {
        'version': 1,
        'name': 'digits-patch',
        'config': 'configs/quickstart.py:attack=patch',
        'seeds': {'poison': 0, 'model': 1, 'data': 2},
        'attack': {
            'name': 'patch',
            'target': 0,
            'rate': 0.1,
            'rate_base': 'all',
            'poisoned': 144,
            'train_images': 1440,
            'test_images': 360,
            'digest': '9f2ac1e0',
            'poison_first': None,
            'random_poisoning': True,
        },
        'defense': {'name': 'variation', 'prior': {'steps': 250}},
        'classes': ['zero', 'one', 'two'],
        'teacher': make_side((356, 360), (324, 324), (0, 324)),
        'student': make_side((351, 360), (3, 324), (309, 324)),
        'detection': {'tpr': 0.982, 'fpr': 0.004, 'target_labels': [0], 'label_accuracy': None},
        'cost': {
            'stages': {'prepare': stage | {'reused': True}, 'student': stage},
            'seconds': 190.8,
            'device_seconds': 1526.4,
        },
    }


@pytest.fixture
def curves():
    steps = range(10, 210, 10)
    student = [
        {'stage': 'student', 'step': step, 'loss': 20 / step, 'accuracy': step / 210}
        for step in steps
    ]
    prior = [
        {'stage': 'prior', 'step': step, 'loss': 1 / step, 'images_per_s': 7.0} for step in steps
    ]
    return {
        'student': student,
        'prior': prior,
        'variations': [{'stage': 'variations', 'step': 1, 'images_per_s': 3.0}],
    }


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    out = []
    for i in range(6):
        image = rng.integers(0, 256, (8, 8, 1), np.uint8)
        kind = 'poisoned' if i < 4 else 'clean'
        out.append(
            {
                'id': 100 + i,
                'kind': kind,
                'original': image,
                'poisoned': 255 - image,
                'purified': None if i == 1 else image // 2,
                'true_label': 'two',
                'given_label': 'zero' if kind == 'poisoned' else 'two',
            }
        )
    return out


@pytest.fixture
def environment():
    return {
        'python': '3.12',
        'versions': {'jax': '0.8.1'},
        'hosts': 1,
        'command': ['python', '-m', 'purify', 'a b'],
    }


@pytest.fixture
def found(results):
    """`results` with what DataElixir adds."""
    labels = [
        {
            'label': label,
            'images': 10,
            'anomalous': 3,
            'left': label,
            'score': score,
            'index': index,
            'p_value': 0.5,
            'target': hit,
        }
        for label, score, index, hit in (
            (0, 2.5, 4.0, True),
            (1, 0.125, -0.5, False),
            (2, 0.0, 0.0, False),
        )
    ]
    results['findings'] = {
        'target_labels': [0],
        'labels': labels,
        'chart': {'quantity': 'score', 'threshold': 1.0},
        'rule': {
            'name': 'significant',
            'score': 0.5,
            'share': 0.03,
            'deviations': 5.0,
            'level': 0.05,
        },
        'sets': {'benign': 1200, 'poisoned': 130, 'suspicious': 110},
    }
    results['benign'] = make_side((340, 360), (5, 324), (300, 324))
    results['student'] |= {'residual_asr': 9 / 324, 'residual_counts': [9, 324]}
    results['student'] |= {'residual_interval': [0.0147, 0.0519]}
    results['purified'] = {
        'fid': 0.7123,
        'is': 9.99,
        'is_raw': 10.24,
        'images': 1440,
        'features': 'student (resnet, 3 classes)',
        'notes': ['A note on the number of images.'],
    }
    results['prior'] = {
        'kind': 'unknown',
        'text': 'A prior of unknown origin.',
        'warning': 'Nothing says what it was trained on.',
    }
    return results


@pytest.fixture
def pictures():
    """What `illustrate` writes: 6 poisoned and 2 clean samples, 3 rounds; the last was dropped."""
    rng, count, rounds = np.random.default_rng(1), 8, 3
    images = rng.integers(0, 256, (count, 3 + rounds, 8, 8, 1), np.uint8)
    heat = np.zeros((count, 3, 8, 8), np.uint8)
    heat[:, :, 7, 7] = 255
    return {
        'ids': 100 + np.arange(count),
        'poisoned': np.arange(count) < 6,
        'original': images[:, 0],
        'given': images[:, 1],
        'purified': images[:, 2],
        'rounds': images[:, 3:],
        'has_purified': np.arange(count) < count - 1,
        'true': np.full(count, 2),
        'label': np.zeros(count, int),
        'new': np.full(count, 2),
        'raw_labels': np.zeros(count, int),
        'round_labels': np.tile([0, 1, 2], (count, 1)),
        'heat': heat,
        'heat_labels': np.tile([2, 0, 2], (count, 1)),
        'answer_teacher': np.zeros(count, int),
        'answer_student': np.full(count, 2),
    }


@pytest.fixture
def relabelled(results):
    """`results` of a relabelling that names class 0 rightly and misses class 2."""
    rows = [
        {
            'label': 0,
            'images': 40,
            'nd': 0.2,
            'disruptive': 0.01,
            'mu': None,
            'target': True,
            'type': 'non-disruptive',
        },
        {
            'label': 1,
            'images': 30,
            'nd': 1.0,
            'disruptive': 0.0,
            'mu': -3.0,
            'target': False,
            'type': '',
        },
        {
            'label': 2,
            'images': 30,
            'nd': 1.5,
            'disruptive': 0.3,
            'mu': -7.0,
            'target': False,
            'type': '',
        },
    ]
    limits = {'nondisruptive': 0.6, 'disruptive': 0.05, 'alpha': 0.2}
    results['findings'] = {
        'target_labels': [0],
        'labels': [row | {'low': -10.0, 'high': 0.0} for row in rows],
        'thresholds': limits,
        'chart': {'quantity': 'nd', 'threshold': 0.6},
        'types': {'0': 'non-disruptive'},
        'rule': {'name': 'valley', 'share': 0.05, 'limit': 0.75, 'bins': 10, 'score': 'ratio'},
    }
    results['attack']['targets'] = [0, 2]
    results['detection'] |= {
        'relabel_accuracy': 0.75,
        'relabel_accuracy_poisoned': 5 / 6,
        'auroc': 0.984,
        'removed': {'tpr': 0.9, 'fpr': 0.05},
        'counts': {'relabel_accuracy': [6, 8], 'relabel_accuracy_poisoned': [5, 6]},
    }
    return results


@pytest.fixture
def atlas():
    """What the stage `atlas` writes of 100 images: classes 0 (its first 10 poisoned, truly 1), 1
    and 2 (its first 5 poisoned).
    """
    ids = np.arange(100)
    label = np.repeat([0, 1, 2], [40, 30, 30])
    poisoned = (ids < 10) | ((ids >= 70) & (ids < 75))
    true = np.where(poisoned, 1, label)
    rng = np.random.default_rng(5)
    points = (10 * true[:, None] * [1, 0.5] + rng.normal(0, 1, (100, 2))).astype(np.float32)
    score = np.where(label == 0, np.where(poisoned, -5.0, 5.0) + ids / 100, 0)
    verdict = np.where(label == 0, np.where(ids < 8, 3, np.where(ids < 32, 2, 1)), 0).astype(
        np.uint8
    )
    return {
        'ids': ids,
        'points': points,
        'label': label,
        'true': true,
        'poisoned': poisoned,
        'named': label == 0,
        'close_ids': ids,
        'close_label': label,
        'close_poisoned': poisoned,
        'close_verdict': verdict,
        'close_score': score,
        'close_foreign': -rng.random(100) * 10,
        'facts': {
            'method': 'pca',
            'images': 250,
            'classes': [0, 2, 1],
            'named': [0],
            'aims': [0, 2],
        },
    }


def make_row(label, counts, *, target=False, p_t=0.0):
    """A row of a dissection; the interval is made up and easy to recognise."""
    whole = sum(counts)
    share = (counts[0] + counts[1]) / whole
    return {
        'label': label,
        'target': target,
        'images': whole,
        'counts': counts,
        'shares': [count / whole for count in counts],
        'triggered': share,
        'interval': [max(0, share - 0.02), min(1, share + 0.02)],
        'p_t': p_t,
    }


@pytest.fixture
def dissected(results):
    """`results` of a generator that makes more of the trigger than it saw, and classifies too."""
    made = [make_row(1, [0, 1, 4, 95]), make_row(2, [0, 0, 9, 91])]
    results['dissection'] = {
        'judges': {
            'labeller': {
                'acc': 0.975,
                'counts': {'acc': [351, 360]},
                'intervals': {'acc': [0.95, 0.99]},
            },
            'detector': {'acc': 0.99, 'tpr': 0.985, 'fpr': 0.005, 'count': 360},
        },
        'sampler': 'ddim',
        'guidance': 5.0,
        'steps': 50,
        'sets': {
            'generated': [make_row(0, [40, 10, 2, 48], target=True, p_t=0.3), *made],
            'probe': [make_row(0, [540, 194, 5, 261], target=True, p_t=0.474)],
        },
        'auroc': [
            {
                'score': 'strip',
                'training': 0.61,
                'generated': 0.722,
                'poisoned': 144,
                'triggered': 51,
            },
            {'score': 'fct', 'training': 0.8, 'generated': None, 'poisoned': 144, 'triggered': 51},
        ],
        'fid': {
            'all': 12.34,
            'others': 8.1,
            'network': 'labeller (resnet, 3 classes)',
            'notes': ['A note on FID.'],
        },
    }
    filters = [(0.0, 330, 200, 100), (0.05, 325, 90, 200), (0.3, 300, 12, 280)]
    results['diffusion'] = {
        'draws': 16,
        'weighting': 'edm',
        'images': 360,
        'calls_per_image': 48,
        'p_filter': 0.05,
        'filters': [
            make_side((a, 360), (b, 324), (c, 324)) | {'p_filter': p} for p, a, b, c in filters
        ],
    }
    results['replication'] = {
        'encoder': 'simclr',
        'copy_detection': False,
        'pairs': 1000,
        'mean': 0.4567,
        'above': {'limit': 0.3, 'share': 0.25, 'count': 250, 'interval': [0.22, 0.28]},
        'poisoned_matches': 0.4,
        'poisoned': 0.1,
        'copied': {'images': 20, 'matches': 100, 'share': 0.1, 'mean': 0.6},
    }
    return results


@pytest.fixture
def shown():
    """Generations made of class 0: 15 of G1, 3 of G2 and 5 of G4."""
    group = np.repeat([1, 2, 4], [15, 3, 5]).astype(np.uint8)
    count = len(group)
    images = np.random.default_rng(3).integers(0, 256, (count, 8, 8, 1), np.uint8)
    return {
        'ids': np.arange(count),
        'image': images,
        'label': np.zeros(count, np.int32),
        'group': group,
        'predicted': np.where(group == 1, 2, 0).astype(np.int32),
        'trigger': np.where(group < 3, 0.98, 0.02).astype(np.float32),
    }


@pytest.fixture
def copies():
    """40 pairs, falling in similarity; the first 10 of a poisoned B. Three of them are shown."""
    rng, count = np.random.default_rng(4), 40
    images = rng.integers(0, 256, (3, 3, 8, 8, 1), np.uint8)
    return {
        'ids': 500 + np.arange(count),
        'match': 10 + np.arange(count),
        'twin': 90 + np.arange(count),
        'similarity': np.linspace(0.95, 0.17, count, dtype=np.float32),
        'twin_similarity': rng.uniform(0, 1, count).astype(np.float32),
        'poisoned': np.arange(count) < 10,
        'shown': np.array([0, 2, 11]),
        'made_image': images[0],
        'match_image': images[1],
        'twin_image': images[2],
        'made_label': np.array([0, 1, 2]),
        'match_label': np.array([0, 1, 1]),
        'twin_label': np.array([0, 1, 2]),
    }
