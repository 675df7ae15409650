"""The vocabulary methods are written in: a method is a short list of steps and one outcome."""

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Step:
    """One stage of a method.

    Attributes:
      name: the stage's name, unique in its method.
      kind: what is done, one of the kinds `purify.pipelines.plan` knows ('purify', 'classifier').
      inputs: role -> the name of an earlier step, or 'poisoned', 'prior', 'teacher'.
      settings: everything that changes the result.
    """

    name: str
    kind: str
    inputs: dict[str, str]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a method hands over, as names of its steps; the evaluation reports whatever is there.

    Attributes:
      purified: the step whose folder is a purified dataset.
      classifier: the step whose folder is a classifier without the backdoor.
      findings: the step whose folder holds findings.npz (ids i64[n], flagged bool[n], and labels i32[n] where the
        method relabels) and findings.json ({'target_labels': [...]}).
    """

    purified: str | None = None
    classifier: str | None = None
    findings: str | None = None


@dataclass(frozen=True)
class Method:
    """The steps of a method, in order, and its outcome."""

    steps: tuple[Step, ...] = ()
    outcome: Outcome = field(default_factory=Outcome)


class Defense(Protocol):
    """A defence's arithmetic and settings."""

    def method(self, student: dict[str, Any]) -> Method:
        """Its steps; `student` is the config of the classifier it trains last."""
        ...
