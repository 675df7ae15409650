"""Finds a model: a local folder as it is, or a name on the hub, downloaded as far as it is read."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from purify.core.errors import UserError
from purify.core.files import user_path
from purify.core.types import Facts
from purify.models.files.folders import (
    FILE_STEMS,
    PICKLES,
    conversion,
    has_weights,
    read_object,
    refuse_pickles,
)

INDEX = 'model_index.json'
# Models inside the package, by the name that stands for their folder.
_PRETRAINED = Path(__file__).parents[1] / 'pretrained'
EMBEDDED = {'digits': _PRETRAINED / 'digits_ddpm', 'photos32': _PRETRAINED / 'photos32_ddpm'}
_VERSATILE = ('image_encoder', 'image_unet', 'vae', 'scheduler', 'image_feature_extractor')
_FROM_TEXT = ('text_encoder', 'tokenizer', 'unet', 'vae', 'scheduler')
_UNCONDITIONAL = ('unet', 'scheduler')
_VARIATION = ('image_encoder', 'unet', 'vae', 'scheduler', 'feature_extractor')
COMPONENTS: dict[str, tuple[str, ...]] = {  # what image variation needs of each kind of pipeline
    'StableDiffusionImageVariationPipeline': _VARIATION,
    'VersatileDiffusionImageVariationPipeline': _VERSATILE,
    'VersatileDiffusionPipeline': _VERSATILE,
    'StableDiffusionPipeline': _FROM_TEXT,
    'StableDiffusionImg2ImgPipeline': _FROM_TEXT,
    'DDPMPipeline': _UNCONDITIONAL,
    'DDIMPipeline': _UNCONDITIONAL,
}
_SUFFIXES = {  # what is read of a component; of others the three kinds
    **dict.fromkeys(
        ('image_encoder', 'text_encoder', 'unet', 'image_unet', 'vae'), ('json', 'safetensors')
    ),
    **dict.fromkeys(('scheduler', 'feature_extractor', 'image_feature_extractor'), ('json',)),
    'tokenizer': ('json', 'txt'),
}
_NON_EMA = '*non_ema*'  # what training would go on from
_HALF = ('*.fp16*', '*.bf16*')  # further copies in half precision
# They lie in a component's folder, or at the top of old layouts.
_SHARED = ('scheduler_config.json', 'preprocessor_config.json')
_TOP = (INDEX, 'config.json', *_SHARED)


def read_index(folder: Path) -> Facts:
    """Reads the model_index.json of a pipeline folder.

    Raises `UserError` when it is not a JSON object with a `_class_name`.
    """
    index = read_object(folder / INDEX)
    name = index.get('_class_name')
    if not isinstance(name, str):
        raise UserError(
            f'{folder / INDEX}: must hold a "_class_name" in text, not {name!r}. Download it again.'
        )
    return index


def classes_of(index: Mapping[str, Any]) -> dict[str, str]:
    """The class names of a pipeline's components by name; empty components are left out."""
    classes = {}
    for name, entry in index.items():
        # A name from outside is no path.
        if isinstance(entry, list) and len(entry) == 2 and all(entry) and name.isidentifier():
            classes[name] = str(entry[1])
    return classes


def resolve(
    path_or_hub_id: str | Path, revision: str | None = None, subfolders: Sequence[str] | None = None
) -> Path:
    """The local folder of a model: one of `EMBEDDED`, an existing one, or a hub id's, downloaded.

    Fetches settings and weights at the top and in `subfolders`; None takes what image variation
    needs of the pipeline that its model_index.json names (`COMPONENTS`; of others: all components).
    Half-precision copies are fetched only where there is nothing else. Pin `revision` to a commit
    for results that can be repeated. Raises `UserError` for pickled files, for folders that do not
    exist, for models with pickled weights alone, for two files of the same component's settings
    that differ, and when the hub cannot be reached or does not know the id.
    """
    name = str(path_or_hub_id)
    if name in EMBEDDED:
        return EMBEDDED[name]
    path = user_path(name)
    if path.is_dir():
        return _checked(path)
    if path.suffix in PICKLES and has_weights(path.parent):
        raise UserError(
            f'{path}: pickled weights can run code and are not opened. For the safetensors beside'
            f' it give {path.parent}.'
        )
    if path.suffix in PICKLES:
        raise UserError(f'{refuse_pickles(path.parent, [path.name])} Then give the folder.')
    if path.is_file():
        raise UserError(f'{name}: is a file; give the folder that holds it and its config.json.')
    if not re.fullmatch(r'[\w-][\w.-]*/[\w-][\w.-]*', name):
        raise UserError(
            f'{name}: no such folder, and not a hub id (owner/name). Give one of the two.'
        )
    return _checked(_fetch(name, revision, subfolders))


