"""EfficientNet (Tan and Le 2019, arXiv:1905.11946), layer for layer that of torchvision."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from purify.core.errors import UserError
from purify.models.classifiers.classifier import (
    ClassifierNetwork,
    Conv,
    Norm,
    check_chances,
    drop,
    symmetric,
)
from purify.models.diffusers.config_checks import is_positive

# Of B0, table 1: widening inside a block, kernel size, stride of the first block, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM = 32  # channels of B0's first convolution
LAST = 4  # the last convolution widens the last stage by as much
_WIDEST = 16  # times B0; the widest published network (L2) has 4.3 times its channels
SQUEEZE = 4  # the gate of a block has its inputs' channels, divided by as much


def widened(channels: int, factor: float) -> int:
    """Widens to channels * factor, as a multiple of 8 not below nine tenths of it (section 5)."""
    goal = channels * factor
    near = max(8, int(goal + 4) // 8 * 8)
    return near + 8 if near < 0.9 * goal else near


class Gate(nnx.Module):
    """Squeeze and excitation (Hu 2018): a small network scales each channel by the means of all."""

    def __init__(self, channels: int, inner: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.squeeze = Conv(channels, inner, 1, 1, bias=True, dtype=dtype, rngs=rngs)
        self.excite = Conv(inner, channels, 1, 1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales the channels of `x: [b h w c]`."""
        means = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        return x * jax.nn.sigmoid(self.excite(jax.nn.silu(self.squeeze(means))))


class Inverted(nnx.Module):
    """An inverted bottleneck (Sandler 2018): 1x1 wider, depthwise convolution, gate, 1x1 back.

    The shortcut has no layers. In training the whole branch is dropped from an image with
    probability `rate` (stochastic depth, Huang 2016).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expand: int,
        size: int,
        stride: int,
        rate: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        inner = widened(inputs, expand)
        plan = [(inputs, inner, 1, 1)] if inner != inputs else []
        self.widen = nnx.List([Conv(*step, dtype=dtype, rngs=rngs) for step in plan])
        self.widen_norms = nnx.List([Norm(inner, 'batch', rngs=rngs) for _ in plan])
        self.depthwise = Conv(inner, inner, size, stride, groups=inner, dtype=dtype, rngs=rngs)
        self.depthwise_norm = Norm(inner, 'batch', rngs=rngs)
        self.gate = Gate(inner, max(1, inputs // SQUEEZE), dtype=dtype, rngs=rngs)
        self.project = Conv(inner, outputs, 1, 1, dtype=dtype, rngs=rngs)
        self.project_norm = Norm(outputs, 'batch', rngs=rngs)
        self.adds = stride == 1 and inputs == outputs
        self.rate = rate

    def __call__(self, x: jax.Array, train: bool, key: jax.Array | None) -> jax.Array:
        """Applies the block: `x: [b h w inputs]` -> `[b h/stride w/stride outputs]`."""
        y = x
        for conv, norm in zip(self.widen, self.widen_norms, strict=True):
            y = jax.nn.silu(norm(conv(y), train))
        y = jax.nn.silu(self.depthwise_norm(self.depthwise(y), train))
        y = self.project_norm(self.project(self.gate(y)), train)
        return x + drop(y, self.rate, train, key, whole=True) if self.adds else y


class EfficientNet(ClassifierNetwork):
    """EfficientNet-B0 with `width` times the channels and `depth` times the blocks.

    B4 is 1.4 and 1.8. `dropout` is of the features, `drop_path` of the last block's branch (the
    first block's is 0, between them it grows evenly). `dtype` is what convolutions compute in;
    parameters, norms, pooling and the logits stay f32. For images of any size, made for those of
    224 px (B0) and 380 px (B4): it halves them five times.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        width: float = 1.0,
        depth: float = 1.0,
        dropout: float = 0.2,
        drop_path: float = 0.2,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        dtype: DTypeLike = 'float32',
        rngs: nnx.Rngs,
    ):
        for name, factor in (('width', width), ('depth', depth)):
            if not is_positive(factor) or factor > _WIDEST:
                raise UserError(
                    f'an EfficientNet with {name}={factor!r}: set it above 0, up to {_WIDEST}.'
                )
        check_chances('EfficientNet', dropout=dropout, drop_path=drop_path)
        super().__init__(num_classes=num_classes, channels=channels, mean=mean, std=std)
        outputs = widened(STEM, width)
        self.stem = Conv(channels, outputs, 3, 2, dtype=dtype, rngs=rngs)
        self.stem_norm = Norm(outputs, 'batch', rngs=rngs)
        depths = tuple(math.ceil(stage[-1] * depth) for stage in STAGES)
        blocks = []
        for (expand, size, stride, base, _), count in zip(STAGES, depths, strict=True):
            for number in range(count):
                inputs, outputs = outputs, widened(base, width)
                shape = {'expand': expand, 'size': size, 'stride': 1 if number else stride}
                rate = drop_path * len(blocks) / sum(depths)
                blocks.append(Inverted(inputs, outputs, **shape, rate=rate, dtype=dtype, rngs=rngs))
        self.stages = depths
        self.blocks = nnx.List(blocks)
        self.last = Conv(outputs, LAST * outputs, 1, 1, dtype=dtype, rngs=rngs)
        self.last_norm = Norm(LAST * outputs, 'batch', rngs=rngs)
        self.dropout = dropout
        init = symmetric(num_classes**-0.5)
        self.head = nnx.Linear(LAST * outputs, num_classes, kernel_init=init, rngs=rngs)

    def enter(self, images: jax.Array, train: bool) -> jax.Array:
        """Applies the stem."""
        return jax.nn.silu(self.stem_norm(self.stem(images), train))

    def group(self, number: int, x: jax.Array, train: bool, key: jax.Array | None) -> jax.Array:
        """Applies a stage; the last ends in the last convolution."""
        for place in self.members(number):
            own = None if key is None else jax.random.fold_in(key, place)
            x = self.blocks[place](x, train, own)
        if number == len(self.stages) - 1:
            x = jax.nn.silu(self.last_norm(self.last(x), train))
        return x

    def pool(self, maps: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Means over the image, some of them dropped in training."""
        return drop(maps.mean((1, 2)), self.dropout, train, key)
