import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.meshes import mesh_of

from purify.core.convolution import convolve as fast_convolve
from purify.models.diffusers.attention import attend
from purify.train.flops import compile_counted, count_by_type, count_flops

F32 = jnp.float32
SQUARE = jax.ShapeDtypeStruct((8, 8), F32)
PRODUCT = 2 * 8**3  # of two 8 x 8 matrices


def shaped(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


def counted(function, *args):
    return count_flops(jax.jit(function).trace(*args).jaxpr)


def convolve(x, kernel, **options):
    options = {
        'window_strides': (1, 1),
        'padding': 'SAME',
        'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'),
    } | options
    return lax.conv_general_dilated(x, kernel, **options)


@pytest.mark.parametrize(
    ('formula', 'left', 'right', 'expected'),
    [
        ('ij,jk->ik', (3, 5), (5, 7), 2 * 3 * 5 * 7),
        ('bij,bjk->bik', (2, 3, 5), (2, 5, 7), 2 * 2 * 3 * 5 * 7),
        ('bthd,bshd->bhts', (2, 3, 4, 5), (2, 6, 4, 5), 2 * 2 * 4 * 3 * 6 * 5),
        ('ijk,jkl->il', (2, 3, 4), (3, 4, 5), 2 * 2 * 5 * 3 * 4),
    ],
)
def test_products_of_matrices(formula, left, right, expected):
    found = counted(functools.partial(jnp.einsum, formula), shaped(*left), shaped(*right))
    assert found == expected


@pytest.mark.parametrize(
    ('kernel', 'options', 'outputs'),
    [
        ((3, 3, 6, 10), {}, 2 * 8 * 8 * 10),
        ((3, 3, 6, 10), {'window_strides': (2, 2)}, 2 * 4 * 4 * 10),
        ((3, 3, 2, 12), {'feature_group_count': 3}, 2 * 8 * 8 * 12),
        ((1, 1, 6, 10), {'padding': 'VALID'}, 2 * 8 * 8 * 10),
        ((3, 3, 6, 10), {'rhs_dilation': (2, 2)}, 2 * 8 * 8 * 10),
    ],
)
def test_convolutions(kernel, options, outputs):
    got = counted(functools.partial(convolve, **options), shaped(2, 8, 8, 6), shaped(*kernel))
    assert got == 2 * outputs * kernel[0] * kernel[1] * kernel[2]


def test_channels_first_kernels_count_the_same():
    layout = {'dimension_numbers': ('NCHW', 'OIHW', 'NCHW')}
    got = counted(functools.partial(convolve, **layout), shaped(2, 6, 8, 8), shaped(10, 6, 3, 3))
    assert got == 2 * (2 * 8 * 8 * 10) * 9 * 6


@pytest.mark.parametrize('options', [{}, {'window_strides': (2, 2)}, {'feature_group_count': 2}])
def test_both_derivatives_of_a_convolution_cost_what_it_costs_itself(options):
    x, kernel = shaped(2, 16, 16, 4), shaped(3, 3, 4 // options.get('feature_group_count', 1), 8)
    forward = counted(functools.partial(convolve, **options), x, kernel)
    both = counted(jax.grad(lambda x, k: (convolve(x, k, **options) ** 2).sum(), (0, 1)), x, kernel)
    assert both == 3 * forward > 0


def test_a_scan_counts_as_often_as_it_runs():
    def chain(x):
        def outer(x, _):
            return lax.fori_loop(0, 5, lambda _, y: y @ y, x), None

        return lax.scan(outer, x, None, length=7)[0]

    assert counted(chain, SQUARE) == 35 * PRODUCT


def test_a_while_loop_of_unknown_length_counts_once():
    assert (
        counted(
            lambda x: lax.while_loop(lambda y: (y @ y)[0, 0] > 0, lambda y: y @ y @ y, x), SQUARE
        )
        == 3 * PRODUCT
    )


def test_of_branches_the_most_costly_counts():
    branches = (lambda y: y, lambda y: y @ y @ y, lambda y: y @ y)
    found = counted(lambda i, x: lax.switch(i, branches, x), shaped(dtype=jnp.int32), SQUARE)
    assert found == 2 * PRODUCT


def in_a_scan(body):
    return lambda x: lax.scan(lambda x, _: (body(x), None), x, None, length=3)[0]


def in_a_while_loop(body):
    return lambda x: lax.while_loop(lambda x: x[0, 0] > 0, body, x)


def in_a_cond(body):
    return lambda x: lax.cond(x[0, 0] > 0, body, lambda x: x, x)


def on_four_devices(body):
    mesh = mesh_of(4)
    return jax.shard_map(body, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)


@pytest.mark.parametrize(
    ('wrap', 'runs'),
    [
        (lambda f: f, 1),
        (jax.jit, 1),
        (jax.checkpoint, 1),
        (in_a_scan, 3),
        (in_a_while_loop, 1),
        (in_a_cond, 1),
        (on_four_devices, 4),
        (lambda f: on_four_devices(jax.jit(in_a_scan(f))), 12),
    ],
)
def test_what_no_output_depends_on_counts_for_nothing(wrap, runs):
    def body(x):
        dead = jax.jit(lambda x: (x @ x, x + 1))(x)  # only the sum is asked for
        return x @ x + dead[1]

    assert counted(wrap(body), SQUARE) == runs * PRODUCT


def test_a_dead_product_in_a_scan_is_dropped_with_what_carries_it():
    def step(carry, _):
        used, unused = carry
        return (used @ used, unused @ used), unused @ unused

    assert counted(lambda x: lax.scan(step, (x, x), None, length=5)[0][0], SQUARE) == 5 * PRODUCT
    assert counted(lambda x: lax.scan(step, (x, x), None, length=5), SQUARE) == 15 * PRODUCT


@jax.custom_vjp
def twice(x):
    return x @ x


twice.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))


