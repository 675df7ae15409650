"""A poisoned dataset as its attacker sees it: what `prepare` left, as TFDS and as objects."""

from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds

from purify.attacker.manifest import Manifest
from purify.attacker.poison_plan import read_attacks
from purify.attacks.attack import Attack


@dataclass(frozen=True)
class PoisonedDataset:
    """A poisoned dataset, its triggers, and the list of who was poisoned.

    Attributes:
      builder: TFDS's, read-only; `builder.as_data_source('train')` yields
        {'id', 'image': u8[h w c], 'label'}.
      test: the same of the clean test images (split 'test').
      attacks: one for each trigger; `attacks[0].stamp(image, id)` makes a triggered test image.
      manifest: who was poisoned, how.
      folder: of the stage.
    """

    builder: tfds.core.DatasetBuilder
    test: tfds.core.DatasetBuilder
    attacks: tuple[Attack, ...]
    manifest: Manifest
    folder: Path


def open_poisoned(folder: Path) -> PoisonedDataset:
    """Opens the poisoned dataset in the folder of a finished stage `prepare`.

    Raises `UserError` where that is not as it was written.
    """
    manifest = Manifest.read(folder / 'truth')
    train, test = (tfds.builder_from_directory(folder / sub) for sub in ('poisoned', 'truth/test'))
    return PoisonedDataset(train, test, read_attacks(folder / 'truth', manifest), manifest, folder)
