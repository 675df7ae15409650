"""Makes the golden cases again: what PyTorch's diffusers and transformers compute on weights made
by `weights.fill`.

    pip install -e .[parity] && cd tests && python -m golden.make_golden --out golden

Deterministic on a CPU; a second run writes the same arrays but for the last digits of other
processors and library versions. `--only chains` leaves out the networks. Only JSON files and arrays
are written, no weights. Refuses answers that could not tell a right network from a wrong one.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImageVariationPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    VersatileDiffusionImageVariationPipeline,
)
from golden.chains import GOLDEN_CHAINS, theirs
from golden.settings import PUBLISHED, STABLE_DIFFUSION, TEXT, TEXTS, UNETS, VAE, VAES, VISIONS
from golden.weights import GOLDEN, fill
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

Arrays = dict[str, np.ndarray]
GUIDANCE = (1.0, 7.5)


# networks -----------------------------------------------------------------------------------------


def refill(folder: Path) -> None:
    """Replaces the weights in every folder under `folder` by `fill` of their names; leaves
    names.json beside them.
    """
    for file in folder.rglob('*.safetensors'):
        with safe_open(file, 'np') as tensors:
            shapes = {
                name: list(tensors.get_slice(name).get_shape()) for name in sorted(tensors.keys())
            }
        save_file(
            {name: fill(name, tuple(shape)) for name, shape in shapes.items()},
            file,
            metadata={'format': 'pt'},
        )
        (file.parent / 'names.json').write_text(json.dumps(shapes, separators=(',', ':')))


def reopened(network: Any, folder: Path) -> Any:
    """The network as its library reads it from the refilled folder."""
    network.save_pretrained(folder)
    refill(folder)
    return type(network).from_pretrained(folder, low_cpu_mem_usage=False).eval()


def keep(made: Path, target: Path, arrays: Arrays) -> None:
    """Copies the JSON files of a made folder and writes io.npz; refuses arrays that are constant or
    not finite.
    """
    shutil.rmtree(target, ignore_errors=True)
    for file in sorted(made.rglob('*.json')):
        if file.name.endswith('.index.json'):
            continue
        copy = target / file.relative_to(made)
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads(file.read_text())
        content.pop('_name_or_path', None)
        compact = file.name == 'names.json'
        copy.write_text(
            json.dumps(content, separators=(',', ':'))
            if compact
            else json.dumps(content, indent=1) + '\n'
        )
    np.savez_compressed(target / 'io.npz', **arrays)
    for name, array in arrays.items():
        assert array.dtype.kind == 'U' or np.isfinite(array).all(), (
            f'{target.name}: {name} is not finite'
        )
    spreads = {name: float(np.std(array)) for name, array in arrays.items() if array.ndim > 1}
    assert min(spreads.values()) > 1e-2, f'{target.name}: an array is next to constant: {spreads}'
    print(target.name, {name: round(spread, 3) for name, spread in spreads.items()})


def normal(seed: int, *shape: int) -> torch.Tensor:
    """N(0, 1) f32[shape]."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def run_unet(unet: Any) -> Arrays:
    """Two samples taller than wide, at two timesteps."""
    sample, states, timestep = normal(1, 2, 4, 8, 4), normal(2, 2, 5, 12), torch.tensor([11, 801])
    out = unet(sample, timestep, states).sample
    assert (unet(sample, timestep, states.flip(0)).sample - out).abs().max() > 0.05, (
        'the condition does not matter'
    )
    assert (unet(sample, timestep.flip(0), states).sample - out).abs().max() > 0.05, (
        'the time does not matter'
    )
    return as_arrays(sample=sample, encoder_hidden_states=states, timestep=timestep, out=out)


def run_vae(vae: Any) -> Arrays:
    """Both ways, the decoder from the mean."""
    image = normal(3, 2, 3, 16, 8).clamp(-1, 1)
    posterior = vae.encode(image).latent_dist
    return as_arrays(
        image=image,
        mean=posterior.mean,
        logvar=posterior.logvar,
        decoded=vae.decode(posterior.mean).sample,
    )


def run_vision(vision: Any) -> Arrays:
    """The projection of the class token, and all tokens before the last norm."""
    pixel_values = normal(4, 2, 3, 16, 16)
    out = vision(pixel_values)
    return as_arrays(
        pixel_values=pixel_values,
        image_embeds=out.image_embeds,
        last_hidden_state=out.last_hidden_state,
    )


def run_text(text: Any) -> Arrays:
    """Rows in which the greatest id, the first and the last id 40 lie in different places."""
    input_ids = torch.tensor([[58, 7, 9, 40, 40, 40, 40, 40, 40], [58, 3, 59, 41, 5, 6, 40, 8, 40]])
    out = text(input_ids)
    return as_arrays(
        input_ids=input_ids, last_hidden_state=out.last_hidden_state, pooled=out.pooler_output
    )


