"""Improved DDPM's network written down a second time, as a walk over the names of a checkpoint, in
the arrays of `Numbers`.

Blocks are told apart by the names inside them. `Numbers` computes in float64 NumPy; a twin of it in
another library gives another reference.
"""

import itertools

import numpy as np


class Numbers:
    """Images f64[b c h w]."""

    @staticmethod
    def array(value):
        return np.asarray(value, np.float64)

    cat, einsum = staticmethod(lambda parts: np.concatenate(parts, axis=1)), staticmethod(np.einsum)

    @staticmethod
    def silu(x):
        return x / (1 + np.exp(-x))

    @staticmethod
    def softmax(x):
        weights = np.exp(x - x.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    @staticmethod
    def conv(x, weight, bias, stride=1):
        margin = weight.shape[-1] // 2
        x = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[
            :, :, ::stride, ::stride
        ]
        return np.einsum('bchwij,ocij->bohw', windows, weight) + bias[:, None, None]

    @staticmethod
    def norm(x, weight, bias):
        groups = x.reshape(len(x), 32, -1)
        groups = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(
            groups.var(-1, keepdims=True) + 1e-5
        )
        shape = (-1,) + (1,) * (x.ndim - 2)
        return groups.reshape(x.shape) * weight.reshape(shape) + bias.reshape(shape)

    @staticmethod
    def twice(x):
        return x.repeat(2, 2).repeat(2, 3)


def run(state, x, t, *, heads, steps, rescale, lib=Numbers):
    """The network's answer [b 2c h w] to x [b c h w] at timesteps t [b]."""
    state = {name: lib.array(value) for name, value in state.items()}
    x, width = lib.array(x), len(state['input_blocks.0.0.bias'])
    told = np.asarray(t, np.float64) * (1000 / steps if rescale else 1)
    angles = told[:, None] * 10000.0 ** (-np.arange(width // 2) / (width // 2))
    emb = linear(
        lib, state, 'time_embed.0', lib.array(np.concatenate([np.cos(angles), np.sin(angles)], 1))
    )
    emb = linear(lib, state, 'time_embed.2', lib.silu(emb))
    left = []
    for place in blocks(state, 'input_blocks'):
        x = block(lib, state, place, x, emb, heads)
        left.append(x)
    x = block(lib, state, 'middle_block', x, emb, heads)
    for place in blocks(state, 'output_blocks'):
        x = block(lib, state, place, lib.cat([x, left.pop()]), emb, heads)
    return lib.conv(lib.silu(lib.norm(x, *at(state, 'out.0'))), *at(state, 'out.2'))


def at(state, place):
    return state[f'{place}.weight'], state[f'{place}.bias']


def linear(lib, state, place, x):
    weight, bias = at(state, place)
    return lib.einsum('bi,oi->bo', x, weight) + bias


def blocks(state, side):
    numbers = sorted({int(name.split('.')[1]) for name in state if name.startswith(side)})
    return [f'{side}.{number}' for number in numbers]


def block(lib, state, place, x, emb, heads):
    parts = {
        int(name.removeprefix(f'{place}.').split('.')[0])
        for name in state
        if name.startswith(f'{place}.')
    }
    for part in sorted(parts):
        here = f'{place}.{part}'
        inside = {
            name.removeprefix(f'{here}.').rpartition('.')[0]
            for name in state
            if name.startswith(f'{here}.')
        }
        if 'in_layers.0' in inside:
            x = residual(lib, state, here, x, emb)
        elif 'qkv' in inside:
            x = attention(lib, state, here, x, heads)
        elif 'op' in inside:
            x = lib.conv(x, *at(state, f'{here}.op'), stride=2)
        elif 'conv' in inside:
            x = lib.conv(lib.twice(x), *at(state, f'{here}.conv'))
        else:
            x = lib.conv(x, *at(state, here))
    return x


def residual(lib, state, here, x, emb):
    h = lib.conv(
        lib.silu(lib.norm(x, *at(state, f'{here}.in_layers.0'))), *at(state, f'{here}.in_layers.2')
    )
    time = linear(lib, state, f'{here}.emb_layers.1', lib.silu(emb))[:, :, None, None]
    if time.shape[1] == 2 * h.shape[1]:  # modulates after the norm
        h = lib.norm(h, *at(state, f'{here}.out_layers.0'))
        h = h * (1 + time[:, : h.shape[1]]) + time[:, h.shape[1] :]
    else:
        h = lib.norm(h + time, *at(state, f'{here}.out_layers.0'))
    h = lib.conv(lib.silu(h), *at(state, f'{here}.out_layers.3'))
    return (
        lib.conv(x, *at(state, f'{here}.skip_connection'))
        if f'{here}.skip_connection.weight' in state
        else x
    ) + h


def attention(lib, state, here, x, heads):
    b, c, height, width = x.shape
    pixels = x.reshape(b, c, height * width)
    weight, bias = at(state, f'{here}.qkv')
    packed = (
        lib.einsum('bct,oc->bot', lib.norm(pixels, *at(state, f'{here}.norm')), weight[..., 0])
        + bias[:, None]
    )
    q, k, v = (packed.reshape(b, heads, 3, c // heads, -1)[:, :, part] for part in range(3))
    weights = lib.softmax(lib.einsum('bhct,bhcs->bhts', q, k) / (c // heads) ** 0.5)
    out = lib.einsum('bhts,bhcs->bhct', weights, v).reshape(b, c, -1)
    weight, bias = at(state, f'{here}.proj_out')
    return (pixels + lib.einsum('bct,oc->bot', out, weight[..., 0]) + bias[:, None]).reshape(
        x.shape
    )


def random_state(
    seed=0,
    *,
    base=32,
    mult=(1, 2, 3),
    layers=1,
    attends=(1, 2),
    modulates=True,
    learned=True,
    channels=3,
    empty=False,
):
    """Random numbers (`empty`: one zero for all) of Improved DDPM's names and shapes."""
    rng, state = np.random.default_rng(seed), {}

    def put(place, outputs, *inputs):
        if empty:
            state[f'{place}.weight'] = np.broadcast_to(np.float32(0), (outputs, *inputs))
            state[f'{place}.bias'] = np.broadcast_to(np.float32(0), outputs)
            return
        scale = (2 / max(1, np.prod(inputs))) ** 0.5 if inputs else 0.3
        state[f'{place}.weight'] = rng.normal(0 if inputs else 1, scale, (outputs, *inputs)).astype(
            np.float32
        )
        state[f'{place}.bias'] = rng.normal(0, 0.3, outputs).astype(np.float32)

    def residual_block(place, inputs, outputs):
        put(f'{place}.in_layers.0', inputs)
        put(f'{place}.in_layers.2', outputs, inputs, 3, 3)
        put(f'{place}.emb_layers.1', outputs * (1 + modulates), 4 * base)
        put(f'{place}.out_layers.0', outputs)
        put(f'{place}.out_layers.3', outputs, outputs, 3, 3)
        if inputs != outputs:
            put(f'{place}.skip_connection', outputs, inputs, 1, 1)

    def attention_block(place, width):
        put(f'{place}.norm', width)
        put(f'{place}.qkv', 3 * width, width, 1)
        put(f'{place}.proj_out', width, width, 1)

    put('time_embed.0', 4 * base, base)
    put('time_embed.2', 4 * base, 4 * base)
    put('input_blocks.0.0', base, channels, 3, 3)
    width, left, number = base, [base], itertools.count(1)
    for level, times in enumerate(mult):
        for _ in range(layers):
            place = f'input_blocks.{next(number)}'
            residual_block(f'{place}.0', width, times * base)
            width = times * base
            if level in attends:
                attention_block(f'{place}.1', width)
            left.append(width)
        if level < len(mult) - 1:
            put(f'input_blocks.{next(number)}.0.op', width, width, 3, 3)
            left.append(width)
    residual_block('middle_block.0', width, width)
    attention_block('middle_block.1', width)
    residual_block('middle_block.2', width, width)
    number = itertools.count()
    for level in reversed(range(len(mult))):
        for layer in range(layers + 1):
            place = f'output_blocks.{next(number)}'
            residual_block(f'{place}.0', width + left.pop(), mult[level] * base)
            width = mult[level] * base
            if level in attends:
                attention_block(f'{place}.1', width)
            if level and layer == layers:
                put(f'{place}.{1 + (level in attends)}.conv', width, width, 3, 3)
    put('out.0', width)
    put('out.2', channels * (1 + learned), width, 3, 3)
    return state
