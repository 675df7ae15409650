"""The embedded prior: a DDPM on the 700 digits that are in no quickstart's training or test set.

    python -m purify run --config configs/digits_prior.py --workdir runs/digits_prior

2,500 steps of 64 on 2 CPU cores take about a quarter of an hour. The folder runs/digits_prior/prior is a diffusers pipeline; its
unet/, scheduler/ and model_index.json are what lies in purify/models/pretrained/digits_ddpm.
"""

from purify.config import parts
from purify.config.arguments import parse_words


def get_config(arg=None):
    words = parse_words(arg, seed=0, steps=2500)
    config = parts.run_config('digits_prior', words.seed, save_every=250)
    config.source = parts.source('digits', size_px=16, channels=1, resample='nearest', reference='own')
    config.attack = parts.attack('none', rate=0.0)
    config.prior = parts.trained_prior(
        channels=(24, 48, 64), steps=words.steps, batch=64, lr=2e-3, size_px=16, stored_dtype='float16'
    )
    return config
