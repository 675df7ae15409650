import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.lib.stride_tricks import sliding_window_view
from support.meshes import mesh_of

from purify.core.errors import UserError
from purify.models.classifiers.registry import NETWORKS
from purify.models.classifiers.resnet import ResNet


def build(name='resnet', seed=0, **settings):
    defaults = {'stages': (1, 1), 'block': 'basic'} if name == 'resnet' else {}
    defaults |= {'num_classes': 3, 'channels': 3, 'width': 4}
    return NETWORKS.make(name, **(defaults | settings), rngs=nnx.Rngs(seed))


def images(count=4, size=8, channels=3, seed=0):
    return np.random.default_rng(seed).random((count, size, size, channels), np.float32)


def shuffle_values(network, seed=1):
    """Gives every parameter and statistic its own value, so that none is forgotten unseen."""
    rng = np.random.default_rng(seed)

    def draw(x):
        # Kernels have both signs, a variance must not; scaled so that activations stay near 1,
        # where float32 is fine.
        signs = (
            rng.choice([-1, 1], x.shape) / math.sqrt(math.prod(x.shape[:-1])) if x.ndim > 1 else 1
        )
        return jnp.asarray(rng.uniform(0.3, 1.2, x.shape) * signs, x.dtype)

    nnx.update(network, jax.tree.map(draw, nnx.state(network, (nnx.Param, nnx.BatchStat))))


# A second opinion in float64, written from the papers.


def conv64(x, conv, stride):
    kernel = np.asarray(conv.kernel[...], np.float64)
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = sliding_window_view(x, kernel.shape[:2], (1, 2))[:, ::stride, ::stride]
    return np.einsum('bhwcij,ijco->bhwo', windows, kernel)


def norm64(x, norm, train=False):
    layer = norm.layer
    scale, bias = np.asarray(layer.scale[...], np.float64), np.asarray(layer.bias[...], np.float64)
    if isinstance(layer, nnx.GroupNorm):
        groups = x.reshape(*x.shape[:3], layer.num_groups, -1)
        mean, var = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
        return ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * scale + bias
    mean, var = (
        (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (layer.mean[...], layer.var[...])
    )
    return (x - np.asarray(mean, np.float64)) / np.sqrt(
        np.asarray(var, np.float64) + 1e-5
    ) * scale + bias


def relu64(x):
    return np.maximum(x, 0)


def block64(x, block, kind, stride, train):
    strides = {'basic': (stride, 1), 'bottleneck': (1, stride, 1), 'preact': (stride, 1)}[kind]
    y, shortcut = x, x
    for number, (conv, norm, step) in enumerate(
        zip(block.convs, block.norms, strides, strict=True)
    ):
        if kind == 'preact':
            y = relu64(norm64(y, norm, train))
            if number == 0 and block.shortcut is not None:
                shortcut = conv64(y, block.shortcut, stride)
            y = conv64(y, conv, step)
        else:
            y = norm64(conv64(y, conv, step), norm, train)
            y = y if number == len(strides) - 1 else relu64(y)
    if kind == 'preact':
        return shortcut + y
    if block.shortcut is not None:
        shortcut = norm64(conv64(x, block.shortcut, stride), block.shortcut_norm, train)
    return relu64(shortcut + y)


def forward64(network, x, kind, stem, strides, mean, std, train=False):
    x = (x.astype(np.float64) - mean) / std
    x = conv64(x, network.stem, 2 if stem == 'imagenet' else 1)
    if kind != 'preact':
        x = relu64(norm64(x, network.stem_norm, train))
    if stem == 'imagenet':
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        x = sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))
    blocks = []
    for block, stride in zip(network.blocks, strides, strict=True):
        x = block64(x, block, kind, stride, train)
        blocks.append(x)
    features = x.mean((1, 2))
    return (
        blocks,
        features,
        features @ np.asarray(network.head.kernel[...], np.float64)
        + np.asarray(network.head.bias[...]),
    )


