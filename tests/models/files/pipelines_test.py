import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import purify.models
from purify.core.errors import UserError
from purify.models.files.pipelines import MODELS, Pipeline, from_pretrained, save_pretrained
from purify.models.files.shapes import SHAPES, byte_tokenizer
from purify.models.files.weights import abstract_model, export_tensors

TINY = SHAPES['tiny']
CLASSES = {
    'unet': 'UNet2DConditionModel',
    'vae': 'AutoencoderKL',
    'image_encoder': 'CLIPVisionModelWithProjection',
}
FILES = {
    'unet': 'diffusion_pytorch_model.safetensors',
    'vae': 'diffusion_pytorch_model.safetensors',
    'image_encoder': 'model.safetensors',
    'text_encoder': 'model.safetensors',
}
SCRIPT = """
import sys, pathlib, torch, safetensors.torch, diffusers
folder = pathlib.Path(sys.argv[1])
pipeline = getattr(diffusers, sys.argv[2]).from_pretrained(folder)
for name, part in pipeline.components.items():
    if isinstance(part, torch.nn.Module):
        ours = {}
        for file in (folder / name).glob('*.safetensors'):
            ours |= safetensors.torch.load_file(file)
        theirs = part.state_dict()
        assert len(ours) == len(theirs), name
        for key, value in ours.items():
            key = key if key in theirs else key.removeprefix('text_model.')
            assert torch.equal(theirs[key], value), (name, key)
print(sorted(name for name, part in pipeline.components.items() if part is not None))
"""


def network(part):
    """A network of random weights, made without drawing by jax, which is slow op by op."""
    config = TINY[part]
    module = abstract_model(MODELS[config.get('_class_name') or config['architectures'][0]], config)
    rng = np.random.default_rng(len(part))
    state = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(x.dtype), nnx.state(module, nnx.Param)
    )
    nnx.update(module, state)
    return module


@pytest.fixture(scope='module')
def variation():
    parts = {name: network(name) for name in CLASSES}
    return Pipeline(
        'StableDiffusionImageVariationPipeline',
        parts | {n: TINY[n] for n in ('scheduler', 'feature_extractor')},
    )


@pytest.fixture(scope='module')
def saved(variation, tmp_path_factory):
    folder = tmp_path_factory.mktemp('variation')
    save_pretrained(variation, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    copy = tmp_path / 'copy'
    subprocess.run(['cp', '-r', saved, copy], check=True)
    return copy


def change_json(file, **changes):
    value = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))


def same_weights(one, other):
    one, other = export_tensors(one), export_tensors(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value)


@pytest.mark.long
def test_the_folder_is_laid_out_as_diffusers_does(variation, saved):
    index = json.loads((saved / 'model_index.json').read_text())
    assert index == {
        '_class_name': 'StableDiffusionImageVariationPipeline',
        'feature_extractor': ['transformers', 'CLIPImageProcessor'],
        'image_encoder': ['transformers', 'CLIPVisionModelWithProjection'],
        'requires_safety_checker': False,
        'safety_checker': [None, None],
        'scheduler': ['diffusers', TINY['scheduler']['_class_name']],
        'unet': ['diffusers', 'UNet2DConditionModel'],
        'vae': ['diffusers', 'AutoencoderKL'],
    }
    written = {str(path.relative_to(saved)) for path in saved.rglob('*') if path.is_file()}
    expected = {
        'model_index.json',
        'scheduler/scheduler_config.json',
        'feature_extractor/preprocessor_config.json',
    }
    assert written == expected | {
        f'{name}/{file}' for name in CLASSES for file in ('config.json', FILES[name])
    }
    for name in CLASSES:
        stored, held = load_file(saved / name / FILES[name]), export_tensors(variation.parts[name])
        assert stored.keys() == held.keys()
        for key, value in stored.items():
            np.testing.assert_array_equal(held[key], value)


@pytest.mark.long
def test_a_pipeline_comes_back(variation, saved):
    pipeline = from_pretrained(saved)
    assert pipeline.class_name == variation.class_name
    assert pipeline.parts.keys() == variation.parts.keys()
    for name, class_name in CLASSES.items():
        assert type(pipeline.parts[name]) is MODELS[class_name]
        same_weights(variation.parts[name], pipeline.parts[name])
    assert pipeline.parts['scheduler'] == TINY['scheduler']
    assert pipeline.parts['feature_extractor'] == TINY['feature_extractor']


