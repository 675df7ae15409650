"""The UNet of DDPM (Ho et al. 2020), named and configured as diffusers' UNet2DModel."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.models import blocks

_ALLOWED = {  # field: values that are implemented
    'time_embedding_type': ('positional',),
    'downsample_padding': (0, 1),
    'downsample_type': ('conv',),
    'upsample_type': ('conv',),
    'mid_block_type': ('UNetMidBlock2D',),
    'act_fn': ('silu', 'swish'),
    'resnet_time_scale_shift': ('default', 'scale_shift'),
    'class_embed_type': (None,),
}
_DOWN = {'DownBlock2D': False, 'AttnDownBlock2D': True}  # block type: has attention
_UP = {'UpBlock2D': False, 'AttnUpBlock2D': True}


@dataclass(frozen=True)
class UNet2DConfig:
    """The fields of config.json, with diffusers' defaults. Raises `UserError` naming the field for what is not supported."""

    sample_size: int | tuple[int, ...] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = 'positional'
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ('DownBlock2D', 'AttnDownBlock2D', 'AttnDownBlock2D', 'AttnDownBlock2D')
    mid_block_type: str = 'UNetMidBlock2D'
    up_block_types: tuple[str, ...] = ('AttnUpBlock2D', 'AttnUpBlock2D', 'AttnUpBlock2D', 'UpBlock2D')
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = 'conv'
    upsample_type: str = 'conv'
    dropout: float = 0.0
    act_fn: str = 'silu'
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = 'default'
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    def __post_init__(self):
        for field in fields(self):  # JSON and ml_collections give lists; a config must be hashable
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise UserError(f'UNet2DModel: {name} = {getattr(self, name)!r} is not supported. Choose from: {allowed}.')
        for name, kinds in (('down_block_types', _DOWN), ('up_block_types', _UP)):
            kinds_given = getattr(self, name)
            if len(kinds_given) != len(self.block_out_channels) or not set(kinds_given) <= set(kinds):
                raise UserError(
                    f'UNet2DModel: {name} = {kinds_given} must hold one of {", ".join(kinds)} for each of the '
                    f'{len(self.block_out_channels)} block_out_channels.'
                )
        for name in ('in_channels', 'out_channels', 'layers_per_block', 'norm_num_groups', *self._counts()):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f'UNet2DModel: {name} = {getattr(self, name)!r} must be a positive integer.')
        if not 0 <= self.dropout < 1:
            raise UserError(f'UNet2DModel: dropout = {self.dropout!r} must lie in [0, 1).')

    def _counts(self) -> list[str]:
        optional = ('attention_head_dim', 'attn_norm_num_groups', 'num_class_embeds', 'time_embedding_dim')
        return [name for name in optional if getattr(self, name) is not None]


class DownBlock(nnx.Module):
    """Residual blocks, each with attention behind it in 'AttnDownBlock2D', then half the size unless it is the last."""

    def __init__(self, c: UNet2DConfig, inputs: int, outputs: int, *, attends: bool, last: bool, shared: dict[str, Any]):
        widths = [inputs] + [outputs] * (c.layers_per_block - 1)
        self.resnets = nnx.List([_resnet(c, width, outputs, shared) for width in widths])
        if attends:
            self.attentions = nnx.List([_attention(c, outputs, c.norm_num_groups, shared) for _ in widths])
        if not last:
            down = blocks.Downsample2D(outputs, padding=c.downsample_padding, dtype=shared['dtype'], rngs=shared['rngs'])
            self.downsamplers = nnx.List([down])

    def __call__(self, x: jax.Array, temb: jax.Array, keys: blocks.Keys) -> tuple[jax.Array, list[jax.Array]]:
        """The images a level below and what is kept for the way up, coarsest last."""
        skips = []
        for layer, resnet in enumerate(self.resnets):
            x = resnet(x, temb, next(keys))
            if hasattr(self, 'attentions'):
                x = self.attentions[layer](x)
            skips.append(x)
        if hasattr(self, 'downsamplers'):
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock(nnx.Module):
    """Residual block, attention (unless `add_attention` is false), residual block."""

    def __init__(self, c: UNet2DConfig, shared: dict[str, Any]):
        width = c.block_out_channels[-1]
        self.resnets = nnx.List([_resnet(c, width, width, shared, c.mid_block_scale_factor) for _ in range(2)])
        if c.add_attention:
            # diffusers leaves this one norm out with 'scale_shift', unless told how many groups it has
            default = c.norm_num_groups if c.resnet_time_scale_shift == 'default' else None
            groups = default if c.attn_norm_num_groups is None else c.attn_norm_num_groups
            self.attentions = nnx.List([_attention(c, width, groups, shared, c.mid_block_scale_factor)])

    def __call__(self, x: jax.Array, temb: jax.Array, keys: blocks.Keys) -> jax.Array:
        """[b h w c] -> the same."""
        x = self.resnets[0](x, temb, next(keys))
        if hasattr(self, 'attentions'):
            x = self.attentions[0](x)
        return self.resnets[1](x, temb, next(keys))


