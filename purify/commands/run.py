"""The command `run`: runs a config's stages in a work folder and writes results and report."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from purify.commands.call import Call
from purify.commands.check import check
from purify.commands.plan import make_stages
from purify.commands.record import environment
from purify.commands.report import conclude
from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import (
    explain_os_errors,
    fingerprint,
    read_json,
    user_path,
    write_bytes,
    write_json,
)
from purify.core.progress import say
from purify.core.types import Facts, Settings
from purify.core.writers import WANDB_ID, open_writers
from purify.data.loader import keep_decoded
from purify.engine.chain import Chain, on_lead
from purify.evaluation.results import warn_of_seen_images

LINKS = ('poisoned', 'reference', 'teacher', 'prior', 'verdicts', 'benign', 'purified', 'student')
# link: what the method hands over as that, whatever its step is called
OUTCOMES = {'verdicts': 'findings', 'benign': 'benign'}


def run(
    config: Settings,
    overrides: Sequence[str],
    workdir: Path,
    store: Path | None,
    only: Sequence[str],
) -> None:
    """Runs the config's unfinished stages in `workdir`: the same command goes on after a stop.

    Args:
      config: plain nested dicts.
      overrides: the words and flags that made it, for the record.
      workdir: the run's own folder.
      store: where stage folders live; runs that share a store share equal stages. None is
        `workdir/stages`.
      only: stages to run; empty for all.

    Raises:
      UserError: for bad input, an unwritable folder, an unknown stage.
      Preempted: when SIGTERM came and everything is saved.
    """
    workdir = user_path(workdir).absolute()
    chain = Chain(make_stages(config), user_path(store) if store else workdir / 'stages')
    names = list(chain.stages)
    if unknown := [name for name in only if name not in names]:
        raise UserError(
            f'--stages: no stage {", ".join(unknown)} in this config. Its stages:'
            f' {", ".join(names)}.'
        )
    wanted = [name for name in names if name in (only or names)]
    if not all(chain.finished(name) for name in wanted):
        _check_first(config)
    recorded = record_run(workdir, config, overrides, chain) if devices.is_lead() else None
    devices.barrier('run recorded')
    settings = config['run']
    with (
        open_writers(
            settings['writers'] if recorded else (), workdir, workdir.name, config
        ) as writers,
        keep_decoded(settings['resident_mb'] * 2**20),
    ):
        ready = names.index('prepare') + 1  # stages up to this one use no prior
        first = [name for name in wanted if name in names[:ready]]
        others = [name for name in wanted if name not in first]
        reused = chain.run(first, settings, writers)
        if others and chain.finished('prepare'):
            _warn_early(chain)
        reused |= chain.run(others, settings, writers)
        chain.check()
        if recorded:
            link_stages(workdir, chain)
            if missing := chain.unfinished():
                say(f'no results yet: {", ".join(missing)} of this config are not finished')
            elif chain.finished('evaluate'):
                conclude(workdir, config, chain, recorded, reused=reused, writers=writers)
    devices.barrier('run concluded')


def _warn_early(chain: Chain) -> None:
    """A prior that has seen the images is told of before anything is trained with it."""
    chain.check(['prepare'])

    def look() -> None:
        if warning := warn_of_seen_images(chain):
            say(warning)

    on_lead(look)


def _check_first(config: Settings) -> None:
    """A mistake in the last stage is known before the first one runs."""
    found = check(config, fetched=True)  # `make_stages` has
    if found.problems:
        raise UserError('\n        '.join(found.problems))


def record_run(workdir: Path, config: Settings, overrides: Sequence[str], chain: Chain) -> Facts:
    """Writes what runs here, removes results of other settings, and returns environment.json."""
    with explain_os_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError(13, 'no permission', str(workdir))
        before = _read_old_config(workdir)
        stale = ('results.json', 'report/index.html') if before not in (None, config) else ()
        stale += (
            (WANDB_ID,)
            if before is not None and _without_run(before) != _without_run(config)
            else ()
        )
        for name in stale:
            (workdir / name).unlink(missing_ok=True)
    known = environment() | {
        'store': str(chain.store),
        'fingerprints': chain.prints,
        'settings': fingerprint(config),
    }
    write_json(workdir / 'config.json', config)
    write_json(workdir / 'overrides.json', list(overrides))
    write_json(workdir / 'environment.json', known)
    return known


def _read_old_config(workdir: Path) -> Facts | None:
    """The config that ran here before: None if none did, an empty one if it cannot be read."""
    if not os.path.lexists(workdir / 'config.json'):
        return None
    with contextlib.suppress(UserError):
        return read_json(workdir / 'config.json', Facts)
    return {}


def _without_run(config: Settings) -> Facts:
    """The settings that change a result."""
    return {name: value for name, value in config.items() if name != 'run'}


def link_stages(workdir: Path, chain: Chain) -> None:
    """Links short names to the stage folders; puts the metrics of all stages into one file."""
    places = {name: chain.folder(name) for name in chain.stages if chain.finished(name)}
    if 'prepare' in places:
        places |= {
            sub: places['prepare'] / sub
            for sub in ('poisoned', 'reference')
            if (places['prepare'] / sub).is_dir()
        }
    inputs = chain.stages['evaluate'].inputs if 'evaluate' in chain.stages else {}
    handed = {link: inputs[role].stage for link, role in OUTCOMES.items() if role in inputs}
    places = {name: place for name, place in places.items() if name not in OUTCOMES} | {
        link: places[step] for link, step in handed.items() if step in places
    }
    with explain_os_errors(workdir):
        for name in LINKS:
            link = workdir / name
            if link.is_symlink():
                link.unlink()
            if name in places and not link.exists():
                link.symlink_to(os.path.relpath(places[name], workdir))
        lines = [
            path.read_bytes()
            for name in places
            if (path := places[name] / 'metrics.jsonl').exists()
        ]
        write_bytes(workdir / 'metrics.jsonl', b''.join(lines))


def settle_absl() -> None:
    """Marks absl's flags as parsed, as Grain's workers read them, and silences TFDS's warnings."""
    flags.FLAGS.mark_as_parsed()
    logging.set_verbosity(logging.FATAL)


def command(call: Call) -> int:
    """`run`: joins the other hosts, then runs the stages."""
    config, args = call.load(), call.args
    only = [name for name in args.stages.split(',') if name]
    workdir = call.workdir
    settle_absl()
    devices.use_compilation_cache()
    devices.start(args.coordinator, args.hosts, args.host_id)
    run(config, [args.config, *call.overrides], workdir, args.store, only)
    return 0
