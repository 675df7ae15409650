import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.numpy import load_file, save_file

from purify.core.errors import UserError
from purify.models.unet2d import UNet2DModel
from purify.models.weights import FILE, export_tensors, load_into, load_model, read_folder, resolve, write_folder

GOLDEN = Path(os.environ.get('PURIFY_GOLDEN', Path(__file__).parents[1] / 'golden')) / 'unet2d_ddpm'


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
    changed = load_file(folder / FILE) | {name.replace('__', '.'): value for name, value in tensors.items()}
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


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_written_folders_read_back(zoo, tmp_path, dtype):
    write_folder(zoo, CONFIG, tmp_path / 'new' / 'unet', dtype=dtype)
    assert sorted(p.name for p in (tmp_path / 'new' / 'unet').iterdir()) == ['config.json', FILE]
    config, tensors = read_folder(tmp_path / 'new', subfolder='unet')
    assert config == CONFIG
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
    assert everything.keys() - load_file(tmp_path / 'params' / FILE).keys() == {'bn.running_mean', 'bn.running_var'}


def test_all_faults_come_in_one_message(zoo, folder):
    change(folder, conv__bias=None, free=np.zeros(5, np.float32), strange=np.zeros(1, np.float32))
    change(folder, bn__bias=np.array([0, np.nan, 0], np.float32), bn__weight=np.array([0, np.inf, 0], np.float32))
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
    nnx.update(network, jax.tree.map(lambda p: np.full(p.shape, np.prod(p.shape), p.dtype), nnx.state(network, nnx.Param)))
    expected = export_tensors(network)
    old = expected
    for new_name, old_name in {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}.items():
        old = {name.replace(f'.{new_name}.', f'.{old_name}.'): value + 1 for name, value in old.items()}
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
    files = {name: f'diffusion_pytorch_model-0000{1 + (name > names[4])}-of-00002.safetensors' for name in names}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / FILE).unlink()
    index = folder / f'{FILE}.index.json'
    index.write_text(json.dumps({'metadata': {}, 'weight_map': files}))
    assert read_folder(folder)[1].keys() == tensors.keys()

    index.write_text(json.dumps({'weight_map': files | {'x': '../secret.safetensors'}}))
    with pytest.raises(UserError, match='secret'):
        read_folder(folder)


@pytest.mark.parametrize('name', ['model.safetensors', 'diffusion_pytorch_model.fp16.safetensors'])
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
        read_folder(folder, subfolder='nowhere')
    (folder / FILE).write_bytes(b'\x10\x00\x00\x00\x00\x00\x00\x00 broken')
    with pytest.raises(UserError, match='not a readable safetensors'):
        read_folder(folder)
    (folder / FILE).rename(folder / 'diffusion_pytorch_model.bin')
    with pytest.raises(UserError, match=r'only diffusion_pytorch_model\.bin.*weights_only=True'):
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


def test_resolve_local(folder, tmp_path):
    assert resolve(folder) == folder
    assert resolve(str(folder), subfolder='unet') == folder
    shutil.copy(folder / FILE, tmp_path / 'weights.safetensors')
    for name, words in {
        tmp_path / 'weights.safetensors': 'is a file',
        'some/model.bin': 'weights_only=True',
        './nowhere': 'no such folder',
        '/no/such/place': 'no such folder',
        'nowhere': 'no such folder',
    }.items():
        with pytest.raises(UserError, match=words):
            resolve(name)


def test_resolve_asks_the_hub_for_safe_files_only(monkeypatch, tmp_path):
    asked = {}

    def snapshot(name, **kwargs):
        asked.update(kwargs, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)
    assert resolve('google/ddpm-cifar10-32', revision='abc') == tmp_path
    assert asked == {'name': 'google/ddpm-cifar10-32', 'revision': 'abc', 'allow_patterns': ['*.json', '*.safetensors', '*.txt']}
    resolve('google/ddpm-cifar10-32', subfolder='unet')
    assert asked['allow_patterns'] == ['unet/*.json', 'unet/*.safetensors', 'unet/*.txt']


@pytest.mark.parametrize('error', [LocalEntryNotFoundError('cannot reach'), ConnectionError('no route'), OSError('odd')])
def test_resolve_without_an_answer_from_the_hub(monkeypatch, error):
    def snapshot(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)
    with pytest.raises(UserError, match=r'owner/model: .*no answer came from the hub.*--local-dir'):
        resolve('owner/model')


def test_unknown_ids_are_told_from_silence(monkeypatch):
    def snapshot(*_, **__):  # past the constructor, which wants an answer of the client's own HTTP library
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)
    with pytest.raises(UserError, match='does not know it'):
        resolve('owner/model')


def test_reading_does_not_need_float32_files_to_be_on_a_device(folder):
    _, tensors = read_folder(folder)
    assert not any(isinstance(value, jax.Array) for value in tensors.values())
