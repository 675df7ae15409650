"""The workloads of side_by_side.py: the same work in purify and in PyTorch."""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers as diffusers_library
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from transformers import BatchFeature

from purify.core import devices
from purify.core.randomness import id_keys
from purify.core.types import Facts
from purify.data.augment import Flip, PadCrop
from purify.diffusion.run_chain import sample
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import make_noise_schedule
from purify.diffusion.timesteps import edit_timesteps
from purify.generative.open_prior import load_variation_model
from purify.models.classifiers.registry import NETWORKS
from purify.models.files.pipelines import save_pretrained
from purify.models.files.shapes import random_pipeline
from purify.models.files.weights import write_folder
from purify.stages.pixel_denoiser import prior_builder
from purify.train.feed import Feed
from purify.train.inference import compile_rows
from purify.train.loop import compile_step, feed_step, make_step
from purify.train.objectives.contrast import Contrast, Projected
from purify.train.objectives.denoise import Denoise
from purify.train.objectives.tasks import Classify, Task
from purify.train.optim import make_optimizer
from purify.train.state import Build, abstract_network, make_state, split_network
from purify.train.views import Views

Args = argparse.Namespace
diffusers: Any = diffusers_library  # which exports its classes when they are asked for
IMAGES = 512  # that a training draws from
START = 300  # of the timesteps, where an edit begins
LAST = torch.channels_last


@dataclass
class Pair:
    """The two sides of a workload.

    Attributes:
      ours: one call of purify, done when it returns.
      theirs: one of PyTorch.
      facts: about both.
      compare: the largest difference of what they made, where it can be compared.
    """

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    facts: Facts = field(default_factory=dict)
    compare: Callable[[], float] | None = None


def on_device(module: Any, args: Args) -> Any:
    """A PyTorch network where it runs, channels last, compiled if asked."""
    module = module.to('cuda' if torch.cuda.is_available() else 'cpu').to(memory_format=LAST)
    return torch.compile(module, mode='max-autotune-no-cudagraphs') if args.compile else module


def put(array: np.ndarray, dtype: Any = torch.float32) -> torch.Tensor:
    """Images [b h w c] as PyTorch has them, channels last in memory."""
    moved = torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    moved = moved.to('cuda' if torch.cuda.is_available() else 'cpu', dtype)
    return moved.contiguous(memory_format=LAST)


