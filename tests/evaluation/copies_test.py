"""Copies of training images among generations: against sums by hand, and with SSCD's file."""

from dataclasses import dataclass

import numpy as np
import pytest
from generative.sscd_encoder_test import write
from support.made_run import MadeRun
from support.tiny import quickstart

from purify.attacker.manifest import Manifest
from purify.commands.check import check
from purify.commands.plan import make_stages
from purify.core.errors import UserError
from purify.core.files import write_json
from purify.defenses.measures import Embeddings
from purify.defenses.method import Defense, Method, Outcome, Step
from purify.defenses.registry import DEFENSES
from purify.defenses.settings import loaded
from purify.engine.chain import Chain
from purify.engine.tables import part_path, read_table, write_columns
from purify.evaluation import copies as replicating
from purify.evaluation.copies import describe_pairs, find_copies, read_replication
from purify.metrics.intervals import wilson_interval
from purify.models.classifiers import sscd
from purify.stages.named_folders import encoder_folder
from purify.stages.train_encoder import describe_encoder

pytestmark = pytest.mark.usefixtures('few_devices')

RNG = np.random.default_rng(5)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return MadeRun(tmp_path_factory.mktemp('made'))


def measured(made, name, ids, features):
    folder = made.folder / name
    folder.mkdir(exist_ok=True)
    write_columns(part_path(folder, 0, 1), {'ids': ids, 'features': features.astype(np.float32)})
    return folder


def cosines(a, b):
    a, b = (
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        for x in (a, b)
    )
    return a @ b.T


def run(made, name, generated, given):
    """Generated ids count down, training ids stand in the table in reverse; -> numbers, arrays."""
    ids = made.given.ids[::-1]
    inputs = {
        'generated': measured(made, f'{name}-a', np.arange(len(generated))[::-1], generated),
        'given': measured(made, f'{name}-b', ids, given),
        'encoder': made.classifier('looks', 0),
    }
    work = made.work(name, inputs, {})
    find_copies(work)
    return read_replication(work.folder)


@pytest.mark.long
def test_every_generation_finds_its_training_image_and_that_its_twin(made, monkeypatch):
    monkeypatch.setattr(replicating, 'SHOWN', 7)
    monkeypatch.setattr(replicating, 'AT_ONCE', 10)
    count = len(made.given)
    given, generated = RNG.normal(0, 1, (count, 3)), RNG.normal(0, 1, (23, 3))
    numbers, found = run(made, 'pairs', generated, given)
    ids, alike = made.given.ids[::-1], cosines(generated, given)
    order = np.argsort(-alike.max(1))[:7]
    match = alike[order].argmax(1)
    np.testing.assert_array_equal(found['ids'], 22 - order)
    np.testing.assert_array_equal(found['match'], ids[match])
    np.testing.assert_allclose(found['similarity'], alike.max(1)[order], atol=1e-6)
    among = cosines(given, given)
    np.fill_diagonal(among, -2)
    np.testing.assert_array_equal(found['twin'], ids[among[match].argmax(1)])
    np.testing.assert_allclose(found['twin_similarity'], among[match].max(1), atol=1e-6)
    truth = dict(zip(made.manifest.ids.tolist(), made.manifest.poisoned.tolist(), strict=True))
    assert found['poisoned'].tolist() == [truth[i] for i in found['match'].tolist()]
    everybody = [truth[i] for i in ids[alike.argmax(1)].tolist()]
    assert numbers['poisoned_matches'] == np.mean(everybody)
    assert numbers['poisoned'] == made.manifest.poisoned.mean()
    assert (numbers['pairs'], numbers['mean']) == (23, pytest.approx(alike.max(1).mean()))
    assert numbers['copied'] is None
    assert (numbers['encoder'], numbers['copy_detection']) == ('looks (resnet)', False)


def test_equal_inputs_give_equal_bytes(made):
    given, generated = RNG.normal(0, 1, (len(made.given), 4)), RNG.normal(0, 1, (5, 4))
    for name in ('one', 'other'):
        run(made, name, generated, given)
    for file in (replicating.FILE, replicating.NUMBERS):
        found = (made.folder / 'one' / file).read_bytes()
        assert found == (made.folder / 'other' / file).read_bytes()


def test_features_of_two_encoders_are_refused(made):
    with pytest.raises(UserError, match='one encoder'):
        run(made, 'mixed', RNG.normal(0, 1, (5, 3)), RNG.normal(0, 1, (len(made.given), 4)))


def manifest_of(poisoned, copy_of):
    count = len(poisoned)
    zeros, none = np.zeros(count, np.int32), np.full(count, -1)
    return Manifest(
        10 * np.arange(count),
        zeros,
        zeros,
        np.array(poisoned, bool),
        zeros > 0,
        none,
        np.array(copy_of),
        {},
    )


