"""Weights in folders of config.json and safetensors, as diffusers and transformers have them.

Our networks carry the attribute names of the PyTorch libraries, so names map one to one; only the
last word and the layout differ: `kernel` HWIO is `weight` OIHW, a projection's `kernel` is `weight`
transposed, `scale` and `embedding` are `weight`. Pickled weights (.bin, .pt, .pth, .ckpt) are never
opened: they can run code.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.files import explain_os_errors, write_bytes, write_json
from purify.models.files.dtypes import DTYPES
from purify.models.files.folders import FILE_STEMS, WEIGHT_FILES, is_half, read_folder
from purify.models.files.tensors import Tensors

SHARD_BYTES = 5 * 10**9
SHOWN = 8  # names that a message lists
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}
_STATISTICS = {'mean': 'running_mean', 'var': 'running_var'}
# Of diffusers before 0.15.
_OLD_ATTENTION = re.compile(r'(attentions\.\d+)\.(query|key|value|proj_attn)\.')
_NEW_ATTENTION = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
_TEXT = 'text_model.'  # transformers from 5 on leaves it out


def _leaves(network: nnx.Module | nnx.State) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """(path, foreign name, array) of every parameter and batch statistic."""
    state = network if isinstance(network, nnx.State) else nnx.state(network)
    for path, variable in nnx.to_flat_state(state):
        if isinstance(variable, nnx.Param | nnx.BatchStat):
            words = _STATISTICS if isinstance(variable, nnx.BatchStat) else _LEAVES
            leaf = words.get(str(path[-1]), str(path[-1]))
            yield path, '.'.join([*map(str, path[:-1]), leaf]), variable.get_value()


def _axes(path: tuple[Any, ...], ndim: int) -> tuple[int, ...] | None:
    """The permutation from our layout to PyTorch's, None where they agree."""
    if path[-1] != 'kernel':
        return None
    return (ndim - 1, ndim - 2, *range(ndim - 2))  # [spatial ... in out] -> [out in spatial ...]


def _to_foreign(path: tuple[Any, ...], value: Any) -> np.ndarray:
    array = np.asarray(value)
    axes = _axes(path, array.ndim)
    return array if axes is None else np.ascontiguousarray(array.transpose(axes))


def export_tensors(module_or_state: nnx.Module | nnx.State) -> dict[str, np.ndarray]:
    """Every parameter and batch statistic by its PyTorch name, in PyTorch's layout, on the host."""
    return {name: _to_foreign(path, value) for path, name, value in _leaves(module_or_state)}


# Path, name, name in the file, what the network holds.
_Fitting = list[tuple[tuple[Any, ...], str, str, Any]]
_Faults = dict[str, list[str]]  # what is wrong: names of tensors


def _fit(module: nnx.Module, shapes: Mapping[str, tuple[int, ...]]) -> tuple[_Fitting, _Faults]:
    """How tensors of these names and shapes fit a network: those that do, and what is wrong."""
    leaves = list(_leaves(module))
    expected = {name for _, name, _ in leaves}
    given = {_modern(name, expected): name for name in shapes}
    fitting: _Fitting = []
    missing, misshapen = [], []
    for path, name, old in leaves:
        if name not in given:
            missing.append(name)
            continue
        source = given.pop(name)
        shape, axes = shapes[source], _axes(path, old.ndim)
        if axes is not None:
            if old.ndim == 2 and shape[2:] == (1, 1):  # a projection stored as a convolution
                shape = shape[:2]
            if len(shape) == len(axes):
                shape = tuple(shape[axis] for axis in np.argsort(axes))
        if shape == old.shape:
            fitting.append((path, name, source, old))
        else:
            misshapen.append(f'{name} (file {shape}, network {old.shape}, in our layout)')
    faults = {'missing': missing, 'unexpected': list(given.values())}
    return fitting, faults | {'of the wrong shape': misshapen}


def _check_faults(module: nnx.Module, faults: _Faults) -> None:
    """Raises one `UserError` with all that is wrong."""
    parts = [f'{len(names)} {what}: {_shorten(names)}' for what, names in faults.items() if names]
    if parts:
        raise UserError(
            f'these weights do not fit {type(module).__name__}: {"; ".join(parts)}. Check the'
            ' config.json beside them.'
        )


