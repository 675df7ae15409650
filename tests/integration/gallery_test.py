import json

import pytest

from purify.cli import main
from purify.data.sources.open_source import open_source

CONFIG = 'configs/attacks.py'


@pytest.fixture
def gallery(tmp_path, monkeypatch, request):
    """Runs `gallery` in this process -> exit code and the page's text."""
    monkeypatch.chdir(request.config.rootpath)

    def run(words, *flags):
        code = main(
            ['gallery', '--config', f'{CONFIG}:{words}', '--workdir', str(tmp_path), *flags]
        )
        page = tmp_path / 'gallery' / 'index.html'
        return code, page.read_text() if page.exists() else ''

    return run


@pytest.mark.parametrize(('attack', 'modes'), [('sinusoid', 1), ('adaptive_blend', 2)])
def test_the_gallery_shows_an_attack(gallery, tmp_path, capfd, attack, modes):
    code, text = gallery(f'attack={attack}')
    assert code == 0
    assert f'gallery: {tmp_path}/gallery/index.html' in capfd.readouterr().err
    assert attack in text
    assert text.count('data:image/png;base64,') == 8 * (1 + 2 * modes)
    assert json.loads((tmp_path / 'gallery' / 'gallery.json').read_text())


def test_every_trigger_of_several_is_shown(gallery):
    code, text = gallery('attack=three_patches')
    assert code == 0
    assert all(f'dataelixir_patch {number}' in text for number in (1, 2, 3))


def test_without_an_attack_in_the_words_the_sweep_is_shown(gallery, monkeypatch):
    opened = []
    monkeypatch.setattr(
        'purify.commands.gallery.open_source',
        lambda **part: opened.append(part) or open_source(**part),
    )
    code, text = gallery('rate=0.05', '--sweep', 'patch')
    assert code == 0
    assert len(opened) == 1, 'one source for all'
    assert all(
        name in text
        for name in (
            'white_patch',
            'dataelixir_patch 3',
            'badnets1',
            'badnets2',
            'grid_patch',
            'dbd_patch',
        )
    )


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        ('attack=none', 'no attack of this config changes a pixel'),
        ('attack=pach', 'choose from adaptive_blend'),
        ('atack=patch', 'Did you mean'),
    ],
)
def test_a_gallery_of_nothing_is_refused(gallery, capfd, words, told):
    assert gallery(words)[0] == 2
    assert told in capfd.readouterr().err
