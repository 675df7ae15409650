"""The attacker's stages: all that happens before a defence."""

from purify.attacker.attackers_loader import on_the_fly, train_in_loader
from purify.attacker.fit_trigger import fit_trigger, fitted_settings
from purify.attacker.poison_dataset import FITTED, poison_dataset, write_clean
from purify.attacker.trusted_images import check_trusted, trust
from purify.attacks.attack import NOT_PIXELS
from purify.attacks.learned.fitted import FACTS_FILE, WEIGHTS_FILE
from purify.config.resolve import leaves
from purify.core.files import fingerprint, user_path
from purify.core.randomness import stream_seed
from purify.core.types import Settings
from purify.data.content import marks
from purify.data.sources.open_source import sign_source
from purify.engine.stage import Input, Stage
from purify.stages.stage_lists import classifier_stages, start_of

TRUTH = Input('prepare', 'truth')
CLEAN = Input('clean', 'clean')


def attacker_stages(where: dict[str, Input], config: Settings) -> list[Stage]:
    """The attacker's stages, up to the poisoned dataset and the victim's classifier.

    He trains a surrogate and fits a trigger, each where the config has such a part, and poisons.
    Few trusted images are drawn for the defender by one who knows the truth, and the teacher is
    trained on what he left. What there is from then on is set in `where`.
    """
    stages, shown = _fitting(where, config), ('poisoned', 'reference')
    fitted = {role: where.pop(role) for role in FITTED if role in where}
    inputs = _source(config) | _files_of(config['attack']) | fitted
    settings = {name: config[name] for name in ('source', 'attack', 'shard_size')}
    settings |= {'seed': config['seeds']['poison']}
    stages += [Stage('prepare', poison_dataset, settings, inputs, sees=tuple(inputs), shows=shown)]
    where |= {name: Input('prepare', name) for name in shown}
    if 'trusted' in config:
        check_trusted(config['trusted'])
        drawn = {'poisoned': where['poisoned'], 'truth': TRUTH}
        settings = config['trusted'] | {'seed': config['seeds']['data']}
        stages += [Stage('trusted', trust, settings, drawn, sees=('truth',), shows=('',))]
        where['trusted'] = Input('trusted')
    if 'teacher' in config:
        stages += _victim(where, config)
    return stages


def clean_stage(config: Settings) -> Stage:
    """The stage that writes the training images as they come, before any poison."""
    settings = {'source': config['source'], 'shard_size': config['shard_size']}
    return Stage('clean', write_clean, settings, _source(config), sees=('source',))


def needs_clean(config: Settings) -> bool:
    """Whether the attacker trains on clean images, so that there is a `clean_stage` already."""
    parts = _fitted(config)
    return 'trigger' in parts or ('surrogate' in parts and not config['surrogate']['load'])


def _fitted(config: Settings) -> list[str]:
    """The parts of an attack that are made before he poisons; none where it is finished."""
    return [name for name in FITTED if name in config and not config['attack'].get('load')]


def _fitting(where: dict[str, Input], config: Settings) -> list[Stage]:
    """A surrogate and a fitted trigger, where the config has such parts."""
    attack, parts = config['attack'], _fitted(config)
    stages = [clean_stage(config)] if needs_clean(config) else []
    poison = config['seeds']['poison']
    # the victim's would be a present
    own = {name: stream_seed(poison, f'attacker {name}') for name in ('model', 'data')}
    if 'surrogate' in parts:
        stages += classifier_stages(
            where, 'surrogate', config['surrogate'], own, {'data': CLEAN}, sees=('data',)
        )
    if 'trigger' in parts:
        fitted = {'attack': fitted_settings(attack), 'seed': poison, 'seeds': own}
        settings = config['trigger'] | fitted
        uses = {'surrogate': where.pop('surrogate')} if 'surrogate' in where else {}
        uses = {'data': CLEAN} | uses
        inputs = uses | start_of(config['trigger'])
        stages += [Stage('trigger', fit_trigger, settings, inputs, sees=tuple(uses))]
        where['trigger'] = Input('trigger')
    return stages


def _victim(where: dict[str, Input], config: Settings) -> list[Stage]:
    """The teacher's stages, on the poisoned dataset or in the attacker's loader; open to all."""
    part, seeds = config['teacher'], config['seeds']
    if not on_the_fly(config['attack']):
        return classifier_stages(where, 'teacher', part, seeds, {'data': where['poisoned']})
    inputs = {'data': where['poisoned'], 'attacker': Input('prepare', 'attacker')}
    return classifier_stages(
        where, 'teacher', part, seeds, inputs, run=train_in_loader, sees=('attacker',), shows=('',)
    )


def _source(config: Settings) -> dict[str, Input]:
    """The source as an input: changed files are not taken for the old ones of the same name."""
    found = sign_source(config['source'])
    return {'source': Input(digest=fingerprint(found) if found else '')}


def _files_of(attack: Settings) -> dict[str, Input]:
    """The outside files that an attack and its further triggers are made from, as inputs."""
    given = leaves({name: attack[name] for name in (*NOT_PIXELS, 'more') if name in attack})
    found = {}
    for name, value in given.items():
        if name.rpartition('.')[2] in NOT_PIXELS and value and isinstance(value, str):
            path = user_path(value)
            names = (FACTS_FILE, WEIGHTS_FILE)
            files = [path / file for file in names] if path.is_dir() else [path]
            digest = fingerprint(marks({file.name: file for file in files}, hashed=True))
            found[f'attack.{name}'] = Input(outside=path.absolute(), digest=digest)
    return found
