"""A prior that is trained, and one that is distilled from it."""

import json

import jax
import numpy as np
import pytest
from support.tiny import ROOT

from purify.cli import main
from purify.commands.check import check
from purify.config.load import load_config
from purify.core.files import read_json
from purify.generative.open_prior import load_variation_model

TINY = (
    '--config.source.train_size=96',
    '--config.source.test_size=80',
    '--config.prior.steps=2',
    '--config.prior.batch=8',
)


def run(words, workdir, *flags):
    line = ['run', '--quiet', '--config', f'{ROOT}/configs/prior.py{words}', '--workdir']
    return main([*line, str(workdir), *TINY, *flags])


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished')
    network = ('block_out_channels=(8,)', 'layers_per_block=1', 'norm_num_groups=4')
    assert run('', folder, *(f'--config.prior.network.{one}' for one in network)) == 0
    return folder / 'prior'


def test_a_prior_that_does_not_learn_is_distilled_to_itself(finished, tmp_path):
    still = ('--config.prior.optim.lr=1e-12', '--config.prior.stored_dtype=float32')
    assert run(f':distill={finished}', tmp_path, *still) == 0
    ours, theirs = (load_variation_model(folder) for folder in (tmp_path / 'prior', finished))
    assert ours.schedule.steps == theirs.schedule.steps
    assert ours.distilled
    assert not theirs.distilled
    assert ours.size_px == theirs.size_px
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours.weights, theirs.weights
    )
    vary = ours.vary((), sampler='consistency', start=300, steps=1)
    images, keys = np.zeros((2, 16, 16, 1), np.float32), jax.random.split(jax.random.key(0), 2)
    assert np.isfinite(vary(ours.weights, images, np.zeros(2, np.int32), keys)).all()
    note = read_json(tmp_path / 'prior' / 'provenance.json')
    assert note['started_from']['kind'] == 'trained_on_reference'


@pytest.mark.long
def test_distilling_changes_a_prior(finished, tmp_path):
    assert run(f':distill={finished}', tmp_path) == 0
    ours, theirs = (load_variation_model(folder) for folder in (tmp_path / 'prior', finished))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), ours.weights, theirs.weights)
    assert any(jax.tree.leaves(changed['params']))
    lines = (tmp_path / 'prior' / 'metrics.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[-1]['step'] == 2
    assert rows[-1]['distance'] > 0


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ('distill=/no/such/folder', 'no such folder'),
        ('distill=digits', ''),
        ('distill=digits,source=arrays:/no/such/folder', 'channels'),
    ],
)
def test_check_opens_what_is_to_be_distilled(words, said):
    found = check(load_config(f'{ROOT}/configs/prior.py:{words}'))
    assert said in ' '.join(found.problems)
    assert bool(found.problems) == bool(said)
    if not said:
        assert [program.step for program in found.programs] == ['prior']
