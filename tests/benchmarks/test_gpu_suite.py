"""The suite itself: it measures, keeps what it measured, survives a part that hangs."""

import argparse
import json
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import gpu_suite, kernels
from benchmarks.gpu_suite import Part
from benchmarks.harness import interleaved, summarise, table
from benchmarks.loaders.options import Options as LoaderOptions
from benchmarks.train import curve, options
from fastimae.arguments import parse

SCRIPT = """
import json, sys, time
from pathlib import Path
Path(sys.argv[-1]).write_text(json.dumps({"results": [{"case": "a", "img_per_s": 1.0}]}))
print("# Heading")
print("a table", flush=True)
"""


def suite(monkeypatch, tmp_path, scripts, *argv, limit=20.0):
    """The suite with a small program in place of each part; its status and its JSON."""
    made = [
        Part(name=name, command=(sys.executable, "-c", script), limit=limit)
        for name, script in scripts.items()
    ]
    monkeypatch.setattr(gpu_suite, "parts", lambda _: made)
    status = gpu_suite.main(["--out", str(tmp_path), "--device", "cpu", *argv])
    return status, json.loads((tmp_path / "gpu_suite.json").read_text())


def test_what_parts_find_is_kept(monkeypatch, tmp_path, capsys):
    status, report = suite(monkeypatch, tmp_path, {"train": SCRIPT, "other": SCRIPT})
    assert status == 0 and report["failed"] == {}
    assert {"device", "versions", "commit", "date", "command"} <= set(report)
    assert report["results"] == [{"case": "a", "img_per_s": 1.0}]
    assert list(report["parts"]) == ["train", "other"]
    text = (tmp_path / "gpu_suite.md").read_text()
    assert "### Heading\na table" in text and text in capsys.readouterr().out


def test_a_part_that_hangs_is_killed_with_its_children(monkeypatch, tmp_path):
    hangs = SCRIPT + (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('pid', child.pid, flush=True)\ntime.sleep(60)"
    )
    start = time.monotonic()
    status, report = suite(monkeypatch, tmp_path, {"train": hangs, "other": SCRIPT}, limit=3)
    assert status == 1 and time.monotonic() - start < 30
    assert list(report["failed"]) == ["train"]
    assert "killed after 3 s" in report["failed"]["train"]
    assert report["results"] == [{"case": "a", "img_per_s": 1.0}], "partial results are kept"
    text = report["parts"]["train"]["text"]
    assert "a table" in text
    assert report["parts"]["other"]["report"]["results"]
    child = int(text.split("pid ")[1])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_failing_part_is_named_with_its_last_words(monkeypatch, tmp_path, capsys):
    fails = SCRIPT + "raise ValueError('no such kernel')"
    status, report = suite(monkeypatch, tmp_path, {"kernels": fails, "other": SCRIPT})
    assert status == 1
    assert list(report["failed"]) == ["kernels"]
    assert "exit status 1" in report["failed"]["kernels"]
    assert "no such kernel" in report["failed"]["kernels"]
    assert "failed: kernels" in capsys.readouterr().out


def test_results_of_an_earlier_run_are_not_taken_for_new(monkeypatch, tmp_path):
    (tmp_path / "train.json").write_text('{"results": [{"case": "old", "img_per_s": 2.0}]}')
    _, report = suite(monkeypatch, tmp_path, {"train": "raise SystemExit(3)"})
    assert report["results"] == [] and "exit status 3" in report["failed"]["train"]


def test_some_parts_only(monkeypatch, tmp_path):
    _, report = suite(monkeypatch, tmp_path, {"a": SCRIPT, "b": SCRIPT}, "--only", "b")
    assert list(report["parts"]) == ["b"]


def test_time_over_is_said(monkeypatch, tmp_path):
    status, report = suite(monkeypatch, tmp_path, {"a": SCRIPT}, "--seconds", "0")
    assert status == 1 and report["failed"] == {"a": "no time left"}


def test_a_real_part_in_small(tmp_path):
    argv = ["--out", str(tmp_path), "--device", "cpu", "--smoke", "--only", "curve"]
    assert gpu_suite.main(argv) == 0
    report = json.loads((tmp_path / "gpu_suite.json").read_text())
    assert report["parts"]["curve"]["report"]["passed"]
    assert "smooth made-up images" in (tmp_path / "gpu_suite.md").read_text()


@pytest.mark.parametrize("smoke", [False, True])
def test_commands_of_the_parts_are_understood(smoke, monkeypatch):
    """Each benchmark parses what the suite asks of it; what it would do is not run."""
    asked = argparse.Namespace(
        device="cuda", smoke=smoke, data=Path("f.beton"), folder=Path("images"), cifar=Path("c"),
    )  # fmt: skip
    parts = {part.name: part for part in gpu_suite.parts(asked)}
    assert list(parts) == ["tests", "train", "curve", "ladder", "kernels", "fed", "loaders"]
    ways = dict.fromkeys(("train", "ladder", "fed"), options.Options)
    ways |= {"curve": curve.Options, "loaders": LoaderOptions}
    parsed = {
        name: parse(name, kind, [*parts[name].command[3:], "--out", "f.json"])
        for name, kind in ways.items()
    }
    assert parsed["train"].table and not parsed["train"].ladder
    assert parsed["ladder"].ladder and not parsed["ladder"].table
    assert parsed["curve"].steps == (30 if smoke else 300)
    assert parsed["fed"].folder.name == "images" and not parsed["fed"].table
    assert parsed["train"].data is None
    seen = {}
    monkeypatch.setattr(kernels, "measure_all", lambda *a, **k: seen.update(k) or ([], {}))
    monkeypatch.setattr(kernels, "measure_traffic", lambda *_: [])
    monkeypatch.setattr(kernels, "conditions", lambda *_: {})
    monkeypatch.setattr(kernels, "markdown", lambda _: "")
    assert kernels.main(parts["kernels"].command[3:]) == 0
    assert seen["only"] == ("" if smoke else "ViT-B/16")


def test_variants_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    interleaved(calls, torch.device("cpu"), rounds=3, calls=2, warm_up=1)
    assert order == ["a", "b", *"aabb" * 3]


def test_quantiles_and_tables():
    timing = summarise([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (timing.low, timing.median, timing.high) == (2.0, 3.5, 5.0)
    rows = [{"a": 1, "b": 0.123456}, {"a": "", "b": ""}]
    assert table(rows) == "| a | b |\n| --- | --- |\n| 1 | 0.1235 |\n|  |  |\n"
