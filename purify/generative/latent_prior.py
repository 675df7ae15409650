"""Image variations with Stable Diffusion and Versatile Diffusion, from folders of diffusers.

Three ways from an image to a variation of it, one chain of latents for all:

    sd_variation  under CLIP's embedding of the image (Stable Diffusion tuned by lambdalabs)
    versatile     under all of CLIP's tokens of the image (Xu 2022; used by Struppek 2023)
    sd_img2img    from the image's latents, noised part of the way, under a caption (Meng 2022,
                  Rombach 2022)

Networks answer in float32 whatever they compute in; the chain of latents is float32. Everything is
row-wise: nothing one image does reaches another, so a batch may be spread over devices without a
word between them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.types import Facts, Tree
from purify.diffusion.chain_step import Sampler
from purify.diffusion.guidance import Guidance, guide, interleave
from purify.diffusion.scheduler_config import sampler_from_diffusers, with_sampler
from purify.generative.pixel_prior import Prior
from purify.models.clip.tokenizer import CLIPTokenizer
from purify.models.files.dtypes import cast_parameters
from purify.models.files.pipelines import Pipeline
from purify.train.state import split_network

Networks = Mapping[str, Any]
Condition = tuple[jax.Array, jax.Array]  # without, with: [b or 1, tokens, width] each


@dataclass(frozen=True, eq=False)
class LatentPrior(Prior):
    """What the three have in common: networks, sampler, and the way between pixels and latents.

    Attributes:
      graphs: structure of each network, by its name in the pipeline folder.
      weights: arrays of each network, {'params', 'stats'}; those of convolutions and projections in
        the type they compute in.
      scheduler: the folder's scheduler_config.json.
      processor: its preprocessor_config.json (how CLIP wants its images), where it has one.
      tokenizer: where it has one.
      latent_shape: (width of the UNet's own latents, their channels).
      factor: pixels per latent, in height and in width.
      scaling: what latents are multiplied by before the UNet sees them.
      stride: pixels of which a size must be a multiple, for the VAE and all levels of the UNet to
        halve.
      vae_slice: how many images the VAE takes at once on one device, 0 for all; bounds memory,
        changes no result but its rounding.
    """

    graphs: Networks
    weights: Tree
    scheduler: Mapping[str, Any]
    processor: Mapping[str, Any] | None
    tokenizer: CLIPTokenizer | None
    latent_shape: tuple[int, int]
    factor: int
    scaling: float
    stride: int
    vae_slice: int = 0
    programs: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    model: ClassVar[str]
    unet: ClassVar[str] = 'unet'
    needs: ClassVar[tuple[str, ...]]
    channels: ClassVar[int] = 3

    @classmethod
    def from_pipeline(
        cls, pipeline: Pipeline, *, dtype: Any = 'float32', vae_slice: int = 0
    ) -> 'LatentPrior':
        """The prior of a pipeline, whose networks were opened to compute in `dtype`.

        Raises `UserError` for parts that are missing.
        """
        parts, names = dict(pipeline.parts), ('feature_extractor', 'image_feature_extractor')
        processor = next((parts.pop(name) for name in names if name in parts), None)
        missing = [name for name in cls.needs if name not in parts]
        if processor is None and 'image_encoder' in cls.needs:
            missing.append('feature_extractor')
        if missing:
            raise UserError(
                f'{pipeline.class_name}: {cls.model} needs {", ".join(missing)}, which this'
                ' pipeline does not hold.'
            )
        networks = {name: parts[name] for name in cls.needs if isinstance(parts[name], nnx.Module)}
        graphs, weights = {}, {}
        for name, network in networks.items():
            graphs[name], params, stats = split_network(network)
            upcast = str(jnp.dtype(dtype)) == 'float16' and network.config.get('force_upcast')
            params = params if upcast else cast_parameters(params, dtype)
            weights[name] = {'params': params, 'stats': stats}
        words = parts['text_encoder'].config['vocab_size'] if 'tokenizer' in cls.needs else None
        if words is not None and parts['tokenizer'].size > words:
            raise UserError(
                f'{pipeline.class_name}: its tokenizer knows {parts["tokenizer"].size} tokens, its'
                f' text_encoder {words} (vocab_size). They are of different models; download both'
                ' again.'
            )
        vae, unet = networks['vae'].config, networks[cls.unet].config
        to_host = lambda x: x if isinstance(x, jax.ShapeDtypeStruct) else np.asarray(x)
        files = (parts['scheduler'], processor, parts.get('tokenizer'))
        size, factor = unet['sample_size'] or 64, networks['vae'].factor
        shape = (size if isinstance(size, int) else size[0], vae['latent_channels'])
        stride = factor * 2 ** (len(unet['block_out_channels']) - 1)
        sizes = (shape, factor, networks['vae'].scaling_factor, stride)
        return cls(graphs, jax.tree.map(to_host, weights), *files, *sizes, vae_slice)

    def networks(self, weights: Tree) -> Facts:
        """The networks with `weights`, as they lie on the device."""
        return {
            name: nnx.merge(graph, weights[name]['params'], weights[name]['stats'])
            for name, graph in self.graphs.items()
        }

    def sampler(
        self, sampler: str, steps: int, eta: float | None, strength: float = 1.0
    ) -> Sampler:
        """The chain's sampler: 'own' is the folder's, else one of `SAMPLERS` on its schedule."""
        config = self.scheduler if sampler == 'own' else with_sampler(self.scheduler, sampler)
        options = {} if eta is None else {'eta': eta}
        return sampler_from_diffusers(config, steps, strength=strength, **options)

    def network_calls(
        self,
        *,
        steps: int,
        guidance: float,
        guidance_interval: Sequence[float] = (),
        strength: float = 1.0,
        sampler: str = 'own',
        eta: float | None = None,
        **other: Any,
    ) -> int:
        """One for each of the sampler's steps, two where they are guided."""
        chain = self.sampler(sampler, steps, eta, strength)
        return Guidance(guidance, guidance_interval).calls(chain)

    def output_size(self, size_px: int) -> int:
        """The size of the variations, checked; 0 is the size the UNet was made for."""
        size_px = size_px or self.latent_shape[0] * self.factor
        if size_px < self.stride or size_px % self.stride:
            raise UserError(
                f"vary.size_px={size_px} must be a multiple of {self.stride}, or 0 for the model's."
            )
        return size_px

    def predictor(self, networks: Networks, condition: Condition, guidance: float) -> Any:
        """The UNet under `condition`, guided: one doubled batch, or a single one at guidance 1.

        Below 1 the condition counts for less, at 0 for nothing (diffusers leaves guidance out
        there).
        """
        unet, (without, conditioned) = networks[self.unet], condition
        if guidance == 1:
            return lambda x, t: unet(x, t, conditioned)
        both = interleave(without, conditioned)
        return guide(lambda x, t: unet(x, t, both), guidance)

    def decode(self, networks: Networks, latents: jax.Array) -> jax.Array:
        """Decodes the UNet's latents f32[b h w z] to images f32[b s s 3] in [0, 1]."""
        images = self._sliced(networks['vae'].decode, latents / self.scaling)
        return jnp.clip(images / 2 + 0.5, 0, 1)

    def encode(self, networks: Networks, images: jax.Array, noise: jax.Array | float) -> jax.Array:
        """Latents f32[b h w z] of images f32[b s s 3] in [-1, 1], drawn by N(0, 1) `noise`."""
        mean, logvar = self._sliced(networks['vae'].encode, images)
        return (mean + jnp.exp(0.5 * logvar) * noise) * self.scaling

    def _sliced(self, apply: Callable[[jax.Array], Any], rows: jax.Array) -> Any:
        count, piece = len(rows), self.vae_slice
        if not 0 < piece < count:
            return apply(rows)
        short = -count % piece
        padded = jnp.concatenate([rows, jnp.broadcast_to(rows[:1], (short, *rows.shape[1:]))])
        out = jax.lax.map(apply, padded.reshape(-1, piece, *rows.shape[1:]))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)

    def run(self, settings: tuple[Any, ...], chain: Callable[..., Any], *args: Any) -> Any:
        """Runs `chain(weights, *args)` on the default device, compiled once for each `settings`."""
        if settings not in self.programs:
            self.programs[settings] = jax.jit(chain)
        if 'weights' not in self.programs:
            self.programs['weights'] = jax.device_put(self.weights)
        return self.programs[settings](self.programs['weights'], *args)


def keys_for(chain: Sampler, keys: jax.Array | None, count: int) -> jax.Array:
    """The keys [count] of a chain's call: those given, or any where it draws nothing.

    Raises `UserError` where keys are missing.
    """
    if keys is None and chain.stochastic:
        raise UserError(
            'this sampler draws noise on the way: give `keys`, one for each image, or choose eta=0.'
        )
    return jax.random.split(jax.random.key(0), count) if keys is None else keys
