"""What is known of the images of a dataset, as columns by id, handed on from step to step."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.core.types import Facts


@dataclass(frozen=True)
class Table:
    """The result of a 'measure' or 'decide' step: columns [n ...] by name, and facts for JSON.

    Every table has the column `ids` i64[n]. Columns that others act on: `keep` bool[n] (in the
    training set from here on), `labels` i32[n] (trained on), `candidate` i32[n] (which candidate
    replaces the image; -1: none), `pick` bool[n] (which rows the steps with this table as input
    'picked' look at), `flagged` bool[n] (taken for poisoned).
    """

    columns: dict[str, np.ndarray]
    facts: Facts = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def of(self, ids: np.ndarray, name: str, fill: Any = None) -> np.ndarray:
        """A column for `ids` [n], whatever the table's own order.

        An id that the table lacks gets `fill`; without one it is a `UserError`.
        """
        own, column = self.columns['ids'], self.columns[name]
        order = np.argsort(own, kind='stable')
        place = np.searchsorted(own, ids, sorter=order)
        rows = order[np.minimum(place, len(own) - 1)] if len(own) else np.zeros(len(ids), np.int64)
        found = own[rows] == ids if len(own) else np.zeros(len(ids), np.bool_)
        if fill is None and not found.all():
            missing = ids[~found]
            raise UserError(
                f'the column {name!r} lacks {missing.size} images (such as id {missing[0]}). Let'
                ' its step measure the whole dataset.'
            )
        whole = np.full((len(ids), *column.shape[1:]), 0 if fill is None else fill, column.dtype)
        whole[found] = column[rows[found]]
        return whole
