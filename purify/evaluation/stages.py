"""The stages of the evaluation: all that open the truth after the defence is done."""

from functools import partial

from purify.attacker.stages import CLEAN, TRUTH, clean_stage, needs_clean
from purify.core.errors import UserError
from purify.core.types import Facts, Settings
from purify.defenses.method import Method
from purify.engine.stage import Input, Stage
from purify.evaluation.copies import find_copies
from purify.evaluation.diffusion_answers import write_answers
from purify.evaluation.dissect import GENERATED, SETS, TRAINING, dissect
from purify.evaluation.evaluate import GUARD, evaluate
from purify.evaluation.feature_map import make_map
from purify.evaluation.illustrate import illustrate
from purify.evaluation.trigger_dataset import has_trigger, write_trigger_dataset
from purify.stages.named_folders import finished_folder
from purify.stages.stage_lists import classifier_stages, inputs_of


def evaluation_stages(where: dict[str, Input], method: Method, config: Settings) -> list[Stage]:
    """Makes the stages of the evaluation: numbers, pictures, maps, a dissection if asked for."""
    stages: list[Stage] = []
    if 'teacher' in config:
        stages += _numbers(where, method, config) + _pictures(where, method, config)
    if 'dissection' in config:
        stages += _dissection(where, method, config)
    return stages


def _numbers(where: dict[str, Input], method: Method, config: Settings) -> list[Stage]:
    outcome, seed = method.outcome, config['seeds']['model']
    inputs = {'truth': TRUTH, 'teacher': where['teacher']} | _handed_over(where, method)
    inputs |= {'poisoned': where['poisoned']} if outcome.purified else {}
    settings: Settings = dict(config.get('evaluation') or {'features': 'none', 'residual': False})
    asked: Facts = {}
    if settings['features'] not in ('student', 'teacher', 'none'):
        folder, digest = finished_folder(settings['features'])
        inputs['features'] = Input(outside=folder, digest=digest)
    if settings['residual']:
        measured = method.step(outcome.candidates)
        if measured is None or not outcome.classifier:
            raise UserError(
                'evaluation.residual: this defence measures no candidates for an attacker to hand'
                ' in; set it to False.'
            )
        inputs['prior'] = where['prior']
        choice = {name: config['defense'][name] for name in ('rank', 'count_raw')}
        settings |= measured.facts() | {'residual_choice': choice, 'seed': seed}
        asked['candidates'] = measured.by
    if outcome.guard:
        given = inputs_of(where, outcome.guard, config)
        inputs |= {f'{GUARD}{role}': place for role, place in given.items()}
        settings |= {'guard': outcome.guard.facts(), 'seed': seed}
        asked['guard'] = outcome.guard.by
    stages = []
    if outcome.diffusion:
        own = {'seed': seed, 'shard_size': config['shard_size']}
        needs = {'truth': TRUTH, 'generator': where[outcome.generator or '']}
        stages.append(
            Stage('diffused', write_answers, outcome.diffusion | own, needs, sees=('truth',))
        )
        inputs['diffused'] = Input('diffused')
    sees = tuple(role for role in ('truth', 'diffused') if role in inputs)
    return [*stages, Stage('evaluate', partial(evaluate, **asked), settings, inputs, sees=sees)]


def _handed_over(where: dict[str, Input], method: Method) -> dict[str, Input]:
    """What the method hands over, by its role in the evaluation."""
    outcome = method.outcome
    roles = {
        'benign': outcome.benign,
        'student': outcome.classifier,
        'repaired': outcome.repaired,
        'findings': outcome.findings,
        'purified': outcome.purified,
    }
    return {role: where[name] for role, name in roles.items() if name}


def _pictures(where: dict[str, Input], method: Method, config: Settings) -> list[Stage]:
    outcome, seed, stages = method.outcome, config['seeds']['model'], []
    shown = {'truth': TRUTH, 'teacher': where['teacher']} | _handed_over(where, method)
    if measured := method.step(outcome.candidates):
        pictured = shown | {role: where[role] for role in ('poisoned', 'prior')}
        pictured |= {'candidates': where[measured.name]}
        draw = partial(illustrate, candidates=measured.by)
        settings = measured.facts() | {'seed': seed}
        stages.append(Stage('illustrate', draw, settings, pictured, sees=('truth',)))
    if outcome.features and outcome.findings:
        mapped = {role: shown[role] for role in ('truth', 'findings')} | {
            'features': where[outcome.features]
        }
        stages.append(Stage('atlas', make_map, {'seed': seed}, mapped, sees=('truth',)))
    if outcome.copies:
        stages.append(
            Stage('replicate', find_copies, {}, _compared(where, method), sees=('truth',))
        )
    return stages


def _compared(where: dict[str, Input], method: Method) -> dict[str, Input]:
    """What the search for copies reads: both sets' features, their encoder, and the truth."""
    roles = dict(zip(('generated', 'given'), method.outcome.copies or (), strict=True))
    looks = {step.name: step.inputs for step in method.steps}[roles['generated']]
    through = looks['encoder'] if 'encoder' in looks else looks['classifier']
    return {role: where[name] for role, name in roles.items()} | {
        'encoder': where[through],
        'truth': TRUTH,
    }


def _dissection(where: dict[str, Input], method: Method, config: Settings) -> list[Stage]:
    """Makes the stages of `dissection`: judges trained on clean images look at generated ones.

    Raises `UserError` for a defence that generates no images.
    """
    part, outcome, seeds = config['dissection'], method.outcome, config['seeds']
    if outcome.generated is None:
        raise UserError(
            "the config's part `dissection` looks at generated images, which this defence does not"
            ' make: leave it out.'
        )
    stages = [] if needs_clean(config) else [clean_stage(config)]
    stages += classifier_stages(
        where, 'labeller', part['labeller'], seeds, {'data': CLEAN}, sees=('data',)
    )
    inputs = {'truth': TRUTH, 'clean': CLEAN, 'labeller': where['labeller']}
    if has_trigger(config['attack']):
        settings = {
            'seed': seeds['poison'],
            'shard_size': config['shard_size'],
            'faintest': part['faintest'],
        }
        stages.append(
            Stage(
                'marked',
                write_trigger_dataset,
                settings,
                {'data': CLEAN, 'truth': TRUTH},
                sees=('data', 'truth'),
            )
        )
        given = {'data': Input('marked', 'train')}
        stages += classifier_stages(
            where, 'detector', part['detector'], seeds, given, sees=('data',)
        )
        inputs |= {'detector': where['detector'], 'marked': Input('marked', 'test')}
    judges = tuple(inputs)
    inputs |= {
        name: where[step]
        for name, step in zip(SETS, (outcome.generated, outcome.probe), strict=True)
        if step
    }
    for name, steps in outcome.scores.items():
        inputs |= {
            f'{role}{name}': where[step]
            for role, step in zip((TRAINING, GENERATED), steps, strict=True)
        }
    drawn = next(step.by for step in method.steps if step.name == outcome.generated)
    sampler = drawn.sampler['name'] + ''.join(
        f', {name} {x}' for name, x in drawn.sampler.items() if name != 'name'
    )
    if drawn.guidance_interval:
        low, high = drawn.guidance_interval
        sampler += f', guided at noise levels {low:g} to {high:g}'
    how = {'sampler': sampler, 'guidance': drawn.guidance, 'steps': drawn.steps}
    return [*stages, Stage('dissect', dissect, how, inputs, sees=judges)]
