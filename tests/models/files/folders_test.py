"""Folders of weights that contradict themselves, types that are not read, and whether the printed
way out leads out.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from purify.core.errors import UserError
from purify.models.files.folders import FILE, conversion, read_folder, read_object
from purify.models.files.tensors import Tensors

VALUES = {
    name: np.full(3, number, np.float32)
    for number, name in enumerate(('a.weight', 'b.weight', 'c.bins'))
}
STAND_INS = """
import pathlib, sys, types
import numpy as np
from safetensors.numpy import load_file, save_file

class Tensor(np.ndarray):
    clone = lambda self: self
    contiguous = lambda self: np.ascontiguousarray(self)

def load(file, map_location, weights_only):
    assert (map_location, weights_only) == ('cpu', True)
    return {name: value.view(Tensor) for name, value in load_file(file).items()}

sys.modules['torch'] = types.SimpleNamespace(load=load)
sys.modules['safetensors.torch'] = types.SimpleNamespace(save_file=save_file)
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'unet'
    folder.mkdir()
    (folder / 'config.json').write_text('{}')
    return folder


def write_shards(
    folder,
    stem='diffusion_pytorch_model',
    ending='safetensors',
    listed=None,
    held=None,
    save=save_file,
):
    """Two shards and their index; `listed` and `held` say in which of the two each tensor is."""
    places = {'a.weight': 1, 'b.weight': 2, 'c.bins': 2}
    listed, held = listed or places, held or places
    files = {number: f'{stem}-0000{number}-of-00002.{ending}' for number in (1, 2, 3)}
    for number in set(held.values()):
        save(
            {name: VALUES.get(name, VALUES['a.weight']) for name in held if held[name] == number},
            folder / files[number],
        )
    index = folder / f'{stem}.{ending}.index.json'
    index.write_text(
        json.dumps(
            {'metadata': {}, 'weight_map': {name: files[number] for name, number in listed.items()}}
        )
    )
    return index


def same(tensors):
    assert tensors.keys() == VALUES.keys()
    for name, value in VALUES.items():
        np.testing.assert_array_equal(tensors[name], value)


@pytest.mark.parametrize(
    'beside',
    [
        'diffusion_pytorch_model-00001-of-00003.safetensors',
        'diffusion_pytorch_model.safetensors.index.json',
        'model.safetensors',
        'pytorch_model-00002-of-00002.safetensors',
    ],
)
def test_two_sets_of_weights_are_one_too_many(folder, beside):
    save_file(VALUES, folder / FILE)
    same(read_folder(folder)[1])
    for name in (
        'diffusion_pytorch_model.fp16.safetensors',
        'diffusion_pytorch_model.non_ema.safetensors',
        'other.safetensors',
    ):
        # copies with another meaning, which the hub keeps beside the weights
        (folder / name).write_bytes(b'another')
    same(read_folder(folder)[1])
    (folder / beside).write_text('{}')
    said = rf'more than one set of weights \({FILE}, {beside}\).*Delete the others'
    with pytest.raises(UserError, match=said):
        read_folder(folder)


def test_shards_of_another_cut_and_shards_without_an_index(folder):
    index = write_shards(folder)
    same(read_folder(folder)[1])
    stray = folder / 'diffusion_pytorch_model-00003-of-00003.safetensors'
    save_file(VALUES, stray)
    said = rf'more than one set of weights \({index.name}, {stray.name}\)'
    with pytest.raises(UserError, match=said):
        read_folder(folder)
    stray.unlink()
    index.unlink()
    with pytest.raises(UserError, match=r'00001-of-00002.*but no \.safetensors\.index\.json'):
        read_folder(folder)


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (
            {'listed': {'a.weight': 1, 'b.weight': 2}},
            r'1 tensors: c\.bins \(nowhere there, .*-00002-of-00002.safetensors in truth\)',
        ),
        (
            {'held': {'a.weight': 1, 'b.weight': 2}},
            r'1 tensors: c\.bins \(.*-00002-of-00002.safetensors there, nowhere in truth\)',
        ),
        (
            {'listed': {'a.weight': 2, 'b.weight': 1, 'c.bins': 2}},
            r'2 tensors: a\.weight \(.*-00002-of-.* there, .*-00001-of-.* in truth\)',
        ),
    ],
)
def test_an_index_that_contradicts_its_files(folder, change, told):
    index = write_shards(folder, **change)
    with pytest.raises(UserError, match=rf'{index}: contradicts the files beside it about {told}'):
        read_folder(folder)


