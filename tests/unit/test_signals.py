"""labctl.base.signals: what may not be cut short is not, and who interrupted it is heard afterwards."""

import os
import signal

import pytest

from labctl.base.signals import deferred


def test_what_is_inside_finishes_and_then_the_signal_counts() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("all")
    assert done == ["all"]


def test_what_goes_wrong_inside_is_said_first() -> None:
    with pytest.raises(ValueError, match="wrong"), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("wrong")


def test_handlers_are_as_before_and_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with deferred():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGHUP, before)
