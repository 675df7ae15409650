"""A small network that learns small photographs in few passes (Jordan 2024, arXiv:2404.00498).

It is airbench94's, without the average of views at the end: a first layer that whitens patches of
2x2 pixels and stays as it is, three groups of two convolutions that begin as the identity, and
norms without scales.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from purify.core.convolution import convolve
from purify.core.errors import UserError
from purify.models.classifiers.classifier import ClassifierNetwork, Conv, check_stages, symmetric

WHITENED_PX = 2  # side of the patches that the first layer whitens
EPSILON = 5e-4  # added to the variances of patches, as published
BIAS_GAIN = 8.0  # squared it is how much faster biases learn than weights: published 64
FLOOR = 1e-5  # added to the variances of norms; published 1e-12, which blows rounding up
ANSWER_SCALE = 1 / 9  # of what the head reads, as published


class Unlearned(nnx.Variable[jax.Array]):
    """An array that no gradient reaches."""


class Whitening(nnx.Module):
    """Turns patches into uncorrelated values of mean square one, and their negatives.

    Until `whiten` has seen images it is drawn at random. No gradient reaches the kernel.
    """

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        size = WHITENED_PX**2 * channels
        self.outputs, self.dtype = 2 * size, dtype
        shape = (WHITENED_PX, WHITENED_PX, channels, self.outputs)
        self.kernel = Unlearned(symmetric(size**-0.5)(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(self.outputs))

    def whiten(self, images: np.ndarray) -> None:
        """Sets the kernel to the eigenvectors of patches of images f32[n h w c], and minus these.

        Each is divided by the root of its mean square, from which, as published, no mean is taken;
        those along which no patch differs are zero.
        """
        size, count = self.outputs // 2, 0
        moments = np.zeros((size, size))
        for image in images:
            patches = np.lib.stride_tricks.sliding_window_view(
                image, (WHITENED_PX, WHITENED_PX), axis=(0, 1)
            )  # [h' w' c size size]
            rows = patches.transpose(0, 1, 3, 4, 2).reshape(-1, size).astype(np.float64)
            moments, count = moments + rows.T @ rows, count + len(rows)
        variances, vectors = np.linalg.eigh(moments / count)
        # What does not occur, such as colours of grey images, would be rounding alone.
        scale = np.where(variances > 1e-6 * variances[-1], variances + EPSILON, np.inf) ** -0.5
        scaled = vectors * scale
        kernel = np.concatenate([scaled, -scaled], 1).astype(np.float32)
        self.kernel[...] = jnp.asarray(kernel.reshape(self.kernel[...].shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Whitens [b h w c] -> [b h-1 w-1 outputs]."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        x = convolve(x, kernel, (1, 1), 'VALID')
        return x + self.bias[...].astype(self.dtype)[None, None, None]


class PlainNorm(nnx.Module):
    """Batch norm without a scale, in f32; its bias learns `BIAS_GAIN`^2 times faster under SGD."""

    def __init__(self, channels: int, momentum: float, *, rngs: nnx.Rngs):
        plain = {'use_bias': False, 'use_scale': False, 'dtype': jnp.float32}
        self.layer = nnx.BatchNorm(channels, momentum=momentum, epsilon=FLOOR, **plain, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises `x: [b h w c]`; `train` uses and records the statistics of the batch."""
        normed = self.layer(x, use_running_average=not train)
        return (normed + BIAS_GAIN * self.bias[...][None, None, None]).astype(x.dtype)


