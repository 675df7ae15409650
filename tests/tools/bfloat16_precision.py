"""Compares bfloat16 with float32 over whole image-variation chains on random weights. Prints one
line of JSON for each kind of model.

    python tests/tools/bfloat16_precision.py SHAPES STEPS    # such as small 20
"""

import json
import sys

import numpy as np

from purify.generative.open_prior import VARIATION_MODELS
from purify.models.files.shapes import random_pipeline

shapes, steps = sys.argv[1], int(sys.argv[2])
for kind in ('sd_variation', 'versatile'):
    made = {}
    for dtype in ('float32', 'bfloat16'):
        pipeline = random_pipeline(kind, shapes, seed=0, dtype=dtype)
        prior = VARIATION_MODELS[kind].from_pipeline(pipeline, dtype=dtype)
        rng = np.random.default_rng(0)
        pixels = rng.normal(size=(2, 224, 224, 3)).astype(np.float32)
        noise = rng.normal(size=(2, 16, 16, 4)).astype(np.float32)
        made[dtype] = 255 * np.asarray(prior.generate(pixels, noise, steps=steps, guidance=7.5))
    apart = np.abs(made['float32'] - made['bfloat16'])
    line = {
        'kind': kind,
        'shapes': shapes,
        'steps': steps,
        'mean_difference_of_255': float(apart.mean()),
        'max': float(apart.max()),
        'share_above_8_of_255': float((apart > 8).mean()),
        'std_of_images': float(made['float32'].std()),
    }
    print(json.dumps(line), flush=True)
