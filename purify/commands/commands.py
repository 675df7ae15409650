"""The commands, as functions that return an exit code."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from absl import flags, logging

from purify.attacks.registry import ATTACKS
from purify.config.load import flag_for, load_config, load_module
from purify.config.sweeps import multiply, sweep_functions
from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import fingerprint, user_path
from purify.core.progress import say
from purify.data.augment import AUGMENTATIONS
from purify.data.sources import SOURCES
from purify.defenses.registry import DEFENSES
from purify.defenses.variation_models import VARIATION_MODELS
from purify.diffusion.samplers import SAMPLERS
from purify.engine.chain import Chain
from purify.models.networks import NETWORKS
from purify.commands import check as checking
from purify.commands import run as running
from purify.commands.plan import make_stages
from purify.commands.results import collect_runs, conclude
from purify.train.optim import OPTIMIZERS, SCHEDULES


def run(
    config: dict[str, Any],
    overrides: list[str],
    workdir: Path,
    store: Path | None,
    only: list[str],
    hosts: tuple[str | None, int | None, int | None],
) -> int:
    """`run`: joins the other hosts, then runs the stages."""
    _settle_absl()
    devices.use_compilation_cache()
    devices.start(*hosts)
    running.run(config, overrides, workdir, store, only)
    return 0


def check(config: dict[str, Any]) -> int:
    """`check`: 0 if every stage can run, 2 with all problems otherwise."""
    found = checking.check(config)
    for note in found.notes:
        print(f'  {note}')
    for problem in found.problems:
        print(f'problem: {problem}')
    print(f'{config["name"]}: ' + (f'{len(found.problems)} problem(s)' if found.problems else 'every stage can run'))
    return 2 if found.problems else 0


def list_registries() -> int:
    """`list`: every name a config can use."""
    for registry in (SOURCES, ATTACKS, DEFENSES, VARIATION_MODELS, NETWORKS, AUGMENTATIONS, SAMPLERS, OPTIMIZERS, SCHEDULES):
        print(f'{registry.kind}: {", ".join(sorted(registry))}')
    return 0


def list_stages(config: dict[str, Any], workdir: Path | None, store: Path | None) -> int:
    """`list --config`: the stages, their fingerprints, and whether they are done."""
    chain = Chain(make_stages(config), store or (workdir or Path('.')) / 'stages')
    for name, stage in chain.stages.items():
        inputs = ', '.join(f'{role}={source.stage or source.outside}' for role, source in stage.inputs.items() if role != 'source')
        print(f'{name:<10} {chain.prints[name]}  {"done" if chain.finished(name) else "open"}  {inputs}')
    return 0


def list_points(spec: str, sweeps: str, seeds: str, overrides: list[str]) -> int:
    """`list --sweep a,b --seeds 0,1`: one JSON line {'name', 'point', 'seed', 'config', 'flags'} per run of the product.

    Loads the config of every run, so that a sweep with a mistake in it fails here and not after some hours.
    """
    try:
        runs = [_describe(spec, overrides, point, seed) for point, seed in _multiply(spec, sweeps, seeds)]
        for run in runs:
            load_config(run['config'], run['flags'])
    except ValueError as error:
        raise UserError(str(error)) from error
    if twice := [name for name, count in Counter(run['name'] for run in runs).items() if count > 1]:
        raise UserError(f'{twice[0]}: comes more than once; name every sweep and every seed once.')
    print('\n'.join(json.dumps(run) for run in runs))
    return 0


def _multiply(spec: str, sweeps: str, seeds: str) -> list[tuple[dict[str, Any], int]]:
    offered = sweep_functions(load_module(spec))
    chosen, numbers = [name for name in sweeps.split(',') if name], (seeds or '0').split(',')
    if unknown := [name for name in chosen if name not in offered]:
        raise UserError(f'--sweep {",".join(unknown)}: {spec} offers {", ".join(sorted(offered)) or "no sweeps"}.')
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f'--seeds {seeds}: whole numbers separated by commas, like 0,1,2.')
    if 'seed' in [word.partition('=')[0] for word in spec.partition(':')[2].split(',')]:
        raise UserError(f'{spec}: give the seeds of a sweep with --seeds, not as a word.')
    return multiply([map(_flat, offered[name]()) for name in chosen], [int(number) for number in numbers])


def _flat(point: dict[str, Any]) -> dict[str, Any]:
    """Words and settings on one level, so that sweeps over different words do not clash."""
    return point.get('words', {}) | {name: value for name, value in point.items() if name != 'words'}


def _describe(spec: str, overrides: list[str], point: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """One run of a sweep: its folder's name and its command line; `seed` None leaves the config's own."""
    settings = {name.removeprefix('config.'): value for name, value in point.items() if name.startswith('config.')}
    own = {name: value for name, value in point.items() if not name.startswith('config.')}
    own |= {} if seed is None else {'seed': seed}
    path, _, given = spec.partition(':')
    text = '-'.join(f'{name.removeprefix("config.")}={value}' for name, value in point.items())
    name = re.sub(r'[^\w.=,+-]+', '_', text)[:120]
    mark = '' if name == text else f'-{fingerprint(point)}'
    return {
        'name': f'{name}{mark}-seed{seed}' if point else f'seed{seed}',
        'point': point,
        'seed': seed,
        'config': f'{path}:{",".join([*filter(None, [given]), *(f"{word}={value}" for word, value in own.items())])}',
        'flags': [*overrides, *(flag_for(name, value) for name, value in settings.items())],
    }


def gallery(spec: str, overrides: list[str], workdir: Path, store: Path | None, sweep: str) -> int:
    """`gallery`: one page of all attacks of the config's sweeps (one after another), or of the attack in its words."""
    from purify.commands.gallery import gallery as write

    _settle_absl()
    devices.use_compilation_cache()
    devices.start(None, None, None)
    offered = sweep_functions(load_module(spec))
    named = [word.partition('=')[0] for word in spec.partition(':')[2].split(',')]
    shown = sweep.split(',') if sweep else [name for name in ('attack', 'patch') if name in offered and 'attack' not in named]
    try:
        points = [point for name in shown or [''] for point, _ in _multiply(spec, name, '0')]
        runs = [_describe(spec, overrides, point, None) for point in points]
        configs = [load_config(run['config'], run['flags']) for run in runs]
    except ValueError as error:
        raise UserError(str(error)) from error
    write(configs, workdir, store)
    return 0


