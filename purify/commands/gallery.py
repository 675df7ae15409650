"""The command `gallery`: what the attacks of a config do to images, side by side on one page."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from purify.attacker.poison_dataset import FITTED
from purify.attacker.poison_plan import check_target, make_attacks, make_rules, own_settings
from purify.attacks.attack import Attack
from purify.attacks.selection import Rules
from purify.commands.call import Call
from purify.commands.list import describe_run, points_of
from purify.commands.plan import make_stages
from purify.commands.record import environment
from purify.commands.run import settle_absl
from purify.config.load import load_config, load_module
from purify.config.sweeps import sweep_functions
from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import explain_os_errors, fingerprint, user_path
from purify.core.progress import say
from purify.core.types import Facts, Settings
from purify.data.sources.open_source import Pool, Source, open_source
from purify.engine.chain import Chain
from purify.report.gallery import Entry, write_gallery

SHOWN = 8  # images of each attack


def gallery(configs: Sequence[Facts], workdir: Path, store: Path | None) -> Path:
    """Stamps test images with the attack of each config, writes one page and returns its path.

    Triggers that are learned are fitted first, or taken from the store where they are there
    already. Raises `UserError` for bad input and where no config attacks anything.
    """
    workdir = user_path(workdir).absolute()
    with explain_os_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    store = user_path(store) if store else workdir / 'stages'
    open_once = _opener()
    entries = [
        entry
        for config in configs
        for entry in _entries(config, Chain(make_stages(config), store), open_once)
    ]
    if not entries:
        raise UserError(
            'gallery: no attack of this config changes a pixel. Give it one, like :attack=patch.'
        )
    page = write_gallery(workdir / 'gallery', entries, environment())
    say(f'gallery: {page}')
    return page


def _opener() -> Callable[[Facts], Source]:
    """`open_source` for the `source` part of a config; equal ones are opened once."""
    opened: dict[str, Source] = {}

    def open_once(settings: Settings) -> Source:
        name = fingerprint(settings)
        if name not in opened:
            opened[name] = open_source(**settings)
        return opened[name]

    return open_once


def _entries(config: Settings, chain: Chain, open_once: Callable[[Facts], Source]) -> list[Entry]:
    """One entry for each trigger of a config's attack."""
    rule = config['attack']
    names = list(chain.stages)
    fitting = names[: names.index('prepare')]  # the attacker's own stages
    chain.run(fitting, config['run'])
    chain.check(fitting)
    source = open_once(config['source'])
    check_target(rule, len(source.class_names))
    rules = make_rules(rule)
    inputs = chain.stages['prepare'].inputs
    folders = {role: chain.path(inputs[role]) for role in FITTED if role in inputs}
    attacks = make_attacks(rule, config['seeds']['poison'], len(source.class_names), **folders)
    seconds = sum(chain.done(name)['cost']['seconds'] for name in fitting if name != 'clean')
    found = []
    for number, attack in enumerate(attacks):
        if attack.has_trigger:
            name = f'{rule["name"]} {number + 1}' if len(attacks) > 1 else rule['name']
            fit_seconds = seconds if fitting else None
            own = own_settings(rule)
            found.append(_stamp(name, own, attack, rules, source.test, fit_seconds))
    return found


def _stamp(
    name: str, settings: Settings, attack: Attack, rules: Rules, pool: Pool, seconds: float | None
) -> Entry:
    """The attack on test images of the kind that it poisons, in the modes that differ."""
    chosen = _one_of_each(pool.labels, attack, rules)
    clean, ids = np.stack([pool.fetch(i) for i in chosen]), pool.ids[chosen].tolist()
    test, training, cover = (
        attack.stamp_many(list(clean), ids, mode) for mode in ('test', 'training', 'cover')
    )
    return Entry(
        name=name,
        settings=settings,
        clean=clean,
        test=test,
        training=None if np.array_equal(training, test) else training,
        cover=None if np.array_equal(cover, training) or np.array_equal(cover, test) else cover,
        fit_seconds=seconds,
        note=(type(attack).__doc__ or '').split('\n', 1)[0].replace('`', ''),
    )


def _one_of_each(labels: np.ndarray, attack: Attack, rules: Rules) -> list[int]:
    """Positions of up to `SHOWN` images such as the attack poisons, of different classes."""
    own = labels == attack.target if rules.scheme == 'clean_label' else rules.allows(labels)
    seen: dict[int, int] = {}
    order = []
    for i in np.flatnonzero(own).tolist():
        label = int(labels[i])
        order.append((seen.get(label, 0), i))
        seen[label] = seen.get(label, 0) + 1
    if not order:
        raise UserError(
            f'gallery: the test images have none that {type(attack).__name__} would poison.'
        )
    return sorted(i for _, i in sorted(order)[:SHOWN])


def command(call: Call) -> int:
    """`gallery`: one page of the attacks of the config's sweeps, or of the attack in its words."""
    workdir, spec, sweep = call.workdir, call.need('config'), call.args.sweep
    settle_absl()
    devices.use_compilation_cache()
    devices.start(None, None, None)
    offered = sweep_functions(load_module(spec))
    named = [word.partition('=')[0] for word in spec.partition(':')[2].split(',')]
    shown = (
        sweep.split(',')
        if sweep
        else [name for name in ('attack', 'patch') if name in offered and 'attack' not in named]
    )
    try:
        points = [point for name in shown or [''] for point, _ in points_of(spec, name, '0')]
        runs = [describe_run(spec, call.overrides, point, None) for point in points]
        configs = [load_config(run['config'], run['flags']) for run in runs]
    except ValueError as error:
        raise UserError(str(error)) from error
    gallery(configs, workdir, call.args.store)
    return 0
