"""The command `convert`, without PyTorch: the same tensors as safetensors."""

import builtins
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from support.improved_ddpm_reference import random_state

from purify import cli
from purify.commands.convert import oddity, read_tensors
from purify.core.errors import UserError
from purify.core.files import sha256_of
from purify.generative.open_prior import load_variation_model
from purify.stages.named_folders import prior_folder
from purify.stages.provenance import describe_prior

WORDS = 'size_px=8,heads=4,steps=40,noise=cosine,rescale=True'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('converted')
    save_file(random_state(mult=(1,), attends=()), root / 'ema.safetensors')
    found = cli.main(
        ['convert', f'improved_ddpm:{WORDS}', str(root / 'ema.safetensors'), str(root / 'prior')]
    )
    assert found == 0
    return root / 'prior'


def test_the_folder_is_a_prior_of_published_weights(folder):
    assert prior_folder(str(folder), '')[0] == folder
    assert json.loads((folder / 'model_index.json').read_text())['_class_name'] == 'DDPMPipeline'
    found = describe_prior(folder, str(folder), '')
    assert found['kind'] == 'published'
    assert sha256_of(folder.parent / 'ema.safetensors')[:12] in found['text']
    prior = load_variation_model(folder)
    assert (prior.size_px, prior.channels, prior.schedule.steps) == (8, 3, 40)


def varied(prior, **settings):
    """Weights -> what the prior makes of two images with them; one program."""
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    program = jax.jit(prior.vary([], start=30, steps=3, **settings))
    return lambda weights: np.asarray(program(weights, images, jnp.zeros(2, int), keys))


@pytest.mark.long
def test_its_learned_variance_is_used_by_ddpm_and_passed_over_by_ddim(folder):
    """The channels of the variance, moved to either end of their range, are the fixed variances;
    ddim does not see them.
    """
    prior = load_variation_model(folder)
    moved = {}
    for end in (-1.0, 1.0):
        weights = jax.tree.map(np.array, prior.weights)
        last = weights['params']['conv_out']
        last['kernel'][..., 3:] = 0
        last['bias'][3:] = end
        moved[end] = weights
    ddim = varied(prior, sampler='ddim', eta=0.0)
    np.testing.assert_array_equal(ddim(moved[-1.0]), ddim(moved[1.0]))
    learned = varied(prior, sampler='ddpm', variance='learned_range')
    for end, fixed in ((-1.0, 'fixed_small'), (1.0, 'fixed_large')):
        other = varied(prior, sampler='ddpm', variance=fixed)
        np.testing.assert_allclose(learned(moved[end]), other(moved[end]), rtol=0, atol=2e-5)
    assert np.abs(learned(moved[-1.0]) - learned(moved[1.0])).max() > 1e-2


@pytest.mark.parametrize(
    'name', ['model_index.json', 'provenance.json', 'unet/diffusion_pytorch_model.safetensors']
)
def test_a_folder_that_holds_a_prior_is_left_alone(folder, tmp_path, capsys, name):
    there = tmp_path / 'prior' / name
    there.parent.mkdir(parents=True)
    there.write_text('another')
    words = ['convert', f'improved_ddpm:{WORDS}', str(folder.parent / 'ema.safetensors')]
    words += [str(tmp_path / 'prior')]
    assert cli.main(words) == 2
    assert f'holds a prior already ({name})' in capsys.readouterr().err
    assert [path for path in (tmp_path / 'prior').rglob('*') if path.is_file()] == [there]
    there.rename(there.with_name('notes.txt'))  # whatever else lies there is no prior
    assert cli.main(words) == 0


@pytest.mark.parametrize(
    ('kind', 'file', 'fragments'),
    [
        (
            'improved_ddpm',
            'ema.safetensors',
            ('size_px, heads, steps, noise, rescale', 'imagenet64_uncond_100M_1500K'),
        ),
        ('improved_ddpm:heads=4', 'ema.safetensors', (': size_px, steps, noise, rescale.',)),
        ('improved_ddpm:head=4', 'ema.safetensors', ("Did you mean 'heads'",)),
        (f'improved_ddpm:{WORDS},noise=sqrt', 'ema.safetensors', ("noise='sqrt'", 'cosine')),
        (f'improved_ddpm:{WORDS}', 'missing.pt', ('missing.pt', 'no such file')),
        (f'improved_ddpm:{WORDS}', 'broken.safetensors', ('broken.safetensors', 'not a readable')),
        (f'improved_ddpm:{WORDS}', 'broken.pt', ('broken.pt', 'PyTorch')),
        (f'improved_ddpm:{WORDS}', '.', (': is a folder. Give the checkpoint',)),
        (
            'improved_ddpm:size_px=8,heads=4,steps=10000000000,noise=cosine,rescale=True',
            'ema.safetensors',
            ('steps=10000000000',),
        ),
        (
            'improved_ddpm:size_px=8,heads=10000000000,steps=40,noise=cosine,rescale=True',
            'ema.safetensors',
            ('heads=10000000000',),
        ),
        (
            'improved_ddpm:size_px=8,heads=4,steps=10,noise=linear,rescale=True',
            'ema.safetensors',
            ('steps=10 with noise=linear: choose 21 or more',),
        ),
        (
            f'improved_ddpm:{WORDS}',
            'float8.safetensors',
            ('float8.safetensors: 1 tensors are not', 'F8_E4M3'),
        ),
        ('improvd_ddpm', 'ema.safetensors', ("Did you mean 'improved_ddpm'",)),
    ],
)
def test_what_cannot_be_converted_is_refused(
    folder, tmp_path, capsys, monkeypatch, kind, file, fragments
):
    for name in ('broken.safetensors', 'broken.pt'):
        (folder.parent / name).write_bytes(b'no tensors')
    save_file(
        {'out.2.weight': np.ones(4, ml_dtypes.float8_e4m3fn)}, folder.parent / 'float8.safetensors'
    )
    real = builtins.__import__

    def without_torch(name, *rest):
        if name == 'torch':
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, '__import__', without_torch)
    assert cli.main(['convert', kind, str(folder.parent / file), str(tmp_path / 'out')]) == 2
    text = capsys.readouterr().err
    assert 'Traceback' not in text
    for fragment in fragments:
        assert fragment in text
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'words',
    [[], ['improved_ddpm'], ['improved_ddpm', 'a.pt', 'b', '--workdir', 'c'], ['a', 'b', 'c', 'd']],
)
def test_the_command_says_what_it_takes(capsys, words):
    assert cli.main(['convert', *words]) == 2
    text = capsys.readouterr().err
    refused = ('improved_ddpm FILE.pt FOLDER', "unknown argument 'd'", '--workdir belongs to')
    assert any(said in text for said in refused)


