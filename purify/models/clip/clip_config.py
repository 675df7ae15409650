"""The fields of the config.json of CLIP's encoders, with transformers' names and defaults."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.models.diffusers.config_checks import MOST
from purify.models.diffusers.model_config import ModelConfig

# what transformers writes into any config.json and what does not change a forward pass
_NO_MATTER = (
    *('architectures', 'model_type', 'transformers_version', 'dtype', 'torch_dtype'),
    *('return_dict', 'id2label', 'label2id'),
    'attention_dropout',  # of training
    *('initializer_factor', 'initializer_range', 'tie_word_embeddings'),  # new weights
    # generation
    *('max_length', 'num_beams', 'num_beam_groups', 'num_return_sequences', 'length_penalty'),
    *('repetition_penalty', 'temperature', 'top_k', 'top_p', 'typical_p'),
)


@dataclass(frozen=True)
class CLIPConfig(ModelConfig):
    """The fields that both encoders share; a `UserError` names those that are not supported."""

    MODEL_TYPE: ClassVar[str]
    PART: ClassVar[str]  # its place in the config.json of a whole CLIP

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = 'quick_gelu'
    layer_norm_eps: float = 1e-5

    ALLOWED: ClassVar = {'hidden_act': ('quick_gelu', 'gelu')}
    COUNTS = ('hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads')
    POSITIVES: ClassVar = ('layer_norm_eps',)
    NO_MATTER: ClassVar = frozenset(_NO_MATTER)
    OFF: ClassVar = (None, False, '', [], {})

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f'{self.OWNER}: num_attention_heads = {self.num_attention_heads} does not divide'
                f' hidden_size = {self.hidden_size}. Choose a divisor.'
            )

    @classmethod
    def known(cls, config: Mapping[str, Any]) -> Facts:
        """Picks our fields out of the config.json of this encoder, or of a whole CLIP.

        Those that are missing take transformers' defaults. Old files of a whole CLIP hold a part
        twice, as `text_config` and `text_config_dict`. Fields that say nothing about the network,
        or are off (None, False, 0, empty), pass; raises `UserError` for the others, and for two
        values of one field.
        """
        whole = cls.PART in config or f'{cls.PART}_dict' in config
        return super().known(cls._part(config) if whole else config)

    @classmethod
    def _part(cls, config: Mapping[str, Any]) -> Facts:
        """This encoder's settings in the config.json of a whole CLIP."""
        part = {}
        for place in (cls.PART, f'{cls.PART}_dict'):
            given = config.get(place) or {}
            if not isinstance(given, Mapping):
                raise UserError(
                    f'{cls.OWNER}: {place} = {given!r} must be a JSON object of settings.'
                )
            for name, value in given.items():
                if part.get(name, value) != value:
                    raise UserError(
                        f'{cls.OWNER}: {name} is {part[name]!r} in {cls.PART} and {value!r} in'
                        f' {place} of config.json. Download it again, or make the two equal.'
                    )
            part |= given
        return part

    def as_json(self) -> Facts:
        """The fields as config.json holds them, with `architectures` and `model_type`."""
        return {'architectures': [self.OWNER], 'model_type': self.MODEL_TYPE} | asdict(self)


@dataclass(frozen=True)
class CLIPVisionConfig(CLIPConfig):
    """The fields of CLIPVisionModelWithProjection; `image_size` and `patch_size` in pixels."""

    OWNER = 'CLIPVisionModelWithProjection'
    MODEL_TYPE = 'clip_vision_model'
    PART = 'vision_config'

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    projection_dim: int = 512
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    COUNTS = (*CLIPConfig.COUNTS, 'projection_dim', 'num_channels', 'image_size', 'patch_size')

    def __post_init__(self):
        super().__post_init__()
        if self.patch_size > self.image_size:
            raise UserError(
                f'{self.OWNER}: patch_size = {self.patch_size} must not exceed image_size ='
                f' {self.image_size}.'
            )


@dataclass(frozen=True)
class CLIPTextConfig(CLIPConfig):
    """The fields of CLIPTextModel; projection_dim, bos_token_id and pad_token_id change nothing."""

    OWNER = 'CLIPTextModel'
    MODEL_TYPE = 'clip_text_model'
    PART = 'text_config'

    vocab_size: int = 49408
    projection_dim: int | None = 512
    max_position_embeddings: int = 77
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    pad_token_id: int | None = 1

    COUNTS: ClassVar = (*CLIPConfig.COUNTS, 'vocab_size', 'max_position_embeddings')

    def __post_init__(self):
        super().__post_init__()
        self.check('eos_token_id', lambda x: isinstance(x, int) and 0 <= x <= MOST, 'one token id')
