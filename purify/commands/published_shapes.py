"""Published models without weights, which `check` shapes where the hub has not been asked."""

from purify.diffusion.schedules import make_noise_schedule
from purify.generative.clip_encoder import ClipEncoder
from purify.generative.open_prior import VARIATION_MODELS
from purify.generative.pixel_prior import PixelPrior, Prior
from purify.models.clip.clip import CLIPVisionModelWithProjection
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.files.shapes import abstract_pipeline
from purify.models.files.weights import abstract_model
from purify.train.state import abstract_network

_SHAPES = {'sd_variation': 'sd1', 'versatile': 'versatile', 'sd_img2img': 'sd1'}
# google/ddpm-cifar10-32; every DDPM of that publisher has as many steps
_PIXEL_PX, _PIXEL_STEPS = 32, 1000
_PIXEL = {
    'block_out_channels': (128, 256, 256, 256),
    'down_block_types': ('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
    'attention_head_dim': None,
}


def published_prior(model: str, *, dtype: str, vae_slice: int) -> Prior:
    """A prior for `model` that has the shapes of the published networks but no weights.

    Settings are checked against it as against the real one; that the real one's folder is whole, is
    not. Raises `UserError` for an unknown model.
    """
    VARIATION_MODELS[model]
    if model == 'pixel':
        graph, weights = abstract_network(
            lambda rngs: UNet2DModel(**_PIXEL, rngs=rngs, dtype=dtype)
        )
        return PixelPrior(graph, weights, make_noise_schedule('linear', _PIXEL_STEPS), _PIXEL_PX, 3)
    pipeline = abstract_pipeline(model, _SHAPES[model], dtype=dtype)
    return VARIATION_MODELS.bare(model).from_pipeline(pipeline, dtype=dtype, vae_slice=vae_slice)


def published_encoder() -> ClipEncoder:
    """An encoder with the shapes of CLIP's ViT-B/32; all published ones take the same images."""
    return ClipEncoder.of(abstract_model(CLIPVisionModelWithProjection, {}))
