"""From a config to the chain of stages it stands for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from purify.attacks.attack import NOT_PIXELS
from purify.attacks.fitted import FACTS_FILE, WEIGHTS_FILE
from purify.config.resolve import leaves
from purify.core.errors import UserError
from purify.core.files import fingerprint, user_path
from purify.core.randomness import stream_seed
from purify.data.content import marks
from purify.data.sources import sign_source
from purify.defenses.method import Method, Step
from purify.defenses.registry import DEFENSES
from purify.engine.chain import Input, Stage, Work
from purify.evaluation.feature_map import draw_map
from purify.evaluation.diffusion_answers import diffuse
from purify.evaluation.dissect import dissection_stages
from purify.evaluation.evaluate import evaluate
from purify.attacker.fit_trigger import fit_trigger, fitted_settings
from purify.evaluation.illustrate import illustrate
from purify.attacker.poison_plan import on_the_fly
from purify.attacker.poison_dataset import FITTED, prepare, write_clean
from purify.evaluation.copies import replicate
from purify.attacker.trusted_images import check_trusted, trust
from purify.stages.decide import decide
from purify.stages.fit_densities import fit_densities
from purify.stages.generate_images import generate
from purify.stages.measure import measure
from purify.stages.networks_on_disk import encoder_folder, finished_folder, prior_folder, start_folder
from purify.stages.purify_images import purify
from purify.stages.train_classifier import train_classifier
from purify.stages.train_diffusion import train_denoiser, train_prior
from purify.stages.train_encoder import train_encoder
from purify.stages.write_dataset import rewrite

Config = dict[str, Any]
Find = Callable[[str, str], tuple[Path, str]]

NEEDED = ('name', 'seeds', 'source', 'attack', 'shard_size', 'run')  # parts and settings that every run has
KINDS: dict[str, Callable[[Work], None]] = {  # of `purify.defenses.method.Step`: what runs it
    'classifier': train_classifier,
    'encoder': train_encoder,
    'generator': train_denoiser,
    'generate': generate,
    'measure': measure,
    'densities': fit_densities,
    'decide': decide,
    'purify': purify,
    'rewrite': rewrite,
}
UNTAUGHT = ('none', 'diffusion_classifier')  # defences that train no student
_USES = {  # what of the config, besides a step's own settings, changes its folder
    'encoder': ('seeds',),
    'generator': ('seeds',),
    'generate': ('seed', 'shard_size'),
    'measure': ('seed', 'shard_size'),
    'densities': ('seed',),
    'decide': (),
    'purify': ('seed', 'shard_size'),
    'rewrite': ('shard_size',),
}


def make_method(config: Config) -> Method:
    """The configured defence's steps. Raises `UserError` for an unknown defence or setting."""
    options = {name: value for name, value in config['defense'].items() if name != 'name'}
    student = config.get('student')
    if student is None and config['defense']['name'] not in UNTAUGHT:
        raise UserError(f'defense {config["defense"]["name"]!r} trains a student, but the config has no part `student`.')
    return DEFENSES.make(config['defense']['name'], **options).method(student or {})


def check_parts(config: Config) -> None:
    """Raises `UserError` unless the config has what every run needs."""
    if missing := [part for part in NEEDED if part not in config]:
        raise UserError(f'the config has no {", ".join(missing)}: it describes no run. Is it one for `purify bench`?')


def make_stages(config: Config, find_prior: Find = prior_folder, find_encoder: Find = encoder_folder) -> list[Stage]:
    """The stages of a config (plain nested dicts), each with exactly the settings that change its result.

    `find_prior(load, revision) -> (folder, digest)` locates a finished prior, `find_encoder` an encoder; the defaults may
    download them.

    Raises:
      UserError: for parts that do not fit together.
    """
    check_parts(config)
    seeds = config['seeds']
    where: dict[str, Input] = {}
    stages = _attacker(where, config)
    inputs = _source(config) | _files_of(config['attack']) | {role: where.pop(role) for role in FITTED if role in where}
    settings = {'source': config['source'], 'attack': config['attack'], 'seed': seeds['poison'], 'shard_size': config['shard_size']}
    stages.append(Stage('prepare', prepare, settings, inputs, sees=tuple(inputs), shows=('poisoned', 'reference')))
    where['poisoned'] = Input('prepare', 'poisoned')
    if 'trusted' in config:
        stages.append(_trusted(where, config))
    if 'teacher' in config:
        stages += _classifier(where, 'teacher', config['teacher'], seeds, {'data': where['poisoned']}, config['attack'])
    method = make_method(config) if 'defense' in config else Method()
    if 'prior' in config:
        stages += _prior(where, config['prior'], config['source'], seeds, find_prior)
    if 'encoder' in config:
        where['encoder'] = _finished_encoder(config, method, find_encoder)
    for step in method.steps:
        stages += _step(where, step, config)
    if 'teacher' in config:
        stages += _conclusions(where, method, config)
    if 'dissection' in config:
        stages += [] if any(stage.name == 'clean' for stage in stages) else [_clean(config)]
        stages += dissection_stages(where, method, config, partial(_classifier, where, seeds=seeds))
    return stages


