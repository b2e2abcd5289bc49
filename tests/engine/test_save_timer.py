"""--save_seconds: checkpoint-last.pth by the clock, not after each short epoch."""

import json
from types import SimpleNamespace

import pytest
import torch
from toy_trainer import trainer, weights_of

from fastimae.engine import save_timer
from fastimae.engine.checkpoint import LAST, load_checkpoint
from fastimae.engine.save_timer import SaveTimer


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(save_timer, "time", clock)
    return clock


def timed(clock, path, seconds, **plan):
    """Return a run whose steps take a second each, 6 an epoch, and the points of its saves."""
    path.mkdir(exist_ok=True)
    run, saves = trainer(path, save_seconds=seconds, save_freq=100, **plan), []
    step, state = run._train_step, run.state_dict

    def take(feed):
        clock.now += 1
        step(feed)

    run._train_step = take
    run.state_dict = lambda: saves.append((run.epoch, run.update)) or state()
    return run, saves


@pytest.mark.parametrize(
    ("seconds", "plan", "points"),
    [
        (0, {}, [(epoch, 6) for epoch in range(5)]),
        (1e-3, {"log_steps": 100}, [(0, 1), *((epoch, 6) for epoch in range(5))]),
        (7, {}, [(0, 6), (2, 4), (3, 6), (4, 6)]),
        (60, {}, [(0, 6), (4, 6)]),
        (6, {"save_steps": 5}, [(0, 5), (0, 6), (1, 5), (2, 5), (3, 5), (4, 5), (4, 6)]),
    ],
)
def test_saves_follow_the_clock_and_the_end_of_the_run(clock, tmp_path, seconds, plan, points):
    run, saves = timed(clock, tmp_path, seconds, epochs=5, **plan)
    run.run()
    assert saves == points


@pytest.mark.parametrize(("seconds", "kept"), [(60, (0, 6)), (7, (2, 4))])
def test_a_resumed_run_is_the_uninterrupted_run(clock, tmp_path, seconds, kept):
    """Killed in epoch 2, it may go on from an earlier one; log lines are written anew."""
    whole, _ = timed(clock, tmp_path / "whole", 0, epochs=5)
    whole.run()
    first, saves = timed(clock, tmp_path / "parts", seconds, epochs=5)
    first.probe = lambda epoch: {} if epoch < 2 else pytest.fail("killed")
    with pytest.raises(pytest.fail.Exception):
        first.run()
    assert saves[-1] == kept
    second, _ = timed(clock, tmp_path / "parts", seconds, epochs=5)
    last = tmp_path / "parts" / LAST
    second.load_state_dict(load_checkpoint(last), last)
    assert second.point == pytest.approx(kept[0] + kept[1] / 6)
    second.run()
    assert torch.equal(weights_of(second), weights_of(whole))
    logs = [
        [json.loads(line)["train_loss"] for line in (path / "log.txt").read_text().splitlines()]
        for path in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert logs[0] == logs[1]


def test_the_main_process_decides(clock):
    """Clocks differ; `any` is asked by all or by none."""
    asked = []

    def timer(is_main, seconds=5.0):
        world = SimpleNamespace(is_main=is_main, any=lambda flag: asked.append(flag) or flag)
        return SaveTimer(seconds, world)

    main, other = timer(True), timer(False)
    clock.now += 9
    assert main.is_due(within=True) and not other.is_due(within=True)
    main.restart()
    assert not main.is_due(within=False) and asked == [True, False, False]
    assert timer(False, 0.0).is_due(within=False) and not timer(True, 0.0).is_due(within=True)
    assert len(asked) == 3
