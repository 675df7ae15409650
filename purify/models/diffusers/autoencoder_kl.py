"""The autoencoder of latent diffusion (Rombach et al. 2022), as diffusers' AutoencoderKL."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.models.diffusers import blocks
from purify.models.diffusers.config_checks import is_size
from purify.models.diffusers.model_config import ConfiguredModule, LevelsConfig
from purify.models.diffusers.unet_blocks import DownBlock, MakeResnet, MidBlock, UpBlock

_EPS = 1e-6  # of every norm; no field of config.json holds it
_LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class AutoencoderKLConfig(LevelsConfig):
    """The fields of config.json, with diffusers' defaults.

    `sample_size` (pixels) is what the network was trained on; it takes other sizes too. Raises
    `UserError` naming the field for what is not supported.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ('DownEncoderBlock2D',)
    up_block_types: tuple[str, ...] = ('UpDecoderBlock2D',)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = 'silu'
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, ...] = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    OWNER: ClassVar = 'AutoencoderKL'
    DOWN: ClassVar = {'DownEncoderBlock2D': False}
    UP: ClassVar = {'UpDecoderBlock2D': False}
    ALLOWED: ClassVar = {
        'act_fn': ('silu', 'swish'),
        'shift_factor': (None,),
        'latents_mean': (None,),
        'latents_std': (None,),
    }
    COUNTS: ClassVar = (
        'in_channels',
        'out_channels',
        'latent_channels',
        'norm_num_groups',
        'layers_per_block',
    )
    POSITIVES: ClassVar = ('scaling_factor',)

    def __post_init__(self):
        super().__post_init__()
        self.check('sample_size', is_size, 'a positive integer, or two')


def _make_middle(c: AutoencoderKLConfig, resnet: MakeResnet, shared: Facts) -> MidBlock:
    """Its attention, of one head, is left out where `mid_block_add_attention` is false."""
    attention = partial(
        blocks.Attention, head_dim=None, groups=c.norm_num_groups, eps=_EPS, **shared
    )
    return MidBlock(
        c.block_out_channels[-1],
        resnet=resnet,
        attention=attention if c.mid_block_add_attention else None,
    )


def _resnets(c: AutoencoderKLConfig, shared: Facts) -> MakeResnet:
    return partial(
        blocks.ResnetBlock2D, temb_channels=None, groups=c.norm_num_groups, eps=_EPS, **shared
    )


