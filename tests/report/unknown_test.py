"""Reports on data of which nobody knows whether it is poisoned: what was found is told, and nothing
that needs the truth.
"""

import re

import msgspec
import pytest
from report.typed import findings_of, typed

from purify.evaluation.truth import forget, is_known, withhold
from purify.report.amplification import list_amplification, measure_amplification
from purify.report.before_after import before_after
from purify.report.densities import draw_foreign, draw_scores
from purify.report.density_tests import list_tests
from purify.report.feature_map import count_neighbours, draw_map, say_map
from purify.report.headline import list_targets, write_detail, write_headline
from purify.report.page import write_report
from purify.report.run import Finished
from purify.report.sections.detection import list_detection, list_fates
from purify.report.sections.gaze import make_heats
from purify.report.sections.generations import list_auroc, say_dissection
from purify.report.sections.images import make_grids
from purify.report.sections.quality import list_likeness
from purify.report.sections.replication import draw_copies, make_triplets
from purify.report.sections.rounds import make_rounds
from purify.report.tables import read_quantities

CLASSES = ['zero', 'one', 'two']
FOUND = {'images': 1440, 'flagged': 37, 'dropped': 12, 'relabelled': 30}
NEEDS_TRUTH = (
    r'\bTPR\b|\bFPR\b|AUROC|[Ll]abel(?:ling)? accuracy|false alarm\b|\bwrongly\b|\bmissed\b|true'
    r' class|poisoned training images'
    r'|[Cc]lean training images|clean (?:test )?images|aimed at|was not attacked|was poisoned|clean'
    r' accuracy|B is |the truth says'
)


@pytest.fixture
def unknown(relabelled, dissected, side):
    """`results` of a run without an attack on somebody's folder; fixtures fill the same dict."""
    results = relabelled
    results |= {'truth_known': False, 'teacher': side((356, 360), None, None)}
    results |= {'student': side((351, 360), None, None)}
    results['attack'] |= {'name': 'none', 'rate': 0.0, 'poisoned': 0, 'cover': 0, 'targets': []}
    results['dissection']['judges']['detector'] = None
    results['diffusion'] = None
    kinds = {
        'every': {'kept': 28, 'dropped': 12, 'relabelled': 3},
        'clean': {'kept': 28, 'dropped': 12, 'relabelled': 3},
    }
    results['detection'] |= {
        'found': FOUND,
        'fates': [{'label': 0, **kinds, 'poisoned': {'kept': 0, 'dropped': 0, 'relabelled': 0}}],
    }
    results['purified'] = {
        'fid': 0.7,
        'is': 9.9,
        'is_raw': 10.2,
        'features': 'student',
        'notes': [],
    }
    return msgspec.to_builtins(withhold(typed(results)))


@pytest.fixture
def seen(samples):
    """Samples as they are collected where nobody knows."""
    return [
        one
        | {'kind': 'flagged' if one['id'] < 102 else 'other', 'original': None, 'true_label': None}
        for one in samples
    ]


@pytest.mark.parametrize(
    ('source', 'clean', 'poisoned', 'cover', 'known'),
    [
        ('imagefolder', False, 0, 0, False),
        ('arrays', False, 0, 0, False),
        ('tfds:cifar10', False, 0, 0, False),
        ('tfds:cifar10', True, 0, 0, True),  # the user says so
        ('digits', False, 0, 0, True),  # this program does
        # an experiment: what was not poisoned here counts as clean
        ('imagefolder', False, 9, 0, True),
        ('imagefolder', False, 0, 9, True),
    ],
)
def test_who_knows_the_truth(source, clean, poisoned, cover, known):
    config = {'source': {'name': source}, 'clean_source': clean}
    assert is_known(config, {'poisoned_images': poisoned, 'cover_images': cover}) is known


def test_configs_of_older_versions_vouch_for_nothing():
    facts = {'poisoned_images': 0, 'cover_images': 0}
    assert not is_known({'source': {'name': 'arrays'}}, facts)