class Group(nnx.Module):
    """Convolution, pool by 2, norm, GELU, convolution, norm, GELU: [b h w c] -> [b h/2 w/2 d]."""

    def __init__(
        self, inputs: int, width: int, momentum: float, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        shapes = (inputs, width), (width, width)
        self.convs = nnx.List(
            [Conv(*shape, 3, 1, kernel_init=identity, dtype=dtype, rngs=rngs) for shape in shapes]
        )
        self.norms = nnx.List([PlainNorm(width, momentum, rngs=rngs) for _ in shapes])

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the group."""
        x = jax.nn.gelu(self.norms[0](halve(self.convs[0](x)), train))
        return jax.nn.gelu(self.norms[1](self.convs[1](x), train))


def identity(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws a kernel [kh kw c d] whose first c outputs are the inputs as they are."""
    high, wide, inputs, outputs = shape
    kernel = symmetric((high * wide * inputs) ** -0.5)(key, shape, dtype)
    same = min(inputs, outputs)
    kept = jnp.zeros((high, wide, inputs, same), dtype)
    kept = kept.at[high // 2, wide // 2, jnp.arange(same), jnp.arange(same)].set(1)
    return kernel.at[..., :same].set(kept)


def halve(x: jax.Array) -> jax.Array:
    """The largest of every 2x2 pixels, [b h w c] -> [b h/2 w/2 c]; an odd last row is left out.

    By slices, because XLA's CPU backend takes long for the gradient of a pool.
    """
    high, wide = (size // 2 * 2 for size in x.shape[1:3])
    rows = larger(x[:, 0:high:2], x[:, 1:high:2])
    return larger(rows[:, :, 0:wide:2], rows[:, :, 1:wide:2])


def larger(x: jax.Array, other: jax.Array) -> jax.Array:
    """The larger of two arrays [...], NaN if one is, with the gradient to the one that was taken.

    `jnp.maximum` and `max` find it again by equality. A compiler that rounds a value otherwise the
    second time then loses the gradient, or makes it NaN.
    """
    return jnp.where((x >= other) | jnp.isnan(x), x, other)


def largest(maps: jax.Array) -> jax.Array:
    """The largest of all pixels, [b h w c] -> [b c], with the gradient to it as in `larger`."""
    pixels = maps.reshape(maps.shape[0], -1, maps.shape[-1])
    return jnp.take_along_axis(pixels, pixels.argmax(1, keepdims=True), axis=1)[:, 0]


class FastNet(ClassifierNetwork):
    """The network of airbench94, for images of 16 to 64 px (Jordan 2024, appendix A).

    Raises `UserError` for settings it does not know.

    Args:
      width: channels of the first group; published 64.
      widths: of the groups, in widths of the first.
      momentum: of the running means and variances of the norms; published 0.6 for batches of 1,024,
        which is 0.88 for 256.
      dtype: what convolutions compute in; parameters, norms, the last pooling and the logits stay
        f32.
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
        num_classes: int,
        channels: int,
        width: int = 32,
        widths: tuple[int, ...] = (1, 4, 4),
        momentum: float = 0.88,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        dtype: DTypeLike = 'float32',
        rngs: nnx.Rngs,
    ):
        check_stages('FastNet', widths)
        sizes = {'num_classes': num_classes, 'channels': channels, 'width': width}
        super().__init__(**sizes, mean=mean, std=std)
        self.stages = (1,) * len(widths)
        self.whitening = Whitening(channels, dtype=dtype, rngs=rngs)
        inputs, blocks = self.whitening.outputs, []
        for factor in widths:
            blocks.append(Group(inputs, width * factor, momentum, dtype=dtype, rngs=rngs))
            inputs = width * factor
        self.blocks = nnx.List(blocks)
        init = symmetric(inputs**-0.5)
        self.head = nnx.Linear(inputs, num_classes, use_bias=False, kernel_init=init, rngs=rngs)

    def fit_to(self, images: np.ndarray) -> None:
        """Makes the first layer whiten patches of images u8[n h w c]."""
        self.whitening.whiten(np.asarray(self.normalise(jnp.asarray(images, jnp.float32) / 255)))

    def enter(self, images: jax.Array, train: bool) -> jax.Array:
        """Applies the whitening."""
        least = WHITENED_PX - 1 + 2 ** len(self.stages)
        if min(images.shape[1:3]) < least:
            raise UserError(
                f'network fast halves images {len(self.stages)} times; {images.shape[1]} x'
                f' {images.shape[2]} pixels are too few. Give images of {least} px or more.'
            )
        return jax.nn.gelu(self.whitening(images))

    def group(self, number: int, x: jax.Array, train: bool, key: jax.Array | None) -> jax.Array:
        """Applies a group; nothing is dropped."""
        return self.blocks[number](x, train)

    def pool(self, maps: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Reduces the last feature maps to the largest value of each channel, scaled down."""
        return ANSWER_SCALE * largest(maps)