class Encoder(nnx.Module):
    """Images [b h w in_channels] -> stacked mean and log variance [b h/f w/f 2*latent_channels]."""

    def __init__(self, c: AutoencoderKLConfig, shared: Facts):
        widths = c.block_out_channels
        self.conv_in = blocks.conv(c.in_channels, widths[0], 3, **shared)
        resnet, halve = _resnets(c, shared), partial(blocks.Downsample2D, padding=0, **shared)
        sizes = [halve] * (c.levels - 1) + [None]
        self.down_blocks = nnx.List(
            DownBlock(inputs, outputs, c.layers_per_block, resnet=resnet, downsample=size)
            for inputs, outputs, size in zip((widths[0], *widths), widths, sizes, strict=False)
        )
        self.mid_block = _make_middle(c, resnet, shared)
        self.conv_norm_out = blocks.group_norm(
            widths[-1], c.norm_num_groups, _EPS, rngs=shared['rngs']
        )
        self.conv_out = blocks.conv(widths[-1], 2 * c.latent_channels, 3, **shared)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Encodes images: [b h w in_channels] -> [b h/f w/f 2*latent_channels]."""
        x, keys = self.conv_in(x), blocks.dropout_keys(None)
        for down in self.down_blocks:
            x, _ = down(x, None, keys)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x, None, keys))))


class Decoder(nnx.Module):
    """Latents [b h w latent_channels] -> images [b f*h f*w out_channels]."""

    def __init__(self, c: AutoencoderKLConfig, shared: Facts):
        widths = c.block_out_channels[::-1]
        self.conv_in = blocks.conv(c.latent_channels, widths[0], 3, **shared)
        resnet, double = _resnets(c, shared), partial(blocks.Upsample2D, **shared)
        self.mid_block = _make_middle(c, resnet, shared)
        sizes = [double] * (c.levels - 1) + [None]
        self.up_blocks = nnx.List(
            UpBlock(inputs, outputs, [0] * (c.layers_per_block + 1), resnet=resnet, upsample=size)
            for inputs, outputs, size in zip((widths[0], *widths), widths, sizes, strict=False)
        )
        self.conv_norm_out = blocks.group_norm(
            widths[-1], c.norm_num_groups, _EPS, rngs=shared['rngs']
        )
        self.conv_out = blocks.conv(widths[-1], c.out_channels, 3, **shared)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Decodes latents: [b h w latent_channels] -> [b f*h f*w out_channels]."""
        keys = blocks.dropout_keys(None)
        x = self.mid_block(self.conv_in(x), None, keys)
        for up in self.up_blocks:
            x = up(x, [], None, keys)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class AutoencoderKL(ConfiguredModule):
    """Turns images into latents, `factor` times smaller, and latents into images.

    Its arguments are the fields of `AutoencoderKLConfig`. `dtype` is what it computes in
    (parameters, norms, softmax and the answers stay float32), e.g. `jnp.bfloat16`; where
    `force_upcast` is true, float16 gives way to float32, because activations overflow it. Raises
    `UserError` naming the field for what is not supported.
    """

    CONFIG = AutoencoderKLConfig
    _config: AutoencoderKLConfig

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = None, **config: Any):
        c = self._config = AutoencoderKLConfig(**config)
        if c.force_upcast and dtype is not None and jnp.dtype(dtype) == jnp.float16:
            dtype = None
        shared = {'dtype': dtype, 'rngs': rngs}
        self.encoder = Encoder(c, shared)
        self.decoder = Decoder(c, shared)
        if c.use_quant_conv:
            self.quant_conv = blocks.conv(2 * c.latent_channels, 2 * c.latent_channels, 1, **shared)
        if c.use_post_quant_conv:
            self.post_quant_conv = blocks.conv(c.latent_channels, c.latent_channels, 1, **shared)

    @property
    def scaling_factor(self) -> float:
        """What latents are multiplied by for a diffusion model, and divided by before `decode`."""
        return self._config.scaling_factor

    @property
    def factor(self) -> int:
        """How many pixels, along each side, become one latent."""
        return 2 ** (self._config.levels - 1)

    def encode(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of the latents of images f32[b h w in_channels].

        Each is f32[b h/factor w/factor latent_channels], before scaling. The image lies in [-1, 1];
        the log variance is clipped to [-30, 20]. Raises `UserError` for other channels and for
        sizes that `factor` does not divide.
        """
        channels = self._config.in_channels
        if image.ndim != 4 or image.shape[-1] != channels:
            raise UserError(
                f'AutoencoderKL encodes images [b h w {channels}], got an array of shape'
                f' {image.shape}. Put channels last and convert the images to as many.'
            )
        if image.shape[1] % self.factor or image.shape[2] % self.factor:
            raise UserError(
                f'images of {image.shape[1]} x {image.shape[2]} pixels do not divide into latents; '
                f'resize or pad them to multiples of {self.factor}.'
            )
        moments = self.encoder(image)
        if hasattr(self, 'quant_conv'):
            moments = self.quant_conv(moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, *_LOGVAR_RANGE)

    def decode(self, latents: jax.Array) -> jax.Array:
        """The images of latents f32[b h w latent_channels] before scaling.

        They are f32[b factor*h factor*w out_channels], about [-1, 1]. Raises `UserError` for
        latents of other channels.
        """
        channels = self._config.latent_channels
        if latents.ndim != 4 or latents.shape[-1] != channels:
            raise UserError(
                f'AutoencoderKL decodes latents [b h w {channels}], got an array of shape'
                f' {latents.shape}. Put channels last; the latents must come from an autoencoder of'
                ' the same latent_channels.'
            )
        if hasattr(self, 'post_quant_conv'):
            latents = self.post_quant_conv(latents)
        return self.decoder(latents).astype(jnp.float32)
