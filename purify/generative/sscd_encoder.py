"""SSCD as a finished encoder, from one file: embeddings are close where images are copies."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.core.types import Facts, Tree
from purify.models.classifiers.pytorch_weights import SUFFIX, check_foreign, read_foreign
from purify.models.classifiers.sscd import SSCD, sscd_pixels, sscd_sizes
from purify.models.files.folders import conversion
from purify.models.files.tensors import Tensors
from purify.models.files.weights import abstract
from purify.train.state import split_network

CONFIG = 'config.json'  # of a folder in another library's format, which this is not
PUBLISHED = ('.pt', '.pth')  # pickled


def copy_file(path: Path) -> Path | None:
    """The safetensors file that `path` is, or the only one in a folder without settings; else None.

    Raises `UserError` for pickled weights, as SSCD publishes them.
    """
    if path.is_dir():
        found = [] if (path / CONFIG).is_file() else sorted(path.glob('*' + SUFFIX))
        return found[0] if len(found) == 1 else None
    if path.is_file() and path.suffix in PUBLISHED:
        raise UserError(
            f'{path}: of the files that SSCD publishes, take the one called .torchvision.pt.'
            f' {conversion(path)}'
        )
    return path if path.is_file() and path.suffix == SUFFIX else None


@dataclass(frozen=True, eq=False)
class CopyEncoder:
    """SSCD's descriptor (Pizzi et al. 2022), of length 1: a cosine says how alike two images are.

    Attributes:
      graph: its structure.
      weights: {'params', 'stats'}, NumPy or shapes.
    """

    graph: nnx.GraphDef
    weights: Tree

    @classmethod
    def from_file(cls, file: Path, *, weights: bool = True) -> 'CopyEncoder':
        """Reads a safetensors file in torchvision's names, whose shapes give the network's size.

        Without `weights`, it holds shapes. Raises `UserError` for files of other networks.
        """
        try:
            sizes: Facts = sscd_sizes(Tensors([file]).shapes())
        except UserError as error:
            raise UserError(f'{file}: {error}') from error
        network = abstract(lambda rngs: SSCD(**sizes, rngs=rngs))
        (read_foreign if weights else check_foreign)(network, file)
        graph, params, stats = split_network(network)
        return cls(graph, {'params': params, 'stats': stats})

    def embed(self, weights: Tree, images: jax.Array) -> jax.Array:
        """Descriptors f32[b d] of images f32[b h w c] in [0, 1], grey or of 3 channels.

        Raises `UserError` for other channels.
        """
        if images.shape[-1] not in (1, 3):
            raise UserError(
                f'SSCD sees images of 1 or 3 channels; these have {images.shape[-1]}. Choose'
                ' another encoder.'
            )
        pixels = sscd_pixels(jnp.broadcast_to(images, (*images.shape[:3], 3)))
        return nnx.merge(self.graph, weights['params'], weights['stats']).describe(pixels)
