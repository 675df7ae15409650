"""The fields of the config.json of CLIP's encoders, with transformers' names and defaults."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.models.diffusers.config_checks import COUNT, DEPTH, MOST, is_count, is_depth, is_positive

HIDDEN_ACTS = ('quick_gelu', 'gelu')
_NO_MATTER = {  # what transformers writes into any config.json and what does not change a forward pass
    *('architectures', 'model_type', 'transformers_version', 'dtype', 'torch_dtype', 'return_dict', 'id2label', 'label2id'),
    'attention_dropout',  # of training
    *('initializer_factor', 'initializer_range', 'tie_word_embeddings'),  # new weights
    *('max_length', 'num_beams', 'num_beam_groups', 'num_return_sequences', 'length_penalty', 'repetition_penalty'),  # generation
    *('temperature', 'top_k', 'top_p', 'typical_p'),
}


@dataclass(frozen=True)
class CLIPConfig:
    """The fields that both encoders share. Raises `UserError` naming the field for what is not supported."""

    NETWORK: ClassVar[str]  # transformers' class
    MODEL_TYPE: ClassVar[str]
    PART: ClassVar[str]  # its place in the config.json of a whole CLIP

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = 'quick_gelu'
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        for name in self._counts():
            if not is_count(getattr(self, name)):
                raise UserError(f'{self.NETWORK}: {name} = {getattr(self, name)!r} must be {COUNT}.')
        if not is_depth(self.num_hidden_layers):
            raise UserError(f'{self.NETWORK}: num_hidden_layers = {self.num_hidden_layers!r} must be {DEPTH}.')
        if not is_positive(self.layer_norm_eps):
            raise UserError(f'{self.NETWORK}: layer_norm_eps = {self.layer_norm_eps!r} must be a positive number.')
        if self.hidden_act not in HIDDEN_ACTS:
            raise UserError(f'{self.NETWORK}: hidden_act = {self.hidden_act!r} is not supported. Choose from: {HIDDEN_ACTS}.')
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f'{self.NETWORK}: num_attention_heads = {self.num_attention_heads} does not divide hidden_size = '
                f'{self.hidden_size}. Choose a divisor.'
            )

    def _counts(self) -> tuple[str, ...]:
        return ('hidden_size', 'intermediate_size', 'num_attention_heads')

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """From a config.json of this encoder or of a whole CLIP. Fields that are missing take transformers' defaults.

        Old files of a whole CLIP hold a part twice, as `text_config` and `text_config_dict`. Fields that say nothing about the
        network, or are off (None, False, 0, empty), pass; raises `UserError` for the others, and for two values of one field.
        """
        if cls.PART in config or f'{cls.PART}_dict' in config:
            config = cls._part(config)
        known = {field.name for field in fields(cls)}
        strange = {k: v for k, v in config.items() if k not in known | _NO_MATTER and k[:1] != '_' and v}
        if strange:
            raise UserError(f'{cls.NETWORK}: these fields of config.json are not supported: {strange}.')
        return cls(**{k: v for k, v in config.items() if k in known})

    @classmethod
    def _part(cls, config: Mapping[str, Any]) -> Facts:
        """This encoder's settings in the config.json of a whole CLIP."""
        part = {}
        for place in (cls.PART, f'{cls.PART}_dict'):
            given = config.get(place) or {}
            if not isinstance(given, Mapping):
                raise UserError(f'{cls.NETWORK}: {place} = {given!r} must be a JSON object of settings.')
            for name, value in given.items():
                if part.get(name, value) != value:
                    raise UserError(
                        f'{cls.NETWORK}: {name} is {part[name]!r} in {cls.PART} and {value!r} in {place} of config.json. '
                        'Download it again, or make the two equal.'
                    )
            part |= given
        return part

    def write(self) -> Facts:
        """The fields as config.json holds them, with `architectures` and `model_type`."""
        return {'architectures': [self.NETWORK], 'model_type': self.MODEL_TYPE} | asdict(self)


@dataclass(frozen=True)
class CLIPVisionConfig(CLIPConfig):
    """The fields of CLIPVisionModelWithProjection; `image_size` and `patch_size` in pixels."""

    NETWORK = 'CLIPVisionModelWithProjection'
    MODEL_TYPE = 'clip_vision_model'
    PART = 'vision_config'

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    projection_dim: int = 512
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    def __post_init__(self):
        super().__post_init__()
        if self.patch_size > self.image_size:
            raise UserError(f'{self.NETWORK}: patch_size = {self.patch_size} must not exceed image_size = {self.image_size}.')

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), 'projection_dim', 'num_channels', 'image_size', 'patch_size')


@dataclass(frozen=True)
class CLIPTextConfig(CLIPConfig):
    """The fields of CLIPTextModel; it does not use `projection_dim`, `bos_token_id` and `pad_token_id`, but files hold them."""

    NETWORK = 'CLIPTextModel'
    MODEL_TYPE = 'clip_text_model'
    PART = 'text_config'

    vocab_size: int = 49408
    projection_dim: int | None = 512
    max_position_embeddings: int = 77
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    pad_token_id: int | None = 1

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.eos_token_id, int) or not 0 <= self.eos_token_id <= MOST:
            raise UserError(f'{self.NETWORK}: eos_token_id = {self.eos_token_id!r} must be one token id.')

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), 'vocab_size', 'max_position_embeddings')
