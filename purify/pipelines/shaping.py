"""Shaping stages without running them: every training, rule and network as `jax.eval_shape` sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import fingerprint, user_path
from purify.data.paired import pair
from purify.defenses.generation import Generate
from purify.defenses.generators import make_pixel_generator
from purify.defenses.method import Step
from purify.defenses.registry import DECISIONS, MEASURES, PURIFIERS
from purify.models.foreign import check_foreign
from purify.models.weights import abstract
from purify.stages.finetune_latent import shape_latent
from purify.stages.fit_densities import check_flow
from purify.stages.generate_images import wanted_labels
from purify.stages.measure import Drawn, abstract_rows, rule_settings
from purify.stages.networks_on_disk import Classifier, classifier_builder, finished_folder, other_classes, read_classifier
from purify.stages.train_classifier import make_augmentations, make_task
from purify.stages.train_diffusion import make_denoiser, prior_builder
from purify.stages.train_encoder import encoder_builder, make_contrast
from purify.train.loop import make_step
from purify.train.optim import make_optimizer, total_steps
from purify.train.semi import FitHead, MixMatch, head_only
from purify.train.state import Build, abstract_network, make_state
from purify.train.tasks import Task

Config = dict[str, Any]
Network = tuple[Any, Any]  # structure, and weights as shapes


@dataclass
class Findings:
    """What `check` found: problems that would stop a run, and notes."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, what: str, do: Callable[[], Any]) -> Any:
        """The result of `do`, or None and a problem; what was said of something else already is not said again."""
        try:
            return do()
        except UserError as error:
            text = str(error)
        except (TypeError, ValueError, KeyError, ArithmeticError, MemoryError) as error:
            text = f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}'
        if text not in [problem.partition(': ')[2] for problem in self.problems]:
            self.problems.append(f'{what}: {text}')
        return None


