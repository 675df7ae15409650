"""The finished models that rules look through, opened from a stage's inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.core.randomness import stream_rng
from purify.core.types import Facts, Tree
from purify.data.loader import Split
from purify.defenses.method import Measure
from purify.engine.stage import Work
from purify.generative.open_prior import load_variation_model
from purify.generative.pixel_generator import open_generator
from purify.stages.networks_on_disk import open_classifier
from purify.stages.train_encoder import open_encoder


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images u8[n h w c] for a rule to compare with; held as `weights`, as the models' are."""

    weights: Tree


def open_models(work: Work, split: Split, *, dtype: str = 'float32', prefix: str = '') -> Facts:
    """The models among a stage's inputs by role: 'prior', 'generator', 'classifier' and 'encoder'.

    Args:
      work: the stage's; an input of the role is called `prefix` and the role.
      split: whose images they look at; a classifier must be of its classes.
      dtype: what a diffusion model computes in.
      prefix: of the names of the inputs.
    """
    computed = {'dtype': dtype, 'vae_slice': work.run['vae_slice']}
    openers: dict[str, Callable[[Path], Any]] = {
        'prior': partial(load_variation_model, **computed),
        'generator': partial(open_generator, **computed),
        'classifier': partial(open_classifier, role='classifier', split=split),
        'encoder': open_encoder,
    }
    given = {role: work.inputs.get(prefix + role) for role in openers}
    return {role: openers[role](place) for role, place in given.items() if place is not None}


def weights_of(models: Facts) -> Facts:
    """The weights of models by role, as a rule takes them."""
    return {role: model.weights for role, model in models.items()}


def draw_images(work: Work, measure: Measure, split: Split) -> dict[str, Drawn]:
    """Draws images of `split` for a stage's measure that compares with some: {'drawn': ...}, or {}.

    None is drawn twice. Raises `UserError` where there are too few.
    """
    count = measure.drawn()
    if not count:
        return {}
    if count > len(split):
        raise UserError(
            f'{work.name}: draws={count}: {split.folder} has {len(split)} images. Choose fewer.'
        )
    chosen = stream_rng(work.settings['seed'], 'drawn').permutation(len(split))[:count]
    return {'drawn': Drawn(split.images(np.sort(chosen).tolist()))}
