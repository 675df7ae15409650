import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from purify.core.errors import UserError
from purify.models.classifiers.resnet import ResNet
from purify.train.objectives.tasks import (
    Classify,
    Distill,
    cross_entropy,
    distillation_loss,
    resize_to,
    signed_images,
)
from purify.train.state import split_network


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ('alpha', 'tau', 'ce_temperature'),
    [(0.5, 5.0, 1.0), (0.5, 10.0, 10.0), (1.0, 2.0, 1.0), (0.0, 2.0, 3.0)],
)
def test_distillation_loss_is_equations_2_and_3(alpha, tau, ce_temperature):
    rng = np.random.default_rng(0)
    student = rng.normal(size=(6, 10)) * 3
    teacher = rng.normal(size=(6, 10)) * 3
    labels = rng.integers(0, 10, 6)
    soft = -(tau**2) * (softmax(teacher / tau) * np.log(softmax(student / tau))).sum(-1).mean()
    hard = -np.log(softmax(student / ce_temperature)[np.arange(6), labels]).mean()
    got = distillation_loss(
        jnp.array(student),
        jnp.array(teacher),
        jnp.array(labels),
        alpha=alpha,
        tau=tau,
        ce_temperature=ce_temperature,
    )
    assert float(got) == pytest.approx(alpha * soft + (1 - alpha) * hard, rel=1e-5)


@pytest.mark.long
def test_no_gradient_reaches_the_teacher():
    labels = jnp.zeros(2, jnp.int32)
    settings = {'alpha': 0.5, 'tau': 5.0, 'ce_temperature': 1.0}
    gradient = jax.grad(lambda t: distillation_loss(jnp.ones((2, 3)), t, labels, **settings))(
        jnp.arange(6.0).reshape(2, 3)
    )
    assert float(jnp.abs(gradient).max()) == 0


def test_label_smoothing_mixes_with_uniform():
    logits, labels = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([0])
    log_p = np.log(softmax(np.asarray(logits, np.float64)))[0]
    wanted = -(0.9 * log_p[0] + 0.1 * log_p.mean())
    assert float(cross_entropy(logits, labels, 0.1)) == pytest.approx(wanted, rel=1e-6)


def small(norm='batch'):
    build = {'stages': (1,), 'block': 'basic', 'num_classes': 3, 'channels': 1, 'width': 8}
    build |= {'norm': norm}
    return split_network(ResNet(**build, rngs=nnx.Rngs(0)))


BATCH = {
    'image': np.random.default_rng(1).integers(0, 256, (4, 8, 8, 1), np.uint8),
    'label': np.array([0, 1, 2, 0], np.int32),
    'id': np.arange(4),
}


@pytest.mark.long
def test_classify_updates_the_running_statistics():
    graph, params, stats = small()
    _, (new, metrics) = Classify(graph)(params, stats, (), BATCH, jax.random.key(0))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), stats, new)
    assert max(jax.tree.leaves(moved)) > 1e-4
    assert 0 <= float(metrics['accuracy']) <= 1


@pytest.mark.long
def test_distill_sees_the_teacher_in_evaluation_mode_on_the_same_view():
    """The loss equals the one computed from eval-mode teacher logits of the very same images."""
    graph, params, stats = small()
    other = split_network(
        ResNet(stages=(1,), block='basic', num_classes=3, channels=1, width=8, rngs=nnx.Rngs(7))
    )
    frozen = {'params': other[1], 'stats': jax.tree.map(lambda x: x + 0.5, other[2])}
    task = Distill(graph, other[0], frozen, alpha=0.5, tau=5.0, ce_temperature=1.0)
    loss, _ = task(params, stats, frozen, BATCH, jax.random.key(0))
    images = BATCH['image'].astype(np.float32) / 255
    teacher = nnx.merge(other[0], frozen['params'], frozen['stats'])(images, train=False)
    student = nnx.merge(graph, params, stats)(images, train=True)
    wanted = distillation_loss(
        student, teacher, BATCH['label'], alpha=0.5, tau=5.0, ce_temperature=1.0
    )
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize('bad', [{'alpha': 1.5}, {'tau': 0.0}, {'ce_temperature': -1.0}])
def test_distill_refuses_numbers_out_of_range(bad):
    with pytest.raises(UserError, match=rf'distill: {next(iter(bad))}='):
        Distill(
            small()[0], small()[0], (), **({'alpha': 0.5, 'tau': 5.0, 'ce_temperature': 1.0} | bad)
        )


@pytest.mark.long
def test_images_reach_the_networks_scale_and_size():
    images = signed_images(jnp.array([[[[0], [255]]]], jnp.uint8))
    assert np.asarray(images).ravel() == pytest.approx([-1.0, 1.0])
    assert resize_to(jnp.ones((2, 8, 8, 3)), 4).shape == (2, 4, 4, 3)
    same = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert (resize_to(same, 4) == same).all()


def test_resizing_leaves_no_pixel_brighter_than_white():
    """A white band on black; Pillow's bicubic filter on 8 bits (it clips) is the second source."""
    band = np.zeros((16, 16), np.uint8)
    band[:, 5:11] = 255
    made = np.asarray(resize_to(signed_images(jnp.asarray(band[None, ..., None])), 64))[0, ..., 0]
    assert (made.min(), made.max()) == (-1.0, 1.0)
    pillow = (
        np.asarray(Image.fromarray(band).resize((64, 64), Image.Resampling.BICUBIC), np.float32)
        / 127.5
        - 1
    )
    assert np.abs(made - pillow).max() < 0.01
