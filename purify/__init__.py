"""Train on data that may be poisoned, and come out clean.

`purify.poison(spec, store)` makes a poisoned dataset from Python, `purify.read_results(run)` reads
what a run measured; everything else is the command line `purify`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purify.commands.poison import poison as poison
    from purify.report.results import read_results as read_results

__version__ = '0.2.0'
_HOME = {'poison': 'purify.commands.poison', 'read_results': 'purify.report.results'}


def __getattr__(name: str) -> Any:
    """Imports what the package offers when it is asked for: `import purify` touches no device."""
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
