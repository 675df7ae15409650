"""The digits of configs/castle_walls.py, of which only what the dissection needs is made; words as there."""

from purify.config import castle_walls as study


def get_config(arg=None):
    """200 images of the target class, 20 of all classes, no detectors."""
    config = study.SETTINGS['digits'](study.words_of(arg))
    config.defense.scores = {}
    config.defense.images = 20
    return config
