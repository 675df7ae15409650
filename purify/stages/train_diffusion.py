"""The stages that train diffusion models: priors, without classes, and generators, with them."""

from dataclasses import replace
from typing import Any

from purify.core import devices
from purify.core.files import write_json
from purify.core.types import Settings, Tree
from purify.data.loader import Split
from purify.data.training_set import TrainingSet
from purify.defenses.method import Step
from purify.diffusion.scheduler_config import schedule_to_diffusers
from purify.engine.stage import Work
from purify.generative.open_prior import load_variation_model
from purify.generative.pixel_generator import NOTE, make_pixel_generator, read_schedule
from purify.generative.pixel_prior import DISTILLED, PixelPrior
from purify.stages.finetune_latent import shape_latent, train_latent
from purify.stages.fit_network import fit_network
from purify.stages.kind import Kind
from purify.stages.known import Known, count_numbers, shape_training
from purify.stages.named_folders import prior_folder
from purify.stages.networks_on_disk import write_network
from purify.stages.pixel_denoiser import (
    make_consistency,
    make_denoiser,
    prior_builder,
    read_start,
    write_denoiser,
)
from purify.stages.provenance import note_training
from purify.train.state import abstract_network


def train_prior(work: Work) -> None:
    """Trains a pixel DDPM on the dataset `data`; leaves its average as `_train_pixels` does."""
    images = len(_train_pixels(work, conditional=False))
    if devices.is_lead():
        note_training(work.folder, work.settings, images, work.inputs.get('init'))


def distill_prior(work: Work) -> None:
    """Distils the pixel DDPM in `finished` on the dataset `data`, to need one to four calls.

    Leaves its average as `_train_pixels` does; sampler 'consistency' asks it.
    """
    settings, split = work.settings, Split(work.inputs['data'], 'train')
    finished = load_variation_model(work.inputs['finished'], dtype=settings['dtype'])
    task, build, config = make_consistency(settings, finished, split.shape[-1])
    held = devices.put_copy(task.frozen, devices.global_mesh())
    task, data = replace(task, frozen=held), TrainingSet(split)
    state = fit_network(work, task, build, None, data, start=finished.weights)
    weights = state.weights()
    write_network(work.folder, config, weights)
    if devices.is_lead():
        scheduler = schedule_to_diffusers(task.schedule) | {DISTILLED: True}
        given = (config, scheduler, task.graph, weights, settings['stored_dtype'])
        write_denoiser(work.folder, *given)
        note_training(work.folder, settings, len(split), work.inputs['finished'])


def run(work: Work) -> None:
    """Trains a class-conditional diffusion model on the dataset `data`, on pixels or in latents.

    Leaves its average as `_train_pixels` does, and generator.json, which says what
    `purify.generative.pixel_generator.open_generator` has to know. One in latents is trained on
    from the input `prior` (`purify.stages.finetune_latent.train_latent`).
    """
    objective = work.settings['objective']
    if objective['name'] == 'latent':
        train_latent(work)
        return
    names = _train_pixels(work, conditional=True).class_names
    if devices.is_lead():
        write_json(work.folder / NOTE, {'objective': objective, 'class_names': names})


def _train_pixels(work: Work, *, conditional: bool) -> Split:
    """Trains on the dataset `data`, which is returned, with or without its classes.

    Writes the averaged weights as an orbax checkpoint and as a pipeline folder of diffusers.
    """
    settings, split = work.settings, Split(work.inputs['data'], 'train')
    classes = len(split.class_names) if conditional else 0
    config, build = prior_builder(settings['network'], split.shape[-1], classes)
    graph, like = abstract_network(build)
    task, scheduler = make_denoiser(settings, graph, classes)
    init = work.inputs.get('init')
    start = None if init is None else read_start(init, like, settings)
    state = fit_network(work, task, build, like, TrainingSet(split), start=start)
    weights = state.weights()
    write_network(work.folder, config, weights)
    if devices.is_lead():
        write_denoiser(work.folder, config, scheduler, graph, weights, settings['stored_dtype'])
    return split


def shape_prior(known: Known, part: Settings) -> PixelPrior:
    """Traces the training of a prior; returns the prior with shapes for weights."""
    size, data = part['network']['sample_size'], known.data
    _, build = prior_builder(part['network'], data.channels)
    graph, weights = abstract_network(build)
    task, _ = make_denoiser(part, graph)
    start = _shape_start(known, 'prior', part, weights)
    shape_training(known, 'prior', part, task, build, start)
    known.found.notes.append(f'prior: UNet2DModel, {count_numbers(weights["params"]):,} parameters')
    return PixelPrior(graph, weights, read_schedule(part['schedule']), size, data.channels)


def _shape_start(known: Known, name: str, part: Settings, like: Tree) -> Tree:
    """The weights that a training starts from, as shapes; None for fresh ones.

    A model that is still on the hub is taken to fit.
    """
    if not part['init_from']:
        return None
    if not known.may_open(f'{name}.init_from', part['init_from']):
        return like
    folder, _ = prior_folder(part['init_from'], part.get('revision', ''))
    return read_start(folder, like, part, weights=False)


def shape_distilled(known: Known, part: Settings, finished: Any) -> PixelPrior:
    """Traces the distillation of a prior that holds shapes; returns it, still with shapes."""
    task, build, _ = make_consistency(part, finished, known.data.channels)
    shape_training(known, 'prior', part, task, build, finished.weights)
    count = count_numbers(finished.weights['params'])
    known.found.notes.append(f'prior: distilled from {part["distill"]}, {count:,} parameters')
    return replace(finished, distilled=True)


def shape(known: Known, step: Step) -> None:
    """Traces the training of a generator, which is known from then on."""
    part, data = step.settings, known.data
    known.generators[step.name] = None
    if part['objective']['name'] == 'latent':
        if known.prior is None:  # which the findings say why
            return
        task, build, start, generator = shape_latent(known.prior, part, data.names)
        weights, kind = start, 'UNet2DConditionModel'
    else:
        _, build = prior_builder(part['network'], data.channels, data.classes)
        graph, weights = abstract_network(build)
        task, _ = make_denoiser(part, graph, data.classes)
        start, kind = _shape_start(known, step.name, part, weights), 'UNet2DModel'
        images = part['network']['sample_size'], data.channels, data.names
        generator = make_pixel_generator(graph, weights, part['objective'], *images)
    shape_training(known, step.name, part, task, build, start)
    count = count_numbers(weights['params'])
    known.found.notes.append(f'{step.name}: {kind}, {count:,} parameters')
    known.generators[step.name] = generator


KIND = Kind(run, shape, ('seeds',))
