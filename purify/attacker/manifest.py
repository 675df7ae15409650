"""The manifest: who was poisoned, how. Written once by `prepare`, opened by the evaluation only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from purify.core.errors import UserError
from purify.core.files import read_json, sha256_of, write_json
from purify.core.types import Facts, Settings
from purify.engine.tables import write_columns

ARRAYS = ('ids', 'true_labels', 'given_labels', 'poisoned', 'cover', 'trigger', 'copy_of')


class Written(TypedDict):
    """The file manifest.json: the facts, a hash of the arrays, and the poisoned ids for people."""

    attack: Settings
    digest: str
    seed: int
    train_images: int
    test_images: int
    poisoned_images: int
    cover_images: int
    added_copies: int
    class_names: list[str]
    poisoned_ids: list[int]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The truth about a poisoned training set.

    Attributes:
      ids: i64[n], every training id in ascending order.
      true_labels: i32[n], before the attack.
      given_labels: i32[n], as the poisoned dataset says.
      poisoned: bool[n], stamped and relabelled by the attack (or stamped only, where it is
        clean-label).
      cover: bool[n], stamped and left their label.
      trigger: i32[n], which of the attack's triggers a poisoned or cover image carries, -1 where it
        carries none.
      copy_of: i64[n], the id of the image that this one is an added copy of, -1 where it is none.
      facts: attack name and arguments, digest of the trigger, target, rate, its base, seed, counts.
    """

    ids: np.ndarray
    true_labels: np.ndarray
    given_labels: np.ndarray
    poisoned: np.ndarray
    cover: np.ndarray
    trigger: np.ndarray
    copy_of: np.ndarray
    facts: Facts

    def write(self, folder: Path) -> None:
        """Writes manifest.npz and manifest.json (which holds the hash of the former)."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        digest = write_columns(Path(folder) / 'manifest.npz', arrays)
        told = {'poisoned_ids': self.ids[self.poisoned].tolist(), 'sha256': digest}
        write_json(Path(folder) / 'manifest.json', self.facts | told)

    @classmethod
    def read(cls, folder: Path) -> 'Manifest':
        """Reads the manifest in `folder` and checks it.

        Raises `UserError` when the arrays are not the ones that were written.
        """
        written: Any = read_json(Path(folder) / 'manifest.json', Written)
        told = ('sha256', 'poisoned_ids')
        facts = {name: value for name, value in written.items() if name not in told}
        path = Path(folder) / 'manifest.npz'
        if not path.is_file() or sha256_of(path) != written['sha256']:
            raise UserError(
                f'{path}: missing or changed since it was written. Delete the prepare stage'
                ' and run again.'
            )
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in ARRAYS}, facts=facts)
