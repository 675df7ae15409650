"""From the `attack` part of a config to attacks, and to who gets poisoned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from purify.attacks.attack import Attack, whole_number
from purify.attacks.fitted import Fitted
from purify.attacks.label_consistent import LabelConsistent, Surrogate
from purify.attacks.registry import ATTACKS
from purify.attacks.selection import Rules, choose, choose_cover, choose_replicated
from purify.core.errors import UserError
from purify.core.files import read_json, write_json
from purify.core.randomness import stream_seed
from purify.data.manifest import Manifest
from purify.data.poison import FixedPoison, RandomPoison, Role
from purify.data.sources import Pool
from purify.pipelines.artifacts import read_classifier

SELECTION = ('rate', 'base', 'include_target', 'sources', 'cover_rate')
REPLICAS = ('replicated_images', 'replicas', 'poison_replicas')
MODE = ('poison_first', 'random_poisoning')
Settings = dict[str, Any]


def own_settings(settings: Settings) -> Settings:
    """The part of `attack` that makes the trigger: its name and parameters, without the rules on who is poisoned."""
    return {name: settings[name] for name in settings if name not in (*SELECTION, *REPLICAS, *MODE, 'more')}


def make_attacks(
    settings: Settings, seed: int, classes: int, *, trigger: Path | None = None, surrogate: Path | None = None
) -> tuple[Attack, ...]:
    """The `attack` part of a config -> its attacks: the one it describes, then one for each entry of `more`.

    An entry of `more` is the same attack with some settings changed. What an attack draws comes from the stream 'trigger'
    of `seed`, a stream of its own for each. `trigger` is the folder of a trigger fitted in this run, `surrogate` that of a
    finished classifier. Raises `UserError` for unknown names and values out of range.
    """
    if settings['name'] == 'none' and settings['rate']:
        raise UserError(f"attack.rate={settings['rate']}: the attack 'none' poisons nobody; set rate to 0 or choose an attack.")
    attacks = []
    for number, changes in enumerate([{}, *settings['more'].values()]):
        own = own_settings(settings) | changes
        if trigger is not None and 'load' in own and not own['load']:
            if number:
                raise UserError("attack.more: a fitted trigger serves one target; give each further one its own folder as 'load'.")
            own['load'] = str(trigger)
        if surrogate is not None and own['name'] == 'label_consistent':
            own['surrogate'] = read_surrogate(surrogate)
        own['num_classes'] = classes if own.get('scheme') == 'all_to_all' else 0
        name = own.pop('name')
        stream = 'trigger' if not number else f'trigger {number}'
        attacks.append(ATTACKS.make(name, seed=stream_seed(seed, stream), **{key: _tuples(value) for key, value in own.items()}))
    return tuple(attacks)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def read_surrogate(folder: Path) -> Surrogate:
    """A finished classifier as the surrogate of an attack."""
    model = read_classifier(folder)
    return Surrogate(model.logits, model.weights, model.digest())


def read_attacks(truth: Path, manifest: Manifest | None = None) -> tuple[Attack, ...]:
    """The attacks of a finished `prepare`, from its folder truth/, as they stamp test images."""
    facts, trigger = (manifest or Manifest.read(truth)).facts, truth / 'trigger'
    classes = len(facts['class_names'])
    return make_attacks(facts['attack'], facts['seed'], classes, trigger=trigger if trigger.is_dir() else None)


def make_rules(settings: Settings) -> Rules:
    """The rules on who is poisoned. Raises `UserError` for a cover rate of an attack that stamps nothing."""
    if settings['cover_rate'] and settings['name'] in ('none', 'relabel_only'):
        raise UserError(f'attack.cover_rate={settings["cover_rate"]}: attack {settings["name"]!r} stamps nothing; set it to 0.')
    targets = [settings['target'], *(changes.get('target', settings['target']) for changes in settings['more'].values())]
    rules = {name: _tuples(settings[name]) for name in SELECTION}
    return Rules(**rules, scheme=settings['scheme'], targets=tuple(targets))


def check_target(settings: Settings, classes: int) -> None:
    """Raises `UserError` for a target or source that is no class."""
    for name, changes in {'': settings, **settings['more']}.items():
        target = changes.get('target', 0)
        if not 0 <= target < classes:
            where = f'more.{name}.target' if name else 'target'
            raise UserError(f'attack.{where}={target} is not a class; choose 0 to {classes - 1}.')
    if wrong := [k for k in settings['sources'] if not 0 <= k < classes]:
        raise UserError(f'attack.sources={wrong} are no classes; choose from 0 to {classes - 1}.')


@dataclass(frozen=True)
class Plot:
    """Who is poisoned, drawn once.

    Attributes:
      pool: the training images, with added copies at its end.
      copy_of: i64[n], the id each image of the pool is a copy of, or -1.
      poisoned: the ids for each trigger, i64[..].
      covering: the ids of the cover samples for each trigger, i64[..].
    """

    pool: Pool
    copy_of: np.ndarray
    poisoned: list[np.ndarray]
    covering: list[np.ndarray]

    @property
    def roles(self) -> dict[int, Role]:
        """Everybody who carries a trigger: id -> (which one, mode)."""
        found = {}
        for mode, groups in (('training', self.poisoned), ('cover', self.covering)):
            found |= {int(identity): (which, mode) for which, ids in enumerate(groups) for identity in ids}
        return found


def draw_plot(pool: Pool, settings: Settings, rules: Rules, seed: int) -> Plot:
    """Copies some images where asked, then draws who is poisoned (stream 'selection' of `seed`) and who covers ('cover').

    Raises `UserError` for counts that the dataset cannot give.
    """
    images, replicas = (whole_number(f'attack.{name}', settings[name], 0) for name in REPLICAS[:2])
    if bool(images) != bool(replicas):
        raise UserError(f'attack.replicated_images={images} and attack.replicas={replicas}: set both, or neither.')
    if settings['poison_replicas'] and not images:
        raise UserError('attack.poison_replicas: there are no replicas; set replicated_images and replicas.')
    copied = choose_replicated(rules, pool.labels, pool.ids, images, stream_seed(seed, 'replicas'))
    pool, copy_of = replicate(pool, copied, replicas)
    first = pool.ids[copy_of >= 0] if settings['poison_replicas'] else None
    poisoned = choose(rules, pool.labels, pool.ids, stream_seed(seed, 'selection'), first)
    covering = choose_cover(rules, pool.labels, pool.ids, np.concatenate(poisoned), stream_seed(seed, 'cover'))
    return Plot(pool, copy_of, poisoned, [covering[k :: len(poisoned)] for k in range(len(poisoned))])


def replicate(pool: Pool, ids: np.ndarray, replicas: int) -> tuple[Pool, np.ndarray]:
    """Adds `replicas` copies of each image in `ids`, under new ids -> (the pool, whose copy each image is or -1: i64[n])."""
    copied = np.repeat(np.asarray(ids, np.int64), replicas)
    where = np.flatnonzero(np.isin(pool.ids, ids))
    origin = np.concatenate([np.arange(len(pool)), where[np.argsort(pool.ids[where])].repeat(replicas)])
    whole = pool.take(origin)
    new = pool.ids.max(initial=-1) + 1 + np.arange(len(copied))
    copy_of = np.concatenate([np.full(len(pool), -1), copied]).astype(np.int64)
    return Pool(np.concatenate([pool.ids, new]), whole.labels, whole.fetch), copy_of


def on_the_fly(settings: Settings) -> bool:
    """Whether the attacker poisons in his own loader instead of on disk."""
    return bool(settings['rate']) and (settings['random_poisoning'] or not settings['poison_first'])


def write_loader(folder: Path, settings: Settings, seed: int, rules: Rules, plot: Plot, classes: int) -> None:
    """The attacker's own loader as facts: loader.json."""
    eligible = int(rules.allows(plot.pool.labels).sum())
    count, covers = (sum(map(len, groups)) for groups in (plot.poisoned, plot.covering))
    facts = {
        'attack': settings,
        'seed': seed,
        'classes': classes,
        'poisoned': [ids.tolist() for ids in plot.poisoned],
        'covering': [ids.tolist() for ids in plot.covering],
        'labels': [k for k in range(classes) if rules.allows(np.array([k]))[0]],
        'rate': count / eligible,
        'cover_labels': [k for k in range(classes) if rules.covers(np.array([k]))[0]],
        'cover_rate': covers / int(rules.covers(plot.pool.labels).sum()) if covers else 0.0,
    }
    write_json(folder / 'loader.json', facts)