def test_one_tensor_in_two_shards(folder):
    write_shards(folder)
    second = folder / 'diffusion_pytorch_model-00002-of-00002.safetensors'
    save_file(load_file(second) | {'a.weight': VALUES['a.weight']}, second)
    said = r'00002-of-00002.safetensors: holds a\.weight, but so does .*00001-of-00002'
    with pytest.raises(UserError, match=said):
        read_folder(folder)


def test_buffers_need_no_place_in_the_index(folder):
    write_shards(folder)
    first = folder / 'diffusion_pytorch_model-00001-of-00002.safetensors'
    save_file(load_file(first) | {'embeddings.position_ids': np.arange(3)}, first)
    same(read_folder(folder)[1])


@pytest.mark.parametrize(
    ('later_s', 'kind'), [(-60, 'silent'), (3600, 'said'), (2 * 86400, 'refused')]
)
def test_pickled_weights_that_are_newer(folder, capsys, later_s, kind):
    save_file(VALUES, folder / FILE)
    pickle = folder / 'diffusion_pytorch_model.bin'
    pickle.write_bytes(b'never opened')
    os.utime(folder / FILE, (1_700_000_000, 1_700_000_000))  # 2023-11-14 22:13:20 UTC
    os.utime(pickle, (0, 1_700_000_000 + later_s))
    if kind == 'refused':
        with pytest.raises(
            UserError,
            match=(
                rf'{pickle}: is of 2023-11-16 22:13 UTC, but {FILE} beside it.* of 2023-11-14'
                r' 22:13 UTC'
            ),
        ):
            read_folder(folder)
        pickle.rename(folder / 'linked')
        pickle.symlink_to('linked')  # as in a cache of the hub, whose dates are those of downloads
    for _ in range(2):  # and said once
        same(read_folder(folder)[1])
    told = (
        f'{folder / FILE}: is read, of 2023-11-14 22:13 UTC; {pickle.name} beside it, of 2023-11-14'
        ' 23:13 UTC, is not\n'
    )
    assert capsys.readouterr().err == (told if kind == 'said' else '')


@pytest.mark.parametrize(
    ('name', 'refused'),
    [
        ('diffusion_pytorch_model.pth', True),
        ('model.ckpt', True),
        ('pytorch_model.pt', True),
        ('diffusion_pytorch_model-00001-of-00002.pkl', True),
        ('optimizer.pt', False),  # may be no weights at all
    ],
)
def test_pickles_of_every_ending_that_are_newer(folder, capsys, name, refused):
    save_file(VALUES, folder / FILE)
    (folder / name).write_bytes(b'never opened')
    os.utime(folder / FILE, (1_700_000_000, 1_700_000_000))
    if refused:
        with pytest.raises(UserError, match=rf'{name}: is of .*Delete the one that is not meant'):
            read_folder(folder)
    else:
        same(read_folder(folder)[1])
        assert f'; {name} beside it, of' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['fp16', 'bf16'])
def test_half_precision_is_read_where_there_is_nothing_else(folder, kind):
    stored = {
        name: value.astype(ml_dtypes.bfloat16 if kind == 'bf16' else np.float16)
        for name, value in VALUES.items()
    }
    save_file(stored, folder / f'diffusion_pytorch_model.{kind}.safetensors')
    same(read_folder(folder)[1])
    save_file({'a.weight': VALUES['a.weight']}, folder / FILE)
    assert [*read_folder(folder)[1]] == ['a.weight']
    (folder / FILE).unlink()
    other = {'fp16': 'bf16', 'bf16': 'fp16'}[kind]
    save_file(stored, folder / f'diffusion_pytorch_model.{other}.safetensors')
    with pytest.raises(UserError, match='more than one set of weights'):
        read_folder(folder)