def load_into(module: nnx.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Puts PyTorch-named tensors into `module` as NumPy arrays, on no device.

    Also fills a module made by `nnx.eval_shape`. The module may be called as it is; `nnx.jit` puts
    its arrays on the device at the first call. Tensors are taken one at a time, so a lazy mapping
    (`read_folder`) is never in memory as a whole beside the network. Raises one `UserError` with
    all missing, unexpected, misshapen and non-finite (NaN, infinite) names. Old diffusers names of
    attention, projections stored as 1 x 1 convolutions and transformers 5's names of the text
    encoder are understood.
    """
    shapes = (
        tensors.shapes()
        if isinstance(tensors, Tensors)
        else {name: np.shape(value) for name, value in tensors.items()}
    )
    fitting, faults = _fit(module, shapes)
    state = nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))
    variables, filled, broken = dict(nnx.to_flat_state(state)), [], []
    for path, name, source, old in fitting:
        array, axes = np.asarray(tensors[source]), _axes(path, old.ndim)
        if not np.isfinite(array).all():
            broken.append(name)
        elif axes is not None:
            array = array.reshape(array.shape[: old.ndim]).transpose(np.argsort(axes))
        value = np.asarray(array, old.dtype, order='C')
        filled.append((path, variables[path].replace(value)))
    _check_faults(module, faults | {'with NaN or infinity': broken})
    nnx.update(module, nnx.from_flat_state(filled))


def _modern(name: str, expected: set[str]) -> str:
    name = _OLD_ATTENTION.sub(lambda match: f'{match[1]}.{_NEW_ATTENTION[match[2]]}.', name)
    return _TEXT + name if name not in expected and _TEXT + name in expected else name


def _shorten(names: list[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more


def write_folder(
    module_or_state: nnx.Module | nnx.State,
    config: Mapping[str, Any],
    folder: str | Path,
    *,
    dtype: str = 'float32',
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and the weights, each file whole or not at all, weights first.

    The folder opens in PyTorch diffusers; in transformers where the config names `architectures`
    (the files are then called `model`). Weights of more than `max_shard_bytes` are cut into shards
    with an index. `dtype` 'float16' or 'bfloat16' halves the size. Raises `UserError` for weights
    that are not finite (also: too large for float16), a full disk and an unwritable folder.
    """
    from safetensors.numpy import save

    if dtype not in DTYPES:
        raise UserError(f'unknown dtype {dtype!r} for weights. Choose from: {", ".join(DTYPES)}.')
    folder, stored = Path(folder), jnp.dtype(dtype)
    leaves = {name: (path, np.asarray(value)) for path, name, value in _leaves(module_or_state)}
    with np.errstate(over='ignore'):  # found here, with the names
        finite = {name: np.isfinite(x.astype(stored)).all() for name, (_, x) in leaves.items()}
    if broken := [name for name in leaves if not finite[name]]:
        raise UserError(
            f'{folder}: not written, {len(broken)} weights are not finite in {dtype}:'
            f' {_shorten(broken)}.'
        )
    stem = FILE_STEMS[1] if 'architectures' in config else FILE_STEMS[0]
    sizes = {name: value.size * stored.itemsize for name, (_, value) in leaves.items()}
    shards = _cut(sizes, max_shard_bytes)
    files = [f'{stem}-{i:05}-of-{len(shards):05}.safetensors' for i in range(1, len(shards) + 1)]
    files = files if len(files) > 1 else [f'{stem}.safetensors']
    index = folder / f'{stem}.safetensors.index.json'
    if len(files) > 1 and index.exists():
        with explain_os_errors(index):
            index.unlink()  # so that new and old shards are never read together
    for file, names in zip(files, shards, strict=True):
        tensors = {name: _to_foreign(*leaves[name]).astype(stored, copy=False) for name in names}
        write_bytes(folder / file, save(tensors, metadata={'format': 'pt'}))
    if len(files) > 1:
        size = sum(sizes.values())
        placed = zip(files, shards, strict=True)
        weight_map = {name: file for file, names in placed for name in names}
        write_json(index, {'metadata': {'total_size': size}, 'weight_map': weight_map})
        files.append(index.name)
    for old in folder.glob('*.safetensors*'):  # what was here before would contradict the new
        if WEIGHT_FILES.fullmatch(old.name) and not is_half(old.name) and old.name not in files:
            with explain_os_errors(old):
                old.unlink()
    write_json(folder / 'config.json', dict(config))


def _cut(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Cuts names, in order, into shards of up to `limit` bytes; a larger tensor gets its own."""
    shards, filled = [[]], 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


class _OneKey(nnx.RngStream):
    """Gives the same key every time: counting takes flax time quadratic in the layers."""

    def __call__(self) -> Any:
        return self.key[...]


def abstract(build: Callable[[nnx.Rngs], Any]) -> Any:
    """The network that `build(rngs)` makes, with shapes in place of weights; allocates nothing."""

    def make() -> Any:
        rngs = nnx.Rngs(0)
        rngs.default = _OneKey(0, tag='default')  # pyright: ignore[reportAttributeAccessIssue]
        return build(rngs)

    return nnx.eval_shape(make)


def abstract_model(cls: Any, config: Mapping[str, Any], *, dtype: Any = None) -> Any:
    """The network of class `cls` that a config.json describes, with shapes in place of weights."""
    return abstract(lambda rngs: cls.from_config(config, rngs=rngs, dtype=dtype))


def load_model(
    cls: Any,
    folder: str | Path,
    *,
    subfolder: str = '',
    dtype: Any = None,
    weights: bool = True,
    within: tuple[str, ...] = (),
) -> Any:
    """Reads a network of class `cls` and its weights, on the host, from a model folder.

    `cls` has `from_config`; the network computes in `dtype`. Without `weights` it holds shapes
    (`jax.ShapeDtypeStruct`) in their place: the files are checked by their headers, but no tensor
    is read. Of a larger model's file, only tensors `within` these prefixes are looked at. Raises
    `UserError` naming the folder for what does not fit.
    """
    folder = Path(folder) / subfolder
    config, tensors = read_folder(folder)
    if config.get('_class_name', cls.__name__) != cls.__name__:
        raise UserError(
            f'{folder / "config.json"}: describes a {config["_class_name"]!r}, but is to be read as'
            f' a {cls.__name__}. Give a folder that holds one.'
        )
    tensors = tensors.within(within) if within else tensors
    try:
        module = abstract_model(cls, config, dtype=dtype)
    except UserError as error:
        raise UserError(f'{folder / "config.json"}: {error}') from error
    try:
        if weights:
            load_into(module, tensors)
        else:
            _check_faults(module, _fit(module, tensors.shapes())[1])
    except UserError as error:
        raise UserError(f'{folder}: {error}') from error
    return module
