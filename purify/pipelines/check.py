"""The command `check`: shapes every stage without running it, and lists all that is missing, at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds

from purify.attacks.attack import Attack
from purify.core import devices
from purify.core.errors import UserError
from purify.core.writers import WRITERS
from purify.data.sources import Source, open_source
from purify.defenses.priors import PixelPrior
from purify.defenses.registry import DEFENSES
from purify.defenses.variation_models import load_variation_model
from purify.pipelines.artifacts import (
    EMBEDDED,
    Classifier,
    classifier_builder,
    finished_folder,
    prior_folder,
    read_classifier,
)
from purify.pipelines.fitting import check_trigger, fitted_settings
from purify.pipelines.plan import make_method, make_stages
from purify.pipelines.poisoning import (
    Poisoning,
    check_target,
    draw_poisoning,
    loader_facts,
    make_attacks,
    make_rules,
    on_the_fly,
    refuse_loader,
)
from purify.pipelines.stand_ins import stand_in
from purify.pipelines.training import make_augmentations, make_noise_schedule, make_task, prior_builder
from purify.train.loop import make_step
from purify.train.optim import make_optimizer, total_steps
from purify.train.state import Build, abstract_network, make_state
from purify.train.tasks import Denoise, Task

NOMINAL_IMAGES = 10_000  # stands for the number of training images where the source is not on this machine yet


@dataclass
class Findings:
    """What `check` found: problems that would stop a run, and notes."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, what: str, do: Callable[[], Any]) -> Any:
        """The result of `do`, or None and a problem."""
        try:
            return do()
        except UserError as error:
            problem = f'{what}: {error}'
        except (TypeError, ValueError, KeyError, ArithmeticError, MemoryError) as error:
            problem = f'{what}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}'
        if problem not in self.problems:
            self.problems.append(problem)
        return None


@dataclass(frozen=True)
class Shape:
    """What stages need to know of the data: image side, channels, classes, training images."""

    size_px: int
    channels: int
    classes: int
    images: int


def check(config: dict[str, Any], *, fetched: bool = False) -> Findings:
    """Shapes all stages of a config (plain nested dicts); downloads and trains nothing.

    A prior on the hub stands for itself where it is `fetched` already, else the published network of its kind does.
    """
    found = Findings()
    found.attempt('stages', lambda: make_stages(config, prior_folder if fetched else _find_prior))
    shape = _source(found, config)
    _fitting(found, config, shape)
    teacher = None
    if 'teacher' in config:
        teacher = _classifier(found, 'teacher', config, shape, None)
    prior = _prior(found, config, shape, fetched) if 'prior' in config else None
    method = found.attempt('defense', lambda: make_method(config)) if 'defense' in config else None
    for step in method.steps if method else ():
        if step.kind == 'classifier':
            _classifier(found, step.name, config, shape, teacher)
        elif prior is not None:
            found.attempt(step.name, lambda step=step: _purify(step.settings, config, prior, shape))
    for name in config['run']['writers']:
        found.attempt('run.writers', lambda name=name: WRITERS[name])
    return found


def _find_prior(load: str, revision: str) -> tuple[Path, str]:
    """Like `prior_folder`, but leaves the hub alone."""
    return prior_folder(load, revision) if _is_local(load) else (Path(load), 'on the hub')


def _is_local(load: str) -> bool:
    return load in EMBEDDED or Path(load).expanduser().exists() or load.count('/') != 1


