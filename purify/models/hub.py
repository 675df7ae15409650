"""Finding a model: a local folder as it is, or a name on the hub, of which only what is read is downloaded."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from purify.core.errors import UserError
from purify.core.files import read_json
from purify.models.weights import PICKLES, STEMS, conversion

INDEX = 'model_index.json'
_VERSATILE = ('image_encoder', 'image_unet', 'vae', 'scheduler', 'image_feature_extractor')
_FROM_TEXT = ('text_encoder', 'tokenizer', 'unet', 'vae', 'scheduler')
_UNCONDITIONAL = ('unet', 'scheduler')
COMPONENTS = {  # what image variation needs of each kind of pipeline
    'StableDiffusionImageVariationPipeline': ('image_encoder', 'unet', 'vae', 'scheduler', 'feature_extractor'),
    'VersatileDiffusionImageVariationPipeline': _VERSATILE,
    'VersatileDiffusionPipeline': _VERSATILE,
    'StableDiffusionPipeline': _FROM_TEXT,
    'StableDiffusionImg2ImgPipeline': _FROM_TEXT,
    'DDPMPipeline': _UNCONDITIONAL,
    'DDIMPipeline': _UNCONDITIONAL,
}
_WITH_WEIGHTS = ('image_encoder', 'text_encoder', 'unet', 'image_unet', 'vae')
_WITHOUT_WEIGHTS = ('scheduler', 'tokenizer', 'feature_extractor', 'image_feature_extractor')
_NON_EMA, _HALF = '*non_ema*', '*.fp16*'  # what training would go on from, and a second copy in half precision


def read_index(folder: Path) -> dict[str, Any]:
    """The model_index.json of a pipeline folder. Raises `UserError` when it is not a JSON object with a `_class_name`."""
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or not isinstance(index.get('_class_name'), str):
        raise UserError(f'{folder / INDEX}: must hold a JSON object with a "_class_name". Download it again.')
    return index


def classes_of(index: Mapping[str, Any]) -> dict[str, str]:
    """Component -> class name, of the components a model_index.json has (those it leaves empty are not there)."""
    pairs = {name: entry for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2 and all(entry)}
    return {name: str(entry[1]) for name, entry in pairs.items() if name.isidentifier()}  # a name from outside is no path


def resolve(path_or_hub_id: str | Path, revision: str | None = None, subfolders: Sequence[str] | None = None) -> Path:
    """The local folder of a model: an existing folder as it is, else a hub id, downloaded or taken from the hub's cache.

    Fetches the json and txt files at the top, weights at the top, and json, txt and safetensors of `subfolders`; None takes
    what image variation needs of the pipeline that its model_index.json names (`COMPONENTS`; of others: all components).
    Half-precision copies are fetched only where there is nothing else. Pin `revision` to a commit for results that can be
    repeated. Raises `UserError` for pickled files, for folders that do not exist, for models with pickled weights alone, and
    when the hub cannot be reached or does not know the id.
    """
    name = str(path_or_hub_id)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.suffix in PICKLES:
        raise UserError(f'{name}: {conversion(path.parent)} Then give the folder.')
    if path.is_file():
        raise UserError(f'{name}: is a file; give the folder that holds it and its config.json.')
    if not re.fullmatch(r'[\w-][\w.-]*/[\w-][\w.-]*', name):
        raise UserError(f'{name}: no such folder, and not a hub id (owner/name). Give one of the two.')
    return _fetch(name, revision, subfolders)


def _fetch(name: str, revision: str | None, subfolders: Sequence[str] | None) -> Path:
    folder = _download(name, revision, subfolders, ['*.json', '*.txt'], ['*/*'])
    subfolders = _subfolders(folder) if subfolders is None else subfolders
    patterns = [path.name for path in sorted(folder.iterdir()) if path.suffix in ('.json', '.txt')]
    patterns += [f'{stem}*.safetensors' for stem in STEMS]
    patterns += [f'{subfolder}/*.{suffix}' for subfolder in subfolders for suffix in ('json', 'txt', 'safetensors')]
    folder = _download(name, revision, subfolders, patterns, [_NON_EMA, _HALF])
    if _without_weights(folder, subfolders):
        folder = _download(name, revision, subfolders, patterns, [_NON_EMA])
    bare = _without_weights(folder, subfolders)
    if bare:
        raise UserError(
            f'{name}: the hub has no safetensors of it ({", ".join(part or "top folder" for part in bare)}). If it has pickled '
            f'ones, fetch them: `{_command(name, revision, bare, "bin")}`. {conversion("FOLDER")} Then give the path of FOLDER.'
        )
    return folder


def _subfolders(folder: Path) -> Sequence[str]:
    if not (folder / INDEX).is_file():
        return ()
    index = read_index(folder)
    return COMPONENTS.get(index['_class_name']) or tuple(classes_of(index))


def _without_weights(folder: Path, subfolders: Iterable[str]) -> list[str]:
    """The wanted folders that describe a network and hold no weights; '' is the top (google/ddpm-* keep everything there)."""
    described = [part for part in subfolders if (folder / part / 'config.json').is_file()]
    if not described and (folder / 'config.json').is_file():
        described = ['']
    return [part for part in described if not any((folder / part).glob('*.safetensors'))]


def _command(name: str, revision: str | None, subfolders: Iterable[str] | None, suffix: str = 'safetensors') -> str:
    """The command that downloads the same by hand; all folders that may hold weights where the pipeline is not known."""
    parts = ('', *_WITH_WEIGHTS) if subfolders is None else [part for part in subfolders if part not in _WITHOUT_WEIGHTS] or ['']
    files = [f'{part}/*.{suffix}' if part else f'*model.{suffix}' for part in parts]
    words = [f'--include "{pattern}"' for pattern in ('*.json', '*.txt', *files)]
    words += [f'--exclude "{pattern}"' for pattern in (_NON_EMA, _HALF)]
    return ' '.join(['hf download', name, *([f'--revision {revision}'] if revision else []), *words, '--local-dir FOLDER'])


def _download(name: str, revision: str | None, subfolders: Sequence[str] | None, patterns: list[str], ignored: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    by_hand = (
        f'Download it elsewhere (`{_command(name, revision, subfolders)}`; folders it does not have are passed over) and give '
        'the path of that folder instead'
    )
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except GatedRepoError as error:
        raise UserError(f'{name}: the hub asks you to accept its licence and to log in (`hf auth login`). {by_hand}.') from error
    except RevisionNotFoundError as error:
        raise UserError(f'{name}: the hub has no revision {revision!r} of it. Choose a commit or branch of that page.') from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f'{name}: no folder of that name here, and the hub does not know it (or it is private). {by_hand}.'
        ) from error
    except Exception as error:  # the hub's client lets its HTTP library's errors through, and that library changes
        raise UserError(
            f'{name}: no folder of that name here, and no answer came from the hub ({type(error).__name__}: '
            f'{str(error).splitlines()[0] if str(error) else "no message"}). {by_hand}, or bring a cache of the hub that '
            'holds it (HF_HOME) and set HF_HUB_OFFLINE=1.'
        ) from error
