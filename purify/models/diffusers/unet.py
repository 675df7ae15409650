"""What the UNets share: the settings, and the way down, through the middle and up again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.models.diffusers import blocks
from purify.models.diffusers.config_checks import is_number, is_size
from purify.models.diffusers.model_config import ConfiguredModule, LevelsConfig
from purify.models.diffusers.unet_blocks import DownBlock, Make, MidBlock, UpBlock


@dataclass(frozen=True)
class UNetConfig(LevelsConfig):
    """The fields that config.json of every UNet has."""

    sample_size: int | tuple[int, ...] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = 'positional'
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ()
    mid_block_type: str | None = None
    up_block_types: tuple[str, ...] = ()
    block_out_channels: tuple[int, ...] = ()
    layers_per_block: int | tuple[int, ...] = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    dropout: float = 0.0
    act_fn: str = 'silu'
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = 'default'
    class_embed_type: str | None = None
    num_class_embeds: int | None = None

    ALLOWED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        'time_embedding_type': ('positional',),
        'downsample_padding': (0, 1),
        'act_fn': ('silu', 'swish'),
        'resnet_time_scale_shift': ('default', 'scale_shift'),
        'class_embed_type': (None,),
    }
    COUNTS = ('in_channels', 'out_channels', 'layers_per_block', 'norm_num_groups')
    OPTIONAL_COUNTS: ClassVar[tuple[str, ...]] = ('num_class_embeds', 'time_embedding_dim')
    POSITIVES: ClassVar = ('norm_eps', 'mid_block_scale_factor')

    def __post_init__(self):
        super().__post_init__()
        half = max(1, self.block_out_channels[0] // 2)
        sized = lambda x: x is None or is_size(x)
        self.check('sample_size', sized, 'a positive integer, or two')
        self.check('downsample_padding', lambda value: isinstance(value, int), '0 or 1')
        self.check('freq_shift', lambda x: is_number(x) and x < half, f'a number below {half}')
        self.check('dropout', lambda x: is_number(x) and 0 <= x < 1, 'a number in [0, 1)')

    @property
    def time_width(self) -> int:
        """Channels of the embedded time."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    def per_level(self, name: str) -> tuple[Any, ...]:
        """The values of a field from the finest level to the coarsest."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * self.levels


class UNet(ConfiguredModule):
    """The trunk of UNet2DModel and UNet2DConditionModel, which choose the attention of each level.

    `attention` holds one maker for each level from the finest to the coarsest, for blocks that have
    any, `mid` is that of the middle (None: no attention); `kernels` are the sizes of the first and
    the last convolution.
    """

    _config: UNetConfig

    def __init__(
        self,
        config: UNetConfig,
        *,
        attention: Sequence[Make],
        mid: Make | None,
        kernels: tuple[int, int] = (3, 3),
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        c = self._config = config
        shared = {'dtype': dtype, 'rngs': rngs}
        norm = {'groups': c.norm_num_groups, 'eps': c.norm_eps}
        time = {'temb_channels': c.time_width, 'time_scale_shift': c.resnet_time_scale_shift}
        resnet = partial(blocks.ResnetBlock2D, **time, dropout=c.dropout, **norm, **shared)
        downsample = partial(blocks.Downsample2D, padding=c.downsample_padding, **shared)
        upsample = partial(blocks.Upsample2D, **shared)

        width, layers = c.block_out_channels[0], c.per_level('layers_per_block')
        self.conv_in = blocks.conv(c.in_channels, width, kernels[0], **shared)
        self.time_embedding = blocks.TimestepEmbedding(width, c.time_width, **shared)
        if c.num_class_embeds is not None:
            self.class_embedding = nnx.Embed(c.num_class_embeds, c.time_width, **shared)
        self.down_blocks, skips = nnx.List([]), [width]
        for level, outputs in enumerate(c.block_out_channels):
            halve = downsample if level < c.levels - 1 else None
            attends = attention[level] if c.DOWN[c.down_block_types[level]] else None
            parts = {'resnet': resnet, 'attention': attends, 'downsample': halve}
            self.down_blocks.append(DownBlock(width, outputs, layers[level], **parts))
            width = outputs
            skips += [width] * (layers[level] + (halve is not None))
        if c.mid_block_type is not None:
            self.mid_block = MidBlock(
                width, resnet=partial(resnet, scale_factor=c.mid_block_scale_factor), attention=mid
            )
        self.up_blocks = nnx.List([])
        for kind, level in zip(c.up_block_types, reversed(range(c.levels)), strict=True):
            taken = [skips.pop() for _ in range(layers[level] + 1)]
            attends = attention[level] if c.UP[kind] else None
            double = upsample if level else None
            parts = {'resnet': resnet, 'attention': attends, 'upsample': double}
            self.up_blocks.append(UpBlock(width, c.block_out_channels[level], taken, **parts))
            width = c.block_out_channels[level]
        self.conv_norm_out = blocks.group_norm(width, **norm, rngs=rngs)
        self.conv_out = blocks.conv(width, c.out_channels, kernels[1], zero=True, **shared)

    def _predict(
        self,
        sample: jax.Array,
        timestep: jax.Array,
        class_labels: jax.Array | None,
        key: jax.Array | None,
        *context: jax.Array,
    ) -> jax.Array:
        """The way through; the attention of every level is told the `context`."""
        c = self._config
        self._check(sample, class_labels)
        x = 2 * sample - 1 if c.center_input_sample else sample
        temb = self.time_embedding(self._tell_time(jnp.broadcast_to(timestep, sample.shape[:1])))
        if class_labels is not None:
            temb = temb + self.class_embedding(class_labels)

        keys = blocks.dropout_keys(key)
        x = self.conv_in(x)
        skips = [x]
        for down in self.down_blocks:
            x, left = down(x, temb, keys, *context)
            skips += left
        if c.mid_block_type is not None:
            x = self.mid_block(x, temb, keys, *context)
        for up in self.up_blocks:
            x = up(x, skips, temb, keys, *context)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x))).astype(jnp.float32)

    def _tell_time(self, timestep: jax.Array) -> jax.Array:
        """What the time embedding is given of timesteps [b]: f32[b block_out_channels[0]]."""
        c = self._config
        options = {'flip_sin_to_cos': c.flip_sin_to_cos, 'freq_shift': c.freq_shift}
        return blocks.sinusoid(timestep, c.block_out_channels[0], **options)

    def _check(self, sample: jax.Array, class_labels: jax.Array | None) -> None:
        c = self._config
        stride = 2 ** (c.levels - 1)
        if sample.ndim != 4 or sample.shape[-1] != c.in_channels:
            raise UserError(
                f'{c.OWNER} needs images [b h w {c.in_channels}], got an array of shape'
                f' {sample.shape}.'
            )
        if sample.shape[1] % stride or sample.shape[2] % stride:
            raise UserError(
                f'images of {sample.shape[1]} x {sample.shape[2]} pixels cannot be halved'
                f' {c.levels - 1} times; resize or pad them to multiples of {stride}, or choose a'
                ' network with fewer block_out_channels.'
            )
        if (class_labels is None) != (c.num_class_embeds is None):
            wants = 'needs' if class_labels is None else 'takes no'
            raise UserError(
                f'this {c.OWNER} {wants} class_labels (num_class_embeds = {c.num_class_embeds}).'
            )
