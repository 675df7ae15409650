"""The rules of the house, read from the source: who may import whom, how long things may be, what
is never used.
"""
# ruff: noqa: E501  (programs and files as text)

import ast
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from purify.attacks import selection

ROOT = Path(__file__).parents[1]
# a room may import rooms on lower floors, and itself; rooms of one floor do not import each other
FLOOR = {
    **dict.fromkeys(('core', 'config'), 0),
    **dict.fromkeys(('data', 'diffusion', 'models', 'metrics'), 1),
    'attacks': 2,  # their pictures are decoded as those of the data
    'train': 3,
    'generative': 4,
    **dict.fromkeys(('defenses', 'engine', 'report'), 5),
    'stages': 6,
    'attacker': 7,
    'evaluation': 8,
    'commands': 9,
    'cli': 10,
    '__main__': 11,
}
READ_CONFIGS = ('config', 'attacker', 'evaluation', 'commands', 'cli', '__main__')
BELOW_ENGINE = {'train', 'attacks', 'data', 'diffusion', 'models', 'metrics', 'core'}
BELOW_STAGES = BELOW_ENGINE | {'engine', 'generative', 'defenses'}
NEEDED = {  # by rooms that need less than all that is below them
    'attacks': {'data', 'core'},
    'report': {'metrics', 'core'},
    'engine': BELOW_ENGINE,
    'stages': BELOW_STAGES,
    'attacker': BELOW_STAGES | {'stages', 'config'},
}
KNOW_THE_TRUTH = ('attacker', 'evaluation')
TRUTH_ON_DISK = ('truth', 'attacker', 'manifest.json', 'manifest.npz')
UNSAFE_MODULES = ('pickle', 'cPickle', 'cloudpickle', 'dill', 'joblib', 'shelve', 'marshal')


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding='utf-8'), str(path))


@functools.cache
def imports(path):
    """Every module an import anywhere in the file may mean: of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: imports are written from the root'
            found |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return found


def room(module):
    """purify.data.sources.open_source -> data; None for what is no module of a room."""
    parts = module.split('.')
    known = parts[0] == 'purify' and len(parts) > 1 and parts[1] in FLOOR
    return parts[1] if known else None


def own_room(path):
    return path.relative_to(ROOT / 'purify').parts[0].removesuffix('.py')


def ids(path):
    return str(path.relative_to(ROOT))


def test_every_folder_is_a_room_with_its_place():
    folders = {
        path.name
        for path in (ROOT / 'purify').iterdir()
        if path.is_dir() and path.name != '__pycache__'
    }
    assert folders == {*FLOOR} - {'cli', '__main__'}
    assert {path.stem for path in (ROOT / 'purify').glob('*.py')} == {'__init__', '__main__', 'cli'}


@pytest.mark.parametrize('path', sources('purify'), ids=ids)
def test_imports_go_down(path):
    own = own_room(path)
    others = {module: room(module) for module in imports(path)}
    if own == '__init__':  # the Python API is a command
        assert {other for other in others.values() if other} <= {'commands', 'report'}
        return
    allowed = {other for other, floor in FLOOR.items() if floor < FLOOR[own]} | {own}
    allowed &= NEEDED.get(own, allowed) | {own}
    allowed -= set() if own in READ_CONFIGS else {'config'}
    wrong = [module for module, other in others.items() if other and other not in allowed]
    assert not wrong, f'{ids(path)} ({own}) may not import {sorted(wrong)}'


def in_docstrings(tree):
    """The nodes of texts that explain."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    return {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}


@functools.cache
def names_of_the_truth():
    """What the manifest's file and the attacker's stages define, and who draws the poisoned."""
    tree = parse(ROOT / 'purify' / 'attacker' / 'manifest.py')
    found = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    drawn = {name for name in vars(selection) if name.startswith('choose_')}
    assert {'Manifest', 'Written', 'choose_victims'} <= found | drawn
    return found | drawn | {'manifest', 'TRUTH', 'CLEAN'}


