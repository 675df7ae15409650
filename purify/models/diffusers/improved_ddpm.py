"""Converts checkpoints of Improved DDPM (Nichol & Dhariwal 2021) to the form of diffusers.

The checkpoints number the blocks from the first to the last (input_blocks, middle_block,
output_blocks) and pack queries, keys and values head by head into one projection. They were told
the time as t 1000 / T, which no sinusoid of diffusers is; where T is not 1000 a table of these
embeddings takes its place (time_embedding_type 'learned'), so that any diffusers-like reader
computes the same.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from purify.core.errors import UserError
from purify.core.types import Facts

Arrays = dict[str, np.ndarray]
_GROUPS = 32  # of every norm
_MOST = {'size_px': 2**14, 'heads': 2**10, 'steps': 10**5}  # a table has a row for each step
_NOISES = {'cosine': 'squaredcos_cap_v2', 'linear': 'linear'}
_TOP = {'input_blocks.0.0': 'conv_in', 'out.0': 'conv_norm_out', 'out.2': 'conv_out'}
_TOP |= {f'time_embed.{2 * n}': f'time_embedding.linear_{n + 1}' for n in range(2)}
_RESNET = {'in_layers.0': 'norm1', 'in_layers.2': 'conv1', 'emb_layers.1': 'time_emb_proj'}
_RESNET |= {'out_layers.0': 'norm2', 'out_layers.3': 'conv2', 'skip_connection': 'conv_shortcut'}
_ATTENTION = {'norm': 'group_norm', 'proj_out': 'to_out.0'}


@dataclass(frozen=True)
class Flags:
    """The flags a network was trained with, which its checkpoint does not hold.

    `size_px` of the images; `heads` of every attention; `steps` of the chain (T) and its `noise`,
    'cosine' or 'linear'; `rescale`: whether the network is told t 1000 / T in place of t. Raises
    `UserError` for values that make no network.
    """

    size_px: int
    heads: int
    steps: int
    noise: str
    rescale: bool

    def __post_init__(self):
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise UserError(f'{name}={getattr(self, name)}: choose 1 to {most}.')
        if self.noise not in _NOISES:
            raise UserError(f'noise={self.noise!r}: choose from {", ".join(_NOISES)}.')
        # betas of a thousand steps, made coarser: the last would reach 1
        if self.noise == 'linear' and self.steps <= 20:
            raise UserError(f'steps={self.steps} with noise=linear: choose 21 or more.')


_IMAGENET, _CIFAR = (Flags(size_px, 4, 4000, 'cosine', True) for size_px in (64, 32))
_LSUN = Flags(size_px=256, heads=1, steps=1000, noise='linear', rescale=False)
PUBLISHED = {  # name of the file: its flags, from the list of models that its authors publish
    'imagenet64_uncond_100M_1500K': _IMAGENET,
    'imagenet64_uncond_vlb_100M_1500K': _IMAGENET,
    'cifar10_uncond_50M_500K': _CIFAR,
    'cifar10_uncond_vlb_50M_500K': _CIFAR,
    'lsun_uncond_100M_1200K_bs128': _LSUN,
    'lsun_uncond_100M_2400K_bs64': _LSUN,
}


@dataclass(frozen=True)
class _Level:
    """One size of the way down: the numbers of its blocks, whether they attend, and its width."""

    blocks: list[int]
    attends: bool
    width: int


def to_diffusers(given: Mapping[str, np.ndarray], flags: Flags) -> tuple[Facts, Arrays, Facts]:
    """Converts tensors to (config.json of a UNet2DModel, its tensors, scheduler_config.json).

    Raises `UserError` for networks of other makes (also class-conditional ones and those of guided
    diffusion), by tensor.
    """
    if 'label_emb.weight' in given:
        raise UserError(
            'this network was trained with class labels, which images to be purified do not have.'
            ' Take one without.'
        )
    try:
        return _converted(given, flags)
    # a tensor that is missing, or of another shape than its place has
    except (IndexError, KeyError, ValueError) as error:
        raise _stranger(f'its tensors have other names or shapes ({error!r:.100})') from error


def _converted(given: Mapping[str, np.ndarray], flags: Flags) -> tuple[Facts, Arrays, Facts]:
    levels = _levels(given)
    rename = _TOP | _down_names(levels) | _up_names(levels)
    rename |= _parts('middle_block.1', 'mid_block.attentions.0', _ATTENTION)
    for number in range(2):
        rename |= _parts(f'middle_block.{2 * number}', f'mid_block.resnets.{number}', _RESNET)
    tensors: Arrays = {}
    for name, value in given.items():
        place, _, leaf = name.rpartition('.')
        norm = rename.get(place.removesuffix('.qkv') + '.norm')
        if place.endswith('.qkv') and norm:
            tensors |= _split_qkv(norm.removesuffix('.group_norm'), leaf, value, flags.heads)
        elif place in rename and leaf in ('weight', 'bias'):
            tensors[f'{rename[place]}.{leaf}'] = value[..., 0] if value.ndim == 3 else value
        else:
            raise _stranger(f'it has a tensor {name!r}')
    config = _config(given, levels, flags)
    if config['time_embedding_type'] == 'learned':
        tensors['time_proj.weight'] = _rescaled_times(flags.steps, levels[0].width)
    learned = config['out_channels'] == 2 * config['in_channels']
    return config, tensors, _scheduler(flags, learned=learned)


def _stranger(what: str) -> UserError:
    return UserError(
        f'these weights are of no network of Improved DDPM: {what}. Give one of'
        f' {", ".join(PUBLISHED)}, or its like.'
    )


def _levels(given: Mapping[str, np.ndarray]) -> list[_Level]:
    matches = (re.match(r'input_blocks\.(\d+)\.', name) for name in given)
    numbers = {int(match[1]) for match in matches if match}
    whole = len(numbers) >= 2 and max(numbers) < len(given)
    needed = {'input_blocks.0.0.weight', 'out.2.weight', 'middle_block.1.qkv.weight'}
    if not needed <= set(given) or not whole:
        raise _stranger('it has no input_blocks, attention in its middle or output')
    cuts = [n for n in sorted(numbers) if f'input_blocks.{n}.0.op.weight' in given]
    levels = []
    for start, stop in zip([0, *cuts], [*cuts, max(numbers) + 1], strict=True):
        blocks = list(range(start + 1, stop))
        outs = [given.get(f'input_blocks.{n}.0.out_layers.3.weight') for n in blocks]
        widths = {0 if out is None else out.shape[0] for out in outs}
        attends = {f'input_blocks.{n}.1.qkv.weight' in given for n in blocks}
        if 0 in widths or len(widths) != 1 or len(attends) != 1:
            raise _stranger(
                f'its input_blocks {start + 1} to {stop - 1} are not residual blocks of one width'
                ' between strided ones'
            )
        levels.append(_Level(blocks, attends.pop(), widths.pop()))
    if len({len(level.blocks) for level in levels}) != 1:
        raise _stranger(f'its levels have {[len(level.blocks) for level in levels]} blocks')
    return levels


def _parts(theirs: str, ours: str, parts: Mapping[str, str]) -> dict[str, str]:
    return {f'{theirs}.{old}': f'{ours}.{new}' for old, new in parts.items()}


def _down_names(levels: list[_Level]) -> dict[str, str]:
    names = {}
    for number, level in enumerate(levels):
        ours = f'down_blocks.{number}'
        for layer, block in enumerate(level.blocks):
            names |= _parts(f'input_blocks.{block}.0', f'{ours}.resnets.{layer}', _RESNET)
            names |= _parts(f'input_blocks.{block}.1', f'{ours}.attentions.{layer}', _ATTENTION)
        last = f'input_blocks.{level.blocks[-1] + 1}.0'
        names |= _parts(last, f'{ours}.downsamplers.0', {'op': 'conv'})
    return names


def _up_names(levels: list[_Level]) -> dict[str, str]:
    names, each = {}, len(levels[0].blocks) + 1
    for number, level in enumerate(reversed(levels)):
        for layer in range(each):
            block = f'output_blocks.{number * each + layer}'
            names |= _parts(f'{block}.0', f'up_blocks.{number}.resnets.{layer}', _RESNET)
            if level.attends:
                names |= _parts(f'{block}.1', f'up_blocks.{number}.attentions.{layer}', _ATTENTION)
        last = f'output_blocks.{(number + 1) * each - 1}.{1 + level.attends}'
        names |= _parts(last, f'up_blocks.{number}.upsamplers.0', {'conv': 'conv'})
    return names


def _split_qkv(place: str, leaf: str, value: np.ndarray, heads: int) -> Arrays:
    """Rows [head, (q k v), channel of the head] of the one projection -> those of three."""
    if len(value) % (3 * heads):
        raise UserError(
            f'heads={heads} does not divide the {len(value) // 3} channels of {place}. Choose a'
            ' divisor.'
        )
    rows = value.reshape(heads, 3, -1, *value.shape[1:2])
    return {
        f'{place}.to_{part}.{leaf}': rows[:, k].reshape(len(value) // 3, *value.shape[1:2])
        for k, part in enumerate('qkv')
    }


def _config(given: Mapping[str, np.ndarray], levels: list[_Level], flags: Flags) -> Facts:
    attending = {level.width for level in levels if level.attends} | {levels[-1].width}
    head_dims = [max(1, level.width // flags.heads) for level in levels]
    kinds = ['Attn' if level.attends else '' for level in levels]
    first = levels[0]
    told = given[f'input_blocks.{first.blocks[0]}.0.emb_layers.1.weight'].shape[0]
    return {
        '_class_name': 'UNet2DModel',
        'sample_size': flags.size_px,
        'in_channels': given['input_blocks.0.0.weight'].shape[1],
        'out_channels': given['out.2.weight'].shape[0],
        'block_out_channels': [level.width for level in levels],
        'down_block_types': [f'{kind}DownBlock2D' for kind in kinds],
        'up_block_types': [f'{kind}UpBlock2D' for kind in reversed(kinds)],
        'layers_per_block': len(first.blocks),
        'attention_head_dim': head_dims[-1] if len(attending) == 1 else head_dims,
        'norm_num_groups': _GROUPS,
        'attn_norm_num_groups': _GROUPS,
        'resnet_time_scale_shift': 'scale_shift' if told == 2 * first.width else 'default',
        'time_embedding_type': 'learned' if flags.rescale and flags.steps != 1000 else 'positional',
        'num_train_timesteps': flags.steps,
    }


def _rescaled_times(steps: int, width: int) -> np.ndarray:
    """Cosines and sines f32[steps width] of t 1000 / steps."""
    half = width // 2
    frequencies = np.exp(-math.log(10000) * np.arange(half) / half)
    angles = np.outer(np.arange(steps) * (1000 / steps), frequencies)
    parts = [np.cos(angles), np.sin(angles), np.zeros((steps, width % 2))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _scheduler(flags: Flags, learned: bool) -> Facts:
    """The chain, whose linear betas are those of 1000 steps made finer or coarser."""
    return {
        '_class_name': 'DDPMScheduler',
        'num_train_timesteps': flags.steps,
        'beta_schedule': _NOISES[flags.noise],
        'beta_start': 0.1 / flags.steps,
        'beta_end': 20 / flags.steps,
        'trained_betas': None,
        'variance_type': 'learned_range' if learned else 'fixed_large',
        'prediction_type': 'epsilon',
        'clip_sample': True,
        'clip_sample_range': 1.0,
    }
