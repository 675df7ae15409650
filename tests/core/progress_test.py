import io

import pytest
from rich.console import Console

from purify.core import progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, 'monotonic', lambda: Clock.now)
    return Clock


def test_plain_lines_at_an_interval_with_rate_and_time_left(capfd, clock):
    with progress.Bar('teacher', total=2_000) as bar:
        clock.now += 5
        bar.advance(500, 'loss 0.500')
        assert capfd.readouterr().err == ''
        clock.now += 5
        bar.advance(500, 'loss 0.250')
        found = capfd.readouterr().err
        assert found == 'teacher: 1,000/2,000 images, 100 images/s  loss 0.250, 10 s left\n'
        clock.now += 1
        bar.advance(500)
        assert capfd.readouterr().err == ''


def test_what_an_earlier_run_finished_counts_but_not_in_the_rate(capfd, clock):
    with progress.Bar('purified', total=1_000) as bar:
        bar.skip(900)
        clock.now += 10
        bar.advance(50)
    assert capfd.readouterr().err == 'purified: 950/1,000 images, 5 images/s, 10 s left\n'


def test_hidden_bars_say_nothing(capfd, clock):
    with progress.Bar('teacher', total=10, shown=False) as bar:
        clock.now += 60
        bar.advance(5)
    progress.say('hello', shown=False)
    captured = capfd.readouterr()
    assert captured.err + captured.out == ''


def test_a_terminal_gets_a_bar_with_rate_and_share(clock):
    bar = progress.Bar('teacher', total=100)
    bar.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with bar:
        clock.now += 2
        bar.skip(10)
        bar.advance(40, 'loss 0.1')
    shown = bar.console.file.getvalue()
    assert 'teacher' in shown
    assert '50 %' in shown
    assert '20 images/s  loss 0.1' in shown


def test_say_goes_to_stderr(capfd):
    progress.say('teacher: done')
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ('', 'teacher: done\n')