def test_a_pipeline_from_text_comes_back_whole_and_in_shards_of_bfloat16(variation, tmp_path):
    tokenizer = byte_tokenizer(TINY['text_encoder'])
    parts = {name: variation.parts[name] for name in ('vae', 'scheduler')} | {
        'tokenizer': tokenizer
    }
    parts |= {'text_encoder': network('text_encoder')}
    save_pretrained(
        Pipeline('StableDiffusionPipeline', parts),
        tmp_path,
        dtype='bfloat16',
        max_shard_bytes=20_000,
    )
    assert (tmp_path / 'text_encoder' / 'model.safetensors.index.json').exists()
    index = json.loads((tmp_path / 'model_index.json').read_text())
    assert (
        index['feature_extractor']
        == index['image_encoder']
        == index['safety_checker']
        == [None, None]
    )
    pipeline = from_pretrained(tmp_path, components=tuple(parts))
    assert pipeline.parts.keys() == parts.keys()
    found = pipeline.parts['tokenizer'](['a cat', 'ö'])
    np.testing.assert_array_equal(found, tokenizer(['a cat', 'ö']))
    loaded = export_tensors(pipeline.parts['text_encoder'])
    for name, value in export_tensors(parts['text_encoder']).items():
        np.testing.assert_array_equal(loaded[name], value.astype(jnp.bfloat16).astype(np.float32))
    said = r"no component 'unet'. It has: scheduler, text_encoder, tokenizer, vae"
    with pytest.raises(UserError, match=said):
        from_pretrained(tmp_path)


def test_versatile_diffusion_is_written_as_what_it_has(variation, tmp_path):
    parts = {
        'vae': variation.parts['vae'],
        'scheduler': TINY['scheduler'],
        'image_feature_extractor': TINY['feature_extractor'],
    }
    save_pretrained(Pipeline('VersatileDiffusionPipeline', parts), tmp_path)
    index = json.loads((tmp_path / 'model_index.json').read_text())
    assert index['_class_name'] == 'VersatileDiffusionImageVariationPipeline'
    assert index['image_feature_extractor'] == ['transformers', 'CLIPImageProcessor']
    wanted = {'scheduler': TINY['scheduler']}
    assert from_pretrained(tmp_path, components=['scheduler']).parts == wanted


def test_bare_networks(variation, saved, tmp_path):
    save_pretrained(variation.parts['vae'], tmp_path / 'vae')
    same_weights(from_pretrained(tmp_path / 'vae'), variation.parts['vae'])
    encoder = from_pretrained(saved, subfolder='image_encoder')
    same_weights(encoder, variation.parts['image_encoder'])
    assert not isinstance(encoder, Pipeline)


def test_dtype_is_what_networks_compute_in(saved):
    with pytest.raises(UserError, match=r"dtype='foo'.*float32, float16, bfloat16"):
        from_pretrained(saved, subfolder='vae', dtype='foo')
    vae = from_pretrained(saved, subfolder='vae', dtype=jnp.bfloat16)
    assert vae.encoder.conv_in.dtype == jnp.bfloat16
    assert vae.encoder.conv_in.kernel[...].dtype == jnp.float32
    assert (
        from_pretrained(saved, components=['vae'], dtype=jnp.bfloat16)
        .parts['vae']
        .encoder.conv_in.dtype
        == jnp.bfloat16
    )


def test_the_class_of_a_transformers_folder_may_be_its_model_type(folder):
    config = folder / 'image_encoder' / 'config.json'
    change_json(config, architectures=...)
    wanted = MODELS['CLIPVisionModelWithProjection']
    assert type(from_pretrained(folder / 'image_encoder')) is wanted
    change_json(config, model_type='bert')
    said = r"describes 'no class'. Supported: AutoencoderKL, CLIPTextModel, "
    with pytest.raises(UserError, match=said):
        from_pretrained(folder / 'image_encoder')


