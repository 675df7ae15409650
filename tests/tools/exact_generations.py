"""What a model without mistakes makes of the poisoned sets of guidance_sweep.sh: the posterior mean
of a Gaussian mixture, in closed form.

    PYTHONPATH=.:tests python tests/tools/exact_generations.py WORK OUT.json [seeds, 0,1]

WORK is that of guidance_sweep.sh. The components of the mixture lie on the poisoned training images
(deviation .1 of a range of 2). The samplers are those of purify. An image shows the trigger where
the training image nearest to it does. docs/results/castle-walls-digits/raw/2026-11-29/exact.json is
what this script wrote.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from support.exact_denoiser import nearest, predict_pair

from purify.attacker.manifest import Manifest
from purify.data.loader import Split
from purify.diffusion.guidance import guide
from purify.diffusion.run_chain import sample, start_noise
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import make_noise_schedule
from purify.diffusion.timesteps import make_timesteps

COUNT, SHAPE = 1000, (16, 16, 1)
CHAINS = {
    'ddim': (50, {'eta': 0.0}),
    'dpmpp_2m': (50, {}),
    'ddpm': (1000, {'variance': 'fixed_large'}),
}


def shares(points, labels, stamped, name, scale):
    """Of images made of class 0: the shares that show it, by the label they are given, and that
    show the trigger.
    """
    schedule = make_noise_schedule('linear', 1000)
    steps, options = CHAINS[name]
    chain = SAMPLERS.make(name, schedule, make_timesteps(1000, steps, sampler=name), **options)
    keys = jax.random.split(jax.random.key(0), COUNT)
    predict = guide(predict_pair(schedule, points, labels == 0), scale)
    made = np.asarray(
        jax.jit(lambda: sample(chain, predict, start_noise(keys, SHAPE), keys))()
    ).reshape(COUNT, -1)
    like = nearest(made, points)
    return {'class': float((labels[like] == 0).mean()), 'trigger': float(stamped[like].mean())}


def main(work, out, seeds):
    """All rates, samplers and scales, written to `out`."""
    rows = []
    for rate in ('0.1', '0.02'):
        for seed in seeds:
            environment = json.loads(
                (work / f'{rate}-{seed}-ddim-1' / 'environment.json').read_text()
            )
            folder = (
                Path(environment['store']) / f'prepare-{environment["fingerprints"]["prepare"]}'
            )
            split, manifest = Split(folder / 'poisoned', 'train'), Manifest.read(folder / 'truth')
            points = (
                np.stack(list(split.images(range(len(split.ids))))).reshape(len(split.ids), -1)
                / 127.5
                - 1
            )
            stamped = np.isin(split.ids, manifest.ids[manifest.poisoned])
            p_t = float(stamped[split.labels == 0].mean())
            for name in CHAINS:
                for scale in (1.0, 2.0, 6.0):
                    found = shares(points, split.labels, stamped, name, scale)
                    rows.append(
                        {'rate': rate, 'seed': seed, 'p_t': p_t, 'sampler': name, 'scale': scale}
                        | found
                    )
                    print(rows[-1], flush=True)
    out.write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    drawn = sys.argv[3] if len(sys.argv) > 3 else '0,1'
    main(Path(sys.argv[1]), Path(sys.argv[2]), drawn.split(','))
