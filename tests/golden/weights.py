"""Weights that need no storing: every tensor is a function of its name and shape, so a list of
names stands for a network.

Used by make_golden.py, which fills PyTorch's networks, and by the tests, which fill ours from the
`names.json` it left. Pure NumPy, so that both sides draw the same numbers.
"""

import json
import math
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent
OTHER = Path(os.environ.get('PURIFY_GOLDEN', GOLDEN))  # with weights beside the arrays


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor f32[shape] called `name`: uniform numbers seeded by the name, nothing zero,
    activations of about unit size.

    Matrices and kernels keep the variance of what they are given; norms scale by 0.8 to 1.2, biases
    lie within 0.2 of zero, embeddings within 1.
    """
    uniform = np.random.default_rng(zlib.crc32(name.encode())).random(shape) * 2 - 1
    if name.endswith('.bias'):
        tensor = 0.2 * uniform
    elif 'embedding' in name and not name.startswith('time_embedding') and 'patch' not in name:
        tensor = uniform
    elif len(shape) < 2:
        tensor = 1 + 0.2 * uniform
    else:
        tensor = uniform * math.sqrt(3 / math.prod(shape[1:]))
    return tensor.astype(np.float32)


def weights_name(folder: Path) -> str:
    """What the library calls the weights file of a network's folder."""
    config = json.loads((folder / 'config.json').read_text())
    return 'diffusion_pytorch_model.safetensors' if '_class_name' in config else 'model.safetensors'


def materialise(case: Path, target: Path) -> Path:
    """Copies the JSON files of a golden case to `target` and writes the weights its `names.json`
    files stand for.

    Folders that hold weights are copied as they are. Returns `target`.
    """
    shutil.copytree(case, target, ignore=shutil.ignore_patterns('names.json', 'io.npz'))
    for names in case.rglob('names.json'):
        folder = target / names.parent.relative_to(case)
        tensors = {
            name: fill(name, tuple(shape)) for name, shape in json.loads(names.read_text()).items()
        }
        save_file(tensors, folder / weights_name(folder), metadata={'format': 'pt'})
    return target
