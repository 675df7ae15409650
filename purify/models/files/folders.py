"""The files of a model folder as they lie on disk: settings in JSON, weights in safetensors.

Pickled weights (.bin, .pt, .pth, .ckpt) are never opened: they can run code.
"""

import functools
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from purify.core.devices import say_once
from purify.core.errors import UserError
from purify.core.files import read_json
from purify.core.types import Facts
from purify.models.files.tensors import Tensors

# of diffusers, of transformers, of its pickles once converted
FILE_STEMS = ('diffusion_pytorch_model', 'model', 'pytorch_model')
FILE = f'{FILE_STEMS[0]}.safetensors'
PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
_HALF = r'\.(?:fp|bf)16'  # marks a copy in half precision
WEIGHT_FILES = re.compile(  # whole, a shard or the index of shards
    rf'(?:{"|".join(FILE_STEMS)})(?:{_HALF})?(?P<shard>-\d+-of-\d+)?(?:{_HALF})?\.'
    rf'(?P<format>safetensors|{"|".join(suffix[1:] for suffix in PICKLES)})'
    rf'(?P<index>\.index(?:{_HALF})?\.json)?'
)
_DEEPEST = 50  # levels of JSON in JSON; settings have three or four
_DAY_S = 24 * 60 * 60  # what a slow download may take from a folder's first file to its last
_CONVERT = (
    'import pathlib, re, sys, torch, safetensors.torch as s; p = pathlib.Path(sys.argv[1]); '
    "h = {f.parent for f in p.rglob('*.safetensors*') if"
    f" re.fullmatch('({'|'.join(FILE_STEMS)})([.](fp|bf)16)?[.]safetensors"
    "([.]index([.](fp|bf)16)?[.]json)?', f.name)}; "
    "w = [(f, f.with_suffix('.safetensors')) for f in ([p] if p.is_file() else"
    " p.rglob('*model*.bin'))]; "
    "[print('left as it is:', f) if f.parent in h or t.exists() else s.save_file({k:"
    ' v.clone().contiguous() for k, v in '
    "torch.load(f, map_location='cpu', weights_only=True).items()}, t.with_suffix('.part'),"
    " {'format': 'pt'}) "
    "or t.with_suffix('.part').replace(t) for f, t in w]; "
    "[i.with_name(i.name.replace('.bin.',"
    " '.safetensors.')).write_text(i.read_text().replace('.bin\\x22', '.safetensors\\x22')) "
    "for i in p.rglob('*model*.bin.index*.json') if i.parent not in h]"
)


def conversion(path: str | Path) -> str:
    """Says in an error how to turn pickled weights into safetensors beside them, offline.

    `path` is one file, or a folder: of one network or of a whole pipeline, whose weights may be cut
    into shards. The command overwrites no safetensors, and converts nothing in a folder that can be
    read already.
    """
    converted = Path(path).with_suffix('.safetensors')
    if Path(path).suffix in PICKLES and converted.is_file():
        return (
            f'Pickled weights can run code and are not opened, but {converted} lies beside them:'
            ' give that file.'
        )
    return (
        'Pickled weights can run code and are not opened. Convert them once, on a machine where'
        f' you trust the files: `pip install torch safetensors`, then `python -c "{_CONVERT}"'
        f' {shlex.quote(str(path))}`.'
    )


def refuse_pickles(folder: Path, names: list[str]) -> UserError:
    """The error for a folder with pickled weights only, which says how to make it readable."""
    told = f'{folder}: holds no safetensors weights, only {", ".join(names)}.'
    if any(name.endswith('.bin') and WEIGHT_FILES.fullmatch(name) for name in names):
        whole = (folder.parent / 'model_index.json').is_file()
        return UserError(f'{told} {conversion(folder.parent if whole else folder)}')
    converted = Path(names[0]).with_suffix('.safetensors').name
    if (folder / converted).is_file():
        return UserError(
            f'{folder}: holds no weights under a known name. If {converted} is meant, rename it to'
            f' {FILE}.'
        )
    return UserError(f'{told} {conversion(folder / names[0])} Then rename {converted} to {FILE}.')


def has_weights(folder: Path) -> bool:
    """Whether a folder holds safetensors under a name that `read_folder` knows."""
    found = (WEIGHT_FILES.fullmatch(path.name) for path in folder.glob('*.safetensors*'))
    return any(match['format'] == 'safetensors' for match in found if match)


def is_half(name: str) -> bool:
    """Whether a file of weights is a copy in half precision, by its name."""
    return re.search(rf'{_HALF}\b', name) is not None


def read_object(file: Path) -> Facts:
    """Reads the settings in a JSON file.

    Raises `UserError` when it is missing, broken, nested without end or no JSON object.
    """
    cure = 'Where it is a file of a model from elsewhere, download it again; one of a stage: run'
    value = read_json(file, cure=f'{cure} that again.')
    if not isinstance(value, dict):
        raise UserError(
            f'{file}: must hold a JSON object of settings, not a {type(value).__name__}. Download'
            ' it again.'
        )
    layer: list[Any] = [value]
    for _ in range(_DEEPEST):
        nested = (part for part in layer if isinstance(part, dict | list))
        inner = (part.values() if isinstance(part, dict) else part for part in nested)
        layer = [value for values in inner for value in values]
    if layer:
        raise UserError(
            f'{file}: is nested deeper than {_DEEPEST} levels, which settings of a model are not.'
            ' Download it again.'
        )
    return value