class UpBlock(nnx.Module):
    """As `DownBlock`, each residual block joined by what the way down left behind; then twice the size unless it is last."""

    def __init__(
        self, c: UNet2DConfig, inputs: int, outputs: int, skips: list[int], *, attends: bool, last: bool, shared: dict[str, Any]
    ):
        widths = [inputs] + [outputs] * (len(skips) - 1)
        joined = [width + skip for width, skip in zip(widths, skips, strict=True)]
        self.resnets = nnx.List([_resnet(c, width, outputs, shared) for width in joined])
        if attends:
            self.attentions = nnx.List([_attention(c, outputs, c.norm_num_groups, shared) for _ in joined])
        if not last:
            self.upsamplers = nnx.List([blocks.Upsample2D(outputs, **shared)])

    def __call__(self, x: jax.Array, skips: list[jax.Array], temb: jax.Array, keys: blocks.Keys) -> jax.Array:
        """The images a level above; takes what it needs from the end of `skips`."""
        for layer, resnet in enumerate(self.resnets):
            x = resnet(jnp.concatenate([x, skips.pop()], axis=-1), temb, next(keys))
            if hasattr(self, 'attentions'):
                x = self.attentions[layer](x)
        return self.upsamplers[0](x) if hasattr(self, 'upsamplers') else x


def _time_width(c: UNet2DConfig) -> int:
    return c.time_embedding_dim or 4 * c.block_out_channels[0]


def _resnet(c: UNet2DConfig, inputs: int, outputs: int, shared: dict[str, Any], scale_factor: float = 1.0) -> blocks.ResnetBlock2D:
    return blocks.ResnetBlock2D(
        inputs,
        outputs,
        temb_channels=_time_width(c),
        groups=c.norm_num_groups,
        eps=c.norm_eps,
        time_scale_shift=c.resnet_time_scale_shift,
        scale_factor=scale_factor,
        dropout=c.dropout,
        **shared,
    )


def _attention(
    c: UNet2DConfig, width: int, groups: int | None, shared: dict[str, Any], scale_factor: float = 1.0
) -> blocks.Attention:
    return blocks.Attention(
        width, head_dim=c.attention_head_dim, groups=groups, eps=c.norm_eps, scale_factor=scale_factor, **shared
    )


