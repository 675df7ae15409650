import os
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects

from purify.core.errors import UserError
from purify.models.hub import resolve

WEIGHTS = 'diffusion_pytorch_model.safetensors'
VARIATION = """{"_class_name": "StableDiffusionImageVariationPipeline", "_diffusers_version": "0.11.0",
"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "unet": ["diffusers", "UNet2DConditionModel"]}"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one repository {path: text}, which downloads into one folder by the real client's rule for patterns."""

    class Hub:
        files: dict[str, str]
        asked: list[dict] = []  # noqa: RUF012
        folder = tmp_path / 'snapshot'

        def download(self, name, **options):
            self.asked.append({'name': name, 'revision': options['revision']})
            self.folder.mkdir(exist_ok=True)
            patterns = {key: options[key] for key in ('allow_patterns', 'ignore_patterns')}
            for path in filter_repo_objects(self.files, **patterns):
                file = self.folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self.files[path])
            return str(self.folder)

        def here(self):
            return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob('*') if path.is_file())

    hub = Hub()
    hub.asked = []
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', hub.download)
    return hub


def repository(*folders, weights=(WEIGHTS,), **files):
    return {f'{folder}/{name}': '{}' for folder in folders for name in ('config.json', *weights)} | files


def test_local_folders_are_themselves(tmp_path):
    assert resolve(tmp_path) == resolve(str(tmp_path), subfolders=['unet']) == tmp_path
    (tmp_path / 'weights.safetensors').write_bytes(b'')
    for name, words in {
        tmp_path / 'weights.safetensors': 'is a file',
        'some/model.bin': 'weights_only=True',
        './nowhere': 'no such folder',
        '/no/such/place': 'no such folder',
        'nowhere': 'no such folder',
    }.items():
        with pytest.raises(UserError, match=words):
            resolve(name)


def test_only_what_variation_needs_is_fetched(hub):
    junk = ('model.bin', 'diffusion_pytorch_model.non_ema.safetensors', 'diffusion_pytorch_model.fp16.safetensors')
    hub.files = repository('unet', 'vae', 'image_encoder', 'safety_checker', weights=(WEIGHTS, *junk))
    hub.files |= {
        'model_index.json': VARIATION,
        'README.md': '',
        'v1-5-pruned.safetensors': '',
        'v1-5.ckpt': '',
        'scheduler/scheduler_config.json': '{}',
        'feature_extractor/preprocessor_config.json': '{}',
        'feature_extractor/merges.txt': '',
        'feature_extractor/odd.py': '',
    }
    assert resolve('owner/model', revision='abc') == hub.folder
    assert hub.asked == [{'name': 'owner/model', 'revision': 'abc'}] * 2
    assert hub.here() == [
        'feature_extractor/merges.txt',
        'feature_extractor/preprocessor_config.json',
        'image_encoder/config.json',
        f'image_encoder/{WEIGHTS}',
        'model_index.json',
        'scheduler/scheduler_config.json',
        'unet/config.json',
        f'unet/{WEIGHTS}',
        'vae/config.json',
        f'vae/{WEIGHTS}',
    ]


def test_given_subfolders_are_fetched(hub):
    hub.files = repository('unet', 'vae', **{'model_index.json': VARIATION})
    resolve('owner/model', subfolders=['vae'])
    assert hub.here() == ['model_index.json', 'vae/config.json', f'vae/{WEIGHTS}']


def test_all_components_of_an_unknown_pipeline_are_fetched(hub):
    index = '{"_class_name": "Odd", "one": ["diffusers", "A"], "two": [null, null], "../three": ["a", "b"], "four": false}'
    hub.files = repository('one', 'two', '../three', **{'model_index.json': index})
    resolve('owner/model')
    assert hub.here() == ['model_index.json', 'one/config.json', f'one/{WEIGHTS}']


