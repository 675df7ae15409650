"""The settings of the command `bench`: what they may be, and the defence's rule that they make."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from purify.core.errors import UserError
from purify.core.types import Settings
from purify.defenses.method import Context
from purify.defenses.purifiers.variations import Variations
from purify.generative.open_prior import VARIATION_MODELS
from purify.models.files.dtypes import DTYPES
from purify.models.files.shapes import abstract_pipeline

# the least that each whole number may be; all but the first two come as lists
LEAST = {'repeats': 1, 'source_px': 1, 'batches': 1, 'steps': 1, 'sizes_px': 0, 'vae_slices': 0}
# of sd_img2img: three quarters of `steps` are taken
IMAGE_TO_IMAGE = {'strength': 0.75, 'caption': 'A photo of a {}'}
CLASS_NAMES = ('cat', 'dog')


@dataclass(frozen=True)
class BenchSettings:
    """What `purify bench variations` measures: every combination of the lists.

    Attributes:
      kind: of the image-variation model: 'sd_variation', 'versatile' or 'sd_img2img'.
      shapes: sizes of its networks: 'sd1', 'sd2', 'versatile', 'small' or 'tiny'.
      name: of the config.
      sampler: 'own', that of the published model, or one of `purify list`.
      source_px: side of the images that go in.
      repeats: how often each combination is timed.
      batches: images at a time on a device.
      dtypes: what networks compute in.
      steps: of the chain.
      sizes_px: side of the images inside the model; 0 is the size the UNet was made for.
      guidances: scales; 1 is without.
      vae_slices: images that the VAE takes at once; 0 for all.
    """

    kind: str
    shapes: str
    name: str = 'bench'
    sampler: str = 'own'
    source_px: int = 224
    repeats: int = 3
    batches: tuple[int, ...] = (8,)
    dtypes: tuple[str, ...] = ('bfloat16',)
    steps: tuple[int, ...] = (50,)
    sizes_px: tuple[int, ...] = (0,)
    guidances: tuple[float, ...] = (7.5,)
    vae_slices: tuple[int, ...] = (0,)


def check_settings(config: Settings) -> None:
    """Raises `UserError` for a mistake in any setting; makes every chain, but no weights."""
    asked = (*LEAST, 'guidances', 'dtypes', 'kind', 'shapes', 'sampler')
    if missing := [name for name in asked if name not in config]:
        raise UserError(
            f'this config has no {", ".join(missing)}: it is none for bench. Give one like `bench`.'
        )
    least = dict(LEAST)
    if config['kind'] == 'sd_img2img':
        least['steps'] = math.ceil(1 / IMAGE_TO_IMAGE['strength'])
    for name, bound in least.items():
        fits = partial(_is_whole, bound)
        if name in ('repeats', 'source_px'):
            _demand(name, config[name], fits(config[name]), f'a whole number, {bound} or more')
        else:
            wanted = f'one or more whole numbers, each {bound} or more, like 8,16'
            _demand(name, config[name], _are(fits, config[name]), wanted)
    guidances, dtypes = config['guidances'], config['dtypes']
    fits = _are(lambda value: type(value) in (int, float) and math.isfinite(value), guidances)
    _demand('guidances', guidances, fits, 'one or more finite numbers, like 1.0,7.5')
    fits = _are(lambda item: isinstance(item, str), dtypes) and set(split_words(dtypes)) <= {
        *DTYPES
    }
    _demand('dtypes', dtypes, fits, f'one or more of {", ".join(DTYPES)}')
    # raises for kinds that cannot be measured
    pipeline = abstract_pipeline(config['kind'], config['shapes'])
    prior = VARIATION_MODELS.bare(config['kind']).from_pipeline(pipeline)
    given = {name: config[name] for name in ('kind', 'sampler', 'source_px')}
    points = itertools.product(config['sizes_px'], guidances, config['steps'])
    for size_px, guidance, steps in points:
        row = {'dtype': 'float32', 'steps': steps, 'guidance': guidance, 'size_px': size_px}
        try:
            make_rule(prior, given | row)
        except UserError as error:
            raise UserError(
                f'sampler={given["sampler"]}, steps={steps}, guidance={guidance},'
                f' size_px={size_px}: {error}'
            ) from error


def _demand(name: str, value: Any, fits: bool, wanted: str) -> None:
    if not fits:
        raise UserError(f'--config.{name}={value}: give {wanted}.')


def _are(fits: Callable[[Any], bool], values: Any) -> bool:
    """Whether `values` is a list of at least one, and all fit."""
    return isinstance(values, list | tuple) and len(values) > 0 and all(map(fits, values))


def _is_whole(least: int, value: Any) -> bool:
    return type(value) is int and value >= least  # True is no number here


def split_words(items: Sequence[str]) -> list[str]:
    """The words of a setting, which come as one where a flag lists them: `--config.dtypes=a,b`."""
    return [word for item in items for word in item.split(',')]


def make_rule(prior: Any, row: Settings) -> Callable[[Any, Any], Any]:
    """The defence's rule for rows of 8-bit images; raises `UserError` for impossible settings."""
    vary = {name: row[name] for name in ('sampler', 'steps', 'guidance', 'size_px')}
    vary |= {'model': row['kind']} | (IMAGE_TO_IMAGE if row['kind'] == 'sd_img2img' else {})
    defense = Variations(
        copies=1, vary=vary, colour_transfer=True, epsilon=1e-6, dtype=row['dtype']
    )
    shape = (row['source_px'], row['source_px'], 3)
    return defense.rule({'prior': prior}, Context(shape, 0, CLASS_NAMES))
