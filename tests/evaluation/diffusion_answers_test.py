import jax.numpy as jnp
import numpy as np
import pytest
from msgspec import to_builtins
from support.made_run import MadeRun
from support.small_dataset import bytes_of
from support.tiny import quickstart, run_chain

from purify.attacker.manifest import Manifest
from purify.commands.check import check
from purify.commands.plan import make_stages
from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.core.files import read_json, write_json
from purify.data.loader import Split
from purify.diffusion.schedules import make_noise_schedule
from purify.engine.chain import Chain
from purify.engine.tables import read_table, write_columns
from purify.evaluation import diffusion_answers as diffusing
from purify.evaluation.diffusion_answers import STAGE_OWN, choose_images, write_answers
from purify.evaluation.evaluate import describe_diffusion, evaluate
from purify.evaluation.results import gather
from purify.evaluation.testbench import Bench
from purify.metrics.intervals import wilson_interval

pytestmark = pytest.mark.usefixtures('few_devices')

SETTINGS = {
    'draws': 3,
    'p_mean': 0.0,
    'p_std': 0.5,
    'p_filter': 0.1,
    'p_filters': [0.0, 0.1],
    'weighting': 'none',
    'clip': False,
    'rounds': [],
    'images': 20,
    'dtype': 'float32',
    'seed': 3,
    'shard_size': 8,
}


class Brightest:
    """A generator under whose class k an image of mean brightness near k tenths is denoised best;
    it answers with x_0.
    """

    def __init__(self, class_names):
        self.class_names, self.state_shape, self.channels = class_names, (16, 16, 1), 1
        self.schedule = make_noise_schedule('linear', 1000, prediction='sample')
        self.deviation = 0.5
        self.weights = {'levels': np.linspace(-1, 1, 10, dtype=np.float32)}

    def encode(self, weights, images, keys):
        return images

    def predictor(self, weights, labels, guidance):
        return lambda x, t: jnp.broadcast_to(
            weights['levels'][labels][:, None, None, None], x.shape
        )


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    made = MadeRun(tmp_path_factory.mktemp('made'))
    made.teacher = made.classifier('teacher', 1)
    made.test = Split(made.truth / 'test', 'test')
    return made


@pytest.fixture
def run(made, monkeypatch):
    def run(name, **changes):
        monkeypatch.setattr(
            diffusing,
            'open_generator',
            lambda folder, dtype, vae_slice: Brightest(made.given.class_names),
        )
        work = made.work(f'diffused-{name}', {'generator': made.folder}, SETTINGS | changes)
        write_answers(work)
        return work

    return run


def expected(images, share):
    """Which of ten grey levels is nearest to an image, without the worst `share` of elements."""
    x0 = images.reshape(len(images), -1).astype(np.float64) / 127.5 - 1
    errors = np.sort((x0[:, None] - np.linspace(-1, 1, 10)[:, None]) ** 2, -1)
    return errors[..., : int(256 * (1 - share))].mean(-1).argmin(1)


@pytest.mark.long
def test_clean_and_triggered_test_images_are_classified(made, run):
    """The attack aims at one class, whose own images do not count."""
    folder = run('usual').folder
    where = choose_images(len(made.test), 20, 3)
    attack = Bench.open(made.work('bench', {}, {}), Manifest.read(made.truth)).attacks[0]
    images = np.asarray(made.test.images(where.tolist()))
    clean, hit = read_table(folder / 'clean'), read_table(folder / 'triggered-0')
    np.testing.assert_array_equal(clean['ids'], made.test.ids[where])
    among = made.test.labels[where] != made.config['attack']['target']
    assert 0 < among.sum() < len(where)
    np.testing.assert_array_equal(hit['ids'], made.test.ids[where][among])
    stamped = attack.stamp_many(images, made.test.ids[where].tolist())[among]
    for table, seen in ((clean, images), (hit, stamped)):
        wanted = np.stack([expected(seen, share) for share in (0, 0.1)], 1)
        np.testing.assert_array_equal(table['predictions'], wanted)
        assert table['errors'].shape == (len(seen), 10, 2)
    assert (clean['predictions'][among] != hit['predictions']).any()
    facts = {'draws': 3, 'weighting': 'none', 'images': 20, 'calls_per_image': 30, 'p_filter': 0.1}
    facts |= {'p_filters': [0.0, 0.1]}
    assert read_json(folder / 'facts.json') == facts


