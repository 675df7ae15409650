"""Triggers that were fitted: their files, and the base of the attacks that apply them."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, NotRequired, TypedDict

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from purify.attacks.attack import Arrays, Attack, check_rows, digest_content
from purify.attacks.pixels import check_image
from purify.core.errors import UserError
from purify.core.files import read_json, user_path, write_bytes, write_json
from purify.core.limits import whole
from purify.core.types import Facts, Tree

FACTS_FILE, WEIGHTS_FILE = 'trigger.json', 'trigger.safetensors'
MOST_WIDTH = 1024  # of a generator


class GeneratorSettings(TypedDict):
    """The settings of the network that makes a trigger."""

    width: int


class Fitting(TypedDict):
    """The file trigger.json: the attack, and the images, class and network it was fitted with."""

    attack: str
    channels: int
    size_px: NotRequired[int]
    target: NotRequired[int]
    network: NotRequired[GeneratorSettings]


def write_trigger(folder: Path, attack: str, facts: Facts, weights: Tree) -> None:
    """Stores a fitted trigger: trigger.safetensors (`weights`) and trigger.json (`facts`)."""
    arrays = flatten_dict(weights, sep='.')
    flat = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_bytes(Path(folder) / WEIGHTS_FILE, safetensors.numpy.save(flat))
    write_json(Path(folder) / FACTS_FILE, {'attack': attack} | facts)


def read_trigger(
    folder: str | Path, attack: str, *, network: bool = False, target: bool = True
) -> tuple[Facts, Any]:
    """Reads a fitted trigger: its facts and its weights, a nested dict of NumPy arrays.

    Its facts hold the channels; with `target` the one it was fitted for, with `network` the width
    of that. Raises `UserError` when it is missing, broken, incomplete, not finite, or was fitted
    for another attack.
    """
    if not isinstance(folder, str | Path):
        raise UserError(
            f'load={folder!r} is no folder. Set load to the path of one with a fitted trigger.'
        )
    try:
        path = user_path(folder)
    except UserError as error:
        raise UserError(f'load={folder!r}: {error}') from error
    facts: Any = read_json(path / FACTS_FILE, Fitting, cure='Fit the trigger again.')
    if facts['attack'] != attack:
        raise UserError(
            f'{path}: holds a trigger of {facts["attack"]!r}, not of {attack!r}. Set load to the'
            ' right folder.'
        )
    _check_facts(facts, path, network, target)
    try:
        flat = safetensors.numpy.load_file(path / WEIGHTS_FILE)
        weights = unflatten_dict(flat, sep='.')
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f'{path / WEIGHTS_FILE}: missing or broken ({error}). Fit the trigger again.'
        ) from error
    finite = {name: np.isfinite(value.astype(np.float64)).all() for name, value in flat.items()}
    if wrong := [name for name in finite if not finite[name]]:
        raise UserError(
            f'{path}: the weights {", ".join(wrong[:3])} are not finite. Fit the trigger again.'
        )
    return facts, weights


def _check_facts(facts: Facts, path: Path, network: bool, target: bool) -> None:
    try:
        if whole(1, 3).check('channels', facts['channels']) == 2:
            raise UserError('channels=2 is neither 1 nor 3.')
        if target:
            whole(0).check('target', facts.get('target'))
        if network:
            whole(1, MOST_WIDTH).check('network.width', facts.get('network', {}).get('width'))
    except UserError as error:
        raise UserError(f'{path / FACTS_FILE}: {error} Fit the trigger again.') from error


def check_fitted_target(facts: Facts, target: int, folder: str) -> None:
    """Raises `UserError` unless the trigger was fitted for the class `target`."""
    if facts['target'] != target:
        raise UserError(
            f'target={target}: the trigger in {folder} was fitted for target {facts["target"]}. Set'
            f' target to that, or fit a trigger for {target}.'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted(Attack):
    """An attack whose trigger comes from a fitted network, stored in `load` by `write_trigger`.

    Its `stamp` runs the network in float32 as `stamp_batch` does, so the last bit depends on the
    device. Raises `UserError` for a missing or foreign folder, for another target than it was
    fitted for (where `needs_target`), and for images of other channels than it was fitted on.

    Attributes:
      load: a folder with a fitted trigger; without one the run fits it.
      facts: what trigger.json says: channels, size_px, network settings.
      weights: the network's, NumPy arrays.
      content: their SHA-256, so that equal paths with other weights differ.
    """

    load: str = ''
    content: str = dataclasses.field(init=False, repr=False)
    facts: Facts = dataclasses.field(init=False, repr=False, compare=False)
    weights: Tree = dataclasses.field(init=False, repr=False, compare=False)

    name: ClassVar[str]  # in the registry and in trigger.json
    parts: ClassVar[tuple[str, ...]]  # what `weights` hold
    needs_target: ClassVar[bool] = True  # whether the fit depended on the target

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load == '':
            raise UserError(
                f'attack {self.name!r} needs a fitted trigger. Set load to the folder of one; a run'
                ' whose config has the part `trigger` fits it by itself.'
            )
        facts, weights = read_trigger(self.load, self.name, network=True, target=self.needs_target)
        if set(weights) != set(self.parts):
            held, needed = ', '.join(sorted(weights)) or 'nothing', ', '.join(sorted(self.parts))
            raise UserError(
                f'{self.load}: its weights hold {held}, not {needed}. Fit the trigger again.'
            )
        if self.needs_target:
            check_fitted_target(facts, self.target, self.load)
        self._keep(facts=facts, weights=weights)
        self._keep(content=digest_content(self.pattern_pixels()))

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The network's weights."""
        if shape[-1] != self.facts['channels']:
            raise UserError(
                f'{self.load}: this trigger was fitted on images of {self.facts["channels"]}'
                f' channels and cannot stamp one of {shape[-1]}. Fit one on the dataset at hand.'
            )
        return {'weights': self.weights}

    def stamp_many(self, images: Any, ids: Any, mode: str = 'test') -> np.ndarray:
        """Stamps images of one shape in batches of one size: u8[n h w c]."""
        return stamp_in_batches(self, images, ids, mode)

    def stamp(self, image: np.ndarray, id: int, mode: str = 'test') -> np.ndarray:
        """A copy of `image: u8[h w c]` that carries the trigger."""
        return self.stamp_many([image], [id], mode)[0]

    def pattern_pixels(self) -> np.ndarray:
        """All weights as bytes, `u8[n]`."""
        flat = flatten_dict(self.weights, sep='.')
        arrays = [np.ascontiguousarray(flat[name]).reshape(-1) for name in sorted(flat)]
        return np.concatenate([array.view(np.uint8) for array in arrays])


STAMP_BATCH = 32  # always as many rows: one program, and no image depends on its neighbours


def stamp_in_batches(attack: Attack, images: Any, ids: Any, mode: str) -> np.ndarray:
    """Stamps images of one shape by `attack.stamp_batch`, `STAMP_BATCH` at a time: u8[n h w c]."""
    check_rows(images, ids)
    check_image(images[0])
    pieces = []
    for start in range(0, len(images), STAMP_BATCH):
        rows = list(zip(images, ids, strict=True))[start : start + STAMP_BATCH]
        padded = rows + [rows[-1]] * (STAMP_BATCH - len(rows))
        pictures, numbers = zip(*padded, strict=True)
        stamped = attack.stamp_batch(np.stack(pictures), numbers, mode)
        pieces.append(np.asarray(stamped)[: len(rows)])
    return np.concatenate(pieces)
