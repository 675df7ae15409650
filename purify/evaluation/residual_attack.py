"""The residual attack: attackers purify triggered test images (Zhou 2024, section 5.1, table 5)."""

from typing import Any

import numpy as np

from purify.core import devices
from purify.core.errors import UserError
from purify.core.progress import Bar
from purify.core.randomness import stream_seed
from purify.core.types import Facts
from purify.defenses.dataelixir.candidates import Candidates
from purify.defenses.method import Context
from purify.evaluation.testbench import BROKEN, Bench, advise
from purify.generative.open_prior import load_variation_model
from purify.metrics.classification import attack_success
from purify.metrics.intervals import Rate, pooled
from purify.stages.models import weights_of
from purify.train.inference import Rule


def measure_residual(bench: Bench, candidates: Candidates) -> Facts:
    """Measures the student's ASR on triggered test images that the attacker has purified himself.

    Returns {'residual_asr', 'residual_counts', 'residual_interval'}. Each triggered test image that
    counts for the ASR becomes the candidate that the defence would put in its place, by the prior
    and the teacher's eyes, and goes to the student. Nothing where the attack has no trigger.
    """
    shares = []
    aims = [bench.aim(attack) for attack in bench.attacks]
    images = sum(int(among.sum()) for _, among in aims)
    with Bar(f'{bench.work.name} residual', images, shown=devices.is_lead()) as bar:
        change = _purification(bench, candidates) if bench.attacks else None
        student = bench.classifier('student')
        for number, (attack, (goals, among)) in enumerate(zip(bench.attacks, aims, strict=True)):
            where, name = np.flatnonzero(among), f'residual-{number}'
            classes = bench.predict(student, name, bar, attack, positions=where, change=change)
            if broken := int((classes == BROKEN).sum()):
                what = f'the prior gave NaN for {broken} triggered test images.'
                raise UserError(f'{what} {advise(candidates.dtype)}')
            shares.append(attack_success(classes, goals[where], np.ones(len(where), bool)))
    share: Rate | None = pooled(shares) if shares else None
    return {
        'residual_asr': share.value if share else None,
        'residual_counts': [share.hits, share.count] if share else None,
        'residual_interval': list(share.interval()) if share and share.count else None,
    }


def _purification(bench: Bench, candidates: Candidates) -> tuple[Any, Rule]:
    """(constants, rule) that put the ranked candidate, with its own noise, in an image's place."""
    work, settings = bench.work, bench.work.settings
    computed = {'dtype': candidates.dtype, 'vae_slice': work.run['vae_slice']}
    prior = load_variation_model(work.inputs['prior'], **computed)
    models = {'prior': prior, 'classifier': bench.classifier('teacher')}
    seed = stream_seed(settings['seed'], 'residual')
    context = Context(bench.test.shape, seed, bench.test.class_names)
    return weights_of(models), candidates.chosen(models, context, **settings['residual_choice'])
