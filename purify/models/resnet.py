"""Residual networks (He et al. 2015, arXiv:1512.03385; pre-activation: He et al. 2016, arXiv:1603.05027).

Layer for layer those of torchvision (bottlenecks stride at their 3x3 convolution) and, for 'preact', that of
BackdoorBench, which has no norm after the last block. One detail differs from PyTorch: the running variance is the
biased one (divided by n, not n - 1).
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from purify.core.errors import UserError
from purify.core.registry import Registry

STEMS = ('small', 'imagenet')
GROUPS = 8  # of channels, per image, with norm='group'

_conv_init = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')
_head_init = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # U(-1/sqrt(d), 1/sqrt(d)), as in torch


class Norm(nnx.Module):
    """Batch norm over the global batch (momentum .9, epsilon 1e-5), or group norm; computed and kept in f32."""

    def __init__(self, channels: int, kind: str, *, rngs: nnx.Rngs):
        if kind == 'batch':
            self.layer = nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, rngs=rngs)
        else:
            groups = math.gcd(GROUPS, channels)
            self.layer = nnx.GroupNorm(channels, groups, epsilon=1e-5, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`x: [b h w c]` -> the same shape and type; `train` uses and records the statistics of the batch."""
        layer = self.layer
        normed = layer(x, use_running_average=not train) if isinstance(layer, nnx.BatchNorm) else layer(x)
        return normed.astype(x.dtype)


class Conv(nnx.Conv):
    """A square convolution without bias, padded by the same (size - 1) // 2 on all sides, as PyTorch does.

    'SAME' would pad strided convolutions on the right and below only.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        pad = (size - 1) // 2
        super().__init__(
            inputs,
            outputs,
            (size, size),
            strides=(stride, stride),
            padding=((pad, pad), (pad, pad)),
            use_bias=False,
            kernel_init=_conv_init,
            dtype=dtype,
            rngs=rngs,
        )


class PostBlock(nnx.Module):
    """conv-norm-relu twice ('basic') or three times ('bottleneck': 1x1, 3x3, 1x1), added to the shortcut, relu."""

    def __init__(self, inputs: int, width: int, stride: int, norm: str, *, kind: str, dtype: DTypeLike, rngs: nnx.Rngs):
        if kind == 'basic':
            plan = [(inputs, width, 3, stride), (width, width, 3, 1)]
        else:
            plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        self.outputs = plan[-1][1]
        self.convs = nnx.List([Conv(*step, dtype=dtype, rngs=rngs) for step in plan])
        self.norms = nnx.List([Norm(step[1], norm, rngs=rngs) for step in plan])
        reshape = stride != 1 or inputs != self.outputs
        self.shortcut = Conv(inputs, self.outputs, 1, stride, dtype=dtype, rngs=rngs) if reshape else None
        self.shortcut_norm = Norm(self.outputs, norm, rngs=rngs) if reshape else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`x: [b h w inputs]` -> `[b h/stride w/stride outputs]`."""
        y = x
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(jax.nn.relu(y) if number else y), train)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x), train)
        return jax.nn.relu(x + y)


