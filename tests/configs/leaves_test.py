"""Every leaf of every config is read by some stage: no option does nothing."""

import copy
import dataclasses
import functools
from pathlib import Path

import pytest
from support.tiny import (
    ROOT,
    SMALL,
    STUDENT,
    VARY,
    quickstart,
    shrink_fit,
    shrink_struppek,
    write_pictures,
)

from purify.attacks.settings import attack_words
from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.config.resolve import leaves
from purify.core.errors import UserError
from purify.defenses.filters.score_filter import SCORES
from purify.defenses.method import Defense, Measure, Method, Step
from purify.defenses.registry import DEFENSES
from purify.engine.chain import Chain
from purify.evaluation import results as summary
from purify.models import save_pretrained
from purify.models.files.shapes import random_pipeline
from purify.stages.kind import Kind
from purify.train import inference

pytestmark = pytest.mark.long


class Watched(dict):
    """A nested dict that remembers which leaves were looked at by name, or handed on."""

    def __init__(self, value, path, seen):
        super().__init__(
            {
                k: Watched(v, f'{path}.{k}', seen) if isinstance(v, dict) else v
                for k, v in value.items()
            }
        )
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


def watch(rule, path, seen):
    """A rule that remembers which of its attributes were looked at."""
    kind = type(rule)

    class Seen(kind):
        def __getattribute__(self, name):
            value = object.__getattribute__(self, name)
            if name not in kind.__dataclass_fields__:
                return value
            if isinstance(value, dict):
                return Watched(value, f'{path}.{name}', seen)
            seen.add(f'{path}.{name}')
            return value

    watched = object.__new__(Seen)
    vars(watched).update(vars(rule))
    return watched


def watched_stages(config, place, seen):
    """The stages of a config, whose rules remember what was looked at."""

    def bind(kind, step):
        if step.by is None:
            return kind.run
        return lambda work: kind.run(work, watch(step.by, place.get(step.name, step.name), seen))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kind, 'bind', bind)
        return make_stages(config)


def read_leaves(config, folder, names=None, seen=None):
    """Runs the stages (all, or those named) and returns the dotted config paths that they read."""
    seen = set() if seen is None else seen
    place = {'purified': 'defense', 'evaluate': 'evaluation'}
    stages = []
    for stage in watched_stages(config, place, seen):
        prefix = place.get(stage.name, stage.name)

        def run(work, stage=stage, prefix=prefix):
            watched = Watched(stage.settings, prefix, seen)
            stage.run(
                dataclasses.replace(work, settings=watched, run=Watched(work.run, 'run', seen))
            )

        stages.append(dataclasses.replace(stage, run=run))
    chain = Chain(stages, folder / 'stages')
    chain.run([name for name in chain.stages if names is None or name in names], config['run'])
    return plain(seen), chain


def plain(seen):
    """What the stages of an attacker read, under the names that configs have for it."""
    names = {name.removeprefix('prepare.').removeprefix('clean.') for name in seen}
    return {
        name.removeprefix('trigger.') if name.startswith('trigger.attack.') else name
        for name in names
    }


class Traced(Exception):
    """A stage has its program, of which only compiling and running are left."""


def traced_leaves(config, folder, name):
    """The same for a last stage, up to where its first program would be compiled."""

    def stop(traced, *, devices):
        raise Traced

    seen = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, 'compile_counted', stop)
        with pytest.raises(Traced):
            read_leaves(config, folder, ('prepare', name), seen)
    return plain(seen)


OUTSIDE = {  # read where stages are made or concluded
    'name',
    'seeds.poison',
    'seeds.model',
    'seeds.data',
    'teacher.load',
    'student.load',
    'prior.load',
    'prior.revision',
    'teacher.init_from',
    'student.init_from',
    'prior.init_from',
    'prior.distill',
    'dissection.labeller.init_from',
    'dissection.detector.init_from',
    'surrogate.load',
    'surrogate.init_from',
    'trigger.init_from',
    'attack.load',
    'prior.data',
    'run.writers',
    'run.report_images',
    'evaluation.residual',
    'clean_source',
    'defense.name',
}


NO_TEACHER = [flag for flag in SMALL if 'teacher' not in flag]


