"""The words of configs/castle_walls.py, and what its sweeps make of them."""

import pytest
from support.tiny import ROOT

from purify.commands.check import check
from purify.commands.list import describe_run, points_of
from purify.config.load import load_config, load_module
from purify.config.sweeps import sweep_functions

CONFIG = f'{ROOT}/configs/castle_walls.py'
SWEEPS = sweep_functions(load_module(CONFIG))
OWN = {'digits': '', 'cifar10': '', 'cifar10_small': ',source=arrays:x', 'imagenette': ''}
OWN |= {'caltech15': ',source=imagefolder:x'}


def configured(words=''):
    return load_config(f'{CONFIG}:{words}'.rstrip(':'))


def test_generation_takes_the_paper_s_numbers():
    config = configured('setting=cifar10')
    defense = config['defense']
    assert defense['sampling'] == {
        'sampler': {'name': 'ddim', 'eta': 0.0},
        'steps': 50,
        'guidance': 6.0,  # w = 5
        'guidance_interval': [],
        'dtype': 'bfloat16',
    }
    assert defense['probe'] == {'labels': [4], 'images': 10_000}
    found = (config['attack']['name'], config['attack']['target'], config['attack']['base'])
    assert found == ('badnets1', 4, 'nontarget')
    large = configured('setting=imagenette')
    assert (large['defense']['sampling']['guidance'], large['attack']['target']) == (5.0, 6)
    assert large['defense']['generator']['objective']['caption'] == 'A photo of a {}'
    assert large['prior']['load'] == 'CompVis/stable-diffusion-v1-4'


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        ('setting=mnist', 'caltech15, cifar10, cifar10_small, digits, imagenette'),
        ('objective=latent', 'ddpm, edm, usual'),
        ('setting=imagenette,objective=ddpm', 'latent, usual'),
        ('defense=strip,guidance=2', 'guidance: defense=strip has no use'),
        ('defense=none,copies=simclr', 'copies: defense=none has no use'),
        ('defense=fct,objective=edm', 'objective: defense=fct has no use'),
        ('defense=none,setting=imagenette,prior=folder', 'prior: defense=none has no use'),
        ('guidance=much', 'must be a number'),
        ('setting=cifar10_small,source=arrays:x,network=vgg16', 'brings its network'),
        ('copies=encoder', 'go together'),
        ('encoder=x', 'go together'),
        ('network=vgg16', 'setting=digits brings its network'),
        ('setting=cifar10_small', 'give arrays:DIR'),
        ('setting=cifar10_small,source=tfds:cifar10', 'give arrays:DIR'),
        ('setting=imagenette,init_from=photos32', 'init_from=photos32: .* Stable Diffusion'),
        ('objective=edm,init_from=digits', 'init_from=digits: no prior'),
        ('defense=strip,init_from=digits', 'init_from: defense=strip has no use'),
        ('prior=folder', 'no use for'),
        ('sampler=heun', 'ddim, ddpm, dpmpp_2m, sde, usual'),
    ],
)
def test_words_that_do_not_go_together_are_named(words, told):
    with pytest.raises(Exception, match=told):
        configured(words)


def test_a_generator_starts_from_the_prior_that_the_words_name():
    small = 'setting=cifar10_small,source=arrays:x'
    for words, start in (
        ('', ''),
        ('init_from=folder', 'folder'),
        (small, 'photos32'),
        (f'{small},init_from=none', ''),
        (f'{small},objective=edm', ''),
        ('setting=cifar10,init_from=folder', 'folder'),
    ):
        generator = configured(words)['defense']['generator']
        assert generator['init_from'] == start
    objective = configured(small)['defense']['generator']['objective']
    assert objective['schedule']['prediction'] == 'v_prediction'


def test_ddpm_takes_every_step_with_the_paper_s_variance():
    """Ho et al. 2020, section 3.2: 1,000 steps of variance beta; the others go on 50 timesteps."""
    sampling = {
        name: configured(f'setting=cifar10,sampler={name}')['defense']['sampling']
        for name in ('ddpm', 'ddim', 'sde')
    }
    assert sampling['ddpm']['sampler'] == {'name': 'ddpm', 'variance': 'fixed_large'}
    wanted = {'ddpm': 1000, 'ddim': 50, 'sde': 50}
    assert {name: how['steps'] for name, how in sampling.items()} == wanted


@pytest.mark.parametrize('setting', ['imagenette', 'caltech15'])
def test_photographs_start_from_imagenet_s_weights(setting):
    """Pan 2024, appendix A.4: labeller, detector and classifiers alike."""
    told = configured(f'setting={setting}{OWN[setting]},weights=w.safetensors')
    places = (told['teacher'], told['student'], told['dissection']['labeller'])
    places += (told['dissection']['detector'],)
    assert [place['init_from'] for place in places] == 4 * ['w.safetensors']
    usual = configured(f'setting={setting}{OWN[setting]},network=densenet121')
    assert usual['student']['init_from'] == './weights/densenet121.safetensors'
    assert usual['teacher']['network']['stem'] == 'imagenet'
    assert configured(f'setting={setting}{OWN[setting]},weights=none')['student']['init_from'] == ''
    assert configured('setting=cifar10')['student']['init_from'] == ''


@pytest.mark.long
@pytest.mark.parametrize('setting', OWN)
def test_every_point_of_every_sweep_is_a_config(setting):
    spec = f'{CONFIG}:setting={setting}{OWN[setting]}'
    for name in SWEEPS:
        if setting not in ('cifar10', 'imagenette', 'caltech15') and name == 'table_a3':
            continue  # the networks of the others are their own
        if setting in ('imagenette', 'caltech15') and name == 'table_a4':
            continue  # EDM is of pixels
        described = [
            describe_run(spec, [], point, seed) for point, seed in points_of(spec, name, '0')
        ]
        wanted = len(described)
        assert len({str(load_config(one['config'], one['flags'])) for one in described}) == wanted


def test_a_point_passes_check():
    assert not check(
        configured('attack=relabel_only,poison=duplicates,objective=edm,sampler=sde,guidance=2')
    ).problems


@pytest.mark.parametrize('setting', ['cifar10', 'imagenette'])
def test_detectors_have_the_papers_numbers_whether_they_defend_or_are_looked_at(setting):
    looked = configured(f'setting={setting}')['defense']['scores']
    for name, numbers in looked.items():
        config = configured(f'setting={setting},defense={name}')
        assert config['defense']['score'] == numbers
        assert 'prior' not in config
    assert looked['cognitive_distillation']['steps'] == 100
    assert configured('guidance=0')['defense']['sampling']['guidance'] == 0.0


def test_duplicates_are_there_whoever_is_poisoned():
    attacks = [configured(f'poison={word}')['attack'] for word in ('random', 'duplicates')]
    assert [attack['poison_replicas'] for attack in attacks] == [False, True]
    assert attacks[0] | {'poison_replicas': True} == attacks[1]
    assert attacks[0]['replicas'] * attacks[0]['replicated_images'] > 0
    assert configured()['attack']['replicas'] == 0
