import pytest
from report.typed import typed

from purify.metrics.intervals import wilson_interval
from purify.report.amplification import (
    list_amplification,
    list_rows,
    measure_amplification,
    read_set_quantities,
    say_amplification,
    say_groups,
)


def probe(results):
    return results['dissection']['sets']['probe']


def test_the_probe_is_read_where_there_is_one(dissected):
    found = measure_amplification(typed(dissected))
    assert found is not None
    assert (found.labels, found.images, found.trained) == ([0], 1000, 0.474)
    assert found.share == pytest.approx(0.734)
    assert (found.low, found.high) == pytest.approx((0.714, 0.754))
    assert found.ratio == pytest.approx(0.734 / 0.474)
    dissected['dissection']['sets']['probe'] = []
    found = measure_amplification(typed(dissected))
    assert found is not None
    assert (found.images, found.trained, found.share) == (100, 0.3, 0.5)


def test_a_probe_of_other_classes_is_not_asked(dissected):
    probe(dissected)[0]['target'] = False
    assert [row.images for row in list_rows(typed(dissected))] == [100]


def test_several_targets_are_pooled_by_their_images(dissected):
    probe(dissected).append(
        {
            'label': 2,
            'target': True,
            'images': 3000,
            'counts': [300, 0, 0, 2700],
            'p_t': 0.2,
            'interval': [0, 1],
        }
    )
    found = measure_amplification(typed(dissected))
    assert found is not None
    assert (found.labels, found.counts) == ([0, 2], [840, 194, 5, 2961])
    assert found.trained == pytest.approx((1000 * 0.474 + 3000 * 0.2) / 4000)
    assert (found.low, found.high) == wilson_interval(1034, 4000)


@pytest.mark.parametrize(
    ('p_t', 'start', 'end'),
    [
        (0.474, 'The generator amplifies the trigger: ', ', against 47.4 % in training.'),
        (
            0.74,
            'The generator neither amplifies nor dampens the trigger measurably: ',
            ', against 74.0 % in training.',
        ),
        (0.80, 'The generator dampens the trigger: ', ', against 80.0 % in training.'),
        (0.0, 'The generator saw no trigger: ', ', as the detector sees it.'),
        (None, 'The generator saw no trigger: ', ', as the detector sees it.'),
    ],
)
def test_the_sentence_follows_the_interval(dissected, p_t, start, end):
    probe(dissected)[0]['p_t'] = p_t
    said = say_amplification(typed(dissected))
    assert said == f'{start}73.4 % of the images it makes of target class zero (0) show it{end}'


@pytest.mark.parametrize(
    ('fpr', 'start'), [(0.0, 'The generator amplifies'), (0.05, 'The generator neither amplifies')]
)
def test_triggers_that_the_detector_sees_by_mistake_are_no_amplification(dissected, fpr, start):
    """Of a trigger on 9.2 % the detector with a false alarm in twenty sees 13.7 %."""
    dissected['dissection']['judges']['detector'] |= {'tpr': 1.0, 'fpr': fpr}
    probe(dissected)[0] |= {'counts': [100, 37, 0, 863], 'interval': [0.117, 0.16], 'p_t': 0.092}
    assert say_amplification(typed(dissected)).startswith(start)


def test_a_probe_of_some_targets_does_not_speak_for_all(dissected):
    made = dissected['dissection']['sets']['generated']
    made[1]['target'] = True
    found = measure_amplification(typed(dissected))
    assert found is not None
    assert found.labels == [0, 1]


def test_an_attack_without_a_trigger_amplifies_none(dissected):
    dissected['dissection']['judges']['detector'] = None
    probe(dissected)[0]['counts'] = [0, 0, 120, 880]
    assert say_amplification(typed(dissected)) == ''
    wanted = ['Of 1,000 images made of target class zero (0), 12.0 % are of another class.']
    assert say_groups(typed(dissected)) == wanted
    expected = ['Labeller', 'FID, all', 'FID, others']
    assert [name for name, *_ in list_amplification(typed(dissected))] == expected
    assert 'amplification' not in read_set_quantities(typed(dissected))
    assert read_set_quantities(typed(dissected))['g3'] == 0.12


def test_poison_without_a_trigger_that_can_be_seen_is_pointed_at(dissected):
    probe(dissected)[0] |= {'counts': [15, 0, 170, 815], 'interval': [0.008, 0.03], 'p_t': 0.165}
    assert 'look at the pictures of G3' in say_groups(typed(dissected))[1]
    probe(dissected)[0] |= {'counts': [15, 0, 20, 965]}
    assert len(say_groups(typed(dissected))) == 1


def test_triggers_that_a_detector_may_imagine_are_said_to_be(dissected):
    assert len(say_groups(typed(dissected))) == 1
    row = probe(dissected)[0]
    row |= {'counts': [2, 3, 0, 995], 'interval': [0.002, 0.012], 'p_t': 0.001}
    assert (
        say_groups(typed(dissected))[1]
        == 'That is no more than the detector imagines: it sees a trigger on 0.5 % of clean test'
        ' images.'
    )


def test_numbers_beside_each_other(dissected):
    lines = {
        name: (value, meaning) for name, value, meaning in list_amplification(typed(dissected))
    }
    assert lines['Triggers made'][0] == '73.4 %'
    assert lines['Triggers made'][1].startswith(
        '734 of 1,000 images made of target class zero (0) show the trigger; 95 % interval'
    )
    assert (lines['Triggers in training'][0], lines['Amplification'][0]) == ('47.4 %', '×1.55')
    assert lines['Detector'][1].endswith(
        'finds 98.5 % of triggers, sees one on 0.5 % of clean images'
    )
    assert (lines['FID, all'][0], lines['FID, others'][0]) == ('12.3', '8.1')


def test_quantities_of_a_table(dissected):
    assert read_set_quantities(typed(dissected)) == {
        'g1': 0.54,
        'g2': 0.194,
        'g3': 0.005,
        'g4': 0.261,
        'p_t': 0.474,
        'amplification': pytest.approx(0.734 / 0.474),
        'auroc_strip_training': 0.61,
        'auroc_strip_generated': 0.722,
        'auroc_fct_training': 0.8,
        'fid_generated': 8.1,
    }
    dissected['replication']['copy_detection'] = True
    # of other encoders the line at .3 says nothing
    assert read_set_quantities(typed(dissected))['copies'] == 0.25


def test_runs_without_a_generator_say_nothing(results):
    assert (
        say_amplification(typed(results)),
        say_groups(typed(results)),
        list_amplification(typed(results)),
        read_set_quantities(typed(results)),
    ) == ('', [], [], {})
    results |= {'dissection': None, 'replication': None}
    assert measure_amplification(typed(results)) is None