def attacked(name):
    """configs/attacks.py with one attack, tiny."""
    config = load_config(f'{ROOT}/configs/attacks.py:attack={name},rate=0.05', NO_TEACHER)
    shrink_fit(config)
    return config


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp('leaves')
    write_pictures(folder, 400, 100, size_px=16)
    trained = load_config(
        f'{ROOT}/configs/cifar10.py:smoke,source=arrays:{folder},attack=blended',
        [
            *(flag for flag in (*SMALL, *STUDENT) if 'stages' not in flag),
            *VARY,
            '--config.source.size_px=16',
            '--config.source.reference_size=64',
            '--config.prior.network.sample_size=16',
            '--config.prior.network.block_out_channels=(8,)',
            '--config.prior.network.layers_per_block=1',
            '--config.prior.steps=2',
        ],
    )
    sgd = load_config(f'{ROOT}/configs/cifar10.py:source=arrays:{folder}')['teacher']['optim']
    drops = load_config(f'{ROOT}/configs/imagenette.py')['teacher']['optim']
    trained['teacher']['optim'], trained['student']['optim'] = sgd, drops
    strong = load_config(f'{ROOT}/configs/quickstart.py:defense=augmentations')['student'][
        'augment'
    ]
    crops = load_config(f'{ROOT}/configs/relabel.py:setting=cifar10')['teacher']['augment']
    trained['teacher']['augment'] |= strong | crops
    trained['prior']['augment'] |= load_config(f'{ROOT}/configs/prior.py')['prior']['augment']
    muon = load_config(f'{ROOT}/configs/prior.py:photos32,source=arrays:x')['prior']['optim']
    trained['prior']['optim'] = muon
    found, chain = read_leaves(trained, folder / 'trained')
    assert summary.gather(trained, chain, {}).student.acc is not None
    for name in attack_words():
        found |= read_leaves(
            attacked(name), folder / name, ('clean', 'surrogate', 'trigger', 'prepare')
        )[0]
    short = [*NO_TEACHER, '--config.prior.steps=2', '--config.source.reference_size=64']
    distilled = load_config(f'{ROOT}/configs/prior.py:distill=digits', short)
    found |= read_leaves(distilled, folder / 'distilled', ('prepare', 'prior'))[0]
    for kind in ('versatile', 'sd_img2img'):
        save_pretrained(random_pipeline(kind, 'tiny', seed=0), folder / kind)
        words = f'model={kind},prior={folder / kind},source=arrays:{folder}'
        own = load_config(f'{ROOT}/configs/imagenette.py:{words}')
        found |= traced_leaves(shrink_struppek(own), folder / f'{kind}_run', 'purified')
    return found


def unify(name):
    """The same code reads teachers, students and surrogates, all optimisers and augmentations."""
    part, _, rest = name.partition('.')
    return f'classifier.{rest}' if part in ('teacher', 'student', 'surrogate') else name


METHODS = (
    '',
    'exact',
    'released',
    'exact,released',
    *(f'defense={name}' for name in ('activation_clustering', 'spectral', 'abl', 'dbd')),
)
OTHER_WORDS = {  # what a word may be changed to
    'fixed_large': 'fixed_small',
    'float32': 'bfloat16',
    'given': 'predicted',
    'predicted': 'given',
    'all': 'agreeing',
    'agreeing': 'all',
    'x_t': 'x0',
    'matched': 'released',
    'released': 'matched',
    'benign': 'vote',
    'rounded': 'truncated',
    'truncated': 'rounded',
    'rest': 'all',
    'local_ascent': 'flooding',
    'ica': 'pca',
    'kl': 'count',
    'student': 'teacher',
    'simclr': 'teacher',
    'teacher': 'student',
    'affine': 'spline',
    'swap': 'permute',
    'outside': 'ratio',
    'ratio': 'outside',
    'preact': 'basic',
    'small': 'imagenet',
    'group': 'batch',
    'batch': 'group',
    'bfloat16': 'float32',
    'cosine': 'constant',
    'openai/clip-vit-base-patch32': 'other',
    'folder': 'other',
    'linear': 'cosine',
    'epsilon': 'sample',
    'edm': 'none',
    'none': 'encoder',
    'A photo of a {}': 'A {}',
    'CompVis/stable-diffusion-v1-4': 'other',
    'logits': 'features',
    'own': 'teacher',
    '': 'other',
    'encoder': 'teacher',
    'imagenet': 'small',
    'constant': 'cosine',
    'fixed_small': 'fixed_large',
    'v_prediction': 'epsilon',
    'photos32': 'digits',
    'reflect': 'constant',
}
RELABEL = (
    '',
    *(f'features={name}' for name in ('teacher', 'clip')),
    'features=encoder,encoder=folder',
    'defense=nad',
    'defense=asd',
    'setting=cifar10',
    'setting=imagenet30',
    'setting=vggface30',
    'setting=cifar10_small,source=arrays:x',
    'setting=cifar10,defense=nad',
    'setting=cifar10,defense=asd',
    'attack=label_consistent',
    'attack=sample_specific',
)
CASTLE_WALLS = (
    'objective=edm,copies=simclr,sampler=ddpm',
    'defense=diffusion_classifier',
    'setting=cifar10',
    'setting=cifar10_small,source=arrays:x',
    'setting=caltech15,source=arrays:x,copies=encoder,encoder=folder',
)
BUILT = (
    *(f'dataelixir.py:{words}'.rstrip(':') for words in METHODS),
    *(f'relabel.py:{words}'.rstrip(':') for words in RELABEL),
    *(f'quickstart.py:defense={name}' for name in SCORES),
    *(f'castle_walls.py:{words}'.rstrip(':') for words in CASTLE_WALLS),
)


