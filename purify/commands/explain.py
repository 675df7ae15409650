"""`purify COMMAND --config NAME --help`: every setting of a config, its value and its meaning."""

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import docstring_parser

from purify.attacker.settings import TriggerSettings
from purify.attacker.trigger_objectives import FitInputAware, FitLira, FitMask, HideSecret
from purify.attacks.registry import ATTACKS
from purify.attacks.selection import PoisonSettings
from purify.commands.bench_settings import BenchSettings
from purify.commands.call import Call
from purify.config.load import load_module
from purify.config.skeleton import Run, Seeds, Skeleton
from purify.core.registry import Registry
from purify.core.types import Facts, Settings
from purify.data.augment import AUGMENTATIONS
from purify.data.sources.open_source import SOURCES, open_source
from purify.defenses.castle_walls.diffusion_classifier import DenoisingErrors
from purify.defenses.castle_walls.generation import Generate
from purify.defenses.dataelixir.target_labels import TARGETS
from purify.defenses.dataelixir.verdicts import Choice, LabelTransition
from purify.defenses.filters.score_filter import SCORES
from purify.defenses.registry import DEFENSES
from purify.defenses.relabelling.poisoned_classes import DISRUPTIONS, Strangers
from purify.defenses.relabelling.verdicts import Relabel
from purify.defenses.settings import DissectionSettings, Evaluation, Loaded, TrustedSettings
from purify.defenses.steps import Simclr
from purify.diffusion.preconditioning import Preconditioning
from purify.diffusion.samplers import SAMPLERS
from purify.generative.open_prior import VARIATION_MODELS
from purify.models.classifiers.registry import NETWORKS
from purify.models.flow import CouplingFlow
from purify.stages.diffusion_settings import (
    Denoising,
    DistilledPrior,
    NoiseSchedule,
    PixelNetwork,
    Timesteps,
    TrainedPrior,
    latent_generator,
    pixel_generator,
)
from purify.stages.train_classifier import Training
from purify.train.class_batches import Fit
from purify.train.objectives.registry import OBJECTIVES
from purify.train.optim import OPTIMIZERS, make_optimizer
from purify.train.views import Views

Taker = Callable[..., Any]
FILL = functools.partial(textwrap.fill, width=100, break_long_words=False, break_on_hyphens=False)
# The last part of a path -> where the part's `name`, or its own, is looked up.
NAMED: dict[str, Registry[Any]] = {
    'attack': ATTACKS,
    'source': SOURCES,
    'defense': DEFENSES,
    'network': NETWORKS,
    'classifier': NETWORKS,
    'optim': OPTIMIZERS,
    'objective': OBJECTIVES,
    'sampler': SAMPLERS,
    'targets': TARGETS,
    'disruptive': DISRUPTIONS,
}
# The same by the part's own key, such as `augment.flip`.
CALLED: dict[str, Registry[Any]] = {'augment': AUGMENTATIONS, 'scores': SCORES}
# A defence or an objective, by name -> the rules whose settings are its own.
BESIDE: dict[str, tuple[Taker, ...]] = {
    'ddpm': (pixel_generator,),
    'edm': (pixel_generator, Preconditioning),
    'latent': (latent_generator,),
    'dataelixir': (LabelTransition, Choice),
    'relabel': (Relabel,),
    'diffusion_classifier': (DenoisingErrors,),
}
# The last part of a path -> what else explains the settings of the part.
TAKERS: dict[str, tuple[Taker, ...]] = {
    'run': (Run,),
    'seeds': (Seeds,),
    'source': (open_source,),
    'attack': (PoisonSettings,),
    'optim': (make_optimizer,),
    'prior.network': (PixelNetwork,),
    'generator.network': (PixelNetwork,),
    'schedule': (NoiseSchedule,),
    'timesteps': (Timesteps,),
    'sampling': (Generate,),
    'prior': (Loaded, TrainedPrior, DistilledPrior),
    'encoder': (Loaded, Simclr),
    'generator': (Denoising,),
    'trigger': (TriggerSettings,),
    'trigger.network': (),
    'trusted': (TrustedSettings,),
    'dissection': (DissectionSettings,),
    'evaluation': (Evaluation,),
    'strangers': (Strangers,),
    'flows': (CouplingFlow,),
    'fit': (Fit,),
    'views': (Views,),
    'generator.objective': (),
    'trigger.objective': (HideSecret, FitInputAware, FitLira, FitMask),
    **dict.fromkeys(('teacher', 'student', 'surrogate', 'labeller', 'detector'), (Training,)),
}


@dataclass(frozen=True)
class Setting:
    """A setting of a config, or the heading of a part (`value` None).

    Attributes:
      name: dotted, as in `--config.NAME=VALUE`.
      value: as the config has it.
      meaning: of a setting '' where the heading of its part says it.
    """

    name: str
    value: Any
    meaning: str