def test_numbers_that_need_the_truth_are_none_and_others_stay(unknown):
    detection = unknown['detection']
    kept = {'found', 'target_labels', 'fates'}
    assert {name for name, value in detection.items() if value is not None} == kept
    assert detection['fates'] == [
        {
            'label': 0,
            'every': {'kept': 28, 'dropped': 12, 'relabelled': 3},
            'clean': None,
            'poisoned': None,
        }
    ]
    found = [unknown['attack'][name] for name in ('poisoned', 'cover', 'targets', 'name')]
    assert found == [None, None, None, 'none']
    assert {row['p_t'] for rows in unknown['dissection']['sets'].values() for row in rows} == {None}
    wanted = {(None, None)}
    assert {(row['training'], row['poisoned']) for row in unknown['dissection']['auroc']} == wanted
    assert not {
        'tpr',
        'fpr',
        'label_accuracy',
        'relabel_accuracy',
        'auroc',
        'p_t',
        'amplification',
    } & set(read_quantities(typed(unknown)))
    assert read_quantities(typed(unknown))['teacher_acc'] == 356 / 360


def test_the_headline_says_that_nobody_knows_and_what_was_found(unknown):
    assert (
        write_headline(typed(unknown))
        == 'Nobody knows whether the data are poisoned: the defence flags 37 of 1,440 training'
        ' images (2.6 %) and names class zero (0) as target; test accuracy falls from 98.9 % to'
        ' 97.5 %.'
    )
    detail = write_detail(typed(unknown))
    assert detail.startswith(
        'This run added no poison, and nobody vouches for the source. If you know that it is'
        ' clean, say'
    )
    assert 'It accused' not in detail
    assert list_targets(typed(unknown)) == []
    unknown['detection'] |= {'found': None, 'target_labels': None}
    assert write_headline(typed(unknown)).startswith(
        'Nobody knows whether the data are poisoned; test accuracy falls'
    )
    unknown |= {'teacher': None, 'student': None}
    found = write_headline(typed(unknown))
    assert found == 'Nobody knows whether the data are poisoned; no classifier was evaluated.'


def test_a_method_that_names_no_class_says_so(unknown):
    unknown['detection']['target_labels'] = []
    assert '(2.6 %) and names no class as target' in write_headline(typed(unknown))


VERDICT = {
    'word': 'mislabelled',
    'text': 'The data look mislabelled: 7 % of the labels are wrong, of all classes alike.',
}


def test_the_method_s_own_verdict_leads_where_nobody_knows_and_follows_where_somebody_does(
    unknown, results
):
    unknown['verdict'] = VERDICT
    assert write_headline(typed(unknown)).startswith(f'{VERDICT["text"]} Nobody knows whether')
    assert ('Verdict', 'Mislabelled', VERDICT['text']) in list_detection(typed(unknown))
    known = unknown | {'truth_known': True}
    assert VERDICT['text'] not in write_headline(typed(known))
    assert VERDICT['text'] in write_detail(typed(known))
    wanted = 'Verdict'
    assert wanted not in [name for name, *_ in list_detection(typed(results | {'verdict': None}))]


def test_what_was_found_is_listed(unknown):
    wanted = [('Flagged', '37'), ('Dropped', '12'), ('Relabelled', '30'), ('Target', 'zero (0)')]
    assert [line[:2] for line in list_detection(typed(unknown))] == wanted
    assert list_detection(typed(unknown))[0][2].startswith(
        'of 1,440 training images (2.6 %): taken for poisoned'
    )
    assert list_detection(typed(unknown))[-1][2].endswith('nobody knows whether there is one')
    assert list_fates(typed(unknown)).lines == [('zero (0)', ['28', '12', '3'])]
    assert 'were given' in list_likeness(typed(unknown))[0][2]
    assert before_after(typed(unknown))[0].meaning == 'test images given the class on their label'


