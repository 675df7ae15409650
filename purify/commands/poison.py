"""A poisoned dataset from Python: the stages up to `prepare`, and what they leave, as TFDS and as objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds

from purify.attacker.manifest import Manifest
from purify.attacker.poison_plan import read_attacks
from purify.attacks.attack import Attack
from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.engine.chain import Chain


@dataclass(frozen=True)
class PoisonedDataset:
    """What `prepare` left.

    Attributes:
      builder: TFDS's, read-only; `builder.as_data_source('train')` yields {'id', 'image': u8[h w c], 'label'}.
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


def poison(spec: str, store: str | Path, overrides: Sequence[str] = ()) -> PoisonedDataset:
    """Makes the poisoned dataset of a config, or opens it where it is there already.

    `poison('configs/attacks.py:attack=warp,rate=0.05', 'runs/stages')`: the config file and its words, the store of stage
    folders, and flags like '--config.attack.strength=1.0'. A trigger that is learned is fitted first. Raises `UserError` for
    bad input.
    """
    try:
        config = load_config(spec, overrides)
    except ValueError as error:
        raise UserError(str(error)) from error
    chain = Chain(make_stages(config), user_path(store))
    names = list(chain.stages)
    chain.run(names[: names.index('prepare') + 1], config['run'])
    chain.check(['prepare'])
    folder = chain.folder('prepare')
    manifest = Manifest.read(folder / 'truth')
    train, test = (tfds.builder_from_directory(folder / sub) for sub in ('poisoned', 'truth/test'))
    return PoisonedDataset(train, test, read_attacks(folder / 'truth', manifest), manifest, folder)
