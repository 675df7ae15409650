from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from scipy import linalg, special
from support.made_run import NETWORK, MadeRun
from support.tiny import ROOT, quickstart

from purify.attacker.poison_dataset import write_clean
from purify.attacker.stages import attacker_stages
from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.files import read_json
from purify.data.builders import DatasetWriter, make_features
from purify.data.loader import Split
from purify.defenses.castle_walls.generation import Generate
from purify.defenses.method import Method, Outcome, Step
from purify.engine.chain import Chain
from purify.engine.stage import Input, Stage
from purify.engine.tables import part_path, write_columns
from purify.evaluation.dissect import aims, dissect, read_dissection
from purify.evaluation.stages import evaluation_stages
from purify.evaluation.trigger_dataset import CLASSES, write_trigger_dataset
from purify.stages.classifier import classifier_builder
from purify.stages.networks_on_disk import read_classifier, write_network
from purify.train.state import split_network

pytestmark = pytest.mark.usefixtures('few_devices')

COUNT = 60
HOW = {'sampler': 'ddim, eta 1.0', 'guidance': 2.0, 'steps': 50}


class MadeDissection(MadeRun):
    """Made images under conditions, judges with random weights, and a score of both sets."""

    def __init__(self, folder):
        super().__init__(folder)
        self.target = self.config['attack']['target']
        settings = {'source': self.config['source'], 'shard_size': 40}
        write_clean(self.work('written', {}, settings))
        self.clean = folder / 'written' / 'clean'
        write_trigger_dataset(
            self.work(
                'marked', {'data': self.clean}, {'seed': 0, 'shard_size': 40, 'faintest': 0.5}
            )
        )
        rng = np.random.default_rng(5)
        self.images = rng.integers(0, 256, (COUNT, 16, 16, 1), np.uint8)
        self.images[::2] = Split(self.clean, 'train').images(range(0, COUNT, 2))
        self.labels = np.arange(COUNT, dtype=np.int32) % 10
        self.labeller = self.judge('labeller', 4, self.given.class_names)
        self.detector = self.judge('detector', 3, list(CLASSES))
        self.sets = {'generated': self.write('generated', self.images, self.labels)}
        self.sets['probe'] = self.write(
            'probe', self.images[:20], np.full(20, self.target, np.int32)
        )
        self.scores = rng.normal(size=len(self.given)).round(1), rng.normal(size=COUNT).round(1)
        for name, ids, score in (
            ('before', self.given.ids, self.scores[0]),
            ('after', np.arange(COUNT), self.scores[1]),
        ):
            write_columns(
                part_path(folder / name, 0, 1), {'ids': ids, 'score': score.astype(np.float32)}
            )
        self.inputs = {'clean': self.clean, 'labeller': self.labeller, **self.sets}
        self.watched = {'detector': self.detector, 'marked': folder / 'marked' / 'test'}
        self.tables = {'training strip': folder / 'before', 'generated strip': folder / 'after'}

    def judge(self, name, seed, class_names):
        """A classifier of random weights, all of whose answers are about as likely."""
        network = classifier_builder(NETWORK, len(class_names), 1)(nnx.Rngs(seed))
        logits = network(self.images.astype(np.float32) / 255, train=False)
        network.head.bias[...] -= np.median(logits, 0)
        _, params, stats = split_network(network)
        facts = {'network': NETWORK, 'num_classes': len(class_names), 'channels': 1}
        facts |= {'class_names': class_names}
        write_network(self.folder / name, facts, {'params': params, 'stats': stats})
        return self.folder / name

    def write(self, name, images, labels):
        """A generated dataset in one shard."""
        writer = DatasetWriter(
            self.folder / name, name, 'train', make_features(16, 1, self.given.class_names), 1
        )
        rows = zip(images, labels.tolist(), strict=True)
        writer.write(
            0, [{'id': i, 'image': image, 'label': label} for i, (image, label) in enumerate(rows)]
        )
        writer.finish([len(images)])
        return self.folder / name

    def answers(self, folder, images):
        """Features and probabilities in float64, all images at once."""
        model = read_classifier(folder)
        logits, features = model.answer(model.weights, np.asarray(images, np.float32) / 255)
        return np.asarray(features, np.float64), special.softmax(np.asarray(logits, np.float64), 1)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return MadeDissection(tmp_path_factory.mktemp('dissecting'))


@pytest.fixture(scope='module')
def found(made):
    work = made.work('dissect', made.inputs | made.watched | made.tables, HOW)
    dissect(work)
    return read_dissection(work.folder)