def explain(config: Settings) -> Iterator[Setting]:
    """Lists every part and setting of a config, each part before its settings."""
    whole = BenchSettings if 'shapes' in config else Skeleton
    yield from _explain((), config, meanings_of(whole), '')


def _explain(
    path: tuple[str, ...], part: Settings, known: dict[str, str], above: str
) -> Iterator[Setting]:
    """What stands below the part at `path`, whose settings mean what is `known`, in that order.

    `above` is the name that the nearest part above has.
    """
    above, order = str(part.get('name', above)), [*known]
    place_of = lambda key: order.index(key) if key in order else len(order)
    for key in sorted(
        part, key=lambda key: (isinstance(part[key], dict), key != 'name', place_of(key))
    ):
        value, place = part[key], (*path, key)
        if not isinstance(value, dict):
            yield Setting('.'.join(place), value, known.get(key, ''))
        elif value:
            takers = _takers(place, value, above)
            told = meanings_of(*takers)
            if key in NAMED and value.get('name') in NAMED[key]:
                told['name'] = f'which {NAMED[key].kind}; another one has other settings, see Words'
            silent = any(not isinstance(value[name], dict) and name not in told for name in value)
            own, said = known.get(key, ''), _prose(takers[0], whole=silent) if takers else ''
            heading = ' '.join(filter(None, [own, said] if silent or not own else [own]))
            yield Setting('.'.join(place), None, heading)
            yield from _explain(place, value, told, above)


def _takers(path: tuple[str, ...], part: Settings, above: str) -> list[Taker]:
    """What explains the settings of the part at `path`, the most special first.

    `above` is the name that the nearest part above has.
    """
    parent, last = ('', *path)[-2:]
    name, found = str(part.get('name', '')).partition(':')[0], list[Taker]()
    if parent in CALLED:
        found.append(CALLED[parent].bare(last))
    elif last == 'score' and above in SCORES:
        found.append(SCORES.bare(above))
    elif last == 'vary' and part.get('model') in VARIATION_MODELS:
        model = VARIATION_MODELS[part['model']]
        found += [model.vary, model]
    elif parent == 'more':
        found += [ATTACKS.bare(above), PoisonSettings]
    elif name in NAMED.get(last, ()):
        found.append(NAMED[last].bare(name))
    usual = TAKERS.get(f'{parent}.{last}', TAKERS.get(last, ()))
    # Of those that may stand here, the ones that know most of what does.
    knows = {taker: len(part.keys() & meanings_of(taker).keys()) for taker in usual}
    most = max(knows.values(), default=0)
    return [*found, *(taker for taker in usual if knows[taker] == most), *BESIDE.get(name, ())]


def _prose(taker: Taker, *, whole: bool) -> str:
    """What a docstring says before its sections, or the first sentence of it alone."""
    told = _parsed(taker.__doc__ or '')
    said = [told.short_description or '', (told.long_description or '') if whole else '']
    text = ' '.join(' '.join(said).split())
    return re.sub(r' ?Raises `UserError`[^.]*\.', '', text)


def meanings_of(*takers: Taker) -> dict[str, str]:
    """What docstrings say of the parameters of classes and functions; the first one is believed.

    In the order of the docstrings, those of base classes first. What only points elsewhere is
    passed over.
    """
    found: dict[str, str] = {}
    for taker in takers:
        for source in taker.__mro__ if inspect.isclass(taker) else (taker,):
            own: dict[str, str] = {}
            for param in _parsed(source.__doc__ or '').params:
                text = ' '.join((param.description or '').split())
                if not text.startswith(('see ', 'likewise')):
                    own |= dict.fromkeys(param.arg_name.split(', '), text)
            found = own | found
    return found


@functools.cache
def _parsed(doc: str) -> docstring_parser.Docstring:
    google = docstring_parser.DocstringStyle.GOOGLE
    return docstring_parser.parse(inspect.cleandoc(doc), style=google)


def print_settings(spec: str, config: Facts) -> None:
    """Prints what the config file says of itself, then every setting as a shell takes it."""
    print(inspect.cleandoc(load_module(spec).__doc__ or '').strip())
    print('\nEvery setting, to be changed by --config.NAME=VALUE:')
    for setting in explain(config):
        if setting.value is None:
            print('\n' + FILL(f'{setting.name}: {setting.meaning}', subsequent_indent='  '))
        else:
            text = f'  {setting.name}={typed(setting.value)}  {setting.meaning}'
            print(FILL(text.rstrip(), subsequent_indent=' ' * 6))


def typed(value: Any) -> str:
    """A value as it is typed into a shell."""
    if isinstance(value, list):
        return f'"{tuple(value)!r}"' if value else '"()"'
    return repr(value)


def command(call: Call) -> int:
    """Prints the settings of the config that stands on the command line."""
    print_settings(call.need('config'), call.load())
    return 0
