"""The base class of all attacks: what happens to a poisoned image and to its label."""

import abc
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from purify.attacks.pixels import check_image
from purify.core.errors import UserError
from purify.core.limits import Limited, Natural, one_of, whole
from purify.core.types import Facts

SCHEMES = ('all_to_one', 'all_to_all', 'clean_label')
Scheme = Annotated[str, one_of(SCHEMES)]
MODES = ('test', 'training', 'cover')
# say where files lie; what they hold enters a digest by itself
NOT_PIXELS = ('path', 'control', 'load')
Arrays = dict[str, Any]
Ids = Sequence[int]
Presets = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class TriggerFit:
    """How the trigger of an attack is fitted: the part `trigger` of a config.

    Attributes:
      steps: updates.
      objective: weights of the loss, by name (`purify.attacker.trigger_objectives`).
      classifier: whether it is fitted together with a classifier of its own.
      surrogate: whether it is fitted to a finished classifier, the part `surrogate`.
      width: of the network that makes the trigger; 0 where none does.
    """

    steps: int
    objective: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classifier: bool = False
    surrogate: bool = False
    width: int = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(Limited, abc.ABC):
    """The base of all attacks: `stamp` puts the trigger on an image, `relabel` changes its label.

    Both depend on the parameters and the id alone. A subclass says what its trigger is in three
    pieces, so that one formula serves NumPy (float64, one image, equal on every machine) and a
    jitted program (float32, a batch on the device): `shared` arrays for all images of a shape,
    `drawn` arrays for one id, and `apply`, which mixes them into an image with either library.

    In mode 'test' the trigger is the one that the victim meets in use; 'training' is what a
    poisoned training image carries and 'cover' what an image carries that keeps its label; the
    three are one unless a subclass says otherwise.

    Attributes:
      target: the class that triggered images shall be taken for.
      seed: of everything the attack draws.
      scheme: 'all_to_one' relabels to `target`, 'all_to_all' to the next class, 'clean_label' not
        at all.
      num_classes: how many classes there are; only 'all_to_all' needs it.

    Class attributes, for configs:
      has_trigger: whether the attack stamps anything.
      usual_rate: share of the training images that is poisoned if a config says nothing; 0: never.
      covers: how many images cover for each poisoned one, by the attack's authors.
      fit: how its trigger is fitted in the run; None where it needs no fit.
      needs_surrogate: whether poisoning takes a finished classifier.
      presets: settings for other images than the papers': 'digits' (16 px on black), 'small'
        (photographs of 32 px, for a small classifier of few epochs), 'published' (as
        BackdoorBench). `rate`, `covers` and `fit`, weights of its loss, may be among them.

    Raises:
      UserError: at construction, for values out of range.
    """

    target: Natural = 0
    seed: Natural = 0
    scheme: Scheme = 'all_to_one'
    num_classes: Natural = 0

    has_trigger: ClassVar[bool] = True
    usual_rate: ClassVar[float] = 0.1
    covers: ClassVar[float] = 0.0
    fit: ClassVar[TriggerFit | None] = None
    needs_surrogate: ClassVar[bool] = False
    presets: ClassVar[Presets] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme == 'all_to_all':
            whole(2).check('num_classes', self.num_classes)

    def _keep(self, **values: Any) -> None:
        """Stores what follows from the settings; for `__post_init__`, as the class is frozen."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The part of the trigger that images of `shape` (h, w, c) share: NumPy arrays by name."""
        return {}

    def drawn(self, shape: tuple[int, ...], id: int, mode: str) -> Arrays:
        """What is drawn for one image: NumPy arrays by name, with the same shapes for every id."""
        return {}

    @abc.abstractmethod
    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """Stamps `image: u8[h w c]` with `shared` and `drawn`; `xp` is numpy or jax.numpy."""

    @abc.abstractmethod
    def pattern_pixels(self) -> np.ndarray:
        """What the trigger is made of, at its own or at a reference size; enters the digest."""

    def stamp(self, image: np.ndarray, id: int, mode: str = 'test') -> np.ndarray:
        """A copy of the image u8[h w c], grey (c = 1) or RGB (c = 3), that carries the trigger.

        Raises `UserError` for any other array, an id that is no whole number from 0, and where the
        trigger does not fit.
        """
        check_image(image)
        id = whole(0).check('id', id)
        one_of(MODES).check('mode', mode)
        shared, drawn = self.shared(image.shape, mode), self.drawn(image.shape, id, mode)
        return self.apply(np, image, shared, drawn)

    def stamp_many(self, images: Sequence[np.ndarray], ids: Ids, mode: str = 'test') -> np.ndarray:
        """Stamps images of one shape, each as `stamp` does: u8[n h w c].

        Raises `UserError` as `stamp` and `check_rows` do.
        """
        check_rows(images, ids)
        rows = zip(images, ids, strict=True)
        return np.stack([self.stamp(image, id, mode) for image, id in rows])

    def stamp_batch(
        self, images: np.ndarray | jax.Array, ids: Ids, mode: str = 'test'
    ) -> jax.Array:
        """Stamps images u8[b h w c] on the device, in one jitted program.

        Computed in float32: a pixel may lie one level off that of `stamp`. Raises `UserError` as
        `stamp_many` does.
        """
        check_rows(images, ids)
        if not hasattr(images, 'shape'):
            raise UserError(
                f'stamp_batch takes one array u8[b h w c], not {type(images).__name__}. Stack them.'
            )
        check_image(images[0])
        one_of(MODES).check('mode', mode)
        shape = tuple(images.shape[1:])
        drawn = [self.drawn(shape, whole(0).check('id', id), mode) for id in ids]
        stacked = {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}
        return _apply_batch(self, jnp.asarray(images), self.shared(shape, mode), stacked)

    def relabel(self, label: int) -> int:
        """The label that a poisoned training image of class `label` gets."""
        return label if self.scheme == 'clean_label' else self.goal(label)

    def goal(self, label: int) -> int:
        """The class that a triggered test image of class `label` shall be taken for."""
        return (label + 1) % self.num_classes if self.scheme == 'all_to_all' else self.target

    def parameters(self) -> Facts:
        """All settings as plain values, as they go into a manifest."""
        names = [field.name for field in dataclasses.fields(self) if field.init]
        return {name: getattr(self, name) for name in names}

    def digest(self) -> str:
        """SHA-256 over the kind of attack, its parameters and the pixels of its pattern.

        Paths are left out: what a picture shows counts, not where it lies.
        """
        kept = {name: value for name, value in self.parameters().items() if name not in NOT_PIXELS}
        pattern = np.ascontiguousarray(self.pattern_pixels())
        facts = [type(self).__name__, kept, pattern.shape, str(pattern.dtype)]
        head = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(head.encode() + b'\0' + pattern.tobytes()).hexdigest()


