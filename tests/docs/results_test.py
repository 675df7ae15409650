"""Every study under docs/results: a page, raw files, a script that makes the tables from them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'
STUDIES = sorted(path for path in RESULTS.glob('*/') if path.name != '__pycache__')
LARGEST_RAW_FILE = 1_000_000
ALLOWED = {*sys.stdlib_module_names, 'numpy', 'tables', 'purify'}


def name(path):
    return path.name


def blocks(markdown):
    """Its headings, paragraphs and tables: what blank lines part."""
    return re.split(r'\n{2,}', markdown.strip())


def print_tables(study):
    """The blocks that a study's script prints."""
    done = subprocess.run(
        [sys.executable, str(study / 'table.py')], cwd=study, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return blocks(done.stdout)


def imported_modules(source):
    """What a script imports; of the package `purify` by its full name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add('.' * node.level + (node.module or ''))
    whole = ('purify', '.')
    return {one if one.startswith(whole) else one.partition('.')[0] for one in found}


def test_there_are_studies_and_the_overview_links_each():
    assert len(STUDIES) >= 10
    overview = (RESULTS / 'index.md').read_text(encoding='utf-8')
    linked = set(re.findall(r'\]\(([\w-]+)/index\.md\)', overview))
    assert linked == {study.name for study in STUDIES}


@pytest.mark.parametrize('study', STUDIES, ids=name)
def test_a_study_has_a_page_a_script_and_small_raw_files(study):
    assert (study / 'index.md').is_file()
    assert (study / 'table.py').is_file()
    raw = [path for path in (study / 'raw').rglob('*') if path.is_file()]
    assert raw
    large = [path for path in raw if path.stat().st_size >= LARGEST_RAW_FILE]
    assert not large
    # The site would make pages of them, and they are not scripts that measure.
    assert not [path for path in raw if path.suffix in ('.md', '.py', '.sh')]


@pytest.mark.parametrize('study', STUDIES, ids=name)
def test_the_tables_of_a_page_are_those_that_its_script_prints(study):
    printed = print_tables(study)
    tables = [block for block in printed if block.startswith('|')]
    assert tables
    assert all(len(table.splitlines()) > 2 for table in tables), 'a table without rows'
    assert all(block.startswith(('|', '#')) for block in printed)
    page = blocks((study / 'index.md').read_text(encoding='utf-8'))
    missing = [block for block in printed if block not in page]
    assert not missing, f'{study.name}/index.md lacks what table.py prints:\n' + '\n\n'.join(
        missing
    )


@pytest.mark.parametrize(
    'script', sorted(RESULTS.rglob('*.py')), ids=lambda path: str(path.relative_to(RESULTS))
)
def test_scripts_need_the_standard_library_and_numpy_alone(script):
    assert imported_modules(script.read_text(encoding='utf-8')) <= ALLOWED


def test_imports_of_other_packages_are_found():
    source = 'import jax.numpy\nfrom purify.core import files\nfrom . import x\nimport numpy'
    assert imported_modules(source) - ALLOWED == {'jax', 'purify.core', '.'}


@pytest.mark.parametrize('page', sorted(RESULTS.rglob('*.md')), ids=lambda path: path.parent.name)
def test_links_lead_to_files(page):
    text = re.sub(r'```.*?```|`[^`\n]*`', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if not target.startswith(('http://', 'https://', '#')):
            assert (page.parent / target.partition('#')[0]).is_file(), target
