"""The stage that draws conclusions from tables, on one host; and the one that looks at images first."""

from purify.core import devices
from purify.data.loader import Split
from purify.data.table import Table
from purify.defenses.method import Decision, Look, Step
from purify.engine.chain import Work
from purify.engine.tables import check_ids, read_table, write_table
from purify.stages import measure
from purify.stages.kind import Kind
from purify.stages.known import Known

MODELS = (
    'prior',
    'generator',
    'classifier',
    'encoder',
    'picked',
)  # inputs that are no tables to decide by
MEASURED = 'measured'  # the subfolder of what was looked at


def run(work: Work, decision: Decision, more: dict[str, Table] | None = None) -> None:
    """Tables of the inputs -> findings.npz, findings.json and verdicts.csv, about every image of the poisoned dataset.

    Args:
      work: the stage's.
      decision: what is concluded.
      more: further tables by role.
    """
    if devices.is_lead():
        split = Split(work.inputs['poisoned'], 'train')
        given = {
            role: folder
            for role, folder in work.inputs.items()
            if role not in (*MODELS, 'poisoned')
        }
        tables = {role: read_table(folder) for role, folder in given.items()} | (more or {})
        found = decision.decide(split.ids, split.labels, tables, len(split.class_names))
        check_ids(found, split, work.folder)
        write_table(work.folder, found)
    devices.barrier(f'{work.name} decided')


def look(work: Work, what: Look) -> None:
    """Measures, as the stage of that kind does, and decides by it at once; what was measured stays in a subfolder."""
    measure.run(work, what.measure, MEASURED)
    devices.barrier(f'{work.name} measured')
    run(work, what.decision, {what.role: read_table(work.folder / MEASURED)})


def shape(known: Known, step: Step) -> None:
    """There is nothing to trace: a decision checks its settings when it is made."""


KIND = Kind(run, shape)
LOOK = Kind(look, measure.shape, ('seed', 'shard_size'))
