"""The stage `marked`: images with and without the trigger, for a network that tells them apart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from purify.attacker.poison_plan import read_attacks
from purify.attacks.attack import Attack
from purify.attacks.fixed.label_consistent import LabelConsistent
from purify.attacks.learned.fitted import STAMP_BATCH
from purify.attacks.registry import ATTACKS
from purify.core import preemption
from purify.core.errors import UserError
from purify.core.randomness import stream_rng
from purify.data.builders import make_features
from purify.data.loader import Record, Split
from purify.engine.shards import dataset_sink, write_shards
from purify.engine.stage import Work

CLASSES: tuple[str, ...] = ('clean', 'triggered')


def has_trigger(settings: Mapping[str, Any]) -> bool:
    """Tells whether the attack of a config stamps anything that a network could see."""
    kind = ATTACKS[settings['name']]
    return getattr(kind, 'func', kind).has_trigger


def write_trigger_dataset(work: Work) -> None:
    """Writes datasets train/ and test/ of the two classes 'clean' and 'triggered'.

    Of the training images one half, drawn by the seed, is stamped; every test image is there three
    times, as it is (variation 0), stamped (1) and faintly stamped (2). Of several triggers each
    stamps its equal share. What a generator makes of a trigger is often faint: stamps are as strong
    as U(`faintest`, 1) of the settings says, mixed with the image as it was; 1 is the attack's own.
    A shard is written whole or not at all; a restart writes the missing ones. Raises `UserError`
    for an attack without a trigger.
    """
    attacks = [attack for attack in read_attacks(work.inputs['truth']) if attack.has_trigger]
    if not attacks:
        raise UserError(
            'this attack has no trigger that a network could learn to tell. Choose another, or'
            ' leave the detector out.'
        )
    seed, test = work.settings['seed'], Split(work.inputs['truth'] / 'test', 'test')
    train, faintest = Split(work.inputs['data'], 'train'), work.settings['faintest']
    check_faintest(faintest)
    halves = draw_half(train.ids, len(attacks), seed), draw_strength(train.ids, faintest, seed)
    every, first = np.arange(len(train)), np.zeros(len(train), np.int32)
    sets = {
        'train': _TriggerRows(train, attacks, every, *halves, first),
        'test': _TriggerRows(test, attacks, *_thrice(test, len(attacks), faintest, seed)),
    }
    features = make_features(train.shape[0], train.shape[2], CLASSES, variations=True)
    jobs, size = [], work.settings['shard_size']
    for name, rows in sets.items():
        count, folder = len(rows.which), work.folder / name
        sink = dataset_sink(folder, 'marked', features, count, size, split=name)
        jobs.append((sink, rows.records))
    write_shards(work, jobs)


def draw_half(ids: np.ndarray, triggers: int, seed: int) -> np.ndarray:
    """Draws which trigger each of the images i64[n] carries, i32[n]; -1 for the greater half: none.

    Drawn by `seed` from the stream 'marked'; the order of `ids` plays no part.
    """
    order = np.argsort(ids)[stream_rng(seed, 'marked').permutation(len(ids))]
    which = np.full(len(ids), -1, np.int32)
    chosen = order[: len(ids) // 2]
    which[chosen] = np.arange(len(chosen)) % triggers
    return which


def draw_strength(ids: np.ndarray, faintest: float, seed: int) -> np.ndarray:
    """Draws each stamp's strength f64[n] ~ U(faintest, 1); the order of `ids` plays no part."""
    strength = np.empty(len(ids))
    strength[np.argsort(ids)] = stream_rng(seed, 'marked strength').uniform(faintest, 1, len(ids))
    return strength


def check_faintest(faintest: float) -> None:
    """Raises `UserError` for a strength that is none."""
    if not 0 < faintest <= 1:
        raise UserError(
            f'dissection.faintest={faintest}: how strong the faintest stamp is must be above 0, and'
            ' at most 1.'
        )


def _thrice(test: Split, triggers: int, faintest: float, seed: int) -> tuple[np.ndarray, ...]:
    """Lists each image thrice: positions i64, triggers i32, strengths f64, variations i32 [3n]."""
    order = np.argsort(test.ids)[stream_rng(seed, 'marked test').permutation(len(test))]
    which = np.empty(len(test), np.int32)
    which[order] = np.arange(len(test)) % triggers
    one, faint = np.ones(len(test)), draw_strength(test.ids, faintest, seed)
    carried = np.stack([np.full_like(which, -1), which, which], 1).ravel()
    strengths = np.stack([one, one, faint], 1).ravel()
    variations = np.tile(np.arange(3, dtype=np.int32), len(test))
    return np.arange(len(test)).repeat(3), carried, strengths, variations


@dataclass(frozen=True)
class _TriggerRows:
    """A split to write: row r is the image at `positions[r]` under trigger `which[r]`, -1 for none.

    Of that trigger it has the share `strength[r]`, and in the dataset the number `variations[r]`.
    """

    split: Split
    attacks: Sequence[Attack]
    positions: np.ndarray
    which: np.ndarray
    strength: np.ndarray
    variations: np.ndarray

    def records(self, rows: range) -> Iterator[Record]:
        """Makes the records of those rows."""
        stamped = self._stamp(rows)
        for row in rows:
            position, triggered = int(self.positions[row]), int(self.which[row] >= 0)
            image = self.split[position]['image']
            if triggered:
                image = blend(image, stamped.pop(row), float(self.strength[row]))
            numbers = {'label': triggered, 'variation': int(self.variations[row])}
            yield {'id': int(self.split.ids[position]), 'image': image} | numbers

    def _stamp(self, rows: range) -> dict[int, np.ndarray]:
        """Stamps the rows with a trigger, by row; in batches, as learned attacks compute them."""
        found: dict[int, np.ndarray] = {}
        for number, attack in enumerate(self.attacks):
            carriers = [row for row in rows if self.which[row] == number]
            for start in range(0, len(carriers), STAMP_BATCH):
                preemption.check()
                piece = carriers[start : start + STAMP_BATCH]
                places = self.positions[piece]
                images = list(self.split.images(places.tolist()))
                images = attack.stamp_many(images, self.split.ids[places].tolist(), mode_of(attack))
                found.update(zip(piece, images, strict=True))
        return found


def blend(image: np.ndarray, stamped: np.ndarray, strength: float) -> np.ndarray:
    """Mixes an image u8[h w c] (strength 0) with what the attack makes of it (1)."""
    return np.round(image + strength * (stamped.astype(np.float64) - image)).astype(np.uint8)


def mode_of(attack: Attack) -> str:
    """Says how images are stamped: as in training, since a diffusion model was shown these.

    Label-consistent poison is made hard by a classifier of the attacker's, which only he has; its
    corner marks are its trigger.
    """
    return 'test' if isinstance(attack, LabelConsistent) else 'training'
