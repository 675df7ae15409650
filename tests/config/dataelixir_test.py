"""The configs of Zhou 2024: the paper's numbers stand where they belong, and a study changes what
it studies and nothing else.
"""

import inspect
from pathlib import Path

import pytest

from purify.commands.list import describe_run, points_of
from purify.config.load import load_config, load_module
from purify.config.resolve import leaves
from purify.config.sweeps import sweep_functions

CONFIG = f'{Path(__file__).parents[2]}/configs/dataelixir.py'
SETTINGS = ('digits', 'cifar10', 'tiny', 'lfw')
SWEEPS = tuple(sweep_functions(load_module(CONFIG)))
STUDIED = {  # sweep -> how many points, and the leaves (or parts) that may differ between them
    'attack': (5, ('attack',)),
    'table1': (45, ('attack', 'defense', 'student', 'prior', 'evaluation', 'surrogate', 'trigger')),
    'rates': (5, ('attack.rate',)),
    'targets': (3, ('attack.more',)),
    'labels': (5, ('attack.target',)),
    'start': (5, ('defense.start',)),
    'rounds': (5, ('defense.rounds',)),
    'kept': (5, ('defense.window', 'defense.kept')),
    'tau': (5, ('defense.tau',)),
    'selection': (2, ('defense.rounds', 'defense.window', 'defense.kept')),
    'labelling': (2, ('defense.labels',)),
    'prior': (
        3,
        ('prior', 'source.reference', 'source.reference_size', 'defense.start', 'defense.window'),
    ),
    'residual': (5, ('attack', 'surrogate', 'trigger')),
    'evaluations': (
        7,
        (
            'defense.steps',
            'defense.kept',
            'defense.window',
            'defense.sampler',
            'defense.forward',
            'defense.dtype',
            'defense.levels',
        ),
    ),
}


def configured(words='', *flags):
    """A config of `configs/dataelixir.py`."""
    return load_config(f'{CONFIG}:{words}' if words else CONFIG, flags)


def points(sweep, setting='digits'):
    """The settings of every run of a sweep, as `purify list --sweep` has them."""
    spec = f'{CONFIG}:setting={setting}'
    runs = [describe_run(spec, [], point, seed) for point, seed in points_of(spec, sweep, '0')]
    return [load_config(run['config'], run['flags']) for run in runs]


OF_A_LINE = ('start', 'kept')  # sweeps in steps of a prior of 1,000, which tiny's is not


def test_every_sweep_is_known_here():
    assert set(SWEEPS) == set(STUDIED)


@pytest.mark.long
@pytest.mark.parametrize('sweep', SWEEPS)
@pytest.mark.parametrize('setting', SETTINGS)
def test_a_study_changes_what_it_studies_and_nothing_else(setting, sweep):
    count, changed = STUDIED[sweep]
    if setting == 'tiny' and sweep in OF_A_LINE:
        said = f'^{sweep} counts steps of a prior that has 1,000 on a line'
        with pytest.raises(ValueError, match=said):
            points(sweep, setting)
        setting = 'tiny,prior=train'
    found = [leaves(config) for config in points(sweep, setting)]
    assert len(found) == count
    assert len({str(config) for config in found}) == count, 'two points are one run'
    everywhere = set().union(*found)
    differing = {
        name
        for name in everywhere
        if len({str(config.get(name, 'absent')) for config in found}) > 1
    }
    assert not [
        name for name in differing if not any(f'{name}.'.startswith(f'{part}.') for part in changed)
    ]


@pytest.mark.parametrize(
    ('setting', 'network', 'prior', 'size_px', 'channels'),
    [
        ('digits', 'resnet', 'digits', 16, 1),
        ('cifar10', 'preact_resnet18', 'google/ddpm-cifar10-32', 32, 3),
        ('tiny', 'efficientnet_b4', './priors/imagenet64', 64, 3),
        ('lfw', 'vgg16', 'google/ddpm-celebahq-256', 224, 3),
    ],
)
def test_the_settings_are_the_papers(setting, network, prior, size_px, channels):
    config = configured(f'setting={setting}')
    assert config['teacher'] == config['student']
    assert (config['teacher']['network']['name'], config['prior']['load']) == (network, prior)
    assert (config['source']['size_px'], config['source']['channels']) == (size_px, channels)
    assert config['attack'].items() >= {'rate': 0.1, 'target': 0, 'scheme': 'all_to_one'}.items()
    defense = config['defense']
    assert (
        defense.items()
        >= {
            'rounds': 5,
            'tau': 0.1,
            'rank': 0.8,
            'labels': 'benign',
            'steps': 7 if setting == 'digits' else 15,
            'kept': 3 if setting == 'digits' else 5,
        }.items()
    )
    assert bool(config['teacher']['init_from']) == (setting in ('tiny', 'lfw'))
    assert configured(f'setting={setting},weights=')['student']['init_from'] == ''


