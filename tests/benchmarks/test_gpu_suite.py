"""The suite itself: it measures, keeps what it measured, and fails loudly."""

import json

import pytest
import torch

from benchmarks import gpu_suite
from benchmarks.harness import interleaved, summarise, table
from fastimae import kernels


def test_smoke_run_measures_every_part(tmp_path):
    assert gpu_suite.main(["--out", str(tmp_path), "--device", "cpu", "--smoke"]) == 0
    report = json.loads((tmp_path / "gpu_suite.json").read_text())
    assert {"device", "versions", "commit", "date", "command"} <= set(report)
    measured = {(row["case"], row["variant"]) for row in report["results"]}
    assert measured == {
        (case, variant)
        for case in ("mae_vit_nano_patch8", "imae_vit_nano_patch8")
        for variant in ("fastimae", "reference", "reference_sdpa")
    }
    for row in report["results"]:
        assert row["img_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["ms"])
    ops = {row["op"] for row in report["parts"]["kernels"]["rows"]}
    assert ops == {"copy", *kernels.__all__} - {"Mask", "prefer"}
    text = (tmp_path / "gpu_suite.md").read_text()
    assert "imae_vit_nano_patch8" in text and "failed" not in text


def test_a_failing_part_is_named_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_suite, "measure_all", lambda *_, **__: 1 / 0)
    assert gpu_suite.main(["--out", str(tmp_path), "--device", "cpu", "--smoke"]) == 1
    report = json.loads((tmp_path / "gpu_suite.json").read_text())
    assert list(report["failed"]) == ["kernels"]
    assert "ZeroDivisionError" in report["failed"]["kernels"]
    assert len(report["results"]) == 6 and "failed: kernels" in capsys.readouterr().out


def test_a_wrong_loss_fails_the_case(monkeypatch):
    monkeypatch.setattr("benchmarks.steps.plain_imae_loss", lambda *_: torch.tensor(3.0))
    with pytest.raises(AssertionError):
        gpu_suite.measure_case(gpu_suite.SMOKE_CASES[1], torch.device("cpu"))


def test_some_parts_only(tmp_path):
    options = ["--out", str(tmp_path), "--device", "cpu", "--smoke", "--only", "trains"]
    assert gpu_suite.main(options) == 0
    assert list(json.loads((tmp_path / "gpu_suite.json").read_text())["parts"]) == ["trains"]


def test_time_over_is_said(tmp_path):
    options = ["--out", str(tmp_path), "--device", "cpu", "--smoke", "--seconds", "0"]
    assert gpu_suite.main(options) == 1
    failed = json.loads((tmp_path / "gpu_suite.json").read_text())["failed"]
    assert set(failed.values()) == {"no time left"}


def test_variants_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    interleaved(calls, torch.device("cpu"), rounds=3, calls=2, warm_up=1)
    assert order == ["a", "b", *"aabb" * 3]


def test_quantiles_and_tables():
    timing = summarise([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (timing.low, timing.median, timing.high) == (2.0, 3.5, 5.0)
    assert table([{"a": 1, "b": 0.123456}]) == "| a | b |\n| --- | --- |\n| 1 | 0.1235 |\n"
