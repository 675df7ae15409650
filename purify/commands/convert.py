"""The command `convert`: turns a checkpoint in its authors' own format into a prior's folder."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from purify.commands.call import Call
from purify.config.arguments import parse_words
from purify.core.errors import UserError
from purify.core.files import sha256_of, user_path
from purify.core.progress import say
from purify.core.registry import Registry
from purify.diffusion.scheduler_config import schedule_from_diffusers
from purify.models.diffusers.improved_ddpm import PUBLISHED, Flags, to_diffusers
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.files.hub import INDEX
from purify.models.files.pipelines import Pipeline, save_pretrained
from purify.models.files.tensors import BUFFERS, Tensors
from purify.models.files.weights import abstract_model, load_into
from purify.stages.provenance import PROVENANCE_FILE, note_published


def convert_improved_ddpm(file: Path, folder: Path, words: str) -> None:
    """Converts Improved DDPM's `.pt`, or its tensors as `.safetensors`, to a DDPMPipeline's folder.

    Words: size_px, heads, steps, noise, rescale, see `purify.models.diffusers.improved_ddpm.Flags`.
    Files that go by their published names need none; of others, all must be given, for the weights
    fit wrong ones too.
    """
    tensors, flags = read_tensors(file), _flags(file.stem, words)
    config, converted, scheduler = to_diffusers(tensors, flags)
    schedule_from_diffusers(scheduler)  # refuses words that make no schedule
    network = abstract_model(UNet2DModel, config)
    load_into(network, converted)
    save_pretrained(Pipeline('DDPMPipeline', {'unet': network, 'scheduler': scheduler}), folder)
    note_published(folder, 'Improved DDPM (Nichol & Dhariwal 2021)', file.name, sha256_of(file))


CONVERTERS: Registry[Callable[[Path, Path, str], None]] = Registry(
    'format to convert', improved_ddpm=convert_improved_ddpm
)


def convert(kind: str, file: Path, folder: Path) -> None:
    """Converts `file` into `folder`; `kind` names the converter, with its words after a colon.

    Raises `UserError` where a prior, or a part of one, lies in `folder` already.
    """
    name, _, words = kind.partition(':')
    converter, folder = CONVERTERS[name], user_path(folder)
    names = (INDEX, PROVENANCE_FILE, '*.safetensors')
    if found := next((path for name in names for path in sorted(folder.rglob(name))), None):
        raise UserError(
            f'{folder}: holds a prior already ({found.relative_to(folder)}). Choose another folder,'
            ' or delete it.'
        )
    converter(user_path(file), folder, words)
    say(f'{folder}: written; use it as --config.prior.load={folder}')


def _flags(stem: str, words: str) -> Flags:
    spec = asdict(PUBLISHED.get(stem) or PUBLISHED['imagenet64_uncond_100M_1500K'])
    try:
        chosen = Flags(**parse_words(words, **spec))
    except ValueError as error:
        raise UserError(str(error)) from error
    given = {item.partition('=')[0] for item in words.split(',')}
    if stem not in PUBLISHED and (missing := [name for name in spec if name not in given]):
        like = ','.join(f'{name}={value}' for name, value in spec.items())
        raise UserError(
            f'{stem}: is not the name of a published file ({", ".join(PUBLISHED)}), so say how it'
            f' was trained: {", ".join(missing)}. For example: convert improved_ddpm:{like} FILE'
            ' FOLDER.'
        )
    return chosen


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors file or a pickled state dict, as float32.

    Pickles (.pt, .pth, .ckpt, .bin) need PyTorch. Raises `UserError` where it is not there, for
    missing, broken and unsafe files, and for tensors that are not plain arrays of floats.
    """
    if not file.is_file():
        kind = 'is a folder' if file.is_dir() else 'no such file'
        raise UserError(f'{file}: {kind}. Give the checkpoint that is to be converted.')
    if file.suffix == '.safetensors':
        return dict(Tensors([file]))
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f'{file}: is read by PyTorch, which is not installed. `pip install torch`, or bring the'
            ' file as .safetensors.'
        ) from error
    try:
        state = torch.load(file, map_location='cpu', weights_only=True)
    # Whatever the formats of zip files and pickles can raise, code that is refused too.
    except Exception as error:
        raise UserError(
            f'{file}: holds no plain tensors ({type(error).__name__}). Download it again.'
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise UserError(
            f'{file}: must hold a state dict, names and tensors alone. Give the one of the averaged'
            ' weights (ema).'
        )
    state = {str(name): value for name, value in state.items() if not BUFFERS.search(str(name))}
    if odd := [f'{name} ({told})' for name, value in state.items() if (told := oddity(value))]:
        raise UserError(
            f'{file}: {len(odd)} tensors are not plain arrays of floats: {", ".join(odd[:6])}.'
            ' Write the checkpoint with dense tensors of float16, bfloat16, float32 or float64.'
        )
    return {name: value.detach().float().numpy() for name, value in state.items()}


def oddity(value: Any) -> str:
    """What keeps a tensor of PyTorch from being a plain array of floats, '' where nothing does."""
    faults = {
        'nested': value.is_nested,
        f'layout {value.layout}': str(value.layout) != 'torch.strided',
        f'dtype {value.dtype}': (
            str(value.dtype).removeprefix('torch.')
            not in ('float16', 'bfloat16', 'float32', 'float64')
        ),
        f'on {value.device.type}': value.device.type != 'cpu',
    }
    return ', '.join(fault for fault, found in faults.items() if found)


def command(call: Call) -> int:
    """`convert`: a prior from its authors' own format into a folder that `prior.load` takes."""
    if len(call.words) != 3 or call.overrides or call.args.config or call.args.workdir:
        raise UserError(
            'say what is to be converted, and where to: purify convert improved_ddpm FILE.pt FOLDER'
        )
    convert(call.words[0], Path(call.words[1]), Path(call.words[2]))
    return 0
