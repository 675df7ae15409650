"""A prepared dataset and what a method left of it, without training: for the last stages."""

from pathlib import Path

import numpy as np
from support.networks import NETWORK, write_classifier
from support.tiny import quickstart, run_chain

from purify.attacker.manifest import Manifest
from purify.core.files import write_json
from purify.data.builders import DatasetWriter, make_features
from purify.data.loader import Split
from purify.data.table import Table
from purify.engine.stage import Work
from purify.engine.tables import write_table
from purify.train.cost import Cost


class WeightsOnly:
    """Stands for a prior that is handed on and not run."""

    def __init__(self):
        self.weights = {'w': np.zeros(1)}


class MadeRun:
    """Digits with a patch attack; classifiers with random weights; purified images that are
    brighter originals.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = quickstart('defense=none')
        self.prepared = run_chain(self.config, folder / 'stages', ['prepare']).folder('prepare')
        self.truth, self.poisoned = self.prepared / 'truth', self.prepared / 'poisoned'
        self.manifest, self.given = Manifest.read(self.truth), Split(self.poisoned, 'train')
        self.originals = Split(self.truth / 'originals', 'train')

    def classifier(self, name: str, seed: int) -> Path:
        """A folder of random weights."""
        return write_classifier(self.folder / name, seed, NETWORK, self.given.class_names)

    def original(self, identity: int) -> np.ndarray:
        """A training image before the attack."""
        split = self.originals if identity in self.originals.ids else self.given
        return split[int(split.position_of(np.array([identity]))[0])]['image']

    def purified(self, ids: np.ndarray) -> Path:
        """A dataset of those images, each brighter than its original."""
        folder = self.folder / f'purified-{len(ids)}'
        writer = DatasetWriter(
            folder,
            'purified',
            'train',
            make_features(*self.given.shape[1:], self.given.class_names),
            1,
        )
        writer.write(
            0, [{'id': int(i), 'image': self.original(int(i)) // 2 + 60, 'label': 3} for i in ids]
        )
        writer.finish([len(ids)])
        return folder

    def table(self, name: str, columns: dict[str, np.ndarray], **facts) -> Path:
        """A finished table of all training images."""
        write_table(self.folder / name, Table({'ids': self.given.ids} | columns, facts))
        return self.folder / name

    def work(self, name: str, inputs: dict[str, Path], settings: dict) -> Work:
        """What a stage gets."""
        folder = self.folder / name
        write_json(folder / 'here.json', {})
        return Work(
            name, folder, {'truth': self.truth} | inputs, settings, self.config['run'], (), Cost()
        )
