import re

import numpy as np
import pytest
from report.typed import typed, typed_runs

from purify.core.errors import UserError
from purify.report.page import write_report, write_runs_page
from purify.report.run import Finished
from purify.report.tables import collect

pytestmark = pytest.mark.usefixtures('few_devices')

HEADINGS = r'<h2 id="(\w+)"'


def read_page(folder, results, curves, samples, environment, **pictures):
    """The page of a run."""
    return write_report(
        folder, Finished(typed(results), curves, samples, environment, **pictures)
    ).read_text('utf-8')


@pytest.fixture
def write(tmp_path, results, curves, samples, environment):
    def write():
        return read_page(tmp_path / 'report', results, curves, samples, environment)

    return write


def test_network_calls_are_a_column_with_a_sum_where_a_stage_made_some(write, results):
    assert 'network calls' not in write()
    stages = results['cost']['stages']
    stages['purified'] = stages['student'] | {
        'network_calls': 107_250,
        'network_calls_per_s': 1234.0,
    }
    results['cost']['network_calls'] = 107_250
    page = write()
    assert '<th scope="col">network calls</th><th scope="col">network calls/s</th>' in page
    assert page.count('<td>107,250</td>') == 2
    assert '<td>1,234</td>' in page


@pytest.mark.long
def test_how_clean_samples_were_picked_is_said(
    tmp_path, results, curves, samples, environment, pictures
):
    page = read_page(tmp_path, results, curves, samples, environment, pictures=pictures)
    # of rounds, and of the gaze
    assert page.count('clean images that the defence accuses wrongly') == 2


def test_the_page_holds_every_section(write):
    page = write()
    wanted = ['result', 'images', 'detection', 'curves', 'cost', 'provenance']
    assert re.findall(r'<h2 id="(\w+)"', page) == wanted
    assert page.count('<h1>') == 1
    assert page.count('<img ') == 6 * 3 - 1
    assert page.count('alt="') == page.count('<img ')
    assert page.count('<svg ') == 3  # bars, student, prior; the stage without loss draws nothing
    assert page.count('<caption>') == page.count('<table')
    for text in (
        '356 of 360',
        '98.2',
        'zero (0)',
        'configs/quickstart.py:attack=patch',
        '9f2ac1e0',
        '0.8.1',
        'prior.steps',
        'reused',
    ):
        assert text in page
    assert re.sub(r'</?span>', '', page).count("python -m purify 'a b'".replace("'", '&#39;')) == 1


@pytest.fixture
def write_found(tmp_path, found, curves, samples, environment, pictures):
    def write():
        return read_page(tmp_path / 'found', found, curves, samples, environment, pictures=pictures)

    return write


def test_the_page_explains_a_purification(write_found):
    page = write_found()
    order = ['result', 'images', 'detection', 'rounds', 'gaze', 'quality', 'curves', 'cost']
    order += ['provenance']
    assert re.findall(HEADINGS, page) == order
    assert page.count('<img ') == 17 + 4 * 5 + 2 * 5 - 1 + 4 * 6 + 2 * 6 - 2
    assert page.count('alt="') == page.count('<img ')
    assert page.count('<caption>') == page.count('<table')
    assert page.count('<svg ') == 4
    for text in (
        'Nothing says what it was trained on.',
        'Benign model ASR',
        'not of Inception',
        'Residual ASR',
        'role="note"',
    ):
        assert text in page
    assert page == write_found()
    assert '<script' not in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)', page)


def test_a_prior_without_a_warning_gets_none(write_found, found):
    found['prior']['warning'] = ''
    page = write_found()
    assert 'role="note"' not in page
    assert 'A prior of unknown origin.' in page


@pytest.mark.long
@pytest.mark.parametrize(
    ('attack', 'text'),
    [
        ({'targets': [0, 2]}, 'the attack aims at zero (0), two (2)'),
        ({'targets': [1]}, 'the attack aims at one (1)'),
        ({'targets': [], 'poisoned': 0}, 'nothing is aimed at, for no image was poisoned'),
        ({'poisoned': 0}, 'nothing is aimed at, for no image was poisoned'),
        ({}, 'the attack aims at zero (0)'),
    ],
)
def test_named_targets_stand_beside_the_true_ones(write, results, attack, text):
    results['attack'] |= attack
    page = write()
    assert f'named as target of the attack; {text}' in page
    detection = page.partition('<h2 id="detection">')[2]
    assert detection.count('aims at') == (not text.startswith('nothing'))


def test_a_page_of_large_pictures_stays_small(write_found, pictures):
    rng = np.random.default_rng(0)
    for name in ('original', 'given', 'purified'):
        pictures[name] = rng.integers(0, 256, (8, 224, 224, 3), np.uint8)
    pictures['rounds'] = rng.integers(0, 256, (8, 5, 224, 224, 3), np.uint8)
    pictures['heat'] = rng.integers(0, 256, (8, 3, 224, 224), np.uint8)
    pictures['round_labels'] = np.zeros((8, 5), int)
    assert len(write_found()) < 3_000_000