def test_unsupported_classes_are_refused_with_the_choices(folder):
    change_json(folder / 'vae' / 'config.json', _class_name='VQModel')
    said = r"copy/vae/config.json: describes 'VQModel'. Supported: .*UNet2DModel"
    with pytest.raises(UserError, match=said):
        from_pretrained(folder, subfolder='vae')
    change_json(folder / 'model_index.json', vae=['diffusers', 'VQModel'])
    for components in (None, ['vae']):
        said = r'its vae is a VQModel, which is not supported. Supported: AutoencoderKL'
        with pytest.raises(UserError, match=said):
            from_pretrained(folder, components=components)


@pytest.mark.parametrize(
    ('part', 'file', 'change', 'told'),
    [
        (
            'scheduler',
            'scheduler_config.json',
            {'_class_name': 'PNDMScheduler'},
            'is a DDIMScheduler, but .* that it is a PNDMScheduler',
        ),
        (
            'vae',
            'config.json',
            {'_class_name': 'UNet2DModel'},
            'is a AutoencoderKL, but .* that it is a UNet2DModel',
        ),
        (
            'image_encoder',
            'config.json',
            {'architectures': ['CLIPTextModel']},
            'is a CLIPVision.*, but .* it is a CLIPTextModel',
        ),
    ],
)
def test_two_classes_of_one_part_are_named_with_both_places(folder, part, file, change, told):
    change_json(folder / part / file, **change)
    with pytest.raises(UserError, match=rf'copy/model_index.json: says that {part} {told}'):
        from_pretrained(folder, components=[part])


def test_an_encoder_is_read_out_of_a_larger_model(folder, variation):
    change_json(folder / 'image_encoder' / 'config.json', architectures=['CLIPModel'])
    same_weights(
        from_pretrained(folder, components=['image_encoder']).parts['image_encoder'],
        variation.parts['image_encoder'],
    )


def test_of_unknown_pipelines_all_that_is_readable_is_read(folder):
    odd = {
        'vae': ['diffusers', 'VQModel'],
        'safety_checker': ['x', 'SafetyChecker'],
        'unet': [None, None],
    }
    odd['feature_extractor'] = ['transformers', 'CLIPImageProcessorPil']
    change_json(folder / 'model_index.json', _class_name='OddPipeline', **odd)
    pipeline = from_pretrained(folder)
    assert pipeline.class_name == 'OddPipeline'
    assert pipeline.parts.keys() == {'scheduler', 'feature_extractor', 'image_encoder'}


def test_all_parts_in_one_folder(folder, variation):
    """As google/ddpm-cifar10-32 lies on the hub."""
    flat = folder / 'unet'
    (folder / 'scheduler' / 'scheduler_config.json').rename(flat / 'scheduler_config.json')
    parts = {
        'unet': ['diffusers', 'UNet2DConditionModel'],
        'scheduler': ['diffusers', 'DDIMScheduler'],
    }
    (flat / 'model_index.json').write_text(json.dumps({'_class_name': 'DDPMPipeline'} | parts))
    pipeline = from_pretrained(flat)
    same_weights(pipeline.parts['unet'], variation.parts['unet'])
    assert pipeline.parts['scheduler'] == TINY['scheduler']


def test_missing_folders_and_files_are_named(folder):
    with pytest.raises(
        UserError,
        match=(
            r"no subfolder 'nowhere'. It has: feature_extractor, image_encoder, scheduler,"
            r' unet, vae'
        ),
    ):
        from_pretrained(folder, subfolder='nowhere')
    with pytest.raises(UserError, match=r'are of pipelines, and it has no model_index.json'):
        from_pretrained(folder / 'vae', components=['unet'])
    (folder / 'scheduler').rename(folder / 'other')
    said = r'copy: its model_index.json names scheduler, but there is no folder scheduler'
    with pytest.raises(UserError, match=said):
        from_pretrained(folder, components=['scheduler'])
    (folder / 'feature_extractor' / 'preprocessor_config.json').write_text('[]')
    with pytest.raises(UserError, match=r'preprocessor_config.json: must hold a JSON object'):
        from_pretrained(folder, components=['feature_extractor'])


