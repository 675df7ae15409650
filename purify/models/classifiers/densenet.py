"""DenseNet-BC (Huang et al. 2016, arXiv:1608.06993), layer for layer that of torchvision."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from purify.core.errors import UserError
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
from purify.models.diffusers.config_checks import is_number

_kernel_init = nnx.initializers.he_normal()


class DenseLayer(nnx.Module):
    """Twice norm-relu-conv (1x1 to `inner` channels, 3x3 to `growth`), appended to its input."""

    def __init__(
        self, inputs: int, inner: int, growth: int, norm: str, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.norms = nnx.List([Norm(channels, norm, rngs=rngs) for channels in (inputs, inner)])
        plan = [(inputs, inner, 1, 1), (inner, growth, 3, 1)]
        conv = functools.partial(Conv, kernel_init=_kernel_init, dtype=dtype, rngs=rngs)
        self.convs = nnx.List([conv(*step) for step in plan])

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the layer: `x: [b h w inputs]` -> `[b h w inputs + growth]`."""
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(jax.nn.relu(norm(y, train)))
        return jnp.concatenate([x, y], -1)


class Transition(nnx.Module):
    """A 1x1 norm-relu-conv to fewer channels, then 2 x 2 means; drops an odd last row or column."""

    def __init__(self, inputs: int, outputs: int, norm: str, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = Norm(inputs, norm, rngs=rngs)
        self.conv = Conv(inputs, outputs, 1, 1, kernel_init=_kernel_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Halves images: `x: [b h w inputs]` -> `[b h/2 w/2 outputs]`."""
        return nnx.avg_pool(self.conv(jax.nn.relu(self.norm(x, train))), (2, 2), strides=(2, 2))


class DenseNet(ClassifierNetwork):
    """A DenseNet for images of any size that its halvings do not use up.

    `stages` holds the number of layers per stage, each of which adds `growth` channels and is
    `bottleneck` times as wide inside; between stages `compression` of the channels are kept and the
    image is halved. Stem 'small' is the paper's for 32 px: a 3x3 convolution; 'imagenet' a 7x7 of
    stride 2, norm, relu and a max pool; both to 2 `growth` channels. `dtype` is what convolutions
    compute in; parameters, norms, pooling and the logits stay f32. Raises `UserError` for settings
    it does not know and images too small.
    """

    def __init__(
        self,
        *,
        stages: tuple[int, ...],
        num_classes: int,
        channels: int,
        growth: int = 32,
        bottleneck: int = 4,
        compression: float = 0.5,
        stem: str = 'small',
        norm: str = 'batch',
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        dtype: DTypeLike = 'float32',
        rngs: nnx.Rngs,
    ):
        for name, word, words in (('stem', stem, STEMS), ('norm', norm, NORMS)):
            check_word('DenseNet', name, word, words)
        check_stages('DenseNet', stages)
        if not is_number(compression) or not 0 < compression <= 1:
            raise UserError(f'a DenseNet with compression={compression!r}: set it in (0, 1].')
        sizes = {'growth': growth, 'bottleneck': bottleneck}
        super().__init__(num_classes=num_classes, channels=channels, mean=mean, std=std, **sizes)
        outputs, (size, stride) = 2 * growth, (7, 2) if stem == 'imagenet' else (3, 1)
        conv = functools.partial(Conv, kernel_init=_kernel_init, dtype=dtype, rngs=rngs)
        self.stem = conv(channels, outputs, size, stride)
        self.stem_norm = Norm(outputs, norm, rngs=rngs) if stem == 'imagenet' else None
        self.stages = tuple(stages)
        blocks, transitions = [], []
        for stage, depth in enumerate(stages):
            if stage:
                inputs, outputs = outputs, int(outputs * compression)
                transitions.append(Transition(inputs, outputs, norm, dtype=dtype, rngs=rngs))
            for _ in range(depth):
                inner = bottleneck * growth
                blocks.append(DenseLayer(outputs, inner, growth, norm, dtype=dtype, rngs=rngs))
                outputs += growth
        self.blocks, self.transitions = nnx.List(blocks), nnx.List(transitions)
        self.last_norm = Norm(outputs, norm, rngs=rngs)
        head_init = symmetric(outputs**-0.5)
        self.head = nnx.Linear(outputs, num_classes, kernel_init=head_init, rngs=rngs)

    def enter(self, images: jax.Array, train: bool) -> jax.Array:
        """Applies the stem."""
        x = self.stem(images)
        if self.stem_norm is not None:
            x = jax.nn.relu(self.stem_norm(x, train))
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        if min(x.shape[1:3]) < 2 ** len(self.transitions):
            shrinks = 1 if self.stem_norm is None else 4
            smallest = shrinks * (2 ** len(self.transitions) - 1) + 1
            raise UserError(
                f'images of {images.shape[1]} x {images.shape[2]} px are too small for a DenseNet'
                f' of {len(self.stages)} stages '
                f'with this stem. Use images of {smallest} px or more, fewer stages, or'
                " stem='small'."
            )
        return x

    def group(self, number: int, x: jax.Array, train: bool, key: jax.Array | None) -> jax.Array:
        """Applies a transition and a stage; the last ends in a norm and relu."""
        x = self.transitions[number - 1](x, train) if number else x
        for place in self.members(number):
            x = self.blocks[place](x, train)
        return jax.nn.relu(self.last_norm(x, train)) if number == len(self.transitions) else x