@pytest.mark.parametrize('path', sources('purify'), ids=ids)
def test_the_attacker_and_the_evaluation_alone_can_name_the_truth(path):
    """Where it lies, what it is read by, how it is drawn, and that a stage may see it."""
    if own_room(path) in KNOW_THE_TRUTH:
        return
    told = names_of_the_truth()
    for module in imports(path):
        assert not module.startswith('purify.') or not told & set(module.split('.')), module
    tree, hands_on = parse(path), path.name == 'stage_lists.py'
    explained = in_docstrings(tree)
    for node in ast.walk(tree):
        place = f'{ids(path)}:{getattr(node, "lineno", 0)}'
        if isinstance(node, ast.Attribute):
            assert node.attr not in told - {'manifest'}, f'{place} reads {node.attr}'
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = set() if id(node) in explained else set(node.value.split('/'))
            assert not parts & {*TRUTH_ON_DISK, 'sees', 'shows'}, f'{place} names {node.value!r}'
        if isinstance(node, ast.keyword) and node.arg in ('sees', 'shows'):
            assert hands_on, f'{place} says what a stage sees'
            assert isinstance(node.value, ast.Name), f'{place} says what a stage sees'


def test_the_law_of_the_truth_can_be_broken():
    """In the rooms that know it, it is named in all these ways."""
    names, seen = set(), set()
    for path in sources(*(f'purify/{room}' for room in KNOW_THE_TRUTH)):
        for node in ast.walk(parse(path)):
            names |= (
                {node.value}
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
                else set()
            )
            seen |= (
                {node.arg}
                if isinstance(node, ast.keyword) and not isinstance(node.value, ast.Name)
                else set()
            )
    assert {'truth', 'attacker', 'truth/test'} <= names
    assert {'sees', 'shows'} <= seen


@pytest.mark.parametrize('path', sources('purify/config'), ids=ids)
def test_reading_configs_needs_next_to_nothing(path):
    allowed = {'absl', 'ml_collections', *sys.stdlib_module_names}
    for module in imports(path):
        assert (
            module.split('.')[0] in allowed
            or module in ('purify', 'purify.config')
            or module.startswith('purify.config.')
        ), module


@pytest.mark.parametrize('path', sources('configs'), ids=ids)
def test_a_config_holds_its_recipe_and_takes_what_it_is_made_of_from_the_rooms(path):
    """Not from another config, nor from a library: a recipe is read from top to bottom in one
    file.
    """
    for module in imports(path):
        assert module.split('.')[0] in (
            {'ml_collections', 'purify'} | set(sys.stdlib_module_names)
        ), module
    assert not [module for module in imports(path) if room(module) in ('report', 'cli', '__main__')]


@pytest.mark.parametrize('path', sources('launch'), ids=ids)
def test_launchers_speak_to_the_command_line_alone(path):
    assert {module.split('.')[0] for module in imports(path)} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize('path', sources('purify/core'), ids=ids)
def test_core_knows_no_images(path):
    assert not {module.split('.')[0] for module in imports(path)} & {
        'PIL',
        'grain',
        'tensorflow_datasets',
        'flax',
    }


def in_fresh_process(code):
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_configs_are_read_without_jax():
    code = """
import json, pkgutil, importlib, sys
import purify.config
names = [info.name for info in pkgutil.iter_modules(purify.config.__path__, 'purify.config.')]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted({name.partition('.')[0] for name in sys.modules})]))
"""
    names, loaded = in_fresh_process(code)
    assert {name.rpartition('.')[2] for name in names} == {
        'arguments',
        'load',
        'resolve',
        'skeleton',
        'sweeps',
    }
    assert not set(loaded) & {'jax', 'jaxlib', 'flax', 'tensorflow', 'tensorflow_datasets', 'torch'}


