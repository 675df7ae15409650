"""From `file.py:words` and `--config.a.b=c` flags to plain values; the one place where overrides are read."""

import difflib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from purify.config.resolve import leaves, plain


def load_config(spec: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """`'configs/quickstart.py:rate=0.05'` and `['--config.student.optim.lr=0.02']` -> plain nested dicts.

    Types come from the config's own values. Raises ValueError for a missing or broken file, an unknown word or flag
    (with the nearest one), and a value of another type.
    """
    path = Path(spec.partition(':')[0])
    if not path.is_file():
        near = sorted(str(other) for other in path.parent.glob('*.py')) if path.parent.is_dir() else []
        raise ValueError(f'--config {path}: no such file.' + (f' There are: {", ".join(near)}.' if near else ''))
    known = [f'--config.{name}' for name in leaves(plain(_call(spec)))]
    for flag in overrides:
        name = flag.partition('=')[0]
        if not flag.startswith('--config.') or '=' not in flag:
            raise ValueError(f'unknown argument {flag!r}; settings are given as --config.part.name=value.')
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f'unknown setting {name}.' + (f' Did you mean {near[0]}?' if near else ''))
    values, argv = flags.FlagValues(), ['purify', f'--config={spec}', *overrides]
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'{spec}: {error}') from error
    return plain(values.config)


def load_module(spec: str) -> ModuleType:
    """The config file itself, for its sweeps."""
    path = Path(spec.partition(':')[0])
    if not path.is_file():
        raise ValueError(f'--config {path}: no such file.')
    found = importlib.util.spec_from_file_location(f'purify_config_{path.stem}', path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _call(spec: str) -> ConfigDict:
    words = spec.partition(':')[2]
    return load_module(spec).get_config(words or None)


def flag_for(name: str, value: Any) -> str:
    """An override as a flag: ('student.optim.lr', .02) -> '--config.student.optim.lr=0.02'."""
    return f'--config.{name}={value if isinstance(value, str) else json.dumps(value)}'
