"""The filters and anti-backdoor learning as whole runs, tiny, against the truth."""

import numpy as np
import pytest
from support.tiny import ROOT, SMALL, STUDENT

from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.data.loader import Split
from purify.engine.chain import Chain
from purify.engine.tables import read_table
from purify.stages.networks_on_disk import read_classifier

pytestmark = pytest.mark.usefixtures('few_devices')

SHORT = (
    '--config.defense.share=0.1',
    '--config.defense.isolation.epochs=0.5',
    '--config.defense.finetune.epochs=0.5',
    '--config.defense.unlearn.epochs=4',
    '--config.defense.unlearn.lr=0.005',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('baselines')


def small(words, *flags):
    return load_config(f'{ROOT}/configs/quickstart.py:{words}', [*SMALL, *STUDENT, *flags])


@pytest.mark.long
def test_a_filter_leaves_out_what_it_flags_and_nothing_else(folder):
    config = small('defense=spectral')
    chain = Chain(make_stages(config), folder)
    chain.run(['prepare', 'teacher', 'features', 'verdicts', 'purified'], config['run'])
    split = Split(chain.folder('prepare') / 'poisoned', 'train')
    found = read_table(chain.folder('verdicts'))
    assert found['flagged'].sum() == sum(int(0.15 * count) for count in np.bincount(split.labels))
    kept = split.ids[~found['flagged']]
    purified = Split(chain.folder('purified'), 'train')
    np.testing.assert_array_equal(purified.ids, kept)
    seen = purified.images(range(len(kept)))
    np.testing.assert_array_equal(seen, split.images(split.position_of(kept).tolist()))
    np.testing.assert_array_equal(purified.labels, split.labels[split.position_of(kept)])


@pytest.mark.long
def test_abl_isolates_what_is_learned_first_and_unlearns_it(folder):
    config = small('defense=abl', *SHORT)
    chain = Chain(make_stages(config), folder)
    chain.run(
        ['prepare', 'isolation', 'losses', 'isolated', 'forgotten', 'finetuned', 'student'],
        config['run'],
    )
    split = Split(chain.folder('prepare') / 'poisoned', 'train')
    first, before, after = (
        losses_of(chain.folder(name), split) for name in ('isolation', 'finetuned', 'student')
    )
    isolated = read_table(chain.folder('isolated'))
    np.testing.assert_allclose(isolated['loss'], first, rtol=1e-4, atol=1e-5)
    found = isolated['flagged']
    np.testing.assert_array_equal(found, isolated['loss'] <= np.sort(isolated['loss'])[9])
    climbed = after - before
    assert climbed[isolated['flagged']].mean() > 0.1
    assert climbed[isolated['flagged']].mean() > climbed[~isolated['flagged']].mean()


def losses_of(folder, split):
    """Cross-entropies f64[n] of a classifier on the images as given, one by one."""
    model = read_classifier(folder)
    logits = np.asarray(
        model.logits(model.weights, split.images(range(len(split))) / np.float32(255)), np.float64
    )
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(split)), split.labels]