@pytest.mark.parametrize('index', [{}, {'model_index.json': '{"_class_name": "DDPMPipeline", "unet": ["a", "b"]}'}])
def test_models_that_lie_at_the_top(hub, index):
    top = {'config.json': '{}', WEIGHTS: '', 'scheduler_config.json': '{}', 'vocab.txt': '', 'big.safetensors': ''}
    hub.files = top | index | repository('other')
    resolve('owner/model')
    assert hub.here() == sorted({*top, *index} - {'big.safetensors'})


def test_half_precision_is_fetched_where_there_is_nothing_else(hub):
    hub.files = repository('unet', weights=('diffusion_pytorch_model.fp16.safetensors',))
    resolve('owner/model', subfolders=['unet'])
    assert hub.here() == ['unet/config.json', 'unet/diffusion_pytorch_model.fp16.safetensors']


def test_shards_come_with_their_index(hub):
    shards = ('model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json')
    hub.files = repository('unet', weights=shards)
    resolve('owner/model', subfolders=['unet'])
    assert hub.here() == sorted(hub.files)


def test_pickled_models_are_told_how_to_become_safe(hub):
    hub.files = repository('unet', 'vae', weights=('diffusion_pytorch_model.bin',), **{f'vae/{WEIGHTS}': ''})
    with pytest.raises(UserError, match='no safetensors') as error:
        resolve('owner/model', subfolders=['unet', 'vae', 'scheduler'])
    text = str(error.value)
    assert 'hf download owner/model --include "*.json" --include "*.txt" --include "unet/*.bin" ' in text
    assert 'vae/*.bin' not in text
    assert 'weights_only=True' in text
    assert not any(path.endswith('.bin') for path in hub.here())


@pytest.mark.parametrize('index', ['[]', '{"unet": ["a", "b"]}'])
def test_a_broken_index(hub, index):
    hub.files = {'model_index.json': index}
    with pytest.raises(UserError, match=r'model_index\.json: must hold a JSON object with a "_class_name"'):
        resolve('owner/model')


def refusing(monkeypatch, error):
    def snapshot(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)


@pytest.mark.parametrize('error', [LocalEntryNotFoundError('cannot reach'), ConnectionError('no route'), OSError('odd')])
def test_without_an_answer_from_the_hub(monkeypatch, error):
    refusing(monkeypatch, error)
    with pytest.raises(UserError, match=r'owner/model: .*no answer came from the hub.*--local-dir') as error:
        resolve('owner/model', revision='v2')
    text = str(error.value)
    for part in (
        'hf download owner/model --revision v2 ',
        '"unet/*.safetensors"',
        '"image_encoder/*.safetensors"',
        'HF_HUB_OFFLINE',
    ):
        assert part in text
    with pytest.raises(UserError, match='local-dir') as error:
        resolve('owner/model', subfolders=['vae', 'scheduler'])
    text = str(error.value)
    assert '--include "vae/*.safetensors" --exclude' in text
    assert 'unet' not in text
    assert 'scheduler' not in text


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        (RepositoryNotFoundError, 'does not know it.*--local-dir'),
        (GatedRepoError, 'hf auth login'),
        (RevisionNotFoundError, "no revision 'v2'"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, kind, words):
    refusing(monkeypatch, kind.__new__(kind))  # past the constructor, which wants an answer of the client's own HTTP library
    with pytest.raises(UserError, match=words):
        resolve('owner/model', revision='v2')


def test_the_cache_of_the_hub_is_enough(monkeypatch, tmp_path):
    """With the real client, offline: what it has stored before is found."""
    commit = 'f' * 40
    folder = tmp_path / 'models--owner--model' / 'snapshots' / commit
    folder.mkdir(parents=True)
    refs = folder.parents[1] / 'refs'
    refs.mkdir()
    (refs / 'main').write_text(commit)
    (folder / 'config.json').write_text('{}')
    (folder / WEIGHTS).write_bytes(b'')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    assert resolve('owner/model') == Path(os.path.realpath(folder))
    with pytest.raises(UserError, match='no answer came from the hub'):
        resolve('owner/other')
