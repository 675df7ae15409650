from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.models.diffusers import blocks
from purify.models.diffusers.attention import attend, takes_flash


def draw(q=(2, 5, 3, 8), kv=(2, 7, 3, 8), dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return [
        jax.random.normal(key, shape, dtype) for key, shape in zip(keys, (q, kv, kv), strict=True)
    ]


def by_hand(q, k, v, causal=False):
    """In float64, one head of one image at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for image, head in np.ndindex(q.shape[0], q.shape[2]):
        scores = q[image, :, head] @ k[image, :, head].T / np.sqrt(q.shape[-1])
        if causal:
            scores[np.triu_indices(len(scores), 1, scores.shape[1])] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[image, :, head] = weights / weights.sum(axis=-1, keepdims=True) @ v[image, :, head]
    return out


@pytest.mark.long
@pytest.mark.parametrize('causal', [False, True])
def test_attention_by_hand(causal):
    q, k, v = draw()
    np.testing.assert_allclose(attend(q, k, v, causal=causal), by_hand(q, k, v, causal), atol=1e-6)


@pytest.mark.long
def test_bfloat16_keeps_its_type_and_a_float32_softmax():
    # a bfloat16 sum stops growing at 256
    q, k, v = draw(q=(1, 3, 1, 8), kv=(1, 600, 1, 8), dtype=jnp.bfloat16)
    out = attend(q * 0, k, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), by_hand(q * 0, k, v), atol=5e-3)


@pytest.mark.parametrize('causal', [False, True])
def test_one_key_gets_all_the_weight(causal):
    q, k, v = draw(kv=(2, 1, 3, 8))
    np.testing.assert_allclose(attend(q, k, v, causal=causal), by_hand(q, k, v, causal), atol=1e-6)
    assert attend(q.astype(jnp.bfloat16), k, v).dtype == jnp.bfloat16


@pytest.mark.parametrize('run', [lambda f: f, jax.jit])
def test_float16_on_cpus(run):
    q, k, v = draw(dtype=jnp.float16)
    out = run(attend)(q, k, v)
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(out, np.float32), by_hand(q, k, v), atol=2e-3)


@pytest.fixture
def gpu(monkeypatch):
    """A process that has an NVIDIA GPU as jax shows it: cuDNN refuses heads of odd sizes.

    Its kernel is told from XLA's by doubling what comes out. Holds the device, and the shapes that
    cuDNN was asked to take, in trials and in programs.
    """
    asked, device = [], SimpleNamespace(platform='gpu', compute_capability='9.0')
    real = jax.nn.dot_product_attention

    def fake(q, k, v, *, is_causal, implementation):
        if implementation == 'xla':
            return real(q, k, v, is_causal=is_causal, implementation='xla')
        if q.shape[-1] % 8:
            raise NotImplementedError('The head dim must be a multiple of 8')
        asked.append(q.shape)
        return 2 * real(q, k, v, is_causal=is_causal, implementation='xla')

    monkeypatch.setattr(jax.nn, 'dot_product_attention', fake)
    monkeypatch.setattr(jax, 'local_devices', lambda: [device])
    takes_flash.cache_clear()
    yield SimpleNamespace(device=device, asked=asked)
    takes_flash.cache_clear()


def takes(platform, *rows, attend=attend):
    """Which kernel the program for a platform takes: the fake cuDNN's doubles its answer."""
    fresh = jax.jit(lambda *rows: attend(*rows))  # jit remembers what it traced of a function
    program = fresh.trace(*rows).lower(lowering_platforms=(platform,)).as_text()
    return 'cudnn' if 'dense<2.000000e+00>' in program else 'xla'


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_the_kernel_follows_the_platform_of_the_program_not_that_of_the_host(gpu, dtype):
    rows = draw(dtype=dtype)
    assert [takes(name, *rows) for name in ('cuda', 'cpu', 'tpu', 'rocm')] == [
        'cudnn',
        *['xla'] * 3,
    ]
    out = np.asarray(attend(*rows), np.float32)
    np.testing.assert_allclose(out, by_hand(*rows), atol=0.05)  # here, on a CPU


def test_cudnn_is_tried_once_for_each_shape(gpu):
    rows = draw(dtype=jnp.bfloat16)
    for _ in range(2):
        attend(*rows)
    assert len(gpu.asked) == 1
    attend(*rows, causal=True)
    assert len(gpu.asked) == 2


def test_what_cudnn_refuses_goes_to_xla(gpu):
    odd = draw(q=(2, 5, 3, 12), kv=(2, 7, 3, 12), dtype=jnp.bfloat16)
    assert takes('cuda', *odd) == takes('cuda', *draw()) == 'xla'  # and float32
    assert not gpu.asked


@pytest.mark.parametrize(
    ('capability', 'taken'),
    [('8.0', 'cudnn'), ('10.0', 'cudnn'), ('7.5', 'xla'), ('gfx90a', 'xla'), (None, 'xla')],
)
def test_gpus_before_ampere_and_of_other_makers_take_xla(gpu, capability, taken):
    gpu.device.compute_capability = capability
    if capability is None:
        del gpu.device.compute_capability
    assert takes('cuda', *draw(dtype=jnp.float16)) == taken


def test_without_a_gpu_programs_are_for_a_new_one(gpu):
    gpu.device.platform, gpu.device.compute_capability = 'cpu', None
    assert takes('cuda', *draw(dtype=jnp.bfloat16)) == 'cudnn'


def test_attention_blocks_go_through_it(gpu):
    block = blocks.Attention(
        16, head_dim=8, groups=None, eps=1e-5, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    assert takes('cuda', jnp.ones((1, 2, 2, 16)), attend=block) == 'cudnn'
    assert takes('cpu', jnp.ones((1, 2, 2, 16)), attend=block) == 'xla'