def test_weights_under_an_unknown_name_are_named(folder):
    save_file(VALUES, folder / 'diffusion_pytorch_model.fp32.safetensors')
    said = r'holds no weights under a known name, only diffusion_pytorch_model\.fp32\.safetensors'
    with pytest.raises(UserError, match=said):
        read_folder(folder)


def test_settings_that_stand_twice_in_one_file(folder):
    save_file(VALUES, folder / FILE)
    (folder / 'config.json').write_text('{"b": {"in_channels": 1}, "c": {"in_channels": 3}}')
    assert read_folder(folder)[0]['c'] == {'in_channels': 3}
    (folder / 'config.json').write_text(
        '{"a": 1, "b": {"in_channels": 1, "x": 2, "in_channels": 3}}'
    )
    said = r"config\.json: not valid JSON \(the key 'in_channels' stands twice.*download it again"
    with pytest.raises(UserError, match=said):
        read_folder(folder)


@pytest.mark.parametrize(
    ('dtype', 'told'),
    [
        (ml_dtypes.float8_e4m3fn, 'F8_E4M3'),
        (ml_dtypes.float8_e5m2, 'F8_E5M2'),
        (np.int8, 'I8'),
        (np.uint8, 'U8'),
        (bool, 'BOOL'),
        (np.complex64, 'C64'),
    ],
)
def test_types_that_are_no_plain_floats_are_named(folder, dtype, told):
    save_file({'a.weight': np.ones(4, dtype)}, folder / FILE)
    tensors = read_folder(folder)[1]
    for read in (tensors.shapes, lambda: tensors['a.weight']):
        said = rf'{FILE}: 1 tensors are not of float16.*: a\.weight \({told}\)'
        with pytest.raises(UserError, match=said):
            read()
    assert not tensors.within(('b.',)).shapes()  # what is not looked at may be of any type


def test_a_tensor_of_float64_that_is_too_large_is_infinite(folder):
    save_file({'a.weight': np.array([1e300, 1.5])}, folder / FILE)
    np.testing.assert_array_equal(read_folder(folder)[1]['a.weight'], [np.inf, 1.5])


@pytest.mark.parametrize(
    'text',
    [
        '[' * 100_000,
        '{"a":' * 100_000,
        '{"a":' + '[' * 60 + ']' * 60 + '}',
        '{"a":' + '[' * 900 + ']' * 900 + '}',
    ],
)
def test_json_that_is_nested_without_end(folder, text):
    (folder / 'config.json').write_text(text)
    with pytest.raises(UserError, match=r'config.json: .*nested deeper.*ownload it again'):
        read_object(folder / 'config.json')
    (folder / 'config.json').write_text('{"a":' + '[' * 20 + ']' * 20 + '}')
    assert read_object(folder / 'config.json')


def test_a_folder_in_the_place_of_a_file(folder):
    (folder / FILE).mkdir()
    for read in (lambda: read_folder(folder), lambda: Tensors([folder / FILE])):
        said = f'{FILE}: is a folder, where a file of weights should be'
        with pytest.raises(UserError, match=said):
            read()


# the way out of pickled weights -------------------------------------------------------------------


