"""The autoencoder of latent diffusion (Rombach et al. 2022), named and configured as diffusers' AutoencoderKL."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.models.diffusers import blocks
from purify.models.diffusers.config_checks import (
    COUNT,
    DEPTH,
    check_switches,
    check_widths,
    freeze_lists,
    is_count,
    is_depth,
    is_positive,
    is_size,
)

_EPS = 1e-6  # of every norm; no field of config.json holds it
_LOGVAR_RANGE = (-30.0, 20.0)
_ALLOWED = {  # field: values that are implemented
    'act_fn': ('silu', 'swish'),
    'shift_factor': (None,),
    'latents_mean': (None,),
    'latents_std': (None,),
}


@dataclass(frozen=True)
class AutoencoderKLConfig:
    """The fields of config.json, with diffusers' defaults. Raises `UserError` naming the field for what is not supported.

    `sample_size` (pixels) is what the network was trained on; it takes other sizes too.
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

    def __post_init__(self):
        freeze_lists(self)
        check_switches('AutoencoderKL', self)
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise UserError(f'AutoencoderKL: {name} = {getattr(self, name)!r} is not supported. Choose from: {allowed}.')
        for name in ('in_channels', 'out_channels', 'latent_channels', 'norm_num_groups'):
            if not is_count(getattr(self, name)):
                raise UserError(f'AutoencoderKL: {name} = {getattr(self, name)!r} must be {COUNT}.')
        if not is_depth(self.layers_per_block):
            raise UserError(f'AutoencoderKL: layers_per_block = {self.layers_per_block!r} must be {DEPTH}.')
        widths = self.block_out_channels
        check_widths('AutoencoderKL', widths)
        for name, kind in (('down_block_types', 'DownEncoderBlock2D'), ('up_block_types', 'UpDecoderBlock2D')):
            if getattr(self, name) != (kind,) * len(widths):
                raise UserError(
                    f'AutoencoderKL: {name} = {getattr(self, name)!r} must hold {kind}, the only type supported, for each of '
                    f'the {len(widths)} block_out_channels.'
                )
        if not is_size(self.sample_size):
            raise UserError(f'AutoencoderKL: sample_size = {self.sample_size!r} must be a positive integer, or two.')
        if not is_positive(self.scaling_factor):
            raise UserError(f'AutoencoderKL: scaling_factor = {self.scaling_factor!r} must be a positive number.')


