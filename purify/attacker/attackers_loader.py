"""Training in the attacker's own loader, which poisons the images as they are drawn."""

from pathlib import Path
from typing import TypedDict

import numpy as np

from purify.attacker.poison_plan import (
    FILES,
    Poisoning,
    check_target,
    draw_poisoning,
    make_attacks,
    make_rules,
    roles_of,
)
from purify.attacker.poison_records import FixedPoison, RandomPoison
from purify.attacks.selection import Rules
from purify.core.errors import UserError
from purify.core.files import read_json
from purify.core.types import Settings
from purify.data.loader import Split
from purify.data.sources.open_source import Source
from purify.data.training_set import TrainingSet
from purify.engine.stage import Work
from purify.stages import train_classifier


class Loader(TypedDict):
    """The file loader.json: whom the attacker's own loader poisons and covers, and at what rate."""

    attack: Settings
    seed: int
    classes: int
    poisoned: list[list[int]]
    covering: list[list[int]]
    labels: list[int]
    rate: float
    cover_labels: list[int]
    cover_rate: float


def train_in_loader(work: Work) -> None:
    """Trains a classifier on clean images that the attacker's rule poisons as they are loaded."""
    folder = work.inputs['attacker']
    poisoner, first = read_poisoner(folder)
    clean = Split(folder / 'clean', 'train')
    both = (poisoner, None) if first else (None, poisoner)
    train_classifier.train(work, TrainingSet(clean, None, *both))


def read_poisoner(folder: Path) -> tuple[FixedPoison | RandomPoison, bool]:
    """Reads the attacker's transform, and whether it goes before the augmentations."""
    facts = read_json(folder / 'loader.json', Loader)
    rule, first = facts['attack'], facts['attack']['poison_first']
    attacks = make_attacks(rule, facts['seed'], facts['classes'], kept=folder / FILES)
    if not rule['random_poisoning']:
        return FixedPoison(attacks, roles_of(facts['poisoned'], facts['covering'])), first
    classes = frozenset(facts['labels']), frozenset(facts['cover_labels'])
    return RandomPoison(attacks, *classes, facts['rate'], facts['cover_rate']), first


def on_the_fly(settings: Settings) -> bool:
    """Whether the attacker poisons in his own loader instead of on disk."""
    return bool(settings['rate']) and (settings['random_poisoning'] or not settings['poison_first'])


def draw_poison(source: Source, settings: Settings, seed: int) -> tuple[Poisoning, Loader | None]:
    """Draws who is poisoned, and describes the attacker's own loader where he poisons in that.

    Raises `UserError` for settings of `attack` that the source cannot fulfil.
    """
    classes = len(source.class_names)
    check_target(settings, classes)
    rules = make_rules(settings)
    poisoning = draw_poisoning(source.train, settings, rules, seed)
    if not on_the_fly(settings):
        return poisoning, None
    return poisoning, _loader_facts(settings, seed, rules, poisoning, classes)


def _loader_facts(
    settings: Settings, seed: int, rules: Rules, poisoning: Poisoning, classes: int
) -> Loader:
    """The attacker's own loader; raises `UserError` for chances that add up to more than 1."""
    labels, (count, covers) = poisoning.pool.labels, poisoning.counts
    eligible, coverable = int(rules.allows(labels).sum()), int(rules.covers(labels).sum())
    rate, cover_rate = count / eligible, covers / coverable if covers else 0.0
    if settings['random_poisoning'] and rate + cover_rate > 1:
        raise UserError(
            f'random_poisoning would poison {rate:.0%} and let cover {cover_rate:.0%} of a class at'
            ' every draw. Lower rate or cover_rate.'
        )
    return {
        'attack': settings,
        'seed': seed,
        'classes': classes,
        'poisoned': [ids.tolist() for ids in poisoning.poisoned],
        'covering': [ids.tolist() for ids in poisoning.covering],
        'labels': [k for k in range(classes) if rules.allows(np.array([k]))[0]],
        'rate': rate,
        'cover_labels': [k for k in range(classes) if rules.covers(np.array([k]))[0]],
        'cover_rate': cover_rate,
    }


def refuse_loader(settings: Settings, *, fitted: bool) -> None:
    """Raises `UserError` where an attack cannot poison in the attacker's own loader.

    `fitted` is whether its trigger comes from a network.
    """
    if not on_the_fly(settings):
        return
    if fitted or settings['name'] == 'label_consistent':
        raise UserError(
            f'attack {settings["name"]!r} runs a network and is applied once, to a dataset on disk:'
            ' set poison_first to True and random_poisoning to False.'
        )
    if settings['random_poisoning'] and settings['scheme'] == 'clean_label' and settings['more']:
        raise UserError(
            'random_poisoning draws a trigger for any image, so clean-label triggers of several'
            ' targets would mix: set it to False.'
        )
