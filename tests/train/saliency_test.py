import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.classifiers.resnet_test import shuffle_values

from purify.models.classifiers.classifier import ClassifierNetwork
from purify.models.classifiers.fast import FastNet
from purify.models.classifiers.resnet import ResNet
from purify.models.classifiers.vgg import VGG
from purify.train.saliency import grad_cam


class Watcher(ClassifierNetwork):
    """Its maps are the images, its logits W means."""

    def __init__(self, weights):
        super().__init__(
            num_classes=weights.shape[1], channels=weights.shape[0], mean=(0.0,), std=(1.0,)
        )
        self.head = nnx.Linear(*weights.shape, rngs=nnx.Rngs(0))
        self.head.kernel[...] = jnp.asarray(weights, jnp.float32)

    def maps(self, images, *, train, key=None):
        return images


@pytest.mark.long
def test_heat_of_a_network_that_can_be_read():
    """The gradient of a mean over 4 places is W / 4, so the heat is relu(x . w_label) stretched."""
    weights = np.array([[1.0, -1.0], [-2.0, 2.0]])
    x = np.array([[[[0.5, 0.0], [1.0, 0.0]], [[0.0, 0.1], [0.25, 0.0]]]] * 2, np.float32)
    heat = grad_cam(Watcher(weights), x, jnp.array([0, 1]))
    # x0 - 2 x1, negative at (1, 0)
    np.testing.assert_allclose(heat[0], [[0.5, 1.0], [0.0, 0.25]], atol=1e-6)
    np.testing.assert_allclose(heat[1], [[0.0, 0.0], [1.0, 0.0]], atol=1e-6)  # 2 x1 - x0


@pytest.mark.long
def test_heat_that_is_the_same_everywhere_or_nowhere_is_zero():
    network = Watcher(np.array([[1.0, -1.0]]))
    x = np.full((2, 3, 3, 1), 0.7, np.float32)
    np.testing.assert_array_equal(grad_cam(network, x, jnp.array([0, 1])), np.zeros((2, 3, 3)))


@pytest.mark.long
def test_gradients_of_a_deep_neck_agree_with_differences():
    """VGG's features are no means of its maps: the weights are those of finite differences in
    float64-like steps.
    """
    network = VGG(stages=(1, 1), width=3, hidden=5, num_classes=2, channels=1, rngs=nnx.Rngs(0))
    shuffle_values(network)
    x = np.random.default_rng(0).random((1, 6, 6, 1)).astype(np.float32)
    maps = np.asarray(network.maps(x, train=False))
    pool = nnx.jit(lambda network, m: network.head(network.pool(m, train=False))[0, 1])
    logit = lambda m: float(pool(network, jnp.asarray(m, jnp.float32)))
    weights = np.zeros(maps.shape[-1])
    for place in np.ndindex(maps.shape[1:3]):
        for channel in range(len(weights)):
            step = np.zeros_like(maps)
            step[(0, *place, channel)] = 1e-3
            weights[channel] += (
                (logit(maps + step) - logit(maps - step)) / 2e-3 / maps[0, ..., 0].size
            )
    heat = np.maximum(maps[0] @ weights, 0)
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    got = np.asarray(grad_cam(network, x, jnp.array([1])))[0]
    assert got.shape == (6, 6)
    # corners are not mixed by the resizing
    np.testing.assert_allclose(got[0, 0], heat[0, 0], atol=0.02)
    np.testing.assert_allclose(got[-1, -1], heat[-1, -1], atol=0.02)


@pytest.mark.parametrize('kind', [ResNet, FastNet])
def test_images_do_not_mix_and_heat_is_resized_to_them(kind):
    own = {'stages': (1, 1), 'block': 'preact'} if kind is ResNet else {'widths': (1, 2)}
    network = kind(**own, width=4, num_classes=3, channels=3, rngs=nnx.Rngs(0))
    shuffle_values(network)
    x = np.random.default_rng(1).random((3, 12, 20, 3)).astype(np.float32)
    look = nnx.jit(grad_cam)
    heat = np.asarray(look(network, x, jnp.array([2, 0, 1])))
    assert heat.shape == (3, 12, 20)
    assert heat.min() >= 0
    assert heat.max() <= 1 + 1e-6
    assert heat.std((1, 2)).max() > 0.01
    alone = np.concatenate(
        [look(network, x[i : i + 1], jnp.array([label])) for i, label in enumerate([2, 0, 1])]
    )
    np.testing.assert_allclose(heat, alone, atol=1e-4)