@functools.partial(jax.jit, static_argnums=0)
def _apply_batch(attack: Attack, images: jax.Array, shared: Arrays, drawn: Arrays) -> jax.Array:
    return apply_rows(attack, images, shared, drawn)


def apply_rows(attack: Attack, images: jax.Array, shared: Arrays, drawn: Arrays) -> jax.Array:
    """Stamps images u8[b h w c] with their drawn arrays [b ...], inside a jitted program."""
    return jax.vmap(lambda image, own: attack.apply(jnp, image, shared, own))(images, drawn)


def to_pixels(xp: Any, values: Any, *, rounded: bool = False) -> Any:
    """Turns grey levels to uint8: clipped, then truncated as reference codes do, or `rounded`."""
    clipped = xp.clip(values, 0, 255)
    return (xp.rint(clipped) if rounded else clipped).astype(xp.uint8)


def real(xp: Any, values: Any) -> Any:
    """Values in the type that attacks compute in: float64 in NumPy, float32 on a device."""
    return xp.asarray(values).astype(xp.float64 if xp is np else xp.float32)


def digest_content(array: np.ndarray | None) -> str:
    """SHA-256 of what was read from a file, by which equal paths differ; '' where nothing was."""
    return '' if array is None else hashlib.sha256(array.tobytes()).hexdigest()


def check_rows(images: Any, ids: Any) -> None:
    """Raises `UserError` unless there are images, all of one shape, and one id for each."""
    try:
        counts = len(images), len(ids)
        one = hasattr(images, 'shape')
        shapes = {images.shape[1:]} if one else {getattr(image, 'shape', None) for image in images}
    except TypeError:
        raise UserError(
            'images and ids must be sequences of one length: u8[n h w c] and a list of n ids.'
        ) from None
    if not counts[0] or counts[0] != counts[1]:
        raise UserError(
            f'{counts[0]} images and {counts[1]} ids: give at least one image, and one id for each.'
        )
    if len(shapes) > 1:
        found = ', '.join(sorted(map(str, shapes))[:5])
        raise UserError(f'images of different shapes: {found}. Stamp them one by one.')
