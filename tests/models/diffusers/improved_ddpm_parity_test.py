"""Improved DDPM in PyTorch (a walk over the checkpoint's names), in diffusers (the converted
folder) and here. `parity` extra.
"""

import numpy as np
import pytest
from flax import nnx
from support.improved_ddpm_reference import Numbers, random_state, run

from purify.commands.convert import convert
from purify.models.files.pipelines import from_pretrained

pytestmark = pytest.mark.long

torch = pytest.importorskip('torch', reason='the parity extra (torch, diffusers) is not installed')
diffusers = pytest.importorskip(
    'diffusers', reason='the parity extra (torch, diffusers) is not installed'
)

T = np.array([3, 3999])


class Torch(Numbers):
    array = staticmethod(lambda value: torch.tensor(np.asarray(value), dtype=torch.float64))
    cat = staticmethod(lambda parts: torch.cat(parts, 1))
    einsum = staticmethod(torch.einsum)
    silu = staticmethod(torch.nn.functional.silu)
    softmax = staticmethod(lambda x: torch.softmax(x, -1))
    conv = staticmethod(
        lambda x, weight, bias, stride=1: torch.nn.functional.conv2d(
            x, weight, bias, stride, weight.shape[-1] // 2
        )
    )
    norm = staticmethod(lambda x, weight, bias: torch.nn.functional.group_norm(x, 32, weight, bias))
    twice = staticmethod(
        lambda x: torch.nn.functional.interpolate(x, scale_factor=2, mode='nearest')
    )


def saved(state, folder, words='size_px=16,heads=4,steps=4000,noise=cosine,rescale=True'):
    torch.save({name: torch.tensor(value) for name, value in state.items()}, folder / 'ema.pt')
    convert(f'improved_ddpm:{words}', folder / 'ema.pt', folder / 'prior')
    return folder / 'prior'


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_a_pickled_checkpoint_is_computed_as_in_pytorch(tmp_path):
    """Attention at two widths, which diffusers has no settings for."""
    state, x = random_state(), np.random.default_rng(1).normal(size=(2, 3, 16, 16))
    network = from_pretrained(saved(state, tmp_path)).parts['unet']
    ours = nnx.jit(lambda n, x: n(x, T))(network, x.transpose(0, 2, 3, 1).astype(np.float32))
    theirs = run(state, x, T, heads=4, steps=4000, rescale=True, lib=Torch).numpy()
    close(np.asarray(ours).transpose(0, 3, 1, 2), theirs)


@pytest.mark.parametrize('attends', [(1, 2), (2,)])
def test_diffusers_opens_the_folder_and_agrees(tmp_path, attends):
    state = random_state(mult=(1, 2, 2), attends=attends)
    x = np.random.default_rng(1).normal(size=(2, 3, 16, 16))
    folder = saved(state, tmp_path)
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    with torch.no_grad():
        theirs = pipeline.unet(torch.tensor(x, dtype=torch.float32), torch.tensor(T)).sample.numpy()
    close(theirs, run(state, x, T, heads=4, steps=4000, rescale=True, lib=Torch).numpy())
    ours = nnx.jit(lambda n, x: n(x, T))(
        from_pretrained(folder).parts['unet'], x.transpose(0, 2, 3, 1).astype(np.float32)
    )
    close(np.asarray(ours).transpose(0, 3, 1, 2), theirs)
    assert pipeline.scheduler.config.variance_type == 'learned_range'
    image = pipeline(batch_size=1, num_inference_steps=2, output_type='np').images
    assert image.shape == (1, 16, 16, 3)
    assert np.isfinite(image).all()


def test_pickles_that_hold_more_than_tensors_are_refused(tmp_path):
    from purify.core.errors import UserError

    for name, value in {'code': {'a': Numbers}, 'nested': {'state': {'a': torch.zeros(1)}}}.items():
        torch.save(value, tmp_path / f'{name}.pt')
        with pytest.raises(UserError, match=rf'{name}\.pt'):
            convert(
                'improved_ddpm:size_px=16,heads=4,steps=10,noise=cosine,rescale=True',
                tmp_path / f'{name}.pt',
                tmp_path / 'out',
            )
    assert not (tmp_path / 'out').exists()
