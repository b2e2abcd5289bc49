"""The parallel map over work that may crash or hang."""

import os
import signal
import time

import pytest

from fastimae.loaders.workers import safe_map as safe_map_module
from fastimae.loaders.workers.safe_map import safe_map


def square_or_die(number):
    if number in (5, 17):
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_crashes_cost_only_the_items_that_crash():
    results = list(safe_map(square_or_die, range(30), workers=2, chunk=4, crashed=None))
    assert results == [None if n in (5, 17) else n * n for n in range(30)]


def square_or_hang(number):
    if number == 5:
        signal.alarm(1)  # instead of two minutes
        time.sleep(60)
    return number * number


def test_hanging_items_are_abandoned():
    results = list(safe_map(square_or_hang, range(9), workers=2, chunk=3, crashed=None))
    assert results == [None if n == 5 else n * n for n in range(9)]


def test_patience_is_set_for_each_item():
    assert (
        list(safe_map(time_left, range(3), workers=1, chunk=3, crashed=None))
        == [pytest.approx(safe_map_module.PATIENCE_SECONDS, abs=2)] * 3
    )


def time_left(_):
    time.sleep(0.01)
    return signal.getitimer(signal.ITIMER_REAL)[0]


def test_slow_consumer_holds_the_workers_back():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = safe_map(abs, items(), workers=2, chunk=5, crashed=None)
    assert next(results) == 0
    time.sleep(0.3)
    assert len(taken) <= 2 * 3 * 5
    results.close()
