import jax
import numpy as np
import pytest
from flax import nnx
from models.classifiers.resnet_test import shuffle_values
from PIL import Image

from purify.core.errors import UserError
from purify.models.classifiers.sscd import EDGE, MEAN, SSCD, STD, sscd_pixels, sscd_sizes

RNG = np.random.default_rng(0)


def tiny(**sizes):
    network = SSCD(
        **({'stages': (1, 1), 'block': 'bottleneck', 'width': 4, 'dims': 6} | sizes),
        rngs=nnx.Rngs(0),
    )
    shuffle_values(network)
    return network


@pytest.mark.long
def test_descriptors_are_generalised_means_through_a_layer_at_length_one():
    network, images = tiny(), RNG.random((3, 40, 36, 3), np.float32)
    maps = np.asarray(network.maps(images, train=False), np.float64)
    pooled = np.maximum(maps, 1e-6).reshape(3, -1, maps.shape[-1])
    pooled = np.cbrt((pooled**3).mean(1))
    kernel, bias = (
        np.asarray(x[...], np.float64) for x in (network.head.kernel, network.head.bias)
    )
    points = pooled @ kernel + bias
    expected = points / np.sqrt((points**2).sum(-1, keepdims=True))
    np.testing.assert_allclose(network.describe(images), expected, atol=1e-5)
    assert np.abs(pooled - maps.mean((1, 2))).max() > 1e-2  # and no plain means


def test_images_are_normalised_as_imagenets():
    network = tiny(stages=(1,))
    grey = np.broadcast_to(np.asarray(MEAN, np.float32), (1, 8, 8, 3))
    np.testing.assert_allclose(network.normalise(grey), 0, atol=1e-6)
    np.testing.assert_allclose(network.normalise(grey + np.asarray(STD, np.float32)), 1, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ('height', 'width', 'shape', 'ties'),
    [
        (16, 16, (288, 288), 0.04),
        (224, 224, (288, 288), 1e-3),
        (360, 320, (324, 288), 0.1),
        (100, 133, (288, 383), 0.01),
    ],
)
def test_pixels_are_those_of_pillow(height, width, shape, ties):
    image = RNG.integers(0, 256, (height, width, 3), np.uint8)
    expected = np.asarray(
        Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR), np.float64
    )
    found = np.asarray(sscd_pixels(image[None].astype(np.float32) / 255))[0] * 255
    assert found.shape == (*shape, 3)
    off = np.abs(found - expected)
    # where the exact value lies half between two levels, Pillow's fixed point may fall otherwise
    assert (off > 0.01).mean() < ties
    assert off.max() < 2.01


def test_images_of_the_right_size_are_left_alone():
    images = RNG.random((1, EDGE + 2, EDGE, 3), np.float32)
    np.testing.assert_array_equal(sscd_pixels(images), images)


def shapes_of(network, prefix=''):
    names = {
        'conv1.weight': (network.stem.kernel.shape[-1], 3, 7, 7),
        'fc.weight': network.head.kernel.shape[::-1],
    }
    for stage, depth in enumerate(network.stages):
        for number in range(depth):
            parts = len(network.blocks[sum(network.stages[:stage]) + number].convs)
            names |= {
                f'layer{stage + 1}.{number}.conv{part + 1}.weight': (1, 1, 1, 1)
                for part in range(parts)
            }
    return {prefix + name: shape for name, shape in names.items()}


@pytest.mark.long
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize(
    'sizes', [{}, {'stages': (3, 4, 6, 3), 'dims': 512}, {'block': 'basic', 'stages': (2, 1, 1)}]
)
def test_shapes_tell_the_sizes(prefix, sizes):
    wanted = {'stages': (1, 1), 'block': 'bottleneck', 'width': 4, 'dims': 6} | sizes
    abstract = nnx.eval_shape(lambda: SSCD(**wanted, rngs=nnx.Rngs(0)))
    assert sscd_sizes(shapes_of(abstract, prefix)) == wanted


@pytest.mark.parametrize(
    ('shapes', 'said'),
    [
        ({}, 'conv1.weight, fc.weight missing'),
        ({'conv1.weight': (4, 3, 7, 7), 'fc.weight': (6, 16)}, 'whole layers missing'),
        (
            {'conv1.weight': (4, 3, 7, 7), 'fc.weight': (6, 16), 'layer2.0.conv1.weight': (1,)},
            'whole layers missing',
        ),
        (
            {
                'conv1.weight': (4, 3, 7, 7),
                'fc.weight': (6, 16),
                'layer99999999999.0.conv1.weight': (1,),
            },
            'whole layers missing',
        ),
        ({'vision_model.embeddings.class_embedding': (8,)}, 'torchvision.pt'),
    ],
)
def test_other_files_are_told_apart(shapes, said):
    with pytest.raises(UserError, match=said):
        sscd_sizes(shapes)


@pytest.mark.long
def test_the_published_network_has_a_resnet_50():
    whole = nnx.eval_shape(
        lambda: SSCD(stages=(3, 4, 6, 3), block='bottleneck', width=64, dims=512, rngs=nnx.Rngs(0))
    )
    count = sum(x.size for x in jax.tree.leaves(nnx.state(whole, nnx.Param)))
    assert count == 25_557_032 - (1000 - 512) * 2049  # torchvision's own count, with a head of 512
