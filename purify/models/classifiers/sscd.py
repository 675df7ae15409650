"""SSCD, a descriptor for finding copies of images (Pizzi et al. 2022, arXiv:2202.10261).

Its authors publish three files of each model. The one on torchvision's backbone
(`sscd_disc_mixup.torchvision.pt`, which they advise) is read, once it is converted to safetensors;
`purify.models.classifiers.pytorch_weights` knows its names.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.models.classifiers.resnet import ResNet

EDGE = 288  # of the shorter edge at inference, as the authors advise
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in torchvision's digits
POWER, FLOOR = 3.0, 1e-6  # of the pooling
PREFIX = 'backbone.'  # of the names in the published files, where a wrapper held the network
_BLOCK = re.compile(r'layer(\d+)\.(\d+)\.conv1\.weight')


class SSCD(ResNet):
    """A residual network, laid out as torchvision's, that describes an image by a unit vector.

    `stages`, `block` and `width` are those of `ResNet`; `dims` is the number of entries of the
    descriptor. The published one is a ResNet-50 with 512 of them. Its images have 3 channels.
    """

    def __init__(
        self, *, stages: tuple[int, ...], block: str, width: int, dims: int, rngs: nnx.Rngs
    ):
        sizes = {'stages': stages, 'block': block, 'width': width, 'num_classes': dims}
        super().__init__(**sizes, channels=3, stem='imagenet', mean=MEAN, std=STD, rngs=rngs)

    def pool(self, maps: jax.Array, *, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Generalised means f32[b d], (mean x^p)^(1/p), p = 3 (Radenovic et al. 2018, eq. 3)."""
        return (jnp.maximum(maps, FLOOR) ** POWER).mean((1, 2)) ** (1 / POWER)

    def describe(self, images: jax.Array) -> jax.Array:
        """Descriptors `f32[b dims]`, unit vectors, of resized `images: f32[b h w 3] in [0, 1]`."""
        found = self(images, train=False)
        return found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-12)


def sscd_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """Reads the settings of an `SSCD`, all but `rngs`, off its tensors' names and shapes.

    Raises `UserError` where the names are not those of a residual network of torchvision.
    """
    bare = {name.removeprefix(PREFIX): shape for name, shape in shapes.items()}
    blocks = [(int(match[1]), int(match[2])) for match in map(_BLOCK.fullmatch, bare) if match]
    # A file may name any number.
    last = min(max([stage for stage, _ in blocks], default=0), 1 + len(blocks))
    depths = tuple(sum(stage == number for stage, _ in blocks) for number in range(1, 1 + last))
    missing = [name for name in ('conv1.weight', 'fc.weight') if len(bare.get(name, ())) < 2]
    if missing or not depths or 0 in depths:
        raise UserError(
            f'holds no network for finding copies: {", ".join(missing or ["whole layers"])} missing'
            ' in the layout of torchvision. Convert the published file called .torchvision.pt.'
        )
    block = 'bottleneck' if 'layer1.0.conv3.weight' in bare else 'basic'
    width, dims = bare['conv1.weight'][0], bare['fc.weight'][0]
    return {'stages': depths, 'block': block, 'width': width, 'dims': dims}


def sscd_pixels(images: jax.Array) -> jax.Array:
    """Resizes images f32[b h w 3] in [0, 1] to a shorter edge of `EDGE` px, like Pillow (linear).

    Columns first, then rows, each rounded to 8 bits; the longer edge is cut to whole pixels.
    """
    height, width = images.shape[1:3]
    if min(height, width) == EDGE:
        return images
    high, wide = (EDGE * side // min(height, width) for side in (height, width))
    for shape in ((height, wide), (high, wide)):
        images = jax.image.resize(images, (len(images), *shape, 3), 'linear', antialias=True)
        images = jnp.floor(images * 255 + 0.5) / 255
    return images
