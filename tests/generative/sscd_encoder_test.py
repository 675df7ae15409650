import jax
import numpy as np
import pytest
from flax import nnx
from models.classifiers.resnet_test import shuffle_values
from safetensors.numpy import save_file

from purify.core.errors import UserError
from purify.generative.sscd_encoder import CopyEncoder, copy_file
from purify.models.classifiers import sscd
from purify.models.classifiers.pytorch_weights import sscd_names
from purify.models.classifiers.sscd import SSCD

SIZES = {'stages': (1,), 'block': 'basic', 'width': 4, 'dims': 6}
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}


def write(file, layout='published', but=()):
    """A tiny SSCD with values of its own, as its authors would have stored it; -> the network."""
    network = SSCD(**SIZES, rngs=nnx.Rngs(0))
    shuffle_values(network)
    names, tensors = sscd_names(network)[layout], {}
    for path, variable in nnx.to_flat_state(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat))):
        value = np.asarray(variable[...])
        value = (
            value.transpose(*range(value.ndim - 1, value.ndim - 3, -1), *range(value.ndim - 2))
            if value.ndim > 1
            else value
        )
        name = f'{names[".".join(map(str, path[:-1]))]}.{LEAVES.get(path[-1], path[-1])}'
        tensors[name] = np.ascontiguousarray(value)
    save_file({name: value for name, value in tensors.items() if name not in but}, file)
    return network


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Looks at 12 px in place of 288."""
    monkeypatch.setattr(sscd, 'EDGE', 12)


@pytest.mark.long
@pytest.mark.parametrize('layout', ['published', 'torchvision'])
def test_a_file_is_read_and_embeds(tmp_path, layout):
    network = write(tmp_path / 'a.safetensors', layout)
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    encoder = CopyEncoder.from_file(tmp_path / 'a.safetensors')
    found = jax.jit(encoder.embed)(encoder.weights, images)
    pixels = sscd.sscd_pixels(np.broadcast_to(images, (3, 8, 8, 3)))
    assert pixels.shape == (3, 12, 12, 3)
    np.testing.assert_allclose(found, network.describe(pixels), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    alone = jax.jit(encoder.embed)(encoder.weights, images[1:2])
    np.testing.assert_allclose(found[1:2], alone, atol=1e-6)


def test_shapes_stand_for_weights(tmp_path):
    write(tmp_path / 'a.safetensors')
    encoder = CopyEncoder.from_file(tmp_path / 'a.safetensors', weights=False)
    assert {type(x) for x in jax.tree.leaves(encoder.weights)} == {jax.ShapeDtypeStruct}
    assert jax.eval_shape(
        encoder.embed, encoder.weights, jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)
    ).shape == (2, 6)
    with pytest.raises(UserError, match='channels; these have 4'):
        jax.eval_shape(
            encoder.embed, encoder.weights, jax.ShapeDtypeStruct((2, 8, 8, 4), np.float32)
        )


def test_broken_files_are_named(tmp_path):
    write(tmp_path / 'a.safetensors', but=('backbone.layer1.0.bn2.running_var',))
    said = r'a\.safetensors.*1 missing: backbone\.layer1\.0\.bn2\.running_var'
    with pytest.raises(UserError, match=said):
        CopyEncoder.from_file(tmp_path / 'a.safetensors', weights=False)
    save_file({'x': np.zeros(2, np.float32)}, tmp_path / 'b.safetensors')
    with pytest.raises(UserError, match=r'b\.safetensors.*finding copies'):
        CopyEncoder.from_file(tmp_path / 'b.safetensors')


def test_a_file_or_a_folder_of_one_and_nothing_else(tmp_path):
    file = tmp_path / 'one' / 'sscd.safetensors'
    file.parent.mkdir()
    write(file)
    assert copy_file(file) == copy_file(file.parent) == file
    (file.parent / 'config.json').write_text('{}')
    assert copy_file(file.parent) is None
    assert copy_file(tmp_path) is None
    assert copy_file(tmp_path / 'nothing') is None
    (tmp_path / 'sscd_disc_mixup.torchvision.pt').write_bytes(b'pickle')
    said = r'(?s)take the one called \.torchvision\.pt.*not opened.*weights_only=True'
    with pytest.raises(UserError, match=said):
        copy_file(tmp_path / 'sscd_disc_mixup.torchvision.pt')
