"""The stage `trigger`: fits the trigger of a learned attack to clean images."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from purify.attacker.poison_plan import check_label, own_settings
from purify.attacker.trigger_networks import Attacker, Field, Steganography
from purify.attacker.trigger_objectives import (
    FitField,
    FitInputAware,
    FitLira,
    FitMask,
    HideSecret,
    check_modes,
)
from purify.attacks.learned.fitted import MOST_WIDTH, write_trigger
from purify.attacks.learned.input_aware import DONORS
from purify.attacks.learned.lira import Lira
from purify.attacks.learned.low_frequency import LowFrequency
from purify.attacks.learned.networks import TriggerUNet
from purify.attacks.learned.sample_specific import MOST_BITS, SampleSpecific
from purify.attacks.registry import ATTACKS
from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.core.limits import number, whole
from purify.core.randomness import stream_rng
from purify.core.registry import Registry
from purify.core.types import Facts, Settings
from purify.data.loader import Split
from purify.data.training_set import TrainingSet
from purify.engine.stage import Work
from purify.stages.classifier import Classifier, classifier_builder
from purify.stages.fit_network import fit_network
from purify.stages.known import Known, count_numbers, shape_training
from purify.stages.networks_on_disk import open_classifier
from purify.train.objectives.tasks import Task
from purify.train.state import Build, abstract_network

# (how it is built, structure -> task, name='', changes of settings) -> weights {'params', 'stats'}
FitTrigger = Callable[..., Facts]
MakeTask = Callable[[Any], Task]


@dataclass(frozen=True)
class Case:
    """The settings and the data that a trigger is fitted with.

    Attributes:
      settings: of the stage.
      shape: of the images, (h, w, c).
      num_classes: of the dataset.
      surrogate: a classifier that was trained on it, for the fits that attack one.
      donors: gives ids i64[n] and pixels u8[n h w c] of some training images.
    """

    settings: Settings
    shape: tuple[int, int, int]
    num_classes: int
    surrogate: Classifier | None
    donors: Callable[[], dict[str, np.ndarray]]

    @property
    def rule(self) -> Facts:
        """The attack's settings."""
        return self.settings['attack']

    @property
    def width(self) -> int:
        """The width of the generator networks."""
        return whole(1, MOST_WIDTH).check('network.width', self.settings['network']['width'])

    def objective(self, *needed: str, **usual: Any) -> Facts:
        """The weights of the losses; raises `UserError` for missing and for unknown ones."""
        given, attack = self.settings['objective'], self.rule['name']
        if unknown := sorted(set(given) - {*needed, *usual}):
            choices = ', '.join(sorted({*needed, *usual}))
            none = 'It has none; leave trigger.objective empty.'
            hint = f'Choose from: {choices}.' if choices else none
            raise UserError(
                f'trigger.objective.{unknown[0]}: the fit of {attack!r} knows no such weight.'
                f' {hint}'
            )
        if missing := sorted({*needed} - set(given)):
            raise UserError(
                f'trigger.objective.{missing[0]} is missing: the fit of {attack!r} needs'
                f' {", ".join(sorted(needed))}.'
            )
        return usual | {name: given[name] for name in given}

    def unet(self, outputs: int) -> Build:
        """Builds a generator for images of this case."""
        return lambda rngs: TriggerUNet(self.shape[-1], outputs, self.width, rngs=rngs)

    def attacker(self) -> Build:
        """Builds a generator and the classifier that it is trained with."""
        network, channels = self.settings['classifier'], self.shape[-1]
        classifier = classifier_builder(network, self.num_classes, channels)
        return lambda rngs: Attacker(self.unet(channels), classifier, rngs=rngs)


def _sample_specific(case: Case, fit: FitTrigger) -> tuple[Facts, Facts]:
    bits = case.rule.get('secret_bits', SampleSpecific.secret_bits)
    bits = whole(1, MOST_BITS).check('attack.secret_bits', bits)
    objective = case.objective('image', shift_px=0)
    whole(0, min(case.shape[:2]) - 1).check('objective.shift_px', objective['shift_px'])
    build: Build = lambda rngs: Steganography(case.shape, bits, case.width, rngs=rngs)
    weights = fit(build, lambda graph: HideSecret(graph, bits, **objective))
    return {'secret_bits': bits}, {'encoder': weights['params']['encoder']}


def _input_aware(case: Case, fit: FitTrigger) -> tuple[Facts, Facts]:
    objective = case.objective('mask_epochs', 'density', 'norm', 'diversity', 'poison', 'cross')
    mask_options = {name: objective.pop(name) for name in ('density', 'norm')}
    mask_options['diversity'] = objective['diversity']
    epochs = number(above=0).check('objective.mask_epochs', objective.pop('mask_epochs'))
    check_modes(objective['poison'], objective['cross'])  # now, not after the masks are fitted
    masker, (mask_graph, _) = case.unet(1), abstract_network(case.unet(1))
    make_mask = lambda graph: FitMask(graph, **mask_options)
    mask = fit(masker, make_mask, 'mask', epochs=epochs, steps=0)
    target = case.rule['target']
    make = lambda graph: FitInputAware(graph, mask_graph, mask, target, **objective)
    weights = fit(case.attacker(), make)
    return {}, {'mask': mask['params'], 'pattern': weights['params']['generator']} | case.donors()


def _lira(case: Case, fit: FitTrigger) -> tuple[Facts, Facts]:
    epsilon = case.rule.get('epsilon', Lira.epsilon)
    epsilon = number(above=0, most=1).check('attack.epsilon', epsilon)
    objective, target = case.objective('alpha'), case.rule['target']
    weights = fit(case.attacker(), lambda graph: FitLira(graph, target, epsilon, **objective))
    return {'epsilon': epsilon}, {'generator': weights['params']['generator']}


