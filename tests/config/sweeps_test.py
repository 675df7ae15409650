from pathlib import Path
from types import SimpleNamespace

import pytest

from purify.config.load import load_module
from purify.config.sweeps import multiply, sweep_functions


def test_sweeps_multiply_with_each_other_and_with_seeds():
    sweeps = [[{'a': 1}, {'a': 2}], ({'b': k, 'c': k} for k in (5, 6, 7))]
    points = multiply(sweeps, [0, 1])
    assert len(points) == 2 * 3 * 2
    wanted = [{'a': a, 'b': b, 'c': b} for a in (1, 2) for b in (5, 6, 7)]
    assert [point for point, seed in points if seed == 0] == wanted
    assert [seed for _, seed in points] == [0, 1] * 6


def test_no_sweep_is_one_point():
    assert multiply([], [3]) == [({}, 3)]


def test_two_sweeps_over_one_thing_clash():
    with pytest.raises(ValueError, match=r'two sweeps both set config\.lr; run them apart'):
        multiply([[{'config.lr': 1}], [{'config.lr': 2, 'b': 3}]], [0])


def test_what_a_module_offers():
    module = SimpleNamespace(sweep_a=list, sweep_b=3, other=list, get_config=lambda: None)
    assert sweep_functions(module) == {'a': module.sweep_a}


def test_the_sweeps_of_quickstart_hold_words_and_settings():
    offered = sweep_functions(
        load_module(str(Path(__file__).parents[2] / 'configs' / 'quickstart.py'))
    )
    assert set(offered) == {'attack', 'start', 'ablation'}
    assert len(multiply([offered['attack'](), offered['start']()], [0, 1, 2])) == 3 * 3 * 3
    for function in offered.values():
        for point in function():
            assert all(name == 'words' or name.startswith('config.') for name in point)
