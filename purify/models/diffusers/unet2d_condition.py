"""The UNet of latent diffusion (Rombach et al. 2022), as diffusers' UNet2DConditionModel.

It covers what Stable Diffusion 1.x and 2.x, their image variations and the image UNet of Versatile
Diffusion configure.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
from flax import nnx

from purify.core.errors import UserError
from purify.models.diffusers.transformer2d import Transformer2DModel
from purify.models.diffusers.unet import UNet, UNetConfig


@dataclass(frozen=True)
class UNet2DConditionConfig(UNetConfig):
    """The fields of config.json, with diffusers' defaults.

    `attention_head_dim` is the NUMBER of heads, as in diffusers (its issue 2011). Fields of
    `PER_LEVEL` hold one value, or one for each level from the finest to the coarsest. Raises
    `UserError` naming the field for what is not supported.
    """

    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = (*['CrossAttnDownBlock2D'] * 3, 'DownBlock2D')
    mid_block_type: str | None = 'UNetMidBlock2DCrossAttn'
    up_block_types: tuple[str, ...] = ('UpBlock2D', *['CrossAttnUpBlock2D'] * 3)
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    only_cross_attention: bool | tuple[bool, ...] = False
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: None = None
    use_linear_projection: bool = False
    upcast_attention: bool = False  # nothing to do: the softmax is always float32
    resnet_out_scale_factor: float = 1.0
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    attention_type: str = 'default'

    OWNER: ClassVar = 'UNet2DConditionModel'
    DOWN: ClassVar = {'DownBlock2D': False, 'CrossAttnDownBlock2D': True}
    UP: ClassVar = {'UpBlock2D': False, 'CrossAttnUpBlock2D': True}
    ALLOWED: ClassVar = {
        **UNetConfig.ALLOWED,
        'mid_block_type': ('UNetMidBlock2DCrossAttn', None),
        'num_attention_heads': (None,),
        'resnet_out_scale_factor': (1,),
        'conv_in_kernel': (1, 3),
        'conv_out_kernel': (1, 3),
        'attention_type': ('default',),
    }
    # Not off by default, yet of nothing that is supported.
    NO_MATTER: ClassVar = frozenset({'addition_embed_type_num_heads'})
    _SIZES = ('cross_attention_dim', 'transformer_layers_per_block', 'attention_head_dim')
    PER_LEVEL: ClassVar = ('layers_per_block', 'only_cross_attention', *_SIZES)
    COUNTS: ClassVar = (*UNetConfig.COUNTS, *_SIZES, 'conv_in_kernel', 'conv_out_kernel')

    def __post_init__(self):
        super().__post_init__()
        self.check('only_cross_attention', lambda value: isinstance(value, bool), 'true or false')
        if len(self._context_widths()) != 1:
            raise UserError(
                f'{self.OWNER}: cross_attention_dim = {self.cross_attention_dim} must be the same'
                ' for all levels that attend to the context, and at least one must'
                f' (down_block_types = {self.down_block_types}).'
            )

    def _context_widths(self) -> set[int]:
        widths = self.per_level('cross_attention_dim')
        down = zip(self.down_block_types, widths, strict=True)
        up = zip(self.up_block_types, reversed(widths), strict=True)
        used = {width for kind, width in (*down, *up) if {**self.DOWN, **self.UP}[kind]}
        return used | ({widths[-1]} if self.mid_block_type else set())

    @property
    def context_width(self) -> int:
        """The length of the last axis of encoder_hidden_states."""
        return next(iter(self._context_widths()))


class UNet2DConditionModel(UNet):
    """Predicts from noisy latents, timesteps and a context.

    Its arguments are the fields of `UNet2DConditionConfig`. `dtype` is what it computes in
    (parameters, norms, softmax and the answer stay float32), e.g. `jnp.bfloat16`. Raises
    `UserError` naming the field for what is not supported.
    """

    CONFIG = UNet2DConditionConfig

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = None, **config: Any):
        c = UNet2DConditionConfig(**config)
        self.context_width = c.context_width
        levels = [
            partial(
                Transformer2DModel,
                heads=heads,
                layers=layers,
                context_width=c.context_width,
                only_cross_attention=only_cross,
                linear_projection=c.use_linear_projection,
                groups=c.norm_num_groups,
                dtype=dtype,
                rngs=rngs,
            )
            for heads, layers, only_cross in zip(
                c.per_level('attention_head_dim'),
                c.per_level('transformer_layers_per_block'),
                c.per_level('only_cross_attention'),
                strict=True,
            )
        ]
        super().__init__(
            c,
            attention=levels,
            mid=partial(levels[-1], only_cross_attention=False),
            kernels=(c.conv_in_kernel, c.conv_out_kernel),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        sample: jax.Array,
        timestep: jax.Array,
        encoder_hidden_states: jax.Array,
        class_labels: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The prediction f32[b h w out_channels] for sample f32[b h w in_channels].

        `timestep` is [b] or one for all, encoder_hidden_states f32[b s cross_attention_dim],
        class_labels i32[b] (only with num_class_embeds). Dropout is active only with a `key`.
        Raises `UserError` for sizes that the levels cannot halve, for a context of another shape,
        and for class labels that are missing or not wanted.
        """
        shape = encoder_hidden_states.shape
        fits = len(shape) == 3 and shape[:1] == sample.shape[:1] and shape[1] > 0
        if not fits or shape[2] != self.context_width:
            raise UserError(
                f'UNet2DConditionModel: encoder_hidden_states must be [b s {self.context_width}]'
                f' (cross_attention_dim) with the b of the sample {sample.shape}, got {shape}.'
                ' Choose the encoder that this network was trained with.'
            )
        return self._predict(sample, timestep, class_labels, key, encoder_hidden_states)
