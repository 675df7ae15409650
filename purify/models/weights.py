"""Weights from outside and for outside: folders with config.json and safetensors, as diffusers and transformers write them.

Our networks carry the attribute names of the PyTorch libraries, so names map one to one; only the last word and the layout
differ: `kernel` HWIO is `weight` OIHW, a projection's `kernel` is `weight` transposed, `scale` and `embedding` are `weight`.
Pickled weights (.bin, .pt, .pth, .ckpt) are never opened: they can run code.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.files import read_json, write_bytes, write_json

Tensors = dict[str, np.ndarray]
STEMS = ('diffusion_pytorch_model', 'model')  # file names of diffusers and transformers
FILE = f'{STEMS[0]}.safetensors'
_HUB_FILES = ('*.json', '*.safetensors', '*.txt')
_PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}
_STATISTICS = {'mean': 'running_mean', 'var': 'running_var'}
_BUFFERS = re.compile(r'(^|\.)(position_ids|num_batches_tracked)$')  # not weights: old files hold them, we do not need them
_OLD_ATTENTION = re.compile(r'(attentions\.\d+)\.(query|key|value|proj_attn)\.')  # diffusers before 0.15
_NEW_ATTENTION = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
_PICKLE_HELP = (
    'Pickled weights can run code and are not opened. Convert them once, on a machine where you trust the file: '
    '`pip install torch safetensors`, then `python -c "import torch, safetensors.torch as s; '
    "s.save_file(torch.load('IN.bin', map_location='cpu', weights_only=True), 'OUT.safetensors')\"`."
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


def export_tensors(module_or_state: nnx.Module | nnx.State) -> Tensors:
    """Every parameter and batch statistic under its PyTorch name and in PyTorch's layout, on the host."""
    tensors = {}
    for path, name, value in _leaves(module_or_state):
        array = np.asarray(value)
        axes = _axes(path, array.ndim)
        tensors[name] = array if axes is None else np.ascontiguousarray(array.transpose(axes))
    return tensors


