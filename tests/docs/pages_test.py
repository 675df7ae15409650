"""README and docs: links lead somewhere, numbers have a source, examples run."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.command import ROOT
from support.docs import DOCS, PAGES, STUDIES, anchors, blocks, links, name, prose

from purify.attacks.settings import attack_class, attack_words
from purify.commands.explain import explain
from purify.config.load import load_config, packaged_configs
from purify.defenses.registry import DEFENSES

OWN = [page for page in PAGES if STUDIES not in page.parents]
NEEDS_NO_EXAMPLE = {'docs/results/index.md'}
# Of a measurement: a share in per cent, or a time of a run.
MEASURED = re.compile(r'(?<![\w.,])\d*\.\d+ %|\b(?:ACC|ASR|RA|TPR|FPR) (?:is |of )?\d')


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        if link.startswith(('http://', 'https://', 'mailto:')):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f'{link}: no such file'
        if anchor:
            assert anchor in anchors(target), f'{link}: no such heading'


def test_the_readme_is_short_and_every_page_is_in_the_menu():
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 150
    menu = (ROOT / 'mkdocs.yml').read_text(encoding='utf-8')
    listed = set(re.findall(r'^ +- .*: ([\w/-]+\.md)$', menu, re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents}


@pytest.mark.parametrize('page', OWN, ids=name)
def test_numbers_that_were_measured_have_a_link(page):
    """Every paragraph, list item and row of a table with a measured number links to its study."""
    for part in re.split(r'\n\n|\n(?=[-|*\d])', prose(page)):
        if MEASURED.search(part):
            assert 'results/' in part or page.parent.name == 'results', part


def test_pictures_are_small_and_the_script_draws_all_of_them():
    pictures = sorted(path.name for path in (DOCS / 'pictures').glob('*.png'))
    assert all((DOCS / 'pictures' / file).stat().st_size <= 200_000 for file in pictures)
    script = (DOCS / 'pictures' / 'draw.py').read_text(encoding='utf-8')
    assert pictures == sorted(re.findall(r"'(\w+\.png)'", script))
    shown = {link.rpartition('/')[2] for page in PAGES for link in links(page)}
    assert set(pictures) <= shown


def test_names_on_the_pages_are_those_of_the_program():
    everything = '\n'.join(page.read_text(encoding='utf-8') for page in OWN)
    for config in re.findall(r'--config (\w+)', everything):
        assert config in (*packaged_configs(), 'NAME', 'own', 'stripe'), config
    listed = (DOCS / 'attacks.md').read_text(encoding='utf-8')
    assert all(f'`{word}`' in listed for word in attack_words())
    chosen = (DOCS / 'choosing.md').read_text(encoding='utf-8')
    assert all(f'`{defense}`' in chosen for defense in DEFENSES if defense != 'none')
    triggers = set(attack_words()) - {'none', 'relabel_only'}
    # The drawn and the fitted smooth field are two attacks of one class.
    kinds = {attack_class(word) for word in triggers}
    counted = f'{len(kinds) + 1} ({len(triggers)} variants) / {len(set(DEFENSES) - {"none"})}'
    assert f'| {counted} |' in (ROOT / 'README.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('page', OWN, ids=name)
def test_settings_on_the_pages_exist(page):
    """Flags on the lines of a named config are settings of it."""
    for block in blocks(page):
        for line in block.text.replace('\\\n', ' ').splitlines():
            named = re.search(r'--config ((?!NAME|own|stripe)[\w]+(?::[^\s$]*)?)', line)
            if named and '$' not in line and 'DIR' not in line and 'launch/' not in line:
                known = {setting.name for setting in explain(load_config(named[1]))}
                for flag in re.findall(r'--config\.([\w.]+)=', line):
                    assert flag in known, f'{named[1]}: {flag}'


@pytest.mark.parametrize('page', OWN, ids=name)
def test_a_page_has_an_example_that_is_run(page):
    assert name(page) in NEEDS_NO_EXAMPLE or any(block.mark == 'run' for block in blocks(page))


@pytest.fixture
def shell(tmp_path):
    """Runs a block of code as a reader would, beside a folder of pictures; returns its output."""
    rng = np.random.default_rng(0)
    for kind in ('robin', 'wren', 'finch'):
        (tmp_path / 'birds' / kind).mkdir(parents=True)
        for number in range(90):
            picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
            picture.save(tmp_path / 'birds' / kind / f'{number}.png')
    program = tmp_path / 'bin' / 'purify'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m purify "$@"\n')
    program.chmod(0o755)
    path = f'{program.parent}:{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
    known = os.environ | {'PATH': path, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    known['XLA_FLAGS'] = ''  # the eight devices are the tests', not the reader's

    def run(block):
        line = {'bash': ['bash', '-euo', 'pipefail', '-c'], 'python': [sys.executable, '-c']}
        done = subprocess.run(
            [*line[block.language], block.text],
            cwd=tmp_path,
            env=known,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f'{block.text}\n{done.stdout}{done.stderr}'
        return done.stdout

    return run


@pytest.mark.long
@pytest.mark.parametrize('page', OWN, ids=name)
def test_examples_run_and_print_what_the_page_says(page, shell):
    printed = ''
    for block in blocks(page):
        if block.mark == 'run':
            printed = shell(block)
            assert block.language == 'python' or printed or '-q' in block.text
        elif block.mark == 'prints':
            wanted = [line.strip() for line in block.text.splitlines() if line.strip() != '...']
            assert set(wanted) <= {line.strip() for line in printed.splitlines()}, printed
