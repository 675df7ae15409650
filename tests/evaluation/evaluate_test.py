from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, special, stats
from support.made_run import MadeRun, WeightsOnly

from purify.attacker.manifest import Manifest
from purify.core.errors import UserError
from purify.core.files import read_json, write_json
from purify.evaluation import image_quality as likeness
from purify.evaluation import residual_attack as residual
from purify.evaluation.evaluate import describe_findings, describe_shares, evaluate
from purify.evaluation.image_quality import describe_likeness
from purify.metrics.distribution import Answers, Moments
from purify.metrics.intervals import Rate
from purify.stages.networks_on_disk import read_classifier

pytestmark = pytest.mark.usefixtures('few_devices')

NONE = np.full(10, -1)
LABELS = np.arange(10) % 2
MANIFEST = Manifest(
    ids=np.arange(10),
    true_labels=LABELS,
    given_labels=np.where(np.arange(10) < 4, 0, LABELS),
    poisoned=np.arange(10) < 4,
    cover=np.zeros(10, bool),
    trigger=NONE,
    copy_of=NONE,
    facts={},
)


def test_shares_become_numbers_counts_and_intervals():
    found = describe_shares({'acc': Rate(9, 10), 'asr': None, 'ra': Rate(0, 0)})
    assert (found['acc'], found['asr'], found['ra']) == (0.9, None, None)
    assert found['counts'] == {'acc': [9, 10], 'asr': None, 'ra': [0, 0]}
    low, high = found['intervals']['acc']
    assert low < 0.9 < high
    assert found['intervals']['ra'] is None


def test_findings_are_held_against_the_truth(tmp_path):
    """3 of 4 poisoned found, 1 of 6 clean accused; 8 of 10 labels right."""
    flagged = np.isin(np.arange(10), [0, 1, 2, 9])
    labels = np.arange(10) % 2
    labels[[4, 5]] = 1 - labels[[4, 5]]
    np.savez(tmp_path / 'findings.npz', ids=np.arange(10), flagged=flagged, labels=labels)
    write_json(tmp_path / 'findings.json', {'target_labels': [0]})
    found = describe_findings(tmp_path, MANIFEST)
    assert (found['tpr'], found['target_labels'], found['label_accuracy']) == (0.75, [0], 0.8)
    assert found['fpr'] == pytest.approx(1 / 6)


def test_dropped_images_have_no_label_afterwards(tmp_path):
    """8 of 10 labels right, one of the wrong ones and two of the right ones dropped."""
    labels, keep = np.arange(10) % 2, ~np.isin(np.arange(10), [5, 6, 7])
    labels[[4, 5]] = 1 - labels[[4, 5]]
    columns = {'ids': np.arange(10), 'flagged': ~keep, 'labels': labels}
    np.savez(tmp_path / 'findings.npz', **columns, keep=keep)
    write_json(tmp_path / 'findings.json', {})
    assert describe_findings(tmp_path, MANIFEST)['label_accuracy'] == pytest.approx(6 / 7)
    np.savez(tmp_path / 'findings.npz', **columns, keep=np.zeros(10, bool))
    assert describe_findings(tmp_path, MANIFEST)['label_accuracy'] is None


def write_findings(folder, facts, **columns):
    np.savez(folder / 'findings.npz', ids=np.arange(10), **columns)
    write_json(folder / 'findings.json', facts)
    return folder


def test_relabelled_images_are_held_against_the_true_labels(tmp_path):
    """Ids 0 to 3 are poisoned, given 0, truly 0 1 0 1; of class 0 are also 4, 6, 8."""
    labels = np.array([0, 1, 1, 1, 1, 1, 0, 1, 0, 1])  # 1, 2, 3 and 4 are moved; 2 and 4 wrongly
    flagged = np.isin(np.arange(10), [0, 1, 2, 4, 6])  # 3 is moved without being taken for poisoned
    keep = ~np.isin(np.arange(10), [6, 7])
    folder = write_findings(
        tmp_path, {'target_labels': [0]}, flagged=flagged, labels=labels, keep=keep
    )
    found = describe_findings(folder, MANIFEST)
    assert found['counts'] == {'relabel_accuracy': [1, 3], 'relabel_accuracy_poisoned': [1, 2]}
    wanted = (pytest.approx(1 / 3), 0.5)
    assert (found['relabel_accuracy'], found['relabel_accuracy_poisoned']) == wanted
    assert found['removed'] == {'tpr': 3 / 4, 'fpr': pytest.approx(3 / 6)}  # 1, 2, 3; and 4, 6, 7
    assert found['auroc'] is None


