import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from purify.core.errors import UserError
from purify.core.randomness import stream_key
from purify.models.weights import export_tensors
from purify.pipelines.artifacts import classifier_builder, starting_weights, write_network
from purify.train.state import abstract_network, split_network

SETTINGS = {'name': 'resnet', 'stages': [1, 1], 'block': 'basic', 'width': 4, 'stem': 'imagenet', 'mean': [0.5], 'std': [0.25]}
THEIRS = {'stem': 'conv1', 'stem_norm.layer': 'bn1', 'head': 'fc', 'blocks.0': 'layer1.0', 'blocks.1': 'layer2.0'}
PARTS = {'convs.0': 'conv1', 'convs.1': 'conv2', 'norms.0.layer': 'bn1', 'norms.1.layer': 'bn2'}
PARTS |= {'shortcut': 'downsample.0', 'shortcut_norm.layer': 'downsample.1'}


def file_of(network, path):
    """As torchvision would have saved it."""
    tensors = {}
    for name, value in export_tensors(network).items():
        for words in (THEIRS, PARTS):
            for ours, theirs in words.items():
                name = name.replace(f'{ours}.', f'{theirs}.', 1) if f'{ours}.' in name else name
        tensors[name] = np.ascontiguousarray(value)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize('classes', [3, 5])
def test_training_starts_from_another_librarys_file_but_for_a_head_of_other_classes(tmp_path, classes):
    theirs = classifier_builder(SETTINGS, 3, 1)(nnx.Rngs(9))
    build = classifier_builder(SETTINGS, classes, 1)
    _, like = abstract_network(build)
    start = starting_weights(file_of(theirs, tmp_path / 'w.safetensors'), build, like, 4)
    _, params, stats = split_network(theirs)
    _, fresh, _ = split_network(build(nnx.Rngs(stream_key(4, 'init'))))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), start) == jax.tree.map(lambda x: (x.shape, x.dtype), like)
    head = params['head'] if classes == 3 else fresh['head']
    jax.tree.map(np.testing.assert_array_equal, start, {'params': params | {'head': head}, 'stats': stats})


def test_training_starts_from_a_folder_as_it_was_written(tmp_path):
    build = classifier_builder(SETTINGS, 3, 1)
    _, like = abstract_network(build)
    _, params, stats = split_network(build(nnx.Rngs(9)))
    write_network(tmp_path, {'network': SETTINGS}, {'params': params, 'stats': stats})
    jax.tree.map(np.testing.assert_array_equal, starting_weights(tmp_path, build, like, 4), {'params': params, 'stats': stats})


def test_a_start_that_is_nowhere_is_refused(tmp_path):
    build = classifier_builder(SETTINGS, 3, 1)
    with pytest.raises(UserError, match=r'nothing\.safetensors'):
        starting_weights(tmp_path / 'nothing.safetensors', build, abstract_network(build)[1], 4)