def read_folder(folder: str | Path) -> tuple[Facts, Tensors]:
    """Reads (config, tensors) of a model folder; each tensor when it is asked for, as float32.

    Reads `diffusion_pytorch_model`, `model` or `pytorch_model`, whole or sharded
    (`.safetensors.index.json`), and its copy in half precision (`.fp16`, `.bf16`) where there is
    nothing else. Raises `UserError` for missing and broken files, for folders with pickled weights
    only, for two sets of weights side by side, for an index that contradicts its files, and for
    safetensors that are older by more than a day than pickled weights beside them; of those that
    are older by less it says so.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f'{folder}: no such folder. Give a folder that holds config.json and {FILE}.'
        )
    config = read_object(folder / 'config.json')
    names = sorted(path.name for path in folder.iterdir())
    matches = {name: match for name in names if (match := WEIGHT_FILES.fullmatch(name))}
    found = {name: match for name, match in matches.items() if match['format'] == 'safetensors'}
    if not found:
        if pickles := [name for name in names if Path(name).suffix in PICKLES]:
            raise refuse_pickles(folder, pickles)
        others = [name for name in names if name.endswith('.safetensors')]
        told = f' under a known name, only {", ".join(others)}' if others else ''
        raise UserError(f'{folder}: holds no weights{told}. Put {FILE} beside its config.json.')
    half = all(map(is_half, found))
    alike = [name for name in names if is_half(name) == half]
    tensors = _choose(folder, {name: found[name] for name in alike if name in found})
    _check_age(folder, tensors.files, [name for name in alike if Path(name).suffix in PICKLES])
    return config, tensors


def _choose(folder: Path, found: Mapping[str, re.Match[str]]) -> Tensors:
    """The tensors of the one set of weights among these files."""
    indexes = [name for name, match in found.items() if match['index']]
    shards = [name for name, match in found.items() if match['shard'] and not match['index']]
    wholes = [name for name in found if name not in (*indexes, *shards)]
    if not wholes and not indexes:
        raise UserError(
            f'{folder}: holds shards of weights ({", ".join(shards[:3])}), but no'
            ' .safetensors.index.json that lists them. Download that file too.'
        )
    if len(indexes) == 1 and not wholes:
        weight_map = _read_index(folder / indexes[0])
        strays = sorted(set(shards) - set(weight_map.values()))
        if not strays:
            tensors = Tensors([folder / name for name in sorted(set(weight_map.values()))])
            tensors.check_index(folder / indexes[0], weight_map)
            return tensors
        shards = strays
    if len(wholes) == 1 and not indexes and not shards:
        return Tensors([folder / wholes[0]])
    raise UserError(
        f'{folder}: holds more than one set of weights'
        f' ({", ".join([*wholes, *indexes, *shards[:3]])}), and nothing says which is meant. Delete'
        ' the others.'
    )


def _read_index(index: Path) -> dict[str, str]:
    """Tensor -> the file that holds it."""
    weight_map = read_object(index).get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(
            f'{index}: needs a "weight_map" from tensor names to files. Download it again.'
        )
    # one from outside must not reach out of its folder, nor name a pickle
    for name in sorted(set(map(str, weight_map.values()))):
        own = name == Path(name).name and name.endswith('.safetensors')
        if not own or not (index.parent / name).is_file():
            raise UserError(
                f'{index}: names the shard {name!r:.200}, which is not a .safetensors file beside'
                ' it. Download both again.'
            )
    return {tensor: str(name) for tensor, name in weight_map.items()}


def _check_age(folder: Path, files: list[Path], pickles: list[str]) -> None:
    """Refuses pickled weights that are newer than those read, or only mentions them.

    Those newer by a day or less, or under other names, are mentioned. Links are passed over: a
    cache of the hub consists of them, and when it fetched which says nothing about the weights.
    """
    paths = (folder / name for name in pickles)
    times = {path: path.stat().st_mtime for path in paths if not path.is_symlink()}
    read = max(files, key=lambda file: file.stat().st_mtime)
    newer = [path for path in times if times[path] > read.stat().st_mtime]
    if not newer or read.is_symlink():
        return
    weights = [path for path in newer if WEIGHT_FILES.fullmatch(path.name)]
    newest = max(weights or newer, key=times.__getitem__)
    old, new = (
        datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime('%Y-%m-%d %H:%M UTC')
        for path in (read, newest)
    )
    if weights and times[newest] - read.stat().st_mtime > _DAY_S:
        raise UserError(
            f'{newest}: is of {new}, but {read.name} beside it, which would be read, of {old}.'
            ' Delete the one that is not meant.'
        )
    _say_first(f'{read}: is read, of {old}; {newest.name} beside it, of {new}, is not')


_say_first = functools.cache(say_once)  # a start opens a folder several times