def test_fates_of_classes_named_or_aimed_at_are_counted(tmp_path):
    """Poison carries label 0; named is 1, whose images 5, 7, 9 are all clean.

    Class 0: 0 to 3 poisoned, 4, 6, 8 clean.
    """
    labels = np.array([0, 1, 1, 1, 1, 1, 0, 0, 0, 1])
    keep = ~np.isin(np.arange(10), [3, 5, 6])
    columns = {'flagged': ~keep, 'labels': labels, 'keep': keep}
    found = describe_findings(write_findings(tmp_path, {'target_labels': [1]}, **columns), MANIFEST)
    # 1, 2, 4 and 7
    assert found['found'] == {'images': 10, 'flagged': 3, 'dropped': 3, 'relabelled': 4}
    assert found['fates'] == [
        {
            'label': 0,
            'every': {'kept': 2, 'dropped': 2, 'relabelled': 3},
            'clean': {'kept': 1, 'dropped': 1, 'relabelled': 1},  # 8; 6; 4
            # 0; 3, dropped under whatever label; 1 and 2
            'poisoned': {'kept': 1, 'dropped': 1, 'relabelled': 2},
        },
        {
            'label': 1,
            'every': {'kept': 1, 'dropped': 1, 'relabelled': 1},
            'clean': {'kept': 1, 'dropped': 1, 'relabelled': 1},  # 9; 5; 7
            'poisoned': {'kept': 0, 'dropped': 0, 'relabelled': 0},
        },
    ]
    # names no class
    assert describe_findings(write_findings(tmp_path, {}, **columns), MANIFEST)['fates'] is None


def test_scores_are_held_against_the_truth_inside_the_named_classes(tmp_path):
    """Class 0 holds 0 to 3, poisoned, and 4, 6, 8; class 1 the rest, clean whatever they score."""
    columns = {'flagged': np.zeros(10, bool), 'score': -np.array([5.0, 4, 3, 0, 2, 9, 1, 9, 0, 9])}
    columns['poison_score'] = -columns['score']
    pairs = [3, 3, 3, 0.5]  # clean ones below each poisoned one, ties half
    found = describe_findings(
        write_findings(tmp_path, {'target_labels': [0, 1]}, **columns), MANIFEST
    )
    assert found['auroc'] == pytest.approx(sum(pairs) / 12)
    del columns['poison_score']
    found = describe_findings(write_findings(tmp_path, {'target_labels': [0]}, **columns), MANIFEST)
    assert found['auroc'] == pytest.approx(1 - sum(pairs) / 12)
    for named in ([], [1], None):
        assert (
            describe_findings(
                write_findings(tmp_path, {'target_labels': named}, **columns), MANIFEST
            )['auroc']
            is None
        )


def test_comparable_scores_are_held_against_the_truth_over_all_images(tmp_path):
    """Ids 0 to 3 are poisoned, those of both classes are compared with them."""
    score = np.array([5.0, 4, 3, 0, 2, 9, 1, 9, 0, 9])
    wins = sum(
        (score[k] > score[j]) + 0.5 * (score[k] == score[j]) for k in range(4) for j in range(4, 10)
    )
    folder = write_findings(tmp_path, {'comparable': True}, flagged=np.zeros(10, bool), score=score)
    assert describe_findings(folder, MANIFEST)['auroc'] == pytest.approx(wins / 24)


def test_filters_relabel_nothing(tmp_path):
    flagged = np.arange(10) < 5
    columns = {'flagged': flagged, 'keep': ~flagged, 'labels': MANIFEST.given_labels}
    found = describe_findings(write_findings(tmp_path, {}, **columns), MANIFEST)
    assert found['counts'] == {'relabel_accuracy': [0, 0], 'relabel_accuracy_poisoned': [0, 0]}
    assert (found['relabel_accuracy'], found['relabel_accuracy_poisoned']) == (None, None)
    assert found['removed'] == {name: found[name] for name in ('tpr', 'fpr')}


