import os
import signal

import pytest

from purify.core import preemption
from purify.core.errors import Preempted


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_work_goes_on(number, capfd):
    with preemption.watched():
        preemption.check()
        os.kill(os.getpid(), number)
        assert preemption.asked()
        with pytest.raises(Preempted):
            preemption.check()
    assert f'purify: {number.name}: saving at the next step, then leaving' in capfd.readouterr().err


def test_a_second_interrupt_means_now():
    with preemption.watched():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_changes_nothing():
    with preemption.watched():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.asked()


def test_handlers_are_put_back_and_a_new_watch_starts_fresh():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with preemption.watched():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        os.kill(os.getpid(), signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with preemption.watched():
        assert not preemption.asked()


def test_no_handler_for_exceptions_swallows_a_stop():
    assert not issubclass(Preempted, Exception)