def test_the_page_stands_alone(write):
    page = write()
    assert '<script' not in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)', page)
    assert not re.findall(r'@import|url\((?!#)', page)
    assert "default-src 'none'" in page


def test_empty_parts_leave_no_heading(write, results, curves, samples):
    results |= {'attack': None, 'student': None, 'detection': {'tpr': None}}
    results |= {'cost': {'stages': {}, 'seconds': None}}
    for side in ('asr', 'ra'):
        results['teacher'][side] = None
    curves.clear()
    samples.clear()
    page = write()
    assert re.findall(r'<h2 id="(\w+)"', page) == ['result', 'provenance']
    assert 'The data was not attacked; clean accuracy is' in page
    assert page.count('not measured') >= 5


def test_names_from_strangers_are_escaped(write, results, samples, environment, curves):
    evil = '<script>alert(1)</script>"><img src=x onerror=y>'
    results |= {'name': evil, 'config': evil, 'classes': [evil] * 3}
    results['defense'] = {'name': evil, evil: evil}
    results['cost']['stages'][evil] = dict(results['cost']['stages']['student'])
    results['findings'] = {
        'labels': [{'label': 0, 'score': 2.0, 'target': True}],
        'chart': {'quantity': 'score', 'threshold': 1.0},
        'rule': {'name': evil},
        'sets': {evil: 3},
    }
    results['prior'] = {'kind': evil, 'text': evil, 'warning': evil}
    results['purified'] = {'fid': 1.0, 'is': 2.0, 'is_raw': 3.0, 'features': evil, 'notes': [evil]}
    curves[evil] = [
        {'step': 1, 'loss': 1.0, f'loss{evil}': 2.0},
        {'step': 2, 'loss': 1.0, f'loss{evil}': 2.0},
    ]
    for sample in samples:
        sample |= {'true_label': evil, 'given_label': evil + '2'}
    environment |= {evil: evil, 'command': evil}
    page = write()
    assert '<script' not in page
    assert '<img src=x' not in page
    assert '&lt;script&gt;alert(1)' in page


def test_a_class_name_that_is_no_text_is_written(write, samples):
    samples[0]['true_label'] = b'caf\xe9'.decode('utf-8', 'surrogateescape')
    assert 'caf?' in write()


def test_the_same_run_gives_the_same_page(write):
    assert write() == write()


def test_the_page_stays_small(write, samples):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 300, 3), np.uint8)  # what PNG packs worst
    samples[:] = [
        sample | {'id': i, 'original': noise, 'poisoned': noise, 'purified': noise}
        for i, sample in enumerate([samples[0]] * 40 + [samples[-1]] * 40)
    ]
    page = write()
    assert len(page) < 4_000_000
    assert '24 more poisoned samples were collected' in page


def test_a_failed_page_leaves_the_old_one_alone(tmp_path, write, samples):
    old = write()
    samples[0]['original'] = np.zeros((2, 2), np.uint8)
    with pytest.raises(UserError, match='a report shows images'):
        write()
    assert [path.name for path in (tmp_path / 'report').iterdir()] == ['index.html']
    assert (tmp_path / 'report' / 'index.html').read_text('utf-8') == old


def test_the_sweep_is_written_three_times(tmp_path, results):
    rows = collect(typed_runs([({'attack': '<b>'}, seed, results) for seed in (0, 1)]))
    path = write_runs_page(tmp_path, rows)
    wanted = ['table.csv', 'table.html', 'table.md']
    assert sorted(file.name for file in tmp_path.iterdir()) == wanted
    page = path.read_text('utf-8')
    assert '2 runs at 1 point.' in page
    assert '&lt;b&gt;' in page
    assert '<b>' not in page


@pytest.mark.long
def test_the_page_shows_what_densities_say(
    tmp_path, relabelled, curves, samples, environment, atlas
):
    page = read_page(tmp_path, relabelled, curves, samples, environment, feature_map=atlas)
    wanted = ['result', 'images', 'detection', 'features', 'curves', 'cost', 'provenance']
    assert re.findall(HEADINGS, page) == wanted
    assert page.count('<svg ') == 3 + 1 + 1 + 3 + 2  # as always; evidence; map; histograms; scores
    assert page.count('<caption>') == page.count('<table')
    for text in (
        'Of 8 relabelled images 75.0',
        '5 of 6 relabelled images that are poisoned',
        'zero (0): non-disruptive',
        '98.4',
    ):
        assert text in page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    # all colours are the page's own
    assert not re.findall(r'#[0-9a-f]{6}\b', page.partition('</style>')[2])
    assert page == read_page(tmp_path, relabelled, curves, samples, environment, feature_map=atlas)


