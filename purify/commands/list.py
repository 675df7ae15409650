"""The command `list`: the names that configs can use, the stages of one, the runs of a sweep."""

import json
import re
from collections import Counter
from pathlib import Path

from purify.attacks.registry import ATTACKS
from purify.attacks.settings import attack_words
from purify.commands.call import Call
from purify.commands.plan import make_stages
from purify.config.load import (
    find_config,
    flag_for,
    load_config,
    load_module,
    packaged_configs,
)
from purify.config.sweeps import multiply, sweep_functions
from purify.core.errors import UserError
from purify.core.files import fingerprint, user_path
from purify.core.types import Facts, Settings
from purify.core.writers import WRITERS
from purify.data.augment import AUGMENTATIONS
from purify.data.sources.open_source import SOURCES
from purify.defenses.dataelixir.target_labels import TARGETS
from purify.defenses.filters.score_filter import SCORES
from purify.defenses.registry import DEFENSES
from purify.defenses.relabelling.poisoned_classes import DISRUPTIONS
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import SCHEDULES
from purify.diffusion.timesteps import SPACINGS
from purify.engine.chain import Chain
from purify.generative.open_prior import VARIATION_MODELS
from purify.models.classifiers.registry import NETWORKS
from purify.models.flow import TRANSFORMS
from purify.train.objectives.registry import OBJECTIVES
from purify.train.optim import LR_SCHEDULES, OPTIMIZERS


def list_registries() -> dict[str, list[str]]:
    """Lists every name that configs can use, by what it is the name of."""
    of_data = {'config': packaged_configs(), SOURCES.kind: SOURCES, ATTACKS.kind: attack_words()}
    of_methods = (DEFENSES, SCORES, TARGETS, DISRUPTIONS, TRANSFORMS)
    of_diffusion = (VARIATION_MODELS, SAMPLERS, SPACINGS, SCHEDULES)
    of_training = (NETWORKS, AUGMENTATIONS, OBJECTIVES, OPTIMIZERS, LR_SCHEDULES, WRITERS)
    registries = (*of_methods, *of_diffusion, *of_training)
    named = of_data | {registry.kind: registry for registry in registries}
    return {kind: sorted(names) for kind, names in named.items()}


def list_stages(config: Settings, workdir: Path | None, store: Path | None) -> list[Facts]:
    """Lists the stages: name, fingerprint, whether it is done, inputs by role."""
    chain = Chain(make_stages(config), user_path(store or (workdir or Path('.')) / 'stages'))
    return [
        {
            'name': name,
            'fingerprint': chain.prints[name],
            'done': chain.finished(name),
            'inputs': {
                role: source.stage or str(source.outside)
                for role, source in stage.inputs.items()
                if role != 'source'
            },
        }
        for name, stage in chain.stages.items()
    ]


def list_points(spec: str, sweeps: str, seeds: str, overrides: list[str]) -> None:
    """Prints one JSON line {'name', 'point', 'seed', 'config', 'file', 'flags'} per run.

    Loads the config of every run, so that a sweep with a mistake in it fails here and not after
    some hours.
    """
    try:
        runs = [
            describe_run(spec, overrides, point, seed)
            for point, seed in points_of(spec, sweeps, seeds)
        ]
        for run in runs:
            load_config(run['config'], run['flags'])
    except ValueError as error:
        raise UserError(str(error)) from error
    if twice := [name for name, count in Counter(run['name'] for run in runs).items() if count > 1]:
        raise UserError(f'{twice[0]}: comes more than once; name every sweep and every seed once.')
    print('\n'.join(json.dumps(run) for run in runs))


def points_of(spec: str, sweeps: str, seeds: str) -> list[tuple[Facts, int]]:
    """The words and settings, and the seed, of every run in the product of a config's sweeps.

    Raises `UserError` for unknown ones.
    """
    offered = sweep_functions(load_module(spec))
    chosen, numbers = [name for name in sweeps.split(',') if name], (seeds or '0').split(',')
    if unknown := [name for name in chosen if name not in offered]:
        raise UserError(
            f'--sweep {",".join(unknown)}: {spec} offers'
            f' {", ".join(sorted(offered)) or "no sweeps"}.'
        )
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f'--seeds {seeds}: whole numbers separated by commas, like 0,1,2.')
    if 'seed' in [word.partition('=')[0] for word in spec.partition(':')[2].split(',')]:
        raise UserError(f'{spec}: give the seeds of a sweep with --seeds, not as a word.')
    return multiply(
        [map(flat, offered[name]()) for name in chosen], [int(number) for number in numbers]
    )


def flat(point: Facts) -> Facts:
    """Words and settings on one level, so that sweeps over different words do not clash."""
    return point.get('words', {}) | {
        name: value for name, value in point.items() if name != 'words'
    }


def describe_run(spec: str, overrides: list[str], point: Facts, seed: int | None) -> Facts:
    """The name and command line of one run of a sweep; `seed` None leaves the config's own."""
    settings = {
        name.removeprefix('config.'): value
        for name, value in point.items()
        if name.startswith('config.')
    }
    own = {name: value for name, value in point.items() if not name.startswith('config.')}
    own |= {} if seed is None else {'seed': seed}
    path, _, given = spec.partition(':')
    words = [*filter(None, [given]), *(f'{word}={value}' for word, value in own.items())]
    text = '-'.join(f'{name.removeprefix("config.")}={value}' for name, value in point.items())
    name = re.sub(r'[^\w.=,+-]+', '_', text)[:120]
    mark = '' if name == text else f'-{fingerprint(point)}'
    return {
        'name': f'{name}{mark}-seed{seed}' if point else f'seed{seed}',
        'point': point,
        'seed': seed,
        'config': f'{path}:{",".join(words)}',
        'file': str(find_config(path)[0]),
        'flags': [*overrides, *(flag_for(name, value) for name, value in settings.items())],
    }


def command(call: Call) -> int:
    """`list`: names; with `--config` its stages; with `--sweep` or `--seeds` the runs."""
    args = call.args
    if args.sweep or args.seeds:
        list_points(call.need('config'), args.sweep, args.seeds, call.overrides)
    elif args.config is not None:
        stages = list_stages(call.load(), args.workdir, args.store)
        print(json.dumps(stages, indent=2) if args.json else '\n'.join(map(_line, stages)))
    elif call.overrides:
        raise UserError('settings change a config: give one with --config NAME.')
    else:
        names = list_registries()
        lines = [f'{kind}: {", ".join(known)}' for kind, known in names.items()]
        print(json.dumps(names, indent=2) if args.json else '\n'.join(lines))
    return 0


def _line(stage: Facts) -> str:
    inputs = ', '.join(f'{role}={source}' for role, source in stage['inputs'].items())
    done = 'done' if stage['done'] else 'open'
    return f'{stage["name"]:<10} {stage["fingerprint"]}  {done}  {inputs}'.rstrip()