def change(config, leaf):
    """The config with another value of one leaf, or None for one that chooses what others are."""
    config = copy.deepcopy(config)
    *path, name = leaf.split('.')
    part = functools.reduce(lambda part, key: part[key], path, config)
    value = part[name]
    if isinstance(value, bool):
        part[name] = not value
    elif isinstance(value, str):
        part[name] = OTHER_WORDS.get(value)
    elif isinstance(value, (list, tuple)):
        part[name] = [
            number + 1 if isinstance(number, int) else 0.75 * number for number in value
        ] or [[1, 2]]
    else:
        part[name] = (
            value - 1
            if isinstance(value, int) and value > 1
            else value + 1
            if isinstance(value, int)
            else value * 0.75 + 0.001
        )
    return None if part[name] is None else config


def prints_of(config):
    """The stages' fingerprints; nothing is fetched for a finished prior or encoder, whose name
    stands for its digest.
    """

    def find(load, revision):
        return Path(load), f'{load} {revision}'

    return Chain(make_stages(config, find, find), ROOT).prints


def reaching(config):
    """The leaves that say what a defence does which change the settings of some stage, and those
    that name a part.
    """
    prints = prints_of(config)
    found = {
        name
        for name in leaves(config)
        if name.startswith(('defense.', 'dissection.')) and name.endswith('.name')
    }
    for leaf in leaves(config):
        if leaf.startswith(
            ('defense.', 'dissection.', 'encoder.', 'evaluation.', 'prior.', 'trusted.')
        ) and (other := change(config, leaf)):
            try:
                found |= {leaf} if prints_of(other) != prints else set()
            except UserError:  # exact chains have room for no other number
                found.add(leaf)
    return found


@pytest.mark.parametrize(
    'spec',
    [
        'quickstart.py',
        'quickstart.py:attack=blended',
        'quickstart.py:defense=augmentations',
        'quickstart.py:attack=none',
        'quickstart.py:source=arrays:x',
        'quickstart.py:source=arrays:x,channels=1',
        'prior.py:photos32,source=arrays:x',
        *(f'attacks.py:attack={name}' for name in attack_words()),
        'attacks.py:full,source=arrays:x',
        'attacks.py:source=arrays:x',
        'prior.py',
        'prior.py:distill=digits',
        'cifar10.py',
        'cifar10.py:small,source=arrays:x',
        'cifar10.py:prior=train',
        'imagenette.py',
        'imagenette.py:model=sd_img2img',
        'imagenette.py:model=pixel',
        'imagenette.py:defense=augmentations',
        'imagenet100.py',
        *BUILT,
    ],
)
def test_every_leaf_is_read(seen, spec):
    config = load_config(f'{ROOT}/configs/{spec}')
    known = {
        unify(name) for name in seen | OUTSIDE | (reaching(config) if spec in BUILT else set())
    }
    # handed to the source by name: an unknown one is an error there
    own_source = {f'source.{name}' for name in ('data_dir', 'path', 'train', 'test', 'test_share')}
    unread = [name for name in leaves(config) if unify(name) not in known | own_source]
    assert not unread


@pytest.mark.parametrize(
    'words', [words for words in RELABEL if 'defense' not in words and 'features' not in words]
)
def test_an_encoder_s_network_and_optimiser_are_read_as_a_classifier_s_are(seen, words):
    part = load_config(f'{ROOT}/configs/relabel.py:{words}'.rstrip(':'))['defense']['encoder']
    known = {unify(name) for name in seen}
    assert {
        f'classifier.{leaf}' for leaf in leaves({name: part[name] for name in ('network', 'optim')})
    } <= known


def test_the_watch_can_fail(seen):
    assert 'classifier.optim.lr' in {unify(name) for name in seen}
    assert 'defense.copies' in seen
    assert 'defense.unheard_of' not in seen


def test_attributes_of_a_rule_that_nobody_looks_at_are_found():
    seen = set()
    rule = watch(Idle(busy=3, idle=4), 'defense', seen)
    assert rule.method({}).steps[0].by == Busy(3)
    assert seen == {'defense.busy'}


@dataclasses.dataclass(frozen=True)
class Busy(Measure):
    """What the defence below measures by."""

    busy: int


@dataclasses.dataclass(frozen=True)
class Idle(Defense):
    """A defence of which one attribute does nothing."""

    busy: int
    idle: int

    def method(self, student):
        return Method((Step('step', 'measure', {'poisoned': 'poisoned'}, by=Busy(self.busy)),))


def test_an_attribute_that_does_nothing_is_found(monkeypatch):
    monkeypatch.setitem(DEFENSES, 'idle', Idle)
    config = quickstart()
    config['defense'] = {'name': 'idle', 'busy': 3, 'idle': 4}
    found = {name for name in reaching(config) if name.startswith('defense.')}
    assert found == {'defense.name', 'defense.busy'}