@pytest.mark.parametrize('words', ['start=200', 'kept=40', 'sampler=dpmpp_2m', 'released'])
def test_other_chains_of_the_digits_take_the_usual_calls(words):
    assert configured(words)['defense']['steps'] == 15


def test_cifar10_is_trained_as_the_released_code_trains():
    teacher = configured('setting=cifar10')['teacher']
    assert (
        teacher['optim'].items()
        >= {
            'name': 'sgd',
            'lr': 0.01,
            'momentum': 0.9,
            'weight_decay': 5e-4,
            'schedule': 'cosine',
        }.items()
    )
    assert (teacher['epochs'], teacher['batch']) == (100, 128)


def test_exact_takes_every_step_and_keeps_the_last_of_them():
    chain = {'start': 150, 'steps': 150, 'window': 10, 'kept': 10, 'forward': 'released'}
    chain |= {'state': 'x_t', 'dtype': 'float32'}
    for setting in ('digits', 'cifar10', 'lfw'):
        defense = configured(f'setting={setting},exact')['defense']
        assert defense.items() >= chain.items()
        wanted = {'name': 'ddpm', 'variance': 'fixed_large', 'clip_sample': True}
        assert defense['sampler'] == wanted
        assert defense['benign'] == 'given'
    defense = configured('setting=tiny,exact')['defense']
    wanted = (1200, 1200, 10, 10)
    assert (defense['start'], defense['steps'], defense['window'], defense['kept']) == wanted
    assert defense['sampler']['variance'] == 'learned_range'


def test_released_reads_the_open_points_as_the_code_does():
    defense = configured('released')['defense']
    assert (
        defense.items()
        >= {'benign': 'predicted', 'count_raw': True, 'choice': 'agreeing', 'steps': 15}.items()
    )
    assert defense['targets'] == {'name': 'mad', 'threshold': 2.0, 'score': 'kl', 'two_sided': True}


def test_the_papers_rule_for_target_labels_is_a_word():
    """Section 3.4: KL, more than two deviations above the median."""
    rule = {'name': 'mad', 'threshold': 2.0, 'score': 'kl', 'two_sided': False}
    mine, usual = configured('targets=mad')['defense'], configured()['defense']
    assert mine == usual | {'targets': rule}
    assert configured('targets=significant')['defense'] == usual
    found = configured('released,targets=mad')['defense']
    assert found == configured('released')['defense'] | {'targets': rule}
    assert configured('released,targets=significant')['defense']['targets'] == usual['targets']


def test_the_samplers_of_the_fast_chain():
    usual = configured('setting=tiny')['defense']
    wanted = usual | {'sampler': {'name': 'dpmpp_2m'}}
    assert configured('setting=tiny,sampler=dpmpp_2m')['defense'] == wanted
    assert configured('setting=tiny,sampler=ddim')['defense'] == usual


def test_start_and_kept_mean_the_same_of_either_chain():
    fast, exact = (configured(f'{how}start=60,kept=20')['defense'] for how in ('', 'exact,'))
    assert [fast[name] for name in ('start', 'steps', 'window', 'kept')] == [60, 15, 20, 8]
    assert [exact[name] for name in ('start', 'steps', 'window', 'kept')] == [60, 60, 20, 20]
    assert [exact['kept'] for exact in leaves_of('kept', 'digits,exact')] == [2, 5, 10, 20, 40]
    assert all(exact['steps'] == exact['start'] for exact in leaves_of('start', 'digits,exact'))
    assert [fast['kept'] for fast in leaves_of('kept', 'digits')] == [1, 3, 5, 8, 10]


def leaves_of(sweep, setting):
    """The defence in every point of a sweep."""
    return [config['defense'] for config in points(sweep, setting)]