def as_arrays(**tensors: torch.Tensor) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def networks() -> Iterable[tuple[str, Any, Callable[[Any], Arrays]]]:
    """(case, new network, what to record of it)."""
    yield from ((name, UNet2DConditionModel(**config), run_unet) for name, config in UNETS.items())
    yield from ((name, AutoencoderKL(**config), run_vae) for name, config in VAES.items())
    yield from (
        (name, CLIPVisionModelWithProjection(CLIPVisionConfig(**config)), run_vision)
        for name, config in VISIONS.items()
    )
    yield from (
        (name, CLIPTextModel(CLIPTextConfig(**config)), run_text) for name, config in TEXTS.items()
    )


# pipelines ----------------------------------------------------------------------------------------


def parts(scheduler: Any, unet: str = 'unet_sd1') -> dict[str, Any]:
    """What every pipeline has."""
    return {
        'unet': UNet2DConditionModel(**UNETS[unet]),
        'vae': AutoencoderKL(**VAE),
        'scheduler': scheduler,
    }


def eyes() -> dict[str, Any]:
    """The CLIP vision tower and how it wants its images."""
    processor = CLIPImageProcessor(
        size={'shortest_edge': 16}, crop_size={'height': 16, 'width': 16}
    )
    config = CLIPVisionConfig(**VISIONS['clip_vision_quick_gelu'])
    return {'image_encoder': CLIPVisionModelWithProjection(config), 'feature_extractor': processor}


def unguarded(cls: Any, **components: Any) -> Any:
    return cls(**components, safety_checker=None, requires_safety_checker=False)


def variation(scheduler: Any, unet: str = 'unet_sd1') -> tuple[Any, Callable[[Any], Arrays]]:
    """StableDiffusionImageVariationPipeline."""
    return (
        unguarded(StableDiffusionImageVariationPipeline, **parts(scheduler, unet), **eyes()),
        run_variation,
    )


def run_variation(pipeline: Any, steps: int = 5) -> Arrays:
    pixel_values, latents = normal(5, 2, 3, 16, 16), normal(6, 2, 4, 8, 8)
    call = {'image': pixel_values, 'latents': latents, 'height': 16, 'width': 16}
    call |= {'num_inference_steps': steps}
    return (
        as_arrays(pixel_values=pixel_values, latents=latents)
        | {'num_inference_steps': np.array(steps)}
        | images(pipeline, call)
    )


def versatile(scheduler: Any) -> tuple[Any, Callable[[Any], Arrays]]:
    """VersatileDiffusionImageVariationPipeline, which takes images of 8 bits."""
    named = parts(scheduler) | eyes()
    named['image_unet'], named['image_feature_extractor'] = (
        named.pop('unet'),
        named.pop('feature_extractor'),
    )
    return VersatileDiffusionImageVariationPipeline(**named), run_versatile


def run_versatile(pipeline: Any, steps: int = 5) -> Arrays:
    source = np.random.default_rng(7).integers(0, 256, (2, 16, 16, 3), np.uint8)
    pictures = [Image.fromarray(image) for image in source]
    pixel_values = pipeline.image_feature_extractor(
        images=pictures, return_tensors='pt'
    ).pixel_values
    latents = normal(6, 2, 4, 8, 8)
    call = {'image': pictures, 'latents': latents, 'height': 16, 'width': 16}
    call |= {'num_inference_steps': steps}
    inputs = {'source_uint8': source} | as_arrays(pixel_values=pixel_values, latents=latents)
    return inputs | {'num_inference_steps': np.array(steps)} | images(pipeline, call)


def image_to_image(scheduler: Any) -> tuple[Any, Callable[[Any], Arrays]]:
    """StableDiffusionPipeline's folder, as the published ones are."""
    text = CLIPTextModel(CLIPTextConfig(**TEXT | {'hidden_act': 'quick_gelu', 'eos_token_id': 59}))
    named = parts(scheduler) | {
        'text_encoder': text,
        'tokenizer': letters(),
        'feature_extractor': None,
    }
    return unguarded(StableDiffusionPipeline, **named), run_image_to_image


def letters() -> CLIPTokenizer:
    """Of 60 tokens: the letters, alone and at the end of a word, six merges, start and end."""
    ends = [f'{letter}</w>' for letter in ascii_lowercase]
    merges = [('a', 't</w>'), ('c', 'at</w>'), ('o', 'g</w>'), ('d', 'og</w>'), ('t', 'h')]
    merges += [('th', 'e</w>')]
    tokens = [
        *ascii_lowercase,
        *ends,
        *(left + right for left, right in merges),
        '<|startoftext|>',
        '<|endoftext|>',
    ]
    return CLIPTokenizer(
        {token: number for number, token in enumerate(tokens)}, merges, model_max_length=9
    )