@pytest.mark.long
def test_calls_are_counted_and_elimination_saves_some(run):
    work = run('rounds', rounds=[[1, 4]])
    rows = sum(len(read_table(work.folder / name)['ids']) for name in ('clean', 'triggered-0'))
    assert work.cost.network_calls == rows * (10 + 2 * 4)
    assert read_json(work.folder / 'facts.json')['calls_per_image'] == 18


@pytest.mark.long
def test_a_stop_leaves_whole_shards_and_the_next_run_ends_the_same(run, made, monkeypatch):
    whole = bytes_of(run('usual').folder)
    stops = [0]

    def asked():
        stops[0] += 1
        return stops[0] > 1

    with monkeypatch.context() as patch:
        patch.setattr(preemption, 'asked', asked)
        with pytest.raises(Preempted):
            run('stopped')
    left = bytes_of(made.folder / 'diffused-stopped')
    assert 0 < len(left) - 1 < len(whole) - 1
    assert left.items() <= whole.items()
    assert bytes_of(run('stopped').folder) == whole
    (made.folder / 'diffused-stopped' / 'triggered-0' / sorted(whole)[-1].split('/')[-1]).unlink()
    assert bytes_of(run('stopped').folder) == whole


def test_fewer_images_are_drawn_by_the_seed():
    assert choose_images(9, 0, 1).tolist() == choose_images(9, 12, 1).tolist() == list(range(9))
    drawn = choose_images(50, 7, 1)
    assert len(set(drawn.tolist())) == 7
    assert (np.diff(drawn) > 0).all()
    assert drawn.tolist() != choose_images(50, 7, 2).tolist()


def test_a_generator_of_other_classes_is_refused(made, run, monkeypatch):
    monkeypatch.setattr(made.given, 'class_names', list('abcdefghij'))
    with pytest.raises(UserError, match='trained for classes a, b'):
        run('other')


def leave_answers(bench, folder, clean, hit, facts):
    """What the stage leaves: classes of test images at all positions, and at those that count."""
    _, among = bench.aim(bench.attacks[0])
    write_columns(
        folder / 'clean' / 'rows-00000-of-00001.npz', {'ids': bench.test.ids, 'predictions': clean}
    )
    columns = {'ids': bench.test.ids[among], 'predictions': hit[among]}
    write_columns(folder / 'triggered-0' / 'rows-00000-of-00001.npz', columns)
    write_json(folder / 'facts.json', facts)


@pytest.fixture(scope='module')
def answered(made):
    """(folder of answers, what it says of itself).

    Of the clean by the first filter all are right, by the second every third is wrong. The
    triggered are all taken for the target, or for what they are.
    """
    labels, target = made.test.labels, made.config['attack']['target']
    third = np.arange(len(labels)) % 3 == 0
    clean = np.stack([labels, np.where(third, (labels + 1) % 10, labels)], 1).astype(np.int32)
    hit = np.stack([np.full(len(labels), target), labels], 1).astype(np.int32)
    facts = {'draws': 3, 'weighting': 'edm', 'images': len(labels), 'calls_per_image': 30}
    facts |= {'p_filter': 0.05}
    bench = Bench.open(made.work('answered', {}, {}), made.manifest)
    folder = made.folder / 'answers'
    leave_answers(bench, folder, clean, hit, facts | {'p_filters': [0.0, 0.05]})
    return folder, facts


def test_the_evaluation_tells_shares_for_every_filter(made, answered):
    folder, facts = answered
    labels, target = made.test.labels, made.config['attack']['target']
    third = np.arange(len(labels)) % 3 == 0
    inputs = {'teacher': made.teacher, 'diffused': folder}
    work = made.work('evaluated', inputs, {'features': 'none'})
    evaluate(work)
    numbers = read_json(work.folder / 'numbers.json')
    first, second = numbers['diffusion'].pop('filters')
    assert numbers['diffusion'] == facts
    count, right, other = len(labels), int((~third).sum()), int((labels != target).sum())
    assert (first['p_filter'], first['acc'], first['asr'], first['ra']) == (0.0, 1.0, 1.0, 0.0)
    wanted = (0.05, right / count, 0.0, 1.0)
    assert (second['p_filter'], second['acc'], second['asr'], second['ra']) == wanted
    assert second['counts'] == {'acc': [right, count], 'asr': [0, other], 'ra': [other, other]}
    assert second['intervals']['acc'] == pytest.approx(list(wilson_interval(right, count)))
    found = numbers['student']
    assert found == {name: value for name, value in second.items() if name != 'p_filter'}
    assert set(numbers['teacher']) == set(numbers['student'])