def read_poisoner(folder: Path) -> tuple[FixedPoison | RandomPoison, bool]:
    """attacker/ -> his transform, and whether it goes before the augmentations."""
    facts = read_json(folder / 'loader.json')
    rule = facts['attack']
    attacks = make_attacks(rule, facts['seed'], facts['classes'])
    if rule['random_poisoning']:
        poison: FixedPoison | RandomPoison = RandomPoison(
            attacks, frozenset(facts['labels']), frozenset(facts['cover_labels']), facts['rate'], facts['cover_rate']
        )
    else:
        roles = {}
        for mode, groups in (('training', facts['poisoned']), ('cover', facts['covering'])):
            roles |= {identity: (which, mode) for which, ids in enumerate(groups) for identity in ids}
        poison = FixedPoison(attacks, roles)
    return poison, rule['poison_first']


def refuse_device_work(settings: Settings, attacks: tuple[Attack, ...]) -> None:
    """Raises `UserError` where an attack that runs a network would have to run in a loader's workers."""
    if on_the_fly(settings) and any(isinstance(attack, Fitted | LabelConsistent) for attack in attacks):
        raise UserError(
            f'attack {settings["name"]!r} runs a network and is applied once, to a dataset on disk: set poison_first to True '
            'and random_poisoning to False.'
        )