@pytest.mark.long
@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize(
    ('kind', 'stem', 'norm'),
    [
        ('basic', 'small', 'batch'),
        ('bottleneck', 'small', 'batch'),
        ('preact', 'small', 'batch'),
        ('basic', 'imagenet', 'batch'),
        ('bottleneck', 'imagenet', 'group'),
        ('preact', 'imagenet', 'group'),
    ],
)
def test_forward_agrees_with_float64(kind, stem, norm, train):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    network = build(block=kind, stem=stem, norm=norm, stages=(1, 2), mean=mean, std=std)
    shuffle_values(network)
    # even sizes tell symmetric from one-sided padding
    x = images(3, 16 if stem == 'imagenet' else 8)
    blocks, features, logits = forward64(network, x, kind, stem, (1, 2, 1), mean, std, train)
    np.testing.assert_allclose(network.features(x, train=train), features, rtol=2e-5, atol=2e-5)
    for got, wanted in zip(network.groups(x, train=train), (blocks[0], blocks[2]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(network(x, train=train), logits, rtol=2e-5, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ('name', 'settings', 'count'),
    [
        ('resnet18', {'stem': 'imagenet', 'num_classes': 1000}, 11_689_512),  # torchvision
        ('resnet34', {'stem': 'imagenet', 'num_classes': 1000}, 21_797_672),
        ('resnet50', {'stem': 'imagenet', 'num_classes': 1000}, 25_557_032),
        ('resnet101', {'stem': 'imagenet', 'num_classes': 1000}, 44_549_160),
        ('resnet152', {'stem': 'imagenet', 'num_classes': 1000}, 60_192_808),
        # ResNet-18 for 32 px has 11,173,962; of these pre-activation saves the stem's norm (128),
        # half of the first norm where a stage widens (896) and the norms of the shortcuts (1792).
        ('preact_resnet18', {'stem': 'small', 'num_classes': 10}, 11_173_962 - 128 - 896 - 1792),
        ('resnet18', {'stem': 'small', 'num_classes': 10}, 11_173_962),
    ],
)
def test_parameter_counts_are_the_published_ones(name, settings, count):
    network = nnx.eval_shape(lambda: NETWORKS.make(name, channels=3, rngs=nnx.Rngs(0), **settings))
    found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert found == count


@pytest.mark.long
def test_initial_values_are_he_normal_and_torch_linear():
    network = build(stages=(1,), width=64, num_classes=50)
    kernel = np.asarray(network.blocks[0].convs[0].kernel[...])
    assert abs(kernel.std() / math.sqrt(2 / (64 * 9)) - 1) < 0.02
    stem = np.asarray(network.stem.kernel[...])
    assert abs(stem.std() / math.sqrt(2 / (64 * 9)) - 1) < 0.1, 'fan out, not in'
    assert np.abs(kernel).max() > 3 * kernel.std(), 'not truncated at two deviations'
    for values in (network.head.kernel[...], network.head.bias[...]):
        assert 0.9 / 8 < np.abs(values).max() <= 1 / 8
    np.testing.assert_array_equal(build(seed=5).stem.kernel[...], build(seed=5).stem.kernel[...])
    assert not np.array_equal(build(seed=5).stem.kernel[...], build(seed=6).stem.kernel[...])


@pytest.mark.long
def test_training_moves_the_running_statistics_by_a_tenth():
    network = build()
    x = images()
    stem = conv64(x.astype(np.float64), network.stem, 1)
    network(x, train=True)
    layer = network.stem_norm.layer
    np.testing.assert_allclose(layer.mean[...], 0.1 * stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.var[...], 0.9 + 0.1 * stem.var((0, 1, 2)), rtol=1e-4)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)))
    network(x, train=False)
    after = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
    # the stem, two per block, one at the shortcut that widens
    assert len(jax.tree.leaves(before)) == 2 * 6
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.long
def test_evaluation_does_not_depend_on_batch_mates():
    network = build()
    shuffle_values(network)
    x = images(6)
    alone = np.concatenate([network(x[i : i + 1], train=False) for i in range(6)])
    np.testing.assert_allclose(network(x, train=False), alone, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(network(x, train=True)) - alone).max() > 1e-2


