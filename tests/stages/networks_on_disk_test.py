import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file
from support.networks import write_classifier

from purify.core.errors import UserError
from purify.core.randomness import stream_key
from purify.models.files.weights import export_tensors
from purify.stages.classifier import classifier_builder
from purify.stages.networks_on_disk import (
    other_classes,
    read_classifier,
    starting_weights,
    write_network,
)
from purify.train.state import abstract_network, split_network

pytestmark = pytest.mark.usefixtures('few_devices')

SETTINGS = {'name': 'resnet', 'stages': [1, 1], 'block': 'basic', 'width': 4, 'stem': 'imagenet'}
SETTINGS |= {'mean': [0.5], 'std': [0.25]}
THEIRS = {'stem': 'conv1', 'stem_norm.layer': 'bn1', 'head': 'fc', 'blocks.0': 'layer1.0'}
THEIRS |= {'blocks.1': 'layer2.0'}
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
def test_training_starts_from_another_librarys_file_but_for_a_head_of_other_classes(
    tmp_path, classes
):
    theirs = classifier_builder(SETTINGS, 3, 1)(nnx.Rngs(9))
    build = classifier_builder(SETTINGS, classes, 1)
    _, like = abstract_network(build)
    start = starting_weights(file_of(theirs, tmp_path / 'w.safetensors'), build, like, 4)
    _, params, stats = split_network(theirs)
    _, fresh, _ = split_network(build(nnx.Rngs(stream_key(4, 'init'))))
    found = jax.tree.map(lambda x: (x.shape, x.dtype), start)
    assert found == jax.tree.map(lambda x: (x.shape, x.dtype), like)
    head = params['head'] if classes == 3 else fresh['head']
    jax.tree.map(
        np.testing.assert_array_equal, start, {'params': params | {'head': head}, 'stats': stats}
    )


def test_training_starts_from_a_folder_as_it_was_written(tmp_path):
    build = classifier_builder(SETTINGS, 3, 1)
    _, like = abstract_network(build)
    _, params, stats = split_network(build(nnx.Rngs(9)))
    write_network(tmp_path, {'network': SETTINGS}, {'params': params, 'stats': stats})
    jax.tree.map(
        np.testing.assert_array_equal,
        starting_weights(tmp_path, build, like, 4),
        {'params': params, 'stats': stats},
    )


def test_a_start_that_is_nowhere_is_refused(tmp_path):
    build = classifier_builder(SETTINGS, 3, 1)
    with pytest.raises(UserError, match=r'nothing\.safetensors'):
        starting_weights(tmp_path / 'nothing.safetensors', build, abstract_network(build)[1], 4)


FACTS = {'network': SETTINGS, 'num_classes': 3, 'channels': 1, 'class_names': ['a', 'b', 'c']}


@pytest.mark.parametrize('classes', [3, 5])
def test_training_starts_from_a_finished_classifier_but_for_a_head_of_other_classes(
    tmp_path, classes
):
    write_classifier(tmp_path, 9, SETTINGS)
    _, params, stats = split_network(classifier_builder(SETTINGS, 3, 1)(nnx.Rngs(9)))
    build = classifier_builder(SETTINGS, classes, 1)
    _, like = abstract_network(build)
    assert other_classes(tmp_path, like) == (0 if classes == 3 else 3)
    _, fresh, _ = split_network(build(nnx.Rngs(stream_key(4, 'init'))))
    head = params['head'] if classes == 3 else fresh['head']
    start = starting_weights(tmp_path, build, like, 4)
    jax.tree.map(
        np.testing.assert_array_equal, start, {'params': params | {'head': head}, 'stats': stats}
    )


def test_a_network_replaces_the_weights_that_an_unfinished_stage_left(tmp_path):
    expected = read_classifier(write_classifier(tmp_path / 'fresh', 2, SETTINGS)).digest()
    write_classifier(tmp_path / 'net', 1, SETTINGS)
    shutil.copytree(
        tmp_path / 'net' / 'weights' / 'step_0', tmp_path / 'net' / 'weights' / 'step_7'
    )
    write_classifier(tmp_path / 'net', 2, SETTINGS)
    assert read_classifier(tmp_path / 'net').digest() == expected
    assert [path.name for path in (tmp_path / 'net' / 'weights').glob('step_*')] == ['step_0']


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'num_classes': 'three'}, r'Expected `int`, got `str` - at `\$\.num_classes`'),
        ({'num_classes': 4}, 'names 3 classes and says num_classes=4'),
        ({'channels': None}, r'at `\$\.channels`'),
        ({'channels': -1}, 'no network can be built from it'),
        ({'class_names': 'abc'}, r'at `\$\.class_names`'),
        ({'network': 'resnet'}, r'at `\$\.network`'),
        ({'network': {'width': 4}}, 'missing required field `name`'),
        ({'network': SETTINGS | {'width': 'four'}}, 'no network can be built from it'),
        ({'network': SETTINGS | {'stages': 3}}, 'no network can be built from it'),
        ({'network': SETTINGS | {'name': 'resnt'}}, "unknown network 'resnt'"),
        ({'network': SETTINGS | {'width': 8}}, 'does not fit this network'),
    ],
)
def test_facts_that_make_no_classifier_are_the_users_error(tmp_path, change, told):
    write_classifier(tmp_path, 1, SETTINGS, **change)
    with pytest.raises(UserError, match=told):
        read_classifier(tmp_path)


def test_a_classifier_comes_back_with_all_its_facts(tmp_path):
    write_classifier(tmp_path, 1, SETTINGS, more=5)
    assert read_classifier(tmp_path).facts == FACTS | {'more': 5}


@pytest.mark.parametrize('harm', ['empty', 'cut', 'missing', 'folder'])
def test_damaged_weights_are_the_users_error(tmp_path, harm):
    write_classifier(tmp_path, 1, SETTINGS)
    for path in [path for path in (tmp_path / 'weights').rglob('*') if path.is_file()]:
        data = path.read_bytes()
        path.unlink()
        if harm == 'folder':
            path.mkdir()
        elif harm != 'missing':
            path.write_bytes(b'' if harm == 'empty' else data[: len(data) // 2])
    with pytest.raises(UserError, match='weights: '):
        read_classifier(tmp_path)
