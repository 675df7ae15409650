"""Plain values of a ConfigDict, which stages are given and fingerprinted by."""

from typing import Any

from ml_collections import ConfigDict


def plain(value: Any) -> Any:
    """Turns a ConfigDict into nested dicts of JSON values; tuples become lists.

    Raises ValueError for anything else.
    """
    if isinstance(value, ConfigDict | dict):
        try:
            return {str(name): plain(value[name]) for name in value}
        except TypeError as error:  # ConfigDict sorts them
            raise ValueError(f'a config has names that are no text: {error}.') from error
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = type(value).__name__
    raise ValueError(f'a config holds {value!r} of type {kind}; only plain values are allowed.')


def leaves(value: Any, path: str = '') -> dict[str, Any]:
    """All leaves of nested dicts, by dotted path."""
    if isinstance(value, dict):
        return {
            k: v
            for name, item in value.items()
            for k, v in leaves(item, f'{path}.{name}' if path else name).items()
        }
    return {path: value}
