"""Training in the attacker's own loader, which poisons the images as they are drawn."""

from pathlib import Path

from purify.attacker.poison_plan import FILES, Loader, make_attacks, roles_of
from purify.attacker.poison_records import FixedPoison, RandomPoison
from purify.core.files import read_json
from purify.data.loader import Split
from purify.engine.stage import Work
from purify.stages import train_classifier
from purify.stages.fit_network import make_augmentations


def train_in_loader(work: Work) -> None:
    """Trains a classifier on clean images that the attacker's rule poisons as they are loaded."""
    folder = work.inputs['attacker']
    poisoner, first = read_poisoner(folder)
    usual = make_augmentations(work.settings['augment'])
    train_classifier.train(
        work, Split(folder / 'clean', 'train'), [poisoner, *usual] if first else [*usual, poisoner]
    )


def read_poisoner(folder: Path) -> tuple[FixedPoison | RandomPoison, bool]:
    """Reads the attacker's transform, and whether it goes before the augmentations."""
    facts = read_json(folder / 'loader.json', Loader)
    rule = facts['attack']
    attacks = make_attacks(rule, facts['seed'], facts['classes'], kept=folder / FILES)
    if rule['random_poisoning']:
        poison: FixedPoison | RandomPoison = RandomPoison(
            attacks,
            frozenset(facts['labels']),
            frozenset(facts['cover_labels']),
            facts['rate'],
            facts['cover_rate'],
        )
    else:
        poison = FixedPoison(attacks, roles_of(facts['poisoned'], facts['covering']))
    return poison, rule['poison_first']