def _source(found: Findings, config: dict[str, Any]) -> Shape:
    part, rule = config['source'], config['attack']
    kind, _, dataset = part['name'].partition(':')
    shape = Shape(part['size_px'], part['channels'], max(2, rule['target'] + 1), part['train_size'] or NOMINAL_IMAGES)
    if kind == 'tfds' and (size := found.attempt('source', lambda: _catalogue(found, dataset, part))):
        shape = Shape(shape.size_px, shape.channels, *size)
    elif kind != 'tfds' and (source := found.attempt('source', lambda: open_source(**part))):
        shape = Shape(shape.size_px, shape.channels, len(source.class_names), len(source.train))
        if (poisoning := found.attempt('attack', lambda: _poisoning(source, config))) is not None:
            poisoned, covering = (sum(map(len, groups)) for groups in (poisoning.poisoned, poisoning.covering))
            counts = f'{len(poisoning.pool):,} training and {len(source.test):,} test images, {poisoned:,} poisoned'
            found.notes.append(f'source: {counts}' + (f', {covering:,} covering' if covering else ''))
    if attacks := found.attempt('attack', lambda: _attacks(config, shape.classes)):
        blank = np.zeros((shape.size_px, shape.size_px, shape.channels), np.uint8)
        for attack in attacks:
            found.attempt('attack', lambda attack=attack: attack.stamp(blank, 0))
    return shape


def _fitting(found: Findings, config: dict[str, Any], shape: Shape) -> None:
    """Shapes the attacker's own stages, where there are any."""
    if config['attack'].get('load'):
        return
    surrogate = _classifier(found, 'surrogate', config, shape, None) if 'surrogate' in config else None
    if 'trigger' not in config:
        return
    settings = config['trigger'] | {'attack': fitted_settings(config['attack']), 'seed': config['seeds']['poison']}
    model = Classifier(*surrogate, {}) if surrogate else None
    pixels = shape.size_px, shape.size_px, shape.channels
    sizes = found.attempt('trigger', lambda: check_trigger(settings, pixels, shape.classes, shape.images, model))
    found.notes.extend(f'trigger: {name}, {count:,} parameters' for name, count in (sizes or {}).items())


def _attacks(config: dict[str, Any], classes: int) -> tuple[Attack, ...]:
    """The attacks, where they need not be fitted first; else none."""
    rule = config['attack']
    check_target(rule, classes)
    refuse_loader(rule, fitted='trigger' in config or bool(rule.get('load')))
    if 'trigger' in config and not rule.get('load'):
        return ()
    return make_attacks(rule, config['seeds']['poison'], classes)


def _poisoning(source: Source, config: dict[str, Any]) -> Poisoning:
    rule, classes = config['attack'], len(source.class_names)
    check_target(rule, classes)
    rules, seed = make_rules(rule), config['seeds']['poison']
    poisoning = draw_poisoning(source.train, rule, rules, seed)
    if on_the_fly(rule):
        loader_facts(rule, seed, rules, poisoning, classes)
    return poisoning


