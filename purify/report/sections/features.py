"""Features: a map of them, and what the densities of classes say of every image."""

from purify.core.types import Settings
from purify.report.densities import draw_foreign, draw_scores
from purify.report.density_tests import list_tests
from purify.report.feature_map import draw_map, say_map
from purify.report.headline import list_targets
from purify.report.markup import Section, fill
from purify.report.run import Finished


def section(run: Finished) -> Section | None:
    """Shows the map, the tests of each class, and figures of the classes looked at closely."""
    results, mapped = run.results, run.feature_map
    facts, classes = results.facts, results.classes
    parts: Settings = {
        'map': draw_map(mapped, classes, 'map'),
        'tests': list_tests(facts, list_targets(results) if results.truth_known else None, classes),
        'foreign': draw_foreign(mapped, facts, classes, 'foreign'),
        'scores': draw_scores(mapped, facts, classes, 'scores'),
    }
    if not any(parts.values()):
        return None
    parts |= {'known': results.truth_known, 'map_note': say_map(mapped, classes) if mapped else ''}
    return fill('features', 'Features', **parts)
