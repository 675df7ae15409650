"""Neural attention distillation as a whole run, tiny: what it is handed, where it starts, and what
the results say of it.
"""

from dataclasses import asdict

import numpy as np
import pytest
from flax import nnx
from msgspec import to_builtins
from support.command import weights
from support.made_run import NETWORK, MadeRun
from support.tiny import quickstart

from purify.commands.check import check
from purify.commands.plan import make_stages
from purify.core.errors import UserError
from purify.core.writers import read_rows
from purify.defenses.registry import DEFENSES
from purify.defenses.settings import TrustedSettings
from purify.engine.chain import Chain
from purify.evaluation import results as summary
from purify.stages.networks_on_disk import read_classifier

pytestmark = pytest.mark.usefixtures('few_devices')


def tiny(victim='', *, beta=(0.0,), trusted=2, **changes):
    """A victim of one group of layers, trained or handed in, and the defence with equal numbers for
    both of its parts.
    """
    config = quickstart('defense=augmentations')
    config['teacher'] |= {'network': NETWORK, 'load': str(victim)}
    config['student'] = config['teacher'] | {'load': ''}
    config['defense'] = (
        DEFENSES.part('nad', finetune={'epochs': 4.0, 'lr': 0.003}, epochs=4.0, lr=0.003, beta=beta)
        | changes
    )
    return config | ({'trusted': asdict(TrustedSettings(per_class=trusted))} if trusted else {})


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A prepared dataset and a victim of random weights."""
    run = MadeRun(tmp_path_factory.mktemp('nad'))
    return run, run.classifier('victim', 0)


@pytest.fixture(scope='module')
def chain(made):
    """A finished run in which attention has no weight."""
    config = tiny(made[1])
    chain = Chain(make_stages(config), made[0].folder / 'stages')
    chain.run(list(chain.stages), config['run'])
    return chain


def gap(one, other):
    return max(
        float(np.abs(a - b).max()) for a, b in zip(weights(one), weights(other), strict=True)
    )


@pytest.mark.long
def test_both_parts_train_on_what_is_trusted(chain):
    assert list(chain.stages) == ['prepare', 'trusted', 'finetuned', 'student', 'evaluate']
    steps = {
        name: read_rows(chain.folder(name) / 'metrics.jsonl')[-1]['step']
        for name in ('finetuned', 'student')
    }
    assert steps == {'finetuned': 5, 'student': 5}  # 4 epochs of 20 images in batches of 16


@pytest.mark.long
def test_without_attention_both_parts_are_the_same_training(made, chain):
    """Same start, images, order and loss: so the student ends where its teacher did."""
    assert gap(chain.folder('student'), chain.folder('finetuned')) < 1e-5
    assert gap(chain.folder('student'), made[1]) > 1e-3


@pytest.mark.long
def test_attention_draws_the_student_on(made, chain):
    config = tiny(made[1], beta=(1e5,), epochs=16)
    other = Chain(make_stages(config), chain.store)
    other.run(list(other.stages)[:-1], config['run'])
    images = made[0].given.images(range(96)) / np.float32(255)
    goal = attention_of(other.folder('finetuned'), images)
    before, after = (
        ((attention_of(folder, images) - goal) ** 2).mean()
        for folder in (made[1], other.folder('student'))
    )
    assert after < 0.5 * before


def attention_of(folder, images):
    """Where a network looks, after its last group of layers: f64[b h w], at length 1."""
    model = read_classifier(folder)
    maps = nnx.merge(model.graph, model.weights['params'], model.weights['stats']).groups(
        images, train=False
    )[-1]
    flat = (np.asarray(maps, np.float64) ** 2).sum(-1).reshape(len(images), -1)
    return flat / np.sqrt((flat**2).sum(-1, keepdims=True))


@pytest.mark.long
def test_the_results_say_how_many_clean_images_were_handed_out(made, chain):
    results = summary.gather(tiny(made[1]), chain, {})
    assert to_builtins(results.trusted) == {'images': 20}
    assert results.student.acc is not None
    assert results.detection.tpr is None


def test_a_run_without_trusted_images_is_refused():
    with pytest.raises(UserError, match="defense 'nad' needs trusted; the config has no such part"):
        make_stages(tiny(trusted=0))


@pytest.mark.long
def test_check_knows_what_does_not_fit():
    found = check(tiny())
    assert not found.problems
    assert 'trusted: 20 images that are handed over as clean' in found.notes
    wrong = check(tiny(beta=(1.0, 2.0), trusted=60)).problems
    assert any('2 weights, but the network 1 groups' in text for text in wrong)
    assert any('are to be trusted' in text for text in wrong)
