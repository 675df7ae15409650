r"""What is left of a trigger, and of everything else, after one round of a prior.

    purify run --config quickstart:source=arrays:DIR,defense=none --workdir W
    python tests/tools/survival.py W photos32 COUNT sampler:start:steps ... >> survival.jsonl

W holds a teacher that was trained on poisoned images. Of its first COUNT poisoned training images
and as many others: how often the teacher takes a variation of the first for the target label, and
how often it gives one of the second its own label. A line of JSON for each chain: a cheap look at
T and steps before students are trained.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from photo_prior import in_batches

from purify.attacker.manifest import Manifest
from purify.data.loader import Split
from purify.generative.open_prior import load_variation_model
from purify.stages.networks_on_disk import read_classifier


def main(workdir, prior, count, chains):
    """Prints a line for each chain."""
    (prepared,) = Path(workdir).glob('stages/prepare-*[!k]')
    split, truth = Split(prepared / 'poisoned', 'train'), Manifest.read(prepared / 'truth')
    places = {int(id): place for place, id in enumerate(split.ids)}
    target = truth.facts['attack']['target']
    moved = truth.poisoned & (truth.true_labels != target)
    chosen = [np.flatnonzero(mask)[:count] for mask in (moved, ~truth.poisoned)]
    rows = np.concatenate(chosen)
    images = np.stack([split[places[int(id)]]['image'] for id in truth.ids[rows]])
    images = images.astype(np.float32) / 127.5 - 1
    stamped = np.arange(len(rows)) < len(chosen[0])
    teacher, prior = read_classifier(Path(workdir) / 'teacher'), load_variation_model(prior)
    say = jax.jit(lambda x: teacher.logits(teacher.weights, x / 2 + 0.5).argmax(-1))

    def tell(chain, varied, seconds):
        classes = in_batches(say, varied)
        row = {
            'attack': truth.facts['attack']['name'],
            'seed': truth.facts['seed'],
            'chain': chain,
            'poisoned': len(chosen[0]),
            'others': len(chosen[1]),
            'target': round(float((classes == target)[stamped].mean()), 4),
            'true_poisoned': round(float((classes == truth.true_labels[rows])[stamped].mean()), 4),
            'true_others': round(float((classes == truth.true_labels[rows])[~stamped].mean()), 4),
            'processor_ms': round(1000 * seconds / len(rows), 1),
        }
        print(json.dumps(row), flush=True)

    tell('none', images, 0.0)
    keys, labels = jax.random.split(jax.random.key(10), len(rows)), np.zeros(len(rows), np.int32)
    for chain in chains:
        sampler, start, steps = chain.split(':')
        own = {'eta': 1.0} if sampler == 'ddim' else {}
        vary = jax.jit(prior.vary((), sampler=sampler, start=int(start), steps=int(steps), **own))
        make = lambda x, labels, keys, vary=vary: vary(prior.weights, x, labels, keys)
        begin = time.process_time()
        varied = in_batches(make, images, labels, keys)
        tell(chain, varied, time.process_time() - begin)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
