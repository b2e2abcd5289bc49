"""Signals that ask a run to stop."""

from __future__ import annotations

import atexit
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

ECHO_SECONDS = 5.0
"""A signal repeated within this time counts once: a scheduler sends it to all processes of a job,
and torchrun, for example, passes it on to those it started. Ctrl-C has no such echo."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it ends a command as Ctrl-C does."""

    status = 128 + signal.SIGTERM


@contextlib.contextmanager
def stop_signals(preempt_signal: str, ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` on SIGTERM, Ctrl-C and `preempt_signal`; a second signal has its usual effect.

    An echo may also arrive after the context, while the process ends: it has no effect, either. Nor
    has a SIGTERM just after a `ProcessLost`.
    preempt_signal: a name, such as "SIGUSR1". Only the main thread of a process may use this.
    """
    numbers = {signal.SIGTERM, signal.SIGINT, signal.Signals[preempt_signal]}
    before = {number: signal.getsignal(number) for number in numbers}
    asked_at: dict[int, float] = {}

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before[number])
        if number not in asked_at:
            asked_at[number] = time.monotonic()
            ask()
        elif time.monotonic() - asked_at[number] > ECHO_SECONDS:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    except ConnectionError:  # `ProcessLost`: torchrun ends the others, which first are to say why
        asked_at.setdefault(signal.SIGTERM, time.monotonic())
        raise
    finally:
        for number, handler in before.items():
            if number == signal.SIGINT or number not in asked_at:
                signal.signal(number, handler)
            else:  # Python restores the default, which kills, before it has ended
                atexit.register(signal.signal, number, signal.SIG_IGN)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Make a first SIGTERM raise `Terminated`, so that files are closed and cleaned up; a second
    one ends the process. Only the main thread of a process may use this."""

    def once(number: int, frame: Any) -> None:
        signal.signal(number, before)
        raise Terminated

    before = signal.signal(signal.SIGTERM, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
