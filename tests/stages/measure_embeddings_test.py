"""Features by an encoder, whole and tiny: a classifier, CLIP; and what `check` says of each."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from golden.weights import GOLDEN, materialise
from support.tiny import quickstart, run_chain

from purify.commands.check import check
from purify.commands.plan import make_stages
from purify.core.errors import UserError
from purify.data.loader import Split
from purify.defenses.measures import Embeddings
from purify.defenses.method import Defense, Method, Outcome, Step
from purify.defenses.registry import DEFENSES
from purify.defenses.settings import loaded
from purify.defenses.steps import encoder_step, simclr
from purify.engine.chain import Chain
from purify.engine.tables import read_table
from purify.generative.clip_encoder import ClipEncoder
from purify.stages.networks_on_disk import NETWORK_FILE, read_classifier
from purify.train.optim import OPTIMIZERS

pytestmark = pytest.mark.usefixtures('few_devices')

SMALL = {'name': 'resnet', 'stages': (1,), 'block': 'preact', 'width': 4, 'norm': 'group'}
SMALL |= {'stem': 'small', 'dtype': 'float32'}


@dataclass(frozen=True)
class Looking(Defense):
    """Features of every image, by what `source` names."""

    source: str = 'encoder'
    trained: bool = False

    def method(self, student):
        part = simclr(SMALL, epochs=0.25, batch=16, projection=4) | {
            'optim': OPTIMIZERS.part('lars', lr=1e-3)
        }
        steps = (encoder_step(part),) if self.trained else ()
        look = Step(
            'features', 'measure', {'poisoned': 'poisoned', 'encoder': self.source}, by=Embeddings()
        )
        return Method((*steps, look), Outcome(features='features'))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(DEFENSES, 'looking', Looking)


def tiny(encoder=None, **defense):
    config = quickstart('defense=augmentations')
    config['teacher'] |= {'network': dict(SMALL), 'steps': 2, 'epochs': 0}
    config['defense'] = {'name': 'looking'} | defense
    return config | ({'encoder': loaded(str(encoder))} if encoder else {})


@pytest.fixture(scope='module')
def chain(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEFENSES, 'looking', Looking)
        return run_chain(
            tiny(source='teacher'),
            tmp_path_factory.mktemp('looking'),
            ('prepare', 'teacher', 'features'),
        )


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    return materialise(GOLDEN / 'clip_vision_gelu', tmp_path_factory.mktemp('clip') / 'vision')


def images(chain):
    split = Split(chain.folder('prepare') / 'poisoned', 'train')
    return split.ids, np.stack([split[k]['image'] for k in range(len(split))])


def again(chain, config):
    """The features of another config, on the same dataset."""
    other = Chain(make_stages(config), chain.store)
    other.run(['prepare', 'features'], config['run'])
    return read_table(other.folder('features'))


@pytest.mark.long
def test_features_of_a_classifier_are_what_its_head_reads(chain):
    table, (ids, pixels) = read_table(chain.folder('features')), images(chain)
    model = read_classifier(chain.folder('teacher'))
    expected = jax.jit(model.answer)(model.weights, pixels.astype(np.float32) / 255)[1]
    np.testing.assert_array_equal(table['ids'], ids)
    np.testing.assert_allclose(table['features'], expected, rtol=1e-5, atol=1e-5)
    assert set(table.columns) == {'ids', 'features'}
    assert table['features'].dtype == np.float32


@pytest.mark.long
def test_a_finished_classifier_from_outside_gives_the_same_features(chain):
    table = again(chain, tiny(chain.folder('teacher')))
    found = table['features']
    np.testing.assert_array_equal(found, read_table(chain.folder('features'))['features'])


@pytest.mark.long
def test_features_of_clip_are_its_embeddings(chain, clip):
    table = again(chain, tiny(clip))
    model, (_, pixels) = ClipEncoder.from_folder(clip), images(chain)
    expected = jax.jit(model.embed)(model.weights, pixels.astype(np.float32) / 255)
    assert table['features'].shape == (len(pixels), 12)
    np.testing.assert_allclose(table['features'], expected, rtol=1e-5, atol=1e-5)
    assert table['features'].std(0).min() > 1e-3


def test_other_weights_are_another_stage(clip, tmp_path):
    changed = materialise(GOLDEN / 'clip_vision_quick_gelu', tmp_path / 'other')
    first, second = (
        Chain(make_stages(tiny(folder)), tmp_path).prints for folder in (clip, changed)
    )
    assert first['features'] != second['features']
    assert all(first[name] == second[name] for name in ('prepare', 'teacher'))


@pytest.mark.parametrize('defense', [{'trained': True}, {'source': 'teacher'}])
def test_an_encoder_that_nothing_looks_through_is_an_error(clip, defense):
    with pytest.raises(UserError, match='leave the config'):
        make_stages(tiny(clip, **defense))


def test_a_missing_encoder_is_an_error():
    with pytest.raises(UserError, match='needs encoder'):
        make_stages(tiny())


def test_a_folder_without_an_encoder_is_an_error(tmp_path):
    with pytest.raises(UserError, match='an encoder is a folder of CLIP'):
        make_stages(tiny(tmp_path))


@pytest.mark.parametrize('defense', [{'source': 'teacher'}, {'trained': True}])
def test_check_shapes_features_of_networks_of_the_run(defense):
    assert not check(tiny(**defense)).problems


def test_check_leaves_the_hub_alone(monkeypatch):
    monkeypatch.setattr('huggingface_hub.snapshot_download', None)
    found = check(tiny('openai/clip-vit-base-patch32'))
    assert not found.problems
    assert any('openai/clip-vit-base-patch32 is fetched' in note for note in found.notes)


def test_check_opens_what_is_here(chain, clip):
    assert not check(tiny(clip)).problems
    assert not check(tiny(chain.folder('teacher'))).problems
    colour = tiny(chain.folder('teacher'))
    colour['source'] |= {'channels': 3}
    assert any('channels' in problem for problem in check(colour).problems)
    (clip / NETWORK_FILE).write_text('{}')
    try:
        assert any(
            'Give the folder of a finished teacher or student' in problem
            for problem in check(tiny(clip)).problems
        )
    finally:
        (clip / NETWORK_FILE).unlink()