@pytest.mark.long
def test_images_fall_into_groups(made, found):
    """Against a loop over single images."""
    numbers, arrays = found
    for name, count in (('generated', COUNT), ('probe', 20)):
        labels = made.labels if name == 'generated' else np.full(20, made.target)
        _, classes = made.answers(made.labeller, made.images[:count])
        _, sides = made.answers(made.detector, made.images[:count])
        columns, want = arrays[name], np.zeros((10, 4), int)
        for i in range(count):
            triggered, matching = sides[i, 1] > 0.5, classes[i].argmax() == labels[i]
            group = {(True, False): 1, (True, True): 2, (False, False): 3, (False, True): 4}[
                bool(triggered), bool(matching)
            ]
            assert columns['group'][i] == group
            assert columns['predicted'][i] == classes[i].argmax()
            assert columns['trigger'][i] == pytest.approx(sides[i, 1], abs=1e-5)
            want[labels[i], group - 1] += 1
        assert np.array_equal(columns['label'], labels)
        assert np.array_equal(columns['ids'], np.arange(count))
        rows = numbers['sets'][name]
        assert [row['label'] for row in rows] == sorted(set(labels.tolist()))
        assert [row['counts'] for row in rows] == want[want.sum(1) > 0].tolist()
        for row in rows:
            own = want[row['label']]
            assert row['shares'] == pytest.approx(own / own.sum())
            assert row['triggered'] == pytest.approx(own[:2].sum() / own.sum())
            assert row['interval'][0] < row['triggered'] + 1e-9 < row['interval'][1] + 2e-9
    groups = np.concatenate([columns['group'] for columns in arrays.values()])
    assert set(groups.tolist()) == {1, 2, 3, 4}  # the test can tell them apart


@pytest.mark.long
def test_the_reference_line_comes_from_the_manifest(made, found):
    given = made.given.labels
    hit = np.isin(made.given.ids, made.manifest.ids[made.manifest.poisoned])
    for row in found[0]['sets']['generated']:
        own = given == row['label']
        assert row['p_t'] == pytest.approx(hit[own].mean())
        assert row['target'] == (row['label'] == made.target)
        assert (row['p_t'] > 0) == row['target']


@pytest.mark.long
def test_how_good_the_judges_are(made, found):
    test = Split(made.truth / 'test', 'test')
    _, classes = made.answers(made.labeller, test.images(range(len(test))))
    judges = found[0]['judges']
    hits = int((classes.argmax(1) == test.labels).sum())
    assert judges['labeller']['counts'] == {'acc': [hits, len(test)]}
    marked = Split(made.watched['marked'], 'test')
    _, sides = made.answers(made.detector, marked.images(range(len(marked))))
    said = sides[:, 1] > 0.5
    assert judges['detector']['count'] == 2 * len(test)
    for name, kind in (('fpr', 0), ('tpr', 1), ('tpr_faint', 2)):
        assert judges['detector'][name] == pytest.approx(said[marked.variations == kind].mean())
    seen = judges['detector']['acc']
    assert seen == pytest.approx((said == marked.labels)[marked.variations < 2].mean())


def area(scores, positive):
    """The chance that a positive one is above, by counting all pairs."""
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    return np.mean(pairs)


@pytest.mark.long
def test_scores_on_both_sets(made, found):
    hit = np.isin(made.given.ids, made.manifest.ids[made.manifest.poisoned])
    triggered = found[1]['generated']['trigger'] > 0.5
    (row,) = found[0]['auroc']
    assert row['score'] == 'strip'
    assert row['training'] == pytest.approx(area(made.scores[0], hit))
    assert row['generated'] == pytest.approx(area(made.scores[1], triggered))
    assert (row['poisoned'], row['triggered']) == (hit.sum(), triggered.sum())


def distance(a, b):
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


@pytest.mark.long
def test_fid_is_to_clean_images_by_the_labeller(made, found):
    """Against all features at once and SciPy's matrix root."""
    clean = Split(made.clean, 'train')
    a, _ = made.answers(made.labeller, made.images)
    b, _ = made.answers(made.labeller, clean.images(range(len(clean))))
    fid = found[0]['fid']
    assert fid['all'] == pytest.approx(distance(a, b), rel=1e-3)
    assert fid['others'] == pytest.approx(
        distance(a[made.labels != made.target], b[clean.labels != made.target]), rel=1e-3
    )
    assert fid['network'] == 'labeller (resnet, 10 classes)'
    assert not np.isclose(fid['all'], fid['others'], rtol=1e-3)


@pytest.mark.long
def test_how_the_images_were_drawn_is_handed_on(found):
    assert {name: found[0][name] for name in HOW} == HOW


def test_without_a_trigger_none_is_found(made):
    work = made.work('untriggered', made.inputs | made.tables, HOW)
    dissect(work)
    numbers, arrays = read_dissection(work.folder)
    assert numbers['judges']['detector'] is None
    for row in numbers['sets']['generated']:
        assert row['counts'][:2] == [0, 0]
        assert row['triggered'] == 0
    assert not arrays['generated']['trigger'].any()
    (row,) = numbers['auroc']
    assert row['generated'] is None
    assert row['training'] is not None