def run(command, env):
    done = subprocess.run(
        ['bash', '-c', command.replace('python', sys.executable, 1)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=['torch', 'a stand-in'])
def library(request, tmp_path):
    """(how a pickled file is written, environment): PyTorch where it is installed; else its place
    taken by NumPy's safetensors.
    """
    if request.param == 'torch':
        torch = pytest.importorskip('torch', reason='the parity extra (torch) is not installed')
        return lambda values, file: torch.save(
            {k: torch.from_numpy(v) for k, v in values.items()}, file
        ), dict(os.environ)
    (tmp_path / 'stand_ins').mkdir()
    (tmp_path / 'stand_ins' / 'sitecustomize.py').write_text(STAND_INS)
    return save_file, os.environ | {'PYTHONPATH': str(tmp_path / 'stand_ins')}


def printed(error):
    return re.findall('`([^`]*)`', str(error.value))[-1]


@pytest.mark.parametrize('stem', ['diffusion_pytorch_model', 'pytorch_model'])
@pytest.mark.parametrize('cut', [False, True])
def test_the_command_in_the_error_leads_to_a_folder_that_is_read(library, folder, stem, cut):
    save, env = library
    # so the whole pipeline is to be converted
    (folder.parent / 'model_index.json').write_text('{}')
    if cut:
        write_shards(folder, stem, 'bin', save=save)
    else:
        save(VALUES, folder / f'{stem}.bin')
    (folder / 'training_args.bin').write_bytes(b'none of ours')
    with pytest.raises(UserError, match='no safetensors weights') as error:
        read_folder(folder)
    assert printed(error).endswith(f' {folder.parent}')
    run(printed(error), env)
    same(read_folder(folder)[1])
    assert (folder / f'{stem}.safetensors.index.json').exists() == cut


def test_the_command_leaves_safetensors_that_are_there(library, folder):
    """Of a pipeline, one part alone has pickled weights and nothing else; the others have better
    ones beside theirs.
    """
    save, env = library
    old = {name: value + 7 for name, value in VALUES.items()}
    (folder.parent / 'model_index.json').write_text('{}')
    save(VALUES, folder / 'diffusion_pytorch_model.bin')
    save_file(old, folder / 'diffusion_pytorch_model.non_ema.safetensors')  # not what is read
    whole, other_name, cut, half = (
        folder.parent / name for name in ('vae', 'text_encoder', 'image_unet', 'image_encoder')
    )
    for part in (whole, other_name, cut, half):
        part.mkdir()
        (part / 'config.json').write_text('{}')
    save(old, whole / 'diffusion_pytorch_model.bin')
    save_file(VALUES, whole / FILE)
    save(old, other_name / 'pytorch_model.bin')
    save_file(VALUES, other_name / 'model.safetensors')
    write_shards(cut)
    save(old, cut / 'diffusion_pytorch_model.bin')
    write_shards(half, 'pytorch_model', 'bin', save=save)
    save_file(VALUES, half / 'model.bf16.safetensors')
    before = {path: path.read_bytes() for path in folder.parent.rglob('*.safetensors*')}
    with pytest.raises(UserError, match='no safetensors weights') as error:
        read_folder(folder)
    for _ in range(2):  # and again, as after a stop
        done = run(printed(error), env)
    # one in each of three parts, two shards, and what the first time converted
    assert done.count('left as it is: ') == 6
    for part in (folder, whole, other_name, cut, half):
        same(read_folder(part)[1])
    after = {
        path for path in folder.parent.rglob('*') if path.is_file() and '.safetensors' in path.name
    }
    assert after == {*before, folder / FILE}
    assert {path: path.read_bytes() for path in before} == before
    assert not [*folder.parent.rglob('*.part')]


def test_where_the_safetensors_lie_beside_a_pickled_file_they_are_named(library, folder):
    save, env = library
    for name in ("it's.pth", 'unet ema.ckpt'):
        save(VALUES, folder / name)
    command = re.findall('`([^`]*)`', conversion(folder / "it's.pth"))[-1]
    run(command, env)
    converted = folder / "it's.safetensors"
    wanted = f'not opened, but {converted} lies beside them: give that file.'
    assert wanted in conversion(folder / "it's.pth")
    save_file({'kept': np.ones(1, np.float32)}, converted)
    assert 'left as it is' in run(command, env)
    assert [*load_file(converted)] == ['kept']
    save_file(VALUES, folder / 'unet ema.safetensors')
    said = rf'no weights under a known name. If .*\.safetensors is meant, rename it to {FILE}\.'
    with pytest.raises(UserError, match=said):
        read_folder(folder)


def test_pickles_of_other_names_are_converted_one_by_one(library, folder):
    save, env = library
    save(VALUES, folder / 'unet ema.ckpt')
    said = rf'only unet ema\.ckpt.* Then rename unet ema\.safetensors to {FILE}\.'
    with pytest.raises(UserError, match=said) as error:
        read_folder(folder)
    run(printed(error), env)
    (folder / 'unet ema.safetensors').rename(folder / FILE)
    same(read_folder(folder)[1])


def test_a_single_file_is_converted_beside_itself(library, folder):
    save, env = library
    save(VALUES, folder / "it's.pth")
    run(re.findall('`([^`]*)`', conversion(folder / "it's.pth"))[-1], env)
    same(load_file(folder / "it's.safetensors"))
    assert Path(folder / "it's.pth").exists()
