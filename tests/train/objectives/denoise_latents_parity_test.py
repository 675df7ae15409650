"""Fine-tuning Stable Diffusion here and in PyTorch's diffusers: the same batch, loss and gradients.

Needs the `parity` extra.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from purify.diffusion.scheduler_config import schedule_from_diffusers
from purify.models.files.pipelines import save_pretrained
from purify.models.files.shapes import random_pipeline
from purify.models.files.weights import export_tensors
from purify.train.objectives.denoise_latents import (
    DenoiseLatents,
    caption_table,
    read_stable_diffusion,
)
from purify.train.state import split_network

pytestmark = pytest.mark.long

LIBRARIES = ('torch', 'diffusers', 'transformers')
NEEDED = 'the parity extra (torch, diffusers, transformers) is not installed'
torch, diffusers, _ = (pytest.importorskip(name, reason=NEEDED) for name in LIBRARIES)

NAMES, CAPTION, DROP = ['n01440764', 'chain_saw', 'church'], 'A photo of a {}', 0.4
# of the names, and of none
SAID = ['A photo of a tench', 'A photo of a chain saw', 'A photo of a church', '']
BATCH = {
    'image': np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8),
    'label': np.array([0, 1, 2, 2, 1, 0], np.int32),
}
KEY = jax.random.key(5)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('tiny')
    save_pretrained(random_pipeline('sd_img2img', 'tiny', seed=3), made)
    return made


def our_step(folder, prediction):
    """(what the UNet was asked, loss, gradients under PyTorch's names) of one batch."""
    pipeline = read_stable_diffusion(folder, 'float32')
    vae = pipeline.parts['vae']
    (graph, params, stats) = split_network(pipeline.parts['unet'])
    (vae_graph, *frozen) = split_network(vae)
    schedule = schedule_from_diffusers(
        pipeline.parts['scheduler'] | {'prediction_type': prediction}
    )
    table = caption_table(pipeline, NAMES, CAPTION)
    frozen = {'vae': dict(zip(('params', 'stats'), frozen, strict=True)), 'captions': table}
    task = DenoiseLatents(graph, vae_graph, schedule, 16, vae.scaling_factor, DROP, 0.0, frozen)
    draw = jax.jit(task.draw)(frozen, BATCH, jax.random.split(KEY)[0])
    (loss, _), grads = jax.jit(jax.value_and_grad(task, has_aux=True))(
        params, stats, frozen, BATCH, KEY
    )
    return (
        [np.asarray(x) for x in draw],
        float(loss),
        export_tensors(nnx.merge(graph, grads, stats)),
        table,
    )


def nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction'])
def test_loss_and_gradients_are_those_of_diffusers(folder, prediction):
    (latents, noise, t, context), loss, grads, table = our_step(folder, prediction)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    unet = theirs.unet.train()
    scheduler = diffusers.DDPMScheduler.from_config(
        theirs.scheduler.config, prediction_type=prediction
    )

    # what is frozen: the captions, and the images' latents before they are drawn
    with torch.no_grad():
        ids = theirs.tokenizer(
            SAID, padding='max_length', truncation=True, return_tensors='pt'
        ).input_ids
        said = theirs.text_encoder(ids)[0]
        posterior = theirs.vae.encode(nchw(BATCH['image'] / 127.5 - 1).float()).latent_dist
    np.testing.assert_allclose(table, said, rtol=0, atol=1e-5)
    drawn = (nchw(latents) / theirs.vae.config.scaling_factor - posterior.mean) / posterior.std
    key = jax.random.split(jax.random.split(KEY)[0], 3)[0]
    np.testing.assert_allclose(drawn, nchw(jax.random.normal(key, latents.shape)), atol=1e-3)
    rows = [int(np.abs(table - row).max((1, 2)).argmin()) for row in context]
    told = [row == 3 for row in rows]
    assert any(told)
    assert not all(told)
    assert all(row in (3, label) for row, label in zip(rows, BATCH['label'], strict=True))

    x0, eps, steps = nchw(latents), nchw(noise), torch.from_numpy(t).long()
    goal = eps if prediction == 'epsilon' else scheduler.get_velocity(x0, eps, steps)
    output = unet(
        scheduler.add_noise(x0, eps, steps), steps, torch.stack([said[row] for row in rows])
    ).sample
    expected = torch.nn.functional.mse_loss(output, goal)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)

    known = {name: parameter.grad.numpy() for name, parameter in unet.named_parameters()}
    assert set(known) == set(grads)
    largest = max(np.abs(grad).max() for grad in known.values())
    wrong = {
        name: np.abs(grads[name] - grad).max() / max(np.abs(grad).max(), 1e-4 * largest)
        for name, grad in known.items()
    }
    print(prediction, max(wrong.values()), max(wrong, key=wrong.get))
    assert {name: error for name, error in wrong.items() if not error < 1e-4} == {}