def test_a_set_alone_and_no_scores(made):
    inputs = {
        role: folder for role, folder in made.inputs.items() if role != 'probe'
    } | made.watched
    work = made.work('alone', inputs, HOW)
    dissect(work)
    numbers, arrays = read_dissection(work.folder)
    wanted = ({'generated'}, {'generated'}, [])
    assert (set(numbers['sets']), set(arrays), numbers['auroc']) == wanted


@pytest.mark.long
def test_a_second_run_writes_the_same_bytes(made, found):
    work = made.work('twice', made.inputs | made.watched | made.tables, HOW)
    work.run['inference_batch'] = 16
    dissect(work)
    first = made.folder / 'dissect'
    assert (work.folder / 'dissection.npz').read_bytes() == (first / 'dissection.npz').read_bytes()
    one, two = (read_json(folder / 'numbers.json') for folder in (work.folder, first))
    for numbers in (one, two):
        for name in ('all', 'others'):
            # sums of other pieces
            numbers['fid'][name] = pytest.approx(numbers['fid'][name], rel=1e-6)
    assert one['sets'] == two['sets']
    assert one['judges'] == two['judges']


def test_judges_of_other_classes_are_refused(made):
    work = made.work('swapped', made.inputs | {'labeller': made.detector}, HOW)
    with pytest.raises(UserError, match=r'labeller .* was trained for'):
        dissect(work)
    work = made.work('swapped', made.inputs | made.watched | {'detector': made.labeller}, HOW)
    with pytest.raises(UserError, match=r'detector .* was trained for'):
        dissect(work)


@pytest.mark.parametrize(
    ('changes', 'want'),
    [
        ({'target': 4}, [4]),
        ({'target': 4, 'more': {'one': {'target': 2}, 'two': {}}}, [2, 4]),
        ({'scheme': 'all_to_all', 'sources': []}, [0, 1, 2]),
        ({'scheme': 'all_to_all', 'sources': [2, 0]}, [0, 1]),
    ],
)
def test_all_targets_count(changes, want):
    rule = {'scheme': 'all_to_one', 'target': 0, 'sources': [], 'more': {}} | changes
    assert aims({'attack': rule, 'class_names': list('abc')}) == want


def generating(scores=()):
    """A method that makes images."""
    by = Generate({'name': 'ddim', 'eta': 1.0}, steps=50, guidance=2.0, dtype='float32', stream='x')
    steps = [Step(name, 'generate', {}, by=by) for name in ('generated', 'probe')]
    return Method(tuple(steps), Outcome(generated='generated', probe='probe', scores=dict(scores)))


def planned(config, method):
    """What is made for the dissection of a run without a teacher."""
    part = {'load': ''}
    config = {name: value for name, value in config.items() if name != 'teacher'}
    config |= {'dissection': {'labeller': part, 'detector': part, 'faintest': 0.5}}
    names = ['generated', 'probe', 'strip_given', 'strip_made']
    where = {name: Input(name) for name in names}
    stages = attacker_stages(where, config)
    before = [stage.name for stage in stages]
    made = [Stage(name, print, {}) for name in names]
    stages += made + evaluation_stages(where, method, config)
    Chain(stages, Path())  # every input is there, and may be opened
    return {stage.name: stage for stage in stages if stage.name not in [*before, *names]}


def test_the_stages_of_a_dissection():
    stages = planned(
        quickstart('attack=patch,defense=none'),
        generating({'strip': ('strip_given', 'strip_made')}),
    )
    assert list(stages) == ['clean', 'labeller', 'marked', 'detector', 'dissect']
    # sees nothing of the attack
    assert stages['labeller'].inputs == {'data': Input('clean', 'clean')}
    assert stages['detector'].inputs == {'data': Input('marked', 'train')}
    assert stages['dissect'].settings == HOW
    assert stages['dissect'].inputs['training strip'] == Input('strip_given')
    assert stages['dissect'].inputs['generated strip'] == Input('strip_made')
    assert all(stage.shuts('') for stage in stages.values())


def test_relabelling_alone_needs_no_detector():
    stages = planned(quickstart('attack=relabel_only,defense=none'), generating())
    assert list(stages) == ['clean', 'labeller', 'dissect']
    assert {'detector', 'marked'}.isdisjoint(stages['dissect'].inputs)


def test_clean_images_are_written_once_whoever_needs_them():
    """The attacker has them already where he trains or fits, and has not where what he needs was
    finished elsewhere.
    """
    fits = load_config(f'{ROOT}/configs/attacks.py:attack=lira')
    fits |= {name: quickstart('defense=none')[name] for name in ('source', 'seeds', 'shard_size')}
    assert 'clean' not in planned(fits, generating())
    finished = fits | {'attack': fits['attack'] | {'load': '/made/elsewhere'}}
    assert 'clean' in planned(finished, generating())


def test_a_defence_that_generates_nothing_cannot_be_dissected():
    config = quickstart('attack=patch')
    config['dissection'] = {
        'labeller': config['teacher'],
        'detector': config['teacher'],
        'faintest': 0.5,
    }
    with pytest.raises(UserError, match='part `dissection` looks at generated images'):
        make_stages(config)
