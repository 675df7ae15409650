import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from flax import nnx

from purify.attacker.trigger_networks import Attacker, Field, Steganography
from purify.attacker.trigger_objectives import (
    FitField,
    FitInputAware,
    FitLira,
    FitMask,
    HideSecret,
    batch_psnr,
    diversity,
    shift,
    to_grey_levels,
)
from purify.attacks.fixed.label_consistent import ascend
from purify.attacks.learned.networks import TriggerUNet
from purify.core.errors import UserError
from purify.models.classifiers.resnet import ResNet
from purify.train.objectives.adversarial import Adversarial
from purify.train.objectives.tasks import Classify
from purify.train.state import split_network

WIDTH, CLASSES, ROWS = 4, 3, 8
KEY = jax.random.key(0)
BATCH = {
    'image': np.random.default_rng(1).integers(0, 256, (ROWS, 8, 8, 1), np.uint8),
    'label': np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32),
    'id': np.arange(ROWS),
}
UNIT = BATCH['image'] / 255


class ResNetOf(ResNet):
    def __init__(self, norm, *, rngs):
        super().__init__(
            stages=(1,),
            block='basic',
            num_classes=CLASSES,
            channels=1,
            width=WIDTH,
            norm=norm,
            rngs=rngs,
        )


def resnet(rngs):
    return ResNetOf('group', rngs=rngs)


def unet(rngs):
    return TriggerUNet(1, 1, WIDTH, rngs=rngs)


def call(task, params, stats, frozen=(), batch=BATCH):
    (loss, (stats, metrics)), grads = jax.jit(jax.value_and_grad(task, has_aux=True))(
        params, stats, frozen, batch, KEY
    )
    return float(loss), {name: float(value) for name, value in metrics.items()}, grads


def forward(graph, params, stats, run, *inputs):
    """`run(network, *inputs)` as one program, as float64."""
    program = jax.jit(lambda params, stats, *rest: run(nnx.merge(graph, params, stats), *rest))
    return np.asarray(
        program(params, stats, *(np.asarray(x, np.float32) for x in inputs)), np.float64
    )


def built(build, *args, seed=0):
    """(structure, parameters, statistics) of a network, all drawn, which costs no compilation."""
    rng = np.random.default_rng(seed)

    def draw(x):
        drawn = rng.normal(size=x.shape).astype(np.float32)
        # numbers of one axis are scales and variances
        many = x.ndim > 1
        return jnp.asarray(drawn / np.prod(x.shape[:-1]) ** 0.5 if many else 0.5 + 0.1 * drawn)

    graph, *parts = split_network(nnx.eval_shape(lambda: build(*args, rngs=nnx.Rngs(0))))
    return graph, *jax.tree.map(draw, parts)


def entropy(logits, labels):
    """Mean cross-entropy in float64."""
    z = np.asarray(logits, np.float64)
    return float(np.mean(np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), labels]))


def norm_of(tree):
    return sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(tree))


def rms(x):
    return np.sqrt((x**2).mean((1, 2, 3)))


def sharp(output):
    return np.tanh(20 * np.tanh(np.asarray(output, np.float64)) - 10) / 2 + 0.5


def test_rounding_to_grey_levels_lets_the_gradient_pass():
    x = jnp.array([0.1, 0.5, 0.999])
    np.testing.assert_allclose(to_grey_levels(x) * 255, np.rint(x * 255), atol=1e-4)
    found = jax.grad(lambda v: (3 * to_grey_levels(v)).sum())(x)
    np.testing.assert_array_equal(found, 3 * np.ones(3))


def test_a_shift_moves_each_image_by_itself_and_opens_black():
    images = np.random.default_rng(0).random((60, 5, 6, 1)).astype(np.float32) + 0.1
    moved, seen = np.asarray(shift(images, 2, KEY)), set()
    for image, result in zip(np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))), moved, strict=True):
        places = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(image[i : i + 5, j : j + 6], result)
        ]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) > 15
    np.testing.assert_array_equal(shift(images, 0, KEY), images)


@pytest.mark.long
def test_psnr_and_diversity_are_what_they_are_called():
    a, b, c, d = np.random.default_rng(0).random((4, 5, 6, 6, 3)).astype(np.float32)
    found = float(batch_psnr(a, b))
    assert found == pytest.approx(10 * np.log10(1 / np.mean((a - b) ** 2)), rel=1e-5)
    found = float(diversity(a, b, c, d))
    assert found == pytest.approx(np.mean(rms(a - b) / (rms(c - d) + 1e-7)), rel=1e-5)
    collapsed = jax.grad(lambda x: diversity(a, b, x, c))(jnp.asarray(c))
    assert np.isfinite(collapsed).all(), 'equal patterns must not end the training'


