import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.made_run import MadeRun, WeightsOnly

from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.data.table import Table
from purify.defenses.method import Purifier
from purify.evaluation import illustrate as stage
from purify.stages import models
from purify.stages.networks_on_disk import read_classifier
from purify.train.saliency import grad_cam

pytestmark = pytest.mark.usefixtures('few_devices')

ROUNDS, KEPT = 3, 2


class Numbered(Purifier):
    """Stands for candidates and what makes them again: an image that says which one it is."""

    rounds, dtype = ROUNDS, 'float32'

    def __init__(self, finite=True):
        self.finite = finite

    def remake(self):
        return self

    def network_calls(self, models):
        return 7

    def rule(self, models, context):
        assert (set(models), context.shape, context.seed) == ({'prior'}, (16, 16, 1), 7)

        def rule(constants, rows):
            image = jnp.broadcast_to(
                (10 * rows['variation'] + rows['id'] % 10)[:, None, None, None], rows['image'].shape
            )
            return {'image': image.astype(jnp.uint8), 'finite': jnp.full(len(image), self.finite)}

        return rule


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    made = MadeRun(tmp_path_factory.mktemp('made'))
    count = len(made.given)
    flagged = np.arange(count) % 7 == 3
    made.sets = (np.arange(count) % 5 == 0).astype(np.uint8)
    made.flagged = flagged
    made.candidates = np.arange(count * ROUNDS * KEPT, dtype=np.int32).reshape(count, -1) % 10
    new = ((np.arange(count) + 1) % 10).astype(np.int32)
    made.inputs = {
        'poisoned': made.poisoned,
        'purified': made.purified(made.given.ids[1:]),  # the first one is dropped
        'teacher': made.classifier('teacher', 1),
        'student': made.classifier('student', 2),
        'prior': made.folder,
        'findings': made.table('findings', {'flagged': flagged, 'set': made.sets, 'labels': new}),
        'candidates': made.table('candidates', {'raw': new, 'candidates': made.candidates}),
    }
    made.new = new
    return made


@pytest.fixture
def illustrate(made, monkeypatch):
    """Runs the stage with stand-ins for the prior; -> what it wrote."""

    def run(name, finite=True, **run):
        monkeypatch.setattr(models, 'load_variation_model', lambda *args, **options: WeightsOnly())
        work = made.work(name, made.inputs, {'seed': 7})
        work.run.update({'report_images': 10} | run)
        stage.illustrate(work, Numbered(finite))
        assert work.cost.network_calls == 7 * ROUNDS * 2 * (work.run['report_images'] // 2)
        return stage.read_illustration(work.folder)

    return run


@pytest.mark.long
def test_pictures_are_of_the_samples_they_name(made, illustrate):
    found = illustrate('one')
    expected = [*made.manifest.ids[made.manifest.poisoned][:5], *found['ids'][5:]]
    assert found['ids'].tolist() == expected
    assert found['poisoned'].tolist() == [True] * 5 + [False] * 5
    rows = made.given.position_of(found['ids'])
    for row, identity in enumerate(found['ids'].tolist()):
        np.testing.assert_array_equal(found['original'][row], made.original(identity))
        np.testing.assert_array_equal(found['given'][row], made.given[int(rows[row])]['image'])
        assert found['has_purified'][row] == (identity != made.given.ids[0])
        if found['has_purified'][row]:
            np.testing.assert_array_equal(found['purified'][row], made.original(identity) // 2 + 60)
        last = [1, 3, 5]
        wanted = [10 * number + identity % 10 for number in last]
        assert found['rounds'][row, :, 0, 0, 0].tolist() == wanted
        assert found['round_labels'][row].tolist() == made.candidates[rows[row], last].tolist()
    np.testing.assert_array_equal(found['new'], made.new[rows])
    np.testing.assert_array_equal(found['label'], made.given.labels[rows])
    assert (found['original'][:5] != found['given'][:5]).any((1, 2, 3)).all()
    model = read_classifier(made.inputs['teacher'])
    images = jnp.asarray(found['given'], jnp.float32) / 255
    seen = model.logits(model.weights, images).argmax(-1)
    np.testing.assert_array_equal(found['heat_labels'][:, 1], seen)
    np.testing.assert_array_equal(found['answer_teacher'], seen)
    network = nnx.merge(model.graph, model.weights['params'], model.weights['stats'])
    got = found['heat'][:, 1] / 255
    np.testing.assert_allclose(got, grad_cam(network, images, seen), atol=0.003)
    assert 'answer_benign' not in found


@pytest.mark.long
def test_accused_clean_images_come_first(made):
    findings = Table({'ids': made.given.ids, 'flagged': made.flagged, 'set': made.sets})
    ids = stage.choose_samples(made.manifest, findings, False, 1000)
    clean = made.manifest.ids[~made.manifest.poisoned]
    rank = {
        i: (not f, not s, i)
        for i, f, s in zip(made.given.ids.tolist(), made.flagged, made.sets, strict=True)
    }
    assert ids.tolist() == sorted(clean.tolist(), key=rank.get)
    del findings.columns['set']
    flagged = {i: (first, i) for i, (first, *_) in rank.items()}
    found = stage.choose_samples(made.manifest, findings, False, 20).tolist()
    assert found == sorted(clean.tolist(), key=flagged.get)[:20]


@pytest.mark.long
def test_a_stop_is_heard_before_anything_is_written(made, illustrate, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(preemption, 'asked', lambda: True)
        with pytest.raises(Preempted):
            illustrate('stopped')
    assert not (made.folder / 'stopped' / stage.FILE).exists()
    assert illustrate('stopped').keys() == illustrate('not-stopped').keys()


def test_no_pictures_and_no_numbers(illustrate):
    found = illustrate('none', report_images=0)
    assert found['rounds'].shape == (0, ROUNDS, 16, 16, 1)
    assert found['heat'].shape == (0, 3, 16, 16)
    with pytest.raises(UserError, match='the prior gave NaN'):
        illustrate('broken', finite=False)
