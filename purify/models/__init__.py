"""Networks, and reading and writing them as the PyTorch libraries do.

from purify.models import from_pretrained, save_pretrained
unet = from_pretrained('google/ddpm-cifar10-32').parts['unet']
save_pretrained(unet, 'folder')
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purify.models.files.pipelines import Pipeline, from_pretrained, save_pretrained

__all__ = ['Pipeline', 'from_pretrained', 'save_pretrained']


def __getattr__(name: str) -> Any:  # so that one network is imported without all the others
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from purify.models.files import pipelines

    return getattr(pipelines, name)
