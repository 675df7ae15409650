"""A kind of step: how it runs, and how it is traced with shapes alone, without running."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from purify.defenses.method import Step
from purify.engine.stage import Work
from purify.stages.known import Known


@dataclass(frozen=True)
class Kind:
    """One kind of step.

    Attributes:
      run: does the work; a step with something in `by` hands that on as a second argument.
      shape: traces the step without running it, for `check`; what it leaves is put down in what is
        `Known`. A wrong setting is raised as a `UserError`, or noted as a problem of its own.
      uses: what of the config changes the result besides the step's own settings: 'seed' (the
        model's), 'seeds', 'shard_size'.
    """

    run: Callable[..., None]
    shape: Callable[[Known, Step], Any]
    uses: tuple[str, ...] = ()

    def bind(self, step: Step) -> Callable[[Work], None]:
        """Makes the function that a stage calls to run that step."""
        return self.run if step.by is None else lambda work: self.run(work, step.by)
