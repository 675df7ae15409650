"""The stage that judges images by tables, and the one that measures the images first."""

from purify.core import devices
from purify.data.loader import Split
from purify.data.table import Table
from purify.defenses.method import Decision, Look, Step
from purify.engine.stage import Work
from purify.engine.tables import check_ids, read_table, write_table
from purify.stages import measure
from purify.stages.kind import Kind
from purify.stages.known import Known

# inputs that are no tables to decide by
NO_TABLES = ('poisoned', 'prior', 'generator', 'classifier', 'encoder', 'picked')
MEASURED = 'measured'  # the subfolder of what was looked at


def run(work: Work, decision: Decision, more: dict[str, Table] | None = None) -> None:
    """Writes findings.npz, findings.json and verdicts.csv about every image of the dataset.

    Args:
      work: the stage to run; its inputs are the poisoned dataset and, by role, the tables.
      decision: draws the findings from the tables.
      more: further tables by role.
    """
    if devices.is_lead():
        split = Split(work.inputs['poisoned'], 'train')
        given = [role for role in work.inputs if role not in NO_TABLES]
        tables = {role: read_table(work.inputs[role]) for role in given} | (more or {})
        found = decision.decide(split.ids, split.labels, tables, len(split.class_names))
        check_ids(found, split, work.folder)
        write_table(work.folder, found)
    devices.barrier(f'{work.name} decided')


def look(work: Work, what: Look) -> None:
    """Measures every image and decides by it at once; what was measured stays in a subfolder."""
    measure.run(work, what.measure, MEASURED)
    devices.barrier(f'{work.name} measured')
    run(work, what.decision, {what.role: read_table(work.folder / MEASURED)})


def shape(known: Known, step: Step) -> None:
    """Traces nothing: a decision checks its settings when it is made."""


KIND = Kind(run, shape)
LOOK = Kind(look, measure.shape, ('seed', 'shard_size'))
