"""A finished run, as its page shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np

from purify.report.results import Results

Arrays = Mapping[str, np.ndarray]
FeatureMap = Mapping[str, Any]  # arrays by name, and 'facts'
Metrics = Sequence[Mapping[str, Any]]  # of a metrics.jsonl


class Sample(TypedDict):
    """An image u8[h w c] before the attack, as the defence saw it, and after it; None if missing.

    `kind` is 'poisoned' or 'clean', or where nobody knows 'flagged' or 'other'. `true_label` is
    None where nobody knows it, `label_after` where the method says nothing of labels.
    """

    id: int
    kind: str
    original: np.ndarray | None
    poisoned: np.ndarray
    purified: np.ndarray | None
    true_label: str | None
    given_label: str
    label_after: NotRequired[str | None]


@dataclass(frozen=True)
class Finished:
    """All that a page can show of a run; nothing tells poison from clean where nobody knows.

    Attributes:
      results: what results.json holds.
      curves: rows of metrics.jsonl by stage.
      samples: single images.
      environment: what ran where, with the `command` that ran it.
      pictures: those that explain a purification, as the stage `illustrate` wrote them.
      feature_map: a map of features, as the stage `atlas` wrote it.
      groups: pictures of generations (`purify.report.sections.generations.make_groups`).
      copies: generations beside their likest training images
        (`purify.report.sections.replication.make_triplets`).
    """

    results: Results
    curves: Mapping[str, Metrics]
    samples: Sequence[Sample]
    environment: Mapping[str, Any]
    pictures: Arrays | None = None
    feature_map: FeatureMap | None = None
    groups: Arrays | None = None
    copies: Arrays | None = None