@pytest.mark.long
def test_a_student_of_its_own_stays_the_student(made, answered):
    inputs = {'teacher': made.teacher, 'student': made.teacher, 'diffused': answered[0]}
    work = made.work('both', inputs, {'features': 'none'})
    evaluate(work)
    numbers = read_json(work.folder / 'numbers.json')
    assert numbers['student'] == numbers['teacher'] != numbers['diffusion']['filters'][1]


def test_where_no_image_counts_there_is_no_share(made):
    work = made.work('none', {}, {})
    bench = Bench.open(work, made.manifest)
    write_columns(
        work.folder / 'clean' / 'rows-00000-of-00001.npz',
        {'ids': bench.test.ids[:2], 'predictions': np.zeros((2, 1), np.int32)},
    )
    facts = {'draws': 1, 'weighting': 'none', 'images': 2, 'calls_per_image': 10, 'p_filter': 0.0}
    facts |= {'p_filters': [0.0]}
    write_json(work.folder / 'facts.json', facts)
    found, headline = describe_diffusion(bench, work.folder)
    wanted = (None, [0, 0], None)
    assert (headline['asr'], headline['counts']['asr'], headline['intervals']['asr']) == wanted
    assert found['filters'][0]['counts']['acc'][1] == 2


def tiny_config(**changes):
    """The quickstart's data and teacher, and a generator of few parameters that takes two steps."""
    config = quickstart('defense=none')
    network = {'sample_size': 8, 'block_out_channels': [8], 'layers_per_block': 1}
    network |= {'attention_levels': 0, 'norm_num_groups': 4}
    network |= {'dropout': 0.0, 'dtype': 'float32'}
    optim = {**config['teacher']['optim']}
    goal = {
        'name': 'ddpm',
        'drop': 0.1,
        'schedule': {'name': 'linear', 'steps': 1000, 'prediction': 'epsilon'},
    }
    length = {'epochs': 0.0, 'steps': 2, 'batch': 16, 'accumulate': 1, 'ema_decay': 0.5}
    part = {'objective': goal, 'network': network, 'optim': optim, 'stored_dtype': 'float32'}
    part |= {'augment': {}, 'init_from': ''}
    own = {name: value for name, value in SETTINGS.items() if name not in STAGE_OWN}
    config['defense'] = {'name': 'diffusion_classifier', 'generator': part | length} | own | changes
    return config


def test_a_config_of_it_is_shaped():
    found = check(tiny_config(draws=2, rounds=[[1, 4]]))
    assert not found.problems
    assert 'diffused: 14 network calls for each test image' in found.notes


@pytest.mark.long
def test_a_config_of_it_is_run(made, tmp_path):
    config = tiny_config(images=12, draws=2)
    config['teacher']['load'] = str(made.teacher)
    assert 'student' not in config
    chain = run_chain(config, tmp_path)
    assert list(chain.stages) == ['prepare', 'generator', 'diffused', 'evaluate']
    numbers = read_json(chain.folder('evaluate') / 'numbers.json')
    assert numbers['diffusion']['filters'][1]['counts'] == numbers['student']['counts']
    assert numbers['student']['counts']['acc'][1] == 12
    results = gather(config, chain, {})
    assert to_builtins(results.diffusion) == numbers['diffusion']
    assert results.cost.network_calls == 20 * (12 + numbers['student']['counts']['asr'][1])
    answered = next(path for path in chain.folder('diffused').iterdir() if path.is_file())
    with chain.confined('generator'), pytest.raises(PermissionError):  # it tells of who is poisoned
        answered.read_bytes()
    answered.read_bytes()


@pytest.mark.long
def test_what_does_not_fit_is_a_problem(tmp_path):
    assert any('keep 11 of 10' in text for text in check(tiny_config(rounds=[[1, 11]])).problems)
    assert any(
        'p_filter=0.2 is none of' in text for text in check(tiny_config(p_filter=0.2)).problems
    )


def test_every_setting_changes_the_stage_that_asks():
    first = Chain(make_stages(tiny_config()), 'store').prints
    others = {'draws': 4, 'p_mean': 0.1, 'p_std': 0.6, 'p_filter': 0.0, 'p_filters': [0.1, 0.2]}
    others |= {'weighting': 'edm', 'clip': True}
    others |= {'rounds': [[1, 5]], 'images': 3, 'dtype': 'bfloat16'}
    assert set(others) | set(STAGE_OWN) == set(SETTINGS)
    for name, value in others.items():
        prints = Chain(make_stages(tiny_config(**{name: value})), 'store').prints
        changed = {stage for stage in first if prints[stage] != first[stage]}
        assert changed == {'diffused', 'evaluate'}, name