def load_into(module: nnx.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Puts PyTorch-named tensors into `module`; also fills a module made by `nnx.eval_shape`.

    Raises one `UserError` with all missing, unexpected, misshapen and non-finite (NaN, infinite) names. Old diffusers names of
    attention are understood; buffers that are not weights are passed over.
    """
    given = {_modern(name): value for name, value in tensors.items() if not _BUFFERS.search(name)}
    faults: dict[str, list[str]] = {'missing': [], 'unexpected': [], 'of the wrong shape': [], 'with NaN or infinity': []}
    flat = []
    for path, name, old in _leaves(module):
        if name not in given:
            faults['missing'].append(name)
            continue
        array = np.asarray(given.pop(name))
        axes = _axes(path, old.ndim)
        if axes is not None and array.ndim == len(axes):
            array = array.transpose(np.argsort(axes))
        if array.shape != old.shape:
            faults['of the wrong shape'].append(f'{name} (file {array.shape}, network {old.shape}, in our layout)')
        elif not np.isfinite(array).all():
            faults['with NaN or infinity'].append(name)
        else:
            flat.append((path, jnp.asarray(array, old.dtype)))
    faults['unexpected'] = list(given)
    if any(faults.values()):
        parts = [f'{len(names)} {what}: {_shorten(names)}' for what, names in faults.items() if names]
        raise UserError(f'these weights do not fit {type(module).__name__}: {"; ".join(parts)}. Check the config.json beside them.')
    state = nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))
    variables = dict(nnx.to_flat_state(state))
    nnx.update(module, nnx.from_flat_state([(path, variables[path].replace(value)) for path, value in flat]))


def _modern(name: str) -> str:
    return _OLD_ATTENTION.sub(lambda match: f'{match[1]}.{_NEW_ATTENTION[match[2]]}.', name)


def _shorten(names: list[str], shown: int = 8) -> str:
    more = f' and {len(names) - shown} more' if len(names) > shown else ''
    return ', '.join(names[:shown]) + more


# folders ----------------------------------------------------------------------------------------------------------------


def read_folder(folder: str | Path, *, subfolder: str = '') -> tuple[dict[str, Any], Tensors]:
    """(config, tensors) of a model folder; floating tensors come back as float32.

    Reads `diffusion_pytorch_model` or `model`, whole, sharded (`.safetensors.index.json`) or `.fp16`. Raises `UserError` for
    missing and broken files and for folders with pickled weights only.
    """
    folder = Path(folder) / subfolder
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder. Give a folder that holds config.json and {FILE}.')
    config = read_json(folder / 'config.json')
    if not isinstance(config, dict):
        raise UserError(f'{folder / "config.json"}: must hold a JSON object of settings.')
    tensors: Tensors = {}
    for file in _weight_files(folder):
        tensors |= _read_file(file)
    return config, tensors


def _weight_files(folder: Path) -> list[Path]:
    for name in (f'{stem}{variant}' for variant in ('', '.fp16') for stem in STEMS):
        if (folder / f'{name}.safetensors').is_file():
            return [folder / f'{name}.safetensors']
        head, dot, variant = name.partition('.')
        for index in (f'{name}.safetensors.index.json', f'{head}.safetensors.index{dot}{variant}.json'):
            if (folder / index).is_file():
                return _shards(folder / index)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise UserError(f'{folder}: holds no safetensors weights, only {", ".join(pickles)}. {_PICKLE_HELP}')
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


def _read_file(file: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f'{file}: not a readable safetensors file ({error}). Download or write it again.') from error
    return {k: v.astype(np.float32) if jnp.issubdtype(v.dtype, jnp.floating) else v for k, v in tensors.items()}


def write_folder(
    module_or_state: nnx.Module | nnx.State, config: Mapping[str, Any], folder: str | Path, *, dtype: str = 'float32'
) -> None:
    """Writes config.json and `diffusion_pytorch_model.safetensors`, each whole or not at all, weights first.

    The folder opens in PyTorch diffusers. `dtype='float16'` halves the size. Raises `UserError` for weights that are not finite
    (also: too large for float16), a full disk and an unwritable folder.
    """
    from safetensors.numpy import save

    if dtype not in ('float32', 'float16'):
        raise UserError(f"unknown dtype {dtype!r} for weights. Choose from: 'float32', 'float16'.")
    with np.errstate(over='ignore'):  # found below, with the names
        tensors = {name: value.astype(dtype) for name, value in export_tensors(module_or_state).items()}
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(f'{folder}: not written, {len(broken)} weights are not finite in {dtype}: {_shorten(broken)}.')
    write_bytes(Path(folder) / FILE, save(tensors, metadata={'format': 'pt'}))
    write_json(Path(folder) / 'config.json', dict(config))


def load_model(cls: Any, folder: str | Path, *, subfolder: str = '', dtype: Any = None) -> Any:
    """The network of class `cls` (with `from_config`) and its weights from a model folder; `dtype` is what it computes in."""
    config, tensors = read_folder(folder, subfolder=subfolder)
    module = nnx.eval_shape(lambda: cls.from_config(config, rngs=nnx.Rngs(0), dtype=dtype))  # no weight is drawn
    load_into(module, tensors)
    return module


# the hub ----------------------------------------------------------------------------------------------------------------


def resolve(path_or_hub_id: str | Path, revision: str | None = None, subfolder: str = '') -> Path:
    """The local folder of a model: an existing folder as it is, else a hub id, downloaded (or taken from the hub's cache).

    Only json, safetensors and txt are fetched, and only `subfolder` of them where one is given (the answer is the folder above
    it; pass `subfolder` to `read_folder` too). Pin `revision` to a commit for results that can be repeated. Raises `UserError`
    for pickled files, for folders that do not exist, and when the hub cannot be reached or does not know the id.
    """
    name = str(path_or_hub_id)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.suffix in _PICKLES:
        raise UserError(f'{name}: {_PICKLE_HELP}')
    if path.is_file():
        raise UserError(f'{name}: is a file; give the folder that holds it and its config.json.')
    if not re.fullmatch(r'[\w-][\w.-]*/[\w-][\w.-]*', name):
        raise UserError(f'{name}: no such folder, and not a hub id (owner/name). Give one of the two.')
    return Path(_download(name, revision, subfolder))


def _download(name: str, revision: str | None, subfolder: str) -> str:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    patterns = [f'{subfolder}/{pattern}' if subfolder else pattern for pattern in _HUB_FILES]
    by_hand = f'Download it elsewhere (`hf download {name} --local-dir FOLDER`) and give the path of that folder instead.'
    try:
        return huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
    except GatedRepoError as error:
        raise UserError(f'{name}: the hub asks you to accept its licence and to log in (`hf auth login`). {by_hand}') from error
    except RevisionNotFoundError as error:
        raise UserError(f'{name}: the hub has no revision {revision!r} of it. Choose a commit or branch of that page.') from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f'{name}: no folder of that name here, and the hub does not know it (or it is private). {by_hand}'
        ) from error
    except Exception as error:  # the hub's client lets its HTTP library's errors through, and that library changes
        raise UserError(
            f'{name}: no folder of that name here, and no answer came from the hub ({type(error).__name__}: '
            f'{str(error).splitlines()[0] if str(error) else "no message"}). {by_hand}'
        ) from error
