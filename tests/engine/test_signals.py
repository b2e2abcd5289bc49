"""The effect of a first signal, a second one, and one that is passed on."""

import os
import signal

import pytest

from fastimae.engine import signals
from fastimae.engine.distributed import ProcessLost
from fastimae.engine.signals import Terminated, sigterm_as_ctrl_c, stop_signals


class Usual(Exception):
    """The usual effect of a signal in these tests."""


@pytest.fixture
def clock(monkeypatch):
    """Return a list that holds the time in seconds."""
    now = [0.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(params=["SIGTERM", "SIGUSR1", "SIGINT"])
def number(request):
    number = signal.Signals[request.param]
    before = signal.signal(number, lambda *_: (_ for _ in ()).throw(Usual))
    yield number
    signal.signal(number, before)


def test_a_signal_that_is_passed_on_is_not_a_second_one(number, clock):
    """A scheduler signals all processes of a job, and torchrun passes on what it receives."""
    asked = []
    with stop_signals("SIGUSR1", lambda: asked.append(1)):
        os.kill(os.getpid(), number)
        clock[0] = 1.0
        if number == signal.SIGINT:  # never passed on
            with pytest.raises(Usual):
                os.kill(os.getpid(), number)
        else:
            os.kill(os.getpid(), number)
    assert asked == [1]


def test_a_second_signal_has_its_usual_effect(number, clock):
    asked = []
    with stop_signals("SIGUSR1", lambda: asked.append(1)):
        os.kill(os.getpid(), number)
        clock[0] = 60.0
        with pytest.raises(Usual):
            os.kill(os.getpid(), number)
    with pytest.raises(Usual):
        os.kill(os.getpid(), number)
    assert asked == [1]


@pytest.mark.parametrize("number", ["SIGTERM"], indirect=True)
def test_a_lost_process_is_reported_before_torchrun_ends_the_others(number, clock):
    with pytest.raises(ProcessLost), stop_signals("SIGUSR1", lambda: None):
        raise ProcessLost
    os.kill(os.getpid(), number)
    clock[0] = 60.0
    with pytest.raises(Usual):
        os.kill(os.getpid(), number)


def test_an_echo_while_the_process_ends_is_not_a_second_one(number, clock):
    asked = []
    with stop_signals("SIGUSR1", lambda: asked.append(1)):
        os.kill(os.getpid(), number)
    clock[0] = 1.0
    if number != signal.SIGINT:
        os.kill(os.getpid(), number)
    clock[0] = 60.0
    with pytest.raises(Usual):
        os.kill(os.getpid(), number)
    assert asked == [1]


def test_sigterm_unwinds_a_command_once():
    before, cleared = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(Terminated), sigterm_as_ctrl_c():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleared.append(signal.getsignal(signal.SIGTERM))
    assert cleared == [before] and signal.getsignal(signal.SIGTERM) == before