def wait() -> None:
    """Waits for PyTorch's GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def variations(args: Args) -> Pair:
    """The chain of an image variation, from prepared pictures to 8-bit images on the host."""
    pipeline = random_pipeline(args.kind, args.shapes, seed=args.seed, dtype=args.dtype)
    vae, vision = pipeline.parts['vae'], pipeline.parts['image_encoder']
    unet = 'image_unet' if args.kind == 'versatile' else 'unet'
    side, edge = pipeline.parts[unet].config['sample_size'], vision.config['image_size']
    rng = np.random.default_rng(args.seed)
    pixels = rng.standard_normal((args.batch, edge, edge, 3), np.float32)
    latents = rng.standard_normal((args.batch, side, side, vae.config['latent_channels']))
    latents = latents.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(pipeline, folder, dtype=args.dtype)
        del pipeline, vision
        model: Any = load_variation_model(folder, dtype=args.dtype)
        theirs = _torch_variations(args, folder, unet, pixels, latents)
    to_bytes = jax.jit(lambda images: jnp.round(images * 255).astype(jnp.uint8))

    def ours() -> np.ndarray:
        made = model.generate(pixels, latents, steps=args.steps, guidance=args.guidance)
        return np.asarray(to_bytes(made))

    facts = {name: getattr(args, name) for name in ('kind', 'shapes', 'steps', 'guidance')}
    facts['diffusers'] = diffusers.__version__
    compare = lambda: float(np.abs(ours().astype(int) - theirs()).max())
    return Pair(ours, theirs, facts | {'size_px': side * vae.factor}, compare)


def _torch_variations(
    args: Args, folder: str, unet: str, pixels: np.ndarray, latents: np.ndarray
) -> Callable[[], np.ndarray]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    dtype = getattr(torch, args.dtype)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to('cuda' if torch.cuda.is_available() else 'cpu')
    for name in (unet, 'vae'):
        getattr(pipeline, name).to(memory_format=LAST)
    if args.compile:
        compiled = partial(torch.compile, mode='max-autotune-no-cudagraphs')
        setattr(pipeline, unet, compiled(getattr(pipeline, unet)))
        pipeline.image_encoder = compiled(pipeline.image_encoder)
        pipeline.vae.decode = compiled(pipeline.vae.decode)
    given, noise = put(pixels, dtype), put(latents, dtype)
    pictures: Any = given
    # its pipeline takes pictures alone and prepares a blank one for each: hand it both prepared
    if args.kind == 'versatile':
        pictures = list(given)
        blank = pipeline.image_feature_extractor(
            images=[np.full((512, 512, 3), 0.5)] * args.batch, return_tensors='pt'
        ).to(given.device, dtype)
        prepared = {True: BatchFeature({'pixel_values': given}), False: blank}
        pipeline.image_feature_extractor = lambda images, **_: prepared[images is pictures]
    side = latents.shape[1] * pipeline.vae_scale_factor
    chain = {'num_inference_steps': args.steps, 'guidance_scale': args.guidance, 'height': side}
    chain |= {'width': side, 'output_type': 'pt'}

    def run() -> np.ndarray:
        with torch.inference_mode():
            images = pipeline(pictures, latents=noise, **chain).images
            return (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    return run


def _ddpm(args: Args) -> tuple[Facts, Build]:
    """A DDPM for 32 px: two blocks a level, attention at the coarsest two."""
    settings = {'sample_size': 32, 'block_out_channels': args.channels, 'layers_per_block': 2}
    settings |= {'attention_levels': 2, 'norm_num_groups': 32, 'dropout': 0.0, 'dtype': args.dtype}
    return prior_builder(settings, 3)


def _torch_ddpm(folder: str, args: Args) -> Any:
    dtype = getattr(torch, args.dtype)
    network = diffusers.UNet2DModel.from_pretrained(folder, subfolder='unet', torch_dtype=dtype)
    return on_device(network, args)


def edit(args: Args) -> Pair:
    """Noised images are denoised by DDIM from step 300, on the same weights."""
    config, build = _ddpm(args)
    network = build(nnx.Rngs(args.seed))
    schedule = make_noise_schedule('linear', 1000)
    chain = SAMPLERS.make('ddim', schedule, edit_timesteps(START, args.steps), clip_sample=False)
    rng = np.random.default_rng(args.seed)
    noised = rng.standard_normal((args.batch, 32, 32, 3), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(network, config, f'{folder}/unet', dtype=args.dtype)
        theirs_network = _torch_ddpm(folder, args)
    graph, params, stats = split_network(network)

    def apply(weights: Any, rows: dict[str, jax.Array]) -> Any:
        keys = id_keys(jax.random.key(0), rows['id'])
        return sample(chain, nnx.merge(graph, weights, stats), rows['noised'], keys)

    mesh = devices.local_mesh()
    rows = {'noised': noised, 'id': np.arange(args.batch, dtype=np.int32)}
    placed = lambda: jax.device_put(rows, devices.batched(mesh))
    weights = devices.put_copy(params, mesh)
    program, _ = compile_rows(apply, weights, placed(), mesh)
    ours = lambda: np.asarray(program(weights, placed()))
    given, tables = put(noised), {name: chain.tables[name] for name in ('alpha', 'sigma')}
    tables |= {name: chain.tables[name] for name in ('on_x0', 'on_eps')}

    def theirs() -> np.ndarray:
        x = given
        with torch.inference_mode():
            for k, t in enumerate(chain.timesteps.tolist()):
                eps = theirs_network(x, t, return_dict=False)[0]
                clean = (x - float(tables['sigma'][k]) * eps) / float(tables['alpha'][k])
                x = float(tables['on_x0'][k]) * clean + float(tables['on_eps'][k]) * eps
            return x.permute(0, 2, 3, 1).cpu().numpy()

    compare = lambda: float(np.abs(ours() - theirs()).max())
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    facts = {'channels': args.channels, 'parameters': count, 'steps': args.steps}
    return Pair(ours, theirs, facts, compare)


def _our_step(
    task: Task, build: Build, optim: Facts, args: Args, changes: Any = ()
) -> tuple[Callable[[], None], int]:
    """One update of purify's loop, and how many parameters it moves; rows live on the device."""
    mesh, rng = devices.global_mesh(), np.random.default_rng(args.seed)
    optimizer = make_optimizer(1000, **optim)
    state = make_state(build, optimizer, seed=args.seed, keep_ema=False, mesh=mesh)
    columns = {'image': rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)}
    columns['label'] = rng.integers(0, 10, IMAGES).astype(np.int32)
    columns['id'] = np.arange(IMAGES, dtype=np.int32)
    feed = Feed(lambda start: iter(()), {'position': columns}, changes, args.seed)
    held = devices.put_copy(feed.held, mesh)
    drawn = devices.put_batch({'position': np.arange(args.batch, dtype=np.int32)}, mesh)
    update = feed_step(make_step(task, optimizer, 1, args.seed, 1000), feed)
    program, _ = compile_step(update, mesh, state, task.frozen, held, drawn)
    carried = [state]

    def run() -> None:
        carried[0], _ = program(carried[0], task.frozen, held, drawn)
        jax.block_until_ready(carried[0])

    return run, sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _their_step(network: Any, optimizer: Any, loss: Callable[[], Any], args: Args) -> Any:
    def run() -> None:
        kind = 'cuda' if torch.cuda.is_available() else 'cpu'
        halves = torch.autocast(kind, torch.bfloat16, enabled=args.dtype == 'bfloat16')
        with halves:
            value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        wait()

    return run


