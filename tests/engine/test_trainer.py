"""The training loop: accumulation, clipping, stopping, resuming, and its files."""

import contextlib
import itertools
import json
import math
import os
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_trainer import CPU, Squares, mae_trainer, trainer, weights_of

from fastimae.engine.checkpoint import CheckpointError, load_checkpoint
from fastimae.engine.distributed import World
from fastimae.engine.memory import peak_memory
from fastimae.engine.metrics import Clock, LossMeter, NonFiniteLoss
from fastimae.engine.trainer import Trainer


def test_processes_that_would_train_apart_are_an_error(tmp_path):
    alone = trainer(tmp_path)
    two = World(0, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match="see `parallelise`"):
        Trainer(alone.step, alone.loader, alone.plan, two, tmp_path)


def test_accumulated_steps_equal_big_batches(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, four = (
        trainer(tmp_path / "a", batch_size=8),
        trainer(tmp_path / "b", batch_size=2, accum_iter=4),
    )
    assert one.run() and four.run()
    assert one.updates_per_epoch == four.updates_per_epoch == 3
    torch.testing.assert_close(weights_of(one), weights_of(four))


def test_clipping_bounds_the_gradient(tmp_path):
    """Seen in the first moment, a mean that each gradient enters with a weight of 0.1."""
    run = trainer(tmp_path, clip_grad=1e-3, epochs=1)
    means = [torch.zeros(())]

    def look(optimizer, *_):
        states = optimizer.state.values()
        means.append(torch.cat([state["exp_avg"].flatten() for state in states]))

    run.optimizer.register_step_post_hook(look)
    run.run()
    norms = [((b - 0.9 * a) / 0.1).norm().item() for a, b in itertools.pairwise(means)]
    assert len(norms) == 6 and norms == pytest.approx([1e-3] * 6, rel=1e-3)


def test_log_has_one_line_an_epoch_with_maes_keys_and_true_means(tmp_path):
    run = trainer(tmp_path, epochs=2, log_steps=4)
    losses = []
    run.objective.register_forward_hook(lambda _, __, out: losses.append(out["loss"].item()))
    run.run()
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert lines[0]["train_loss"] == pytest.approx(sum(losses[:6]) / 6)
    assert lines[1]["train_half"] == pytest.approx(sum(losses[6:]) / 12)
    assert lines[1]["train_lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi * 5 / 6)))
    assert {"img_per_s", "data_wait", "bad_samples"} <= set(lines[0])


def test_each_reading_and_each_epoch_tells_speed_mfu_and_memory(tmp_path):
    trainer(tmp_path, epochs=2, log_steps=3, full_speed=1e6).run()
    for line in map(json.loads, (tmp_path / "log.txt").read_text().splitlines()):
        assert line["mfu"] == pytest.approx(line["img_per_s"] / 1e6, abs=1e-4)
        assert line["memory_gb"] == pytest.approx(peak_memory(CPU.device) / 1e9, rel=0.05)
    board = EventAccumulator(str(tmp_path)).Reload()
    speed, share = board.Scalars("img_per_s"), board.Scalars("mfu")
    assert [one.value for one in share] == pytest.approx([one.value / 1e6 for one in speed])
    assert len(share) == len(board.Scalars("memory_gb")) == 5


def test_without_a_known_peak_there_is_no_mfu(tmp_path):
    trainer(tmp_path, epochs=1).run()
    line = json.loads((tmp_path / "log.txt").read_text())
    assert "mfu" not in line and line["memory_gb"] > 0


def test_a_resumed_run_is_the_uninterrupted_run_from_any_checkpoint(tmp_path):
    straight = tmp_path / "straight"
    straight.mkdir()
    whole = trainer(straight)
    whole.run()
    for stop in (1, 4, 6, 7, 11):
        path = tmp_path / str(stop)
        path.mkdir()
        first = trainer(path)
        calls = iter(range(1, 100))
        first.optimizer.register_step_post_hook(
            lambda *_, calls=calls, stop=stop: (
                os.kill(os.getpid(), signal.SIGTERM) if next(calls) == stop else None
            )
        )
        assert first.run() is False
        second = trainer(path)
        last = path / "checkpoint-last.pth"
        second.load_state_dict(load_checkpoint(last), last)
        assert second.run() is True
        assert torch.equal(weights_of(second), weights_of(whole))
        assert first.objective.seen + second.objective.seen == whole.objective.seen
        logs = [
            [json.loads(line)["train_loss"] for line in (p / "log.txt").read_text().splitlines()]
            for p in (straight, path)
        ]
        assert logs[0] == pytest.approx(logs[1], rel=1e-12)


def test_weights_alone_are_no_run_to_resume(tmp_path):
    run = trainer(tmp_path)
    weights = {"model": run.objective.student.state_dict(), "epoch": 3}
    with pytest.raises(CheckpointError, match=r"has no args, .*optimizer"):
        run.load_state_dict(weights, tmp_path / "mae.pth")


def test_log_lines_after_the_checkpoint_are_written_anew(tmp_path):
    trainer(tmp_path, epochs=2).run()
    with (tmp_path / "log.txt").open("a") as file:
        file.write('{"epoch": 2, "train_loss": 9}\n{"epoch": 3, "tr')  # left by a crash
    again = trainer(tmp_path, epochs=3)
    last = tmp_path / "checkpoint-last.pth"
    again.load_state_dict(load_checkpoint(last), last)
    again.run()
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2] and lines[2]["train_loss"] < 9


def test_checkpoints_hold_what_the_readme_says(tmp_path):
    trainer(tmp_path, epochs=4, save_freq=2).run()
    names = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert names == [f"checkpoint-{n}.pth" for n in (0, 2, 3, "last")]
    content = load_checkpoint(tmp_path / "checkpoint-2.pth")
    keys = "model optimizer scaler epoch step args loader metrics fastimae_format"
    assert set(content) == set(keys.split())
    assert content["epoch"] == 2 and content["args"] == {"batch_size": 4}
    assert set(content["model"]) == {"weight", "bias"}


def test_the_newest_numbered_checkpoints_are_kept_and_what_is_not_one_of_them(tmp_path):
    (tmp_path / "checkpoint-best.pth").touch()
    (tmp_path / "checkpoint-0-of-mine.pth").touch()
    trainer(tmp_path, epochs=12, save_freq=1, checkpoint_hist=3).run()
    kept = {"9", "10", "11", "last", "best", "0-of-mine"}
    assert {path.name for path in tmp_path.glob("*.pth")} == {f"checkpoint-{n}.pth" for n in kept}


def test_a_run_that_goes_back_keeps_the_checkpoints_that_it_writes(tmp_path):
    trainer(tmp_path, epochs=8, save_freq=1).run()
    (tmp_path / "checkpoint-last.pth").unlink()
    again = trainer(tmp_path, epochs=5, save_freq=1, checkpoint_hist=2)
    first = tmp_path / "checkpoint-2.pth"
    again.load_state_dict(load_checkpoint(first), first)
    again.run()
    left = {int(path.stem.split("-")[1]) for path in tmp_path.glob("checkpoint-[0-9]*.pth")}
    assert left == {3, 4, 5, 6, 7}


def test_pictures_are_drawn_when_due_and_at_the_end(tmp_path):
    for vis_freq, epochs in ((2, [0, 2, 3]), (0, [3])):
        run, drawn = trainer(tmp_path, epochs=4, vis_freq=vis_freq), []
        run.draw = lambda run=run, drawn=drawn: drawn.append(run.epoch)
        run.run()
        assert drawn == epochs


def test_a_probe_is_neither_lost_nor_doubled_by_a_resume(tmp_path):
    """Asked to stop in a probe, a run saves later; killed in one, it trains that epoch again."""
    probed, last = [], tmp_path / "checkpoint-last.pth"

    def probe(epoch):
        probed.append(epoch)
        if probed == [0, 1]:
            os.kill(os.getpid(), signal.SIGTERM)
        if probed == [0, 1, 2]:
            raise KeyboardInterrupt
        return {"probe_x": 10.0 * epoch}

    for outcome in (False, None, True):
        run = trainer(tmp_path, epochs=4, n=8)
        run.probe = probe
        if last.exists():
            run.load_state_dict(load_checkpoint(last), last)
        with pytest.raises(KeyboardInterrupt) if outcome is None else contextlib.nullcontext():
            assert run.run() is outcome
    assert probed == [0, 1, 2, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [(line["epoch"], line["probe_x"]) for line in lines] == [
        (0, 0),
        (1, 10),
        (2, 20),
        (3, 30),
    ]


def test_a_run_may_start_at_a_later_epoch(tmp_path):
    run = trainer(tmp_path, epochs=3)
    run.epoch = 2
    run.run()
    assert run.objective.seen[0] == [200, 201, 202, 203] and len(run.objective.seen) == 6
    assert load_checkpoint(tmp_path / "checkpoint-last.pth")["epoch"] == 2


def test_tensorboard_forgets_what_a_resumed_run_writes_again(tmp_path):
    (tmp_path / "run").mkdir()
    for epochs in (2, 3):  # the second process resumes from the first's epoch 1
        run = trainer(tmp_path / "run", epochs=epochs, log_steps=6)
        if epochs == 3:
            last = tmp_path / "run" / "checkpoint-0.pth"
            run.load_state_dict(load_checkpoint(last), last)
        run.run()
    board = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in board.Scalars("train_loss")] == [167, 1000, 1167, 2000, 3000]


def test_no_checkpoint_is_ahead_of_the_log(tmp_path, monkeypatch):
    """A kill right after a save must not lose an epoch's line."""
    saves = []

    def note(path, content, also):
        log = tmp_path / "log.txt"
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        saves.append((content["epoch"], content["step"], lines))

    monkeypatch.setattr("fastimae.engine.write_checkpoints.save_checkpoint", note)
    trainer(tmp_path, epochs=2, save_steps=3).run()
    assert saves == [(0, 3, 0), (0, 6, 1), (1, 3, 1), (1, 6, 2)]


def test_a_loss_that_is_not_finite_stops_and_names_its_samples(tmp_path):
    run = trainer(tmp_path, objective=Squares(poison=109), log_steps=4)
    with pytest.raises(NonFiniteLoss, match=r"nonfinite-rank0\.json"):
        run.run()
    report = json.loads((tmp_path / "nonfinite-rank0.json").read_text())
    assert report["samples"] == [108, 109, 110, 111]
    assert (report["epoch"], report["step"]) == (1, 2) and report["parts"]["half"] == "nan"
    saved = load_checkpoint(tmp_path / "checkpoint-last.pth")
    assert saved["epoch"] == 0 and saved["model"]["weight"].isfinite().all()


def test_losses_are_read_at_the_first_step_and_at_logging_steps_only(tmp_path, monkeypatch):
    run = trainer(tmp_path, epochs=1, log_steps=3)
    reads = []
    real = LossMeter.read
    monkeypatch.setattr(LossMeter, "read", lambda self: reads.append(run.update) or real(self))
    run.run()
    assert set(reads) == {1, 3, 6}


def test_a_step_is_recorded_before_the_loader_starts_and_trains_alike(tmp_path, monkeypatch):
    """A loader's threads use CUDA. Fresh or resumed, the run equals that of the plain step."""
    seen, results = [], []
    monkeypatch.setattr(
        "fastimae.engine.step.record_cuda_graph",
        lambda function: seen.append("recorded") or function,
    )
    for cuda_graph, runs in ((False, [3]), (True, [3]), (True, [1, 3])):
        path = tmp_path / str(len(results))
        path.mkdir()
        seen.clear()
        for epochs in runs:
            run = mae_trainer(path, seen, epochs=epochs, cuda_graph=cuda_graph)
            if epochs > runs[0]:
                last = path / "checkpoint-last.pth"
                run.load_state_dict(load_checkpoint(last), last)
            run.run()
        assert seen.count("the loader starts") == 3
        assert seen.count("recorded") == 2 * len(runs) * cuda_graph
        assert seen[:2] == ["recorded"] * 2 or not cuda_graph
        lines = (path / "log.txt").read_text().splitlines()
        losses = [json.loads(line)["train_loss"] for line in lines]
        results.append((losses, weights_of(run).tolist()))
    assert seen[3:5] == ["recorded"] * 2
    assert results[0] == results[1] == results[2]


def test_the_host_is_held_back_after_each_step_and_that_is_no_waiting_for_data(
    tmp_path, monkeypatch
):
    now, waits = [0.0], []

    def wait(throttle):
        waits.append(throttle)
        now[0] += 1.0

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("fastimae.engine.throttle.Throttle.wait", wait)
    trainer(tmp_path, epochs=2, accum_iter=2).run()
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line["data_wait"] for line in lines] == [0, 0]
    assert [line["img_per_s"] for line in lines] == [8, 8]
    assert len(waits) == 6 and len(set(waits)) == 1


def test_waiting_share_is_measured(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def slow():
        for _ in range(3):
            now[0] += 2.0
            yield 1

    clock = Clock(full_speed=8.0)
    for _ in clock.timed(slow()):
        now[0] += 1.0
        clock.images += 6
    near = {"img_per_s": 2.0, "mfu": 0.25, "data_wait": 2 / 3}
    assert clock.rates() == pytest.approx(near)
