"""Times the flows of all classes at once against one class after another, turn by turn. Prints one
line of JSON for each size.

    python tests/tools/flow_speed.py [pairs, 20]

Both sides run the same compiled updates on the same batches. Compiling, and looking at all rows
afterwards, is not counted.
"""

import json
import sys
import time
from functools import partial

import jax
import numpy as np
import optax

from purify.models.flow import CouplingFlow
from purify.train.class_batches import Fit, divide
from purify.train.flows import Flows
from purify.train.state import abstract_network


def prepare(classes, width, rows, epochs, batch):
    """(a function that trains the flows numbered so, which are all of them, which are each
    alone).
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), rows)
    features = rng.normal(size=(len(labels), width)).astype(np.float32)
    fit = Fit(epochs=epochs, batch=batch, hold_out=0.0)
    divided = divide(labels, np.arange(len(labels)), classes, fit, 0)
    build = lambda rngs: CouplingFlow(
        width, couplings=2, hidden=0, transform='affine', mixing='swap', rngs=rngs
    )
    flows = Flows(abstract_network(build)[0], optax.adam(fit.lr, fit.b1, fit.b2), False)
    start = jax.jit(partial(flows.start, build))
    picks, live = divided.picks(0, divided.longest())
    shared = jax.device_put(features)
    advance = jax.jit(flows.advance)

    def train(which):
        stats, state = start(jax.vmap(jax.random.key)(which))
        own = [jax.device_put(array[which]) for array in (picks, live)]
        jax.block_until_ready((state, own, shared))
        began = time.perf_counter()
        jax.block_until_ready(advance(state, stats, *own, shared))
        return time.perf_counter() - began

    return train, np.arange(classes), [np.array([label]) for label in range(classes)]


for classes, width, rows, epochs, batch in (
    (10, 18, 80, 1.0, 16),
    (10, 64, 500, 1.0, 16),
    (10, 512, 1000, 0.16, 16),
):
    train, together, alone = prepare(classes, width, rows, epochs, batch)
    for which in (together, alone[0]):
        train(which)  # compiles
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    pairs = [(train(together), sum(train(which) for which in alone)) for _ in range(count)]
    ratios = sorted(one / all_ for all_, one in pairs)
    facts = {'classes': classes, 'width': width, 'rows': rows, 'pairs': len(pairs)}
    times = {
        'at_once_s': float(np.median([a for a, _ in pairs])),
        'one_by_one_s': float(np.median([b for _, b in pairs])),
    }
    print(
        json.dumps(
            facts
            | times
            | {
                'ratio': ratios[len(ratios) // 2],
                'low': ratios[0],
                'high': ratios[-1],
            }
        ),
        flush=True,
    )
