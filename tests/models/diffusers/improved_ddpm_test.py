"""Improved DDPM's checkpoints in our network, against a NumPy walk over their own names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.improved_ddpm_reference import random_state, run

from purify.core.errors import UserError
from purify.diffusion.scheduler_config import schedule_from_diffusers
from purify.models.diffusers.improved_ddpm import PUBLISHED, Flags, to_diffusers
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.files.weights import abstract_model, export_tensors, load_into

FINE = {'heads': 4, 'steps': 4000, 'rescale': True}
STATE = random_state()
PLAIN = {'heads': 1, 'steps': 1000, 'rescale': False}


def flags(size_px=8, noise='cosine', **changes):
    return Flags(size_px=size_px, noise=noise, **FINE | changes)


def convert(state, **changes):
    config, tensors, scheduler = to_diffusers(state, flags(**changes))
    network = abstract_model(UNet2DModel, config)
    load_into(network, tensors)
    return network, config, scheduler


X, T = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32), np.array([3, 701])
UNEVEN = {'mult': (1, 2, 2), 'layers': 2, 'attends': (2,)}
BARE = {'modulates': False, 'learned': False, 'attends': ()}


def answers(state, trained):
    """(ours, the reference's) f[b h w c]."""
    network, config, _ = convert(state, **trained)
    ours = np.asarray(nnx.jit(lambda n: n(jnp.asarray(X), jnp.asarray(T)))(network))
    assert ours.shape[-1] == config['out_channels']
    return ours, run(state, X.transpose(0, 3, 1, 2), T, **trained).transpose(0, 2, 3, 1)


@pytest.mark.long
@pytest.mark.parametrize(('made', 'trained', 'channels'), [(UNEVEN, FINE, 6), (BARE, PLAIN, 3)])
def test_the_converted_network_answers_as_the_checkpoint_does(made, trained, channels):
    ours, theirs = answers(random_state(**made), trained)
    assert theirs.shape[-1] == channels
    assert np.abs(theirs).max() > 0.5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4 * np.abs(theirs).max())


@pytest.mark.long
def test_so_it_does_with_the_same_heads_at_all_widths_and_by_no_other_flags():
    ours, theirs = answers(STATE, FINE)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4 * np.abs(theirs).max())
    for wrong in ({'heads': 2}, {'rescale': False}, {'steps': 2000}):
        other = run(STATE, X.transpose(0, 3, 1, 2), T, **FINE | wrong).transpose(0, 2, 3, 1)
        assert np.abs(ours - other).max() > 1e-2


def test_no_number_is_lost_or_made_up():
    state = random_state()
    network, config, _ = convert(state)
    tensors = export_tensors(network)
    table = tensors.pop('time_proj.weight')
    found = sum(value.size for value in tensors.values())
    assert found == sum(value.size for value in state.values())
    whole = [
        np.sort(np.concatenate([value.ravel() for value in arrays.values()]))
        for arrays in (tensors, state)
    ]
    np.testing.assert_array_equal(*whole)
    assert config['block_out_channels'] == [32, 64, 96]
    assert config['attention_head_dim'] == [8, 16, 24]  # four heads of each width
    wanted = [*np.cos(10.0 ** (-np.arange(16) / 4)), *np.sin(10.0 ** (-np.arange(16) / 4))]
    np.testing.assert_allclose(table[4], wanted, atol=1e-6)


def test_heads_of_one_width_are_one_number_which_diffusers_takes():
    assert convert(random_state(mult=(1, 2, 2)))[1]['attention_head_dim'] == 16


@pytest.mark.long
@pytest.mark.parametrize(
    ('name', 'millions'),
    [('imagenet64_uncond_100M_1500K', 121.06), ('cifar10_uncond_50M_500K', 52.55)],
)
def test_the_published_networks_have_their_size(name, millions):
    """Of 128 channels and 3 blocks: (1, 2, 3, 4) times as wide at 64 px, (1, 2, 2, 2) at 32 px,
    attention at 16 and 8 px.
    """
    trained = PUBLISHED[name]
    wide = (
        {'mult': (1, 2, 3, 4), 'attends': (2, 3)}
        if trained.size_px == 64
        else {'mult': (1, 2, 2, 2), 'attends': (1, 2)}
    )
    config, tensors, scheduler = to_diffusers(
        random_state(base=128, layers=3, empty=True, **wide), trained
    )
    network = abstract_model(UNet2DModel, config)
    held = sum(value.size for value in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert held == sum(value.size for value in tensors.values())
    assert round((held - 4000 * 128) / 1e6, 2) == millions
    assert scheduler['beta_schedule'] == 'squaredcos_cap_v2'
    assert scheduler['num_train_timesteps'] == 4000


def test_linear_noise_is_that_of_a_thousand_steps_made_finer():
    scheduler = to_diffusers(random_state(attends=()), flags(noise='linear', steps=4000))[2]
    schedule = schedule_from_diffusers(scheduler)
    assert schedule.steps == 4000
    np.testing.assert_allclose(schedule.betas[[0, -1]], [2.5e-5, 5e-3])
    assert scheduler['variance_type'] == 'learned_range'


def test_fractions_of_a_timestep_are_refused_where_each_has_a_row():
    network = convert(random_state(attends=()))[0]
    with pytest.raises(UserError, match='between them'):
        jax.eval_shape(lambda: network(jnp.zeros((1, 8, 8, 3)), jnp.array([2.5])))


def without(state, start):
    return {name: value for name, value in state.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ('state', 'word'),
    [
        (STATE | {'label_emb.weight': np.zeros((10, 128))}, 'class labels'),
        (STATE | {'input_blocks.1.0.h_upd.weight': np.zeros(3)}, 'h_upd'),
        (STATE | {'what': np.zeros(3)}, "'what'"),
        (without(STATE, 'out.'), 'output'),
        (without(STATE, 'input_blocks.2.'), 'one width'),
        (without(STATE, 'input_blocks.3.1'), "'output_blocks"),
        ({}, 'input_blocks'),
        (without(STATE, 'input_blocks.1.0.emb_layers'), 'other names or shapes'),
        (STATE | {'input_blocks.0.0.weight': np.zeros(())}, 'other names or shapes'),
        (STATE | {'input_blocks.99999999999.0.x': np.zeros(3)}, 'input_blocks'),
    ],
)
def test_networks_of_other_makes_are_refused(state, word):
    with pytest.raises(UserError, match=word):
        convert(state)


@pytest.mark.parametrize(
    ('wrong', 'word'),
    [({'heads': 5}, 'heads=5'), ({'heads': 0}, 'heads=0'), ({'noise': 'sqrt'}, 'cosine')],
)
def test_impossible_flags_are_refused(wrong, word):
    with pytest.raises(UserError, match=word):
        to_diffusers(STATE, flags(**wrong))


@pytest.mark.parametrize(
    ('changes', 'word'),
    [
        ({'num_train_timesteps': None}, 'num_train_timesteps'),
        ({'attention_head_dim': [8, 16]}, 'attention_head_dim'),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(changes, word):
    config = to_diffusers(STATE, flags())[0]
    with pytest.raises(UserError, match=word):
        UNet2DModel.from_config(config | changes, rngs=nnx.Rngs(0))
