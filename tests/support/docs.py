"""The pages of documentation as tests see them: code blocks, links, anchors."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / 'docs'
PAGES = (ROOT / 'README.md', *sorted(path for path in DOCS.rglob('*.md')))
STUDIES = DOCS / 'results'
# A fenced block, and the mark that may stand on the line before it.
BLOCK = re.compile(r'^(?:<!-- (run|prints) -->\n)?```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block: its mark ('run', 'prints' or ''), its language, its text."""

    mark: str
    language: str
    text: str


def name(page: Path) -> str:
    """The page's path below the root."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in their order."""
    found = BLOCK.findall(page.read_text(encoding='utf-8'))
    return [Block(*groups) for groups in found]


def prose(page: Path) -> str:
    """The text of a page without code."""
    text = re.sub(r'^```.*?^```$', '', page.read_text(encoding='utf-8'), flags=re.M | re.S)
    return re.sub(r'<!--.*?-->', '', text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What its headings are called in links, as GitHub and MkDocs both name them."""
    titles = re.findall(r'^#+ +(.*)$', prose(page), re.MULTILINE)
    plain = [re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', title).lower() for title in titles]
    return {re.sub(r'[-\s]+', '-', re.sub(r'[^\w\s-]', '', title).strip()) for title in plain}


def links(page: Path) -> list[str]:
    """The targets of its links and pictures."""
    return re.findall(r'\]\(([^)\s]+)\)', re.sub(r'`[^`\n]*`', '', prose(page)))
