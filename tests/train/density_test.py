import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from support.meshes import mesh_of

from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.core.randomness import stream_key
from purify.core.writers import read_rows
from purify.models.flow import CouplingFlow
from purify.train import density
from purify.train.class_batches import Fit, divide
from purify.train.cost import Cost
from purify.train.density import fit_flows
from purify.train.flows import Layout

COUNTS, WIDTH = (40, 12, 25), 4
FLOW = {'couplings': 2, 'hidden': 6, 'transform': 'affine', 'mixing': 'permute'}
FIT = Fit(epochs=8.0, batch=5, lr=0.03, hold_out=0.2)
RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat(np.arange(3), COUNTS)).astype(np.int32)
IDS = 500 + 3 * RNG.permutation(len(LABELS))
FEATURES = (
    RNG.normal(size=(3, WIDTH))[LABELS] + RNG.normal(size=(len(LABELS), WIDTH)) * 0.5
).astype(np.float32)


def fit(features=FEATURES, labels=LABELS, ids=IDS, changes=FIT, devices=1, **more):
    return fit_flows(features, labels, ids, 3, FLOW, changes, 0, mesh=mesh_of(devices), **more)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder, cost = tmp_path_factory.mktemp('whole'), Cost()
    return fit(folder=folder, cost=cost), folder, cost


