import numpy as np
import pytest
from pipelines.tiny import ROOT, SMALL, run_chain

from purify.config.load import load_config
from purify.data.manifest import Manifest
from purify.pipelines.summary import gather, true_targets


def attacked(words, **changes):
    config = load_config(f'{ROOT}/configs/attacks.py:{words}', SMALL)
    config['attack'] |= changes
    return config


@pytest.mark.parametrize(
    ('words', 'changes', 'targets'),
    [
        ('attack=patch,rate=0.2', {'target': 3}, [3]),
        ('attack=three_patches,rate=0.2', {}, [0, 1, 2]),
        ('attack=patch,rate=0.2', {'more': {'b': {'corner': 'top_left'}, 'c': {'target': 5, 'corner': 'top_right'}}}, [0, 5]),
        ('attack=patch,rate=0.1', {'scheme': 'clean_label', 'target': 4, 'base': 'target'}, [4]),
        ('attack=patch,rate=0.1', {'scheme': 'all_to_all', 'sources': [3, 9]}, [0, 4]),
        ('attack=patch,rate=0.5', {'scheme': 'all_to_all'}, list(range(10))),
        ('attack=none', {}, []),
        ('attack=none', {'target': 7}, []),
    ],
)
def test_the_targets_are_the_labels_that_poison_carries(tmp_path, words, changes, targets):
    chain = run_chain(attacked(words, **changes), tmp_path, ['prepare'])
    manifest = Manifest.read(chain.folder('prepare') / 'truth')
    carried = np.unique(manifest.given_labels[manifest.poisoned]).tolist()
    assert true_targets(manifest.facts) == targets == carried


@pytest.mark.parametrize(('words', 'targets'), [('attack=three_patches,rate=0.2', [0, 1, 2]), ('attack=none', [])])
def test_results_name_every_true_target(tmp_path, words, targets):
    config = attacked(words)
    assert gather(config, run_chain(config, tmp_path), {})['attack']['targets'] == targets