def bench(subject: str | None, spec: str, overrides: list[str], workdir: Path | None) -> int:
    """`bench variations`: what the config's settings cost here, one JSON line for each."""
    from purify.commands.bench import bench as measure

    if subject != 'variations':
        raise UserError(f'`purify bench {subject or "..."}`: say what is to be measured. Choose from: variations.')
    try:
        config = load_config(spec, overrides)
    except ValueError as error:
        here = '' if Path(spec.partition(':')[0]).is_file() else ' Start in the folder that holds configs/, or give --config FILE.'
        raise UserError(f'{error}{here}') from error
    measure(config, workdir)
    return 0


def convert(kind: str, file: Path, folder: Path) -> int:
    """`convert`: a prior from its authors' own format into a folder that `prior.load` takes."""
    from purify.commands.convert import convert as rewrite

    rewrite(kind, file, folder)
    say(f'{folder}: written; use it as --config.prior.load={folder}')
    return 0


def report(workdir: Path) -> int:
    """`report`: writes a finished run's report again, or one table of all runs below the folder."""
    workdir = user_path(workdir).absolute()
    if not (workdir / 'config.json').exists():
        print(collect_runs(workdir))
        return 0
    config, environment = running.read_record(workdir)
    chain = Chain(make_stages(config), user_path(environment['store']))
    if strange := [name for name in chain.stages if name not in environment['fingerprints']]:
        raise UserError(
            f'{workdir / "environment.json"}: knows no stage {", ".join(strange)}, which the config has. Start the run '
            f'again with its own command: {environment["command"]}'
        )
    if gone := [name for name in environment['fingerprints'] if name not in chain.stages]:
        raise UserError(
            f'{workdir / "environment.json"}: knows the stages {", ".join(gone)}, which this version does not make of the config. '
            'Write the report with the version that ran it.'
        )
    chain.recall(environment['fingerprints'])
    if missing := chain.unfinished():
        raise UserError(
            f'{workdir}: the run is not finished: {chain.store} holds no finished {", ".join(missing)} of it. Start its command '
            f'again, without --stages: {environment["command"]}'
        )
    chain.check()
    conclude(workdir, config, chain, environment)
    return 0


def _settle_absl() -> None:
    """Grain's workers read absl flags, which this program does not parse; TFDS warns through absl of what does not matter."""
    flags.FLAGS.mark_as_parsed()
    logging.set_verbosity(logging.FATAL)
