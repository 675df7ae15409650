"""CLIP as a finished encoder: features of images without labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.types import Tree
from purify.models.clip.clip import CLIPVisionModelWithProjection
from purify.models.clip.clip_pixels import clip_pixels
from purify.models.files.folders import read_object
from purify.models.files.pipelines import PROCESSOR
from purify.models.files.weights import load_model
from purify.train.state import split_network

_VISION = ('vision_model.', 'visual_projection.')  # of a whole CLIP's tensors


@dataclass(frozen=True, eq=False)
class ClipEncoder:
    """CLIP's image encoder (Radford et al. 2021), whose embedding it compares with texts.

    Attributes:
      graph: its structure.
      weights: {'params', 'stats'}, NumPy or shapes.
      processor: its preprocessor_config.json.
    """

    graph: nnx.GraphDef
    weights: Tree
    processor: Mapping[str, Any]

    @classmethod
    def of(
        cls, network: CLIPVisionModelWithProjection, processor: Mapping[str, Any] | None = None
    ) -> 'ClipEncoder':
        """Wraps a network; without a `processor`, images are normalised as CLIP's own were."""
        graph, params, stats = split_network(network)
        size = network.config['image_size']
        processor = processor or {'size': size, 'crop_size': size}
        return cls(graph, {'params': params, 'stats': stats}, processor)

    @classmethod
    def from_folder(cls, folder: Path, *, weights: bool = True) -> 'ClipEncoder':
        """Reads a folder of transformers: an image encoder, or that of a whole CLIP.

        Without `weights`, it holds shapes. Raises `UserError` for folders of other models and
        weights that do not fit.
        """
        config = read_object(folder / 'config.json')
        kinds = [str(config.get('model_type')), *map(str, config.get('architectures') or ())]
        lowered = [kind.lower() for kind in kinds]
        if not any(kind.startswith('clip') and 'text' not in kind for kind in lowered):
            raise UserError(
                f'{folder}: its config.json describes {", ".join(kinds)}, which is no encoder of'
                ' images. Give a folder of CLIP, such as openai/clip-vit-base-patch32, or of a'
                ' finished classifier or encoder.'
            )
        network = load_model(CLIPVisionModelWithProjection, folder, weights=weights, within=_VISION)
        file = folder / PROCESSOR
        return cls.of(network, read_object(file) if file.is_file() else None)

    def embed(self, weights: Tree, images: jax.Array) -> jax.Array:
        """Features f32[b d] of images f32[b h w c] in [0, 1], grey or of 3 channels.

        Raises `UserError` for other channels.
        """
        if images.shape[-1] not in (1, 3):
            raise UserError(
                f'CLIP sees images of 1 or 3 channels; these have {images.shape[-1]}. Choose'
                ' another encoder.'
            )
        pixels = clip_pixels(jnp.broadcast_to(images, (*images.shape[:3], 3)), self.processor)
        network = nnx.merge(self.graph, weights['params'], weights['stats'])
        return network(pixels)[0].astype(np.float32)
