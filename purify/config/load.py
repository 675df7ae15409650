"""Reads a config, `name:words` or `file.py:words`, and `--config.a.b=c` flags as plain values."""

import contextlib
import difflib
import importlib.util
import json
import math
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from purify.config.resolve import leaves, plain

# By the last part of a leaf's name.
AT_LEAST: dict[str, int] = dict.fromkeys(
    ('batch', 'accumulate', 'shard_size', 'inference_batch'), 1
)
AT_LEAST |= dict.fromkeys(('batch_per_device', 'save_every', 'log_every', 'threads'), 1)
AT_LEAST |= dict.fromkeys(
    ('workers', 'report_images', 'vae_slice', 'resident_mb', 'steps_together'), 0
)
_DTYPES = ('bfloat16', 'float16', 'float32')
_PACKAGE = Path(__file__).parents[1]
# Where the configs that come with the package lie: installed, or in a clone.
_PACKAGED = next(p for p in (_PACKAGE / 'configs', _PACKAGE.parent / 'configs') if p.is_dir())


def packaged_configs() -> tuple[str, ...]:
    """Lists the names of the configs that come with the package, such as 'quickstart'."""
    return tuple(sorted(path.stem for path in _PACKAGED.glob('*.py')))


def find_config(spec: str) -> tuple[Path, str]:
    """Finds the file of 'quickstart:rate=0.05' or 'own.py:rate=0.05'; returns it and the words.

    A bare name is a config of the package. Raises ValueError, with what there is, for a missing
    file and an unknown name.
    """
    name, _, words = spec.partition(':')
    if name in packaged_configs():
        return _PACKAGED / f'{name}.py', words
    path = Path(name).expanduser()
    if path.is_file():
        return path, words
    if path.suffix != '.py':
        near = difflib.get_close_matches(name, packaged_configs(), n=1)
        hint = f' Did you mean {near[0]}?' if near else ''
        raise ValueError(
            f'--config {name}: no config of that name.{hint} Choose from:'
            f' {", ".join(packaged_configs())}; or give a file of your own, NAME.py.'
        )
    beside = ', '.join(sorted(map(str, path.parent.glob('*.py'))))
    hint = f' There are: {beside}.' if beside else ''
    hint += f' Did you mean --config {path.stem}?' if path.stem in packaged_configs() else ''
    raise ValueError(f'--config {path}: no such file.{hint}')


def load_config(spec: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Loads a config such as 'quickstart:rate=0.05' or 'own.py', as plain nested dicts.

    A bare name is a config that comes with the package. Overrides are flags such as
    '--config.student.optim.lr=0.02'; types come from the config's own values. Raises ValueError for
    a missing or broken file, an unknown word or flag (with the nearest one), a value of another
    type, a number that is not finite, a count that is too small.
    """
    made = _call(spec)
    known = {f'--config.{name}': value for name, value in leaves(plain(made)).items()}
    for flag in overrides:
        name = flag.partition('=')[0]
        if not flag.startswith('--config.') or '=' not in flag:
            raise ValueError(f'unknown argument {flag!r}; write --config.part.name=value.')
        if name not in known:
            bare = [other.removeprefix('--config.') for other in known]
            near = difflib.get_close_matches(name.removeprefix('--config.'), bare, n=1)
            hint = f'Did you mean --config.{near[0]}?' if near else f'It has: {_parts(bare)}.'
            raise ValueError(f'unknown setting {name}. {hint}')
    values, argv = flags.FlagValues(), ['purify', *overrides]
    config_flags.DEFINE_config_dict('config', made, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        for flag in overrides:
            default = known[flag.partition('=')[0]]
            if f'flag {flag}:' in str(error):
                raise ValueError(
                    f'{flag}: must be of type {type(default).__name__}, like {default!r}.'
                ) from error
        raise ValueError(f'{spec}: {error}') from error
    config = plain(values.config)
    for name, value in leaves(config).items():
        _check_leaf(name, value)
    return config


def _check_leaf(name: str, value: Any) -> None:
    """Raises ValueError for a value that would otherwise fail deep inside a library."""
    last = name.rpartition('.')[2]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'--config.{name}={value}: must be a finite number.')
    if isinstance(value, int) and value < AT_LEAST.get(last, value):
        raise ValueError(f'--config.{name}={value}: must be {AT_LEAST[last]} or more.')
    if (name.startswith('seeds.') or last == 'split_seed') and not 0 <= value < 2**32:
        raise ValueError(f'--config.{name}={value}: must be from 0 to {2**32 - 1}.')
    if last == 'dtype' and value not in _DTYPES:
        raise ValueError(f'--config.{name}={value}: choose from {", ".join(_DTYPES)}.')


def load_module(spec: str) -> ModuleType:
    """The config file itself, for its sweeps. Raises ValueError for a missing or broken file."""
    path, _ = find_config(spec)
    found = importlib.util.spec_from_file_location(f'purify_config_{path.stem}', path)
    if found is None or found.loader is None:
        raise ValueError(f'--config {path}: not a Python file, such as a config is.')
    module = importlib.util.module_from_spec(found)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the file's own code raises
        raise ValueError(_broken(path, error)) from error
    if not callable(getattr(module, 'get_config', None)):
        raise ValueError(f'--config {path}: has no get_config(arg), such as a config has.')
    return module


def _call(spec: str) -> ConfigDict:
    path, words = find_config(spec)
    module = load_module(spec)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            config = module.get_config(words or None)
    except ValueError:  # a word or a part that does not fit, in words of its own
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(_broken(path, error)) from error
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise ValueError(f'--config {path}: get_config must return a ConfigDict, not {kind}.')
    return config


def _parts(names: Sequence[str]) -> str:
    parts = {f'--config.{name.partition(".")[0]}' + '.*' * ('.' in name) for name in names}
    return ', '.join(sorted(parts))


def _broken(path: Path, error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    where = f' line {lines[-1]}' if lines else ''
    return f'--config {path}{where}: {type(error).__name__}: {error}. Correct the file.'


def flag_for(name: str, value: Any) -> str:
    """An override as a flag: ('student.optim.lr', .02) -> '--config.student.optim.lr=0.02'."""
    return f'--config.{name}={value if isinstance(value, str) else json.dumps(value)}'
