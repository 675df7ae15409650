"""What a run would cost on devices that are not here."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from support.tiny import ROOT, quickstart

from purify import cli
from purify.commands import target
from purify.commands.check import check
from purify.commands.target import EXPECTED, compile_for, print_cost
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.targets import TARGETS, Target, describe_devices
from purify.stages.known import Diagnosis, Program

INSTALLED = {
    'cuda': importlib.util.find_spec('jax_cuda12_plugin') is not None,
    'tpu': importlib.util.find_spec('libtpu') is not None,
}


@pytest.fixture
def here(monkeypatch):
    """Devices of this machine stand for those that are not here."""
    describe = lambda name, count: Mesh(np.array(jax.devices()[:count]), ('data',))
    monkeypatch.setattr(target, 'describe_devices', describe)
    monkeypatch.setattr(Target, 'options', {})


@pytest.fixture(scope='module')
def found():
    diagnosis = check(quickstart())
    assert not diagnosis.problems
    return diagnosis


def rows(cost):
    return {row['step']: row for row in cost['programs']}


def test_every_device_program_of_the_run_is_there_once_with_what_passes_through_it(found):
    config = quickstart()
    programs = {program.step: program for program in found.programs}
    assert list(programs) == [
        'teacher', 'purified', 'student', 'evaluate: teacher', 'evaluate: student'
    ]  # fmt: skip
    images, tests = config['source']['train_size'], config['source']['test_size']
    assert programs['purified'].count == images * config['defense']['copies']
    assert programs['evaluate: teacher'].count == 2 * tests
    assert {name for name, one in programs.items() if one.trains} == {'teacher', 'student'}
    batch, epochs = config['teacher']['batch'], config['teacher']['epochs']
    assert programs['teacher'].count >= epochs * images
    assert programs['teacher'].count % batch == 0
    student = config['student']
    made = student['epochs'] * programs['purified'].count
    assert made <= programs['student'].count < made + student['batch']


@pytest.mark.parametrize('count', [1, 2])
def test_costs_of_programs(found, here, capsys, count):
    cost = compile_for('h200', found, quickstart()['run'], count)
    steps = rows(cost)
    assert list(steps) == [program.step for program in found.programs]
    for step in steps.values():
        assert step['flops'] > 0
        assert step['bytes'] > 0
        assert step['device_bytes'] > 0
        assert step['largest_batch'] > step['batch']
        assert step['batch'] % count == 0
        assert step['rows_per_s'] == pytest.approx(EXPECTED * step['rows_per_s_limit'])
        passes = 2 if step['step'].startswith('evaluate') else 1
        batches = passes * -(-step['rows'] // passes // step['batch'])
        seconds = batches * step['batch'] / step['rows_per_s']
        assert step['hours'] * 3600 == pytest.approx(seconds)
        assert not step['open_loops']
        assert not step['host_transfers']
    assert not steps['purified']['collectives']  # rows never speak to each other
    assert bool(steps['teacher']['collectives']) == (count > 1)  # gradients do
    assert cost['device_hours'] == pytest.approx(count * cost['hours'])
    print_cost(cost)
    text = capsys.readouterr().out
    assert f'compiled for {count} x NVIDIA H200, not run' in text
    assert 'purified: collectives: none' in text


def test_equal_programs_are_compiled_once(found, here, monkeypatch):
    compiled = []
    real = target.compile_traced
    monkeypatch.setattr(target, 'compile_traced', lambda *given: compiled.append(1) or real(*given))
    steps = rows(compile_for('h200', found, quickstart()['run']))
    assert len(steps) == 5
    assert len(compiled) < 5  # the classifiers are of one build
    assert steps['evaluate: teacher']['flops'] == steps['evaluate: student']['flops']


def test_a_batch_that_does_not_fit_is_told(found, here, capsys, monkeypatch):
    small = TARGETS['h200'].__class__(**vars(TARGETS['h200']) | {'memory': 2**20})
    monkeypatch.setitem(TARGETS, 'h200', small)
    print_cost(compile_for('h200', found, quickstart()['run']))
    assert 'does not fit: choose a batch of' in capsys.readouterr().out


def test_a_batch_that_does_not_split_over_the_devices_is_refused(found, here):
    with pytest.raises(UserError, match='teacher: batch=16 does not split over 3 devices'):
        compile_for('h200', found, quickstart()['run'], 3)


def test_weights_that_a_program_does_not_ask_take_memory_too(here):
    rows = {'image': jax.ShapeDtypeStruct((2, 8, 8, 1), np.uint8)}
    whole = {'idle': jax.ShapeDtypeStruct((2**28,), np.float32)}  # 1 GiB
    idle = Program('idle', lambda whole, rows: {'image': rows['image'] + 1}, whole, rows, 100)
    cost = compile_for('h200', Diagnosis(programs=[idle]), {'batch_per_device': 50})
    row = cost['programs'][0]
    assert row['device_bytes'] >= 2**30
    rows, memory = row['largest_batch'], TARGETS['h200'].memory
    assert 0.5 * memory < 64 * rows < memory  # what comes out takes the place of what goes in


def test_what_is_not_counted_is_said(here, capsys):
    print_cost(compile_for('h200', Diagnosis(uncounted=['densities']), {}))
    assert 'not counted: densities' in capsys.readouterr().out
    found = check(load_config(f'{ROOT}/configs/relabel.py'))
    assert any('flows' in said for said in found.uncounted)


def test_kinds_and_numbers_that_there_are_not(found):
    with pytest.raises(UserError, match=r"unknown target 'h20'\. Did you mean 'h200'"):
        compile_for('h20', found, {})
    line = ['check', '--config', 'quickstart:defense=none', '--devices', '2']
    assert cli.main(line) == 2
    assert cli.main([*line[:-1], '0', '--target', 'h200']) == 2


@pytest.mark.parametrize('name', TARGETS)
def test_a_compiler_that_is_not_installed_is_named(name, capsys):
    if INSTALLED[TARGETS[name].platform]:
        pytest.skip(f'the compiler for {name} is installed')
    line = ['check', '--config', f'{ROOT}/configs/quickstart.py:defense=none', '--target', name]
    assert cli.main(line) == 2
    assert f"'purify[{TARGETS[name].extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize('name', ['h200', 'a100'])
def test_small_programs_are_compiled_for_gpus(name, found):
    if not INSTALLED['cuda']:
        pytest.skip("purify[cuda12] is not installed: there is no compiler for NVIDIA's GPUs")
    cost = compile_for(name, found, quickstart()['run'], 2)
    steps = rows(cost)
    assert any('__cudnn$conv' in kind for kind in steps['purified']['kernels'])
    assert not steps['purified']['collectives']
    assert 'all-reduce' in steps['teacher']['collectives']


def test_a_program_is_for_its_target_not_for_the_host():
    if not INSTALLED['cuda']:
        pytest.skip("purify[cuda12] is not installed: there is no compiler for NVIDIA's GPUs")
    mesh = describe_devices('h200', 1)
    from purify.models.diffusers.attention import attend

    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shape = jax.ShapeDtypeStruct((2, 256, 4, 64), 'bfloat16', sharding=place)
    text = jax.jit(attend).lower(shape, shape, shape).compile().as_text()
    assert '__cudnn$fmha' in text


def test_check_gives_costs_as_json(here, capsys):
    line = ['check', '--config', f'{ROOT}/configs/quickstart.py:defense=none', '--json']
    assert cli.main([*line, '--target', 'v5e']) == 0
    said = json.loads(capsys.readouterr().out)
    assert said['cost']['target'] == 'v5e'
    assert 'teacher' in rows(said['cost'])
    assert cli.main(line) == 0
    assert 'cost' not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ('words', 'looks'), [('attack=none', 1), ('', 2), ('attack=two_patches', 3)]
)
def test_test_images_are_looked_at_clean_and_with_each_trigger(words, looks):
    config = quickstart(words)
    programs = {program.step: program for program in check(config).programs}
    judged = programs['evaluate: teacher']
    assert judged.passes == looks
    assert judged.count == looks * config['source']['test_size']


def test_a_config_with_problems_is_not_compiled_and_that_is_said(here, capsys):
    line = ['check', '--config', f'{ROOT}/configs/quickstart.py', '--target']
    assert cli.main([*line, 'h200', '--config.defense.vary.sampler=consistency']) == 2
    assert 'nothing was compiled for h200' in capsys.readouterr().out
    assert cli.main([*line, 'h20', '--config.defense.vary.sampler=consistency']) == 2
    assert "unknown target 'h20'" in capsys.readouterr().err