class TorchResNet(torch.nn.Module):
    """ResNet-18 for 32 px (He et al. 2015): a 3x3 stem, two basic blocks a stage."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        nn, layers, inputs = torch.nn, [], width
        self.stem = nn.Sequential(self._conv(3, width), nn.ReLU())
        for stage, number in itertools.product(range(4), range(2)):
            wide, stride = width * 2**stage, 2 if stage and not number else 1
            body = nn.Sequential(
                self._conv(inputs, wide, stride), nn.ReLU(), self._conv(wide, wide)
            )
            same = stride == 1 and inputs == wide
            short = nn.Identity() if same else self._conv(inputs, wide, stride, 1)
            layers.append(nn.ModuleList([body, short]))
            inputs = wide
        self.blocks, self.head = nn.ModuleList(layers), nn.Linear(inputs, outputs)

    def _conv(self, inputs: int, outputs: int, stride: int = 1, size: int = 3) -> Any:
        nn = torch.nn
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def features(self, x: Any) -> Any:
        x = self.stem(x)
        for body, short in self.blocks:
            x = torch.relu(body(x) + short(x))
        return x.mean((2, 3))

    def forward(self, x: Any) -> Any:
        return self.head(self.features(x))


def _resnet(args: Args) -> Build:
    return lambda rngs: NETWORKS.make(
        'resnet18', width=args.width, num_classes=10, channels=3, dtype=args.dtype, rngs=rngs
    )


def classifier(args: Args) -> Pair:
    """A training step of ResNet-18: SGD with momentum and weight decay.

    purify looks its rows up and augments them (shifts and flips) inside the step; PyTorch gets its
    batch ready made.
    """
    build = _resnet(args)
    graph, _ = abstract_network(build)
    optim = {'name': 'sgd', 'lr': 0.1}
    ours, count = _our_step(Classify(graph), build, optim, args, (PadCrop(4), Flip(0.5)))
    network = on_device(TorchResNet(args.width, 10), args)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    rng = np.random.default_rng(args.seed)
    images = put(rng.standard_normal((args.batch, 32, 32, 3), np.float32))
    labels = torch.from_numpy(rng.integers(0, 10, args.batch)).to(images.device)
    loss = lambda: torch.nn.functional.cross_entropy(network(images), labels)
    assert count == sum(p.numel() for p in network.parameters())
    facts = {'width': args.width, 'parameters': count}
    return Pair(ours, _their_step(network, optimizer, loss, args), facts)


def contrast(args: Args) -> Pair:
    """A step of SimCLR on ResNet-18: two views of each image, NT-Xent of 128 numbers.

    purify makes the views inside the step; PyTorch gets them ready made.
    """
    plain = _resnet(args)
    build = lambda rngs: Projected(plain(rngs), 128, rngs=rngs)
    graph, _ = abstract_network(build)
    ours, count = _our_step(Contrast(graph, Views(), 0.5), build, {'name': 'sgd', 'lr': 0.1}, args)
    network = TorchResNet(args.width, 10)
    wide, nn = 8 * args.width, torch.nn
    network.head = nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 128))
    network = on_device(network, args)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    shape = (2 * args.batch, 32, 32, 3)
    views = put(np.random.default_rng(args.seed).standard_normal(shape, np.float32))
    partner = torch.arange(len(views), device=views.device).roll(args.batch)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)

    def loss() -> Any:
        points = nn.functional.normalize(network(views))
        near = (points @ points.T / 0.5).masked_fill(itself, -torch.inf)
        return nn.functional.cross_entropy(near, partner)

    facts = {'width': args.width, 'parameters': count}
    return Pair(ours, _their_step(network, optimizer, loss, args), facts)


def denoise(args: Args) -> Pair:
    """A training step of a DDPM for 32 px: Adam, the noise's squared error at random steps."""
    config, build = _ddpm(args)
    graph, _ = abstract_network(build)
    schedule = make_noise_schedule('linear', 1000)
    task = Denoise(graph, schedule, 32, 0.0)
    ours, count = _our_step(task, build, {'name': 'adam', 'lr': 2e-4}, args)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(build(nnx.Rngs(args.seed)), config, f'{folder}/unet')
        network = on_device(
            diffusers.UNet2DModel.from_pretrained(folder, subfolder='unet').train(), args
        )
    optimizer = torch.optim.Adam(network.parameters(), 2e-4)
    images = put(np.random.default_rng(args.seed).standard_normal((args.batch, 32, 32, 3)))
    level = schedule.alpha_sigma(np.arange(1000))
    alpha, sigma = (torch.tensor(x, dtype=torch.float32, device=images.device) for x in level)

    def loss() -> Any:
        t = torch.randint(0, 1000, (args.batch,), device=images.device)
        noise = torch.randn_like(images)
        noised = alpha[t, None, None, None] * images + sigma[t, None, None, None] * noise
        return ((network(noised, t, return_dict=False)[0] - noise) ** 2).mean()

    assert count == sum(p.numel() for p in network.parameters())
    facts = {'channels': args.channels, 'parameters': count}
    return Pair(ours, _their_step(network, optimizer, loss, args), facts)


PAIRS: dict[str, Callable[[Args], Pair]] = {
    'variations': variations,
    'edit': edit,
    'classifier': classifier,
    'contrast': contrast,
    'denoise': denoise,
}
