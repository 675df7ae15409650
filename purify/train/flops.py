"""Floating-point operations of a traced program, counted from its jaxpr.

XLA's own count (`compiled.cost_analysis()`) takes the body of a loop once, however often it runs,
and a cuDNN kernel for nothing, so a sampling chain seems to cost what one of its steps does, or
less.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jax.extend import core
from jax.interpreters import partial_eval

from purify.core.types import Facts

# + fwd, bwd, and suffixes that change with jax's versions
CUDNN_ATTENTION = 'dot_product_attention_'


Jaxpr = core.ClosedJaxpr | core.Jaxpr


def count_flops(jaxpr: Jaxpr) -> float:
    """Counts the FLOPs of a jaxpr over all devices, as twice its multiply-adds.

    Matrix products, convolutions and attention count. A scan's body counts as often as it runs, of
    a cond the most costly branch; where the platform decides, what all but CPUs do. A while loop
    whose length only the data know (`lax.while_loop`; a `fori_loop` of fixed length is a scan)
    counts once: such a count is a lower bound. What is computed twice to save memory
    (`jax.checkpoint`) counts twice. Element-wise work, sums, norms and FFTs count for nothing, and
    so does what no output depends on: XLA leaves it out.

    Shapes under automatic sharding are those of the whole array; those inside a `shard_map` are one
    device's, so its body counts once for each device. Divide by the number of devices for one
    device's share.
    """
    return count_by_type(jaxpr).total()


def count_by_type(jaxpr: Jaxpr, platform: str = '') -> Counter[str]:
    """As `count_flops`, by the type of what is multiplied, such as 'bfloat16'.

    `platform` is the one that the program is for, by JAX's name of its compiler ('cuda', 'tpu').
    """
    whole = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    # Not in jax.extend, but in jax 0.8.1 to 0.11 without deprecation. Its rules reach into jit,
    # scan, cond, remat and shard_map; into the rest, like while, it is taken by being called here
    # for every body.
    alive, _ = partial_eval.dce_jaxpr(whole, [True] * len(whole.outvars))
    return sum((_equation_flops(equation, platform) for equation in alive.eqns), Counter())


def compile_counted(traced: Any, *, devices: int) -> tuple[Any, float]:
    """Compiles a traced program; counts FLOPs of one device per call."""
    return compile_traced(traced), count_flops(traced.jaxpr) / devices


def compile_traced(traced: Any, options: Facts | None = None) -> Any:
    """Compiles a traced program; `options` are XLA's."""
    with warnings.catch_warnings():
        # Arguments that no output has the shape of cannot be reused; that is fine.
        warnings.filterwarnings('ignore', 'Some donated buffers were not usable')
        return traced.lower().compile(options)


def _equation_flops(equation: core.JaxprEqn, platform: str) -> Counter[str]:
    name, params = equation.primitive.name, equation.params
    count = _attention_flops if name.startswith(CUDNN_ATTENTION) else _COUNTS.get(name)
    if count is not None:
        aval: Any = equation.invars[0].aval
        return Counter({str(aval.dtype): count(equation)})
    inside = partial(count_by_type, platform=platform)
    if name == 'cond' and (platforms := params.get('branches_platforms')):
        own = [at for at, names in enumerate(platforms) if names and platform in names]
        return inside(params['branches'][(own or [platforms.index(None)])[0]])
    if name == 'cond':
        return max(map(inside, params['branches']), key=Counter.total)
    body = sum(map(inside, _inner(params)), Counter())
    times = {'scan': lambda: params['length'], 'shard_map': lambda: _shards(params)}
    repeats = times[name]() if name in times else 1
    return Counter({kind: flops * repeats for kind, flops in body.items()})


def _inner(params: Facts) -> Iterator[core.ClosedJaxpr | core.Jaxpr]:
    """The jaxprs an equation calls: jit, remat, custom derivatives, loops."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr | core.Jaxpr):
                yield item


def _shards(params: Facts) -> int:
    """How many devices run a shard_map's body; automatic axes have whole arrays inside."""
    sizes = dict(params['mesh'].shape)
    # the name changed with jax 0.10
    manual = params.get('newly_manual_axes', params.get('manual_axes', sizes))
    return math.prod(sizes[axis] for axis in manual)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _matrix_flops(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params['dimension_numbers']
    left, outputs = _shape(equation.invars[0]), math.prod(_shape(equation.outvars[0]))
    return 2.0 * outputs * math.prod(left[axis] for axis in contracted)


def _convolution_flops(equation: core.JaxprEqn) -> float:
    """Each output value takes one product per tap and input channel of its group.

    The border of zeros counts as if it were image (as in the papers' tables). The zeros between the
    rows of a dilated input, where the derivative of a strided convolution comes from, do not.
    """
    kernel, layout = _shape(equation.invars[1]), equation.params['dimension_numbers'].rhs_spec
    # The kernel's input channels are those of one group.
    taps = math.prod(kernel[axis] for axis in layout[1:])
    outputs = math.prod(_shape(equation.outvars[0]))
    return 2.0 * outputs * taps / math.prod(equation.params['lhs_dilation'])


def _attention_flops(equation: core.JaxprEqn) -> float:
    """Two products forwards; five backwards, where the weights are made again.

    Masked pairs count like the others.
    """
    query, key, value = map(_shape, equation.invars[:3])
    # jax's AttentionLayout: 0 is [b t n h]
    tokens, heads = (2, 1) if equation.params.get('layout', 0) == 1 else (1, 2)
    pairs = query[0] * query[heads] * query[tokens] * key[tokens]
    times_qk, times_v = (3, 2) if '_bwd' in equation.primitive.name else (1, 1)
    return 2.0 * pairs * (times_qk * query[-1] + times_v * value[-1])


_COUNTS: dict[str, Callable[[core.JaxprEqn], float]] = {
    'dot_general': _matrix_flops,
    'conv_general_dilated': _convolution_flops,
}