@jax.custom_jvp
def square(x):
    return x @ x


square.defjvp(lambda x, t: (x[0] @ x[0], t[0] @ x[0] + x[0] @ t[0]))


@pytest.mark.parametrize(
    'wrap', [jax.jit, jax.checkpoint, lambda f: lambda x: twice(x), lambda f: lambda x: square(x)]
)
def test_calls_are_looked_into(wrap):
    function = wrap(lambda x: x @ x)
    assert counted(lambda x: function(x) + 1, SQUARE) == PRODUCT
    if wrap is not jax.checkpoint:  # which makes the product again
        assert counted(jax.grad(lambda x: function(x).sum()), SQUARE) in (2 * PRODUCT, 3 * PRODUCT)


def test_the_count_is_that_of_all_devices_and_a_share_is_that_of_one():
    mesh = jax.make_mesh((4, 2), ('data', 'other'), (AxisType.Auto,) * 2)
    x, w = jnp.ones((16, 8)), jnp.ones((8, 8))
    whole = 2 * 16 * 8 * 8
    spread = NamedSharding(mesh, P('data'))
    assert counted(jax.jit(jnp.matmul, in_shardings=(spread, None)), x, w) == whole
    split = {'mesh': mesh, 'in_specs': (P('data'), P()), 'out_specs': P('data')}
    assert counted(jax.shard_map(jnp.matmul, **split, axis_names={'data'}), x, w) == whole
    # on both axes the other four devices do the same work again
    assert counted(jax.shard_map(jnp.matmul, **split), x, w) == 2 * whole
    program, flops = compile_counted(jax.jit(jnp.matmul).trace(x, w), devices=4)
    assert flops == whole / 4
    np.testing.assert_array_equal(program(x, w), np.full((16, 8), 8))


@pytest.mark.parametrize('layout', [0, 1])
@pytest.mark.parametrize(('name', 'products'), [('fwd_wrapper', 2), ('bwd_wrapper', 5)])
def test_fused_attention_counts_by_its_shapes(name, products, layout):
    # stands in for cuDNN's, which only a GPU lets us trace
    kernel = Primitive(f'dot_product_attention_{name}')
    kernel.def_abstract_eval(lambda q, k, v, *, layout: q)
    b, t, s, n, h = 2, 24, 6, 4, 8
    query, key = ((b, t, n, h), (b, s, n, h)) if layout == 0 else ((b, n, t, h), (b, n, s, h))
    got = counted(lambda q, k: kernel.bind(q, k, k, layout=layout), shaped(*query), shaped(*key))
    assert got == products * 2 * b * n * t * s * h


def test_jaxs_own_attention_counts_by_its_shapes():
    b, t, s, n, h = 2, 24, 6, 4, 8
    got = counted(
        lambda q, k: jax.nn.dot_product_attention(q, k, k), shaped(b, t, n, h), shaped(b, s, n, h)
    )
    assert got == 4 * b * n * t * s * h


def test_agrees_with_xla_on_a_small_network_without_loops():
    def network(x, kernels, weight, padding='SAME'):
        for kernel in kernels:
            x = jax.nn.relu(convolve(x, kernel, padding=padding))
        return x.mean((1, 2)) @ weight

    args = shaped(4, 48, 48, 8), [shaped(3, 3, 8, 16), shaped(3, 3, 16, 16)], shaped(16, 10)
    forward = functools.partial(network, padding='VALID')
    gradient = jax.grad(lambda *args: (network(*args) ** 2).sum(), (1, 2))
    # XLA leaves out the border of zeros: a share of (2 / (3 x 48)) on each axis
    for function, border in ((forward, 1.0), (gradient, (1 - 2 / 144) ** 2)):
        program, flops = compile_counted(jax.jit(function).trace(*args), devices=1)
        assert flops * border == pytest.approx(program.cost_analysis()['flops'], rel=0.02)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_products_are_of_the_type_that_the_platform_multiplies(dtype):
    images, kernel = shaped(2, 8, 8, 64, dtype=dtype), shaped(3, 3, 64, 64, dtype=dtype)
    traced = jax.jit(lambda *given: fast_convolve(*given, (1, 1), 'SAME')).trace(images, kernel)
    flops = 2 * 2 * 8 * 8 * 64 * 64 * 9
    for platform in ('cuda', 'tpu', ''):
        assert count_by_type(traced.jaxpr, platform) == {dtype: flops}
    assert set(count_by_type(traced.jaxpr, 'cpu')) == {'float32'}
    tokens = shaped(2, 16, 4, 160, dtype=dtype)  # too wide a head for cuDNN's kernel
    traced = jax.jit(attend).trace(tokens, tokens, tokens)
    assert count_by_type(traced.jaxpr, 'cuda') == {dtype: 2 * 2 * 2 * 4 * 16 * 16 * 160}