def test_no_findings_are_no_numbers():
    assert set(describe_findings(None, MANIFEST).values()) == {None}


def test_findings_without_target_labels_name_none(tmp_path):
    np.savez(tmp_path / 'findings.npz', ids=np.arange(10), flagged=np.arange(10) < 5)
    write_json(tmp_path / 'findings.json', {})
    found = describe_findings(tmp_path, MANIFEST)
    assert (found['tpr'], found['target_labels'], found['label_accuracy']) == (1, None, None)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    made = MadeRun(tmp_path_factory.mktemp('made'))
    made.teacher, made.student = made.classifier('teacher', 1), made.classifier('student', 2)
    return made


def answers(folder, images):
    """A network's features and class probabilities of images u8, in float64."""
    model = read_classifier(folder)
    logits, features = model.answer(model.weights, jnp.asarray(np.stack(images), jnp.float32) / 255)
    return np.asarray(features, np.float64), special.softmax(np.asarray(logits, np.float64), 1)


def score(p):
    return np.exp(stats.entropy(p, p.mean(0)[None], axis=1).mean())


@pytest.mark.long
def test_likeness_is_to_the_images_before_the_attack(made):
    """Against all features at once and SciPy's matrix root; the defence dropped some images."""
    kept = made.given.ids[::2]
    inputs = {'poisoned': made.poisoned, 'purified': made.purified(kept), 'student': made.student}
    found = describe_likeness(made.work('likeness', inputs, {'features': 'student'}))
    a, p = answers(made.student, [made.original(int(i)) // 2 + 60 for i in kept])
    b, q = answers(made.student, [made.original(int(i)) for i in made.given.ids])
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    want = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert found['fid'] == pytest.approx(want, rel=1e-3)
    assert found['is'] == pytest.approx(score(p), rel=1e-6)
    assert found['is_raw'] == pytest.approx(score(q), rel=1e-6)
    assert (found['images'], found['remade'], found['notes']) == (len(kept), True, [])
    assert found['features'] == 'student (resnet, 10 classes)'
    as_poisoned, _ = answers(made.student, made.given.images(range(len(made.given))))
    # the test can tell the two apart
    assert not np.allclose(as_poisoned.mean(0), b.mean(0), rtol=1e-4)


def test_a_network_from_elsewhere_gives_the_features(made):
    inputs = {
        'poisoned': made.poisoned,
        'purified': made.purified(made.given.ids[:4]),
        'features': made.teacher,
    }
    found = describe_likeness(
        made.work('outside', inputs, {'features': f'/else/where/{made.teacher.name}'})
    )
    assert found['features'].startswith('teacher (')
    assert 'biased' in found['notes'][0]


@pytest.mark.parametrize(
    ('candidate', 'keep', 'remade'),
    [(None, None, True), (-1, None, False), (0, None, True), (0, False, False), (2, True, True)],
)
def test_images_are_remade_where_a_candidate_took_the_place_of_one_kept(
    made, candidate, keep, remade
):
    columns, count = {'flagged': np.zeros(len(made.given), bool)}, len(made.given)
    if candidate is not None:
        columns['candidate'] = np.where(np.arange(count) == 5, candidate, -1).astype(np.int32)
    if keep is not None:
        columns['keep'] = np.where(np.arange(count) == 5, keep, True)
    name = f'remade-{candidate}-{keep}'
    inputs = {
        'poisoned': made.poisoned,
        'purified': made.purified(made.given.ids[:4]),
        'student': made.student,
    }
    work = made.work(
        name,
        inputs | {'findings': made.table(f'{name}-findings', columns)},
        {'features': 'student'},
    )
    assert describe_likeness(work)['remade'] is remade


def test_likeness_that_cannot_be_told(made):
    inputs = {
        'poisoned': made.poisoned,
        'purified': made.purified(made.given.ids[:1]),
        'student': made.student,
    }
    work = made.work('few', inputs, {'features': 'student'})
    found = describe_likeness(work)
    assert found['fid'] is None
    assert found['notes'] == ['1 images are too few for FID.']
    assert describe_likeness(made.work('not', inputs, {'features': 'none'})) is None
    with pytest.raises(UserError, match="features='teacher': this run has no teacher"):
        describe_likeness(made.work('missing', inputs, {'features': 'teacher'}))


def test_hosts_add_up_what_each_has_seen(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    features, logits = rng.normal(size=(40, 3)), rng.normal(size=(40, 5))
    whole = likeness.Likeness(Moments.of(features), Answers.of(logits))
    halves = [
        likeness.Likeness(Moments.of(features[host::2]), Answers.of(logits[host::2]))
        for host in (0, 1)
    ]
    monkeypatch.setattr(likeness.jax, 'process_count', lambda: 2)
    monkeypatch.setattr(likeness.devices, 'barrier', lambda name: None)

    def share(host):
        monkeypatch.setattr(likeness.jax, 'process_index', lambda: host)
        return likeness.merge_hosts(
            SimpleNamespace(name='evaluate', folder=tmp_path), 'purified', halves[host]
        )

    # nothing waits here for host 1
    with pytest.raises(UserError, match=r'purified-1\.npz: .*No such file'):
        share(0)
    found = [share(1), share(0)]
    for one in found:
        assert (one.moments.count, one.answers.count) == (40, 40)
        np.testing.assert_allclose(one.moments.covariance, whole.moments.covariance, rtol=1e-12)
        np.testing.assert_allclose(one.answers.total, whole.answers.total, rtol=1e-12)
        assert one.answers.certainty == pytest.approx(whole.answers.certainty)
    np.testing.assert_array_equal(found[0].moments.scatter, found[1].moments.scatter)


class Handed:
    """Stands for the candidates: what the attacker makes of a triggered image."""

    def __init__(self, make, name):
        self.make, self.name = make, name

    dtype = 'float32'

    def chosen(self, models, context, rank, count_raw):
        wanted = ({'prior', 'classifier'}, (16, 16, 1), 10)
        assert (set(models), context.shape, len(context.class_names)) == wanted
        assert context.seed != 0  # a stream of its own
        assert (rank, count_raw) == (0.8, False)

        def rule(constants, rows):
            assert set(constants) == {'prior', 'classifier'}
            images = self.make(rows['image'])
            return {'image': images, 'finite': jnp.full(len(images), self.name != 'broken')}

        return rule


@pytest.fixture
def judge(made, monkeypatch):
    """Evaluates with a stand-in for the candidates; -> numbers."""

    def judge(name, make=lambda images: images):
        monkeypatch.setattr(
            residual, 'load_variation_model', lambda *args, **options: WeightsOnly()
        )
        settings = {'features': 'none'}
        inputs = {'teacher': made.teacher, 'student': made.student, 'benign': made.teacher}
        inputs |= {'prior': made.folder}
        work = made.work(
            name,
            inputs,
            settings | {'residual_choice': {'rank': 0.8, 'count_raw': False}, 'seed': 0},
        )
        evaluate(work, candidates=Handed(make, name))
        return read_json(work.folder / 'numbers.json')

    return judge


def test_the_residual_attack_hands_in_purified_triggers(made, judge):
    """What changes nothing has the ASR itself; black images are all seen as one class."""
    numbers = judge('same')
    assert numbers['student']['residual_counts'] == numbers['student']['counts']['asr']
    assert numbers['student']['residual_asr'] == numbers['student']['asr']
    assert numbers['benign'] == numbers['teacher'] != numbers['student']
    assert 'residual_asr' not in numbers['teacher']
    _, p = answers(made.student, [np.zeros((16, 16, 1), np.uint8)])
    expected = 1.0 if p.argmax() == made.config['attack']['target'] else 0.0
    assert judge('black', jnp.zeros_like)['student']['residual_asr'] == expected


def test_a_broken_prior_is_no_number(judge):
    with pytest.raises(UserError, match=r'the prior gave NaN for 4\d triggered test images'):
        judge('broken')
