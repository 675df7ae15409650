"""A section of the report in a file of its own."""

from markupsafe import Markup

from purify.report.markup import Section


def section(run):
    """How many classes there are."""
    return Section(
        'classes',
        'Classes',
        Markup('<p>There are {} classes.</p>').format(len(run.results.classes)),
    )
