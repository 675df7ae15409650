import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.weights import OTHER
from safetensors.numpy import load_file, save_file

from purify.core.errors import UserError
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.files.folders import FILE, read_folder
from purify.models.files.weights import (
    abstract_model,
    export_tensors,
    load_into,
    load_model,
    write_folder,
)

GOLDEN = OTHER / 'unet2d_ddpm'


class Zoo(nnx.Module):
    """One of each kind of leaf, no two alike in shape."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (5, 4), rngs=rngs)
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Embed(7, 4, rngs=rngs)])
        self.bn = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.free = nnx.Param(jnp.arange(4.0))

    @classmethod
    def from_config(cls, config, *, rngs, dtype=None):
        assert config == {'kind': 'zoo'}
        return cls(rngs)


CONFIG = {'kind': 'zoo'}


@pytest.fixture
def zoo():
    return Zoo(nnx.Rngs(0))


@pytest.fixture
def folder(zoo, tmp_path):
    write_folder(zoo, CONFIG, tmp_path)
    return tmp_path


def change(folder, **tensors):
    """Rewrites the weight file; a value of None takes the tensor out."""
    changed = load_file(folder / FILE) | {
        name.replace('__', '.'): value for name, value in tensors.items()
    }
    save_file({name: value for name, value in changed.items() if value is not None}, folder / FILE)


def test_names_and_layouts_of_pytorch(zoo):
    tensors = export_tensors(zoo)
    shapes = {name: value.shape for name, value in tensors.items()}
    assert shapes == {
        'conv.weight': (3, 2, 5, 4),
        'conv.bias': (3,),
        'layers.0.weight': (3, 2),
        'layers.0.bias': (3,),
        'layers.1.weight': (7, 4),
        'bn.weight': (3,),
        'bn.bias': (3,),
        'bn.running_mean': (3,),
        'bn.running_var': (3,),
        'free': (4,),
    }
    kernel = np.asarray(zoo.conv.kernel.get_value())
    assert tensors['conv.weight'][2, 1, 4, 3] == kernel[4, 3, 1, 2]
    assert tensors['layers.0.weight'][2, 1] == zoo.layers[0].kernel.get_value()[1, 2]


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
def test_written_folders_read_back(zoo, tmp_path, dtype):
    write_folder(zoo, CONFIG, tmp_path / 'new' / 'unet', dtype=dtype)
    assert sorted(p.name for p in (tmp_path / 'new' / 'unet').iterdir()) == ['config.json', FILE]
    config, tensors = read_folder(tmp_path / 'new' / 'unet')
    assert config == CONFIG
    found = {str(value.dtype) for value in load_file(tmp_path / 'new' / 'unet' / FILE).values()}
    assert found == {dtype}
    expected = export_tensors(zoo)
    assert tensors.keys() == expected.keys()
    for name, value in tensors.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[name].astype(dtype))
    other = Zoo(nnx.Rngs(1))
    load_into(other, tensors)
    for name, value in export_tensors(other).items():
        np.testing.assert_array_equal(value, tensors[name])


def test_golden_folder_goes_through_us_unchanged(tmp_path):
    if not GOLDEN.is_dir():
        pytest.skip('golden files not present')
    network = load_model(UNet2DModel, GOLDEN)
    write_folder(network, network.config, tmp_path)
    theirs, ours = load_file(GOLDEN / FILE), load_file(tmp_path / FILE)
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)
    known = json.loads((GOLDEN / 'config.json').read_text())
    config = json.loads((tmp_path / 'config.json').read_text())
    assert {k: v for k, v in known.items() if k != '_diffusers_version'} == config


def test_a_state_is_written_like_its_module(zoo, tmp_path):
    write_folder(nnx.state(zoo), CONFIG, tmp_path / 'all')
    write_folder(nnx.state(zoo, nnx.Param), CONFIG, tmp_path / 'params')
    everything = load_file(tmp_path / 'all' / FILE)
    assert everything.keys() == export_tensors(zoo).keys()
    wanted = {'bn.running_mean', 'bn.running_var'}
    assert everything.keys() - load_file(tmp_path / 'params' / FILE).keys() == wanted


def test_all_faults_come_in_one_message(zoo, folder):
    change(folder, conv__bias=None, free=np.zeros(5, np.float32), strange=np.zeros(1, np.float32))
    change(
        folder,
        bn__bias=np.array([0, np.nan, 0], np.float32),
        bn__weight=np.array([0, np.inf, 0], np.float32),
    )
    before = export_tensors(zoo)
    with pytest.raises(UserError) as error:
        load_into(zoo, read_folder(folder)[1])
    text = str(error.value)
    assert '1 missing: conv.bias' in text
    assert '1 unexpected: strange' in text
    assert '1 of the wrong shape: free (file (5,), network (4,)' in text
    assert '2 with NaN or infinity: ' in text
    assert 'bn.bias' in text
    assert 'bn.weight' in text
    for name, value in export_tensors(zoo).items():  # and nothing was touched
        np.testing.assert_array_equal(value, before[name])


def test_transposed_weights_of_the_wrong_shape_are_refused(zoo, folder):
    change(folder, layers__0__weight=np.zeros((2, 3), np.float32))
    with pytest.raises(UserError, match=r'layers\.0\.weight'):
        load_into(zoo, read_folder(folder)[1])


def test_buffers_are_passed_over(zoo, folder):
    change(folder, bn__num_batches_tracked=np.array(3), text_model__position_ids=np.arange(3))
    load_into(zoo, read_folder(folder)[1])


def test_old_attention_names_of_diffusers():
    network = nnx.eval_shape(
        lambda: UNet2DModel(
            block_out_channels=[8],
            down_block_types=['AttnDownBlock2D'],
            up_block_types=['AttnUpBlock2D'],
            layers_per_block=1,
            norm_num_groups=4,
            rngs=nnx.Rngs(0),
        )
    )
    nnx.update(
        network,
        jax.tree.map(
            lambda p: np.full(p.shape, np.prod(p.shape), p.dtype), nnx.state(network, nnx.Param)
        ),
    )
    expected = export_tensors(network)
    old = expected
    for new_name, old_name in {
        'to_q': 'query',
        'to_k': 'key',
        'to_v': 'value',
        'to_out.0': 'proj_attn',
    }.items():
        old = {
            name.replace(f'.{new_name}.', f'.{old_name}.'): value + 1 for name, value in old.items()
        }
    assert sum('.proj_attn.' in name for name in old) == 8
    load_into(network, old)
    for name, value in export_tensors(network).items():
        np.testing.assert_allclose(value, expected[name] + 4, rtol=1e-6)


def test_load_model_draws_nothing(folder, zoo):
    network = load_model(Zoo, folder)
    for name, value in export_tensors(network).items():
        np.testing.assert_array_equal(value, export_tensors(zoo)[name])


def test_shards_and_their_index(zoo, folder):
    tensors = load_file(folder / FILE)
    names = sorted(tensors)
    files = {
        name: f'diffusion_pytorch_model-0000{1 + (name > names[4])}-of-00002.safetensors'
        for name in names
    }
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / FILE).unlink()
    index = folder / f'{FILE}.index.json'
    index.write_text(json.dumps({'metadata': {}, 'weight_map': files}))
    assert read_folder(folder)[1].keys() == tensors.keys()

    index.write_text(json.dumps({'weight_map': files | {'x': '../secret.safetensors'}}))
    with pytest.raises(UserError, match='secret'):
        read_folder(folder)


@pytest.mark.parametrize(
    'name',
    ['model.safetensors', 'pytorch_model.safetensors', 'diffusion_pytorch_model.fp16.safetensors'],
)
def test_other_file_names(folder, name):
    (folder / FILE).rename(folder / name)
    assert read_folder(folder)[1]


def test_bfloat16_files_are_read(zoo, folder):
    save_file({k: v.astype(jnp.bfloat16) for k, v in export_tensors(zoo).items()}, folder / FILE)
    tensors = read_folder(folder)[1]
    assert {value.dtype for value in tensors.values()} == {np.dtype('float32')}
    np.testing.assert_allclose(tensors['free'], np.arange(4), rtol=1e-2)


def test_faults_of_folders(folder):
    with pytest.raises(UserError, match='no such folder'):
        read_folder(folder / 'nowhere')
    (folder / FILE).write_bytes(b'\x10\x00\x00\x00\x00\x00\x00\x00 broken')
    with pytest.raises(UserError, match='not a readable safetensors'):
        read_folder(folder)
    (folder / FILE).rename(folder / 'diffusion_pytorch_model.bin')
    said = rf'only diffusion_pytorch_model\.bin.*weights_only=True.* {folder}`'
    with pytest.raises(UserError, match=said):
        read_folder(folder)
    (folder / 'diffusion_pytorch_model.bin').unlink()
    with pytest.raises(UserError, match='holds no weights'):
        read_folder(folder)
    (folder / 'config.json').write_text('{')
    with pytest.raises(UserError, match='not valid JSON'):
        read_folder(folder)
    (folder / 'config.json').write_text('[]')
    with pytest.raises(UserError, match='JSON object'):
        read_folder(folder)


def test_weights_that_are_not_finite_are_not_written(zoo, folder):
    before = (folder / FILE).read_bytes()
    zoo.free[...] = jnp.array([1.0, 2.0, 1e6, 3.0])
    with pytest.raises(UserError, match='not finite in float16: free'):
        write_folder(zoo, CONFIG, folder, dtype='float16')
    with pytest.raises(UserError, match='float64'):
        write_folder(zoo, CONFIG, folder, dtype='float64')
    assert (folder / FILE).read_bytes() == before


def test_a_failed_write_leaves_the_old_file(zoo, folder, monkeypatch):
    before = (folder / FILE).read_bytes()
    zoo.free[...] = jnp.full(4, 7.0)

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='disk is full'):
        write_folder(zoo, CONFIG, folder)
    assert (folder / FILE).read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ['config.json', FILE]


def test_reading_does_not_need_float32_files_to_be_on_a_device(folder):
    _, tensors = read_folder(folder)
    assert not any(isinstance(value, jax.Array) for value in tensors.values())


def test_large_networks_are_cut_into_shards(zoo, tmp_path):
    write_folder(zoo, CONFIG | {'architectures': ['Zoo']}, tmp_path, max_shard_bytes=300)
    index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
    files = sorted(tmp_path.glob('*.safetensors'))
    wanted = [f'model-0000{i}-of-0000{len(files)}.safetensors' for i in range(1, len(files) + 1)]
    assert [file.name for file in files] == wanted
    found, sizes = {}, []
    for file in files:
        part = load_file(file)
        sizes.append([value.nbytes for value in part.values()])
        found |= part
        assert {index['weight_map'][name] for name in part} == {file.name}
    expected = export_tensors(zoo)
    assert found.keys() == expected.keys() == index['weight_map'].keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])
    assert len(files) > 1
    assert all(sum(size) <= 300 or len(size) == 1 for size in sizes)
    assert (
        index['metadata']['total_size']
        == sum(map(sum, sizes))
        == sum(value.nbytes for value in expected.values())
    )
    other = Zoo(nnx.Rngs(1))
    load_into(other, read_folder(tmp_path)[1])
    np.testing.assert_array_equal(export_tensors(other)['conv.weight'], expected['conv.weight'])


def test_new_weights_take_the_place_of_old_ones_however_they_are_cut(zoo, tmp_path):
    kept = tmp_path / 'diffusion_pytorch_model.non_ema.safetensors'
    tmp_path.joinpath(kept).write_bytes(b'not ours')
    for number, limit in enumerate((10**9, 300, 400, 10**9, 300)):
        zoo.free[...] = jnp.full(4, float(number))
        write_folder(zoo, CONFIG, tmp_path, max_shard_bytes=limit)
        np.testing.assert_array_equal(read_folder(tmp_path)[1]['free'], np.full(4, number))
        assert bool((tmp_path / FILE).exists()) == (limit == 10**9)
        counts = {file.name.partition('-of-')[2] for file in tmp_path.glob('*-of-*')}
        assert len(counts) == (limit != 10**9)
    assert kept.read_bytes() == b'not ours'


class Projections(nnx.Module):
    """Names as in the attention of an autoencoder and in a text encoder."""

    def __init__(self, rngs):
        self.attentions = nnx.List([nnx.Module()])
        self.attentions[0].to_q = nnx.Linear(2, 3, rngs=rngs)
        self.text_model = nnx.Module()
        self.text_model.fc = nnx.Linear(2, 1, rngs=rngs)


def test_projections_stored_as_convolutions_fit():
    network = Projections(nnx.Rngs(0))
    tensors = export_tensors(network)
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    tensors['attentions.0.query.weight'] = weight[:, :, None, None]
    tensors['attentions.0.query.bias'] = tensors.pop('attentions.0.to_q.bias')
    del tensors['attentions.0.to_q.weight']
    load_into(network, tensors)
    np.testing.assert_array_equal(network.attentions[0].to_q.kernel[...], weight.T)
    tensors['attentions.0.query.weight'] = np.zeros((3, 2, 3, 1), np.float32)
    with pytest.raises(UserError, match=r'attentions\.0\.to_q\.weight .file'):
        load_into(network, tensors)


def test_names_without_text_model():
    network = Projections(nnx.Rngs(0))
    tensors = export_tensors(network)
    tensors['fc.weight'] = tensors.pop('text_model.fc.weight') + 1
    tensors['fc.bias'] = tensors.pop('text_model.fc.bias')
    before = np.asarray(network.text_model.fc.kernel[...])
    load_into(network, tensors)
    np.testing.assert_array_equal(network.text_model.fc.kernel[...], before + 1)
    with pytest.raises(UserError, match=r'1 unexpected: fc\.strange'):
        load_into(network, tensors | {'fc.strange': np.zeros(1)})


def test_tensors_are_read_one_at_a_time(folder):
    file = folder / FILE
    tensors = read_folder(folder)[1]
    assert len(tensors) == len(load_file(file))
    assert tensors['free'] is not tensors['free']


def test_loaded_networks_are_on_no_device_and_can_be_called(zoo, folder):
    network = load_model(Zoo, folder)
    weights = jax.tree.leaves(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat)))
    assert {type(leaf) for leaf in weights} == {np.ndarray}
    assert all(leaf.flags.c_contiguous for leaf in weights)
    x = jnp.ones((1, 6, 6, 2))
    expected = np.asarray(zoo.conv(x))
    np.testing.assert_array_equal(network.conv(x), expected)
    found = nnx.jit(lambda conv, x: conv(x))(network.conv, x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_abstract_models_have_the_shapes_of_real_ones(zoo):
    abstract = nnx.state(abstract_model(Zoo, CONFIG), nnx.Param)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(abstract))
    real = jax.tree.map(lambda x: (x.shape, x.dtype), nnx.to_pure_dict(nnx.state(zoo, nnx.Param)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), nnx.to_pure_dict(abstract)) == real


def test_faults_of_a_model_name_its_folder(folder):
    change(folder, free=None)
    said = rf'{folder}: these weights do not fit Zoo: 1 missing: free'
    with pytest.raises(UserError, match=said):
        load_model(Zoo, folder)


def test_the_pipeline_folder_is_what_is_to_be_converted(folder):
    (folder / FILE).rename(folder / 'diffusion_pytorch_model.bin')
    inner = folder.rename(folder.parent / 'pipe line')
    inner.joinpath('unet').mkdir()
    for name in ('config.json', 'diffusion_pytorch_model.bin'):
        (inner / name).rename(inner / 'unet' / name)
    (inner / 'model_index.json').write_text('{}')
    with pytest.raises(UserError, match=rf"only diffusion_pytorch_model.bin.* '{inner}'`"):
        read_folder(inner / 'unet')


def test_new_weights_take_the_place_of_those_of_other_names(zoo, folder):
    """Of transformers before, of diffusers now; the copy in half precision is no rival."""
    half = folder / 'model.fp16.safetensors'
    half.write_bytes(b'another')
    write_folder(zoo, CONFIG | {'architectures': ['Zoo']}, folder)
    wanted = ['config.json', half.name, 'model.safetensors']
    assert sorted(path.name for path in folder.iterdir()) == wanted
    assert read_folder(folder)[1].keys() == export_tensors(zoo).keys()


def test_the_class_in_the_settings_is_the_one_that_is_read(zoo, folder):
    (folder / 'config.json').write_text(json.dumps(CONFIG | {'_class_name': 'Aquarium'}))
    said = r"config.json: describes a 'Aquarium', but is to be read as a Zoo"
    with pytest.raises(UserError, match=said):
        load_model(Zoo, folder)