def _checked(folder: Path) -> Path:
    """The folder, unless settings under one name differ between its top and a component."""
    for top in (folder / name for name in _SHARED):
        for inner in sorted(folder.glob(f'*/{top.name}')) if top.is_file() else ():
            if read_object(top) != read_object(inner):
                raise UserError(
                    f'{inner}: is read, but {top} has other settings. Delete the one that is not'
                    ' meant.'
                )
    return folder


def _fetch(name: str, revision: str | None, subfolders: Sequence[str] | None) -> Path:
    if subfolders is None:
        # The kind of pipeline is not known yet.
        everything = _command(name, revision, _patterns(_SUFFIXES))
        folder = _download(name, revision, _TOP, (), everything)
        index = read_index(folder) if (folder / INDEX).is_file() else {}
        subfolders = COMPONENTS.get(index.get('_class_name', '')) or tuple(classes_of(index))
    patterns = _patterns(subfolders)
    for ignored in ((_NON_EMA, *_HALF), (_NON_EMA,)):
        by_hand = _command(name, revision, patterns, ignored)
        folder = _download(name, revision, patterns, ignored, by_hand)
        bare = _without_weights(folder, subfolders)
        if not bare:
            return folder
    pickles = [
        f'{place}*.bin*'
        for part in bare
        for place in ([f'{part}/'] if part else ['diffusion_pytorch_model', 'pytorch_model'])
    ]
    raise UserError(
        f'{name}: the hub has no safetensors of it'
        f' ({", ".join(part or "top folder" for part in bare)}). If it has pickled ones, fetch'
        f' them:\n{_command(name, revision, [*patterns, *pickles])}\n{conversion("FOLDER")} Then'
        ' give the path of FOLDER.'
    )


def _patterns(subfolders: Iterable[str]) -> list[str]:
    """Which files are wanted.

    Each pattern begins with the name of a file or folder, for * also stands for slashes.
    """
    inside = [
        f'{part}/*.{suffix}'
        for part in subfolders
        for suffix in _SUFFIXES.get(part, ('json', 'txt', 'safetensors'))
    ]
    return [*_TOP, *(f'{stem}[.-]*safetensors*' for stem in FILE_STEMS), *inside]


def _without_weights(folder: Path, subfolders: Iterable[str]) -> list[str]:
    """Wanted folders that describe a network without weights; '' is the top (google/ddpm-*)."""
    described = [part for part in subfolders if (folder / part / 'config.json').is_file()]
    if not described and (folder / 'config.json').is_file():
        described = ['']
    return [part for part in described if not has_weights(folder / part)]


def _command(
    name: str,
    revision: str | None,
    patterns: Sequence[str],
    ignored: Sequence[str] = (_NON_EMA, *_HALF),
) -> str:
    """The command that downloads the same by hand, with any client of the hub that we allow."""
    pinned = f'revision={revision!r}, ' if revision else ''
    code = (
        f'from huggingface_hub import snapshot_download; snapshot_download({name!r}, {pinned}'
        f"local_dir='FOLDER', allow_patterns={list(patterns)}, ignore_patterns={list(ignored)})"
    )
    escaped = re.sub(r'([\\"$`])', r'\\\1', code)
    return f'python -c "{escaped}"'


def _download(
    name: str, revision: str | None, patterns: Sequence[str], ignored: Sequence[str], by_hand: str
) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    by_hand = (
        'Or download it elsewhere and give the path of FOLDER (what the hub does not have is'
        f' passed over):\n{by_hand}'
    )
    wanted: Facts = {'allow_patterns': list(patterns), 'ignore_patterns': list(ignored)}
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, **wanted))
    except errors.GatedRepoError as error:
        raise UserError(
            f'{name}: the hub asks you to accept its licence and to log in (`hf auth login`).'
            f' {by_hand}'
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f'{name}: the hub has no revision {revision!r} of it. Choose a commit or branch of that'
            ' page.'
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f'{name}: no folder of that name here, and the hub does not know it (or it is private:'
            f' `hf auth login`). Check the name. {by_hand}'
        ) from error
    except Exception as error:
        # The hub's client lets its HTTP library's errors through, and that library changes.
        raise UserError(
            f'{name}: no folder of that name here, and no answer came from the hub'
            f' ({type(error).__name__}:'
            f' {str(error).splitlines()[0] if str(error) else "no message"}). Bring a cache of the'
            f' hub that holds it (HF_HOME) and set HF_HUB_OFFLINE=1. {by_hand}'
        ) from error