def test_pairs_are_counted_by_the_truth():
    # 40 and 50 are copies of 10
    manifest = manifest_of([0, 1, 0, 0, 1, 0], [-1, -1, -1, -1, 10, 10])
    found = describe_pairs(np.float32([0.9, 0.3, 0.31, -0.2]), np.array([1, 2, 4, 5]), manifest)
    seen = found['above']
    assert seen == {'limit': 0.3, 'share': 0.5, 'count': 2, 'interval': list(wilson_interval(2, 4))}
    seen = (found['poisoned_matches'], found['poisoned_interval'])
    assert seen == (0.5, list(wilson_interval(2, 4)))
    assert found['poisoned'] == pytest.approx(1 / 3)
    wanted = {'images': 3, 'matches': 3, 'share': 0.75}
    wanted |= {'mean': pytest.approx((0.9 + 0.31 - 0.2) / 3)}
    assert found['copied'] == wanted
    elsewhere = describe_pairs(np.float32([0.5]), np.array([2]), manifest)['copied']
    assert elsewhere == {'images': 3, 'matches': 0, 'share': 0.0, 'mean': None}
    clean = describe_pairs(np.float32([0.5]), np.array([2]), manifest_of([0] * 6, [-1] * 6))
    assert (clean['poisoned_matches'], clean['poisoned'], clean['copied']) == (None, None, None)


@dataclass(frozen=True)
class Comparing(Defense):
    """Looks for copies of the training images among themselves."""

    def method(self, student):
        inputs = {'poisoned': 'poisoned', 'encoder': 'encoder'}
        steps = tuple(
            Step(name, 'measure', inputs, by=Embeddings())
            for name in ('made_features', 'given_features')
        )
        return Method(steps, Outcome(copies=('made_features', 'given_features')))


def test_copies_are_found_by_the_file_of_sscd(tmp_path, monkeypatch):
    monkeypatch.setitem(DEFENSES, 'comparing', Comparing)
    monkeypatch.setattr(sscd, 'EDGE', 20)
    write(tmp_path / 'sscd.safetensors')
    copies = (
        '--config.attack.replicated_images=3',
        '--config.attack.replicas=2',
        '--config.attack.poison_replicas=True',
    )
    config = quickstart('defense=augmentations', *copies)
    config |= {
        'defense': {'name': 'comparing'},
        'encoder': loaded(str(tmp_path / 'sscd.safetensors')),
    }
    assert check(config).problems == []
    chain = Chain(make_stages(config), tmp_path / 'stages')
    chain.run(['prepare', 'made_features', 'given_features', 'replicate'], config['run'])
    features = read_table(chain.folder('given_features'))['features']
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    numbers, found = read_replication(chain.folder('replicate'))
    assert (numbers['encoder'], numbers['copy_detection']) == ('SSCD (sscd.safetensors)', True)
    assert numbers['mean'] == pytest.approx(1, abs=1e-6)
    truth = Manifest.read(chain.folder('prepare') / 'truth')
    assert numbers['copied']['images'] == 9
    groups = np.where(truth.copy_of >= 0, truth.copy_of, truth.ids)
    own = found['match'] == found['ids']  # else a copy that looks the same
    made, match = (groups[np.searchsorted(truth.ids, found[name])] for name in ('ids', 'match'))
    np.testing.assert_array_equal(made, match)
    assert own.sum() >= len(own) - 9
    stamped = np.isin(found['match'], truth.ids[truth.poisoned & (truth.copy_of >= 0)])
    np.testing.assert_allclose(found['twin_similarity'][stamped], 1, atol=1e-6)


def test_an_encoder_says_what_it_is(made, tmp_path):
    write(tmp_path / 'sscd.safetensors')
    clip = tmp_path / 'clip'
    clip.mkdir()
    (clip / 'config.json').write_text('{}')
    wanted = {'encoder': 'SSCD (sscd.safetensors)', 'copy_detection': True}
    assert describe_encoder(tmp_path / 'sscd.safetensors') == wanted
    assert describe_encoder(clip) == {'encoder': 'CLIP (clip)', 'copy_detection': False}
    folder = made.classifier('mine', 1)
    done = {'stage': 'encoder', 'fingerprint': '', 'settings': {'objective': {'name': 'contrast'}}}
    done |= {'inputs': {}}
    write_json(folder / 'DONE', done | {'cost': {'seconds': 1.0, 'device_seconds': 1.0}})
    assert describe_encoder(folder)['encoder'] == 'encoder (resnet, trained without labels)'


def test_the_weights_are_part_of_what_a_stage_is(tmp_path):
    write(tmp_path / 'sscd.safetensors')
    file, digest = encoder_folder(str(tmp_path / 'sscd.safetensors'), '')
    assert file == tmp_path / 'sscd.safetensors'
    write(tmp_path / 'other.safetensors', 'torchvision')
    assert encoder_folder(str(tmp_path / 'other.safetensors'), '')[1] != digest
    (tmp_path / 'sscd.torchvision.pt').write_bytes(b'')
    with pytest.raises(UserError, match='weights_only'):
        encoder_folder(str(tmp_path / 'sscd.torchvision.pt'), '')
