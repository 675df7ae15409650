"""Networks of random weights, written for tests."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.stages.classifier import classifier_builder
from purify.stages.networks_on_disk import write_network
from purify.train.state import split_network

NETWORK = {'name': 'resnet', 'stages': [1], 'block': 'preact', 'width': 8}
NETWORK |= {'norm': 'group', 'stem': 'small', 'dtype': 'float32'}


def draw_parameters(network):
    """Gives every parameter of an abstract network a random value; -> the network.

    Fresh ones answer 0, or what they are given.
    """
    rng = np.random.default_rng(0)
    draw = lambda p: jnp.asarray(rng.normal(0.1, 0.3, p.shape), p.dtype)
    nnx.update(network, jax.tree.map(draw, nnx.state(network, nnx.Param)))
    return network


def write_classifier(folder, seed=0, network=NETWORK, class_names='abc', /, **changes):
    """Writes a finished classifier of grey images with random weights; -> the folder.

    `changes` are what it says of itself.
    """
    build = classifier_builder(network, len(class_names), 1)
    _, params, stats = split_network(build(nnx.Rngs(seed)))
    facts = {'network': network, 'num_classes': len(class_names), 'channels': 1}
    facts |= {'class_names': list(class_names)} | changes
    write_network(folder, facts, {'params': params, 'stats': stats})
    return folder
