"""Makes the stages of a run, each with exactly the settings that change its result."""

from collections.abc import Callable
from pathlib import Path

from purify.core.errors import UserError
from purify.core.types import Settings
from purify.defenses.method import Method, Step
from purify.engine.stage import Input, Stage, Work
from purify.stages import train_classifier, train_diffusion
from purify.stages.named_folders import finished_folder, start_folder
from purify.stages.registry import KINDS

Find = Callable[[str, str], tuple[Path, str]]  # (load, revision) -> (folder, digest)


def classifier_stages(
    where: dict[str, Input],
    name: str,
    part: Settings,
    seeds: Settings,
    inputs: dict[str, Input],
    *,
    run: Callable[[Work], None] = train_classifier.run,
    sees: tuple[str, ...] = (),
    shows: tuple[str, ...] = (),
) -> list[Stage]:
    """Makes the training stage, or none for a finished classifier; sets `where[name]` either way.

    Args:
      where: what there is so far by name.
      name: the stage's.
      part: of the config: the classifier and how it is trained.
      seeds: of the run.
      inputs: of the stage.
      run: trains it.
      sees: see `Stage`, as `shows`.
      shows: subfolders that are open to all.
    """
    if part['load']:
        folder, digest = finished_folder(part['load'])
        where[name] = Input(outside=folder, digest=digest)
        return []
    where[name] = Input(name)
    settings = {key: value for key, value in part.items() if key != 'load'} | {
        'seeds': training_seeds(seeds)
    }
    return [Stage(name, run, settings, inputs | start_of(part), sees=sees, shows=shows)]


def start_of(part: Settings) -> dict[str, Input]:
    """The checkpoint a training starts from, as an input: its digest is part of the fingerprint."""
    if not part.get('init_from'):
        return {}
    start, digest = start_folder(part['init_from'])
    return {'init': Input(outside=start, digest=digest)}


def training_seeds(seeds: Settings) -> Settings:
    """The seeds that a training depends on."""
    return {'model': seeds['model'], 'data': seeds['data']}


def prior_stages(where: dict[str, Input], config: Settings, find: Find) -> list[Stage]:
    """Makes the stage that trains the prior, or none for a finished one; sets `where['prior']`."""
    part, source = config['prior'], config['source']
    if 'load' in part:
        folder, digest = find(part['load'], part['revision'])
        where['prior'] = Input(outside=folder, digest=digest)
        return []
    if part['data'] not in ('reference', 'poisoned'):
        raise UserError(f"prior.data={part['data']!r}: choose 'reference' or 'poisoned'.")
    data = where[part['data']]
    where['prior'] = Input('prior')
    name = ':'.join(source[key] for key in ('name', 'path') if key in source)  # for its provenance
    how = {'reference': source['reference']} if part['data'] == 'reference' else {}
    settings = part | {'source': name, 'seeds': training_seeds(config['seeds'])} | how
    if 'distill' in part:
        folder, digest = find(part['distill'], part['revision'])
        inputs = {'data': data, 'finished': Input(outside=folder, digest=digest)}
        settings = {key: settings[key] for key in settings if key not in ('distill', 'revision')}
        return [Stage('prior', train_diffusion.distill_prior, settings, inputs)]
    inputs = {'data': data} | _denoiser_start(part, find)
    return [Stage('prior', train_diffusion.train_prior, settings, inputs)]


def _denoiser_start(part: Settings, find: Find) -> dict[str, Input]:
    """The finished model that a diffusion model on pixels starts from, as an input."""
    if not part.get('init_from'):
        return {}
    folder, digest = find(part['init_from'], part.get('revision', ''))  # older configs have none
    return {'init': Input(outside=folder, digest=digest)}


def find_encoder(config: Settings, method: Method, find: Find) -> Input:
    """Finds the encoder of the config's part `encoder`; `UserError` if the method uses none."""
    wanted = any('encoder' in step.inputs.values() for step in method.steps)
    if not wanted or method.step('encoder'):
        name = config['defense']['name'] if 'defense' in config else 'none'
        raise UserError(
            f"defense {name!r} does not look through a finished encoder; leave the config's part"
            ' `encoder` out.'
        )
    folder, digest = find(config['encoder']['load'], config['encoder']['revision'])
    return Input(outside=folder, digest=digest)


def step_stages(where: dict[str, Input], step: Step, config: Settings, find: Find) -> list[Stage]:
    """Makes the stage of a method's step, or none for a finished classifier; sets `where`.

    It sees what is open to all. `find` finds a finished model that it starts from. Raises
    `UserError` where what it needs is not there, and for a name that already stands for something
    else.
    """
    if step.name in where:
        raise UserError(
            f'a step of the defence is called {step.name!r}, a name that is taken already. Give it'
            ' another.'
        )
    inputs, seeds, kind = inputs_of(where, step, config), config['seeds'], KINDS[step.kind]
    if step.kind == 'classifier':
        return classifier_stages(where, step.name, step.settings, seeds, inputs)
    where[step.name] = Input(step.name)
    offered = {
        'seed': seeds['model'],
        'seeds': training_seeds(seeds),
        'shard_size': config['shard_size'],
    }
    settings = step.facts() | {name: offered[name] for name in kind.uses}
    inputs |= _denoiser_start(step.settings, find)
    return [Stage(step.name, kind.bind(step), settings, inputs)]


def inputs_of(where: dict[str, Input], step: Step, config: Settings) -> dict[str, Input]:
    """Where the inputs of a step lie, by role. Raises `UserError` for one that is nowhere."""
    if missing := [source for source in step.inputs.values() if source not in where]:
        raise UserError(
            f'defense {config["defense"]["name"]!r} needs {", ".join(missing)}; the config has no'
            ' such part.'
        )
    return {role: where[source] for role, source in step.inputs.items()}
