"""Images as CLIP's processor prepares them, against Pillow."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from purify.core.errors import UserError
from purify.models.clip.clip_pixels import clip_pixels, read_processor

IMAGE = np.random.default_rng(0).integers(256, size=(30, 44, 3), dtype=np.uint8)
PLAIN = {'image_mean': [0, 0, 0], 'image_std': [1, 1, 1]}


def prepared(**settings):
    return (
        np.asarray(clip_pixels(jnp.asarray(IMAGE[None] / np.float32(255)), PLAIN | settings))[0]
        * 255
    )


def by_pillow(width, height, crop):
    image = np.asarray(
        Image.fromarray(IMAGE).resize((width, height), Image.Resampling.BICUBIC), np.float64
    )
    top, left = (height - crop) // 2, (width - crop) // 2
    return image[top : top + crop, left : left + crop]


@pytest.mark.parametrize(
    ('size', 'crop', 'pillow'),
    [
        ({'height': 16, 'width': 16}, {'height': 16, 'width': 16}, (16, 16)),  # squashed
        ({'height': 12, 'width': 20}, 10, (20, 12)),
        ({'height': 30, 'width': 20}, 20, (20, 30)),  # one edge stays
        ({'shortest_edge': 16}, {'height': 16, 'width': 16}, (23, 16)),  # 44 / 30 * 16 = 23.5
        (16, 12, (23, 16)),
        ({'height': 30, 'width': 44}, 30, (44, 30)),
    ],
)
def test_sizes_mean_what_they_mean_in_transformers(size, crop, pillow):
    """An edge resizes to that of the shorter side; a height and a width to exactly these."""
    edge = crop if isinstance(crop, int) else crop['height']
    width, height = pillow
    off = np.abs(prepared(size=size, crop_size=crop) - by_pillow(width, height, edge))
    assert off.max() <= 1  # of 255, where the two round a tie apart
    assert off.mean() < 0.02


@pytest.mark.parametrize(
    'change',
    [
        {'size': {'shortest_edge': 224, 'longest_edge': 300}},
        {'size': {'height': 224}},
        {'size': {}},
        {'size': True},
        {'size': [224, 224]},
        {'crop_size': {'height': 224, 'width': 200}},
        {'crop_size': {'shortest_edge': 224}},
        {'default_to_square': True},
        {'do_resize': None},
        {'do_center_crop': False},
        {'image_processor_type': 'ViTImageProcessor'},
        {'feature_extractor_type': 'ViTFeatureExtractor'},
        {'do_pad': True},
        {'rescale_factor': 10**400},
        {'image_mean': [0.5, 0.5, float('inf')]},
        {'image_std': [0.5, 0.5, 1e300]},
    ],
)
def test_settings_that_would_change_the_pixels_are_refused_by_name(change):
    read_processor(PLAIN)
    with pytest.raises(UserError, match=next(iter(change))):
        read_processor(PLAIN | change)


def test_what_changes_no_pixel_passes():
    odd = {'do_convert_rgb': True, 'image_processor_type': 'CLIPImageProcessorFast', 'do_pad': None}
    odd |= {'device': 'cpu', '_x': 1}
    assert read_processor(odd)[:2] == read_processor({})[:2] == (224, 224)
