"""The real quickstart: a backdoor goes in, and comes out."""

import json

import pytest
from support.command import run

pytestmark = pytest.mark.long


def test_the_backdoor_goes_in_and_comes_out(tmp_path):
    """Bounds a little wider than the measured numbers: another processor rounds differently, and
    trains another student.
    """
    text = run(tmp_path)
    assert 'before' in text
    assert 'after' in text
    results = json.loads((tmp_path / 'results.json').read_text())
    teacher, student = results['teacher'], results['student']
    assert teacher['asr'] >= 0.95
    assert teacher['acc'] >= 0.97
    assert student['asr'] <= 0.06
    assert student['acc'] >= teacher['acc'] - 0.04
    assert student['ra'] >= 0.85
