"""What we write, PyTorch diffusers opens; what it computes, we compute.

Needs the `parity` extra.
"""

import json
import subprocess
import sys
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from flax import nnx

from purify.generative.open_prior import load_variation_model
from purify.models.files.hub import EMBEDDED

SCRIPT = """
import sys, numpy, torch
from diffusers import DDPMPipeline
pipeline = DDPMPipeline.from_pretrained(sys.argv[1])
io = numpy.load(sys.argv[2])
x, t = torch.from_numpy(io['x']), torch.from_numpy(io['t'])
with torch.no_grad():
    out = pipeline.unet(x, t).sample
numpy.savez(sys.argv[3], out=out.numpy(), alphas=pipeline.scheduler.alphas_cumprod.numpy())
"""


PARITY = bool(find_spec('torch') and find_spec('diffusers'))


@pytest.mark.skipif(not PARITY, reason='the parity extra (torch, diffusers) is not installed')
@pytest.mark.parametrize('name', EMBEDDED)
def test_the_embedded_priors_open_in_diffusers_and_agree(name, tmp_path):
    compare(sys.executable, name, tmp_path)


def compare(python, name, tmp_path):
    rng = np.random.default_rng(0)
    shape = {'digits': (2, 1, 16, 16), 'photos32': (2, 3, 32, 32)}[name]
    x, t = rng.normal(size=shape).astype(np.float32), np.array([3, 700])
    np.savez(tmp_path / 'io.npz', x=x, t=t)
    folder = EMBEDDED[name]
    subprocess.run(
        [python, '-c', SCRIPT, str(folder), str(tmp_path / 'io.npz'), str(tmp_path / 'out.npz')],
        check=True,
    )
    theirs = np.load(tmp_path / 'out.npz')
    prior = load_variation_model(folder)
    network = nnx.merge(prior.graph, prior.weights['params'], prior.weights['stats'])
    ours = np.asarray(jax.jit(network)(x.transpose(0, 2, 3, 1), t)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours, theirs['out'], atol=1e-4)
    np.testing.assert_allclose(prior.schedule.alphas_cumprod, theirs['alphas'], rtol=1e-4)
    assert json.loads((folder / 'model_index.json').read_text())['_class_name'] == 'DDPMPipeline'
