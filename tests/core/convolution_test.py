"""Convolutions agree with JAX's own forwards and backwards, wherever they are called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.meshes import mesh_of

from purify.core import convolution
from purify.core.convolution import convolve

SAME = ((1, 1), (1, 1))
# images [b h w c], channels out, taps, strides, pads
CASES = {
    'pairs of rows': ((16, 8, 6, 48), 48, (3, 3), (1, 1), SAME),
    'an odd row': ((4, 7, 5, 64), 40, (3, 3), (1, 1), SAME),
    'uneven pads': ((4, 6, 8, 60), 44, (3, 3), (1, 1), ((3, 1), (1, 4))),
    'no pads': ((3, 6, 6, 50), 50, (3, 3), (1, 1), 'VALID'),
    'a row of taps': ((3, 6, 6, 50), 50, (3, 1), (1, 1), 'SAME'),
    'few channels': ((16, 6, 6, 3), 5, (3, 3), (1, 1), SAME),
    'one tap': ((4, 6, 6, 8), 5, (1, 1), (1, 1), ((0, 0), (0, 0))),
    'one tap, strided': ((4, 7, 6, 8), 5, (1, 1), (2, 2), ((0, 0), (0, 0))),
    'strided': ((8, 9, 8, 6), 5, (3, 3), (2, 2), SAME),
    'strided as flax pads': ((8, 8, 8, 6), 5, (3, 3), (2, 2), 'SAME'),
    'two strides': ((4, 9, 8, 6), 5, (3, 2), (2, 1), ((0, 1), (1, 0))),
    'a large window': ((2, 12, 12, 3), 4, (7, 7), (2, 2), ((3, 3), (3, 3))),
    'smaller than the window': ((4, 2, 2, 48), 50, (3, 3), (1, 1), SAME),
    'even taps': ((2, 6, 6, 4), 4, (4, 4), (1, 1), ((3, 3), (2, 4))),
}


def _plain(images, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=convolution.DIMENSIONS
    )


def _arrays(case):
    shape, outputs, taps, strides, pads = CASES[case]
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal(shape, np.float32))
    kernel = rng.standard_normal((*taps, shape[-1], outputs), np.float32)
    kernel = jnp.asarray(kernel / np.sqrt(np.prod(kernel.shape[:3])))  # answers of variance 1
    return images, kernel, strides, pads


@pytest.fixture
def small_pieces(monkeypatch):
    """As many pieces as there can be: one image a device."""
    monkeypatch.setattr(convolution, 'PIECE_BYTES', 1)
    convolution.convolve_row_pairs.clear_cache()
    convolution.kernel_gradient.clear_cache()
    yield
    convolution.convolve_row_pairs.clear_cache()
    convolution.kernel_gradient.clear_cache()


def _agrees(ours, plain, images, kernel):
    made, back = jax.vjp(ours, images, kernel)
    wanted, plain_back = jax.vjp(plain, images, kernel)
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    given = jnp.asarray(np.random.default_rng(1).standard_normal(made.shape, np.float32))
    for gradient, right in zip(back(given), plain_back(given), strict=True):
        np.testing.assert_allclose(gradient, right, atol=2e-5 * float(jnp.abs(right).max()))


@pytest.mark.parametrize('case', CASES)
def test_answers_and_gradients_are_those_of_jax(case):
    images, kernel, strides, pads = _arrays(case)
    how = {'strides': strides, 'padding': pads}
    _agrees(functools.partial(convolve, **how), functools.partial(_plain, **how), images, kernel)


@pytest.mark.usefixtures('small_pieces')
@pytest.mark.parametrize('case', ['pairs of rows', 'few channels', 'strided'])
def test_pieces_add_up(case):
    test_answers_and_gradients_are_those_of_jax(case)


def test_gradients_are_right_inside_a_loop():
    images, kernel, strides, pads = _arrays('pairs of rows')

    def repeated(step, images, kernel):
        turn = lambda x, _: (step(x, kernel, strides, pads), None)
        return jax.lax.scan(turn, images, None, length=3)[0]

    plain = functools.partial(repeated, _plain)
    _agrees(functools.partial(repeated, convolve), plain, images, kernel)


@pytest.mark.parametrize('options', [{'feature_group_count': 2}, {'rhs_dilation': (2, 2)}])
def test_others_are_left_to_jax(options):
    images = jnp.ones((2, 6, 6, 4))
    kernel = jnp.ones((3, 3, 4 // options.get('feature_group_count', 1), 4))
    made = convolve(images, kernel, (1, 1), 'SAME', **options)
    numbers = {'dimension_numbers': convolution.DIMENSIONS}
    wanted = jax.lax.conv_general_dilated(images, kernel, (1, 1), 'SAME', **options, **numbers)
    np.testing.assert_array_equal(made, wanted)


def _update(images, kernel):
    return jax.grad(lambda kernel: jnp.square(convolve(images, kernel, (1, 1), SAME)).sum())(kernel)


@pytest.mark.usefixtures('small_pieces')
def test_rows_stay_on_their_devices():
    images, kernel, *_ = _arrays('pairs of rows')
    mesh = mesh_of(8)
    rows = jax.device_put(images, NamedSharding(mesh, PartitionSpec('data')))
    copy = NamedSharding(mesh, PartitionSpec())
    program = jax.jit(_update, out_shardings=copy).lower(rows, jax.device_put(kernel, copy))
    compiled = program.compile()
    text = compiled.as_text()
    assert 'all-reduce' in text  # the gradient alone
    assert not any(word in text for word in ('all-gather', 'all-to-all', 'collective-permute'))
    np.testing.assert_allclose(
        compiled(rows, kernel), _update(images, kernel), rtol=1e-3, atol=1e-3
    )


def test_the_target_of_the_program_decides():
    images, kernel, *_ = _arrays('pairs of rows')
    traced = jax.jit(_update).trace(images, kernel)
    loops = {
        target: traced.lower(lowering_platforms=(target,)).as_text().count('dot_general')
        for target in ('cpu', 'cuda', 'tpu')
    }
    assert loops['cpu'] > 0
    assert loops['cuda'] == loops['tpu'] == 0


def test_half_precision_is_convolved_in_float32_on_cpus_alone():
    rng = np.random.default_rng(0)
    images, kernel = (
        jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)
        for shape in ((2, 8, 8, 64), (3, 3, 64, 64))
    )
    run = lambda images, kernel: convolve(images, kernel, (1, 1), 'SAME')
    found = run(images, kernel)
    assert found.dtype == jnp.bfloat16
    single = run(images.astype(jnp.float32), kernel.astype(jnp.float32))
    np.testing.assert_array_equal(found, single.astype(jnp.bfloat16))
    traced = jax.jit(run).trace(images, kernel)
    texts = {
        name: traced.lower(lowering_platforms=(name,)).as_text() for name in ('cpu', 'cuda', 'tpu')
    }
    halves = {
        name: any('convolution' in line and 'bf16' in line for line in text.splitlines())
        for name, text in texts.items()
    }
    assert halves == {'cpu': False, 'cuda': True, 'tpu': True}
    gradients = jax.grad(lambda *given: run(*given).astype(jnp.float32).sum(), (0, 1))
    for of, like in zip(gradients(images, kernel), (images, kernel), strict=True):
        assert of.dtype == like.dtype
        assert of.shape == like.shape
