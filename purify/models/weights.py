"""Weights from outside and for outside: folders with config.json and safetensors, as diffusers and transformers write them.

Our networks carry the attribute names of the PyTorch libraries, so names map one to one; only the last word and the layout
differ: `kernel` HWIO is `weight` OIHW, a projection's `kernel` is `weight` transposed, `scale` and `embedding` are `weight`.
Pickled weights (.bin, .pt, .pth, .ckpt) are never opened: they can run code.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.files import explain_os_errors, read_json, write_bytes, write_json

Tensors = Mapping[str, np.ndarray]
STEMS = ('diffusion_pytorch_model', 'model', 'pytorch_model')  # of diffusers, of transformers, of its pickles once converted
FILE = f'{STEMS[0]}.safetensors'
DTYPES = ('float32', 'float16', 'bfloat16')
SHARD_BYTES = 5 * 10**9
PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}
_STATISTICS = {'mean': 'running_mean', 'var': 'running_var'}
_BUFFERS = re.compile(r'(^|\.)(position_ids|num_batches_tracked)$')  # not weights: old files hold them, we do not need them
_OLD_ATTENTION = re.compile(r'(attentions\.\d+)\.(query|key|value|proj_attn)\.')  # diffusers before 0.15
_NEW_ATTENTION = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
_TEXT = 'text_model.'  # transformers from 5 on leaves it out
_CONVERT = (
    'import pathlib, sys, torch, safetensors.torch as s; [s.save_file({k: v.clone().contiguous() for k, v in '
    "torch.load(f, map_location='cpu', weights_only=True).items()}, f.with_suffix('.safetensors'), {'format': 'pt'}) "
    "for f in pathlib.Path(sys.argv[1]).rglob('*model*.bin')]"
)


def conversion(folder: str | Path) -> str:
    """How to turn every pickled weight file under `folder` into safetensors beside it, offline, as a sentence for an error."""
    return (
        'Pickled weights can run code and are not opened. Convert them once, on a machine where you trust the files: '
        f'`pip install torch safetensors`, then `python -c "{_CONVERT}" {shlex.quote(str(folder))}`.'
    )


# names and layouts ------------------------------------------------------------------------------------------------------


def _leaves(module_or_state: nnx.Module | nnx.State) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """(path, foreign name, array) of every parameter and batch statistic."""
    state = module_or_state if isinstance(module_or_state, nnx.State) else nnx.state(module_or_state)
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
    """Every parameter and batch statistic under its PyTorch name and in PyTorch's layout, on the host."""
    return {name: _to_foreign(path, value) for path, name, value in _leaves(module_or_state)}