def test_a_step_on_the_cosine_is_as_noisy_as_its_twin_on_the_line():
    """tiny's prior has 4,000 steps; its start and window stand for 150 and 10 of a linear 1,000."""
    import numpy as np

    defense = configured('setting=tiny')['defense']
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    share = np.arange(4001) / 4000
    cosine = (
        np.cos((share + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    )
    for here, there in (('start', 150), ('window', 10)):
        wanted = pytest.approx(defense[here], rel=0.05)
        assert np.argmin(abs(np.sqrt(1 - cosine) - np.sqrt(1 - kept[there - 1]))) == wanted
    assert configured('setting=tiny,prior=train')['defense']['start'] == 150


@pytest.mark.parametrize('setting', SETTINGS)
def test_baselines_have_no_prior_and_their_own_student(setting):
    for defense in ('activation_clustering', 'spectral', 'abl', 'dbd'):
        config = configured(f'setting={setting},defense={defense}')
        assert 'prior' not in config
        assert config['defense']['name'] == defense
        assert ('evaluation' in config) == (defense in ('activation_clustering', 'spectral'))
    assert configured(f'setting={setting},defense=dbd')['student']['init_from'] == ''
    bare = configured(f'setting={setting},defense=none')
    assert not {'defense', 'student', 'prior', 'evaluation'} & set(bare)


def test_the_priors_of_table_4():
    own = configured('prior=poisoned')
    assert own['prior']['data'] == 'poisoned'
    assert configured('prior=train')['prior']['data'] == 'reference'
    apart = configured('setting=cifar10,prior=train')['source']
    assert (apart['reference'], apart['reference_size']) == ('held_out', 10_000)
    assert configured('setting=cifar10,prior=poisoned')['source']['reference'] == 'none'
    assert configured('prior=runs/x/prior')['prior']['load'] == 'runs/x/prior'


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (
            'setting=cifar',
            r"^setting='cifar': choose from cifar10, cifar10_small, digits, lfw, tiny",
        ),
        (
            'defense=ac',
            (
                r"^defense='ac': choose from abl, activation_clustering, dataelixir, dbd, none,"
                r' spectral'
            ),
        ),
        (
            'defense=abl,exact',
            r'^exact is a word of defense=dataelixir; defense=abl has no use for it',
        ),
        ('defense=dbd,prior=train', r'^prior is a word of defense=dataelixir'),
        ('defense=dbd,targets=mad', r'^targets is a word of defense=dataelixir'),
        ('targets=mads', r"^targets='mads': choose from mad, significant"),
        ('sampler=euler', r"^sampler='euler': choose from ddim, dpmpp_2m"),
        ('exact,sampler=ddim', r'^exact takes every step of the prior'),
        ('kept=7', r'^kept=7: choose from 2, 5, 10, 20, 40'),
        ('setting=tiny,exact,start=50', r'^start counts steps of a prior that has 1,000'),
        ('source=arrays:x', r'^setting=digits brings its images; for source=arrays:x choose'),
        ('setting=tiny,attack=pach', r"^attack='pach': choose from"),
        ('ratee=0.1', r"^unknown word 'ratee' after the colon. Did you mean 'rate'"),
    ],
)
def test_words_that_do_not_go_together_are_answered(words, told):
    with pytest.raises(ValueError, match=told):
        configured(words)


@pytest.mark.parametrize('name', ['abl', 'activation_clustering', 'dataelixir', 'dbd', 'spectral'])
def test_the_parts_hold_the_very_attributes_of_their_defences(name):
    """A leaf that no defence takes, or an attribute that no leaf gives, would end in a run."""
    from purify.defenses.registry import DEFENSES

    part = DEFENSES.part(name)
    assert part.pop('name') == name
    assert set(part) == set(inspect.signature(DEFENSES[name]).parameters)
    words = 'prior=poisoned' if name == 'dataelixir' else f'defense={name}'
    assert configured(words)['defense'].keys() == part.keys() | {'name'}


def test_quickstart_and_cifar10_offer_the_same_defences():
    root = Path(CONFIG).parent
    mine = configured('attack=patch')
    quick = load_config(f'{root}/quickstart.py:defense=dataelixir')
    found = {key: value for key, value in quick.items() if key != 'name'}
    assert found == {k: v for k, v in mine.items() if k != 'name'}
    for name in ('activation_clustering', 'spectral', 'abl', 'dbd'):
        for words in ('', 'small,source=arrays:x,', 'smoke,'):
            config = load_config(f'{root}/cifar10.py:{words}defense={name}')
            assert config['defense']['name'] == name
            assert config['student']['objective']['name'] == 'classify'
            assert 'prior' not in config
    elixir = load_config(f'{root}/cifar10.py:defense=dataelixir')
    assert elixir['defense'] == configured('setting=cifar10')['defense']
    assert elixir['student'] == configured('setting=cifar10')['student']
    assert 'student' not in load_config(f'{root}/cifar10.py:defense=none')


@pytest.mark.parametrize(
    ('words', 'share', 'remove'),
    [
        ('rate=0.1', 0.1, 0.5),
        ('rate=0.02', 0.02, 1.5 * 0.02 / 0.12),
        ('rate=0.01,setting=tiny', 0.01, 0.5),
        ('rate=0.01,attack=sinusoid', 0.01, 0.15),  # a tenth of the class
        ('attack=none', 0.05, 0.15),
    ],
)
def test_baselines_may_remove_all_the_poison_there_is(words, share, remove):
    """1,000 of 50,000 images in one class of ten: 1,000 of 6,000 of its images, of which half as
    many again may go.
    """
    config = {
        name: load_config(f'{CONFIG}:{words},defense={name}')['defense']
        for name in ('abl', 'spectral')
    }
    assert config['abl']['share'] == share
    assert config['spectral']['remove'] == pytest.approx(remove)
