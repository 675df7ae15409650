"""The files of a model folder as they lie on disk: settings in JSON, weights in safetensors.

Pickled weights (.bin, .pt, .pth, .ckpt) are never opened: they can run code.
"""

import copy
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.core.files import read_json

STEMS = ('diffusion_pytorch_model', 'model', 'pytorch_model')  # of diffusers, of transformers, of its pickles once converted
FILE = f'{STEMS[0]}.safetensors'
PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
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


def read_object(file: Path) -> dict[str, Any]:
    """The settings in a JSON file. Raises `UserError` when it is missing, broken or no JSON object."""
    value = read_json(file)
    if not isinstance(value, dict):
        raise UserError(f'{file}: must hold a JSON object of settings, not {value!r:.60}. Download it again.')
    return value


def read_folder(folder: str | Path, *, subfolder: str = '') -> 'tuple[dict[str, Any], Tensors]':
    """(config, tensors) of a model folder; tensors are read when asked for, floating ones as float32.

    Reads `diffusion_pytorch_model`, `model` or `pytorch_model`, whole, sharded (`.safetensors.index.json`) or `.fp16`. Raises
    `UserError` for missing and broken files and for folders with pickled weights only.
    """
    folder = Path(folder) / subfolder
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder. Give a folder that holds config.json and {FILE}.')
    return read_object(folder / 'config.json'), Tensors(_weight_files(folder))


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


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of safetensors files, each read when it is asked for; floating ones as float32."""

    def __init__(self, files: list[Path]):
        from safetensors import SafetensorError, safe_open

        self._files: dict[str, Any] = {}
        for file in files:
            try:
                opened = safe_open(file, 'np')
            except (SafetensorError, OSError, ValueError) as error:
                raise UserError(f'{file}: not a readable safetensors file ({error}). Download or write it again.') from error
            self._files |= dict.fromkeys(opened.keys(), opened)

    def within(self, prefixes: tuple[str, ...]) -> 'Tensors':
        """Those alone whose names begin with one of `prefixes`."""
        part = copy.copy(self)
        part._files = {name: opened for name, opened in self._files.items() if name.startswith(prefixes)}
        return part

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._files[name].get_tensor(name)
        return tensor.astype(np.float32, copy=False) if jnp.issubdtype(tensor.dtype, jnp.floating) else tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, from the headers of the files; reads no tensor."""
        return {name: tuple(opened.get_slice(name).get_shape()) for name, opened in self._files.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