def load_into(module: nnx.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Puts PyTorch-named tensors into `module`; also fills a module made by `nnx.eval_shape`.

    Tensors are taken one at a time, so a lazy mapping (`read_folder`) is never in memory as a whole beside the network. Raises
    one `UserError` with all missing, unexpected, misshapen and non-finite (NaN, infinite) names. Old diffusers names of
    attention, projections stored as 1 x 1 convolutions and transformers 5's names of the text encoder are understood; buffers
    that are not weights are passed over.
    """
    expected = {name for _, name, _ in _leaves(module)}
    given = {_modern(name, expected): name for name in tensors if not _BUFFERS.search(name)}
    faults: dict[str, list[str]] = {'missing': [], 'unexpected': [], 'of the wrong shape': [], 'with NaN or infinity': []}
    flat = []
    for path, name, old in _leaves(module):
        if name not in given:
            faults['missing'].append(name)
            continue
        array = np.asarray(tensors[given.pop(name)])
        axes = _axes(path, old.ndim)
        if axes is not None and array.shape[2:] == (1, 1) and old.ndim == 2:
            array = array[:, :, 0, 0]
        if axes is not None and array.ndim == len(axes):
            array = array.transpose(np.argsort(axes))
        if array.shape != old.shape:
            faults['of the wrong shape'].append(f'{name} (file {array.shape}, network {old.shape}, in our layout)')
        elif not np.isfinite(array).all():
            faults['with NaN or infinity'].append(name)
        else:
            flat.append((path, jnp.asarray(array, old.dtype)))
    faults['unexpected'] = list(given.values())
    if any(faults.values()):
        parts = [f'{len(names)} {what}: {_shorten(names)}' for what, names in faults.items() if names]
        raise UserError(f'these weights do not fit {type(module).__name__}: {"; ".join(parts)}. Check the config.json beside them.')
    state = nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))
    variables = dict(nnx.to_flat_state(state))
    nnx.update(module, nnx.from_flat_state([(path, variables[path].replace(value)) for path, value in flat]))


def _modern(name: str, expected: set[str]) -> str:
    name = _OLD_ATTENTION.sub(lambda match: f'{match[1]}.{_NEW_ATTENTION[match[2]]}.', name)
    return _TEXT + name if name not in expected and _TEXT + name in expected else name


def _shorten(names: list[str], shown: int = 8) -> str:
    more = f' and {len(names) - shown} more' if len(names) > shown else ''
    return ', '.join(names[:shown]) + more


def cast_parameters(params: Any, dtype: Any) -> Any:
    """A tree of parameters (`nnx.to_pure_dict`) with those of convolutions, projections and embeddings as `dtype`.

    Norms (groups with a `scale`) stay as they are, for they compute in float32.
    """
    if not isinstance(params, Mapping):
        return params.astype(dtype)
    return params if 'scale' in params else {name: cast_parameters(value, dtype) for name, value in params.items()}


# folders ----------------------------------------------------------------------------------------------------------------


def read_folder(folder: str | Path, *, subfolder: str = '') -> tuple[dict[str, Any], Tensors]:
    """(config, tensors) of a model folder; tensors are read when asked for, floating ones as float32.

    Reads `diffusion_pytorch_model`, `model` or `pytorch_model`, whole, sharded (`.safetensors.index.json`) or `.fp16`. Raises
    `UserError` for missing and broken files and for folders with pickled weights only.
    """
    folder = Path(folder) / subfolder
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder. Give a folder that holds config.json and {FILE}.')
    config = read_json(folder / 'config.json')
    if not isinstance(config, dict):
        raise UserError(f'{folder / "config.json"}: must hold a JSON object of settings.')
    return config, _Tensors(_weight_files(folder))


def _weight_files(folder: Path) -> list[Path]:
    for name in (f'{stem}{variant}' for variant in ('', '.fp16') for stem in STEMS):
        if (folder / f'{name}.safetensors').is_file():
            return [folder / f'{name}.safetensors']
        head, dot, variant = name.partition('.')
        for index in (f'{name}.safetensors.index.json', f'{head}.safetensors.index{dot}{variant}.json'):
            if (folder / index).is_file():
                return _shards(folder / index)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        whole = folder.parent if (folder.parent / 'model_index.json').is_file() else folder
        raise UserError(f'{folder}: holds no safetensors weights, only {", ".join(pickles)}. {conversion(whole)}')
    raise UserError(f'{folder}: holds no weights. Put {FILE} beside its config.json.')


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index)
    weight_map = weight_map.get('weight_map') if isinstance(weight_map, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f'{index}: needs a "weight_map" from tensor names to files.')
    names = sorted(set(map(str, weight_map.values())))
    for name in names:  # an index from the internet must not reach out of its folder, nor name a pickle
        if name != Path(name).name or not name.endswith('.safetensors') or not (index.parent / name).is_file():
            raise UserError(f'{index}: names the shard {name!r}, which is not a .safetensors file beside it. Download it again.')
    return [index.parent / name for name in names]


class _Tensors(Tensors):
    """The tensors of safetensors files, each read when it is asked for."""

    def __init__(self, files: list[Path]):
        from safetensors import SafetensorError, safe_open

        self._files: dict[str, Any] = {}
        for file in files:
            try:
                opened = safe_open(file, 'np')
            except (SafetensorError, OSError, ValueError) as error:
                raise UserError(f'{file}: not a readable safetensors file ({error}). Download or write it again.') from error
            self._files |= dict.fromkeys(opened.keys(), opened)

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._files[name].get_tensor(name)
        return tensor.astype(np.float32, copy=False) if jnp.issubdtype(tensor.dtype, jnp.floating) else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def write_folder(
    module_or_state: nnx.Module | nnx.State,
    config: Mapping[str, Any],
    folder: str | Path,
    *,
    dtype: str = 'float32',
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and the weights, each file whole or not at all, weights first.

    The folder opens in PyTorch diffusers; in transformers where the config names `architectures` (the files are then called
    `model`). Weights of more than `max_shard_bytes` are cut into shards with an index. `dtype` 'float16' or 'bfloat16' halves
    the size. Raises `UserError` for weights that are not finite (also: too large for float16), a full disk and an unwritable
    folder.
    """
    from safetensors.numpy import save

    if dtype not in DTYPES:
        raise UserError(f'unknown dtype {dtype!r} for weights. Choose from: {", ".join(DTYPES)}.')
    folder, stored = Path(folder), jnp.dtype(dtype)
    leaves = {name: (path, value) for path, name, value in _leaves(module_or_state)}
    with np.errstate(over='ignore'):  # found here, with the names
        broken = [name for name, (_, value) in leaves.items() if not np.isfinite(np.asarray(value).astype(stored)).all()]
    if broken:
        raise UserError(f'{folder}: not written, {len(broken)} weights are not finite in {dtype}: {_shorten(broken)}.')
    stem = STEMS[1] if 'architectures' in config else STEMS[0]
    shards = _cut({name: value.size * stored.itemsize for name, (_, value) in leaves.items()}, max_shard_bytes)
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
        size = sum(value.size for _, value in leaves.values()) * stored.itemsize
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(index, {'metadata': {'total_size': size}, 'weight_map': weight_map})
        files.append(index.name)
    for old in folder.glob(f'{stem}*.safetensors*'):  # what was here before would be read in place of the new
        if re.fullmatch(rf'{stem}(-\d+-of-\d+)?\.safetensors(\.index\.json)?', old.name) and old.name not in files:
            with explain_os_errors(old):
                old.unlink()
    write_json(folder / 'config.json', dict(config))


def _cut(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in their order, cut where a shard would grow over `limit` bytes; a tensor is never cut."""
    shards, filled = [[]], 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


class _OneKey(nnx.RngStream):
    """Gives the same key every time: counting while flax traces takes time that grows with the square of the layers."""

    def __call__(self) -> Any:
        return self.key[...]


def abstract_model(cls: Any, config: Mapping[str, Any], *, dtype: Any = None) -> Any:
    """The network of class `cls` (with `from_config`) with shapes in place of weights; draws and allocates nothing."""

    def build() -> Any:
        rngs = nnx.Rngs(0)
        rngs.default = _OneKey(0, tag='default')  # pyright: ignore[reportAttributeAccessIssue]
        return cls.from_config(config, rngs=rngs, dtype=dtype)

    return nnx.eval_shape(build)


def load_model(cls: Any, folder: str | Path, *, subfolder: str = '', dtype: Any = None) -> Any:
    """The network of class `cls` (with `from_config`) and its weights from a model folder; `dtype` is what it computes in.

    Raises `UserError` naming the folder for what does not fit.
    """
    config, tensors = read_folder(folder, subfolder=subfolder)
    try:
        module = abstract_model(cls, config, dtype=dtype)
        load_into(module, tensors)
    except UserError as error:
        raise UserError(f'{Path(folder) / subfolder}: {error}') from error
    return module
