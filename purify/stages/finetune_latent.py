"""Fine-tunes a published Stable Diffusion into a generator of the dataset's classes."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import write_json
from purify.core.types import Facts, Settings
from purify.data.loader import Split
from purify.data.training_set import TrainingSet
from purify.diffusion.scheduler_config import schedule_from_diffusers
from purify.engine.stage import Work
from purify.generative.image_to_image import ImageToImage
from purify.generative.latent_generator import LatentGenerator
from purify.generative.pixel_generator import NOTE
from purify.models.diffusers.unet2d_condition import UNet2DConditionModel
from purify.models.files.pipelines import Pipeline, save_pretrained
from purify.stages.fit_network import fit_network
from purify.train.objectives.denoise_latents import (
    READABLE,
    DenoiseLatents,
    caption_table,
    image_size,
    read_stable_diffusion,
)
from purify.train.state import Build, split_network

CAN_LEARN = ('float32', 'bfloat16')  # float16 would need its loss scaled


def train_latent(work: Work) -> None:
    """Fine-tunes the UNet of the Stable Diffusion in `prior` on `data`, captioned by the labels.

    Leaves a whole pipeline in diffusers' format, whose other parts are the prior's, and
    generator.json beside it.
    """
    settings, objective = work.settings, work.settings['objective']
    check_precision(objective)
    split = Split(work.inputs['data'], 'train')
    pipeline = read_stable_diffusion(work.inputs['prior'], objective['dtype'])
    task, build, unet = make_latent(pipeline, settings, split.class_names)
    task = dataclasses.replace(task, frozen=devices.put_copy(task.frozen, devices.global_mesh()))
    state = fit_network(work, task, build, None, TrainingSet(split), start=unet)
    if devices.is_lead():
        weights = jax.device_get(state.weights())
        trained = nnx.merge(task.graph, weights['params'], weights['stats'])
        whole = Pipeline(pipeline.class_name, pipeline.parts | {'unet': trained})
        save_pretrained(whole, work.folder, dtype=settings['stored_dtype'])
        write_json(work.folder / NOTE, {'objective': objective, 'class_names': split.class_names})


def check_precision(objective: Settings) -> None:
    """Raises `UserError` for a `dtype` that networks cannot be trained in."""
    if objective['dtype'] not in CAN_LEARN:
        raise UserError(
            f'generator.objective.dtype={objective["dtype"]!r}: to train in, choose'
            f' {" or ".join(CAN_LEARN)}.'
        )


def make_latent(
    pipeline: Pipeline, settings: Settings, class_names: list[str]
) -> tuple[DenoiseLatents, Build, Facts]:
    """Makes a latent generator's task, the function that builds its UNet, and its first weights.

    Arrays are on the host, or shapes where the networks hold shapes.
    """
    objective, unet, vae = settings['objective'], pipeline.parts['unet'], pipeline.parts['vae']
    graph, params, stats = split_network(unet)
    vae_graph, *frozen = split_network(vae)
    captions = caption_table(pipeline, class_names, objective['caption'])
    schedule = schedule_from_diffusers(pipeline.parts['scheduler'])
    sizes = image_size(pipeline, objective['size_px']), vae.scaling_factor
    frozen = {'vae': dict(zip(('params', 'stats'), frozen, strict=True)), 'captions': captions}
    rest = objective['drop'], settings['ema_decay'], frozen
    task = DenoiseLatents(graph, vae_graph, schedule, *sizes, *rest)
    config, dtype = unet.config, objective['dtype']
    build = lambda rngs: UNet2DConditionModel.from_config(config, rngs=rngs, dtype=dtype)
    return task, build, {'params': params, 'stats': stats}


def shape_latent(
    prior: Any, settings: Settings, class_names: list[str]
) -> tuple[DenoiseLatents, Build, Facts, LatentGenerator]:
    """Does as `make_latent` for a prior that holds shapes; adds the trained generator as shapes.

    Raises `UserError` for a prior that is no Stable Diffusion, and for settings that do not go with
    it.
    """
    objective = settings['objective']
    check_precision(objective)
    if not isinstance(prior, ImageToImage):
        raise UserError(
            f"generator.objective 'latent' trains a {READABLE[0]}; the config's part `prior` is"
            f' {prior.model!r}.'
        )
    words = {'scheduler': prior.scheduler, 'tokenizer': prior.tokenizer}
    pipeline = Pipeline(READABLE[0], prior.networks(prior.weights) | words)
    made = make_latent(pipeline, settings, class_names)
    return *made, LatentGenerator.from_pipeline(pipeline, objective, class_names)
