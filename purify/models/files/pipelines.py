"""Reads and writes whole models, by path or name, in the folders of diffusers and transformers.

from purify.models import from_pretrained, save_pretrained
pipeline = from_pretrained('lambdalabs/sd-image-variations-diffusers', revision='v2.0')
pipeline.parts['unet'](latents, timestep, encoder_hidden_states)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flax import nnx

from purify.core.errors import UserError
from purify.core.files import write_json
from purify.core.registry import Registry
from purify.core.types import Facts
from purify.models.clip.clip import CLIPTextModel, CLIPVisionModelWithProjection
from purify.models.clip.clip_pixels import IMAGE_PROCESSOR
from purify.models.clip.tokenizer import CLIPTokenizer
from purify.models.diffusers.autoencoder_kl import AutoencoderKL
from purify.models.diffusers.model_config import ConfiguredModule
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.diffusers.unet2d_condition import UNet2DConditionModel
from purify.models.files.dtypes import check_dtype
from purify.models.files.folders import read_object
from purify.models.files.hub import COMPONENTS, INDEX, classes_of, read_index, resolve
from purify.models.files.weights import SHARD_BYTES, load_model, write_folder

MODELS: Registry[type[ConfiguredModule]] = Registry(
    'network',
    AutoencoderKL=AutoencoderKL,
    CLIPTextModel=CLIPTextModel,
    CLIPVisionModelWithProjection=CLIPVisionModelWithProjection,
    UNet2DConditionModel=UNet2DConditionModel,
    UNet2DModel=UNet2DModel,
)
CONFIG, SCHEDULER, PROCESSOR = 'config.json', 'scheduler_config.json', 'preprocessor_config.json'
_MODEL_TYPES = {
    'clip_vision_model': 'CLIPVisionModelWithProjection',
    'clip_text_model': 'CLIPTextModel',
}
_TOKENIZER = re.compile(r'CLIPTokenizer(Fast)?')
_EMPTY = [None, None]
_NO_CHECKER = {'safety_checker': _EMPTY, 'requires_safety_checker': False}
_NO_IMAGES = _NO_CHECKER | {'feature_extractor': _EMPTY, 'image_encoder': _EMPTY}
_LEFT_OUT = {  # what PyTorch's pipelines want to see named, though they can do without
    'StableDiffusionImageVariationPipeline': _NO_CHECKER,
    'StableDiffusionPipeline': _NO_IMAGES,
    'StableDiffusionImg2ImgPipeline': _NO_IMAGES,
}

Part = nnx.Module | CLIPTokenizer | Facts
_Reader = Callable[[Path], Part]
_Open = Callable[[Any, Path], nnx.Module]  # class, folder -> network


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A diffusers pipeline: its class name there and its parts under their names there.

    Networks are `nnx` modules, `scheduler` and feature extractors the dicts of their config files,
    `tokenizer` a `CLIPTokenizer`.
    """

    class_name: str
    parts: dict[str, Any]


def from_pretrained(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    subfolder: str = '',
    dtype: Any = None,
    components: Sequence[str] | None = None,
    weights: bool = True,
) -> Any:
    """Opens a network, or a `Pipeline` if there is a model_index.json, from a folder or the hub.

    `subfolder` takes one part of it. `dtype` is what networks compute in (parameters are float32;
    None: computes in float32). Of a pipeline, `components` are read; None reads what image
    variation needs (`purify.models.files.hub.COMPONENTS`), of pipelines unknown to us all that is
    readable. Weights are NumPy arrays, on no device yet. Without `weights`, networks hold shapes
    (`jax.ShapeDtypeStruct`) in their place: that the files fit is seen from their headers, and no
    tensor is read. Raises `UserError` naming the folder for missing parts, unsupported classes and
    settings, and weights that do not fit.
    """
    check_dtype(dtype)
    open_network = partial(load_model, dtype=dtype, weights=weights)
    folder = resolve(path_or_hub_id, revision, [subfolder] if subfolder else components)
    if not (folder / subfolder).is_dir():
        there = ', '.join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or 'none'
        raise UserError(f'{folder}: has no subfolder {subfolder!r}. It has: {there}.')
    folder = folder / subfolder
    if (folder / INDEX).is_file():
        return _read_pipeline(folder, components, open_network)
    if components is not None:
        raise UserError(
            f'{folder}: components = {list(components)} are of pipelines, and it has no {INDEX}.'
            ' Leave them out.'
        )
    return open_network(MODELS[_class_of(folder)], folder)


def _class_of(folder: Path) -> str:
    """The class of a bare model folder, '' where its config.json does not say."""
    config = read_object(folder / CONFIG)
    name = told_class(config)
    if name not in MODELS:
        raise UserError(
            f'{folder / CONFIG}: describes {name or "no class"!r}. Supported:'
            f' {", ".join(sorted(MODELS))}.'
        )
    return name


def told_class(config: Mapping[str, Any]) -> str:
    """The class that a file of settings names, '' where it names none."""
    architectures = config.get('architectures')
    if not isinstance(architectures, list) or not architectures:
        architectures = [_MODEL_TYPES.get(str(config.get('model_type')), '')]
    return str(config.get('_class_name', architectures[0]))