def test_tensors_that_do_not_fit_are_named_with_their_folder(folder):
    file = folder / 'vae' / FILES['vae']
    tensors = load_file(file)
    del tensors['encoder.conv_in.weight']
    save_file(tensors | {'strange': np.zeros(1, np.float32)}, file)
    words = (
        r'copy/vae: these weights do not fit AutoencoderKL: 1 missing: encoder.conv_in.weight; 1'
        r' unexpected: strange'
    )
    with pytest.raises(UserError, match=words):
        from_pretrained(folder, components=['vae'])
    change_json(folder / 'vae' / 'config.json', odd_field=3)
    with pytest.raises(UserError, match=r'copy/vae/config.json: .*odd_field'):
        from_pretrained(folder, components=['vae'])


@pytest.mark.long
def test_shapes_alone_are_read_from_headers(monkeypatch, saved, folder):
    real = from_pretrained(saved)

    def refuse(*_):
        raise AssertionError('a tensor was read')

    monkeypatch.setattr('purify.models.files.tensors.Tensors.__getitem__', refuse)
    with pytest.raises(AssertionError, match='was read'):
        from_pretrained(saved, subfolder='vae')
    shapes = from_pretrained(saved, weights=False)
    assert shapes.parts['scheduler'] == real.parts['scheduler']
    for name in CLASSES:
        held, expected = (nnx.state(pipeline.parts[name], nnx.Param) for pipeline in (shapes, real))
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(held))
        found = jax.tree.map(lambda x: (x.shape, x.dtype), held)
        assert found == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
    file = folder / 'vae' / FILES['vae']
    tensors = load_file(file)
    save_file(tensors | {'encoder.conv_in.weight': np.zeros((1, 2, 3, 3), np.float32)}, file)
    said = r'copy/vae: .* 1 of the wrong shape: encoder.conv_in.weight .file \(3, 3, 2, 1\)'
    with pytest.raises(UserError, match=said):
        from_pretrained(folder, components=['vae'], weights=False)
    os.truncate(file, 2000)
    with pytest.raises(UserError, match='not a readable safetensors'):
        from_pretrained(folder / 'vae', weights=False)


def test_the_hub_is_asked_for_the_parts_that_are_read(monkeypatch, saved):
    asked = []
    monkeypatch.setattr(
        'purify.models.files.pipelines.resolve', lambda *question: asked.append(question) or saved
    )
    from_pretrained('owner/model', revision='abc', components=['scheduler'])
    from_pretrained('owner/model', subfolder='vae')
    from_pretrained('owner/model', weights=False)
    wanted = [('owner/model', 'abc', ['scheduler']), ('owner/model', None, ['vae'])]
    wanted += [('owner/model', None, None)]
    assert asked == wanted


@pytest.mark.parametrize('part', [3, {'beta': 1}])
def test_parts_without_a_place_are_refused_before_anything_is_written(variation, tmp_path, part):
    pipeline = Pipeline('Odd', variation.parts | {'odd': part})
    with pytest.raises(UserError, match=f"part 'odd' of the pipeline is a {type(part).__name__}"):
        save_pretrained(pipeline, tmp_path / 'new')
    assert not (tmp_path / 'new').exists()


def test_the_room_offers_reading_and_writing():
    assert purify.models.from_pretrained is from_pretrained
    assert purify.models.save_pretrained is save_pretrained
    with pytest.raises(AttributeError, match='nothing'):
        _ = purify.models.nothing


@pytest.mark.skipif(
    not (find_spec('torch') and find_spec('diffusers')), reason='the parity extra is not installed'
)
def test_pytorch_opens_what_we_write(variation, saved, tmp_path):
    opens(sys.executable, variation, saved, tmp_path)


def opens(python, variation, saved, folder):
    text = {
        'text_encoder': network('text_encoder'),
        'tokenizer': byte_tokenizer(TINY['text_encoder']),
    }
    parts = {name: variation.parts[name] for name in ('unet', 'vae', 'scheduler')} | text
    save_pretrained(Pipeline('StableDiffusionPipeline', parts), folder / 'text')
    save_pretrained(variation, folder / 'shards', max_shard_bytes=60_000)
    for place, pipeline in (
        (saved, variation),
        (folder / 'shards', variation),
        (folder / 'text', Pipeline('StableDiffusionPipeline', parts)),
    ):
        command = [python, '-c', SCRIPT, str(place), pipeline.class_name]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=Path(place),
            env=os.environ | {'PYTHONPATH': ''},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(sorted(pipeline.parts))
