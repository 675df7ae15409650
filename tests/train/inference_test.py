import jax.numpy as jnp
import numpy as np
import pytest
from support.meshes import mesh_of

from purify.train.cost import Cost
from purify.train.inference import map_images


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
    batches = -(-70 // batch)  # of one size, as even as the devices let them be
    assert shapes[0] == -(-70 // (batches * count))
    assert cost.images == 70


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
