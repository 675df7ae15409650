"""What the evaluation says of defences that guard the poisoned classifier, or repair it."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.made_run import MadeRun

from purify.core.errors import UserError
from purify.core.files import read_json
from purify.data.loader import Split
from purify.defenses.method import Guard
from purify.evaluation.evaluate import evaluate
from purify.stages.networks_on_disk import read_classifier

pytestmark = pytest.mark.usefixtures('few_devices')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    made = MadeRun(tmp_path_factory.mktemp('made'))
    made.teacher, made.student = made.classifier('teacher', 1), made.classifier('student', 2)
    made.test = Split(made.truth / 'test', 'test')
    return made


def classes(folder, images):
    """What a network takes images u8 for."""
    model = read_classifier(folder)
    logits, _ = model.answer(model.weights, jnp.asarray(np.stack(images), jnp.float32) / 255)
    return np.asarray(logits).argmax(1)


class Changed(Guard):
    """What a test image becomes: `make` of it, where `sound`; remembers what it was told."""

    def __init__(self, make, sound=True):
        self.make, self.sound, self.told = make, sound, []

    def rule(self, models, context):
        def rule(constants, rows):
            self.told.append((set(models), set(constants), set(rows), context))
            images = self.make(rows['image'])
            return {'image': images, 'finite': jnp.full(len(images), self.sound)}

        return rule


@pytest.fixture
def guarded(made):
    """Evaluates a teacher behind a guard that looks through the student; -> numbers."""

    def judge(name, guard, **more):
        inputs = {'teacher': made.teacher, 'guard classifier': made.student} | more
        work = made.work(
            name, inputs, {'features': 'none', 'guard': {'by': {'name': 'Changed'}}, 'seed': 5}
        )
        evaluate(work, guard=guard)
        return read_json(work.folder / 'numbers.json')

    return judge


@pytest.mark.long
def test_a_guard_stands_before_the_teacher(made, guarded):
    """What changes nothing leaves its numbers; behind black images all are seen as one class, with
    or without a trigger.
    """
    same = guarded('guard-same', Changed(lambda images: images))
    assert same['guarded'] == same['teacher'] | {'guard': 'Changed'}
    black = guarded('guard-black', Changed(jnp.zeros_like))
    assert black['teacher'] == same['teacher']
    (seen,) = classes(made.teacher, [np.zeros((16, 16, 1), np.uint8)])
    assert black['guarded']['acc'] == pytest.approx((made.test.labels == seen).mean())
    assert black['guarded']['asr'] == (1.0 if seen == made.config['attack']['target'] else 0.0)


@pytest.mark.long
def test_a_guard_is_told_the_image_and_its_id_alone(guarded):
    guard = Changed(lambda images: images)
    guarded('guard-told', guard)
    assert guard.told
    for models, constants, rows, context in guard.told:
        assert models == constants == {'classifier'}  # its own, and not the one that is judged
        assert rows == {'image', 'id'}
        assert (context.shape, len(context.class_names)) == ((16, 16, 1), 10)
        assert context.seed != 5  # a stream of its own


def test_a_guard_that_gives_no_image_is_said(guarded):
    with pytest.raises(UserError, match=r'the guard gave no image for 48 test images'):
        guarded('guard-broken', Changed(lambda images: images, sound=False))


@pytest.mark.long
def test_without_a_guard_there_is_nothing_behind_one(made):
    """And a classifier that was repaired has numbers of its own."""
    work = made.work(
        'repaired', {'teacher': made.teacher, 'repaired': made.student}, {'features': 'none'}
    )
    evaluate(work)
    numbers = read_json(work.folder / 'numbers.json')
    assert 'guarded' not in numbers
    seen = classes(made.student, made.test.images(range(len(made.test))))
    found = numbers['repaired']['counts']['acc']
    assert found == [int((seen == made.test.labels).sum()), len(made.test)]
    assert numbers['repaired'] != numbers['teacher']
    assert numbers['student'] is None
