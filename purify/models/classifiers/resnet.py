"""Residual networks (He et al. 2015, arXiv:1512.03385; pre-activation: 2016, arXiv:1603.05027).

Layer for layer those of torchvision (bottlenecks stride at their 3x3 convolution) and, for
'preact', that of BackdoorBench, which has no norm after the last block.
"""

import functools

import jax
from flax import nnx
from jax.typing import DTypeLike

from purify.models.classifiers.classifier import (
    NORMS,
    STEMS,
    ClassifierNetwork,
    Conv,
    Norm,
    check_stages,
    check_word,
    symmetric,
)

# U(-1/sqrt(d), 1/sqrt(d)), as in torch.
_head = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class PostBlock(nnx.Module):
    """Twice conv-norm-relu ('basic') or 1x1, 3x3, 1x1 ('bottleneck'), the shortcut added, relu."""

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        norm: str,
        *,
        kind: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if kind == 'basic':
            plan = [(inputs, width, 3, stride), (width, width, 3, 1)]
        else:
            plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        self.outputs = plan[-1][1]
        self.convs = nnx.List([Conv(*step, dtype=dtype, rngs=rngs) for step in plan])
        self.norms = nnx.List([Norm(step[1], norm, rngs=rngs) for step in plan])
        reshape = stride != 1 or inputs != self.outputs
        self.shortcut = (
            Conv(inputs, self.outputs, 1, stride, dtype=dtype, rngs=rngs) if reshape else None
        )
        self.shortcut_norm = Norm(self.outputs, norm, rngs=rngs) if reshape else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the block: `x: [b h w inputs]` -> `[b h/stride w/stride outputs]`."""
        y = x
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(jax.nn.relu(y) if number else y), train)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x), train)
        return jax.nn.relu(x + y)


class PreBlock(nnx.Module):
    """Twice norm-relu-conv, plus a shortcut, whose convolution reads the first relu, unnormed."""

    def __init__(
        self, inputs: int, width: int, stride: int, norm: str, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.outputs = width
        self.norms = nnx.List([Norm(channels, norm, rngs=rngs) for channels in (inputs, width)])
        plan = [(inputs, width, 3, stride), (width, width, 3, 1)]
        self.convs = nnx.List([Conv(*step, dtype=dtype, rngs=rngs) for step in plan])
        reshape = stride != 1 or inputs != width
        self.shortcut = Conv(inputs, width, 1, stride, dtype=dtype, rngs=rngs) if reshape else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the block: `x: [b h w inputs]` -> `[b h/stride w/stride outputs]`."""
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


class ResNet(ClassifierNetwork):
    """A residual network for images of any size.

    Raises `UserError` for settings it does not know.

    Args:
      stages: the number of blocks of each stage; every stage after the first halves the image and
        doubles the channels.
      block: 'basic', 'bottleneck' or 'preact'.
      width: channels of the first stage.
      stem: 'small' is a 3x3 convolution, 'imagenet' a 7x7 of stride 2 and a max pool.
      norm: 'batch' or 'group'.
      dtype: what convolutions compute in; parameters, norms, pooling and the logits stay f32.
      num_classes: how many logits there are.
      channels: of the images.
      mean: what is subtracted of each channel of an image in [0, 1]; one number for all, or one
        each.
      std: what is divided by then.
      rngs: draws the first weights.
    """

    def __init__(
        self,
        *,
        stages: tuple[int, ...] = (1, 1, 1),
        block: str = 'preact',
        num_classes: int,
        channels: int,
        width: int = 64,
        stem: str = 'small',
        norm: str = 'batch',
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        dtype: DTypeLike = 'float32',
        rngs: nnx.Rngs,
    ):
        check_word('ResNet', 'block', block, BLOCKS)
        check_word('ResNet', 'stem', stem, STEMS)
        check_word('ResNet', 'norm', norm, NORMS)
        check_stages('ResNet', stages)
        sizes = {'num_classes': num_classes, 'channels': channels, 'width': width}
        super().__init__(**sizes, mean=mean, std=std)
        size, stride = (7, 2) if stem == 'imagenet' else (3, 1)
        self.stem = Conv(channels, width, size, stride, dtype=dtype, rngs=rngs)
        self.stem_norm = None if block == 'preact' else Norm(width, norm, rngs=rngs)
        self.pools = stem == 'imagenet'
        self.stages = tuple(stages)
        blocks, outputs = [], width
        for stage, depth in enumerate(stages):
            for number in range(depth):
                stride = 2 if stage and not number else 1
                wide = width * 2**stage
                blocks.append(BLOCKS[block](outputs, wide, stride, norm, dtype=dtype, rngs=rngs))
                outputs = blocks[-1].outputs
        self.blocks = nnx.List(blocks)
        bias = symmetric(outputs**-0.5)
        self.head = nnx.Linear(outputs, num_classes, kernel_init=_head, bias_init=bias, rngs=rngs)

    def enter(self, images: jax.Array, train: bool) -> jax.Array:
        """Applies the stem."""
        x = self.stem(images)
        if self.stem_norm is not None:
            x = jax.nn.relu(self.stem_norm(x, train))
        if self.pools:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        return x

    def group(self, number: int, x: jax.Array, train: bool, key: jax.Array | None) -> jax.Array:
        """Applies a stage; nothing is dropped."""
        for place in self.members(number):
            x = self.blocks[place](x, train)
        return x