def _low_frequency(case: Case, fit: FitTrigger) -> tuple[Facts, Facts]:
    case.objective()  # has no weights, and refuses any
    model = case.surrogate
    if model is None:
        raise UserError(
            "attack 'low_frequency' is fitted to a surrogate. Give the config a part `surrogate`."
        )
    names = ('target', 'amplitude', 'cutoff', 'stretch')
    rule = LowFrequency(**{name: case.rule[name] for name in names if name in case.rule})
    if rule.stretch:
        raise UserError(
            'attack.stretch=True: the fit optimises the unstretched stamp. Set stretch to False.'
        )
    build: Build = lambda rngs: Field(case.shape, rule.cutoff, rngs=rngs)
    task = (model.graph, model.weights, rule.target, rule.amplitude)
    weights = fit(build, lambda graph: FitField(graph, *task))
    graph = abstract_network(build)[0]
    field = jax.jit(lambda parts: nnx.merge(graph, parts['params'], parts['stats'])())(weights)
    return {'amplitude': rule.amplitude, 'cutoff': rule.cutoff}, {'trigger': field}


# fits -> (facts for trigger.json, weights)
FITS: Registry[Callable[[Case, FitTrigger], tuple[Facts, Facts]]] = Registry(
    'learned attack',
    sample_specific=_sample_specific,
    input_aware=_input_aware,
    lira=_lira,
    low_frequency=_low_frequency,
)


def fitted_settings(attack: Settings) -> Facts:
    """The settings of the part `attack` that the fit of its trigger depends on.

    The target is among them where it changes the trigger. Raises `UserError` for unknown attacks.
    """
    needs_target = getattr(ATTACKS[attack['name']], 'needs_target', True)
    unread = {'scheme', 'load'} | (set() if needs_target else {'target'})
    return {name: value for name, value in own_settings(attack).items() if name not in unread}


def fit_trigger(work: Work) -> None:
    """Fits the trigger of `attack` to the clean images in `data`; `write_trigger` stores it.

    Settings: `attack` (see `fitted_settings`), `seed` (of what is drawn outside training),
    `network` (width of the generators), `classifier` (network trained with it, where there is one),
    `objective` (the weights of the losses, see `purify.attacker.trigger_objectives`; `mask_epochs`
    of input_aware's first stage), and those of every training stage. An input `surrogate` is a
    finished classifier. Resumes like any training.
    """
    settings = work.settings
    _check_batch(settings)
    split = Split(work.inputs['data'], 'train')
    check_label('attack.target', settings['attack'].get('target', 0), len(split.class_names))

    def fit(build: Build, make: MakeTask, name: str = '', **changes: Any) -> Facts:
        graph, like = abstract_network(build)
        part = work
        if name:  # a stage before the last has its own checkpoints and curves
            own = {'folder': work.folder / name, 'settings': {**settings, **changes}}
            part = dataclasses.replace(work, name=f'{work.name} {name}', **own)
        return fit_network(part, make(graph), build, like, TrainingSet(split)).weights()

    donors = partial(_draw_donors, split, settings['seed'])
    case = Case(settings, split.shape, len(split.class_names), _read_surrogate(work, split), donors)
    facts, weights = FITS.make(settings['attack']['name'], case, fit)
    if devices.is_lead():
        target = {'target': settings['attack']['target']} if 'target' in settings['attack'] else {}
        common = target | {'channels': split.shape[-1], 'size_px': split.shape[0]}
        network = {'network': dict(settings['network'])} if 'network' in settings else {}
        name, weights = settings['attack']['name'], jax.device_get(weights)
        write_trigger(work.folder, name, common | network | facts, weights)


def _read_surrogate(work: Work, split: Split) -> Classifier | None:
    if 'surrogate' not in work.inputs:
        return None
    model = open_classifier(work.inputs['surrogate'], 'surrogate', split)
    weights = devices.put_copy(model.weights, devices.global_mesh())
    return dataclasses.replace(model, weights=weights)


def _draw_donors(split: Split, seed: int) -> dict[str, np.ndarray]:
    """Draws images that lend cover samples their triggers: ids i64[n], pixels u8[n h w c]."""
    count = min(DONORS, len(split))
    chosen = np.sort(stream_rng(seed, 'donors').choice(len(split), count, replace=False))
    return {'donor_ids': split.ids[chosen], 'donors': split.images(chosen.tolist())}


def shape_trigger(known: Known) -> None:
    """Shapes every fit of the trigger without running it, and notes how many parameters it has.

    Raises `UserError` for settings that do not work.
    """
    config, data = known.config, known.data
    own = {'attack': fitted_settings(config['attack']), 'seed': config['seeds']['poison']}
    settings = config['trigger'] | own
    check_label('attack.target', settings['attack'].get('target', 0), data.classes)
    _check_batch(settings)
    if (start := settings.get('init_from')) and not user_path(start).is_dir():
        raise UserError(
            f'trigger.init_from={start}: no such folder. Give that of a checkpoint, or leave it'
            ' empty.'
        )

    def fit(build: Build, make: MakeTask, name: str = '', **changes: Any) -> Facts:
        graph, like = abstract_network(build)
        shape_training(known, 'trigger', {**settings, **changes}, make(graph), build)
        count = count_numbers(like['params'])
        known.found.notes.append(f'trigger: {name or "trigger"}, {count:,} parameters')
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)

    case = Case(settings, data.pixels, data.classes, known.classifier('surrogate'), dict)
    FITS.make(settings['attack']['name'], case, fit)


def _check_batch(settings: Settings) -> None:
    for name in ('batch', 'accumulate'):
        whole(1).check(f'trigger.{name}', settings[name])
