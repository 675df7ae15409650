"""The stage that draws conclusions from tables, on one host."""

from purify.core import devices
from purify.data.loader import Split
from purify.defenses.registry import DECISIONS
from purify.pipelines.chain import Work
from purify.pipelines.measuring import rule_settings
from purify.pipelines.tables import check_ids, read_table, write_table


def decide(work: Work) -> None:
    """Tables of the inputs -> findings.npz, findings.json and verdicts.csv, about every image of the poisoned dataset."""
    if devices.is_lead():
        split = Split(work.inputs['poisoned'], 'train')
        tables = {role: read_table(folder) for role, folder in work.inputs.items() if role != 'poisoned'}
        decision = DECISIONS.make(work.settings['name'], **rule_settings(work.settings))
        found = decision.decide(split.ids, split.labels, tables, len(split.class_names))
        check_ids(found, split, work.folder)
        write_table(work.folder, found)
    devices.barrier(f'{work.name} decided')