@pytest.mark.long
def test_a_secret_is_written_before_it_is_hidden():
    graph, params, stats = built(Steganography, (8, 8, 1), 5, WIDTH)
    loss, metrics, grads = call(HideSecret(graph, 5, image=1e4), params, stats)
    assert metrics['bit_accuracy'] < 0.75
    assert 0.4 < loss < 2, 'a fresh decoder guesses, and the image counts for nothing yet'
    assert norm_of(grads['encoder']) > 0
    easy = params | {'decoder': jax.tree.map(jnp.zeros_like, params['decoder'])}
    easy['decoder']['head']['bias'] = jnp.full(5, 20.0)  # says 1, whatever it is shown
    blank = BATCH | {'image': np.zeros_like(BATCH['image'])}
    loss, metrics, _ = call(HideSecret(graph, 5, image=100.0), easy, stats, batch=blank)
    secrets = np.asarray(jax.random.bernoulli(jax.random.split(KEY)[0], 0.5, (ROWS, 5)), np.float64)
    residual = forward(
        graph,
        easy,
        stats,
        lambda net, x, bits: net.encoder(x, bits),
        np.zeros((ROWS, 8, 8, 1)),
        secrets,
    )
    right = secrets.mean()
    weight = 100 * np.clip((right - 0.75) / 0.2, 0, 1)
    wanted = (
        np.log1p(np.exp(20 * np.where(secrets > 0.5, -1, 1))).mean()
        + weight * np.square(residual).mean()
    )
    assert metrics['bit_accuracy'] == pytest.approx(right)
    assert loss == pytest.approx(wanted, rel=1e-4)


@pytest.mark.long
def test_a_mask_pays_for_its_density_and_for_sameness():
    graph, params, stats = built(TriggerUNet, 1, 1, WIDTH)
    params['leave']['bias'] = params['leave']['bias'] + 0.5
    loss, metrics, _ = call(FitMask(graph, density=0.03, norm=100.0, diversity=2.0), params, stats)
    masks = sharp(forward(graph, params, stats, lambda net, x: net(x), UNIT - 0.5))
    apart = rms(UNIT - np.roll(UNIT, 1, 0)) / (rms(masks - np.roll(masks, 1, 0)) + 1e-7)
    assert metrics['density'] == pytest.approx(masks.mean(), rel=1e-3)
    assert loss == pytest.approx(
        100 * np.maximum(masks - 0.03, 0).mean() + 2 * apart.mean(), rel=1e-3
    )


@pytest.mark.long
def test_input_aware_batches_are_poison_cross_and_clean():
    """Loss by hand: row 0 carries its own trigger and the target, rows 1 and 2 another image's and
    their labels.
    """
    mask_graph, mask, mask_stats = built(TriggerUNet, 1, 1, WIDTH, seed=7)
    mask['leave']['bias'] = mask['leave']['bias'] + 0.5
    graph, params, stats = built(Attacker, unet, resnet)
    frozen = {'params': mask, 'stats': mask_stats}
    task = FitInputAware(
        graph, mask_graph, frozen, target=2, poison=0.125, cross=0.25, diversity=0.5
    )
    loss, metrics, grads = call(task, params, stats, frozen)
    givers = np.stack([UNIT[0], UNIT[0], UNIT[1], UNIT[-1]])
    patterns = (
        np.tanh(forward(graph, params, stats, lambda net, x: net.generator(x), givers - 0.5)) + 1
    ) / 2
    m = sharp(forward(mask_graph, mask, mask_stats, lambda net, x: net(x), givers - 0.5))
    stamped = np.rint(255 * (UNIT[:3] + (patterns[:3] - UNIT[:3]) * m[:3])) / 255
    mixed = np.concatenate([stamped, UNIT[3:]])
    logits = forward(graph, params, stats, lambda net, x: net.classifier(x, train=True), mixed)
    apart = rms(UNIT[:1] - UNIT[-1:]) / (rms(patterns[:1] - patterns[-1:]) + 1e-7)
    labels = BATCH['label'].copy()
    labels[0] = 2
    assert loss == pytest.approx(entropy(logits, labels) + 0.5 * apart.mean(), rel=2e-3)
    assert metrics['accuracy'] == pytest.approx(np.mean(np.argmax(logits[3:], -1) == labels[3:]))
    assert norm_of(grads['generator']) > 0
    with pytest.raises(UserError, match='cross'):
        FitInputAware(graph, mask_graph, frozen, target=2, poison=0.6, cross=0.5, diversity=1.0)


