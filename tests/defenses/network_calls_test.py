"""What rules say that a row costs, against networks that count the images they are shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generative.latent_prior_test import NAMES, Networks, open_prior
from support.made_candidates import CONSTANTS, EVERY, MODELS, ROWS, SHAPE, Mixture

from purify.defenses.dataelixir.candidates import Candidates, Remake
from purify.defenses.method import Context
from purify.defenses.purifiers.variations import Variations

COUNT = 4
OTHER = {'copies': 1, 'colour_transfer': False, 'epsilon': 1e-6, 'dtype': 'float32'}


@pytest.fixture
def asked(monkeypatch):
    """Runs a rule on COUNT rows; -> the images that its network was shown, for one row."""

    def watch(network, rule, constants, rows):
        shown, given = [], network.__call__

        def count(self, x, *rest):
            jax.debug.callback(lambda x: shown.append(len(x)), x)
            return given(self, x, *rest)

        monkeypatch.setattr(network, '__call__', count)
        jax.block_until_ready(jax.jit(rule)(constants, rows))
        jax.effects_barrier()
        monkeypatch.undo()
        return sum(shown) / COUNT

    return watch


def take(**more):
    return {name: jnp.asarray(column[:COUNT]) for name, column in (ROWS | more).items()}


@pytest.mark.long
@pytest.mark.parametrize(
    ('kind', 'changes'),
    [(Candidates, {}), (Remake, {'rounds': 2, 'steps': 5, 'kept': 2, 'forward': 'matched'})],
)
def test_candidates(asked, kind, changes):
    made = kind(**EVERY | changes)
    rows = take(variation=np.zeros(len(ROWS['id']), np.int32))
    found = asked(Mixture, made.rule(MODELS, Context(SHAPE, 0, list('abcd'))), CONSTANTS, rows)
    assert found == made.network_calls(MODELS)


@pytest.mark.long
@pytest.mark.parametrize('sampler', ['ddim', 'dpmpp_2m', 'pndm'])
def test_variations_of_a_prior_on_pixels(asked, sampler):
    made = Variations(vary={'model': 'pixel', 'sampler': sampler, 'start': 12, 'steps': 4}, **OTHER)
    rows = take(variation=np.zeros(len(ROWS['id']), np.int32))
    found = asked(Mixture, made.rule(MODELS, Context(SHAPE, 0, NAMES)), CONSTANTS, rows)
    assert found == made.network_calls(MODELS)


@pytest.mark.parametrize(
    ('kind', 'own', 'calls'),
    [
        ('sd_variation', {'guidance': 3.0}, 10),
        ('versatile', {'guidance': 1}, 5),
        ('sd_img2img', {'guidance': 3.0, 'strength': 0.7, 'caption': 'A photo of a {}'}, 6),
    ],
)
def test_variations_of_latent_priors(asked, kind, own, calls):
    prior = open_prior(kind)
    made = Variations(vary={'model': kind, 'steps': 5, 'size_px': 16} | own, **OTHER)
    rows = {'image': jnp.zeros((COUNT, 24, 24, 3), jnp.uint8)} | dict.fromkeys(
        ('label', 'id', 'variation'), jnp.arange(COUNT) % 3
    )
    rule = made.rule({'prior': prior}, Context((24, 24, 3), 0, NAMES))
    assert made.network_calls({'prior': prior}) == calls
    assert asked(Networks.UNet, rule, {'prior': prior.weights}, rows) == calls
