r"""How well a prior cleans small photographs, and what a classifier still says of them.

    purify run --config quickstart:source=arrays:DIR,attack=none,defense=none \
        --workdir W
    python tests/tools/photo_prior.py W photos32 1000 OUT >> photo_prior.jsonl

W holds a finished teacher, trained on clean images. Of its first COUNT test images: the error of
the prior in one call at several timesteps; what one round (noised to T and back) makes of them, by
PSNR against the original and by how many answers of the teacher stay; and the same for a bicubic
blur and for non-local means (scikit-image) with about the same PSNR. OUT gets a picture of a few.
Prints a line of JSON for each measurement.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image
from skimage.restoration import denoise_nl_means

from purify.data.loader import Split
from purify.diffusion import predictions
from purify.diffusion.schedules import add_noise
from purify.generative.open_prior import load_variation_model
from purify.stages.networks_on_disk import read_classifier

TIMESTEPS = (10, 25, 50, 100, 150, 200, 300, 400, 600)
STARTS = (50, 100, 150, 200, 300)
STEPS = 6
BATCH = 100


def psnr(images, others):
    """Of images in [0, 1], the mean over images of each one's decibels."""
    error = np.square(images - others).mean((1, 2, 3))
    return float(np.mean(10 * np.log10(1 / np.maximum(error, 1e-10))))


def in_batches(function, *rows):
    """Applies a function to rows in batches of one size, and joins what it gives."""
    starts = range(0, len(rows[0]), BATCH)
    parts = (function(*(row[k : k + BATCH] for row in rows)) for k in starts)
    return np.concatenate([np.asarray(part) for part in parts])


def one_call(prior, images, timestep):
    """The clean images that the prior sees in noised ones, in one call: f32[b h w c] in [0, 1]."""
    ask = jax.jit(
        lambda weights, x, t: nnx.merge(prior.graph, weights['params'], weights['stats'])(x, t)
    )

    def see(signed, noise):
        t = jnp.full(len(signed), timestep)
        noised = add_noise(prior.schedule, signed, noise, t)
        output = ask(prior.weights, noised, t)
        clean, _ = predictions.read_output(prior.schedule, output, noised, t)
        return jnp.clip(clean, -1, 1) / 2 + 0.5

    noise = np.random.default_rng(timestep).normal(size=images.shape).astype(np.float32)
    return in_batches(see, 2 * images - 1, noise)


def one_round(prior, images, start):
    """What the quickstart's sampler makes of images f32[b h w c] in [0, 1]."""
    vary = jax.jit(prior.vary((), sampler='sde', start=start, steps=STEPS))
    keys = jax.random.split(jax.random.key(start), len(images))
    labels = np.zeros(len(images), np.int32)
    make = lambda x, labels, keys: vary(prior.weights, x, labels, keys) / 2 + 0.5
    return in_batches(make, 2 * images - 1, labels, keys)


def blurred(images, size_px):
    """Images that were brought to another size and back, bicubic."""
    pixels, side = np.round(255 * images).astype(np.uint8), images.shape[1]
    resize = lambda image, size: image.resize((size, size), Image.Resampling.BICUBIC)
    made = [resize(resize(Image.fromarray(image), size_px), side) for image in pixels]
    return np.stack([np.asarray(image) for image in made]).astype(np.float32) / 255


def smoothed(images, strength):
    """Images after non-local means, whose filter has this strength."""
    how = {'patch_size': 3, 'patch_distance': 5, 'h': strength, 'channel_axis': -1}
    return np.stack([denoise_nl_means(image, **how) for image in images]).astype(np.float32)


def nearest(images, change, settings, wanted):
    """Of the settings of a change, the one whose PSNR is nearest; what it makes."""
    some = images[:100]
    best = min(settings, key=lambda setting: abs(psnr(change(some, setting), some) - wanted))
    return best, change(images, best)


def main(workdir, prior, count, out):
    """Prints a line for each measurement, and draws a picture."""
    config = json.loads((Path(workdir) / 'config.json').read_text())
    name = config['source'].get('path', config['source']['name']).rstrip('/').rpartition('/')[2]
    made = json.loads((Path(workdir) / 'environment.json').read_text())
    prepared = Path(made['store']) / f'prepare-{made["fingerprints"]["prepare"]}'
    split = Split(prepared / 'truth' / 'test', 'test')
    images = np.stack([split[k]['image'] for k in range(min(count, len(split)))])
    images = images.astype(np.float32) / 255
    teacher = read_classifier(Path(workdir) / 'teacher')
    say = jax.jit(lambda images: teacher.logits(teacher.weights, images).argmax(-1))
    answers = in_batches(say, images)
    same = lambda others: round(float((in_batches(say, others) == answers).mean()), 4)
    right = float((answers == split.labels[: len(images)]).mean())
    tell = lambda **row: print(json.dumps({'data': name, 'images': len(images)} | row), flush=True)
    tell(what='teacher', accuracy=round(right, 4))
    prior = load_variation_model(prior)
    for timestep in TIMESTEPS:
        seen = one_call(prior, images, timestep)
        tell(what='one call', timestep=timestep, psnr=round(psnr(seen, images), 3))
    rows = [images[:10]]
    for start in STARTS:
        made = one_round(prior, images, start)
        rows.append(made[:10])
        decibels = psnr(made, images)
        tell(what='round', start=start, psnr=round(decibels, 3), same_answer=same(made))
        sizes = range(2, images.shape[1])
        for kind, change, settings in (
            ('blur', blurred, sizes),
            ('non-local means', smoothed, np.geomspace(0.005, 0.6, 25).round(4).tolist()),
        ):
            setting, other = nearest(images, change, settings, decibels)
            row = {'like': start, 'setting': setting, 'psnr': round(psnr(other, images), 3)}
            tell(what=kind, **row, same_answer=same(other))
            rows.append(other[:10])
    strip = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    pixels = np.clip(np.round(255 * strip), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).resize((3 * pixels.shape[1], 3 * pixels.shape[0]), 0).save(out)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
