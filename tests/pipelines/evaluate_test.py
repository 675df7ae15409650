import numpy as np
import pytest

from purify.core.files import write_json
from purify.data.manifest import Manifest
from purify.metrics.intervals import Share
from purify.pipelines.evaluate import describe_findings, describe_shares

NONE = np.full(10, -1)
LABELS = np.arange(10) % 2
MANIFEST = Manifest(
    ids=np.arange(10),
    true_labels=LABELS,
    given_labels=np.where(np.arange(10) < 4, 0, LABELS),
    poisoned=np.arange(10) < 4,
    cover=np.zeros(10, bool),
    trigger=NONE,
    copy_of=NONE,
    facts={},
)


def test_shares_become_numbers_counts_and_intervals():
    found = describe_shares({'acc': Share(9, 10), 'asr': None, 'ra': Share(0, 0)})
    assert (found['acc'], found['asr'], found['ra']) == (0.9, None, None)
    assert found['counts'] == {'acc': [9, 10], 'asr': None, 'ra': [0, 0]}
    low, high = found['intervals']['acc']
    assert low < 0.9 < high
    assert found['intervals']['ra'] is None


def test_findings_are_held_against_the_truth(tmp_path):
    """3 of 4 poisoned found, 1 of 6 clean accused; 8 of 10 labels right."""
    flagged = np.isin(np.arange(10), [0, 1, 2, 9])
    labels = np.arange(10) % 2
    labels[[4, 5]] = 1 - labels[[4, 5]]
    np.savez(tmp_path / 'findings.npz', ids=np.arange(10), flagged=flagged, labels=labels)
    write_json(tmp_path / 'findings.json', {'target_labels': [0]})
    found = describe_findings(tmp_path, MANIFEST)
    assert (found['tpr'], found['target_labels'], found['label_accuracy']) == (0.75, [0], 0.8)
    assert found['fpr'] == pytest.approx(1 / 6)


def test_no_findings_are_no_numbers():
    assert set(describe_findings(None, MANIFEST).values()) == {None}