def _catalogue(found: Findings, dataset: str, part: dict[str, Any]) -> tuple[int, int]:
    """(classes, training images) of a TFDS dataset as its code declares them."""
    try:
        builder = tfds.builder(dataset, data_dir=part.get('data_dir') or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(f'tfds:{dataset}: TFDS knows no such dataset; see tensorflow.org/datasets/catalog.') from error
    here = dict(builder.info.splits)
    if not here:
        found.notes.append(f'source: tfds:{dataset} is not on this machine; the run downloads it to {builder.data_dir}')
    features: Any = builder.info.features
    name = part.get('label', 'label')
    label = dict(features.items()).get(name)
    chosen = part['classes']
    count = int(chosen) if chosen.isdecimal() else len([name for name in chosen.split(',') if name])
    classes = count or getattr(label, 'num_classes', None) or 2
    train = here[part.get('train', 'train')].num_examples if here else NOMINAL_IMAGES
    return classes, part['train_size'] or train


def _classifier(
    found: Findings, name: str, config: dict[str, Any], shape: Shape, teacher: tuple[Any, Any] | None
) -> tuple[Any, Any] | None:
    """Traces a training step; -> (structure, weights as shapes)."""
    part = config[name]
    if part['load']:
        model = found.attempt(name, lambda: read_classifier(finished_folder(part['load'])[0]))
        return (model.graph, model.weights) if model else None

    build = classifier_builder(part['network'], shape.classes, shape.channels)
    network = found.attempt(name, lambda: abstract_network(build))
    if network is None:
        return None
    graph, weights = network
    if part['objective']['name'] != 'distill' or teacher is not None:  # a teacher that is wrong is a problem of its own
        found.attempt(name, lambda: _step(name, part, make_task(part['objective'], graph, teacher), build, shape, config))
    found.notes.append(f'{name}: {part["network"]["name"]}, {_count(weights["params"]):,} parameters')
    return graph, weights


def _step(name: str, part: dict[str, Any], task: Task, build: Build, shape: Shape, config: dict[str, Any]) -> None:
    """Shapes the state, one update and the augmentations of a training stage."""
    if part['init_from'] and not Path(part['init_from']).expanduser().is_dir():
        raise UserError(f'{name}.init_from={part["init_from"]}: no such folder.')
    mesh = devices.global_mesh()
    if part['batch'] % (mesh.size * part['accumulate']):
        raise UserError(f'batch={part["batch"]} does not split over {mesh.size} devices x accumulate={part["accumulate"]}.')
    steps = total_steps(part['epochs'], part['steps'], shape.images, part['batch'])
    optimizer = make_optimizer(steps, **part['optim'])
    image = {'image': np.zeros((shape.size_px, shape.size_px, shape.channels), np.uint8), 'label': 0, 'id': 0}
    for transform in make_augmentations(part['augment']):
        image = transform.random_map(image, np.random.default_rng(0))
    seed = config['seeds']['model']
    keep = task.ema_decay > 0
    state = jax.eval_shape(lambda: make_state(build, optimizer, seed=seed, keep_ema=keep, mesh=mesh))
    rows = {key: jax.ShapeDtypeStruct((part['batch'], *np.shape(x)), np.asarray(x).dtype) for key, x in image.items()}
    jax.eval_shape(make_step(task, optimizer, part['accumulate'], seed), state, task.frozen, rows)


def _prior(found: Findings, config: dict[str, Any], shape: Shape, fetched: bool) -> Any:
    part = config['prior']
    if 'load' in part:
        if fetched or _is_local(part['load']):
            folder = found.attempt('prior', lambda: prior_folder(part['load'], part['revision'])[0])
            return folder and found.attempt('prior', lambda: load_variation_model(folder, weights=False, **_opened(config)))
        model = config['defense'].get('vary', {}).get('model', 'pixel') if 'defense' in config else 'pixel'
        found.notes.append(f'prior: {part["load"]} is fetched from the hub at the start of a run, or given as a local folder')
        return found.attempt('prior', lambda: stand_in(model, **_opened(config)))
    if part['data'] == 'reference' and config['source']['reference'] == 'none':
        found.problems.append("prior.data='reference', but source.reference='none': no images to train the prior on.")

    def trace() -> PixelPrior:
        size = part['network']['sample_size']
        _, build = prior_builder(part['network'], shape.channels)
        graph, weights = abstract_network(build)
        schedule = make_noise_schedule(part['schedule'])
        _step('prior', part, Denoise(graph, schedule, size, part['ema_decay']), build, shape, config)
        found.notes.append(f'prior: UNet2DModel, {_count(weights["params"]):,} parameters')
        return PixelPrior(graph, weights, schedule, size, shape.channels)

    return found.attempt('prior', trace)


def _purify(settings: dict[str, Any], config: dict[str, Any], prior: Any, shape: Shape) -> None:
    """Shapes the program that purifies a batch."""
    defense = DEFENSES.make(settings['name'], **{key: value for key, value in settings.items() if key != 'name'})
    names = [str(label) for label in range(shape.classes)]
    rule = defense.rule(prior, (shape.size_px, shape.size_px, shape.channels), config['seeds']['model'], names)
    rows = {
        'image': jax.ShapeDtypeStruct((2, shape.size_px, shape.size_px, shape.channels), jnp.uint8),
        **{name: jax.ShapeDtypeStruct((2,), jnp.int32) for name in ('id', 'label', 'variation')},
    }
    jax.eval_shape(rule, prior.weights, rows)


def _opened(config: dict[str, Any]) -> dict[str, Any]:
    """How the configured defence opens its prior."""
    dtype = config['defense'].get('dtype', 'float32') if 'defense' in config else 'float32'
    return {'dtype': dtype, 'vae_slice': config['run']['vae_slice']}


def _count(params: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
