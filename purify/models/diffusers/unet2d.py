"""The UNet of DDPM (Ho et al. 2020), named and configured as diffusers' UNet2DModel."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.models.diffusers import blocks
from purify.models.diffusers.unet import UNet, UNetConfig


@dataclass(frozen=True)
class UNet2DConfig(UNetConfig):
    """The fields of config.json, with diffusers' defaults.

    `attention_head_dim` may also hold one value for each level from the finest to the coarsest, for
    networks whose number of heads is the same at all widths; diffusers' own class refuses such a
    list. `num_train_timesteps` is read where the embedding of the time is 'learned': a table with
    one row for each timestep. Raises `UserError` naming the field for what is not supported.
    """

    down_block_types: tuple[str, ...] = ('DownBlock2D', *['AttnDownBlock2D'] * 3)
    mid_block_type: str | None = 'UNetMidBlock2D'
    up_block_types: tuple[str, ...] = (*['AttnUpBlock2D'] * 3, 'UpBlock2D')
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    downsample_type: str = 'conv'
    upsample_type: str = 'conv'
    attention_head_dim: int | tuple[int, ...] | None = 8
    attn_norm_num_groups: int | None = None
    add_attention: bool = True
    num_train_timesteps: int | None = None

    OWNER: ClassVar = 'UNet2DModel'
    DOWN: ClassVar = {'DownBlock2D': False, 'AttnDownBlock2D': True}
    UP: ClassVar = {'UpBlock2D': False, 'AttnUpBlock2D': True}
    ALLOWED: ClassVar = {
        **UNetConfig.ALLOWED,
        'time_embedding_type': ('positional', 'learned'),
        'downsample_type': ('conv',),
        'upsample_type': ('conv',),
        'mid_block_type': ('UNetMidBlock2D',),
    }
    OPTIONAL_COUNTS: ClassVar = (
        *UNetConfig.OPTIONAL_COUNTS,
        'attention_head_dim',
        'attn_norm_num_groups',
        'num_train_timesteps',
    )
    PER_LEVEL: ClassVar = ('attention_head_dim',)

    def __post_init__(self):
        super().__post_init__()
        if self.time_embedding_type == 'learned' and self.num_train_timesteps is None:
            raise UserError(
                f"{self.OWNER}: num_train_timesteps is missing; time_embedding_type = 'learned' has"
                ' a row for each.'
            )


class UNet2DModel(UNet):
    """Predicts from noisy images and timesteps.

    Its arguments are the fields of `UNet2DConfig` (diffusers' config.json). `dtype` is what it
    computes in (parameters, norms, softmax and the answer stay float32), e.g. `jnp.bfloat16`.
    Raises `UserError` naming the field for what is not supported.
    """

    CONFIG = UNet2DConfig

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = None, **config: Any):
        c = UNet2DConfig(**config)
        attention = partial(blocks.Attention, eps=c.norm_eps, dtype=dtype, rngs=rngs)
        head_dims = c.per_level('attention_head_dim')
        # diffusers leaves the norm of this one out with 'scale_shift', unless told how many groups
        # it has
        default = c.norm_num_groups if c.resnet_time_scale_shift == 'default' else None
        groups = default if c.attn_norm_num_groups is None else c.attn_norm_num_groups
        in_middle = partial(
            attention, head_dim=head_dims[-1], groups=groups, scale_factor=c.mid_block_scale_factor
        )
        super().__init__(
            c,
            attention=[
                partial(attention, head_dim=head_dim, groups=c.norm_num_groups)
                for head_dim in head_dims
            ],
            mid=in_middle if c.add_attention else None,
            dtype=dtype,
            rngs=rngs,
        )
        if c.time_embedding_type == 'learned' and c.num_train_timesteps is not None:
            self.time_proj = nnx.Embed(c.num_train_timesteps, c.block_out_channels[0], rngs=rngs)

    def __call__(
        self,
        sample: jax.Array,
        timestep: jax.Array,
        class_labels: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The prediction f32[b h w out_channels] for sample f32[b h w in_channels].

        `timestep` is [b], `class_labels` i32[b]. Dropout is active only with a `key`. Raises
        `UserError` for sizes that the levels cannot halve and for class labels that are missing or
        not wanted.
        """
        return self._predict(sample, timestep, class_labels, key)

    def _tell_time(self, timestep: jax.Array) -> jax.Array:
        if not hasattr(self, 'time_proj'):
            return super()._tell_time(timestep)
        if not jnp.issubdtype(timestep.dtype, jnp.integer):
            raise UserError(
                'this UNet2DModel has a row for each whole timestep (time_embedding_type ='
                " 'learned') and was asked between them; choose another sampler or number of steps."
            )
        return self.time_proj(timestep)