def run_image_to_image(pipeline: Any, steps: int = 7, strength: float = 0.6) -> Arrays:
    """Captions, one of them too long; 7 steps and .6 tell rounding from cutting.

    Both draws of the pipeline are kept.
    """
    edit = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    image = torch.from_numpy(np.random.default_rng(8).random((2, 3, 16, 16), np.float32))
    captions = ['The cat', 'a dog on the mat at dawn']
    ids = [torch.from_numpy(tokens_of(pipeline.tokenizer, texts)) for texts in (captions, [''])]
    call = {'prompt': captions, 'image': image, 'strength': strength, 'num_inference_steps': steps}
    made = images(edit, call, seed=9)
    # first the latents are drawn from the posterior, then they are noised
    draws = torch.Generator().manual_seed(9)
    encode_noise, noise = (torch.randn(2, 4, 8, 8, generator=draws) for _ in range(2))
    inputs = as_arrays(
        image=image,
        encode_noise=encode_noise,
        noise=noise,
        input_ids=ids[0],
        negative_input_ids=ids[1],
    )
    return (
        inputs
        | {
            'captions': np.array(captions),
            'num_inference_steps': np.array(steps),
            'strength': np.array(strength),
        }
        | made
    )


def tokens_of(tokenizer: CLIPTokenizer, captions: list[str]) -> np.ndarray:
    return tokenizer(captions, padding='max_length', truncation=True, return_tensors='np').input_ids


def images(pipeline: Any, call: dict[str, Any], seed: int = 0) -> Arrays:
    """The pipeline's images f32[b h w c] in [0, 1], without guidance and with; refuses images that
    guidance leaves alone.
    """
    pipeline.set_progress_bar_config(disable=True)
    made = {}
    for scale in GUIDANCE:
        generator = torch.Generator().manual_seed(seed)
        made[f'image_gs{scale}'] = pipeline(
            **call, guidance_scale=scale, generator=generator, output_type='np'
        ).images
    clipped = {name: float(np.mean((image == 0) | (image == 1))) for name, image in made.items()}
    first, second = made.values()
    assert max(clipped.values()) < 0.3, f'too many values are clipped: {clipped}'
    assert np.abs(first - second).mean() > 0.02, 'guidance does not matter'
    return made


def pipelines() -> Iterable[tuple[str, tuple[Any, Callable[[Any], Arrays]]]]:
    """(case, (new pipeline, what to record)); schedulers and spacings as in published folders."""
    plain = {'clip_sample': False, **STABLE_DIFFUSION}
    yield 'variation_ddim_leading', variation(DDIMScheduler(**plain, **PUBLISHED))
    yield (
        'variation_pndm_leading',
        variation(PNDMScheduler(skip_prk_steps=True, **STABLE_DIFFUSION, **PUBLISHED)),
    )
    yield 'variation_dpmpp_linspace', variation(DPMSolverMultistepScheduler(**STABLE_DIFFUSION))
    yield (
        'variation_euler_trailing',
        variation(EulerDiscreteScheduler(timestep_spacing='trailing', **STABLE_DIFFUSION)),
    )
    v = DDIMScheduler(
        prediction_type='v_prediction', timestep_spacing='trailing', **plain, **PUBLISHED
    )
    yield 'variation_ddim_v', variation(v, 'unet_sd2')
    yield 'versatile_ddim', versatile(DDIMScheduler(**plain, **PUBLISHED))
    yield 'img2img_ddim', image_to_image(DDIMScheduler(**plain, **PUBLISHED))


def write_chains(file: Path) -> None:
    """The last state of every chain in `GOLDEN_CHAINS`, a line each."""
    lines = [
        f'{json.dumps(chain.name)}: [{", ".join(f"{x:.7g}" for x in theirs(chain).flat)}]'
        for chain in GOLDEN_CHAINS
    ]
    file.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--out', type=Path, default=GOLDEN, help='where to write; default: beside this script'
    )
    parser.add_argument('--only', choices=['chains'], help='what to make; default: everything')
    options = parser.parse_args()
    out = options.out
    torch.set_num_threads(1)
    write_chains(out / 'scheduler_chains.json')
    if options.only:
        return
    with tempfile.TemporaryDirectory() as scratch:
        for case, network, record in networks():
            made = Path(scratch) / case
            keep(made, out / case, record(reopened(network, made)))
        for case, (pipeline, record) in pipelines():
            made = Path(scratch) / case
            pipeline.save_pretrained(made)
            refill(made)
            absent = {name: None for name, part in pipeline.components.items() if part is None}
            keep(
                made,
                out / case,
                record(DiffusionPipeline.from_pretrained(made, low_cpu_mem_usage=False, **absent)),
            )


if __name__ == '__main__':
    main()
