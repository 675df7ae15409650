"""Folders of weights with something wrong in them: each is read, or refused in words; never a
traceback.

500 seeded cases in the whole suite; `PURIFY_FUZZ=10000` tries as many. A failure names its seed.
"""

import json
import os
import shutil
import struct
import traceback

import jax
import numpy as np
import pytest
from flax import nnx

from purify.commands.convert import read_tensors
from purify.core.errors import UserError
from purify.diffusion.scheduler_config import (
    sampler_from_diffusers,
    schedule_from_diffusers,
    with_sampler,
)
from purify.models.classifiers.pytorch_weights import read_foreign
from purify.models.classifiers.registry import NETWORKS as CLASSIFIERS
from purify.models.clip.clip_pixels import read_processor
from purify.models.files import weights
from purify.models.files.pipelines import MODELS, Pipeline, from_pretrained, save_pretrained
from purify.models.files.shapes import SHAPES, byte_tokenizer
from purify.models.files.weights import abstract, abstract_model

pytestmark = pytest.mark.long

TINY = SHAPES['tiny']
ONE_LEVEL = {'block_out_channels': [8], 'norm_num_groups': 4, 'layers_per_block': 1}
CONFIGS = {
    'unet': (
        TINY['unet']
        | ONE_LEVEL
        | {
            'down_block_types': ['CrossAttnDownBlock2D'],
            'up_block_types': ['CrossAttnUpBlock2D'],
            'cross_attention_dim': 6,
        }
    ),
    'vae': (
        TINY['vae']
        | ONE_LEVEL
        | {'down_block_types': ['DownEncoderBlock2D'], 'up_block_types': ['UpDecoderBlock2D']}
    ),
    'image_encoder': (
        TINY['image_encoder'] | {'num_hidden_layers': 1, 'hidden_size': 8, 'intermediate_size': 8}
    ),
    'text_encoder': (
        TINY['text_encoder'] | {'num_hidden_layers': 1, 'hidden_size': 8, 'intermediate_size': 8}
    ),
}
SETTINGS = {name: TINY[name] for name in ('scheduler', 'feature_extractor')}
PARTS = [*CONFIGS, *SETTINGS, 'tokenizer', 'classifier']
OWN = {  # settings of classifiers, as a network.json holds them
    'resnet': {
        'stages': [1, 1],
        'block': 'basic',
        'width': 4,
        'stem': 'small',
        'norm': 'batch',
        'mean': [0.5],
        'std': [0.5],
    },
    'vgg': {'stages': [1], 'width': 4, 'hidden': 4, 'norm': 'none', 'dropout': 0.5, 'mean': [0.5]},
    'densenet': {
        'stages': [1],
        'growth': 4,
        'bottleneck': 2,
        'compression': 0.5,
        'stem': 'small',
        'norm': 'group',
    },
    'efficientnet': {
        'width': 0.25,
        'depth': 0.1,
        'dropout': 0.2,
        'drop_path': 0.2,
        'std': [0.5, 0.5, 0.5],
    },
}
CASES = int(os.environ.get('PURIFY_FUZZ', '500')) // (len(PARTS) + len(OWN))
CLASSIFIER = {'stages': (1,), 'block': 'basic', 'width': 4, 'num_classes': 3, 'channels': 3}
NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    2**20 + 1,
    10**12,
    10**400,
    0.5,
    -0.5,
    1e300,
    float('nan'),
    float('inf'),
    -float('inf'),
]
BITS = {  # of each type of safetensors; 'XX' is none
    **dict.fromkeys(('F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'I8', 'U8', 'BOOL', 'XX'), 8),
    'F4': 4,
    **dict.fromkeys(('F16', 'BF16'), 16),
    **dict.fromkeys(('I64', 'F64', 'C64'), 64),
}


def filled(network):
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(x.dtype),
        nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat)),
    )
    nnx.update(network, state)
    return network


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A pipeline with one of each part, those of the encoders in shards, and a classifier's file as
    PyTorch writes it.
    """
    root = tmp_path_factory.mktemp('sound')
    networks = {
        name: filled(abstract_model(MODELS[weights_class(config)], config))
        for name, config in CONFIGS.items()
    }
    parts = networks | SETTINGS | {'tokenizer': byte_tokenizer(CONFIGS['text_encoder'])}
    save_pretrained(Pipeline('Odd', parts), root)
    for name in ('image_encoder', 'text_encoder'):
        save_pretrained(networks[name], root / name, max_shard_bytes=2000)
    (root / 'classifier').mkdir()
    shapes = {'conv1.weight': (4, 3, 3, 3), 'fc.weight': (3, 4), 'fc.bias': (3,)}
    norms = ['bn1', 'layer1.0.bn1', 'layer1.0.bn2']
    shapes |= {
        f'{norm}.{leaf}': (4,)
        for norm in norms
        for leaf in ('weight', 'bias', 'running_mean', 'running_var')
    }
    shapes |= {f'layer1.0.conv{number}.weight': (4, 4, 3, 3) for number in (1, 2)}
    weights_file = root / 'classifier' / 'weights.safetensors'
    weights_file.write_bytes(
        as_safetensors({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    )
    return root


def weights_class(config):
    return config.get('_class_name') or config['architectures'][0]


def as_safetensors(tensors):
    header, data = {}, b''
    for name, value in tensors.items():
        header[name] = {
            'dtype': 'F32',
            'shape': value.shape,
            'data_offsets': [len(data), len(data) + value.nbytes],
        }
        data += value.tobytes()
    return with_header(header, data)


def with_header(header, data):
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def read(folder, part):
    """What a command does with this part, as far as it needs no device."""
    if part == 'classifier':
        network = abstract(lambda rngs: CLASSIFIERS['resnet'](**CLASSIFIER, rngs=rngs))
        read_tensors(folder / part / 'weights.safetensors')
        return read_foreign(network, folder / part / 'weights.safetensors')
    found = from_pretrained(folder, components=[part]).parts[part]
    if part == 'scheduler':
        schedule_from_diffusers(found)
        sampler_from_diffusers(found, 3)
        sampler_from_diffusers(with_sampler(found, 'euler'), 3)
    elif part == 'feature_extractor':
        read_processor(found)
    elif part == 'tokenizer':
        found(['a cat'])
    return found


# what goes wrong ----------------------------------------------------------------------------------


def odd_value(rng):
    words = ['', 'x', 'silu', 'gelu', 'linear', 'UpBlock2D', 'CLIPTextModel', '\x00', 'é' * 300]
    shapes = [
        None,
        True,
        False,
        [],
        [1],
        [[1], [2]],
        [8, 8],
        [0] * 100,
        {},
        {'a': 1},
        ['x', 3],
        {'height': 8, 'width': 9},
    ]
    return pick(rng, pick(rng, [NUMBERS, words, shapes, [nested(rng)]]))


def pick(rng, values):
    return values[rng.integers(len(values))]


def nested(rng):
    value = []
    for _ in range(pick(rng, [30, 60, 400, 880])):
        value = [value] if rng.random() < 0.5 else {'a': value}
    return value


def changed(rng, value):
    """A copy of a JSON value with one place in it changed: another value, gone, or one more."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = pick(rng, list(value))
        fate = rng.random()
        if fate < 0.1:
            return {key: inner for key, inner in value.items() if key != name}
        if fate < 0.2:
            return value | {
                pick(
                    rng, ['odd', 'dropout', 'predict_epsilon', 'text_config', f'{name}2']
                ): odd_value(rng)
            }
        return value | {name: changed(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.integers(len(value))
        return [*value[:place], changed(rng, value[place]), *value[place + 1 :]]
    return odd_value(rng)


def change_json(rng, file):
    try:
        value = json.loads(file.read_text())
    except ValueError:  # merges.txt
        file.write_text(
            pick(rng, ['a b c\n', 'a b\n', '', '\ud7ff \x00\n', 'a\n']), encoding='utf-8'
        )
        return
    file.write_text(json.dumps(changed(rng, value)))


def change_header(rng, file):
    """One word of a safetensors header: a name, type (with as many bytes as it takes), shape or
    place; or one bit of it.
    """
    data = bytearray(file.read_bytes())
    length = struct.unpack('<Q', data[:8])[0]
    if rng.random() < 0.3:
        place = rng.integers(8 + length)
        data[place] ^= 1 << rng.integers(8)
        file.write_bytes(data)
        return
    header = json.loads(data[8 : 8 + length])
    name = pick(rng, [key for key in header if key != '__metadata__'])
    fate = rng.random()
    if fate < 0.4:
        kind = pick(rng, sorted(BITS))
        size = max(1, int(np.prod(header[name]['shape'], dtype=int)) * BITS[kind] // 8)
        start, end = header[name]['data_offsets']
        data[8 + length + start : 8 + length + end] = rng.integers(
            256, size=size, dtype=np.uint8
        ).tobytes()
        for entry in header.values():
            if entry.get('data_offsets', [0])[0] >= end:
                entry['data_offsets'] = [
                    place + size - (end - start) for place in entry['data_offsets']
                ]
        header[name] |= {'dtype': kind, 'data_offsets': [start, start + size]}
    elif fate < 0.6:
        header[name]['shape'] = pick(
            rng, [header[name]['shape'][::-1], [], [1], [0], [2**62, 4], [0, 2**62], [-1], 'x']
        )
    elif fate < 0.8:
        other = pick(
            rng,
            [
                'odd',
                'position_ids',
                'input_blocks.99999999999.0',
                'layer99999999999.0.conv1.weight',
                'fc.weight',
            ],
        )
        header[other] = header.pop(name)
    else:
        header = changed(rng, header)
    file.write_bytes(with_header(header, bytes(data[8 + length :])))


def change_bytes(rng, file):
    data = file.read_bytes()
    cut = rng.integers(len(data) + 1)
    noise = rng.integers(256, size=rng.integers(200), dtype=np.uint8).tobytes()
    deep = pick(rng, [b'[', b'{"a":']) * 100_000
    sizes = struct.pack('<Q', pick(rng, [0, 2**63, 2**40, 100_000_001])) + data[8:]
    file.write_bytes(
        pick(
            rng,
            [
                data[:cut],
                data[:cut] + noise + data[cut:],
                noise,
                b'',
                deep,
                with_header({}, b''),
                sizes,
            ],
        )
    )


def change_place(rng, file):
    """Not the bytes of a file, but what lies under its name, or beside it."""
    fate = rng.integers(6)
    files = sorted(path for path in file.parents[1].rglob('*') if path.is_file() and path != file)
    if fate == 0:
        file.unlink()
    elif fate == 1:
        file.unlink()
        file.mkdir()
    elif fate == 2:
        file.unlink()
        file.symlink_to(pick(rng, [file.name, 'nowhere']))
    elif fate == 3:
        shutil.copyfile(pick(rng, files), file)
    elif fate == 4:
        suffix = pick(
            rng,
            [
                '.safetensors',
                '.fp16.safetensors',
                '-00001-of-00009.safetensors',
                '.safetensors.index.json',
                '.bin',
            ],
        )
        data = file.read_bytes()
        file.with_name(
            pick(rng, ['model', 'diffusion_pytorch_model', 'pytorch_model']) + suffix
        ).write_bytes(data)
    else:
        file.with_name('model.bin').write_bytes(b'')
        os.utime(file.with_name('model.bin'), (2e9, 2e9))


def damage(rng, folder, part):
    files = [path for path in (folder / part).iterdir() if path.is_file()]
    files += [folder / 'model_index.json'] * (rng.random() < 0.2)
    file = pick(rng, sorted(files))
    kinds = [change_header if file.suffix == '.safetensors' else change_json] * 3
    kinds += [change_bytes, change_place]
    pick(rng, kinds)(rng, file)


@pytest.fixture
def quick(monkeypatch):
    """Each structure is traced once; the network may be filled again and again."""
    known, real = {}, weights.abstract_model

    def remember(cls, config, *, dtype=None):
        key = repr((cls, config))
        if key not in known:
            known[key] = real(cls, config, dtype=dtype)
        return known[key]

    monkeypatch.setattr(weights, 'abstract_model', remember)


@pytest.mark.parametrize('name', OWN)
def test_settings_of_classifiers_build_or_are_refused(name):
    refused, whole = 0, OWN[name] | {'num_classes': 3, 'channels': 3}
    for seed in range(CASES):
        settings = changed(np.random.default_rng([len(name), seed]), whole)
        settings = settings if isinstance(settings, dict) else {}
        settings = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in settings.items()
        }
        try:
            abstract(lambda rngs, settings=settings: CLASSIFIERS.make(name, **settings, rngs=rngs))
        except UserError:
            refused += 1
        except Exception as error:
            raise AssertionError(f'seed {seed}: {settings}') from error
    assert refused > CASES / 4


@pytest.mark.parametrize('part', PARTS)
def test_damaged_folders_are_read_or_refused(sound, tmp_path, quick, part):
    read(sound, part)  # the undamaged one is read
    refused, failed = 0, {}
    for seed in range(CASES):
        rng = np.random.default_rng([PARTS.index(part), seed])
        folder = tmp_path / str(seed)
        shutil.copytree(sound / part, folder / part)
        shutil.copyfile(sound / 'model_index.json', folder / 'model_index.json')
        damage(rng, folder, part)
        try:
            read(folder, part)
        except UserError as error:
            refused += 1
            failed |= (
                {seed: f'{error!s:.300}... is too long to read'} if len(str(error)) > 5000 else {}
            )
        except Exception:
            failed[seed] = traceback.format_exc(limit=-4)
        shutil.rmtree(folder)
    assert not failed, f'{len(failed)} seeds of {part}: {sorted(failed)[:20]}\n' + '\n'.join(
        [*failed.values()][:3]
    )
    assert refused > CASES / 4
