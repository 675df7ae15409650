"""Everything needed to run it again: the command, the settings, where it ran."""

import msgspec

from purify.core.types import Settings
from purify.report.markup import Section, fill
from purify.report.run import Finished
from purify.report.words import flatten, say_classes, say_command


def section(run: Finished) -> Section:
    """Shows the command line, and five lists of settings."""
    command = run.environment.get('command')
    said = say_command(command) if command else None
    return fill('provenance', 'Provenance', command=said, settings=list_settings(run))


def list_settings(run: Finished) -> dict[str, list[tuple[str, str]]]:
    """Lists (name, text) by what they are settings of; lists of nothing are left out."""
    results = run.results
    attack, seeds = msgspec.to_builtins(results.attack), msgspec.to_builtins(results.seeds)
    for name in {'target', 'targets'} & set(attack):
        attack[name] = say_classes(attack[name], results.classes)
    trusted = {'trusted': {'images': results.trusted.images}} if results.trusted else {}
    where = {name: value for name, value in run.environment.items() if name != 'command'}
    groups: dict[str, Settings] = {
        'Attack': attack,
        'Defence': results.defense | trusted,
        'Prior': {'kind': results.prior.kind, 'text': results.prior.text} if results.prior else {},
        'Run': {'config': results.config, 'seeds': seeds},
        'Environment': where,
    }
    return {title: pairs for title, group in groups.items() if (pairs := flatten(group))}
