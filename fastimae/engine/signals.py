"""Signals that ask a run to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def stop_signals(preempt_signal: str, ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` on SIGTERM, Ctrl-C and `preempt_signal`; a second signal has its usual effect.

    preempt_signal: a name, as "SIGUSR1". Only the main thread of a process may enter.
    """
    numbers = {signal.SIGTERM, signal.SIGINT, signal.Signals[preempt_signal]}
    before = {number: signal.getsignal(number) for number in numbers}

    def once(number: int, frame: Any) -> None:
        signal.signal(number, before[number])
        ask()

    for number in before:
        signal.signal(number, once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
