"""How batches reach the step: as rows, or as numbers of rows that live on the devices."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax

from purify.core.randomness import id_keys, stream_key
from purify.data.augment import Augmentation, augment
from purify.data.training_set import Held
from purify.train.objectives.tasks import Batch


@dataclass(frozen=True, eq=False)
class Feed:
    """Where the batches of a training come from.

    Attributes:
      batches: start step -> endless host batches: rows, or the numbers of rows in `held`.
      held: columns on every device, by the name of the number that finds a row in them.
      augmentations: of 'image', in turn.
      seed: of the augmentations.
    """

    batches: Callable[[int], Iterator[Any]]
    held: Held = field(default_factory=dict)
    augmentations: tuple[Augmentation, ...] = ()
    seed: int = 0

    def rows(self, held: Held, drawn: Batch, step: jax.Array) -> Batch:
        """Makes the batch of a step inside its program, augmented by (seed, step, id)."""
        rows = dict(drawn)
        for number, columns in held.items():
            place = rows.pop(number)
            rows |= {name: column[place] for name, column in columns.items()}
        epoch = rows.pop('epoch', None)
        if not self.augmentations:
            return rows
        key = jax.random.fold_in(stream_key(self.seed, 'augment'), step)
        keys = _image_keys(key, rows)
        visits = None
        if epoch is not None:
            coins = _image_keys(stream_key(self.seed, 'visits'), rows)
            visits = epoch + jax.vmap(jax.random.bernoulli)(coins)
        return rows | {'image': augment(self.augmentations, rows['image'], keys, visits)}


def _image_keys(key: jax.Array, rows: Batch) -> jax.Array:
    """Gives each row a key of its own, key[b], by its id and which variation of it it is."""
    keys = id_keys(key, rows['id'])
    if 'variation' not in rows:
        return keys
    return jax.vmap(jax.random.fold_in)(keys, rows['variation'])
