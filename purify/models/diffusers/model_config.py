"""Configs of networks: the fields of a config.json, checked, read and written."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from flax import nnx

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.models.diffusers.config_checks import (
    COUNT,
    DEPTH,
    LEVELS,
    is_count,
    is_depth,
    is_positive,
)


@dataclass(frozen=True)
class ModelConfig:
    """The fields of a config.json, each with the default of its library.

    A kind of network lists its own fields and what they may be. Raises `UserError` naming the field
    for what is not supported.
    """

    OWNER: ClassVar[str]  # the network's class in its library
    ALLOWED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # field: values that are implemented
    COUNTS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL_COUNTS: ClassVar[tuple[str, ...]] = ()  # or None
    POSITIVES: ClassVar[tuple[str, ...]] = ()
    PER_LEVEL: ClassVar[tuple[str, ...]] = ()  # fields that may hold one value for each level
    NO_MATTER: ClassVar[frozenset[str]] = frozenset()  # fields of files that change nothing here
    OFF: ClassVar[tuple[Any, ...]] = (None, False)  # what fields that we do not know may hold
    block_out_channels: ClassVar[Any] = ()  # a field of those with levels

    def __post_init__(self):
        for name, allowed in self.ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise UserError(
                    f'{self.OWNER}: {name} = {getattr(self, name)!r} is not supported. Choose from:'
                    f' {allowed}.'
                )
        optional = [name for name in self.OPTIONAL_COUNTS if getattr(self, name) is not None]
        for name in (*self.COUNTS, *optional):
            deep = 'layers' in name
            self.check(name, is_depth if deep else is_count, DEPTH if deep else COUNT)
        for name in self.POSITIVES:
            self.check(name, is_positive, 'a positive number')

    def check(self, name: str, fits: Callable[[Any], bool], what: str) -> None:
        """Raises `UserError` unless a field, or each of its levels, `fits`; `what` says how."""
        value = getattr(self, name)
        many = isinstance(value, tuple) and name in self.PER_LEVEL
        if not all(map(fits, value if many else (value,))) or (many and len(value) != self.levels):
            if name in self.PER_LEVEL:
                what += f', or one for each of the {self.levels} block_out_channels'
            raise UserError(f'{self.OWNER}: {name} = {value!r} must be {what}.')

    @property
    def levels(self) -> int:
        """How many sizes the images pass through."""
        return len(self.block_out_channels)

    @classmethod
    def known(cls, config: Mapping[str, Any]) -> Facts:
        """Picks our fields of a config.json; raises `UserError` for others unless they are off."""
        known = {field.name for field in fields(cls)}
        others = {k: v for k, v in config.items() if k not in known | cls.NO_MATTER}
        if strange := {k: v for k, v in others.items() if k[:1] != '_' and v not in cls.OFF}:
            raise UserError(
                f'{cls.OWNER}: these fields of config.json are not supported: {strange}.'
            )
        return {k: v for k, v in config.items() if k in known}

    def as_json(self) -> Facts:
        """The fields as config.json holds them, `_class_name` included."""
        listed = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {'_class_name': self.OWNER} | listed


@dataclass(frozen=True)
class LevelsConfig(ModelConfig):
    """The config of a network with a way down and one up, a level per `block_out_channels`."""

    DOWN: ClassVar[Mapping[str, bool]]  # block type: has attention
    UP: ClassVar[Mapping[str, bool]]

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            # JSON and ml_collections give lists, and a config must be hashable.
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            if isinstance(field.default, bool) and field.name not in self.PER_LEVEL:
                self.check(field.name, lambda x: x is None or isinstance(x, bool), 'true or false')
        widths = self.block_out_channels
        listed = isinstance(widths, tuple) and 0 < len(widths) <= LEVELS
        if not listed or not all(map(is_count, widths)):
            raise UserError(
                f'{self.OWNER}: block_out_channels = {widths!r} must list {COUNT} for each of 1 to'
                f' {LEVELS} levels.'
            )
        super().__post_init__()
        for name, kinds in (('down_block_types', self.DOWN), ('up_block_types', self.UP)):
            given = getattr(self, name)
            fits = isinstance(given, tuple) and len(given) == self.levels
            if not fits or not all(kind in tuple(kinds) for kind in given):
                raise UserError(
                    f'{self.OWNER}: {name} = {given!r} must hold {" or ".join(kinds)} for each of'
                    f' the {self.levels} block_out_channels.'
                )


class ConfiguredModule(nnx.Module):
    """A network whose arguments are the fields of `CONFIG`."""

    CONFIG: ClassVar[type[ModelConfig]]
    _config: ModelConfig

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, rngs: nnx.Rngs, dtype: Any = None) -> Self:
        """Builds the network of a config.json; raises `UserError` naming what it cannot obey."""
        return cls(rngs=rngs, dtype=dtype, **cls.CONFIG.known(config))  # pyright: ignore[reportCallIssue]

    @property
    def config(self) -> Facts:
        """The fields as config.json holds them, with the name of the class."""
        return self._config.as_json()
