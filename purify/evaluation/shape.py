"""Traces the evaluation without running it, for `check`."""

from dataclasses import replace
from functools import partial

import jax

from purify.core.errors import UserError
from purify.defenses.castle_walls.diffusion_classifier import errors_rule
from purify.defenses.method import Method
from purify.evaluation.image_quality import NONE, OWN, sight
from purify.evaluation.trigger_dataset import CLASSES, has_trigger
from purify.stages.known import Known
from purify.stages.named_folders import finished_folder
from purify.stages.networks_on_disk import read_classifier
from purify.stages.train_classifier import shape_classifier


def shape_evaluation(known: Known, method: Method) -> None:
    """Traces what the evaluation asks of the method's outcome; notes what is wrong as problems."""
    config, outcome = known.config, method.outcome
    networks = ('teacher', outcome.benign, outcome.repaired, outcome.classifier)
    asked = [name for name in dict.fromkeys(networks) if name]
    parts = [('evaluate', partial(_answers, known, name)) for name in asked]
    if config.get('evaluation', {}).get('residual'):
        parts.append(('evaluation', partial(_residual, known, method)))
    if outcome.purified:
        parts.append(('evaluation.features', partial(_features, known, method)))
    if outcome.diffusion:
        parts.append(('defense', partial(_diffused, known, method)))
    if outcome.guard:
        parts.append(('guard', partial(_guard, known, method)))
    if 'dissection' in config:
        parts.append(('dissect', partial(_judges, known)))
    for what, look in parts:
        known.found.attempt(what, look)


def _answers(known: Known, name: str) -> None:
    """What a classifier says of the test images, clean and with a trigger."""
    model = known.classifier(name)
    if model is not None:
        rule = lambda models, context: (
            lambda weights, rows: {
                'classes': models['classifier'].predict(weights['classifier'], rows)
            }
        )
        rows, looks = known.data.rows(), _looks(known)
        count = looks * known.data.test_images
        how = {'passes': looks, 'size': 'inference_batch'}
        known.trace(f'evaluate: {name}', rule, {'classifier': model}, rows, count, **how)


def _looks(known: Known) -> int:
    """How often the test images are looked at: clean, and with each trigger."""
    rule = known.config['attack']
    return 1 + has_trigger(rule) * (1 + len(rule.get('more') or {}))


def _residual(known: Known, method: Method) -> None:
    """What an attacker makes of a triggered test image who purifies it himself."""
    step = method.step(method.outcome.candidates)
    # Where there is none, the stages have said so.
    if step is not None:
        choice = {name: known.config['defense'][name] for name in ('rank', 'count_raw')}
        chosen, rows = partial(step.by.chosen, **choice), known.data.rows('label', 'id')
        count = known.data.test_images
        known.trace('evaluate: residual', chosen, known.models(step.inputs), rows, count)


def _guard(known: Known, method: Method) -> None:
    """What a guard makes of a test image."""
    step = method.outcome.guard
    if step is not None:
        models, rows, looks = known.models(step.inputs), known.data.rows('id'), _looks(known)
        count = looks * known.data.test_images
        known.trace('evaluate: guard', step.by.rule, models, rows, count, passes=looks)


def _features(known: Known, method: Method) -> None:
    """What the network of FID makes of the run's images."""
    chosen = known.config.get('evaluation', {}).get('features', NONE)
    if chosen == 'student' and not method.outcome.classifier:
        raise UserError(
            f'{chosen!r}: this run has no student. Choose {NONE!r}, or another network.'
        )
    # The run's own are trained on these very images.
    if chosen in (NONE, *OWN):
        return
    model = read_classifier(finished_folder(chosen)[0])
    jax.eval_shape(sight(model, known.data.pixels), model.weights, known.data.rows())
    known.found.uncounted.append('evaluate (features of images)')


def _diffused(known: Known, method: Method) -> None:
    """A generator as a classifier."""
    rule = errors_rule(method.outcome.diffusion or {})
    generator = known.generators.get(method.outcome.generator or '')
    calls = rule.calls(known.data.classes)
    known.found.notes.append(f'diffused: {calls:,} network calls for each test image')
    models, rows = {'generator': generator}, known.data.rows('label', 'id')
    known.trace('diffused', rule.rule, models, rows, known.data.test_images)


def _judges(known: Known) -> None:
    """Those who judge generated images; two classes are all that the detector knows."""
    part = known.config['dissection']
    known.found.uncounted.append('dissect (classes of generated images)')
    shape_classifier(known, 'labeller', part['labeller'])
    if has_trigger(known.config['attack']):
        sides = replace(known.data, classes=len(CLASSES))
        shape_classifier(replace(known, data=sides, traced={}), 'detector', part['detector'])