@pytest.mark.long
def test_group_norm_has_no_statistics_and_no_batch_mates():
    network = build(norm='group', width=12)
    # the largest divisor of 8 that 12 channels allow
    assert network.stem_norm.layer.num_groups == 4
    assert not jax.tree.leaves(nnx.state(network, nnx.BatchStat))
    x = images(4)
    alone = np.concatenate([network(x[i : i + 1], train=True) for i in range(4)])
    np.testing.assert_allclose(network(x, train=True), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize('block', ['basic', 'preact'])
def test_bfloat16_computes_low_and_answers_in_float32(block):
    exact, low = build(block=block, width=8), build(block=block, width=8, dtype='bfloat16')
    shuffle_values(exact)
    shuffle_values(low)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(low))} == {jnp.dtype('float32')}
    x = images()
    logits = low(x, train=True)
    assert logits.dtype == low.features(x, train=False).dtype == jnp.float32
    assert low.blocks[0](jnp.ones((1, 4, 4, 8), jnp.bfloat16), False).dtype == jnp.bfloat16
    reference = np.asarray(exact(x, train=True))
    error = np.abs(np.asarray(logits) - reference).max() / np.abs(reference).max()
    assert 0 < error < 0.05
    stats = nnx.to_pure_dict(nnx.state(low, nnx.BatchStat))
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype('float32')}
    assert 'bf16' in str(jax.make_jaxpr(lambda x: nnx.clone(low)(x, train=False))(x))


@pytest.mark.long
def test_batch_statistics_are_global_on_a_mesh():
    mesh = mesh_of(4)
    rows, everywhere = (jax.NamedSharding(mesh, jax.P(*axis)) for axis in (('data',), ()))
    network = build()
    graph, state = nnx.split(network)

    @jax.jit
    def step(state, x):
        network = nnx.merge(graph, state)
        return network(x, train=True), nnx.state(network)

    x = images(8)
    x[4:] += 3  # halves that differ: statistics per device would not be those of the batch
    logits, after = step(state, x)
    sharded, after_sharded = step(jax.device_put(state, everywhere), jax.device_put(x, rows))
    np.testing.assert_allclose(logits, sharded, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after, after_sharded
    )


def test_grey_images_and_one_normalisation_for_all_channels():
    network = build(channels=1, mean=(0.5,), std=(0.25,))
    plain = build(channels=1)
    x = images(channels=1)
    found = network(x, train=False)
    np.testing.assert_allclose(found, plain((x - 0.5) / 0.25, train=False), rtol=1e-5, atol=1e-6)
    three, one = build(mean=(0.5,) * 3, std=(0.25,) * 3), build(mean=(0.5,), std=(0.25,))
    np.testing.assert_array_equal(three(images(), train=False), one(images(), train=False))


@pytest.mark.parametrize(
    ('wrong', 'told'),
    [
        ({'block': 'dense'}, 'basic, bottleneck, preact'),
        ({'stem': 'large'}, 'imagenet, small'),
        ({'norm': 'layer'}, 'batch, group'),
        ({'stages': ()}, r'stages=\(\)'),
        ({'stages': (1, 0)}, r'stages=\(1, 0\)'),
        ({'num_classes': 0}, 'num_classes=0'),
        ({'mean': (0.5, 0.5)}, 'each of the 3 channels'),
        ({'std': (0.0,)}, 'above 0'),
        ({'width': '64'}, "width='64'"),  # a word for a number, as a network.json may hold
        ({'width': 10**12}, 'width=1000000000000'),
        ({'num_classes': 2.5}, 'num_classes=2.5'),
        ({'channels': True}, 'channels=True'),
        ({'stages': '11'}, "stages='11'"),
        ({'stages': ('1', 1)}, r"stages=\('1', 1\)"),
        ({'stages': (10**9,)}, r'stages=\(1000000000,\)'),
        ({'mean': 'x'}, "mean='x'"),
        ({'std': (None,)}, r'std=\(None,\)'),
        ({'block': ['basic']}, 'unknown block'),
        ({'colour': 3}, "network 'resnet' has no setting 'colour'. It has: "),
    ],
)
def test_wrong_settings_are_refused(wrong, told):
    with pytest.raises(UserError, match=told):
        build(**wrong)


def test_images_of_other_channels_are_refused():
    with pytest.raises(UserError, match='have 1 channels, the network was built for 3'):
        build()(images(channels=1), train=False)


@pytest.mark.long
def test_names_are_the_networks():
    assert NETWORKS['resnet'] is ResNet
    network = build('preact_resnet18')
    assert network.features(images(), train=False).shape == (4, 32)
    wanted = [(4, 32)] * 2
    assert [network.features(images(size=size), train=False).shape for size in (5, 16)] == wanted
