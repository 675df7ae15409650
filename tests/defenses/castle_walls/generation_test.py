from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.core.errors import UserError
from purify.defenses.castle_walls.generation import Generate, Generation
from purify.defenses.filters.score_filter import score
from purify.defenses.method import Context
from purify.defenses.steps import simclr
from purify.diffusion.schedules import make_noise_schedule
from purify.models.classifiers.registry import NETWORKS
from purify.stages.diffusion_settings import PixelNetwork, pixel_generator
from purify.stages.train_classifier import classifier
from purify.train.optim import OPTIMIZERS

NAMES = ['black', 'grey', 'white']
LEVELS = jnp.array([-1.0, 0.0, 1.0])
SETTINGS = {'sampler': {'name': 'ddim', 'eta': 1.0}, 'steps': 5, 'guidance': 1.0}
SETTINGS |= {'dtype': 'float32', 'stream': 'generated'}


@dataclass(frozen=True)
class Knows:
    """Knows that images of a class are all of one grey, half in doubt if not told; states are half
    as wide as the dataset.
    """

    class_names: tuple = tuple(NAMES)
    weights: tuple = ()
    schedule: object = make_noise_schedule('linear', 100, prediction='sample')
    state_shape: tuple = (4, 4, 1)
    channels: int = 1

    def predictor(self, weights, labels, guidance):
        goal = guidance * LEVELS[labels][:, None, None, None]
        return lambda x, t: goal + 0 * x

    def decode(self, weights, states):
        return states


def run(rule, labels, ids):
    rows = {'label': jnp.asarray(labels), 'id': jnp.asarray(ids, jnp.int32)}
    return jax.jit(rule)({'generator': ()}, rows)


def test_images_are_of_their_conditions_and_of_the_dataset_s_size():
    rule = Generate(**SETTINGS).rule({'generator': Knows()}, Context((8, 8, 1), 0, NAMES))
    out = run(rule, [0, 1, 2], [0, 1, 2])
    assert (out['image'].shape, out['image'].dtype) == ((3, 8, 8, 1), jnp.uint8)
    np.testing.assert_array_equal(np.asarray(out['image'])[:, 3, 3, 0], [0, 128, 255])
    assert np.asarray(out['finite']).all()


@pytest.mark.long
def test_a_row_is_a_function_of_seed_stream_and_id():
    class Noisy(Knows):
        def predictor(self, weights, labels, guidance):
            return lambda x, t: jnp.tanh(x)

    make = lambda seed=0, **changes: Generate(**SETTINGS | changes).rule(
        {'generator': Noisy()}, Context((4, 4, 1), seed, NAMES)
    )
    whole = np.asarray(run(make(), [0, 1, 2, 0], [5, 6, 7, 8])['image'])
    np.testing.assert_array_equal(np.asarray(run(make(), [2, 0], [7, 5])['image']), whole[[2, 0]])
    for other in (make(1), make(stream='probe')):
        assert (np.asarray(run(other, [0, 1, 2, 0], [5, 6, 7, 8])['image']) != whole).any()
    assert (whole[0] != whole[1]).any()


def test_a_broken_generator_is_seen():
    class Broken(Knows):
        def predictor(self, weights, labels, guidance):
            return lambda x, t: jnp.where((labels == 1)[:, None, None, None], jnp.nan, x)

    found = run(
        Generate(**SETTINGS).rule({'generator': Broken()}, Context((4, 4, 1), 0, NAMES)),
        [0, 1, 2],
        [0, 1, 2],
    )['finite']
    np.testing.assert_array_equal(found, [True, False, True])


@pytest.mark.parametrize(
    ('names', 'shape', 'told'),
    [(['a'], (4, 4, 1), 'trained for classes black'), (NAMES, (4, 4, 3), 'grey')],
)
def test_generators_of_other_datasets_are_refused(names, shape, told):
    with pytest.raises(UserError, match=told):
        Generate(**SETTINGS).rule({'generator': Knows()}, Context(shape, 0, names))


def test_guided_images_cost_two_calls():
    models = {'generator': Knows()}
    assert Generate(**SETTINGS).network_calls(models) == 5
    assert Generate(**SETTINGS | {'guidance': 2.0}).network_calls(models) == 10


def method(**changes):
    optim = OPTIMIZERS.part('adam', lr=1e-3)
    generator = pixel_generator(PixelNetwork(8, (8,)), optim, steps=1, batch=1)
    sampling = {'sampler': {'name': 'ddim'}, 'steps': 50, 'guidance': 1.0, 'dtype': 'float32'}
    student = classifier(NETWORKS.part('resnet'), optim, epochs=1, batch=64)
    return Generation(generator, sampling, **changes).method(student)


def test_the_steps_are_what_is_asked_for():
    assert [step.name for step in method().steps] == ['generator', 'generated', 'student']
    assert (method().outcome.probe, method().outcome.copies) == (None, None)
    whole = method(
        probe={'labels': (1,), 'images': 9},
        scores={'strip': score('strip')},
        copies='simclr',
        encoder=simclr(NETWORKS.part('resnet'), epochs=1),
    )
    names = ['generator', 'generated', 'probe', 'strip_given', 'strip_made', 'encoder']
    names += ['generated_features', 'given_features', 'student']
    assert [step.name for step in whole.steps] == names
    inputs = {step.name: step.inputs for step in whole.steps}
    assert inputs['strip_made'] == {'poisoned': 'generated', 'classifier': 'teacher'}
    assert inputs['student'] == {'data': 'generated'}  # no teacher: it has seen the poison
    assert whole.outcome.scores == {'strip': ('strip_given', 'strip_made')}
    streams = {step.name: step.by.stream for step in whole.steps if step.kind == 'generate'}
    assert streams == {'generated': 'generated', 'probe': 'probe'}


@pytest.mark.parametrize(
    ('changes', 'told'),
    [({'copies': 'eyes'}, "copies='eyes'"), ({'copies': 'simclr'}, 'encoder goes with')],
)
def test_wrong_settings_are_named(changes, told):
    with pytest.raises(UserError, match=told):
        method(**changes)
