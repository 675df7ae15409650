"""VGG networks (Simonyan and Zisserman 2014, arXiv:1409.1556), layer for layer torchvision's.

VGGFace (Parkhi et al. 2015) is this network of 16 layers with the faces' `mean` and its own head.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from purify.core.errors import UserError
from purify.models.classifiers.classifier import (
    NORMS,
    ClassifierNetwork,
    Conv,
    Norm,
    check_chances,
    check_stages,
    check_word,
    drop,
)

GRID = 7  # the hidden layers read as many by as many places, whatever the image's size
_WIDEST = 8  # times the first stage's channels

_linear_init = nnx.initializers.normal(0.01)


class VGG(ClassifierNetwork):
    """Stages of 3x3 convolutions and a max pool each, two hidden layers of `hidden` units, a head.

    `stages` holds the number of convolutions per stage; the first has `width` channels, each
    further one twice as many, up to eight times. Half of the hidden units (`dropout`) are dropped
    in training. `norm` 'none' is the paper's. `dtype` is what all but the norms and the head
    compute in. For images of 2^stages px and more, made for those of 224 px.
    """

    def __init__(
        self,
        *,
        stages: tuple[int, ...],
        num_classes: int,
        channels: int,
        width: int = 64,
        hidden: int = 4096,
        norm: str = 'none',
        dropout: float = 0.5,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        dtype: DTypeLike = 'float32',
        rngs: nnx.Rngs,
    ):
        check_word('VGG', 'norm', norm, (*NORMS, 'none'))
        check_stages('VGG', stages)
        check_chances('VGG', dropout=dropout)
        widths = {'width': width, 'hidden': hidden}
        super().__init__(num_classes=num_classes, channels=channels, mean=mean, std=std, **widths)
        self.stages, self.dtype, self.dropout = tuple(stages), dtype, dropout
        convs, outputs = [], channels
        for stage, depth in enumerate(stages):
            for _ in range(depth):
                inputs, outputs = outputs, width * min(2**stage, _WIDEST)
                convs.append(Conv(inputs, outputs, 3, 1, bias=True, dtype=dtype, rngs=rngs))
        self.convs = nnx.List(convs)
        normed = convs if norm != 'none' else []
        self.norms = nnx.List([Norm(conv.out_features, norm, rngs=rngs) for conv in normed])
        sizes = itertools.pairwise((GRID * GRID * outputs, hidden, hidden))
        linear = {'kernel_init': _linear_init, 'rngs': rngs}
        self.hiddens = nnx.List([nnx.Linear(*pair, dtype=dtype, **linear) for pair in sizes])
        self.head = nnx.Linear(hidden, num_classes, **linear)

    def enter(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns images as they are; raises `UserError` for those that are too small."""
        smallest = 2 ** len(self.stages)
        if min(images.shape[1:3]) < smallest:
            raise UserError(
                f'images of {images.shape[1]} x {images.shape[2]} px are too small for a VGG of'
                f' {len(self.stages)} stages. Use images of {smallest} px or more, or'
                ' another network.'
            )
        return images

    def group(self, number: int, x: jax.Array, train: bool, key: jax.Array | None) -> jax.Array:
        """Applies a stage, after the max pool of the one before it."""
        x = _halved(x) if number else x
        for place in self.members(number):
            x = self.convs[place](x)
            x = jax.nn.relu(self.norms[place](x, train) if self.norms else x)
        return x

    def pool(self, maps: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """The last max pool, means on a grid, and the hidden layers."""
        x = grid_means(_halved(maps), GRID).reshape(len(maps), -1)
        for number, layer in enumerate(self.hiddens):
            own = None if key is None else jax.random.fold_in(key, number)
            x = drop(jax.nn.relu(layer(x)), self.dropout, train, own)
        return x.astype(jnp.float32)


def _halved(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def grid_means(x: jax.Array, size: int) -> jax.Array:
    """Means [b size size c] of x [b h w c]; cell i is floor(i h/size) to ceil((i + 1) h/size)."""
    rows, columns = (_cells(side, size) for side in x.shape[1:3])
    return jnp.einsum('ih,jw,bhwc->bijc', rows, columns, x, precision='highest').astype(x.dtype)


def _cells(side: int, size: int) -> np.ndarray:
    cells = np.zeros((size, side), np.float32)
    for i, cell in enumerate(cells):
        first, end = i * side // size, math.ceil((i + 1) * side / size)
        cell[first:end] = 1 / (end - first)
    return cells
