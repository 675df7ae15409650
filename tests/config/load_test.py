# ruff: noqa: E501  (programs and files as text)
import json
from pathlib import Path

import pytest

from purify.config.load import flag_for, load_config, load_module, packaged_configs

CONFIGS = Path(__file__).parents[2] / 'configs'
QUICKSTART = f'{CONFIGS}/quickstart.py'

SMALL = """
from ml_collections import ConfigDict
def get_config(arg=None):
    return ConfigDict({'word': arg or '', 'lr': 0.5, 'steps': 3, 'on': True, 'name': 'x', 'sizes': (1, 2), 'part': {'deep': 1.0}})
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / 'small.py'
    path.write_text(SMALL)
    return str(path)


def test_words_go_to_the_file_and_the_rest_are_its_values(small):
    plain = {'lr': 0.5, 'steps': 3, 'on': True, 'name': 'x', 'sizes': [1, 2], 'part': {'deep': 1.0}}
    assert load_config(small) == plain | {'word': ''}
    assert load_config(f'{small}:a=b:c,d') == plain | {'word': 'a=b:c,d'}


def test_flags_change_values_and_keep_types(small):
    flags = ['--config.lr=2', '--config.steps=7', '--config.on=False', '--config.name=y z']
    flags += ['--config.sizes=(3,4,5)']
    config = load_config(small, [*flags, '--config.part.deep=1e-3'])
    wanted = {'word': '', 'lr': 2.0, 'steps': 7, 'on': False, 'name': 'y z', 'sizes': [3, 4, 5]}
    wanted |= {'part': {'deep': 0.001}}
    assert config == wanted
    assert type(config['lr']) is float


def test_only_the_flags_handed_in_count(small, monkeypatch):
    monkeypatch.setattr('sys.argv', ['purify', '--config.lr=9', f'--config={small}'])
    assert load_config(small)['lr'] == 0.5
    assert load_config(small, ['--config.lr=3'])['lr'] == 3.0


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('lr', 0.25),
        ('steps', 9),
        ('on', False),
        ('name', 'y'),
        ('sizes', (4, 5)),
        ('part.deep', 1e-9),
    ],
)
def test_a_value_as_a_flag_is_read_as_that_value(small, name, value):
    config = load_config(small, [flag_for(name, value)])
    for key in name.split('.'):
        config = config[key]
    assert config == json.loads(json.dumps(value))


@pytest.mark.parametrize(
    ('flag', 'expected'),
    [
        (
            '--config.part.dep=1',
            r'^unknown setting --config\.part\.dep\. Did you mean --config\.part\.deep\?',
        ),
        (
            '--config.zzzzzz=1',
            (
                r'^unknown setting --config\.zzzzzz\. It has: --config\.lr,'
                r' .*--config\.part\.\*'
            ),
        ),
        ('--config.part=1', r'^unknown setting --config\.part\.'),
        ('--config.lr=fast', r'^--config\.lr=fast: must be of type float, like 0\.5'),
        ('--config.steps=1.5', r'^--config\.steps=1\.5: must be of type int, like 3'),
        ('--config.on=maybe', r'^--config\.on=maybe: must be of type bool, like True'),
        ('--config.lr=nan', r'^--config\.lr=nan: must be a finite number'),
        ('--config.part.deep=1e999', r'^--config\.part\.deep=inf: must be a finite number'),
        ('--config.lr', r"^unknown argument '--config\.lr'; write --config\.part\.name=value"),
        ('lr=3', r"^unknown argument 'lr=3'"),
    ],
)
def test_wrong_flags_are_named(small, flag, expected):
    with pytest.raises(ValueError, match=expected):
        load_config(small, [flag])


def test_a_missing_file_is_named_with_those_that_are_there(tmp_path, small):
    with pytest.raises(ValueError, match=r'smal\.py: no such file\. There are: .*small\.py'):
        load_config(str(tmp_path / 'smal.py:word'))
    with pytest.raises(ValueError, match=r'--config .*/none/x\.py: no such file\.$'):
        load_config(str(tmp_path / 'none' / 'x.py'))
    with pytest.raises(ValueError, match='no config of that name'):
        load_config(str(tmp_path))


def test_configs_that_come_with_the_package_go_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = load_config('quickstart:rate=0.05', ['--config.attack.target=3'])
    assert by_name == load_config(f'{QUICKSTART}:rate=0.05', ['--config.attack.target=3'])
    assert {path.stem for path in CONFIGS.glob('*.py')} == set(packaged_configs())
    with pytest.raises(ValueError, match=r'Did you mean quickstart\? Choose from: attacks, bench'):
        load_config('quickstrat:rate=0.05')
    with pytest.raises(ValueError, match=r'no such file\. Did you mean --config quickstart\?'):
        load_config('configs/quickstart.py')


@pytest.mark.parametrize(
    ('name', 'text', 'expected'),
    [
        ('a.py', 'x = (', r'a\.py.*SyntaxError.*Correct the file'),
        ('a.py', 'import nothing_like_this', r'a\.py line 1: ModuleNotFoundError'),
        ('a.py', 'x = 1', r'a\.py: has no get_config'),
        ('a.py', 'def get_config(arg=None):\n    return {}["x"]', r"a\.py line 2: KeyError: 'x'"),
        ('a.txt', 'x = 1', r'a\.txt: not a Python file'),
    ],
)
def test_a_broken_file_is_named_with_the_line(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=expected):
        load_config(str(tmp_path / name))


def test_a_mistake_in_the_words_keeps_its_own_words():
    said = r"^unknown word 'atack' after the colon. Did you mean 'attack'"
    with pytest.raises(ValueError, match=said):
        load_config(f'{QUICKSTART}:atack=none')
    said = r"^attack='blend': choose from adaptive_blend, .*none, patch"
    with pytest.raises(ValueError, match=said):
        load_config(f'{QUICKSTART}:attack=blend')
    with pytest.raises(
        ValueError,
        match=(
            r"^defense='variation': choose from abl, activation_.*, none, relabel, spectral, strip,"
            r' variations'
        ),
    ):
        load_config(f'{QUICKSTART}:defense=variation')


def test_values_that_are_no_plain_values_are_refused(tmp_path):
    (tmp_path / 'a.py').write_text(
        'from ml_collections import ConfigDict\ndef get_config(arg=None): return ConfigDict({"a":'
        ' {"b": object}})'
    )
    with pytest.raises(ValueError, match='only plain values'):
        load_config(str(tmp_path / 'a.py'))


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        (
            'def get_config(arg=None): return None',
            'get_config must return a ConfigDict, not NoneType',
        ),
        ('raise SystemExit("bye")', 'SystemExit: bye'),
        (
            'from ml_collections import ConfigDict\n'
            'def get_config(arg=None): return ConfigDict({"a": {1: 2, "b": 3}})',
            'names that are no text',
        ),
    ],
)
def test_configs_that_make_none_are_named(tmp_path, text, said):
    (tmp_path / 'a:b.py').write_text(text)  # a colon is for words
    with pytest.raises(ValueError, match='no config of that name'):
        load_config(str(tmp_path / 'a:b.py'))
    (tmp_path / 'a.py').write_text(text)
    with pytest.raises(ValueError, match=said):
        load_config(str(tmp_path / 'a.py'))


def test_what_a_config_prints_is_no_result(tmp_path, capsys):
    body = 'from purify.config.load import load_module\nprint("hello")\n'
    body += 'def get_config(arg=None): return load_module("quickstart").get_config(arg)\n'
    (tmp_path / 'a.py').write_text(body)
    load_config(str(tmp_path / 'a.py'))
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_every_config_file_loads_and_is_json(path):
    config = load_config(str(path))
    assert json.loads(json.dumps(config, allow_nan=False)) == config
    if path.stem == 'bench':  # which is no run
        found = load_module(str(path)).__doc__.count('purify bench variations --config')
        assert found > 0
        return
    assert {'name', 'seeds', 'shard_size', 'run', 'source', 'attack'} <= set(config)
    assert set(config['seeds']) == {'poison', 'model', 'data'}
    assert load_module(str(path)).__doc__.count('purify run --config') > 0


def test_quickstart_on_data_of_ones_own():
    birds = f'{QUICKSTART}:source=imagefolder:birds'
    embedded = load_config(f'{birds},defense=dataelixir')
    assert embedded['prior'] == {'load': 'photos32', 'revision': ''}
    assert embedded['teacher']['network']['name'] == 'fast'
    for other in ('size_px=64', 'channels=1'):
        trained = load_config(f'{birds},defense=dataelixir,{other}')
        assert trained['source']['reference_size'] == 1000
        assert trained['prior']['data'] == 'reference'
    given = load_config(f'{birds},defense=dataelixir,prior=folder')
    assert given['prior'] == {'load': 'folder', 'revision': ''}
    bare = load_config(f'{birds},defense=relabel,network=resnet18,size_px=64')
    assert 'prior' not in bare
    assert bare['teacher']['network']['name'] == 'resnet18'
    assert bare['source']['size_px'] == 64
    for config in (embedded, given, bare):
        assert (config['source']['reference'], config['source']['reference_size']) == ('none', 0)
    with pytest.raises(ValueError, match='defense=relabel has no use for a prior'):
        load_config(f'{birds},defense=relabel,prior=folder')


def test_the_words_of_quickstart_change_the_structure():
    assert 'defense' not in load_config(f'{QUICKSTART}:defense=none')
    augmented = load_config(f'{QUICKSTART}:defense=augmentations')
    assert 'prior' not in augmented
    assert set(augmented['student']['augment']) > set(augmented['teacher']['augment'])
    assert load_config(f'{QUICKSTART}:distill=False')['student']['objective']['name'] == 'classify'
    outside = load_config(f'{QUICKSTART}:source=arrays:/data/x,size_px=8,channels=1')
    found = (outside['source']['name'], outside['source']['path'], outside['source']['size_px'])
    assert found == ('arrays', '/data/x', 8)
    assert outside['prior']['network']['sample_size'] == 8
    assert outside['teacher']['network']['name'] == 'resnet'


def test_photographs_are_mirrored_unless_told_not_to():
    """In every other epoch by the network fast, by a coin by others; never twice."""
    photographs = f'{QUICKSTART}:source=arrays:x'
    for words, flips in (
        ('', ['alternating_flip']),
        ('network=resnet18', ['flip']),
        ('flip=False', []),
        ('flip=False,network=resnet18', []),
        ('defense=augmentations', ['alternating_flip']),
        ('defense=augmentations,flip=False', []),
    ):
        config = load_config(f'{photographs},{words}'.rstrip(','))
        for part in ('teacher', 'student'):
            assert [name for name in config[part]['augment'] if 'flip' in name] == flips
    with pytest.raises(ValueError, match='flip=False: the digits are as they are'):
        load_config(f'{QUICKSTART}:flip=False')


@pytest.mark.parametrize(
    ('words', 'rate'),
    [('', 0.05), ('attack=blended', 0.05), ('rate=0.1', 0.1), ('attack=label_consistent', 0.08)],
)
def test_five_percent_of_photographs_are_poisoned_unless_told_otherwise(words, rate):
    config = load_config(f'{QUICKSTART}:source=arrays:x,{words}'.rstrip(','))
    assert config['attack']['rate'] == rate


@pytest.mark.parametrize(
    ('flag', 'expected'),
    [
        *[
            (f'--config.{name}={value}', f'^--config\\.{name}={value}: must be {least} or more')
            for name, value, least in [
                ('shard_size', 0, 1),
                ('run.inference_batch', 0, 1),
                ('run.save_every', 0, 1),
                ('run.log_every', -5, 1),
                ('run.threads', 0, 1),
                ('run.workers', -1, 0),
                ('run.report_images', -1, 0),
                ('teacher.batch', 0, 1),
                ('student.accumulate', 0, 1),
            ]
        ],
        ('--config.seeds.model=-1', r'seeds\.model=-1: must be from 0 to 4294967295'),
        ('--config.seeds.data=4294967296', r'seeds\.data=4294967296: must be from 0 to 4294967295'),
        ('--config.source.split_seed=-1', r'split_seed=-1: must be from 0 to 4294967295'),
        (
            '--config.teacher.network.dtype=float17',
            r'^--config\.teacher\.network\.dtype=float17: choose from bfloat16, float16, float32',
        ),
    ],
)
def test_values_no_stage_could_use_are_refused(flag, expected):
    with pytest.raises(ValueError, match=expected):
        load_config(QUICKSTART, [flag])


def test_the_least_value_is_allowed():
    assert (
        load_config(QUICKSTART, ['--config.run.workers=0', '--config.run.threads=1'])['run'][
            'threads'
        ]
        == 1
    )