class PreBlock(nnx.Module):
    """norm-relu-conv twice, added to the shortcut; a shortcut convolution reads the first relu and has no norm."""

    def __init__(self, inputs: int, width: int, stride: int, norm: str, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.outputs = width
        self.norms = nnx.List([Norm(channels, norm, rngs=rngs) for channels in (inputs, width)])
        plan = [(inputs, width, 3, stride), (width, width, 3, 1)]
        self.convs = nnx.List([Conv(*step, dtype=dtype, rngs=rngs) for step in plan])
        reshape = stride != 1 or inputs != width
        self.shortcut = Conv(inputs, width, 1, stride, dtype=dtype, rngs=rngs) if reshape else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`x: [b h w inputs]` -> `[b h/stride w/stride outputs]`."""
        y = jax.nn.relu(self.norms[0](x, train))
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = self.convs[0](y)
        y = self.convs[1](jax.nn.relu(self.norms[1](y, train)))
        return x + y


BLOCKS = {
    'basic': functools.partial(PostBlock, kind='basic'),
    'bottleneck': functools.partial(PostBlock, kind='bottleneck'),
    'preact': PreBlock,
}


class ResNet(nnx.Module):
    """A residual network for images of any size.

    `stages` holds the number of blocks per stage; each stage after the first halves the image and doubles `width`.
    `channels` are those of the image. Stem 'small' is a 3x3 convolution, 'imagenet' a 7x7 of stride 2 and a max pool.
    `mean` and `std` normalise the input, one number for all channels or one each. `dtype` is what convolutions compute
    in; parameters, norms, pooling and the logits stay f32. Raises `UserError` for settings it does not know.
    """

    def __init__(
        self,
        *,
        stages: tuple[int, ...],
        block: str,
        num_classes: int,
        channels: int,
        width: int = 64,
        stem: str = 'small',
        norm: str = 'batch',
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        for name, word, words in (('block', block, BLOCKS), ('stem', stem, STEMS), ('norm', norm, ('batch', 'group'))):
            if word not in words:
                raise UserError(f'unknown {name} {word!r} of a ResNet. Choose from: {", ".join(sorted(words))}.')
        if not stages or min(*stages, num_classes, channels, width) < 1:
            raise UserError(
                f'a ResNet with stages={stages}, num_classes={num_classes}, channels={channels}, width={width} has no '
                'layers to build. Set each to 1 or more.'
            )
        if {len(mean), len(std)} - {1, channels} or min(std) <= 0:
            raise UserError(
                f'mean={mean} and std={std} must hold one number, or one for each of the {channels} channels, and std '
                'numbers above 0.'
            )
        self.channels = channels
        self.mean, self.std = tuple(mean), tuple(std)
        size, stride = (7, 2) if stem == 'imagenet' else (3, 1)
        self.stem = Conv(channels, width, size, stride, dtype=dtype, rngs=rngs)
        self.stem_norm = None if block == 'preact' else Norm(width, norm, rngs=rngs)
        self.pools = stem == 'imagenet'
        blocks, outputs = [], width
        for stage, depth in enumerate(stages):
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(BLOCKS[block](outputs, width * 2**stage, stride, norm, dtype=dtype, rngs=rngs))
                outputs = blocks[-1].outputs
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(outputs, num_classes, kernel_init=_head_init, bias_init=_head_bias(outputs), rngs=rngs)

    def features(self, images: jax.Array, *, train: bool) -> jax.Array:
        """`images: f32[b h w c] in [0, 1]` -> the pooled output of the last block, `f32[b d]`."""
        if images.shape[-1] != self.channels:
            raise UserError(
                f'images of shape {images.shape} have {images.shape[-1]} channels, the network was built for '
                f'{self.channels}. Build it with the channels of the dataset.'
            )
        x = (images - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
        x = self.stem(x)
        if self.stem_norm is not None:
            x = jax.nn.relu(self.stem_norm(x, train))
        if self.pools:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        for block in self.blocks:
            x = block(x, train)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """`images: f32[b h w c] in [0, 1]` -> logits `f32[b classes]`; `train` updates the running statistics."""
        return self.head(self.features(images, train=train))


def _head_bias(features: int) -> nnx.Initializer:
    """U(-1/sqrt(features), 1/sqrt(features)), as torch.nn.Linear."""
    bound = features**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


NETWORKS = Registry(
    'network',
    resnet=ResNet,
    resnet18=functools.partial(ResNet, stages=(2, 2, 2, 2), block='basic'),
    resnet34=functools.partial(ResNet, stages=(3, 4, 6, 3), block='basic'),
    resnet50=functools.partial(ResNet, stages=(3, 4, 6, 3), block='bottleneck'),
    resnet101=functools.partial(ResNet, stages=(3, 4, 23, 3), block='bottleneck'),
    resnet152=functools.partial(ResNet, stages=(3, 8, 36, 3), block='bottleneck'),
    preact_resnet18=functools.partial(ResNet, stages=(2, 2, 2, 2), block='preact'),
)
