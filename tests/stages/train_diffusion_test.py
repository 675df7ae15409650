"""A prior that is trained, and one that is distilled from it."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from support.tiny import ROOT

from purify.cli import main
from purify.commands.check import check
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.files import read_json
from purify.generative.open_prior import load_variation_model
from purify.stages.pixel_denoiser import make_denoiser, prior_builder, read_start
from purify.train.state import abstract_network, split_network

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


def denoiser(classes=3, **changes):
    """The settings of a training on 16 px, its network as `finished` has it, and its weights."""
    network = {'sample_size': 16, 'block_out_channels': (8,), 'layers_per_block': 1}
    network |= {'attention_levels': 0, 'norm_num_groups': 4, 'dropout': 0.0, 'dtype': 'float32'}
    noise = {'name': 'linear', 'steps': 1000, 'prediction': 'epsilon'}
    settings = {'network': network | changes.pop('network', {})}
    objective = {'name': 'ddpm', 'drop': 0.1, 'schedule': noise | changes.pop('noise', {})}
    settings['objective'] = objective | changes
    _, build = prior_builder(settings['network'], 1, classes)
    return settings, build, abstract_network(build)[1]


def test_a_prior_learns_at_the_timesteps_of_its_settings():
    prior = load_config(f'{ROOT}/configs/prior.py:photos32,source=arrays:x')['prior']
    task, scheduler = make_denoiser(prior, None)
    assert (task.below, task.share) == (400, 0.9)
    assert scheduler['prediction_type'] == 'v_prediction'
    for wrong, told in (({'below': -1}, 'below=-1'), ({'share': 0.5}, ': below=0 and share=0.5')):
        with pytest.raises(UserError, match=f'^prior.timesteps.?{told}'):
            make_denoiser(prior | {'timesteps': {'below': 0, 'share': 0.0} | wrong}, None)


def test_a_prior_that_does_not_learn_stays_what_it_started_from(finished, tmp_path):
    own = ('block_out_channels=(8,)', 'layers_per_block=1', 'norm_num_groups=4')
    flags = [f'--config.prior.network.{setting}' for setting in own]
    flags += ['--config.prior.optim.lr=1e-12', '--config.prior.stored_dtype=float32']
    assert run('', tmp_path, *flags, f'--config.prior.init_from={finished}') == 0
    ours, theirs = (load_variation_model(folder) for folder in (tmp_path / 'prior', finished))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours.weights, theirs.weights
    )


def test_a_generator_starts_as_the_prior_whatever_the_class(finished):
    settings, build, like = denoiser()
    weights = read_start(finished, like, settings)
    shapes = read_start(finished, like, settings, weights=False)
    same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
    assert all(jax.tree.leaves(jax.tree.map(same, weights, shapes)))
    prior = load_variation_model(finished)
    x = np.random.default_rng(0).normal(size=(3, 16, 16, 1)).astype(np.float32)
    t = np.array([5, 200, 900])
    graph = split_network(build(nnx.Rngs(0)))[0]
    told = nnx.merge(graph, weights['params'], weights['stats'])(x, t, np.arange(3))
    plain = nnx.merge(prior.graph, prior.weights['params'], prior.weights['stats'])(x, t)
    np.testing.assert_allclose(told, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'noise': {'prediction': 'v_prediction'}}, "predicts 'epsilon' on 1000 steps"),
        ({'noise': {'steps': 500}}, 'on 1000 steps'),
        ({'name': 'edm'}, 'this training is of edm'),
        ({'network': {'block_out_channels': (12,)}}, 'of .* it has .*8.*, here is .*12'),
        ({'network': {'layers_per_block': 2}}, 'it has None'),
        ({'network': {'norm_num_groups': 2}}, 'has norm_num_groups=4, and here is 2'),
    ],
)
def test_a_start_of_another_kind_is_refused(finished, changes, said):
    settings, _, like = denoiser(**changes)
    with pytest.raises(UserError, match=said):
        read_start(finished, like, settings, weights=False)


def test_check_sees_what_a_generator_starts_from(finished):
    words = f'{ROOT}/configs/castle_walls.py:rate=0.02'
    flags = [f'--config.defense.generator.init_from={finished}']
    (problem,) = check(load_config(words, flags)).problems
    assert 'its network is another than this one' in problem
    own = ('block_out_channels=(8,)', 'norm_num_groups=4')
    flags += [f'--config.defense.generator.network.{setting}' for setting in own]
    assert not check(load_config(words, flags)).problems
