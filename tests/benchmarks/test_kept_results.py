"""A benchmark that is killed or fails keeps its results; the file is read while it runs."""

import importlib
import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from benchmarks.harness import ROOT, BenchmarkReport, conditions_line
from benchmarks.loaders import measure as measuring
from benchmarks.loaders.base import LoadJob
from benchmarks.loaders.process import Failed, Round, Start
from benchmarks.loaders.registry import LOADERS
from benchmarks.loaders.results import ratios, results, targets
from benchmarks.report import tables
from benchmarks.train import __main__ as train
from benchmarks.train import curve
from benchmarks.train.fastimae_step import BuiltFastImaeStep

SMALL = "--smoke --device cpu"
ENDLESS = 1_000_000
# Of each benchmark that trains: a command, most of which would not end, and where its rows are.
RUNS = {
    "kernels": (f"{SMALL} --no-compile", lambda report: report["rows"][1:]),
    "train": (
        f"{SMALL} --no_table --ladder --rounds {ENDLESS} --cases imae_vit_nano_patch8",
        lambda report: report["ladder"],
    ),
    "train.curve": (
        f"{SMALL} --batch_size 8 --steps {ENDLESS}",
        lambda report: report.get("curve", {}).get("fastimae"),
    ),
}
LOADERS_RUN = (
    f"loaders --only pillow --rounds {ENDLESS} --seconds 0.05 --batch_size 8 --num_workers 2"
)


class Killed(BaseException):
    """Ends a benchmark as a kill does: nothing handles it."""


def check_kept(report, rows):
    assert report["complete"] is False
    assert rows
    assert len(tables(report)) > 50 and "Not complete" in conditions_line(report)
    assert {"device", "versions", "commit", "date", "command"} <= set(report)


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_writes_its_first_results_while_it_runs(name, tmp_path, monkeypatch):
    flags, rows_of = RUNS[name]
    out, keep = tmp_path / "out" / "report.json", BenchmarkReport.keep

    def keep_until_there_are_rows(report):
        keep(report)
        if rows_of(json.loads(out.read_text())):
            raise Killed

    monkeypatch.setattr(BenchmarkReport, "keep", keep_until_there_are_rows)
    monkeypatch.setattr(curve, "KEPT_EVERY", 2)
    module = "benchmarks." + (name if "." in name else f"{name}.__main__")
    with pytest.raises(Killed):
        importlib.import_module(module).main([*flags.split(), "--out", str(out)])
    report = json.loads(out.read_text())
    check_kept(report, rows_of(report))


def test_a_killed_benchmark_keeps_its_results(jpegs, tmp_path):
    """Its file is whole whenever it is read, and its processes end."""
    out = tmp_path / "out" / "report.json"
    module, *flags = LOADERS_RUN.split()
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}", *flags, "--data", str(jpegs),
         "--out", str(out)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    children, end = [], time.monotonic() + 150
    while process.poll() is None and time.monotonic() < end:
        if out.exists() and json.loads(out.read_text())["results"]:
            children = psutil.Process(process.pid).children(recursive=True)
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    _, complaint = process.communicate()
    assert process.returncode == -signal.SIGKILL, complaint
    report = json.loads(out.read_text())
    check_kept(report, report["results"])
    assert psutil.wait_procs(children, timeout=30)[1] == [], "loaders end by themselves"


def test_a_variant_that_fails_in_round_three_leaves_two(tmp_path, monkeypatch):
    out, steps, step = tmp_path / "train.json", [], BuiltFastImaeStep.train

    def fails(variant, batch):
        steps.append(variant)
        if len(steps) == 6:  # the first, one for its memory, one that is checked; three rounds
            raise RuntimeError("out of memory")
        return step(variant, batch)

    monkeypatch.setattr(BuiltFastImaeStep, "train", fails)
    cases = ["--cases", "imae_vit_nano_patch8", "--rounds", "5"]
    cases += ["--variants", "reference", "fastimae"]
    assert train.main([*SMALL.split(), "--no_compile", "--out", str(out), *cases]) == 1
    report = json.loads(out.read_text())
    assert "out of memory" in report["failed"]["imae_vit_nano_patch8"] and report["complete"]
    names = [row["variant"] for row in report["results"]]
    assert names == ["reference", "fastimae"]
    assert {row["rounds"] for row in report["results"]} == {2}


def test_a_curve_has_every_step_so_far(monkeypatch):
    monkeypatch.setattr(curve, "KEPT_EVERY", 2)
    options = curve.CurveOptions(smoke=True, device="cpu", batch_size=8)
    case = curve.SMOKE_CASES["imae_vit_nano_patch8"]
    batches = curve.batches(case, options)
    seen = list(curve.train_both(case, batches, torch.device("cpu"), 5))
    assert [len(losses["fastimae"]) for losses in seen] == [2, 4, 5]
    for losses in seen:
        for name, values in losses.items():
            assert values == seen[-1][name][: len(values)]


class FakeProcess:
    """A loader of 100 images per second; "dali" dies in round 3."""

    def __init__(self, make, job):
        self.make, self.rounds, self.pid = make, 0, 0

    def ask(self, name, *_, **__):
        if name == "start":
            return Start(first_batch_ms=1, first_pass_img_per_s=1, bytes_before=0, stages={})
        if name == "check":
            return None
        self.rounds += 1
        if self.make is LOADERS["dali"] and self.rounds == 3:
            raise Failed("its process died")
        return Round(images=100, seconds=1.0, cpu_seconds=1.0, stages={})

    def settle(self):
        pass

    close = settle


def test_loaders_are_kept_after_each_round(monkeypatch):
    monkeypatch.setattr(measuring, "LoaderProcess", FakeProcess)
    monkeypatch.setattr(measuring, "memory_bytes", lambda _: 10**6)
    kept = []

    def keep(found):
        lengths = {row["backend"]: len(row["img_per_s_rounds"]) for row in results(found)}
        against = [row["against"] for row in ratios("beton", found, targets(avx512=True))]
        kept.append((lengths, against))

    class Images:
        section = "beton"

    measuring.measure(
        {name: LOADERS[name] for name in ("native", "pillow", "dali")},
        LoadJob(images=Images(), batch_size=8, num_workers=1, seed=0),
        rounds=4, seconds=1.0, keep=keep,
    )  # fmt: skip
    two, all_three = ["native", "pillow"], ["native", "pillow", "dali"]
    assert [lengths for lengths, _ in kept[:5]] == [
        {}, dict.fromkeys(all_three, 1), dict.fromkeys(all_three, 2), dict.fromkeys(two, 3),
        dict.fromkeys(two, 4),
    ]  # fmt: skip
    assert kept[2][1] == ["pillow", "dali"] and kept[3][1] == ["pillow"]
    assert kept[-1][0] == dict.fromkeys(two, 4)