class DownEncoderBlock2D(nnx.Module):
    """Residual blocks, then half the height and width unless it is the `last`."""

    def __init__(self, c: AutoencoderKLConfig, inputs: int, outputs: int, *, last: bool, shared: Facts):
        widths = [inputs] + [outputs] * (c.layers_per_block - 1)
        self.resnets = nnx.List([_resnet(c, width, outputs, shared) for width in widths])
        if not last:
            self.downsamplers = nnx.List([blocks.Downsample2D(outputs, padding=0, **shared)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b h w inputs] -> [b h/2 w/2 outputs]."""
        for resnet in self.resnets:
            x = resnet(x)
        return self.downsamplers[0](x) if hasattr(self, 'downsamplers') else x


class UpDecoderBlock2D(nnx.Module):
    """Residual blocks, one more than on the way down, then twice the height and width unless it is the `last`."""

    def __init__(self, c: AutoencoderKLConfig, inputs: int, outputs: int, *, last: bool, shared: Facts):
        widths = [inputs] + [outputs] * c.layers_per_block
        self.resnets = nnx.List([_resnet(c, width, outputs, shared) for width in widths])
        if not last:
            self.upsamplers = nnx.List([blocks.Upsample2D(outputs, **shared)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b h w inputs] -> [b 2h 2w outputs]."""
        for resnet in self.resnets:
            x = resnet(x)
        return self.upsamplers[0](x) if hasattr(self, 'upsamplers') else x


class MidBlock(nnx.Module):
    """Residual block, attention of one head (unless `mid_block_add_attention` is false), residual block."""

    def __init__(self, c: AutoencoderKLConfig, shared: Facts):
        width = c.block_out_channels[-1]
        self.resnets = nnx.List([_resnet(c, width, width, shared) for _ in range(2)])
        if c.mid_block_add_attention:
            self.attentions = nnx.List([blocks.Attention(width, head_dim=None, groups=c.norm_num_groups, eps=_EPS, **shared)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b h w c] -> the same."""
        x = self.resnets[0](x)
        if hasattr(self, 'attentions'):
            x = self.attentions[0](x)
        return self.resnets[1](x)


def _resnet(c: AutoencoderKLConfig, inputs: int, outputs: int, shared: Facts) -> blocks.ResnetBlock2D:
    return blocks.ResnetBlock2D(inputs, outputs, temb_channels=None, groups=c.norm_num_groups, eps=_EPS, **shared)


class Encoder(nnx.Module):
    """Images [b h w in_channels] -> mean and log variance, stacked: [b h/f w/f 2*latent_channels]."""

    def __init__(self, c: AutoencoderKLConfig, shared: Facts):
        widths = c.block_out_channels
        self.conv_in = blocks.conv(c.in_channels, widths[0], 3, **shared)
        levels = enumerate(zip((widths[0], *widths), widths, strict=False))
        self.down_blocks = nnx.List(
            [DownEncoderBlock2D(c, inputs, outputs, last=n == len(widths) - 1, shared=shared) for n, (inputs, outputs) in levels]
        )
        self.mid_block = MidBlock(c, shared)
        self.conv_norm_out = blocks.group_norm(widths[-1], c.norm_num_groups, _EPS, rngs=shared['rngs'])
        self.conv_out = blocks.conv(widths[-1], 2 * c.latent_channels, 3, **shared)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b h w in_channels] -> [b h/f w/f 2*latent_channels]."""
        x = self.conv_in(x)
        for down in self.down_blocks:
            x = down(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    """Latents [b h w latent_channels] -> images [b f*h f*w out_channels]."""

    def __init__(self, c: AutoencoderKLConfig, shared: Facts):
        widths = c.block_out_channels[::-1]
        self.conv_in = blocks.conv(c.latent_channels, widths[0], 3, **shared)
        self.mid_block = MidBlock(c, shared)
        levels = enumerate(zip((widths[0], *widths), widths, strict=False))
        self.up_blocks = nnx.List(
            [UpDecoderBlock2D(c, inputs, outputs, last=n == len(widths) - 1, shared=shared) for n, (inputs, outputs) in levels]
        )
        self.conv_norm_out = blocks.group_norm(widths[-1], c.norm_num_groups, _EPS, rngs=shared['rngs'])
        self.conv_out = blocks.conv(widths[-1], c.out_channels, 3, **shared)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b h w latent_channels] -> [b f*h f*w out_channels]."""
        x = self.mid_block(self.conv_in(x))
        for up in self.up_blocks:
            x = up(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """Between images and latents, `factor` times smaller; its arguments are the fields of `AutoencoderKLConfig`.

    `dtype` is what it computes in (parameters, norms, softmax and the answers stay float32), e.g. `jnp.bfloat16`; where
    `force_upcast` is true, float16 gives way to float32, because activations overflow it.
    Raises `UserError` naming the field for what is not supported.
    """

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

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, rngs: nnx.Rngs, dtype: Any = None) -> 'AutoencoderKL':
        """The network that a diffusers config.json describes.

        Fields this version does not know pass if they are off (None or False); raises `UserError` for the others by name.
        """
        known = {field.name for field in fields(AutoencoderKLConfig)}
        strange = {k: v for k, v in config.items() if k not in known and k[:1] != '_' and v not in (None, False)}
        if strange:
            raise UserError(f'AutoencoderKL: these fields of config.json are not supported: {strange}.')
        return cls(rngs=rngs, dtype=dtype, **{k: v for k, v in config.items() if k in known})

    @property
    def config(self) -> Facts:
        """The fields as config.json holds them, `_class_name` included."""
        listed = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self._config).items()}
        return {'_class_name': 'AutoencoderKL'} | listed

    @property
    def scaling_factor(self) -> float:
        """What latents are multiplied by before a diffusion model sees them, and divided by before `decode`."""
        return self._config.scaling_factor

    @property
    def factor(self) -> int:
        """How many pixels, along each side, become one latent."""
        return 2 ** (len(self._config.block_out_channels) - 1)

    def encode(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance f32[b h/factor w/factor latent_channels], before scaling, of image f32[b h w in_channels].

        The image lies in [-1, 1]; the log variance is clipped to [-30, 20]. Raises `UserError` for other channels and for
        sizes that `factor` does not divide.
        """
        channels = self._config.in_channels
        if image.ndim != 4 or image.shape[-1] != channels:
            raise UserError(
                f'AutoencoderKL encodes images [b h w {channels}], got an array of shape {image.shape}. '
                'Put channels last and convert the images to as many.'
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
        """Image f32[b factor*h factor*w out_channels], about [-1, 1], of latents f32[b h w latent_channels] before scaling.

        Raises `UserError` for latents of other channels.
        """
        channels = self._config.latent_channels
        if latents.ndim != 4 or latents.shape[-1] != channels:
            raise UserError(
                f'AutoencoderKL decodes latents [b h w {channels}], got an array of shape {latents.shape}. '
                'Put channels last; the latents must come from an autoencoder of the same latent_channels.'
            )
        if hasattr(self, 'post_quant_conv'):
            latents = self.post_quant_conv(latents)
        return self.decoder(latents).astype(jnp.float32)
