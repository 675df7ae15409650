"""Every leaf of every config is read by some stage: no option does nothing."""

import dataclasses

import numpy as np
import pytest
from pipelines.tiny import ROOT, SMALL, STUDENT, VARY, quickstart, shrink_fit, shrink_struppek

from purify.config.attack_parts import OWN
from purify.config.load import load_config
from purify.config.resolve import leaves
from purify.models import save_pretrained
from purify.models.shapes import random_pipeline
from purify.pipelines import summary
from purify.pipelines.chain import Chain
from purify.pipelines.plan import make_stages


class Watched(dict):
    """A nested dict that remembers which leaves were looked at by name, or passed on as arguments."""

    def __init__(self, value, path, seen):
        super().__init__({k: Watched(v, f'{path}.{k}', seen) if isinstance(v, dict) else v for k, v in value.items()})
        self.path, self.seen = path, seen

    def _saw(self, name):
        if dict.__contains__(self, name) and not isinstance(dict.__getitem__(self, name), dict):
            self.seen.add(f'{self.path}.{name}')

    def __getitem__(self, name):
        self._saw(name)
        return dict.__getitem__(self, name)

    def __iter__(self):  # a Python-level iterator makes `**watched` go through __getitem__
        return iter(list(super().keys()))

    def get(self, name, default=None):
        return self[name] if dict.__contains__(self, name) else default

    def items(self):
        return [(name, self[name]) for name in self]


def read_leaves(config, folder, names=None):
    """Runs the stages (all, or those named) and returns the dotted config paths that they read."""
    seen = set()
    place = {'purified': 'defense'}
    stages = []
    for stage in make_stages(config):
        prefix = place.get(stage.name, stage.name)

        def run(work, stage=stage, prefix=prefix):
            watched = Watched(stage.settings, prefix, seen)
            stage.run(dataclasses.replace(work, settings=watched, run=Watched(work.run, 'run', seen)))

        stages.append(dataclasses.replace(stage, run=run))
    chain = Chain(stages, folder / 'stages')
    chain.run([name for name in chain.stages if names is None or name in names], config['run'])
    plain = {name.removeprefix('prepare.').removeprefix('clean.') for name in seen}
    return {name.removeprefix('trigger.') if name.startswith('trigger.attack.') else name for name in plain}, chain


OUTSIDE = {  # read where stages are made or concluded
    'name', 'seeds.poison', 'seeds.model', 'seeds.data', 'teacher.load', 'student.load', 'prior.load', 'prior.revision',
    'teacher.init_from', 'student.init_from', 'prior.init_from',
    'surrogate.load', 'surrogate.init_from', 'trigger.init_from', 'attack.load',
    'prior.data', 'run.writers', 'run.report_images',
}  # fmt: skip


def attacked(name):
    """configs/attacks.py with one attack, tiny."""
    flags = [flag for flag in SMALL if 'teacher' not in flag]
    config = load_config(f'{ROOT}/configs/attacks.py:attack={name},rate=0.05', flags)
    shrink_fit(config)
    return config


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp('leaves'), set()
    rng = np.random.default_rng(0)
    for split, count in (('train', 400), ('test', 100)):
        images, labels = rng.integers(0, 256, (count, 16, 16, 3), np.uint8), np.arange(count) % 10
        np.savez(folder / f'{split}.npz', images=images, labels=labels)
    trained = load_config(
        f'{ROOT}/configs/cifar10.py:smoke,source=arrays:{folder},attack=blended',
        [
            *SMALL, *STUDENT, *VARY,
            '--config.source.size_px=16',
            '--config.source.reference_size=64',
            '--config.prior.network.sample_size=16',
            '--config.prior.network.block_out_channels=(8, 16)',
            '--config.prior.steps=2',
        ],
    )  # fmt: skip
    sgd = load_config(f'{ROOT}/configs/cifar10.py:source=arrays:{folder}')['teacher']['optim']
    drops = load_config(f'{ROOT}/configs/imagenette.py')['teacher']['optim']
    trained['teacher']['optim'], trained['student']['optim'] = sgd, drops
    strong = load_config(f'{ROOT}/configs/quickstart.py:defense=augmentations')['student']['augment']
    trained['teacher']['augment'] |= strong
    trained['student']['objective'] = quickstart('distill=False')['student']['objective']
    trained['prior']['augment'] |= load_config(f'{ROOT}/configs/digits_prior.py')['prior']['augment']
    for number, config in enumerate((quickstart(), trained)):
        new, chain = read_leaves(config, folder / str(number))
        found |= new
    for name in OWN:
        found |= read_leaves(attacked(name), folder / name, ('clean', 'surrogate', 'trigger', 'prepare'))[0]
    for kind in ('versatile', 'sd_img2img'):
        save_pretrained(random_pipeline(kind, 'tiny', seed=0), folder / kind)
        own = load_config(f'{ROOT}/configs/imagenette.py:model={kind},prior={folder / kind},source=arrays:{folder}')
        found |= read_leaves(shrink_struppek(own), folder / f'{kind}_run', ('prepare', 'purified'))[0]
    results = summary.gather(config, chain, {})
    assert results['student']['acc'] is not None
    return found


def unify(name):
    """Teachers, students and surrogates, and all optimisers and augmentations, are read by the same code."""
    part, _, rest = name.partition('.')
    return f'classifier.{rest}' if part in ('teacher', 'student', 'surrogate') else name


@pytest.mark.parametrize(
    'spec',
    ['quickstart.py', 'quickstart.py:attack=blended', 'quickstart.py:defense=augmentations', 'quickstart.py:attack=none',
     *(f'attacks.py:attack={name}' for name in OWN), 'attacks.py:full,source=arrays:x', 'attacks.py:source=arrays:x',
     'digits_prior.py', 'cifar10.py', 'cifar10.py:small', 'cifar10.py:prior=train',
     'imagenette.py', 'imagenette.py:model=sd_img2img', 'imagenette.py:model=pixel', 'imagenette.py:defense=augmentations',
     'imagenet100.py'],
)  # fmt: skip
def test_every_leaf_is_read(seen, spec):
    config = load_config(f'{ROOT}/configs/{spec}')
    known = {unify(name) for name in seen | OUTSIDE}
    own_source = {'source.data_dir', 'source.path'}  # handed to the source by name: an unknown one is an error there
    unread = [name for name in leaves(config) if unify(name) not in known | own_source]
    assert not unread


def test_the_watch_can_fail(seen):
    assert 'classifier.optim.lr' in {unify(name) for name in seen}
    assert 'defense.unheard_of' not in seen
