"""The four commands, as functions that return an exit code."""

import json
from pathlib import Path
from typing import Any

from absl import flags, logging

from purify.attacks.registry import ATTACKS
from purify.config.load import load_module
from purify.config.sweeps import sweep_functions
from purify.core import devices, preemption
from purify.core.errors import UserError
from purify.core.files import read_json
from purify.data.augment import AUGMENTATIONS
from purify.data.sources import SOURCES
from purify.defenses.registry import DEFENSES
from purify.diffusion.samplers import SAMPLERS
from purify.models.resnet import NETWORKS
from purify.pipelines import check as checking
from purify.pipelines import run as running
from purify.pipelines.chain import Chain
from purify.pipelines.plan import make_stages
from purify.pipelines.summary import collect_runs, conclude
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
    with preemption.watched():
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
    for registry in (SOURCES, ATTACKS, DEFENSES, NETWORKS, AUGMENTATIONS, SAMPLERS, OPTIMIZERS, SCHEDULES):
        print(f'{registry.kind}: {", ".join(sorted(registry))}')
    return 0


def list_stages(config: dict[str, Any], workdir: Path | None, store: Path | None) -> int:
    """`list --config`: the stages, their fingerprints, and whether they are done."""
    chain = Chain(make_stages(config), store or (workdir or Path('.')) / 'stages')
    for name, stage in chain.stages.items():
        inputs = ', '.join(f'{role}={source.stage or source.outside}' for role, source in stage.inputs.items() if role != 'source')
        print(f'{name:<10} {chain.prints[name]}  {"done" if chain.finished(name) else "open"}  {inputs}')
    return 0


def list_points(spec: str, names: list[str]) -> int:
    """`list --sweep`: one JSON line {'sweep', 'points'} per sweep of the config file."""
    offered = sweep_functions(load_module(spec))
    for name in names:
        if name not in offered:
            raise UserError(f'--sweep {name}: {spec} offers {", ".join(sorted(offered)) or "no sweeps"}.')
        print(json.dumps({'sweep': name, 'points': list(offered[name]())}))
    return 0


def report(workdir: Path) -> int:
    """`report`: writes a finished run's report again, or one table of all runs below the folder."""
    workdir = workdir.expanduser().absolute()
    if not (workdir / 'config.json').exists():
        print(collect_runs(workdir))
        return 0
    config = read_json(workdir / 'config.json')
    chain = Chain(make_stages(config), Path(read_json(workdir / 'environment.json')['store']))
    if not chain.finished('evaluate'):
        raise UserError(f'{workdir}: the run is not finished; start its command again: {read_json(workdir / "overrides.json")}')
    conclude(workdir, config, chain, {})
    return 0


def _settle_absl() -> None:
    """Grain's workers read absl flags, which this program does not parse; TFDS warns through absl of what does not matter."""
    flags.FLAGS.mark_as_parsed()
    logging.set_verbosity(logging.ERROR)