@pytest.fixture(scope='module', autouse=True)
def pieces():
    """Epochs of 7 updates in three pieces, so that a fit may stop within one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(density, 'MOST_UPDATES', 3)
        yield


def stop_after(pieces, monkeypatch, **where):
    """A fit that is asked to leave after so many pieces."""
    asked = iter([False] * (pieces - 1) + [True])
    with monkeypatch.context() as patch:
        patch.setattr(preemption, 'asked', lambda: next(asked))
        with pytest.raises(Preempted):
            fit(**where)


@functools.cache
def one_after_another(changes=FIT):
    """The same fits, flow by flow, update by update -> log densities f32[n flows], the epoch kept,
    held-out NLLs by epoch.
    """
    classes, epochs = divide(LABELS, IDS, 3, changes, 0), int(changes.epochs)
    optimizer = optax.adam(changes.lr, changes.b1, changes.b2)
    ways, curves = [], []
    for number in range(3 * changes.members):
        key = jax.random.fold_in(stream_key(0, 'flows'), number)
        graph, params, rest = nnx.split(
            CouplingFlow(WIDTH, **FLOW, rngs=nnx.Rngs(key)), nnx.Param, ...
        )
        opt = optimizer.init(params)

        def nll(params, rows, graph=graph, rest=rest):
            return -nnx.merge(graph, params, rest).log_density(rows).mean()

        update = jax.jit(
            lambda params, opt, rows, nll=nll: optimizer.update(
                jax.grad(nll)(params, rows), opt, params
            )
        )
        judge, curve, way = jax.jit(nll), [], []
        for epoch in range(epochs):
            picks, live = classes.picks(epoch, 7)
            for chosen in picks[number][live[number]]:
                moves, opt = update(params, opt, FEATURES[chosen])
                params = optax.apply_updates(params, moves)
            apart = classes.held[number]
            curve.append(float(judge(params, FEATURES[apart])) if len(apart) else -epoch)
            way.append((graph, params, rest))
        ways.append(way)
        curves.append(curve)
    kept = int(np.mean(curves, 0).argmin())
    columns = [np.asarray(jax.jit(nnx.merge(*way[kept]).log_density)(FEATURES)) for way in ways]
    return np.stack(columns, 1), 1 + kept, np.array(curves)


@pytest.mark.long
def test_several_flows_of_a_class_are_averaged():
    changes = Fit(epochs=2.0, batch=8, lr=0.03, hold_out=0.0, members=2)
    found = fit(changes=changes)
    columns = one_after_another(changes)[0]
    assert np.abs(columns[:, 0] - columns[:, 1]).max() > 0.1  # they differ
    seen = found.log_density
    np.testing.assert_allclose(seen, columns.reshape(-1, 3, 2).mean(-1), rtol=1e-3, atol=2e-3)
    assert found.updates.tolist() == [10, 3, 6]


@pytest.mark.long
def test_side_by_side_is_one_after_another(whole):
    found, folder, cost = whole
    columns, kept, curves = one_after_another()
    np.testing.assert_allclose(found.log_density, columns, rtol=1e-3, atol=2e-3)
    assert found.best_epoch == kept < 8  # it stopped early
    assert len(set(curves.argmin(1))) > 1  # not when each class would have
    np.testing.assert_array_equal(found.updates, [round(8 * count / 5) for count in (32, 10, 20)])
    rows = read_rows(folder / 'metrics.jsonl')
    np.testing.assert_allclose([row['held_out'] for row in rows], curves.mean(0), rtol=1e-3)
    assert rows[-1]['loss'] < rows[0]['loss'] - 0.5
    assert cost.images == found.updates.sum() * 5
    seen = [found.held[label == LABELS].sum() for label in range(3)]
    np.testing.assert_array_equal(seen, [8, 2, 5])
    assert (found.log_density.argmax(1) == LABELS).mean() > 0.8


@pytest.mark.long
def test_a_fit_may_move_to_other_devices(whole, tmp_path, monkeypatch):
    stop_after(10, monkeypatch, folder=tmp_path, devices=8)  # five of the eight have a copy
    found = fit(folder=tmp_path, devices=1)
    np.testing.assert_allclose(found.log_density, whole[0].log_density, rtol=1e-3, atol=2e-3)
    assert found.best_epoch == whole[0].best_epoch
    np.testing.assert_array_equal(found.held, whole[0].held)


@pytest.mark.long
def test_neither_other_classes_nor_the_order_of_rows_matter(whole):
    other, order = FEATURES.copy(), RNG.permutation(len(IDS))
    other[LABELS == 2] += 0.1  # a little, since all classes are kept at one epoch
    found = fit(other[order], LABELS[order], IDS[order])
    mine = LABELS[order] != 2
    assert found.best_epoch == whole[0].best_epoch
    assert np.abs(found.log_density - whole[0].log_density[order])[mine, 2].max() > 0.01
    seen = found.log_density[mine, :2]
    np.testing.assert_allclose(seen, whole[0].log_density[order][mine, :2], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.held, whole[0].held[order])


@pytest.mark.long
def test_without_images_apart_the_last_epoch_is_kept_even_one_too_short_for_an_update(tmp_path):
    found = fit(changes=Fit(epochs=2.05, batch=8, lr=0.03, hold_out=0.0), folder=tmp_path)
    assert not found.held.any()
    assert found.best_epoch == 3
    np.testing.assert_array_equal(found.updates, [10, 3, 6])
    losses = [row['loss'] for row in read_rows(tmp_path / 'metrics.jsonl')]
    assert losses[0] > losses[1] > 0 == losses[2]


@pytest.mark.long
def test_a_stopped_fit_goes_on_and_ends_the_same(whole, tmp_path, monkeypatch):
    straight, folder, _ = whole
    stop_after(13, monkeypatch, folder=tmp_path)
    assert [row['step'] for row in read_rows(tmp_path / 'metrics.jsonl')] == [1, 2, 3, 4]
    found = fit(folder=tmp_path)
    np.testing.assert_array_equal(found.log_density, straight.log_density)
    assert (tmp_path / 'metrics.jsonl').read_bytes() == (folder / 'metrics.jsonl').read_bytes()


@pytest.mark.long
def test_the_features_lie_on_a_device_once_and_are_not_fetched_with_the_state(monkeypatch):
    sizes, fetched = [], []
    put, narrow = Layout.put, Layout.narrow
    monkeypatch.setattr(
        Layout,
        'put',
        lambda self, array, **how: sizes.append(array.size) or put(self, array, **how),
    )
    monkeypatch.setattr(
        Layout,
        'narrow',
        lambda self, tree: fetched.append(len(jax.tree.leaves(tree))) or narrow(self, tree),
    )
    run = density.FlowFit(
        'fit',
        divide(LABELS, IDS, 3, FIT, 0),
        Layout(mesh_of(8), 3),
        FLOW,
        np.zeros((len(LABELS), 1000), np.float32),
        Cost(),
    )
    run.advance(*next(run.batches(0)))
    run.judge(1)
    run.best_epoch()
    assert max(sizes) < len(LABELS)  # positions: nothing grows with the width of the features
    assert {shard.data.shape for shard in run.rows.addressable_shards} == {(len(LABELS), 1000)}
    assert set(fetched) == {1}


def test_a_class_that_leaves_the_numbers_is_named():
    wild = FEATURES.copy()
    wild[LABELS == 1] = np.inf
    with pytest.raises(UserError, match='density of class 1 stopped being finite after 1 epochs'):
        fit(wild, changes=Fit(epochs=1.0, batch=5))


def test_densities_that_are_no_numbers_are_refused():
    wild = FEATURES.copy()
    # only looked at, by the other classes too
    wild[(apart := divide(LABELS, IDS, 3, FIT, 0).held[1][0])] = np.nan
    said = f'3 log densities are not finite, such as that of image {apart} under class 0'
    with pytest.raises(UserError, match=said):
        fit(wild, changes=Fit(epochs=1.0, batch=5, hold_out=0.2), folder=None)
