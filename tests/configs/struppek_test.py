"""The experiments of Struppek 2023: every point of every table can run, and runs at a tiny size
from prepare to report.
"""

import json
import os

import pytest
from support.tiny import ROOT, shrink_struppek, write_pictures

from purify.commands import run as running
from purify.commands.check import check
from purify.commands.list import describe_run, flat
from purify.config.load import load_config, load_module
from purify.config.sweeps import multiply, sweep_functions
from purify.models import save_pretrained
from purify.models.files.shapes import random_pipeline

pytestmark = pytest.mark.usefixtures('few_devices')

TABLES = {
    'imagenette': ('table1', 'table2', 'table4', 'table5', 'table6'),
    'imagenet100': ('table1', 'table3'),
}


def points(config, table, **words):
    """(words, flags) of every run of a table, as `purify list --sweep` gives them."""
    told = ','.join(f'{name}={value}' for name, value in words.items())
    spec = f'configs/{config}.py:{told}'.rstrip(':')
    sweep = sweep_functions(load_module(f'{ROOT}/{spec}'))[table]
    runs = [
        describe_run(f'{ROOT}/{spec}', [], point, seed)
        for point, seed in multiply([map(flat, sweep())], [0])
    ]
    return [(run['config'], run['flags']) for run in runs]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp('struppek')
    write_pictures(folder, 60, 30)
    for kind in ('sd_variation', 'versatile', 'sd_img2img'):
        save_pretrained(random_pipeline(kind, 'tiny', seed=0), folder / kind)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ('config', 'table'), [(config, table) for config, tables in TABLES.items() for table in tables]
)
def test_every_point_of_every_table_loads_and_differs(config, table):
    configs = [load_config(*run) for run in points(config, table)]
    assert len({str(one) for one in configs}) == len(configs) >= 5
    for one in configs:
        assert one['attack']['base'] == 'nontarget'
        assert one['attack']['rate'] in (0.0, {'imagenette': 0.1, 'imagenet100': 0.01}[config])
        assert one['teacher']['network']['name'] == 'resnet101'
        if one['defense']['name'] == 'variations':
            found = one['defense']['vary'].items()
            assert found >= {'model': 'versatile', 'steps': 50, 'guidance': 7.5}.items()


def every_run():
    """(config, table, place in it, model): some, and all of them with PURIFY_ALL_POINTS=1."""
    if not os.environ.get('PURIFY_ALL_POINTS'):
        some = [
            ('imagenette', 'table1', 0, 'versatile'),
            ('imagenette', 'table2', -1, 'sd_variation'),
        ]
        return [
            *some,
            ('imagenette', 'table6', 0, 'versatile'),
            ('imagenet100', 'table3', 2, 'sd_img2img'),
        ]
    tables = [(config, table) for config, tables in TABLES.items() for table in tables]
    return [
        (config, table, k, 'versatile')
        for config, table in tables
        for k in range(len(points(config, table)))
    ]


@pytest.mark.long
@pytest.mark.parametrize(('config', 'table', 'which', 'model'), every_run())
def test_points_of_the_tables_run_to_their_reports(place, tmp_path, config, table, which, model):
    run, flags = points(config, table, model=model, prior=place / model, source=f'arrays:{place}')[
        which
    ]
    settings = shrink_struppek(load_config(run, flags))
    running.run(settings, [run, *flags], tmp_path, place / 'stages', [])
    assert (tmp_path / 'report' / 'index.html').is_file()
    results = json.loads((tmp_path / 'results.json').read_text())
    for who in ('teacher', 'student'):
        assert results[who]['acc'] is not None
    assert (results['teacher']['asr'] is None) == (settings['attack']['name'] == 'none')
    if settings['defense']['name'] == 'variations':
        assert results['cost']['stages']['purified']['images_per_s'] > 0


def every_check():
    return (
        every_run()
        if os.environ.get('PURIFY_ALL_POINTS')
        else [('imagenette', 'table1', 1, 'versatile')]
    )


@pytest.mark.long
@pytest.mark.parametrize(('config', 'table', 'which', 'model'), every_check())
def test_points_of_the_tables_pass_check_as_they_are(place, config, table, which, model):
    run, flags = points(config, table, model=model, source=f'arrays:{place}')[which]
    settings = load_config(run, flags)
    settings['source']['classes'] = ''  # the images here have ten
    assert not check(settings).problems


@pytest.mark.long
def test_check_shapes_a_prior_that_the_hub_still_has(place):
    """Its settings are wrong in a way that only the model itself can tell."""
    settings = shrink_struppek(load_config(f'{ROOT}/configs/imagenette.py:source=arrays:{place}'))
    settings['defense']['vary'] |= {'size_px': 13}
    (problem,) = check(settings).problems
    assert problem.startswith('purified: ')
    assert 'size_px=13' in problem
