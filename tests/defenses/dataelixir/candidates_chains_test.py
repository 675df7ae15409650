"""Chains without noise, and what an attacker who purifies his images himself is handed."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import dataelixir_reference as reference
from support.made_candidates import (
    CONSTANTS,
    EVERY,
    MODELS,
    ROWS,
    SCHEDULE,
    SHAPE,
    eps_by_hand,
    label_by_hand,
    noises,
)

from purify.defenses.dataelixir.candidates import Candidates, Remake
from purify.defenses.dataelixir.label_changes import choose_candidate
from purify.defenses.method import Context

CALLS = [11, 7, 3, 2, 0]  # of start 12, steps 5, window 3, kept 2


def steps_by_hand(name, x):
    """One round from the noised x f64[h w c] at the first of `CALLS` -> (x, [(state, clean image)
    after every call]).

    Euler: dx/dsigma of x/alpha is eps. DPM-Solver++(2M): algorithm 2 of Lu 2022, its last step, to
      sigma 0, of first order.
    """
    bars, states, clean = SCHEDULE.alphas_cumprod[CALLS], [], []
    alphas, sigmas = np.append(np.sqrt(bars), 1.0), np.append(np.sqrt(1 - bars), 0.0)
    for i, t in enumerate(CALLS):
        eps = eps_by_hand(x, t)
        clean.append(np.clip((x - sigmas[i] * eps) / alphas[i], -1, 1))
        if name == 'euler':
            x = alphas[i + 1] * clean[i] + sigmas[i + 1] * (x - alphas[i] * clean[i]) / sigmas[i]
        elif i == len(CALLS) - 1:
            x = clean[i]
        else:
            lam = np.log(alphas[:-1] / sigmas[:-1])
            h, data = lam[i + 1] - lam[i], clean[i]
            if i:
                r = (lam[i] - lam[i - 1]) / h
                data = (1 + 1 / (2 * r)) * clean[i] - 1 / (2 * r) * clean[i - 1]
            x = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * np.expm1(-h) * data
        states.append(x)
    return x, states, clean


@pytest.mark.long
@pytest.mark.parametrize('state', ['x_t', 'x0'])
@pytest.mark.parametrize('name', ['euler', 'dpmpp_2m'])
def test_samplers_that_draw_no_noise(name, state):
    changes = {'steps': 5, 'kept': 2, 'sampler': {'name': name}, 'forward': 'matched'}
    changes |= {'state': state}
    rows, bar = {key: value[:6] for key, value in ROWS.items()}, SCHEDULE.alphas_cumprod[11]
    candidates = []
    for image, turns in zip(rows['image'], noises(0), strict=False):
        x, mine = image / 127.5 - 1, []
        for draws in turns:
            x, states, clean = steps_by_hand(
                name, np.sqrt(bar) * x + np.sqrt(1 - bar) * draws['forward']
            )
            mine += [
                reference.grey_levels(levels)
                for levels in (states if state == 'x_t' else clean)[-2:]
            ]
            x = np.clip(x, -1, 1)
        candidates.append(mine)
    wanted = np.array(candidates)
    remake = jax.jit(Remake(**EVERY | changes).rule(MODELS, Context(SHAPE, 0, [])))
    for number in range(6):
        made = np.asarray(remake(CONSTANTS, rows | {'variation': np.full(6, number)})['image'])
        assert np.abs(made - wanted[:, number]).max() <= 1
    out = jax.jit(Candidates(**EVERY | changes).rule(MODELS, Context(SHAPE, 0, [])))(
        CONSTANTS, rows
    )
    found = out['candidates'].tolist()
    assert found == [[label_by_hand(levels) for levels in mine] for mine in wanted]
    assert out['finite'].all()


class Drawn(Candidates):
    """Candidates out of a hat: the choice among them is looked at, not how they are made."""

    def images(self):
        return (
            np.random.default_rng(self.rounds)
            .integers(0, 256, (self.rounds, self.kept, 2, *SHAPE))
            .astype(np.float32)
        )

    def _walk(self, models, context):
        def walk(weights, rows, look):
            looks = [look(jnp.asarray(states)) for states in self.images()]
            return jax.tree.map(lambda *parts: jnp.stack(parts), *looks), jnp.ones(2, bool)

        return walk


@pytest.mark.long
@pytest.mark.parametrize(('rounds', 'kept'), [(1, 1), (1, 3), (5, 2), (5, 5)])
def test_an_attacker_is_handed_what_the_defence_would_choose(rounds, kept):
    """`choose_candidate`, on the distances that the measure finds of the same candidates."""
    rule = Drawn(**EVERY | {'rounds': rounds, 'kept': kept, 'steps': kept, 'window': 12})
    rows = {'image': ROWS['image'][:2], 'id': ROWS['id'][:2]}
    cases = [
        (rank, count_raw) for rank in (0.0, 0.29, 0.3, 0.5, 0.8, 1.0) for count_raw in (False, True)
    ]

    @jax.jit
    def every(rows):
        models = MODELS | {
            'classifier': SimpleNamespace(
                answer=lambda _, images: (images[:, 0, 0], images.mean((1, 2)) + 0.1)
            )
        }
        constants = {'prior': (), 'classifier': ()}
        images = [
            rule.chosen(models, Context(SHAPE, 0, []), *case)(constants, rows)['image']
            for case in cases
        ]
        return images, rule.rule(models, Context(SHAPE, 0, []))(constants, rows)['distance']

    images, distance = every(rows)
    known = np.concatenate([rule.images().reshape(-1, 2, *SHAPE), rows['image'][None]])
    for image, (rank, count_raw) in zip(images, cases, strict=True):
        which = choose_candidate(
            np.asarray(distance), np.ones(distance.shape, bool), rank, count_raw
        )
        np.testing.assert_array_equal(image, known[which, np.arange(2)])