def test_a_dissection_without_the_truth(unknown):
    assert measure_amplification(typed(unknown)) is None
    assert 'trained on the images as they were given' in say_dissection(typed(unknown))
    assert 'the truth' not in list_auroc(typed(unknown)).note
    wanted = [('–', False), ('0.722', False), ('–', False), ('51', False)]
    assert list_auroc(typed(unknown)).lines[0][1] == wanted
    for row in unknown['dissection']['auroc']:
        row['generated'] = None
    assert list_auroc(typed(unknown)) is None
    assert [line for line in list_amplification(typed(unknown)) if 'clean' in line[2]] == []


def test_classes_are_not_marked_as_aimed_at(unknown):
    table = list_tests(findings_of(unknown['findings']), None, CLASSES)
    assert 'aimed at' not in table.head
    assert {len(cells) for _, cells, _ in table.lines} == {len(table.head)}


def test_a_map_without_the_truth(unknown, atlas):
    blind = forget(atlas) | {'facts': atlas['facts'] | {'aims': []}}
    assert not {'poisoned', 'true', 'close_poisoned'} & set(blind)
    assert count_neighbours(blind) is None
    assert say_map(blind, CLASSES).endswith('Strong: zero (0), as named by the defence.')
    ink = 'var(--ink)'
    found = str(draw_map(atlas, CLASSES, 'm').svg).count(ink)
    assert found > str(draw_map(blind, CLASSES, 'm').svg).count(ink)
    (title, bins), *_ = draw_foreign(blind, findings_of(unknown['findings']), CLASSES, 'f')
    assert title == 'zero (0): non-disruptive'  # neither rightly nor wrongly
    assert bins.text.startswith('Histogram of zero (0): 40 images; ')
    ((_, lanes),) = draw_scores(blind, findings_of(unknown['findings']), CLASSES, 's')
    assert lanes.text.startswith('Scores of zero (0). Medians: all ')
    assert forget(None) is None


def test_pictures_without_the_truth(pictures, seen, copies):
    blind = forget(pictures)
    for sheets in (make_rounds(blind, CLASSES), make_heats(blind, CLASSES)):
        (sheet,) = sheets
        assert sheet.kind == 'some'
        assert 'images that the defence accuses, then' in sheet.note
        assert not any(cell.wrong for strip in sheet.strips for cell in strip.cells)
        assert not any(line.startswith('true') for strip in sheet.strips for line in strip.lines)
    (grid,), _ = make_grids(seen, 'flagged')
    wanted = ([100, 101], None, ['as given', 'purified'])
    assert (grid.ids, grid.true_labels, [row.name for row in grid.rows]) == wanted
    assert grid.rows[0].thumbs[0].alt == 'as given image 100, labelled zero'
    wanted = ['label of A', 'label of B', 'A and B', 'B and C']
    assert [name for name, _ in make_triplets(forget(copies), CLASSES).lines] == wanted
    assert 'pairs' in draw_copies(forget(copies), typed({}), 'c').text.partition('Beyond')[2]


def test_the_page_needs_no_truth(
    tmp_path, unknown, curves, seen, environment, pictures, atlas, shown, copies
):
    for row in unknown['dissection']['auroc']:
        row['generated'] = None
    blind = [
        forget(one)
        for one in (pictures, atlas | {'facts': atlas['facts'] | {'aims': []}}, shown, copies)
    ]
    page = write_report(
        tmp_path, Finished(typed(unknown), curves, seen, environment, *blind)
    ).read_text('utf-8')
    text = ' '.join(
        re.sub(r'<style>.*?</style>|<[^>]*>', ' ', page, flags=re.S)
        .replace('\N{NO-BREAK SPACE}', ' ')
        .split()
    )
    text, _, legend = text.replace('then flagged images count as false alarms', '').partition(
        'ACC is the share of'
    )
    assert legend  # what the names mean in any report
    assert [
        text[max(0, hit.start() - 60) : hit.end() + 30] for hit in re.finditer(NEEDS_TRUTH, text)
    ] == []
    assert '<h3>Flagged training images</h3>' in page
    assert '<h3>Some training images</h3>' in page
    labels = ' '.join(re.findall(r'(?:aria-label|alt)="([^"]*)"', page))
    assert re.findall(NEEDS_TRUTH, labels) == []
