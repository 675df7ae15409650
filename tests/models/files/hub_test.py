# ruff: noqa: E501  (programs and files as text)
import ast
import os
import re
import subprocess
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

from purify.core.errors import UserError
from purify.models.files.hub import resolve

WEIGHTS = 'diffusion_pytorch_model.safetensors'
VARIATION = """{"_class_name": "StableDiffusionImageVariationPipeline", "_diffusers_version": "0.11.0",
"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "unet": ["diffusers", "UNet2DConditionModel"]}"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one repository {path: text}, which downloads into one folder by the real client's
    rule for patterns.
    """

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
            return sorted(
                str(path.relative_to(self.folder))
                for path in self.folder.rglob('*')
                if path.is_file()
            )

    hub = Hub()
    hub.asked = []
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', hub.download)
    return hub


def repository(*folders, weights=(WEIGHTS,), **files):
    return {
        f'{folder}/{name}': '{}' for folder in folders for name in ('config.json', *weights)
    } | files


def test_local_folders_are_themselves(tmp_path):
    assert resolve(tmp_path) == resolve(str(tmp_path), subfolders=['unet']) == tmp_path
    (tmp_path / 'weights.safetensors').write_bytes(b'')
    for name, words in {
        tmp_path / 'weights.safetensors': 'is a file',
        'some/model.bin': 'weights_only=True',
        'some/model.ckpt': 'Then rename model.safetensors to diffusion_pytorch_model.safetensors.'
        ' Then give the folder',
        '~no-user/x': r'~no-user/x.: not a usable path \(Could not determine home directory',
        'x' * 300: 'x.: not a usable path .File name too long',
        './nowhere': 'no such folder',
        '/no/such/place': 'no such folder',
        'nowhere': 'no such folder',
    }.items():
        with pytest.raises(UserError, match=words):
            resolve(name)


def test_a_pickled_file_with_safetensors_beside_it_leads_to_its_folder(tmp_path):
    for name in (WEIGHTS, 'diffusion_pytorch_model.bin'):
        (tmp_path / name).write_bytes(b'')
    said = rf'model\.bin: pickled .*not opened\. For the safetensors beside it give {tmp_path}\.'
    with pytest.raises(UserError, match=said) as error:
        resolve(tmp_path / 'diffusion_pytorch_model.bin')
    assert 'holds no safetensors' not in str(error.value)


@pytest.mark.parametrize(
    ('part', 'name'),
    [('scheduler', 'scheduler_config.json'), ('feature_extractor', 'preprocessor_config.json')],
)
def test_settings_in_two_places_that_differ_are_refused(tmp_path, part, name):
    (tmp_path / part).mkdir()
    (tmp_path / part / name).write_text('{"beta_end": 0.02, "steps": 10}')
    (tmp_path / name).write_text('{"steps": 10,   "beta_end": 0.02}')
    assert resolve(tmp_path) == tmp_path  # the same, written in another way
    (tmp_path / name).write_text('{"beta_end": 0.5, "steps": 10}')
    said = rf'{part}/{name}: is read, but {tmp_path}/{name} has other settings\. Delete'
    with pytest.raises(UserError, match=said):
        resolve(tmp_path)


def test_only_what_variation_needs_is_fetched(hub):
    copies = [f'diffusion_pytorch_model.{kind}.safetensors' for kind in ('non_ema', 'fp16', 'bf16')]
    junk = ('model.bin', *copies)
    hub.files = repository(
        'unet', 'vae', 'image_encoder', 'safety_checker', weights=(WEIGHTS, *junk)
    )
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
    index = (
        '{"_class_name": "Odd", "one": ["diffusers", "A"], "two": [null, null], "../three": ["a",'
        ' "b"], "four": false}'
    )
    hub.files = repository('one', 'two', '../three', **{'model_index.json': index})
    resolve('owner/model')
    assert hub.here() == ['model_index.json', 'one/config.json', f'one/{WEIGHTS}']


@pytest.mark.parametrize(
    'index', [{}, {'model_index.json': '{"_class_name": "DDPMPipeline", "unet": ["a", "b"]}'}]
)
def test_models_that_lie_at_the_top(hub, index):
    top = {'config.json': '{}', WEIGHTS: '', 'scheduler_config.json': '{}', 'big.safetensors': ''}
    hub.files = top | index | repository('other')
    resolve('owner/model')
    assert hub.here() == sorted({*top, *index} - {'big.safetensors'})


def test_half_precision_is_fetched_where_there_is_nothing_else(hub):
    hub.files = repository('unet', weights=('diffusion_pytorch_model.fp16.safetensors',))
    resolve('owner/model', subfolders=['unet'])
    assert hub.here() == ['unet/config.json', 'unet/diffusion_pytorch_model.fp16.safetensors']


def test_shards_come_with_their_index(hub):
    shards = (
        'model-00001-of-00002.safetensors',
        'model-00002-of-00002.safetensors',
        'model.safetensors.index.json',
    )
    hub.files = repository('unet', weights=shards)
    resolve('owner/model', subfolders=['unet'])
    assert hub.here() == sorted(hub.files)


