import jax.numpy as jnp
import numpy as np
import pytest
from support.meshes import mesh_of

from purify.train.cost import Cost
from purify.train.inference import even_batch, map_images


def run(count, batch, n=70):
    mesh = mesh_of(count)
    shapes = []

    def apply(weight, rows):
        shapes.append(rows['x'].shape[0])
        return {'y': rows['x'] * weight, 'sum': rows['x'].sum(-1)}

    cost, got, where = Cost(), [], []

    def fetch(i):
        return {'x': np.full(2, i, np.float32)}

    for positions, out in map_images(
        apply, jnp.float32(3), fetch, range(n), batch=batch, mesh=mesh, cost=cost
    ):
        got.append(out)
        where.append(positions)
    return (
        np.concatenate(where),
        {name: np.concatenate([o[name] for o in got]) for name in got[0]},
        shapes,
        cost,
    )


@pytest.mark.parametrize(('count', 'batch'), [(1, 32), (4, 50), (8, 50), (8, 200)])
def test_every_record_once_in_order_without_padding(count, batch):
    where, out, shapes, cost = run(count, batch)
    assert (where == np.arange(70)).all()
    assert (out['y'][:, 0] == 3 * np.arange(70)).all()
    assert (out['sum'] == 2 * np.arange(70)).all()
    assert len(shapes) == 1  # one program, one shape for every device
    assert shapes[0] == -(-batch // count)
    assert cost.images == 70


@pytest.mark.parametrize(
    ('count', 'most', 'size'), [(70, 32, 24), (64, 32, 32), (5, 32, 5), (0, 8, 1), (1, 1, 1)]
)
def test_batches_are_as_even_as_they_can_be(count, most, size):
    assert even_batch(count, most) == size


def test_nothing_to_do_is_no_batch():
    mesh = mesh_of(1)
    assert (
        list(
            map_images(
                lambda w, r: r, 0, lambda i: {'x': np.zeros(1)}, [], batch=4, mesh=mesh, cost=Cost()
            )
        )
        == []
    )
