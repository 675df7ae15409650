"""A registry is a plain dict that answers unknown names with the choices."""

import difflib
import functools
from collections.abc import Callable
from typing import Any

from purify.core.errors import UserError


class Registry(dict[str, Callable[..., Any]]):
    """`ATTACKS = Registry('attack', patch=Patch)`; `ATTACKS.make('patch', size_px=3)`.

    Raises `UserError` for an unknown name (with the nearest and all choices) and Python's own `TypeError` text, as a
    `UserError`, for unknown or missing arguments.
    """

    def __init__(self, kind: str, /, **entries: Callable[..., Any]):
        super().__init__(entries)
        self.kind = kind

    def __missing__(self, name: str) -> Callable[..., Any]:
        near = difflib.get_close_matches(str(name), self, n=1)
        hint = f' Did you mean {near[0]!r}?' if near else ''
        raise UserError(f'unknown {self.kind} {name!r}.{hint} Choose from: {", ".join(sorted(self))}.')

    def make(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """The entry called `name`, called with the arguments."""
        return make_part(f'{self.kind} {name!r}', self[name], *args, **kwargs)


def make_part(what: str, entry: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """`entry` called with arguments of a config; a `UserError` that begins with `what` where they are unknown or missing."""
    try:
        return entry(*args, **kwargs)
    except TypeError as error:
        bare = entry.func if isinstance(entry, functools.partial) else entry
        by_call = error.__traceback__ is not None and error.__traceback__.tb_next is None
        if by_call or str(error).startswith(f'{bare.__qualname__}.__init__() '):  # classes of flax are called some frames below
            raise UserError(f'{what}: {error}.') from error
        raise