@dataclass(frozen=True)
class Shape:
    """What stages need to know of the data: image side, channels, classes, training images."""

    size_px: int
    channels: int
    classes: int
    images: int

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Of one image: (h, w, c)."""
        return self.size_px, self.size_px, self.channels

    @property
    def names(self) -> list[str]:
        """Of the classes, in place of their own."""
        return [str(label) for label in range(self.classes)]


@dataclass(frozen=True)
class Known:
    """What is known while a method's steps are shaped, one after another.

    Attributes:
      found: where problems and notes go.
      config: of the run.
      shape: of the data.
      networks: the classifiers so far by name, None for one that could not be shaped.
      prior: as shapes, or None.
      encoder: a finished one from outside the run, as shapes, or None.
      widths: of the features that steps measure, by step.
      traced: updates that have been, which other trainings of the method make too.
      generators: those so far by name, as shapes, None for one that could not be shaped.
    """

    found: Findings
    config: Config
    shape: Shape
    networks: dict[str, Network | None]
    prior: Any = None
    encoder: Any = None
    widths: dict[str, int] = field(default_factory=dict)
    traced: set[str] = field(default_factory=set)
    generators: dict[str, Any] = field(default_factory=dict)


def shape_classifier(known: Known, name: str, part: Config, *, teacher: str = '', init: str = '') -> None:
    """Traces a classifier's training, or opens a finished one; puts it among the networks.

    `teacher` and `init` name networks; one that is wrong is a problem of its own.
    """
    found, shape = known.found, known.shape
    known.networks[name] = None
    if part['load']:
        model = found.attempt(name, lambda: read_classifier(finished_folder(part['load'])[0]))
        known.networks[name] = (model.graph, model.weights) if model else None
        return
    build = classifier_builder(part['network'], shape.classes, shape.channels)
    network = found.attempt(name, lambda: abstract_network(build))
    if network is None:
        return
    known.networks[name] = network
    given = known.networks.get(teacher) if teacher else None
    if not teacher or given is not None:
        found.attempt(name, lambda: shape_training(known, name, part, make_task(part['objective'], network[0], given), build))
    if init and (start := known.networks.get(init)) is not None:
        found.attempt(name, lambda: _check_start(name, init, start[1], network[1]))
    found.notes.append(f'{name}: {part["network"]["name"]}, {count_numbers(network[1]["params"]):,} parameters')


def _check_start(name: str, init: str, start: Any, weights: Any) -> None:
    described = [jax.tree.map(lambda x: (tuple(x.shape), str(x.dtype)), dict(tree)) for tree in (start, weights)]
    if described[0] != described[1]:
        raise UserError(f'{name} starts from the weights of {init}, a network of another build. Give both the same `network`.')


def _headless(start: Path, build: Build) -> bool:
    """Whether the head of what a training starts from is for another number of classes."""
    if start.is_dir():
        return bool(other_classes(start, abstract_network(build)[1]))
    return check_foreign(abstract(build), start).headless


def shape_training(known: Known, name: str, part: Config, task: Task, build: Build, weights: Any = None) -> None:
    """Shapes the state, one update and the augmentations of a training stage, which begins with `weights` where it has them."""
    start, shape, mesh = part.get('init_from'), known.shape, devices.global_mesh()
    if start and not user_path(start).exists():
        raise UserError(f'{name}.init_from={start}: no such folder or file.')
    if start and _headless(user_path(start), build):
        known.found.notes.append(f'{name}: the head of {start} is for another number of classes; training starts with a fresh one')
    if part['batch'] % (mesh.size * part['accumulate']):
        raise UserError(f'batch={part["batch"]} does not split over {mesh.size} devices x accumulate={part["accumulate"]}.')
    steps = total_steps(part['epochs'], part['steps'], shape.images, part['batch'])
    optimizer = make_optimizer(steps, **part['optim'])
    optimizer = head_only(optimizer) if isinstance(task, FitHead) else optimizer
    same = {key: part.get(key) for key in ('network', 'optim', 'augment', 'batch', 'accumulate', 'objective')}
    given = str(jax.tree.map(np.shape, task.frozen))
    mark = fingerprint({'task': type(task).__name__, 'given': given, 'projection': part.get('projection')} | same)
    if mark in known.traced:
        return
    image = {'image': np.zeros(shape.pixels, np.uint8), 'label': 0, 'id': 0}
    for transform in make_augmentations(part['augment']):
        image = transform.random_map(image, np.random.default_rng(0))
    image = pair(image, image) if isinstance(task, MixMatch) else image
    seed, keep = known.config['seeds']['model'], task.ema_decay > 0
    state = jax.eval_shape(lambda init: make_state(build, optimizer, seed=seed, keep_ema=keep, mesh=mesh, init=init), weights)
    rows = {key: jax.ShapeDtypeStruct((part['batch'], *np.shape(x)), np.asarray(x).dtype) for key, x in image.items()}
    jax.eval_shape(make_step(task, optimizer, part['accumulate'], seed), state, task.frozen, rows)
    known.traced.add(mark)  # at the end: what failed fails again


def shape_step(known: Known, step: Step) -> None:
    """Shapes one step of a method; later steps find what it trains among the networks."""
    if step.kind == 'classifier':
        given = {role: step.inputs.get(role, '') for role in ('teacher', 'init')}
        shape_classifier(known, step.name, step.settings, **given)
    elif step.kind == 'encoder':
        known.networks[step.name] = known.found.attempt(step.name, lambda: _shape_encoder(known, step))
    elif step.kind == 'generator':
        known.generators[step.name] = known.found.attempt(step.name, lambda: _shape_generator(known, step))
    elif step.kind == 'generate':
        known.found.attempt(step.name, lambda: _shape_generate(known, step))
    elif step.kind == 'decide':
        known.found.attempt(step.name, lambda: DECISIONS.make(step.settings['name'], **rule_settings(step.settings)))
    elif step.kind == 'densities':
        known.found.attempt(step.name, lambda: _shape_densities(known, step))
    elif step.kind in ('measure', 'purify'):
        registry, numbers = (MEASURES, ()) if step.kind == 'measure' else (PURIFIERS, ('variation',))

        def shape() -> None:
            made = registry.make(step.settings['name'], **rule_settings(step.settings))
            _check_draws(known, step, getattr(made, 'draws', 0))
            columns = shape_rule(known, made.rule, step.inputs, *numbers, draws=getattr(made, 'draws', 0)) or {}
            if 'features' in columns:
                known.widths[step.name] = columns['features'].shape[-1]

        known.found.attempt(step.name, shape)


def _check_draws(known: Known, step: Step, draws: int) -> None:
    generated = step.inputs['poisoned'] != 'poisoned' and known.config['defense'].get('images')
    if draws > (images := generated or known.shape.images):
        raise UserError(f'draws={draws}: the dataset it draws from has {images} images. Choose fewer.')


def _shape_encoder(known: Known, step: Step) -> Network:
    part, shape = step.settings, known.shape
    build = encoder_builder(part, shape.classes, shape.channels)
    task = make_contrast(part, abstract_network(build)[0], shape.images)
    shape_training(known, step.name, part, task, build)
    return abstract_network(classifier_builder(part['network'], shape.classes, shape.channels))


def _shape_generator(known: Known, step: Step) -> Any:
    part, shape = step.settings, known.shape
    if part['objective']['name'] == 'latent':
        return _shape_latent(known, step)
    _, build = prior_builder(part['network'], shape.channels, shape.classes)
    graph, weights = abstract_network(build)
    task, _ = make_denoiser(part, graph, shape.classes)
    shape_training(known, step.name, part, task, build)
    known.found.notes.append(f'{step.name}: UNet2DModel, {count_numbers(weights["params"]):,} parameters')
    size_px = part['network']['sample_size']
    return make_pixel_generator(graph, weights, part['objective'], size_px, shape.channels, shape.names)


def _shape_latent(known: Known, step: Step) -> Any:
    if known.prior is None:  # which the findings say why
        return None
    task, build, weights, generator = shape_latent(known.prior, step.settings, known.shape.names)
    shape_training(known, step.name, step.settings, task, build, weights)
    known.found.notes.append(f'{step.name}: UNet2DConditionModel, {count_numbers(weights["params"]):,} parameters')
    return generator


def _shape_generate(known: Known, step: Step) -> None:
    generator, settings = known.generators.get(step.inputs['generator']), rule_settings(step.settings)
    wanted_labels(settings.pop('images') or 1, settings.pop('labels'), known.shape.classes, step.name)
    rule_of = Generate(**settings)
    if generator is None:  # the step that trains it has said why
        return
    rule = rule_of.rule({'generator': generator}, known.shape.pixels, known.config['seeds']['model'], known.shape.names)
    rows = {name: jax.ShapeDtypeStruct((2,), np.int32) for name in ('label', 'id')}
    jax.eval_shape(rule, {'generator': generator.weights}, rows)


def _shape_densities(known: Known, step: Step) -> None:
    width = known.widths.get(step.inputs['features'])
    if width is not None:  # else the step that measures them has said why
        count = check_flow(step.settings['flows'], step.settings['fit'], width)
        known.found.notes.append(f'{step.name}: {known.shape.classes} flows of {count:,} parameters on {width} features')


def shape_rule(known: Known, make_rule: Callable[..., Any], inputs: dict[str, str], *numbers: str, draws: int = 0) -> Any:
    """The columns, as shapes, of `make_rule(models, shape, seed, class_names)` over a batch; None where a model is missing.

    `draws` is how many images the rule compares others with.
    """
    models: dict[str, Any] = {'prior': known.prior} if 'prior' in inputs else {}
    if 'classifier' in inputs:
        network = known.networks.get(inputs['classifier'])
        models['classifier'] = Classifier(*network, {}) if network else None
    if 'encoder' in inputs:
        name = inputs['encoder']
        network = known.networks.get(name)
        models['encoder'] = Classifier(*network, {}) if network else None if name in known.networks else known.encoder
    if draws:
        models['drawn'] = Drawn(jax.ShapeDtypeStruct((draws, *known.shape.pixels), np.uint8))
    if None in models.values():
        return None
    rule = make_rule(models, known.shape.pixels, known.config['seeds']['model'], known.shape.names)
    rows = abstract_rows(known.shape.pixels, 'label', 'id', *numbers)
    return jax.eval_shape(rule, {role: model.weights for role, model in models.items()}, rows)


def count_numbers(params: Any) -> int:
    """Parameters of a network."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