def test_config_files_touch_no_device_and_no_flag():
    code = """
import json, os, sys
from pathlib import Path
import jax
before = dict(os.environ), jax.config.values.copy()
from absl import flags
known = set(flags.FLAGS)
from purify.config.load import load_config
names = [load_config(str(path))['name'] for path in sorted(Path('configs').glob('*.py'))]
from jax._src import xla_bridge
changed = [name for name, value in jax.config.values.items() if before[1].get(name) != value]
mine = {key: value for key, value in os.environ.items() if key.startswith(('JAX', 'XLA', 'CUDA', 'PURIFY'))}
same = all(before[0].get(key) == value for key, value in mine.items())
own = [name for name in set(flags.FLAGS) - known if 'purify' in str(flags.FLAGS.find_module_defining_flag(name))]
loaded = sorted({name.partition('.')[0] for name in sys.modules})
print(json.dumps([names, xla_bridge.backends_are_initialized(), changed, same, own, loaded]))
"""
    names, initialized, changed, same, own, loaded = in_fresh_process(code)
    assert len(names) == len(list((ROOT / 'configs').glob('*.py'))) > 0
    assert not initialized, 'a config makes an array or asks for a device'
    assert not changed, 'a config changes a setting of jax'
    assert same
    assert not own, 'a config defines an absl flag'
    assert not set(loaded) & {'tensorflow', 'torch'}


def test_importing_everything_touches_no_device_and_no_flag():
    code = """
import importlib, json, os, pkgutil, sys
import jax
before = dict(os.environ), jax.config.values.copy()
import purify
names = [info.name for info in pkgutil.walk_packages(purify.__path__, 'purify.') if info.name != 'purify.__main__']
for name in names:
    importlib.import_module(name)
from absl import flags
from jax._src import xla_bridge
changed = [name for name, value in jax.config.values.items() if before[1].get(name) != value]
mine = {key: value for key, value in os.environ.items() if key.startswith(('JAX', 'XLA', 'CUDA', 'PURIFY'))}
same = all(before[0].get(key) == value for key, value in mine.items())
own = [module for module in flags.FLAGS.flags_by_module_dict() if module.startswith('purify')]
print(json.dumps([len(names), xla_bridge.backends_are_initialized(), changed, same, own, 'torch' in sys.modules]))
"""
    count, initialized, changed, same, own, torch = in_fresh_process(code)
    assert count > 40
    assert not initialized, 'an import makes an array or asks for a device'
    assert not changed, 'an import changes a setting of jax'
    assert same
    assert not own, 'an import defines an absl flag'
    assert not torch


@pytest.mark.parametrize('path', sources('purify', 'configs', 'launch'), ids=ids)
def test_files_and_functions_are_short(path):
    lines = len(path.read_text(encoding='utf-8').splitlines())
    if path.is_relative_to(ROOT / 'purify'):
        assert lines < 300
    texts = 0  # what explains does not count elsewhere: a config's docstring is its manual
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            text = len((ast.get_docstring(node, clean=False) or '').splitlines())
            texts += text
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1 - text
            assert length < 60, f'{ids(path)}:{node.lineno}: {node.name} has {length} lines'
    # a recipe holds all its settings, words and sweeps in one file
    assert lines - texts < (400 if path.is_relative_to(ROOT / 'configs') else 300)


@pytest.mark.parametrize('path', sources('purify', 'configs', 'launch'), ids=ids)
def test_nothing_is_unpickled_or_evaluated(path):
    assert not {module.split('.')[0] for module in imports(path)} & set(UNSAFE_MODULES)
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.Call):
            continue
        call, place = ast.unparse(node.func), f'{ids(path)}:{node.lineno}'
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert options.get('allow_pickle', 'False') == 'False', place
        assert call not in ('eval', 'exec', 'os.system'), place
        assert options.get('shell', 'False') == 'False', place
        if call in ('np.load', 'numpy.load'):
            assert options.get('allow_pickle') == 'False', f'{place}: say allow_pickle=False'
        if call == 'torch.load':
            assert options.get('weights_only') == 'True', place
        assert not call.startswith(('yaml.load', 'yaml.unsafe', 'pickle.')), place


def test_the_map_of_the_rooms_has_exactly_those_there_are():
    page = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    rooms = re.split(r'^## ', page, flags=re.MULTILINE)[1]
    named = re.findall(r'^\| `(\w+)/`', rooms, re.MULTILINE)
    assert sorted(named) == sorted({*FLOOR} - {'cli', '__main__'})
