"""The experiments of Sabolić 2024: points of the study pass `check` at full size, and run at a tiny
one to their reports.

A few in the whole suite; with PURIFY_ALL_POINTS=1 every point of every sweep in every setting, but
each config once.
"""

import json
import os

import pytest
from golden.weights import GOLDEN, materialise
from support.tiny import ROOT, shrink_study, write_pictures

from purify.commands import run as running
from purify.commands.check import check
from purify.commands.list import describe_run, points_of
from purify.config.load import load_config, load_module
from purify.config.sweeps import sweep_functions
from purify.engine.tables import read_table
from purify.stages import train_classifier

pytestmark = pytest.mark.usefixtures('few_devices')

CONFIG = f'{ROOT}/configs/relabel.py'
SETTINGS = ('digits', 'cifar10', 'cifar10_small', 'imagenet30', 'vggface30')
SWEEPS = tuple(sweep_functions(load_module(CONFIG)))
# in the whole suite: ASD; features of CLIP
SOME = [('digits', 'table1', 3), ('cifar10', 'table3', 2)]
SOME_RUNS = [('digits', 'table3', 1)]
BY_NAME = {'tfds:cifar10': 'cifar10', 'tfds:imagenet2012': 'imagenet'}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Coloured random pictures of ten classes, which any setting resizes; a small CLIP."""
    folder = tmp_path_factory.mktemp('pictures')
    write_pictures(folder, 600, 30)
    materialise(GOLDEN / 'clip_vision_gelu', folder / 'clip')
    return folder


@pytest.fixture(scope='module', autouse=True)
def remembered():
    """Trainings that several points have in common are shaped once."""
    done, shape = set(), train_classifier.shape_training

    def shape_once(known, name, part, task, build, **data):
        key = json.dumps([part, vars(known.data), type(task).__name__], default=str)
        if key not in done:
            shape(known, name, part, task, build, **data)
        done.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_classifier, 'shape_training', shape_once)
        yield


def run_of(setting, sweep, which, place):
    """(words, flags) of one run of a sweep, with nothing in it that lies on the net."""
    own = '' if setting == 'digits' else f',source=arrays:{place}'
    spec = f'{CONFIG}:setting={setting}{own}'
    described = describe_run(spec, [], *points_of(spec, sweep, '0')[which])
    return described['config'], described['flags']


def every_point(some):
    """(setting, sweep, place in it), but for those that are what another is."""
    if not os.environ.get('PURIFY_ALL_POINTS'):
        return some
    found = {}
    for setting in SETTINGS:
        for sweep in SWEEPS:
            for which in range(len(points_of(CONFIG, sweep, '0'))):
                config = load_config(*run_of(setting, sweep, which, 'x'))
                found.setdefault(json.dumps(config), (setting, sweep, which))
    return list(found.values())


@pytest.mark.long
@pytest.mark.parametrize(('setting', 'sweep', 'which'), every_point(SOME))
def test_points_of_the_study_pass_check_as_they_are(place, setting, sweep, which):
    config = load_config(*run_of(setting, sweep, which, place))
    # the pictures here are few
    config['source'] |= {'train_size': 0, 'test_size': 0} if setting != 'digits' else {}
    assert not check(config).problems


@pytest.mark.parametrize('setting', ['cifar10', 'imagenet30'])
def test_settings_with_images_of_their_own_name_them(setting):
    assert load_config(f'{CONFIG}:setting={setting}')['source']['name'] in BY_NAME


def run_tiny(spec, flags, place, folder):
    """-> what results.json holds, and the report's page."""
    settings = shrink_study(load_config(spec, flags), train_size=160, shard_size=80)
    running.run(settings, [spec, *flags], folder, place / 'stages', [])
    page = (folder / 'report' / 'index.html').read_text()
    return json.loads((folder / 'results.json').read_text()), page


FOUND = {'tpr', 'fpr', 'auroc', 'target_labels', 'label_accuracy', 'removed', 'counts', 'fates'}
FOUND |= {'relabel_accuracy', 'relabel_accuracy_poisoned', 'found'}


def assert_told(folder, results, page):
    """What the densities said of every class is in the results, and drawn in the report."""
    facts, verdicts = results['findings'], read_table(folder / 'verdicts')
    assert set(results['detection']) == FOUND
    assert [row['label'] for row in facts['labels']] == list(range(10))
    suspects = {row['label']: row['type'] for row in facts['labels'] if row['type']}
    assert facts['types'] == {str(label): kind for label, kind in suspects.items()}
    named = [label for label, kind in suspects.items() if kind != 'mislabelled']
    assert [row['label'] for row in facts['labels'] if row['target']] == named
    assert results['detection']['target_labels'] == facts['target_labels'] == named
    changed = (verdicts['labels'] != verdicts['given']) & verdicts['keep']
    counted, told = facts['counts'], results['detection']['counts']['relabel_accuracy'][1]
    assert told == changed.sum() <= counted['relabelled']
    assert counted['dropped'] == (~verdicts['keep']).sum()
    assert set(verdicts['given'][verdicts['verdict'] > 0]) == set(suspects)
    assert '<h2 id="features">' in page
    assert 'principal components' in page
    for number in ('S_ND', 'S_D', 'Histogram of 0', 'Scores of 0'):
        assert number in page


@pytest.mark.long
@pytest.mark.parametrize(('setting', 'sweep', 'which'), every_point(SOME_RUNS))
def test_points_of_the_study_run_to_their_reports(place, tmp_path, setting, sweep, which):
    results, page = run_tiny(*run_of(setting, sweep, which, place), place, tmp_path)
    for who in ('teacher', 'student') if 'student' in results else ('teacher',):
        assert results[who]['acc'] is not None
    defense = results['defense']['name']
    assert (results['trusted'] is not None) == (defense in ('nad', 'asd'))
    if defense == 'relabel':
        assert_told(tmp_path, results, page)
        wanted = results['defense']['features'] == 'simclr'
        assert ('encoder' in results['cost']['stages']) == wanted
    elif defense != 'nad':
        assert results['detection']['tpr'] is not None or results['attack']['name'] == 'none'


@pytest.mark.long
def test_features_of_a_finished_clip_run_to_their_report(place, tmp_path):
    spec = f'{CONFIG}:features=encoder,encoder={place}/clip'
    results, page = run_tiny(spec, [], place, tmp_path)
    assert_told(tmp_path, results, page)
    assert 'encoder' not in results['cost']['stages']
    assert results['findings']['rule']['name'] == 'outlying'


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ('setting=cifar', 'setting='),
        ('defense=strip', 'defense='),
        ('features=dino', 'features='),
        ('features=clip,defense=abl', 'is a word of defense=relabel'),
        ('features=encoder', 'go together'),
        ('encoder=x', 'go together'),
        ('source=arrays:x', 'brings its images'),
        ('setting=cifar10_small', 'give arrays:DIR'),
    ],
)
def test_words_that_do_not_go_together_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        load_config(f'{CONFIG}:{words}')