def _trusted(where: dict[str, Input], config: Config) -> Stage:
    """Clean images for a defence that needs some; drawn with the truth at hand, of which it hands on nothing else."""
    check_trusted(config['trusted'])
    where['trusted'] = Input('trusted')
    inputs = {'poisoned': where['poisoned'], 'truth': Input('prepare', 'truth')}
    return Stage('trusted', trust, config['trusted'] | {'seed': config['seeds']['data']}, inputs, sees=('truth',), shows=('',))


def _attacker(where: dict[str, Input], config: Config) -> list[Stage]:
    """What an attacker does before he poisons: he trains a surrogate, fits a trigger, each where the config has such a part."""
    attack, stages = config['attack'], []
    parts = [name for name in FITTED if name in config and not attack.get('load')]
    if not parts:
        return []
    if parts != ['surrogate'] or not config['surrogate']['load']:
        stages.append(_clean(config))
    data, poison = {'data': Input('clean', 'clean')}, config['seeds']['poison']
    own = {name: stream_seed(poison, f'attacker {name}') for name in ('model', 'data')}  # the victim's would be a present
    if 'surrogate' in parts:
        stages += _classifier(where, 'surrogate', config['surrogate'], own, data, sees=('data',))
    if 'trigger' in parts:
        settings = config['trigger'] | {'attack': fitted_settings(attack), 'seed': poison, 'seeds': own}
        uses = {'surrogate': where.pop('surrogate')} if 'surrogate' in where else {}
        stages.append(Stage('trigger', fit_trigger, settings, data | uses | _start(config['trigger']), sees=(*data, *uses)))
        where['trigger'] = Input('trigger')
    return stages


def _clean(config: Config) -> Stage:
    """The training images as they come, for the attacker, and for those who judge generated images."""
    settings = {'source': config['source'], 'shard_size': config['shard_size']}
    return Stage('clean', write_clean, settings, _source(config), sees=('source',))


def _classifier(
    where: dict[str, Input],
    name: str,
    part: Config,
    seeds: Config,
    inputs: dict[str, Input],
    attack: Config | None = None,
    sees: tuple[str, ...] = (),
) -> list[Stage]:
    """A training stage, or none where a finished classifier is handed in; `where[name]` is set either way.

    One that the `attack` poisons in the attacker's own loader sees that, and is open to all; one that itself `sees` more is not.
    """
    if part['load']:
        folder, digest = finished_folder(part['load'])
        where[name] = Input(outside=folder, digest=digest)
        return []
    if attack and on_the_fly(attack):
        inputs, sees, shows = inputs | {'attacker': Input('prepare', 'attacker')}, ('attacker',), ('',)
    else:
        shows = ()
    where[name] = Input(name)
    settings = {key: value for key, value in part.items() if key != 'load'} | {'seeds': _training_seeds(seeds)}
    return [Stage(name, train_classifier, settings, inputs | _start(part), sees, shows)]


def _start(part: Config) -> dict[str, Input]:
    """The checkpoint a training starts from, as an input: its digest is part of the fingerprint."""
    if not part.get('init_from'):
        return {}
    start, digest = start_folder(part['init_from'])
    return {'init': Input(outside=start, digest=digest)}


def _training_seeds(seeds: Config) -> Config:
    return {'model': seeds['model'], 'data': seeds['data']}


def _finished_encoder(config: Config, method: Method, find: Find) -> Input:
    """The config's part `encoder`, for a method that looks through it."""
    wanted = any('encoder' in step.inputs.values() for step in method.steps)
    if not wanted or any(step.name == 'encoder' for step in method.steps):
        name = config['defense']['name'] if 'defense' in config else 'none'
        raise UserError(f"defense {name!r} does not look through a finished encoder; leave the config's part `encoder` out.")
    folder, digest = find(config['encoder']['load'], config['encoder']['revision'])
    return Input(outside=folder, digest=digest)


def _prior(where: dict[str, Input], part: Config, source: Config, seeds: Config, find: Find) -> list[Stage]:
    if 'load' in part:
        folder, digest = find(part['load'], part['revision'])
        where['prior'] = Input(outside=folder, digest=digest)
        return []
    if part['data'] not in ('reference', 'poisoned'):
        raise UserError(f"prior.data={part['data']!r}: choose 'reference' or 'poisoned'.")
    where['prior'] = Input('prior')
    name = ':'.join(source[key] for key in ('name', 'path') if key in source)  # for its provenance
    how = {'reference': source['reference']} if part['data'] == 'reference' else {}
    settings = part | {'source': name, 'seeds': _training_seeds(seeds)} | how
    return [Stage('prior', train_prior, settings, {'data': Input('prepare', part['data'])} | _start(part))]


