"""Images per second of purify and of PyTorch's diffusers, turn by turn in one process, on the same
weights.

    pip install -e .[parity] && python tests/parity/side_by_side.py --shapes tiny --batch 4 --steps
    5 --repeats 5 python tests/parity/side_by_side.py --shapes sd1 --dtype bfloat16 --compile
    --batch 8 --steps 50   # a GPU, 10 GB of disk

Both run the whole chain of an image variation: CLIP encodes pictures that are prepared already, the
UNet is called with and without condition at every step of the folder's scheduler, the VAE decodes,
8-bit images come back to the host. Weights are random, for a model's cost does not depend on them.
Compilation is timed apart (the first call), the two take turns at going first, and what they made
is compared, so that both are seen to do the same work. Prints one line of JSON.

float32 means float32: TF32 is off on both sides. On a GPU PyTorch gets channels-last networks and
cuDNN's search for the fastest kernels; `--compile` adds torch.compile in its mode
'max-autotune-no-cudagraphs'.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # leaves memory for the other side

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import BatchFeature

from purify.generative.open_prior import load_variation_model
from purify.models.files.pipelines import save_pretrained
from purify.models.files.shapes import random_pipeline

Run = Callable[[], np.ndarray]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--kind', default='sd_variation', choices=('sd_variation', 'versatile'))
    parser.add_argument(
        '--shapes',
        default='tiny',
        help="of the networks, one of purify.models.files.shapes.SHAPES: 'tiny', 'sd1' ...",
    )
    parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16', 'float16'))
    parser.add_argument('--compile', action='store_true', help='torch.compile the networks')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--guidance', type=float, default=7.5)
    parser.add_argument(
        '--size', type=int, default=0, help="pixels of the variations, 0: the model's own"
    )
    parser.add_argument('--repeats', type=int, default=5, help='timed calls of each side')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def find_device() -> str:
    """'cuda' or 'cpu'; both sides must have the same."""
    theirs, ours = torch.cuda.is_available(), jax.default_backend() == 'gpu'
    if theirs != ours:
        raise SystemExit(
            f'torch {"has" if theirs else "lacks"} a GPU and jax runs on {jax.default_backend()}:'
            ' hide it from both or none.'
        )
    return 'cuda' if ours else 'cpu'


def pytorch(
    args: argparse.Namespace,
    folder: str,
    device: str,
    pixel_values: np.ndarray,
    latents: np.ndarray,
) -> Run:
    """The chain in diffusers."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    dtype = getattr(torch, args.dtype)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    unet = 'image_unet' if args.kind == 'versatile' else 'unet'
    if device == 'cuda':
        for network in (getattr(pipeline, unet), pipeline.vae):
            network.to(memory_format=torch.channels_last)
    if args.compile:
        compiled = partial(torch.compile, mode='max-autotune-no-cudagraphs')
        setattr(pipeline, unet, compiled(getattr(pipeline, unet)))
        pipeline.image_encoder = compiled(pipeline.image_encoder)
        pipeline.vae.decode = compiled(pipeline.vae.decode)
    pixels, noise = (torch.from_numpy(array).to(device, dtype) for array in (pixel_values, latents))
    pictures: Any = pixels
    # its pipeline takes pictures alone and prepares a blank one for each: hand it both prepared
    if args.kind == 'versatile':
        pictures = list(pixels)
        blank = pipeline.image_feature_extractor(
            images=[np.full((512, 512, 3), 0.5)] * args.batch, return_tensors='pt'
        )
        given = {True: BatchFeature({'pixel_values': pixels}), False: blank.to(device, dtype)}
        pipeline.image_feature_extractor = lambda images, **_: given[images is pictures]
    side = latents.shape[-1] * pipeline.vae_scale_factor
    chain = {'num_inference_steps': args.steps, 'guidance_scale': args.guidance, 'height': side}
    chain |= {'width': side, 'output_type': 'pt'}

    def run() -> np.ndarray:
        with torch.inference_mode():
            images = pipeline(pictures, latents=noise, **chain).images
            return (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    return run


def purify(
    args: argparse.Namespace, folder: str, pixel_values: np.ndarray, latents: np.ndarray
) -> Run:
    """The chain in purify."""
    model = load_variation_model(folder, dtype=args.dtype)
    pixels, noise = (jnp.asarray(array.transpose(0, 2, 3, 1)) for array in (pixel_values, latents))
    to_bytes = jax.jit(lambda images: jnp.round(images * 255).astype(jnp.uint8))

    def run() -> np.ndarray:
        return np.asarray(
            to_bytes(model.generate(pixels, noise, steps=args.steps, guidance=args.guidance))
        )

    return run


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(runs: dict[str, Run], batch: int, repeats: int) -> dict[str, Any]:
    """Images per second of each, calls alternating, the first to go changing with every round."""
    first = {name: seconds(run) for name, run in runs.items()}
    images = {name: run().astype(int) for name, run in runs.items()}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(repeats):
        for name in list(runs)[:: 1 if round_ % 2 else -1]:
            rates[name].append(batch / seconds(runs[name]))
    ours, theirs = images.values()
    sides = {
        name: {
            'images_per_second': statistics.median(values),
            'slowest': min(values),
            'fastest': max(values),
            'first_call_seconds': first[name],
        }
        for name, values in rates.items()
    }
    medians = [statistics.median(values) for values in rates.values()]
    return sides | {
        'ratio': medians[0] / medians[1],
        'mean_difference_of_255': float(np.abs(ours - theirs).mean()),
    }


def main() -> None:
    args = arguments()
    jax.config.update(
        'jax_default_matmul_precision', 'highest' if args.dtype == 'float32' else None
    )
    device = find_device()
    pipeline = random_pipeline(args.kind, args.shapes, seed=args.seed, dtype=args.dtype)
    vae, vision = pipeline.parts['vae'], pipeline.parts['image_encoder']
    own = pipeline.parts['image_unet' if args.kind == 'versatile' else 'unet'].config['sample_size']
    side, edge = args.size // vae.factor or own, vision.config['image_size']
    rng = np.random.default_rng(args.seed)
    pixel_values = rng.standard_normal((args.batch, 3, edge, edge), np.float32)
    latents = rng.standard_normal(
        (args.batch, vae.config['latent_channels'], side, side), np.float32
    )
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(pipeline, folder, dtype=args.dtype)
        del pipeline, vae, vision
        runs = {
            'purify': purify(args, folder, pixel_values, latents),
            'pytorch': pytorch(args, folder, device, pixel_values, latents),
        }
    name = torch.cuda.get_device_name() if device == 'cuda' else f'cpu, {os.cpu_count()} cores'
    versions = {
        'jax': jax.__version__,
        'torch': torch.__version__,
        'diffusers': diffusers.__version__,
    }
    print(
        json.dumps(
            vars(args) | {'device': name, **versions} | measure(runs, args.batch, args.repeats)
        )
    )


if __name__ == '__main__':
    main()