def test_a_map_of_thousands_of_images_stays_small(
    tmp_path, results, curves, samples, environment, atlas
):
    before = len(read_page(tmp_path, results, curves, samples, environment))
    rng = np.random.default_rng(0)
    atlas |= {'points': rng.normal(0, 1, (4000, 2)).astype(np.float32)}
    atlas |= {
        name: np.resize(atlas[name], 4000) for name in ('ids', 'label', 'true', 'poisoned', 'named')
    }
    assert (
        len(read_page(tmp_path, results, curves, samples, environment, feature_map=atlas)) - before
        < 250_000
    )


def test_the_label_after_the_defence_stands_below_the_one_given(write, samples):
    assert '>label after<' not in write()
    for sample, label in zip(samples, ('two', 'dropped', 'one', None, 'two', 'two'), strict=True):
        sample['label_after'] = label
    cells = re.findall(r'>label after</th>(.*?)</tr>', write())
    said = [re.findall(r'<span class="(label[^"]*)" title="[^"]*">([^<]*)<', row) for row in cells]
    poisoned = [('label', 'two'), ('label', 'dropped'), ('label wrong', 'one'), ('label', '–')]
    assert said == [poisoned, [('label', 'two')] * 2]  # 'two' is the true class of all


def test_quality_of_images_that_were_not_remade_is_left_out(write_found, found):
    found['purified']['remade'] = True
    assert 'id="quality"' in write_found()
    found['purified']['remade'] = False
    page = write_found()
    assert 'id="quality"' not in page
    assert 'not of Inception' not in page


def test_the_page_counts_what_became_of_classes(
    tmp_path, relabelled, curves, samples, environment, atlas
):
    fates = {
        'clean': {'kept': 28, 'dropped': 1234, 'relabelled': 0},
        'poisoned': {'kept': 1, 'dropped': 2, 'relabelled': 7},
    }
    relabelled['detection']['fates'] = [{'label': 0} | fates]
    page = read_page(tmp_path, relabelled, curves, samples, environment, feature_map=atlas)
    table = page.partition('cost fates')[2].partition('</table>')[0]
    wanted = ['class', 'kept', 'dropped', 'relabelled', 'zero (0), clean', '28', '1,234', '0']
    wanted += ['zero (0), poisoned', '1', '2', '7']
    assert re.findall(r'<t[hd]\b[^>]*>([^<]*)<', table) == wanted
    assert page.count('<caption>') == page.count('<table')


@pytest.mark.long
def test_the_page_tells_of_a_generator(
    tmp_path, dissected, curves, samples, environment, shown, copies
):
    page = read_page(tmp_path, dissected, curves, samples, environment, groups=shown, copies=copies)
    order = ['result', 'diffusion_classifier', 'generations', 'replication', 'images', 'detection']
    order += ['curves', 'cost', 'provenance']
    assert re.findall(HEADINGS, page) == order
    headline = re.findall(r'<h1>(.*?)</h1>', page)[0].replace('\N{NO-BREAK SPACE}', ' ')
    assert headline.endswith(
        'amplifies the trigger: 73.4 % of the images it makes of target class zero (0) show it,'
        ' against 47.4 % in training.'
    )
    assert page.count('<img ') == 17 + (12 + 3 + 5) + 9
    assert page.count('alt="') == page.count('<img ')
    assert page.count('<svg ') == 3 + 1 + 2 + 1  # as always; lines over p; bars of both sets; pairs
    assert page.count('<caption>') == page.count('<table')
    assert page.count('cost tests') == 1
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert not re.findall(r'#[0-9a-f]{6}\b', page.partition('</style>')[2])
    assert page == read_page(
        tmp_path, dissected, curves, samples, environment, groups=shown, copies=copies
    )


def test_classes_of_strangers_are_escaped_in_generations(
    tmp_path, dissected, curves, samples, environment, shown, copies
):
    evil = '<script>alert(1)</script>"><img src=x onerror=y>'
    dissected['classes'] = [evil] * 3
    dissected['dissection'] |= {
        'sampler': evil,
        'fid': dissected['dissection']['fid'] | {'network': evil, 'notes': [evil]},
    }
    dissected['dissection']['auroc'][0]['score'] = evil
    dissected['replication']['encoder'] = dissected['diffusion']['weighting'] = evil
    page = read_page(tmp_path, dissected, curves, samples, environment, groups=shown, copies=copies)
    assert '<script' not in page
    assert '<img src=x' not in page


def test_a_sweep_of_generators_has_bars(tmp_path, dissected):
    runs = []
    for rate in (0.01, 0.1):
        run = dissected | {'attack': dissected['attack'] | {'rate': rate}}
        runs.append(({'rate': rate, 'evil': '<b>'}, 0, run))
    page = write_runs_page(tmp_path, collect(typed_runs(runs))).read_text('utf-8')
    assert re.findall(HEADINGS, page) == ['runs', 'composition']
    assert page.count('<svg ') == 1
    assert 'By poisoning rate: attack patch, guidance 5, evil &lt;b&gt;' in page
    assert '<b>' not in page
