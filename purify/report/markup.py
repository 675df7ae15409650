"""The parts of a page, and the templates that they are filled into."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from purify.report.words import MISSING


@dataclass(frozen=True)
class Section:
    """A part of the page: the anchor that links point to, its heading, and its body as HTML."""

    anchor: str
    title: str
    body: Markup


@dataclass(frozen=True)
class MarkupTable:
    """A table: column names, lines of a name and cells, a note; `left_out` lines are not shown."""

    head: list[str]
    lines: Sequence[tuple[Any, ...]]
    note: str = ''
    left_out: int = 0


def fill(anchor: str, title: str, **values: Any) -> Section:
    """Makes a section whose body is `templates/sections/<anchor>.html` with the values."""
    return Section(anchor, title, render(f'sections/{anchor}.html', **values))


def render(template: str, **values: Any) -> Markup:
    """Fills a template of `templates/` with values, which are escaped."""
    return Markup(_make_environment().get_template(template).render(values))


def encode(text: str) -> bytes:
    """Encodes as UTF-8; lone surrogates, as in names that are no text, become question marks."""
    return text.encode('utf-8', 'replace')


@functools.cache  # compiling the templates takes longer than filling them
def _make_environment() -> Environment:
    """Templates that escape whatever they are given: class names come from folders of strangers."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / 'templates'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['units'] = _bind_units
    environment.globals['missing'] = MISSING
    return environment


def _bind_units(text: str) -> Markup:
    """Keeps '99.0 %' on one line."""
    return Markup(str(escape(text)).replace(' %', '\N{NO-BREAK SPACE}%'))