def _step(where: dict[str, Input], step: Step, config: Config) -> list[Stage]:
    missing = [source for source in step.inputs.values() if source not in where]
    if missing:
        raise UserError(f'defense {config["defense"]["name"]!r} needs {", ".join(missing)}; the config has no such part.')
    if step.kind not in KINDS:
        raise UserError(f'step {step.name!r}: unknown kind {step.kind!r}. Choose from: {", ".join(sorted(KINDS))}.')
    inputs = {role: where[source] for role, source in step.inputs.items()}
    seeds = config['seeds']
    if step.kind == 'classifier':
        return _classifier(where, step.name, step.settings, seeds, inputs)
    where[step.name] = Input(step.name)
    offered = {'seed': seeds['model'], 'seeds': _training_seeds(seeds), 'shard_size': config['shard_size']}
    settings = step.settings | {name: offered[name] for name in _USES[step.kind]}
    inputs |= _start(settings) if step.kind == 'generator' else {}
    return [Stage(step.name, KINDS[step.kind], settings, inputs)]


def _conclusions(where: dict[str, Input], method: Method, config: Config) -> list[Stage]:
    """The stages that open the truth: numbers, pictures where the method looks at candidates, a map where it looks at features."""
    outcome, seed = method.outcome, config['seeds']['model']
    measured = {step.name: step.settings for step in method.steps}.get(outcome.candidates or '')
    roles = {
        'benign': outcome.benign,
        'student': outcome.classifier,
        'findings': outcome.findings,
        'purified': outcome.purified,
    }
    shown = {'truth': Input('prepare', 'truth'), 'teacher': where['teacher']}
    shown |= {role: where[name] for role, name in roles.items() if name}
    settings: Config = dict(config.get('evaluation') or {'features': 'none', 'residual': False})
    inputs = shown | ({'poisoned': where['poisoned']} if outcome.purified else {})
    if settings['features'] not in ('student', 'teacher', 'none'):
        folder, digest = finished_folder(settings['features'])
        inputs['features'] = Input(outside=folder, digest=digest)
    if settings['residual']:
        if measured is None or not outcome.classifier:
            raise UserError('evaluation.residual: this defence measures no candidates for an attacker to hand in; set it to False.')
        inputs['prior'] = where['prior']
        choice = {name: config['defense'][name] for name in ('rank', 'count_raw')}
        settings |= {'residual_rule': measured, 'residual_choice': choice, 'seed': seed}
    stages = []
    if outcome.diffusion:
        own = {'seed': seed, 'shard_size': config['shard_size']}
        asked = {'truth': shown['truth'], 'generator': where[outcome.generator or '']}
        stages.append(Stage('diffused', diffuse, outcome.diffusion | own, asked, sees=('truth',)))
        inputs['diffused'] = Input('diffused')
    stages.append(Stage('evaluate', evaluate, settings, inputs, sees=tuple({'truth', 'diffused'} & set(inputs))))
    if outcome.candidates:
        pictured = shown | {role: where[role] for role in ('poisoned', 'prior')} | {'candidates': where[outcome.candidates]}
        stages.append(Stage('illustrate', illustrate, {'remake': measured, 'seed': seed}, pictured, sees=('truth',)))
    if outcome.features and outcome.findings:
        mapped = {role: shown[role] for role in ('truth', 'findings')} | {'features': where[outcome.features]}
        stages.append(Stage('atlas', draw_map, {'seed': seed}, mapped, sees=('truth',)))
    if outcome.copies:
        stages.append(Stage('replicate', replicate, {}, _replication(where, method), sees=('truth',)))
    return stages


def _replication(where: dict[str, Input], method: Method) -> dict[str, Input]:
    """What the search for copies reads: the features of both sets, what made them, and the truth."""
    roles = dict(zip(('generated', 'given'), method.outcome.copies or (), strict=True))
    looks = {step.name: step.inputs for step in method.steps}[roles['generated']]
    through = looks['encoder'] if 'encoder' in looks else looks['classifier']
    return {role: where[name] for role, name in roles.items()} | {'encoder': where[through], 'truth': Input('prepare', 'truth')}


def _source(config: Config) -> dict[str, Input]:
    """The source as an input: changed files are not taken for the old ones of the same name."""
    found = sign_source(config['source'])
    return {'source': Input(digest=fingerprint(found) if found else '')}


def _files_of(attack: Config) -> dict[str, Input]:
    """The files and folders from outside that an attack and its further triggers are made from, as inputs."""
    given = leaves({name: attack[name] for name in (*NOT_PIXELS, 'more') if name in attack})
    found = {}
    for name, value in given.items():
        if name.rpartition('.')[2] in NOT_PIXELS and value and isinstance(value, str):
            path = user_path(value)
            files = [path / file for file in (FACTS_FILE, WEIGHTS_FILE)] if path.is_dir() else [path]
            digest = fingerprint(marks({file.name: file for file in files}, hashed=True))
            found[f'attack.{name}'] = Input(outside=path.absolute(), digest=digest)
    return found
