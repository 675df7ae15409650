"""The test images of a run, clean and with its triggers, and what a network says of them."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purify.attacker.manifest import Manifest
from purify.attacker.poison_plan import make_rules, read_attacks
from purify.attacks.attack import Arrays, Attack, apply_rows
from purify.attacks.selection import Rules
from purify.core import devices
from purify.core.progress import Bar
from purify.core.types import Tree
from purify.data.loader import Record, Split
from purify.engine.gather import look_at_all
from purify.engine.stage import Work
from purify.stages.classifier import Classifier
from purify.stages.networks_on_disk import open_classifier
from purify.train.inference import Rows, Rule

BROKEN = -1  # in place of a class, where a change came out as no image
DRAWN = 'drawn '  # before the names of what an attack draws for an image


@dataclass(frozen=True)
class Bench:
    """Where classifiers are tested: test images, attacks with a trigger, and whom they are for."""

    work: Work
    test: Split
    attacks: list[Attack]
    rules: Rules

    @classmethod
    def open(cls, work: Work, manifest: Manifest) -> 'Bench':
        """Opens the input `truth` of a stage, whose manifest this is."""
        truth = work.inputs['truth']
        attacks = [attack for attack in read_attacks(truth, manifest) if attack.has_trigger]
        rules = make_rules(manifest.facts['attack'])
        return cls(work, Split(truth / 'test', 'test'), attacks, rules)

    def classifier(self, role: str) -> Classifier:
        """Opens the classifier of that role; `UserError` where it was made for other classes."""
        return open_classifier(self.work.inputs[role], role, self.test)

    def aim(self, attack: Attack) -> tuple[np.ndarray, np.ndarray]:
        """Lists the classes i32[n] the attack wants for test images, and which count, bool[n]."""
        goals = np.array([attack.goal(int(label)) for label in self.test.labels], np.int32)
        return goals, self.rules.succeeds_on(self.test.labels, goals)

    def shared(self, attack: Attack | None) -> Arrays:
        """Makes what triggered test images have in common (see `Attack`); {} without an attack."""
        return attack.shared(self.test.shape, 'test') if attack else {}

    def record(self, attack: Attack | None, position: int) -> Record:
        """Fetches a test image with all that stamping it needs.

        'label' is the one that the attack wants, its own without an attack.
        """
        record = self.test[position]
        drawn = attack.drawn(self.test.shape, int(record['id']), 'test') if attack else {}
        goal = attack.goal(int(record['label'])) if attack else record['label']
        numbers = {'id': np.int32(record['id']), 'label': np.int32(goal)}
        numbers |= {f'{DRAWN}{key}': value for key, value in drawn.items()}
        return {'image': record['image']} | numbers

    @cached_property
    def everyone(self) -> np.ndarray:
        """The positions of all test images."""
        return np.arange(len(self.test))

    def predict(
        self,
        model: Classifier,
        name: str,
        bar: Bar,
        attack: Attack | None = None,
        *,
        positions: np.ndarray | None = None,
        change: tuple[Any, Rule] | None = None,
    ) -> np.ndarray:
        """Predicts classes i32[m] of test images at `positions` (all), stamped and changed if so.

        Stamping and `change`, (its constants, its rule: rows {'image', 'label' that the attack
        wants, 'id'} -> {'image', 'finite'}), happen on the devices in the program that classifies;
        `BROKEN` where it is not finite. Every host does its rows and leaves them in a file, called
        after `name`, for the others.
        """
        chosen = self.everyone if positions is None else positions
        constants = {'model': model.weights, 'trigger': self.shared(attack)}
        constants |= {'change': change[0] if change else {}}
        batch = self.work.run['batch_per_device'] * devices.local_mesh().size if change else 0

        def classify(arrays: Tree, rows: Rows) -> Rows:
            images = stamped(attack, arrays['trigger'], rows)
            if change is None:
                return {'classes': model.predict(arrays['model'], {'image': images})}
            given = {'image': images, 'label': rows['label'], 'id': rows['id']}
            changed = change[1](arrays['change'], given)
            classes = model.predict(arrays['model'], changed)
            return {'classes': jnp.where(changed['finite'], classes, BROKEN)}

        fetch = partial(self.record, attack)
        seen = look_at_all(self.work, classify, constants, fetch, chosen, name, bar, batch=batch)
        return seen['classes'].astype(np.int32) if seen else np.zeros(0, np.int32)


def advise(dtype: str) -> str:
    """Says what to do where a diffusion model that computes in `dtype` gave what is no number."""
    if dtype != 'float32':
        return f'Computing in {dtype} may overflow: try float32.'
    return 'A model that it asks may be broken: load another one.'


def stamped(attack: Attack | None, shared: Arrays, rows: Rows) -> jax.Array:
    """Stamps rows as `Bench.record` gives them -> u8[b h w c]; pure, for use inside a program."""
    if attack is None:
        return rows['image']
    drawn = {key.removeprefix(DRAWN): value for key, value in rows.items() if key.startswith(DRAWN)}
    return apply_rows(attack, rows['image'], shared, drawn)