def _read_pipeline(folder: Path, components: Sequence[str] | None, open_network: _Open) -> Pipeline:
    index = read_index(folder)
    classes, class_name = classes_of(index), index['_class_name']
    if components is None:
        readable = [name for name, cls in classes.items() if _reader(cls, open_network) is not None]
        components = COMPONENTS.get(class_name) or readable
    parts = {}
    for name in components:
        if name not in classes:
            raise UserError(
                f'{folder / INDEX}: its {class_name} has no component {name!r}. It has:'
                f' {", ".join(sorted(classes)) or "none"}.'
            )
        found = _reader(classes[name], open_network)
        if found is None:
            raise UserError(
                f'{folder}: its {name} is a {classes[name]}, which is not supported. Supported:'
                f' {", ".join(sorted(MODELS))}, schedulers, CLIPImageProcessor and CLIPTokenizer.'
            )
        file, read = found
        place = _place(folder, name, file)
        check_class_name(folder, name, place / file)
        parts[name] = read(place)
    return Pipeline(class_name, parts)


def check_class_name(folder: Path, name: str, file: Path) -> None:
    """Raises `UserError` where a part's own file contradicts model_index.json about its class.

    Of the classes of transformers only ours count: an encoder may be read out of the larger model
    that the file describes.
    """
    index = folder / INDEX
    named = classes_of(read_index(folder)).get(name) if index.is_file() else None
    if named is None or file.name not in (CONFIG, SCHEDULER):
        return
    config = read_object(file)
    told = told_class(config)
    if told != named and ('_class_name' in config or told in MODELS):
        raise UserError(
            f'{index}: says that {name} is a {named}, but {file} that it is a {told}. Download both'
            ' again, or correct one.'
        )


def _reader(class_name: str, open_network: _Open) -> tuple[str, _Reader] | None:
    """A file that tells the folder of a component of this class, and its reader, or None."""
    if class_name in MODELS:
        return CONFIG, lambda folder: open_network(MODELS[class_name], folder)
    if class_name.endswith('Scheduler'):
        named = {'_class_name': class_name}
        return SCHEDULER, lambda folder: named | read_object(folder / SCHEDULER)
    if IMAGE_PROCESSOR.fullmatch(class_name):
        return PROCESSOR, lambda folder: read_object(folder / PROCESSOR)
    if _TOKENIZER.fullmatch(class_name):
        return 'vocab.json', CLIPTokenizer.from_folder
    return None


def _place(folder: Path, name: str, file: str) -> Path:
    if (folder / name).is_dir():
        return folder / name
    if (folder / file).is_file():  # google/ddpm-* keep all parts in one folder
        return folder
    raise UserError(
        f'{folder}: its {INDEX} names {name}, but there is no folder {name} in it. Download that'
        ' folder too.'
    )


def save_pretrained(
    network_or_pipeline: Any,
    folder: str | Path,
    *,
    dtype: str = 'float32',
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a network or a `Pipeline` as folders that PyTorch diffusers and transformers open.

    model_index.json comes last. `dtype` ('float32', 'float16', 'bfloat16') and `max_shard_bytes`
    are those of `purify.models.files.weights.write_folder`. A VersatileDiffusionPipeline is written
    as the image-variation pipeline that its parts are. Raises `UserError` for weights that are not
    finite, parts of unknown kinds, a full disk and an unwritable folder.
    """
    folder, options = Path(folder), {'dtype': dtype, 'max_shard_bytes': max_shard_bytes}
    if not isinstance(network_or_pipeline, Pipeline):
        write_folder(network_or_pipeline, network_or_pipeline.config, folder, **options)
        return
    class_name, parts = network_or_pipeline.class_name, network_or_pipeline.parts
    if class_name == 'VersatileDiffusionPipeline':
        class_name = 'VersatileDiffusionImageVariationPipeline'
    entries = {name: _entry(name, part) for name, part in parts.items()}
    for name, part in parts.items():
        if isinstance(part, nnx.Module):
            save_pretrained(part, folder / name, **options)
        elif isinstance(part, CLIPTokenizer):
            part.save(folder / name)
        else:
            file = SCHEDULER if '_class_name' in part else PROCESSOR
            write_json(folder / name / file, dict(part))
    left_out = _LEFT_OUT.get(class_name, {})
    write_json(folder / INDEX, {'_class_name': class_name} | left_out | entries)


def _entry(name: str, part: Any) -> list[str]:
    """[library, class] of a part, as model_index.json lists it."""
    if isinstance(part, CLIPTokenizer):
        return ['transformers', 'CLIPTokenizer']
    config = getattr(part, 'config', None) if isinstance(part, nnx.Module) else part
    if isinstance(config, Mapping) and (told := told_class(config)):
        return ['transformers' if 'architectures' in config else 'diffusers', told]
    if isinstance(part, Mapping) and name.endswith('feature_extractor'):
        return ['transformers', 'CLIPImageProcessor']
    raise UserError(
        f'part {name!r} of the pipeline is a {type(part).__name__}, which has no place in a folder:'
        ' give networks, the config of a scheduler with its _class_name, the settings of a feature'
        ' extractor, or a CLIPTokenizer.'
    )
