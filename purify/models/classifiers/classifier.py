"""What all classifier networks share: the interface, the normalisation of images, the layers."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from purify.core.convolution import convolve
from purify.core.errors import UserError
from purify.models.diffusers.config_checks import COUNT, DEEPEST, LEVELS, is_count, is_number
from purify.models.group_norm import GroupNorm

GROUPS = 8  # of channels, per image, with norm='group'
NORMS = ('batch', 'group')
STEMS = ('small', 'imagenet')  # a 3x3 convolution; a 7x7 of stride 2 and a max pool
Key = jax.Array | None

conv_init = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class ClassifierNetwork(nnx.Module):
    """Images to logits in three steps: `maps`, `pool` to features, `head`.

    Networks that drop units in training need a `key` then; the others ignore it. Raises
    `UserError` for settings that build nothing.

    The maps are made by `enter` and one `group` of layers after the other; `stages` holds how many
    blocks are in each group.

    Args:
      num_classes: how many logits there are.
      channels: of the images.
      mean: what is subtracted of each channel of an image in [0, 1]: one number for all, or one
        each.
      std: what is divided by then.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        **sizes: int,
    ):
        sizes |= {'num_classes': num_classes, 'channels': channels}
        if not all(map(is_count, sizes.values())):
            listed = ', '.join(f'{name}={size!r}' for name, size in sizes.items())
            raise UserError(
                f'a {type(self).__name__} with {listed} has no layers to build. Set each to'
                f' {COUNT}.'
            )
        listed = [isinstance(x, tuple | list) and all(map(is_number, x)) for x in (mean, std)]
        if not all(listed) or {len(mean), len(std)} - {1, channels} or min(std) <= 0:
            raise UserError(
                f'mean={mean!r} and std={std!r} must hold one number, or one for each of the'
                f' {channels} channels, and std numbers above 0.'
            )
        self.channels = channels
        self.mean, self.std = tuple(mean), tuple(std)

    head: nnx.Linear
    stages: tuple[int, ...]

    def enter(self, images: jax.Array, train: bool) -> jax.Array:
        """Turns normalised images into what the first group reads."""
        raise NotImplementedError

    def group(self, number: int, x: jax.Array, train: bool, key: jax.Array | None) -> jax.Array:
        """Runs group `number` (from 0) on the output [b h w d] of the one before it."""
        raise NotImplementedError

    def groups(
        self, images: jax.Array, *, train: bool, key: jax.Array | None = None, still: int = 0
    ) -> tuple[jax.Array, ...]:
        """The feature maps `f32[b h' w' d]` after each group; the last are `maps`.

        `images: f32[b h w c] in [0, 1]`. No gradient reaches the first `still` groups and what is
        before them; their running statistics move all the same. Raises `UserError` where there are
        fewer groups.
        """
        if not 0 <= still <= len(self.stages):
            raise UserError(
                f'the first {still} groups of layers were to stay as they are, but this'
                f' {type(self).__name__} has {len(self.stages)}. Choose from 0 to'
                f' {len(self.stages)}.'
            )
        x, maps = self.enter(self.normalise(images), train), []
        for number in range(len(self.stages)):
            x = self.group(number, x, train, key)
            x = jax.lax.stop_gradient(x) if number < still else x
            maps.append(x.astype(jnp.float32))
        return tuple(maps)

    def members(self, number: int) -> range:
        """The indices, among all blocks, of those of group `number`."""
        first = sum(self.stages[:number])
        return range(first, first + self.stages[number])

    def maps(self, images: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """The last feature maps, `f32[b h' w' d]`, of `images: f32[b h w c] in [0, 1]`."""
        return self.groups(images, train=train, key=key)[-1]

    def pool(self, maps: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Reduces the last feature maps to what the head reads, `f32[b d]`."""
        return maps.mean((1, 2))

    def features(self, images: jax.Array, *, train: bool, key: Key = None) -> jax.Array:
        """What the head reads, `f32[b d]`, of `images: f32[b h w c] in [0, 1]`."""
        body, neck = (None, None) if key is None else jax.random.split(key)
        return self.pool(self.maps(images, train=train, key=body), train=train, key=neck)

    def answer(
        self, images: jax.Array, *, train: bool, key: jax.Array | None = None, still: int = 0
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """One pass: the maps of all `groups`, and the logits that a call gives."""
        body, neck = (None, None) if key is None else jax.random.split(key)
        groups = self.groups(images, train=train, key=body, still=still)
        return groups, self.head(self.pool(groups[-1], train=train, key=neck))

    def __call__(self, images: jax.Array, *, train: bool, key: Key = None) -> jax.Array:
        """Logits `f32[b classes]` of images in [0, 1]; `train` updates the running statistics."""
        return self.head(self.features(images, train=train, key=key))

    def normalise(self, images: jax.Array) -> jax.Array:
        """Normalises images by mean and std; raises `UserError` for those of other channels."""
        if images.shape[-1] != self.channels:
            raise UserError(
                f'images of shape {images.shape} have {images.shape[-1]} channels, the network was'
                f' built for {self.channels}. Build it with the channels of the dataset.'
            )
        mean, std = (jnp.float32(x)[None, None, None] for x in (self.mean, self.std))  # [1 1 1 c]
        return (images - mean) / std


def check_stages(owner: str, stages: Any) -> None:
    """Raises `UserError` unless `stages` lists how many layers each stage has."""
    listed = isinstance(stages, tuple | list) and 0 < len(stages) <= LEVELS
    if not listed or not all(map(is_count, stages)) or sum(stages) > DEEPEST:
        raise UserError(
            f'a {owner} with stages={stages!r} has no layers to build, or too many. List 1 or more'
            f' for each of 1 to {LEVELS} stages, {DEEPEST} at most in all.'
        )


def check_chances(owner: str, **shares: Any) -> None:
    """Raises `UserError` unless all `shares` are numbers in [0, 1)."""
    for name, share in shares.items():
        if not is_number(share) or not 0 <= share < 1:
            raise UserError(f'a {owner} with {name}={share!r}: set it in [0, 1).')


def check_word(owner: str, name: str, word: Any, words: Iterable[str]) -> None:
    """Raises `UserError` where a setting that takes one of a few `words` holds anything else."""
    if word not in (choices := sorted(words)):
        raise UserError(f'unknown {name} {word!r} of a {owner}. Choose from: {", ".join(choices)}.')


class Norm(nnx.Module):
    """Batch norm over the global batch (momentum .9, epsilon 1e-5) or group norm, always in f32.

    Unlike in PyTorch the running variance is the biased one (divided by n, not by n - 1).
    """

    def __init__(self, channels: int, kind: str, *, rngs: nnx.Rngs):
        if kind == 'batch':
            self.layer = nnx.BatchNorm(
                channels, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, rngs=rngs
            )
        else:
            groups = math.gcd(GROUPS, channels)
            self.layer = GroupNorm(channels, groups, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises `x: [b h w c]`; `train` uses and records the statistics of the batch."""
        if isinstance(self.layer, nnx.BatchNorm):
            return self.layer(x, use_running_average=not train).astype(x.dtype)
        return self.layer(x).astype(x.dtype)


class Conv(nnx.Conv):
    """A square convolution, padded by the same (size - 1) // 2 on all sides, as PyTorch does.

    'SAME' would pad strided convolutions on the right and below only. `groups` cuts the channels
    into as many convolutions of their own. Kernels start as He's normal ones with the fan out,
    where `kernel_init` is not given.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        *,
        groups: int = 1,
        bias: bool = False,
        kernel_init: nnx.Initializer = conv_init,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        pad = (size - 1) // 2
        super().__init__(
            inputs,
            outputs,
            (size, size),
            strides=(stride, stride),
            padding=((pad, pad), (pad, pad)),
            feature_group_count=groups,
            use_bias=bias,
            kernel_init=kernel_init,
            dtype=dtype,
            conv_general_dilated=convolve,
            rngs=rngs,
        )


def symmetric(bound: float) -> nnx.Initializer:
    """An initializer that draws from U(-bound, bound)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def drop(x: jax.Array, rate: float, train: bool, key: Key, *, whole: bool = False) -> jax.Array:
    """Drops units or `whole` rows of a batch in training, scaling up the rest (Srivastava 2014)."""
    if not train or not rate:
        return x
    if key is None:
        raise ValueError(f'a network that drops {rate:.0%} of its units in training needs a key')
    kept = jax.random.bernoulli(key, 1 - rate, (len(x), *(1,) * (x.ndim - 1)) if whole else x.shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)
