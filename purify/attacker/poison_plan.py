"""Makes the attacks of a config, and draws which images they poison."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from purify.attacker.manifest import Manifest
from purify.attacker.poison_records import Role
from purify.attacks.attack import NOT_PIXELS, Attack
from purify.attacks.fixed.label_consistent import Surrogate
from purify.attacks.learned.fitted import FACTS_FILE, WEIGHTS_FILE
from purify.attacks.registry import ATTACKS
from purify.attacks.selection import Rules, choose_cover, choose_replicated, choose_victims
from purify.core.errors import UserError
from purify.core.files import user_path, write_bytes
from purify.core.limits import whole
from purify.core.randomness import stream_seed
from purify.core.types import Facts, Settings
from purify.data.sources.open_source import Pool
from purify.stages.networks_on_disk import read_classifier

SELECTION = ('rate', 'base', 'include_target', 'sources', 'cover_rate')
REPLICAS = ('replicated_images', 'replicas', 'poison_replicas')
MODE = ('poison_first', 'random_poisoning')
MOST_COPIES = 10_000_000
FILES = 'files'  # in truth/ and attacker/: what the attacks were made from


def own_settings(settings: Settings) -> Settings:
    """The settings of `attack` that make its trigger, without the rules on who is poisoned."""
    others = (*SELECTION, *REPLICAS, *MODE, 'more')
    return {name: settings[name] for name in settings if name not in others}


def make_attacks(
    settings: Settings,
    seed: int,
    classes: int,
    *,
    trigger: Path | None = None,
    surrogate: Path | None = None,
    kept: Path | None = None,
) -> tuple[Attack, ...]:
    """Makes the attacks of a config: the one that `attack` describes, then one per entry of `more`.

    An entry of `more` is the same attack with some settings changed. What an attack draws comes
    from the stream 'trigger' of `seed`, a stream of its own for each. `trigger` is the folder of a
    trigger fitted in this run, `surrogate` that of a finished classifier, `kept` where `keep_files`
    left the files of these attacks. Raises `UserError` for unknown names and values out of range.
    """
    if settings['name'] == 'none' and settings['rate']:
        raise UserError(
            f"attack.rate={settings['rate']}: the attack 'none' poisons nobody; set rate to 0 or"
            ' choose an attack.'
        )
    attacks = []
    for number, changes in enumerate([{}, *settings['more'].values()]):
        own = own_settings(settings) | changes
        if trigger is not None and 'load' in own and not own['load']:
            if number:
                raise UserError(
                    "attack.more: a fitted trigger serves one target; give further ones a 'load'."
                )
            own['load'] = str(trigger)
        if kept is not None:
            places = {leaf: kept / f'{number}-{leaf}' for leaf in NOT_PIXELS if leaf in own}
            own |= {leaf: str(place) for leaf, place in places.items() if place.exists()}
        if surrogate is not None and own['name'] == 'label_consistent':
            own['surrogate'] = read_surrogate(surrogate)
        own['num_classes'] = classes if own.get('scheme') == 'all_to_all' else 0
        name = own.pop('name')
        stream = 'trigger' if not number else f'trigger {number}'
        given = {key: _tuples(value) for key, value in own.items()}
        attacks.append(ATTACKS.make(name, seed=stream_seed(seed, stream), **given))
    return tuple(attacks)


def keep_files(attacks: Sequence[Attack], folder: Path) -> None:
    """Copies the files that attacks were made from, so that making them again needs no others."""
    for number, attack in enumerate(attacks):
        for leaf in NOT_PIXELS:
            given = getattr(attack, leaf, '')
            if not isinstance(given, str) or not given:
                continue
            path, copy = user_path(given), folder / f'{number}-{leaf}'
            files = {path / name: copy / name for name in (WEIGHTS_FILE, FACTS_FILE)}
            for file, place in ({path: copy} if path.is_file() else files).items():
                write_bytes(place, file.read_bytes())


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def read_surrogate(folder: Path) -> Surrogate:
    """Reads a finished classifier as the surrogate of an attack."""
    model = read_classifier(folder)
    return Surrogate(model.logits, model.weights, model.digest())


def read_attacks(truth: Path, manifest: Manifest | None = None) -> tuple[Attack, ...]:
    """The attacks of a finished `prepare`, from its folder truth/, as they stamp test images.

    Raises `UserError` where they are no longer those that poisoned the dataset.
    """
    facts = (manifest or Manifest.read(truth)).facts
    rule, classes = facts['attack'], len(facts['class_names'])
    attacks = make_attacks(rule, facts['seed'], classes, kept=truth / FILES)
    # the surrogate of label_consistent is left behind
    if rule['name'] != 'label_consistent' and digest_of(attacks) != facts['digest']:
        raise UserError(
            f'{truth}: the trigger is not the one that poisoned the dataset. Delete the prepare'
            ' stage and run again.'
        )
    return attacks


def digest_of(attacks: Sequence[Attack]) -> str:
    """The digest of an attack, or one over those of several."""
    first, *others = (attack.digest() for attack in attacks)
    return hashlib.sha256(' '.join([first, *others]).encode()).hexdigest() if others else first


def make_rules(settings: Settings) -> Rules:
    """The rules on who is poisoned.

    Raises `UserError` for a cover rate of an attack that stamps nothing.
    """
    if settings['cover_rate'] and settings['name'] in ('none', 'relabel_only'):
        raise UserError(
            f'attack.cover_rate={settings["cover_rate"]}: attack {settings["name"]!r} stamps'
            ' nothing; set it to 0.'
        )
    rules = {name: _tuples(settings[name]) for name in SELECTION}
    return Rules(**rules, scheme=settings['scheme'], targets=tuple(targets_of(settings).values()))


def targets_of(settings: Settings) -> Facts:
    """The target of every trigger by its setting's name; entries without one have the attack's."""
    own = {'target': settings['target']}
    return own | {
        f'more.{name}.target': changes.get('target', settings['target'])
        for name, changes in settings['more'].items()
    }


def check_target(settings: Settings, classes: int) -> None:
    """Raises `UserError` for a target or source that is no class."""
    own = set(own_settings(settings)) - {'name', 'scheme'}
    for name, changes in settings['more'].items():
        if wrong := sorted(set(changes) - own):
            raise UserError(
                f'attack.more.{name}: {", ".join(wrong)} cannot differ; choose from'
                f' {", ".join(sorted(own))}.'
            )
    for where, target in targets_of(settings).items():
        check_label(f'attack.{where}', target, classes)
    for source in settings['sources']:
        check_label('attack.sources', source, classes)


def check_label(name: str, label: Any, classes: int) -> None:
    """Raises `UserError`, with the `name` of the setting, for a label that is no class."""
    if whole(0).check(name, label) >= classes:
        raise UserError(f'{name}={label} is not a class; choose 0 to {classes - 1}.')


@dataclass(frozen=True)
class Poisoning:
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
        return roles_of(self.poisoned, self.covering)

    @property
    def counts(self) -> tuple[int, int]:
        """How many are poisoned, and how many cover."""
        return sum(map(len, self.poisoned)), sum(map(len, self.covering))


def roles_of(poisoned: Sequence[Any], covering: Sequence[Any]) -> dict[int, Role]:
    """Who carries which trigger, id -> (which one, mode), from the ids for each trigger."""
    found = {}
    for mode, groups in (('training', poisoned), ('cover', covering)):
        found |= {
            int(identity): (which, mode) for which, ids in enumerate(groups) for identity in ids
        }
    return found


def draw_poisoning(pool: Pool, settings: Settings, rules: Rules, seed: int) -> Poisoning:
    """Copies images where asked, then draws who is poisoned and who covers.

    Streams of `seed`: 'replicas', 'selection' and 'cover'. Raises `UserError` for counts that the
    dataset cannot give.
    """
    images, replicas = (whole(0).check(f'attack.{name}', settings[name]) for name in REPLICAS[:2])
    if images * replicas > MOST_COPIES:
        raise UserError(
            f'attack.replicas={replicas} of {images} images are more than {MOST_COPIES:,} copies.'
            ' Lower replicas.'
        )
    if bool(images) != bool(replicas):
        raise UserError(
            f'attack.replicated_images={images}, attack.replicas={replicas}: set both, or neither.'
        )
    if settings['poison_replicas'] and not images:
        raise UserError(
            'attack.poison_replicas: there are no replicas; set replicated_images and replicas.'
        )
    copied = choose_replicated(rules, pool.labels, pool.ids, images, stream_seed(seed, 'replicas'))
    pool, copy_of = add_copies(pool, copied, replicas)
    first = pool.ids[copy_of >= 0] if settings['poison_replicas'] else None
    poisoned = choose_victims(rules, pool.labels, pool.ids, stream_seed(seed, 'selection'), first)
    hit, cover_seed, count = np.concatenate(poisoned), stream_seed(seed, 'cover'), len(poisoned)
    covering = choose_cover(rules, pool.labels, pool.ids, hit, cover_seed)
    return Poisoning(pool, copy_of, poisoned, [covering[k::count] for k in range(count)])


def add_copies(pool: Pool, ids: np.ndarray, replicas: int) -> tuple[Pool, np.ndarray]:
    """Adds `replicas` copies of each image in `ids`; returns the pool, and whose copy each is."""
    copied = np.repeat(np.asarray(ids, np.int64), replicas)
    where = np.flatnonzero(np.isin(pool.ids, ids))
    originals = where[np.argsort(pool.ids[where])].repeat(replicas)
    whole = pool.take(np.concatenate([np.arange(len(pool)), originals]))
    new = pool.ids.max(initial=-1) + 1 + np.arange(len(copied))
    copy_of = np.concatenate([np.full(len(pool), -1), copied]).astype(np.int64)
    return Pool(np.concatenate([pool.ids, new]), whole.labels, whole.fetch), copy_of
