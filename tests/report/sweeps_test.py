import copy
import re

import numpy as np
import pytest
from report.typed import typed_runs

from purify.report.sweeps import draw_sweeps, list_lines
from purify.report.tables import collect, to_csv, to_markdown


def make_runs(dissected, points, seeds=(0, 1)):
    """Runs of (overrides, rate, guidance, G1) at each seed; a seed adds a hundredth to G1."""
    for overrides, rate, guidance, g1 in points:
        for seed in seeds:
            run = copy.deepcopy(dissected)
            run['attack']['rate'] = rate
            run['dissection']['guidance'] = guidance
            row = run['dissection']['sets']['probe'][0]
            row |= {'counts': [g1 + 10 * seed, 200, 0, 800 - g1 - 10 * seed], 'p_t': 5 * rate}
            yield overrides, seed, run


@pytest.fixture
def points(dissected):
    rates = [
        ({'attack': 'patch', 'config.attack.rate': rate}, rate, 5.0, g1)
        for rate, g1 in ((0.1, 500), (0.01, 20))
    ]
    return collect(typed_runs(make_runs(dissected, rates)))


def test_points_that_differ_in_the_rate_are_a_line_ascending(points):
    ((title, line),) = list_lines(points, 'rate')
    assert title == 'By poisoning rate: attack patch, guidance 5'
    assert [point.facts['rate'] for point in line] == [0.01, 0.1]
    assert list_lines(points, 'guidance') == []


def test_bars_are_means_over_seeds_and_dashes_p_t(points):
    ((_, drawing),) = draw_sweeps(points, 'line')
    assert drawing.text.endswith(
        '1 %: G1 2.5 %, G2 20.0 %, p_t 5.0 %; 10 %: G1 50.5 %, G2 20.0 %, p_t 50.0 %.'
    )
    heights = {}
    for colour in ('before', 'line-3'):
        paths = re.findall(
            rf'<path d="([^"]*)"[^>]*style="fill: var\(--{colour}\)"', str(drawing.svg)
        )
        heights[colour] = [
            np.ptp(np.array(re.findall(r'-?[\d.]+ (-?[\d.]+)', path), float)) for path in paths
        ]
    whole = heights['line-3'][0] / 0.2
    assert np.array(heights['before']) / whole == pytest.approx([0.025, 0.505], abs=2e-3)
    assert np.array(heights['line-3']) / whole == pytest.approx([0.2, 0.2], abs=2e-3)
    assert str(drawing.svg).count('stroke-dasharray') == 2


def test_two_axes_cross(dissected):
    both = [
        ({'rate': rate, 'w': s - 1}, rate, s, 100) for rate in (0.01, 0.1) for s in (1.0, 5.0, 8.0)
    ]
    points = collect(typed_runs(make_runs(dissected, both)))
    wanted = [(f'By poisoning rate: attack patch, guidance {s}, w {s - 1}', 2) for s in (1, 5, 8)]
    assert [(title, len(line)) for title, line in list_lines(points, 'rate')] == wanted
    wanted = [(f'By guidance: attack patch, rate {rate}', 3) for rate in (0.01, 0.1)]
    assert [(title, len(line)) for title, line in list_lines(points, 'guidance')] == wanted


def test_runs_of_no_sweep_are_lined_up_by_their_settings(dissected):
    named = [({'run': f'run{number}'}, rate, 5.0, 10) for number, rate in enumerate((0.05, 0.01))]
    ((_, line),) = list_lines(collect(typed_runs(make_runs(dissected, named, (0,)))), 'rate')
    assert [point.overrides['run'] for point in line] == ['run1', 'run0']


def test_other_attacks_and_other_settings_are_other_lines(dissected):
    own = [
        ({'attack': 'patch', 'steps': steps, 'rate': rate}, rate, 5.0, 10)
        for steps in (5, 9)
        for rate in (0.01, 0.1)
    ]
    runs = list(make_runs(dissected, own))
    for overrides, _, run in runs:
        run['attack']['name'] = 'patch' if overrides['steps'] == 5 else 'blended'
    titles = [title for title, _ in list_lines(collect(typed_runs(runs)), 'rate')]
    wanted = [f'By poisoning rate: attack patch, guidance 5, steps {steps}' for steps in (5, 9)]
    assert titles == wanted


def test_runs_without_generators_draw_nothing(results):
    assert (
        draw_sweeps(
            collect(typed_runs([({'rate': 0.1}, 0, results), ({'rate': 0.2}, 0, results)])), 'a'
        )
        == []
    )


def test_the_table_has_columns_of_what_was_measured(points):
    head, _, line, *_ = to_markdown(points).splitlines()
    cells = dict(zip(head.split(' | '), line.split(' | '), strict=True))
    assert cells['G1'].startswith('50.5 % (50.0 to 51.0 %)')
    assert cells['amplification'].startswith('1.41 (1.4 to 1.42)')
    assert cells['STRIP AUROC, generated'].startswith('72.2 %')
    assert 'Cognitive' not in head
    assert 'auroc_cognitive_distillation_training_mean' in to_csv(points)