@pytest.mark.parametrize('place', [0, 1])
def test_the_home_of_nobody_is_refused(folder, tmp_path, capsys, place):
    paths = [str(folder.parent / 'ema.safetensors'), str(tmp_path / 'out')]
    paths[place] = '~nobody-of-this-name/x'
    assert cli.main(['convert', f'improved_ddpm:{WORDS}', *paths]) == 2
    text = capsys.readouterr().err
    assert "'~nobody-of-this-name/x': not a usable path" in text
    assert 'Traceback' not in text


def stand_in(**change):
    """What a tensor of PyTorch tells of itself."""
    usual = {'layout': 'torch.strided', 'dtype': 'torch.float32'}
    usual |= {'device': SimpleNamespace(type='cpu'), 'is_nested': False}
    return SimpleNamespace(**(usual | change))


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({}, ''),
        ({'dtype': 'torch.bfloat16'}, ''),
        ({'layout': 'torch.sparse_coo'}, 'layout torch.sparse_coo'),
        ({'dtype': 'torch.qint8'}, 'dtype torch.qint8'),
        ({'dtype': 'torch.complex64'}, 'dtype torch.complex64'),
        ({'dtype': 'torch.float8_e4m3fn'}, 'dtype torch.float8_e4m3fn'),
        ({'device': SimpleNamespace(type='meta')}, 'on meta'),
        ({'is_nested': True, 'dtype': 'torch.int64'}, 'nested, dtype torch.int64'),
    ],
)
def test_tensors_that_are_no_plain_arrays_are_told(change, told):
    assert oddity(stand_in(**change)) == told


def test_pickled_tensors_of_every_kind(tmp_path):
    torch = pytest.importorskip('torch', reason='the parity extra (torch) is not installed')
    plain = {
        'a': torch.nn.Parameter(torch.arange(3.0)),
        'b': torch.tensor([1.5], dtype=torch.bfloat16),
    }
    torch.save(plain | {'bn.num_batches_tracked': torch.tensor(3)}, tmp_path / 'plain.pt')
    read = read_tensors(tmp_path / 'plain.pt')
    assert {name: value.tolist() for name, value in read.items()} == {'a': [0, 1, 2], 'b': [1.5]}
    assert {value.dtype for value in read.values()} == {np.dtype('float32')}
    odd = {
        'sparse': torch.eye(2).to_sparse(),
        'few bits': torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8),
        'nowhere': torch.empty(3, device='meta'),
        'whole': torch.arange(3),
        'float8': torch.ones(2).to(torch.float8_e4m3fn),
        'ragged': torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    }
    for name, value in odd.items():
        torch.save(plain | {name: value}, tmp_path / 'odd.pt')
        said = rf'odd.pt: 1 tensors are not plain arrays of floats: {name} \('
        with pytest.raises(UserError, match=said):
            read_tensors(tmp_path / 'odd.pt')


@pytest.mark.parametrize(
    ('file', 'change', 'told'),
    [
        (
            'scheduler/scheduler_config.json',
            {'num_train_timesteps': 41},
            r'unet/config.json: num_train_timesteps = 40, .* is 41',
        ),
        (
            'scheduler/scheduler_config.json',
            {'_class_name': 'DDIMScheduler'},
            r'model_index.json: says that scheduler is a DDPMSch',
        ),
        (
            'unet/config.json',
            {'_class_name': 'UNet2DConditionModel'},
            r'model_index.json: says that unet is a UNet2DModel, but ',
        ),
    ],
)
def test_files_of_a_prior_that_disagree_are_both_named(folder, tmp_path, file, change, told):
    shutil.copytree(folder, tmp_path / 'copy')
    config = tmp_path / 'copy' / file
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(UserError, match=told):
        load_variation_model(tmp_path / 'copy')
