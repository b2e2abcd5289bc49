"""Progress in terminals of any width, and as lines in files: what is shown, and how often."""

import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import seen, terminal

from fastimae.arguments import _log_to_stderr
from fastimae.log import log
from fastimae.progress import LINE_SECONDS, Due, Meter, TimeLeft, bar_line, tracked


class FakeTime:
    """A clock that tests turn."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr("fastimae.progress.time", fake)
    return fake


@pytest.fixture
def written(monkeypatch):
    """Return the list of log lines, from now on."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "level", logging.INFO)
    monkeypatch.setattr(log, "propagate", False)
    log.manager._clear_cache()
    return lines


VALUES = ["5216 img/s", "waiting 12%", "loss 0.4321", "54:39:20 left", "lr 1.2e-04"]


@given(
    st.integers(1, 250),
    st.floats(0, 1),
    st.lists(st.text("ab/%", min_size=1, max_size=30), max_size=6),
)
def test_a_bar_has_one_line_and_whole_values(columns, share, values):
    line = bar_line("epoch 1/2", share, values, columns)
    assert len(line) <= columns
    shown = re.sub(r"epoch 1/2 +\d+%(\|[^|]*\|)?", "", line).strip()
    fitting = {", ".join(values[:count]).strip() for count in range(len(values) + 1)}
    assert columns < 15 or shown in fitting


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (39, "5216 img/s, waiting 12%"),
        (79, "5216 img/s, waiting 12%, loss 0.4321, 54:39:20 left"),
        (120, ", ".join(VALUES)),
    ],
)
def test_speed_and_waiting_come_first(columns, shown):
    line = bar_line("epoch 2/40", 0.03, VALUES, columns)
    assert line.endswith(shown)


def test_lines_come_soon_at_first_and_later_every_30_seconds(clock):
    due, times = Due(), []
    for second in range(1, 200):
        clock.now = 1000.0 + second
        times += [second] * due()
    assert times == [1, 2, 4, 8, 16, 32, 62, 92, 122, 152, 182]


def test_the_pace_is_that_of_the_last_marks_and_of_this_process_only(clock):
    left = TimeLeft(1000, 600)
    assert left.seconds(600) is None
    clock.now += 100
    assert left.seconds(650) == pytest.approx(700)
    for done in (650, 700, 750, 800, 850):  # from here on five times as fast
        left.mark(done)
        clock.now += 20
    assert left.seconds(900) == pytest.approx(40)


@pytest.mark.parametrize("columns", [40, 80])
def test_log_lines_and_a_bar_share_a_terminal(monkeypatch, columns):
    monkeypatch.setattr(log, "handlers", [])
    with terminal(monkeypatch, columns) as output:
        _log_to_stderr()
        with Meter(50, "convert", "img") as meter:
            for number in range(50):
                meter.update()
                meter.bar.refresh()
                if number % 10 == 0:
                    log.warning(
                        "image %d is broken, which takes more than a line to explain", number
                    )
    lines, states = seen(output[0], columns)
    told = [
        f"image {n} is broken, which takes more than a line to explain" for n in range(0, 50, 10)
    ]
    assert [line for line in lines if "image" in line] == told
    assert lines[-2].startswith("convert 100%") and lines[-1] == ""
    assert all(len(state) < columns for state in states if state.startswith("convert"))
    assert any("20 of 50 img" in state for state in states)


def test_a_file_gets_lines_now_and_then_and_one_at_the_end(clock, written):
    for _ in tracked(range(1000), "features", "batch"):
        clock.now += 1
    assert written[0] == "features: 1 of 1000 batch, 1 batch/s, 16:39 left"
    assert written[-1] == "features: 1000 of 1000 batch, 1 batch/s in 16:40"
    assert 1000 / LINE_SECONDS <= len(written) <= 1000 / LINE_SECONDS + 7


def test_quick_or_quiet_work_has_no_lines(clock, written):
    assert list(tracked("abc", "verify", "img")) == ["a", "b", "c"]
    for _ in tracked(range(100), "verify", "img", quiet=True):
        clock.now += 10
    assert written == []


def test_bytes_and_unknown_totals_have_words_too(clock, written):
    with Meter(3 << 30, "a.beton to memory", "B") as meter:
        clock.now += 2
        meter.update(1 << 30)
    with Meter(None, "test", "batch") as meter:
        clock.now += 2
        meter.update(5)
    assert written[0] == "a.beton to memory: 1.07G of 3.22G B, 537M B/s, 00:04 left"
    assert "test: 5 batch, 2.5 batch/s" in written


def test_resumed_work_counts_what_was_done_before_but_not_as_speed(clock, written):
    with Meter(100, "convert", "img", done=90) as meter:
        clock.now += 5
        meter.update(5)
    assert written[0] == "convert: 95 of 100 img, 1 img/s, 00:05 left"
