import io
import math

from report.typed import typed
from rich.console import Console

from purify.report.before_after import Reading, before_after, print_before_after


def test_before_after_pairs_the_sides(results):
    acc, asr, ra = before_after(typed(results))
    assert (acc.name, asr.name, ra.name) == ('acc', 'asr', 'ra')
    assert asr.before == Reading(1.0, 324, 324, 0.99, 1)
    assert asr.after is not None
    assert (asr.after.hits, asr.after.total) == (3, 324)
    assert math.isclose(asr.after.value, 3 / 324)
    results['student'] = None
    assert [row.after for row in before_after(typed(results))] == [None] * 3


def test_plain_lines_where_there_is_no_terminal(results):
    out = io.StringIO()
    results['student']['asr'] = None
    print_before_after(typed(results), Console(file=out, force_terminal=False, width=20))
    assert out.getvalue().isascii()
    assert [' '.join(line.split()) for line in out.getvalue().splitlines()] == [
        'before counts 95 % interval after counts 95 % interval',
        'ACC 98.9 % 356 of 360 97.9 to 99.9 % 97.5 % 351 of 360 96.5 to 98.5 %',
        'ASR 100 % 324 of 324 99.0 to 100 % - - -',
        'RA 0 % 0 of 324 0 to 1.0 % 95.4 % 309 of 324 94.4 to 96.4 %',
    ]


def test_a_name_is_no_markup(results):
    out = io.StringIO()
    results['name'] = '[red]run[/red]'
    print_before_after(
        typed(results), Console(file=out, force_terminal=True, width=100, color_system=None)
    )
    assert '[red]run[/red]' in out.getvalue()
    assert '324 of 324' in out.getvalue()
