"""Classes and functions by name, with their settings; unknown names are answered with choices."""

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from purify.core.errors import UserError
from purify.core.types import Facts

EMPTY = inspect.Parameter.empty
T = TypeVar('T')


class Fixed(functools.partial[Any]):
    """An entry whose keywords are no settings: `resnet18=Fixed(ResNet, stages=(2, 2, 2, 2))`.

    In a plain `functools.partial` they are defaults like any other.
    """


class Registry(dict[str, T], Generic[T]):
    """Classes or functions by name, with the settings that a config may give them.

    `ATTACKS = Registry('attack', patch=Patch)`: `ATTACKS.make('patch', size_px=3)` makes an entry,
    `ATTACKS.part('patch', size_px=3)` its part of a config. Raises `UserError` for an unknown name
    (with the nearest and all choices) and Python's own `TypeError` text, as a `UserError`, for
    unknown or missing arguments.

    `DEFENSES: Registry[Callable[..., Defense]]` says what entries make; pyright checks each.

    Args:
      kind: what the entries are, for messages.
      common: takes the settings that all entries have beside their own.
      hidden: parameters that `part` leaves out unless they are given: what a stage hands over, and
        settings that are seldom asked for. 'tfds.label' is the parameter of one entry.
      entries: name -> class or function.
    """

    def __init__(
        self,
        kind: str,
        /,
        *,
        common: Callable[..., Any] | None = None,
        hidden: Iterable[str] = (),
        **entries: T,
    ):
        super().__init__(entries)
        self.kind, self.common, self.hidden = kind, common, frozenset(hidden)

    def __missing__(self, name: str) -> T:
        near = difflib.get_close_matches(str(name), self, n=1)
        hint = f' Did you mean {near[0]!r}?' if near else ''
        choices = ', '.join(sorted(self))
        raise UserError(f'unknown {self.kind} {name!r}.{hint} Choose from: {choices}.')

    def make(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Makes the entry called `name` with the arguments."""
        entry: Any = self[name]
        fixed = sorted({*entry.keywords} & {*kwargs}) if isinstance(entry, Fixed) else ()
        if fixed:
            raise UserError(
                f'{self.kind} {name!r} has its own {", ".join(fixed)}, which cannot be changed.'
                f' Leave them out, or choose another {self.kind}.'
            )
        try:
            return make_part(f'{self.kind} {name!r}', entry, *args, **kwargs)
        except UserError as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'\.$", str(error))
            if unknown is None:
                raise
            known = ', '.join(sorted(self._settings(name).keys() - self.hidden)) or 'none'
            raise UserError(
                f'{self.kind} {name!r} has no setting {unknown[1]!r}. It has: {known}. To take'
                f' another {self.kind}, use a word of the config or a config file, not a flag.'
            ) from error

    def bare(self, name: str) -> Any:
        """The class or function called `name`, without what a partial gives it."""
        entry = self[name]
        return entry.func if isinstance(entry, functools.partial) else entry

    def part(self, name: str, /, *presets: Mapping[str, Any], **changes: Any) -> Facts:
        """The part of a config that makes the entry called `name`: its name and its settings.

        Settings are the defaults, changed by the `presets`, one after the other, and then by the
        named `changes`. A mapping among these changes leaves of a mapping, unless it has a `name`:
        then it takes its place. None takes a setting away, and a default None is none. Raises
        ValueError for unknown names and changes, and for settings without a default or a value.
        """
        if name not in self:
            raise ValueError(f'{self.kind}={name!r}: choose from {", ".join(sorted(self))}.')
        known, place = self._settings(name), f'{self.kind} {name!r}'
        shown = {
            key: value
            for key, value in known.items()
            if value is not None and not {key, f'{name}.{key}'} & self.hidden
        }
        part = {key: value for key, value in shown.items() if value is not EMPTY}
        for layer in (*presets, changes):
            part = changed(part, layer, place, known)
        if missing := [key for key, value in shown.items() if value is EMPTY and key not in part]:
            raise ValueError(f'{place} has no default for {", ".join(missing)}; give it.')
        return {'name': name} | part

    def wanted(self, name: str) -> tuple[str, ...]:
        """The settings of the entry called `name` that have no default."""
        hidden = self.hidden | {key.removeprefix(f'{name}.') for key in self.hidden}
        known = self._settings(name).items()
        return tuple(key for key, value in known if value is EMPTY and key not in hidden)

    def takes(self, name: str, setting: str) -> bool:
        """Whether the entry called `name` has a `setting` of that name."""
        return name in self and setting in self._settings(name)

    def _settings(self, name: str) -> Facts:
        """All parameters by name, with a copy of their default, or `EMPTY`."""
        entry: Any = self[name]
        fixed = {'name', *(entry.keywords if isinstance(entry, Fixed) else ())}
        found = defaults(self.common) if self.common else {}
        for key, value in defaults(entry).items():
            if value is not EMPTY or key not in found:
                found[key] = value
        return {key: value for key, value in found.items() if key not in fixed}


def defaults(taker: Callable[..., Any]) -> Facts:
    """The parameters of a function or class, each with a copy of its default, or `EMPTY`."""
    partial = taker if isinstance(taker, functools.partial) else functools.partial(taker)
    bare: Any = partial.func
    fields = dataclasses.fields(bare) if dataclasses.is_dataclass(bare) else ()
    made = {field.name: field.default_factory for field in fields}
    is_class = inspect.isclass(bare)
    called: Any = bare.__init__ if is_class else bare  # flax hides the signatures of its classes
    found = {}
    taken = list(inspect.signature(called).parameters.values())
    for parameter in taken[is_class + len(partial.args) :]:
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            factory = made.get(parameter.name, dataclasses.MISSING)
            usual = parameter.default if factory is dataclasses.MISSING else factory()
            found[parameter.name] = usual
    return {name: _copied(value) for name, value in (found | partial.keywords).items()}


def changed(
    usual: Facts, changes: Mapping[str, Any], place: str, known: Iterable[str] | None = None
) -> Facts:
    """Settings with `changes`, as `Registry.part` describes them.

    `known` are those that may be given, all of `usual` unless told. Raises ValueError for others,
    with the nearest; `place` says whose they are.
    """
    known = sorted(usual if known is None else known)
    for key in changes:
        if known and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f' Did you mean {near[0]!r}?' if near else ''
            raise ValueError(f'{place} has no setting {key!r}.{hint} It has: {", ".join(known)}.')
    whole = dict(usual)
    for key, value in changes.items():
        old: Any = usual.get(key)
        nested = isinstance(value, Mapping) and isinstance(old, Mapping) and 'name' not in value
        whole[key] = changed({**old}, value, f'{place}, {key},') if nested else _copied(value)
    return {key: value for key, value in whole.items() if value is not None}


def _copied(value: Any) -> Any:
    """A value of a config whose mappings and lists are nobody else's."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def make_part(what: str, entry: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Calls `entry`; `UserError` about `what` where its arguments are unknown or missing."""
    try:
        return entry(*args, **kwargs)
    except TypeError as error:
        bare = entry.func if isinstance(entry, functools.partial) else entry
        by_call = error.__traceback__ is not None and error.__traceback__.tb_next is None
        # Classes of flax are called some frames below.
        if by_call or str(error).startswith(f'{bare.__qualname__}.__init__() '):
            raise UserError(f'{what}: {error}.') from error
        raise
