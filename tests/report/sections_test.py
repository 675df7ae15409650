"""The sections of a page: one more is a function and a line in the registry."""

import re

import pytest
from markupsafe import Markup, escape
from report.typed import typed

from purify.report.markup import Section
from purify.report.page import write_report
from purify.report.run import Finished
from purify.report.sections.registry import SECTIONS


def count_classes(run):
    """A section from outside the package."""
    classes = run.results.classes
    return (
        Section(
            'mine',
            'Classes',
            Markup('<p>{} classes, the first {}</p>').format(len(classes), classes[0]),
        )
        if classes
        else None
    )


@pytest.fixture
def write(tmp_path, results, curves, samples, environment):
    def write():
        return write_report(
            tmp_path, Finished(typed(results), curves, samples, environment)
        ).read_text('utf-8')

    return write


def test_a_section_from_outside_is_on_the_page(write, results, monkeypatch):
    before = write()
    monkeypatch.setitem(SECTIONS, 'mine', count_classes)
    results['classes'] = ['<zero>', 'one', 'two']
    page = write()
    assert re.findall(r'<h2 id="(\w+)"', page) == [*re.findall(r'<h2 id="(\w+)"', before), 'mine']
    own = page.partition('<section aria-labelledby="mine">')[2].partition('</section>')[0]
    found = ' '.join(own.split())
    assert found == f'<h2 id="mine">Classes</h2> <p>3 classes, the first {escape("<zero>")}</p>'
    results['classes'] = []
    assert 'id="mine"' not in write()


def test_a_run_of_everything_shows_every_section_in_their_order(
    tmp_path,
    found,
    relabelled,
    dissected,
    curves,
    samples,
    environment,
    pictures,
    atlas,
    shown,
    copies,
):
    run = Finished(
        typed(found | relabelled | dissected),
        curves,
        samples,
        environment,
        pictures,
        atlas,
        shown,
        copies,
    )
    page = write_report(tmp_path, run).read_text('utf-8')
    assert re.findall(r'<h2 id="(\w+)"', page) == list(SECTIONS)
