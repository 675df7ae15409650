"""The config of guidance_sweep.sh: the digits of configs/castle_walls.py, of which only what the
dissection needs is made. Its words are those of configs/castle_walls.py.
"""

from pathlib import Path

from purify.config.load import load_module


def get_config(arg=None):
    """200 images of the target class, 20 of all classes, no detectors."""
    config = load_module(str(Path(__file__).parents[2] / 'configs' / 'castle_walls.py')).get_config(
        arg
    )
    config.defense.scores = {}
    config.defense.images = 20
    return config
