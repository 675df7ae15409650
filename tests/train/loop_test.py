import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.meshes import mesh_of

from purify.core import devices, preemption
from purify.core.errors import Preempted, UserError
from purify.core.writers import read_rows
from purify.train import loop
from purify.train.cost import Cost, summarize
from purify.train.feed import Feed
from purify.train.loop import Plan, fit, make_step
from purify.train.objectives.tasks import Classify
from purify.train.state import abstract_network, make_state

IMAGES = np.random.default_rng(0).integers(0, 256, (512, 8, 8, 1), np.uint8)


class Tiny(nnx.Module):
    """Small enough that compiling it for eight devices costs nothing."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.head = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, images, *, train, key=None):
        return self.head(self.norm(images.reshape(len(images), -1), use_running_average=not train))


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, images, *, train, key=None):
        return self.head(images.reshape(len(images), -1))


def build(rngs):
    return Tiny(rngs)


def batches(start):
    step = start
    while True:
        rows = [(step * 16 + k) % 512 for k in range(16)]
        yield {'image': IMAGES[rows], 'label': (IMAGES[rows, 0, 0, 0] // 86).astype(np.int32)}
        step += 1


def plan(folder, steps=12, **changes):
    settings = {'name': 'x', 'folder': folder, 'batch': 16, 'steps': steps, 'accumulate': 1}
    settings |= {'seed': 3, 'save_every': 5, 'log_every': 4}
    return Plan(**(settings | changes))


def train(folder, *, steps=12, count=8, ema=0.0, source=batches, **changes):
    optimizer = optax.adam(1e-2)
    graph, _ = abstract_network(build)
    state = make_state(build, optimizer, seed=1, keep_ema=ema > 0, mesh=mesh_of(count))
    return fit(
        Classify(graph, ema_decay=ema),
        optimizer,
        state,
        source if isinstance(source, Feed) else Feed(source),
        plan(folder, steps, **changes),
        mesh_of(count),
        Cost(),
    )


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def test_resumed_training_equals_uninterrupted_training_byte_for_byte(tmp_path):
    whole = train(tmp_path / 'whole')

    def dying(start):
        for k, batch in enumerate(batches(start)):
            if start + k == 8:
                raise OSError('the power went')
            yield batch

    with pytest.raises(OSError, match='power'):
        train(tmp_path / 'cut', source=dying)
    resumed = train(tmp_path / 'cut')
    assert all((a == b).all() for a, b in zip(leaves(whole), leaves(resumed), strict=True))
    rows = [read_rows(tmp_path / name / 'metrics.jsonl') for name in ('whole', 'cut')]
    assert rows[0] == rows[1]
    assert [row['step'] for row in rows[0]] == [4, 8, 12]


class Told(Classify):
    """Notes what the task is told: the share of the run that is done."""

    def __call__(self, params, stats, frozen, batch, key):
        loss, (stats, metrics) = super().__call__(params, stats, frozen, batch, key)
        return loss, (
            stats,
            metrics | {'progress': batch['progress'], 'draw': jax.random.uniform(key)},
        )


@pytest.mark.long
def test_a_run_in_parts_is_one_run_where_the_optimiser_remembers_nothing(tmp_path):
    graph, _ = abstract_network(build)
    optimizer = optax.sgd(0.1)

    def part(name, first, last, init=None):
        state = make_state(
            build, optimizer, seed=1, keep_ema=False, mesh=mesh_of(1), init=init, step=first
        )
        own = plan(tmp_path / name, last, first=first, of=7, log_every=1)
        return fit(Told(graph), optimizer, state, Feed(batches), own, mesh_of(1), Cost()).weights()

    whole = part('whole', 0, 7)
    cut = part('second', 3, 7, part('first', 0, 3))
    assert all((a == b).all() for a, b in zip(leaves(whole), leaves(cut), strict=True))
    rows = {
        name: read_rows(tmp_path / name / 'metrics.jsonl') for name in ('whole', 'first', 'second')
    }
    assert rows['whole'] == rows['first'] + rows['second']
    found = [row['progress'] for row in rows['whole']]
    np.testing.assert_allclose(found, np.arange(7) / 7, rtol=1e-6)


@pytest.mark.long
def test_a_checkpoint_of_eight_devices_goes_on_with_one(tmp_path):
    whole = train(tmp_path / 'whole')
    train(tmp_path / 'moved', steps=5)
    moved = train(tmp_path / 'moved', count=1)
    assert int(moved.step) == 12
    for a, b in zip(leaves(whole.params), leaves(moved.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_stop_request_saves_and_leaves(tmp_path, monkeypatch):
    asked = iter([False] * 6 + [True] * 100)
    monkeypatch.setattr(preemption, 'asked', lambda: next(asked))
    with pytest.raises(Preempted):
        train(tmp_path)
    monkeypatch.undo()
    seen = []

    def watched(start):
        seen.append(start)
        return batches(start)

    train(tmp_path, source=watched)
    assert seen == [7]


def test_accumulation_gives_the_same_update():
    optimizer = optax.sgd(0.1)

    def build(rngs):  # no batch statistics, which would see smaller batches
        return Plain(rngs)

    graph, _ = abstract_network(build)
    state = make_state(build, optimizer, seed=1, keep_ema=False, mesh=mesh_of(1))
    batch = next(batches(0))
    one, _ = make_step(Classify(graph), optimizer, 1, 0)(state, (), batch)
    four, _ = make_step(Classify(graph), optimizer, 4, 0)(state, (), batch)
    for a, b in zip(leaves(one.params), leaves(four.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.long
def test_average_follows_its_formula():
    optimizer = optax.sgd(0.5)
    graph, _ = abstract_network(build)
    state = make_state(build, optimizer, seed=1, keep_ema=True, mesh=mesh_of(1))
    step = make_step(Classify(graph, ema_decay=0.5), optimizer, 1, 0)
    new, _ = step(state, (), next(batches(0)))
    decay = min(0.5, 1 / 10)
    for a, b, c in zip(leaves(state.params), leaves(new.params), leaves(new.ema), strict=True):
        np.testing.assert_allclose(c, decay * a + (1 - decay) * b, atol=1e-6)
    assert new.weights()['params'] is new.ema


def test_a_loss_that_is_not_finite_stops_with_the_steps_and_keeps_the_last_checkpoint(tmp_path):
    class Breaks(Classify):
        def __call__(self, params, stats, frozen, batch, key):
            loss, extra = super().__call__(params, stats, frozen, batch, key)
            return loss * jnp.where(batch['label'].sum() == batch['poison'][0], jnp.nan, 1.0), extra

    def source(start):
        for k, batch in enumerate(batches(start)):
            yield batch | {'poison': np.full(16, batch['label'].sum() if start + k == 6 else -1)}

    optimizer = optax.adam(1e-2)
    graph, _ = abstract_network(build)
    state = make_state(build, optimizer, seed=1, keep_ema=False, mesh=mesh_of())
    with pytest.raises(UserError, match=r'between steps 4 and 8'):
        fit(
            Breaks(graph),
            optimizer,
            state,
            Feed(source),
            plan(tmp_path, save_every=4),
            mesh_of(),
            Cost(),
        )
    assert (tmp_path / 'checkpoints' / 'step_4').exists()
    assert not (tmp_path / 'checkpoints' / 'step_8').exists()


def test_batch_must_split_over_the_devices(tmp_path):
    with pytest.raises(UserError, match='8 devices'):
        train(tmp_path, batch=12)


def test_cost_knows_rates_and_hides_what_it_does_not_know():
    totals = {'seconds': 12.0, 'compile_seconds': 2.0, 'wait_seconds': 1.0, 'images': 100}
    totals |= {'flops': 5e9, 'devices': 2}
    found = summarize(totals)
    wanted = (10.0, 5.0, 0.1)
    assert (found['images_per_s'], found['images_per_s_per_device'], found['wait_share']) == wanted
    assert found['device_seconds'] == 24.0
    assert found['mfu'] is None  # a CPU has no peak in the table


@pytest.mark.long
def test_seed_makes_the_network():
    a, b, c = (
        make_state(build, optax.sgd(0.1), seed=s, keep_ema=False, mesh=mesh_of()) for s in (1, 1, 2)
    )
    assert all((x == y).all() for x, y in zip(leaves(a.params), leaves(b.params), strict=True))
    assert any((x != y).any() for x, y in zip(leaves(a.params), leaves(c.params), strict=True))
    assert isinstance(nnx.merge(abstract_network(build)[0], a.params, a.stats), Tiny)


HELD = {'position': {'image': IMAGES, 'label': (IMAGES[:, 0, 0, 0] // 86).astype(np.int32)}}


def numbers(start):
    for step in itertools.count(start):
        yield {'position': np.array([(step * 16 + k) % 512 for k in range(16)], np.int32)}


@pytest.mark.parametrize(('together', 'lengths'), [(1, [1]), (4, [4, 1]), (16, [4, 1])])
def test_rows_on_the_devices_and_several_steps_in_one_program_change_nothing(
    tmp_path, together, lengths, monkeypatch
):
    made, compile_step = [], loop.compile_step

    def noted(update, mesh, *args):
        made.append(args[-1].get('position', np.zeros(16)).size // 16)
        return compile_step(update, mesh, *args)

    monkeypatch.setattr(loop, 'compile_step', noted)
    plain = train(tmp_path / 'rows', steps=9, save_every=4)
    made.clear()
    feed = Feed(numbers, devices.put_copy(HELD, mesh_of(8)))
    found = train(tmp_path / 'held', steps=9, save_every=4, source=feed, together=together)
    assert made == lengths
    for ours, theirs in zip(leaves(found), leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    curves = [
        [row['step'] for row in read_rows(tmp_path / name / 'metrics.jsonl')]
        for name in ('rows', 'held')
    ]
    assert curves[0] == curves[1] == [4, 8, 9]


def test_a_run_that_stopped_between_whole_programs_goes_on(tmp_path):
    feed = Feed(numbers, devices.put_copy(HELD, mesh_of(8)))
    whole = train(tmp_path / 'whole', steps=12, save_every=4, source=feed, together=4)
    train(tmp_path / 'parts', steps=6, save_every=4, source=feed, together=4, of=12)
    parts = train(tmp_path / 'parts', steps=12, save_every=4, source=feed, together=4)
    for ours, theirs in zip(leaves(parts), leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