def by_hand(hub, error):
    """What the command in a message would download of `hub`."""
    line = next(line for line in str(error.value).splitlines() if line.startswith('python -c '))
    shell = ['bash', '-c', f'python() {{ printf %s "$2"; }}; {line}']
    call = (
        ast.parse(subprocess.run(shell, capture_output=True, text=True, check=True).stdout)
        .body[1]
        .value
    )
    assert ast.unparse(call.func) == 'snapshot_download'
    options = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert ast.literal_eval(call.args[0]) == 'owner/model'
    assert options.pop('local_dir') == 'FOLDER'
    hub.revision = options.pop('revision', None)
    return sorted(filter_repo_objects(hub.files, **options))


def test_pickled_shards_at_the_top_come_with_their_index(hub):
    shards = {
        f'pytorch_model{ending}': '{}'
        for ending in ('-00001-of-00002.bin', '-00002-of-00002.bin', '.bin.index.json')
    }
    hub.files = shards | {'config.json': '{}', 'flax_model.msgpack': ''}
    with pytest.raises(UserError, match='no safetensors') as error:
        resolve('owner/model')
    assert by_hand(hub, error) == sorted([*shards, 'config.json'])


def test_pickled_models_are_told_how_to_become_safe(hub):
    hub.files = repository(
        'unet', 'vae', weights=('diffusion_pytorch_model.bin',), **{f'vae/{WEIGHTS}': ''}
    )
    with pytest.raises(UserError, match='no safetensors') as error:
        resolve('owner/model', subfolders=['unet', 'vae', 'scheduler'])
    assert by_hand(hub, error) == sorted(set(hub.files) - {'vae/diffusion_pytorch_model.bin'})
    assert 'vae/*.bin' not in str(error.value)
    assert 'weights_only=True' in str(error.value)
    assert not any(path.endswith('.bin') for path in hub.here())


@pytest.mark.parametrize(
    ('index', 'told'),
    [
        ('[]', 'a JSON object of settings, not a list'),
        ('{"unet": ["a", "b"]}', 'a "_class_name" in text, not None'),
        ('{"_class_name": ["a"]}', r'a "_class_name" in text, not \[\'a\'\]'),
    ],
)
def test_a_broken_index(hub, index, told):
    hub.files = {'model_index.json': index}
    with pytest.raises(UserError, match=rf'model_index\.json: must hold {told}'):
        resolve('owner/model')


def crowded():
    """A repository with gigabytes that are not needed."""
    copies = [WEIGHTS, 'diffusion_pytorch_model.fp16.safetensors']
    copies += ['diffusion_pytorch_model.non_ema.safetensors', 'model.bin']
    return repository(
        'unet', 'vae', 'text_encoder', 'text_unet', 'safety_checker', weights=copies
    ) | {
        'model_index.json': VARIATION.replace('ImageVariation', ''),
        'model.ckpt': '',
        'v1-5-pruned.safetensors': '',
        'tokenizer/merges.txt': '',
        'safety_checker/model.safetensors': '',
    }


def test_the_command_downloads_what_we_would(hub, monkeypatch):
    hub.files = crowded()
    resolve('owner/model')
    first = hub.download

    def second_fails(name, **options):
        if 'unet/*.json' in options['allow_patterns']:
            raise ConnectionError('gone')
        return first(name, **options)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', second_fails)
    with pytest.raises(UserError, match='gone') as error:
        resolve('owner/model')
    assert by_hand(hub, error) == hub.here()
    assert 'tokenizer/merges.txt' in hub.here()
    assert not re.search('fp16|text_unet|checker|pruned', str(hub.here()))


def test_the_command_survives_the_shell(monkeypatch):
    refusing(monkeypatch, ConnectionError('gone'))
    hub = type('Files', (), {'files': {}, 'revision': None})()
    with pytest.raises(UserError) as error:
        resolve('owner/model', revision='"$HOME`x')
    by_hand(hub, error)
    assert hub.revision == '"$HOME`x'


def refusing(monkeypatch, error):
    def snapshot(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)


@pytest.mark.parametrize(
    'error', [LocalEntryNotFoundError('cannot reach'), ConnectionError('no route'), OSError('odd')]
)
def test_without_an_answer_from_the_hub(monkeypatch, error):
    refusing(monkeypatch, error)
    hub = type('Files', (), {'files': crowded(), 'revision': None})()
    said = r'owner/model: .*no answer came from the hub.*HF_HUB_OFFLINE'
    with pytest.raises(UserError, match=said) as error:
        resolve('owner/model', revision='v2')
    needed = {f'{part}/config.json' for part in ('unet', 'vae', 'text_encoder')} | {
        'model_index.json',
        'tokenizer/merges.txt',
    }
    needed |= {f'{part}/{WEIGHTS}' for part in ('unet', 'vae', 'text_encoder')}
    assert by_hand(hub, error) == sorted(needed)
    assert hub.revision == 'v2'
    with pytest.raises(UserError) as error:
        resolve('owner/model', subfolders=['vae', 'scheduler'])
    assert by_hand(hub, error) == ['model_index.json', 'vae/config.json', f'vae/{WEIGHTS}']


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        (RepositoryNotFoundError, 'does not know it(.|\n)*local_dir'),
        (GatedRepoError, 'hf auth login'),
        (RevisionNotFoundError, "no revision 'v2'"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, kind, words):
    # past the constructor, which wants an answer of the client's own HTTP library
    refusing(monkeypatch, kind.__new__(kind))
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