class UNet2DModel(nnx.Module):
    """Predicts from noisy images and timesteps; its arguments are the fields of `UNet2DConfig` (diffusers' config.json).

    `dtype` is what it computes in (parameters, norms, softmax and the answer stay float32), e.g. `jnp.bfloat16`.
    Raises `UserError` naming the field for what is not supported.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = None, **config: Any):
        c = self._config = UNet2DConfig(**config)
        shared = {'dtype': dtype, 'rngs': rngs}
        width, time_width = c.block_out_channels[0], _time_width(c)
        self.conv_in = blocks.conv(c.in_channels, width, 3, **shared)
        self.time_embedding = blocks.TimestepEmbedding(width, time_width, **shared)
        if c.num_class_embeds is not None:
            self.class_embedding = nnx.Embed(c.num_class_embeds, time_width, dtype=dtype, rngs=rngs)

        self.down_blocks, skips = nnx.List([]), [width]
        for level, (kind, outputs) in enumerate(zip(c.down_block_types, c.block_out_channels, strict=True)):
            last = level == len(c.block_out_channels) - 1
            self.down_blocks.append(DownBlock(c, width, outputs, attends=_DOWN[kind], last=last, shared=shared))
            width = outputs
            skips += [width] * (c.layers_per_block + (not last))
        self.mid_block = MidBlock(c, shared)
        self.up_blocks = nnx.List([])
        for kind, outputs in zip(c.up_block_types, reversed(c.block_out_channels), strict=True):
            taken = [skips.pop() for _ in range(c.layers_per_block + 1)]
            self.up_blocks.append(UpBlock(c, width, outputs, taken, attends=_UP[kind], last=not skips, shared=shared))
            width = outputs

        self.conv_norm_out = blocks.group_norm(width, c.norm_num_groups, c.norm_eps, rngs=rngs)
        self.conv_out = blocks.conv(width, c.out_channels, 3, zero=True, **shared)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, rngs: nnx.Rngs, dtype: Any = None) -> 'UNet2DModel':
        """The network that a diffusers config.json describes.

        Fields this version does not know pass if they are off (None or False); raises `UserError` for the others by name.
        """
        known = {field.name for field in fields(UNet2DConfig)}
        strange = {k: v for k, v in config.items() if k not in known and k[:1] != '_' and v not in (None, False)}
        if strange:
            raise UserError(f'UNet2DModel: these fields of config.json are not supported: {strange}.')
        return cls(rngs=rngs, dtype=dtype, **{k: v for k, v in config.items() if k in known})

    @property
    def config(self) -> dict[str, Any]:
        """The fields as config.json holds them, `_class_name` included."""
        listed = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self._config).items()}
        return {'_class_name': 'UNet2DModel'} | listed

    def __call__(
        self,
        sample: jax.Array,
        timestep: jax.Array,
        class_labels: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The prediction f32[b h w out_channels] for sample f32[b h w in_channels], timestep [b], class_labels i32[b].

        Dropout is active only with a `key`. Raises `UserError` for sizes that the levels cannot halve and for class labels
        that are missing or not wanted.
        """
        c = self._config
        self._check(sample, class_labels)
        x = 2 * sample - 1 if c.center_input_sample else sample
        temb = blocks.sinusoid(
            jnp.broadcast_to(timestep, sample.shape[:1]),
            c.block_out_channels[0],
            flip_sin_to_cos=c.flip_sin_to_cos,
            freq_shift=c.freq_shift,
        )
        temb = self.time_embedding(temb)
        if class_labels is not None:
            temb = temb + self.class_embedding(class_labels)

        keys = blocks.dropout_keys(key)
        x = self.conv_in(x)
        skips = [x]
        for down in self.down_blocks:
            x, left = down(x, temb, keys)
            skips += left
        x = self.mid_block(x, temb, keys)
        for up in self.up_blocks:
            x = up(x, skips, temb, keys)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x))).astype(jnp.float32)

    def _check(self, sample: jax.Array, class_labels: jax.Array | None) -> None:
        c = self._config
        stride = 2 ** (len(c.block_out_channels) - 1)
        if sample.ndim != 4 or sample.shape[-1] != c.in_channels:
            raise UserError(f'UNet2DModel needs images [b h w {c.in_channels}], got an array of shape {sample.shape}.')
        if sample.shape[1] % stride or sample.shape[2] % stride:
            raise UserError(
                f'images of {sample.shape[1]} x {sample.shape[2]} pixels cannot be halved {len(c.block_out_channels) - 1} times; '
                f'resize or pad them to multiples of {stride}, or choose a network with fewer block_out_channels.'
            )
        if (class_labels is None) != (c.num_class_embeds is None):
            wants = 'needs' if class_labels is None else 'takes no'
            raise UserError(f'this UNet2DModel {wants} class_labels (num_class_embeds = {c.num_class_embeds}).')