@pytest.mark.long
def test_lira_weighs_clean_against_triggered():
    graph, params, stats = built(Attacker, unet, resnet)
    loss, metrics, grads = call(FitLira(graph, target=1, epsilon=0.1, alpha=0.3), params, stats)
    output = forward(graph, params, stats, lambda net, x: net.generator(x), UNIT - 0.5)
    stamped = np.rint(255 * np.clip(UNIT + 0.1 * np.tanh(output), 0, 1)) / 255
    both = np.concatenate([UNIT, stamped])
    clean, hit = np.split(
        forward(graph, params, stats, lambda net, x: net.classifier(x, train=True), both), 2
    )
    goals = np.ones(ROWS, np.int32)
    assert loss == pytest.approx(
        0.3 * entropy(clean, BATCH['label']) + 0.7 * entropy(hit, goals), rel=2e-3
    )
    found = metrics['psnr']
    assert found == pytest.approx(10 * np.log10(1 / np.mean((UNIT - stamped) ** 2)), abs=0.05)
    assert norm_of(grads['generator']) > 0
    with pytest.raises(UserError, match='alpha'):
        FitLira(graph, target=1, epsilon=0.1, alpha=1.5)


@pytest.mark.parametrize('shape', [(16, 16, 1), (9, 14, 3)])
def test_a_field_has_low_frequencies_alone(shape):
    """By SciPy's DCT: what lies above the cutoff is only rounding, what lies below is not."""
    field = forward(*built(Field, shape, 4, seed=2), lambda net: net())
    assert field.min() == 0
    assert field.max() == pytest.approx(1)
    spectrum = np.abs(scipy.fft.dctn(field, axes=(0, 1), norm='ortho'))
    order = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))
    assert spectrum[order > 4].max() < 1e-5 * spectrum[order <= 4].max()
    assert (spectrum[(order <= 4) & (order > 0)] > 1e-3).mean() > 0.9


@pytest.mark.long
def test_a_field_is_judged_by_the_surrogate_on_images_of_other_classes():
    graph, params, stats = built(Field, (8, 8, 1), 3, seed=2)
    surrogate_graph, weights, surrogate_stats = built(ResNetOf, 'group', seed=5)
    frozen = {'params': weights, 'stats': surrogate_stats}
    loss, metrics, grads = call(
        FitField(graph, surrogate_graph, frozen, target=0, amplitude=0.2), params, stats, frozen
    )
    field = forward(graph, params, stats, lambda net: net())
    stamped = np.rint(255 * np.clip(UNIT + 0.2 * field, 0, 1)) / 255
    others = BATCH['label'] != 0
    logits = forward(
        surrogate_graph,
        weights,
        surrogate_stats,
        lambda net, x: net(x, train=False),
        stamped[others],
    )
    assert loss == pytest.approx(entropy(logits, np.zeros(others.sum(), np.int32)), rel=2e-3)
    assert metrics['success'] == pytest.approx(np.mean(np.argmax(logits, -1) == 0))
    assert norm_of(grads) > 0


@pytest.mark.long
def test_adversarial_training_sees_harder_images_in_the_ball():
    graph, params, stats = built(ResNetOf, 'group')
    clean, _, _ = call(Classify(graph), params, stats)
    hard, _, _ = call(Adversarial(graph, eps=16.0, step=4.0, iterations=4), params, stats)
    start, _, _ = call(Adversarial(graph, eps=16.0, step=4.0, iterations=0), params, stats)
    still, _, _ = call(Adversarial(graph, eps=0.0, step=4.0, iterations=4), params, stats)
    assert still == pytest.approx(clean, rel=1e-4)
    assert start != clean, 'the ascent starts at random'
    assert hard > max(clean, start) + 0.01


def test_adversarial_training_shows_the_statistics_each_batch_once():
    graph, params, stats = built(ResNetOf, 'batch')
    tasks = Classify(graph), Adversarial(graph, eps=1.0, step=1.0, iterations=4)
    plain, hard = (
        jax.jit(lambda task=task: task(params, stats, (), BATCH, KEY)[1][0])() for task in tasks
    )
    apart, once = (
        jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), x, plain))
        for x in (hard, stats)
    )
    assert 0 < max(apart) < 0.2 * max(once)


def test_the_ascent_finds_the_corner_of_the_ball():
    """For a linear loss the maximum is known: eps in the direction of every sign, cut to [0, 1]."""
    slope = np.random.default_rng(3).normal(size=(4, 4, 1)).astype(np.float32)
    images = np.random.default_rng(4).random((4, 4, 1)).astype(np.float32)
    got = ascend(lambda x: jnp.asarray(slope), images, images, eps=0.3, step=0.1, iterations=5)
    np.testing.assert_allclose(got, np.clip(images + 0.3 * np.sign(slope), 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    'bad', [{'eps': -1.0}, {'step': 0.0}, {'iterations': -1}, {'label_smoothing': 1.0}]
)
def test_adversarial_refuses_numbers_out_of_range(bad):
    graph = built(ResNetOf, 'group')[0]
    with pytest.raises(UserError, match=next(iter(bad))):
        Adversarial(graph, **({'eps': 8.0, 'step': 2.0, 'iterations': 2} | bad))
