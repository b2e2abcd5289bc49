"""What every benchmark relies on: whose time is measured, conditions, atomic files."""

import json
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_gpu import FakeGpu

from benchmarks.conditions import conditions
from benchmarks.harness import (
    ROOT,
    BenchmarkReport,
    heading,
    number,
    table,
    with_relative_paths,
)
from benchmarks.kernels.cases import cases
from benchmarks.kernels.shapes import SHAPES
from benchmarks.timing import (
    CACHE_BYTES,
    MOST_SETS,
    Turns,
    calls_of,
    in_rounds,
    interleaved,
    sets_of,
    summarise,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_variants_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    interleaved(calls, CPU, rounds=3, calls=2, warm_up=1)
    assert order == ["a", "b", *"aabb" * 3]


def test_quantiles_and_tables():
    timing = summarise([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (timing.low, timing.median, timing.high) == (2.0, 3.5, 5.0)
    rows = [{"a": 1, "b": 0.123456}, {"a": "", "b": ""}]
    assert table(rows) == "| a | b |\n| --- | --- |\n| 1 | 0.1235 |\n|  |  |\n"


def test_time_of_the_host_is_not_reported_as_the_gpus(monkeypatch):
    gpu = FakeGpu(monkeypatch)

    def call():
        time.sleep(0.01)  # Python
        gpu.launch("op", 2e-5)

    timing = interleaved({"op": call}, CUDA, rounds=3, calls=4, replays=True)["op"]
    assert timing.median == pytest.approx(2e-5)
    assert timing.timed == "graph replays"


def test_replays_take_turns_behind_one_that_is_not_timed(monkeypatch):
    # Of a's and b's replays by turns, the first of each pair is not timed.
    gpu = FakeGpu(monkeypatch, paces=[50, 1, 50, 1, 50, 2, 50, 3, 50, 9, 50, 7])
    calls = {name: lambda name=name: gpu.launch(name, 1.0) for name in "ab"}
    timings = interleaved(calls, CUDA, rounds=3, calls=2, warm_up=5, replays=True)
    assert gpu.replayed == [*"aaaabbbb" * 3]
    assert gpu.aside == 2, "warmed up on streams of their own"
    assert {name: one.median for name, one in timings.items()} == {"a": 2.0, "b": 3.0}
    assert (timings["a"].low, timings["a"].high) == (1.0, 9.0)


def test_what_cannot_be_recorded_gets_the_hosts_clock(monkeypatch, capsys):
    gpu = FakeGpu(monkeypatch)

    def waits():
        if gpu.recording is not None:
            raise RuntimeError("not permitted when stream is capturing\nand more")
        time.sleep(0.01)

    calls = {"waits": waits, "op": lambda: gpu.launch("op", 2e-5)}
    timings = interleaved(calls, CUDA, rounds=3, replays=True)
    assert timings["waits"].timed == "host clock" and timings["waits"].median >= 0.01
    assert timings["op"].timed == "graph replays" and timings["op"].median == pytest.approx(2e-5)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("waits:") and "not permitted when stream is capturing" in line


def test_timings_so_far_after_each_round():
    seen = list(in_rounds({"a": lambda: None}, CPU, rounds=3))
    assert [timings["a"].rounds for timings in seen] == [1, 2, 3]
    assert {timings["a"].timed for timings in seen} == {"host clock"}


def test_input_sets_take_turns_and_results_stay():
    made = []
    turns = Turns(lambda x: made.append(x) or [x], ["a", "b", "c"])
    for _ in range(4):
        turns()
    assert made == ["a", "b", "c", "a"]
    assert turns.results == [["a"], ["b"], ["c"]]


def test_no_input_is_in_the_cache_when_its_turn_comes():
    for case in [case for shape in SHAPES for case in cases(shape)]:
        sets = sets_of(case.forward_bytes, CUDA)
        # 30 kB are 0.01 us: it is the launch of these that takes time.
        if case.op not in ("mixing_ratio", "jitter_factors", "draw_windows"):
            assert sets * case.forward_bytes >= CACHE_BYTES and sets <= MOST_SETS, case
        assert calls_of(case.forward_bytes, sets) % sets == 0
    assert (sets_of(10, CPU), sets_of(10, CUDA), sets_of(2**30, CUDA)) == (1, MOST_SETS, 1)
    assert (calls_of(2**30, 1), calls_of(2**28, 1), calls_of(2**20, 1)) == (1, 4, 20)


@pytest.mark.parametrize("given", ["", "abc1234"])
def test_no_git_stops_nothing(given, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("FASTIMAE_COMMIT", given)
    assert conditions(CPU, "command")["commit"] == (given or "unknown")


def test_the_commit_of_a_checkout(monkeypatch):
    monkeypatch.delenv("FASTIMAE_COMMIT", raising=False)
    said = subprocess.CompletedProcess([], 0, stdout="abc1234-dirty\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    assert conditions(CPU, "command")["commit"] == "abc1234-dirty"
    monkeypatch.setenv("FASTIMAE_COMMIT", "v1")
    assert conditions(CPU, "command")["commit"] == "v1"


def gpu_of(monkeypatch, folder, script=None):
    """Collect the facts of a made-up card, with this script as nvidia-smi, or without one."""
    card = SimpleNamespace(
        total_memory=85e9, multi_processor_count=132, major=9, minor=0, uuid="12-34"
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A card")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    if script:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return conditions(CUDA, "command")


def test_card_driver_and_clocks_are_noted(monkeypatch, tmp_path):
    script = 'echo "$@" > "$0.asked"; echo "580.95.05, 345, 1980, 1593, [N/A]"'
    found = gpu_of(monkeypatch, tmp_path, script)
    assert found["gpu"] == {
        "memory_gb": 85.0, "multiprocessors": 132, "capability": "9.0", "cuda": torch.version.cuda,
        "driver": "580.95.05", "sm_mhz": 345, "sm_mhz_at_most": 1980, "memory_mhz": 1593,
        "memory_mhz_at_most": "[N/A]",
    }  # fmt: skip
    assert "--id=GPU-12-34" in (tmp_path / "nvidia-smi.asked").read_text()
    assert heading(found).startswith("# A card, driver 580.95.05\n")


@pytest.mark.parametrize("script", [None, "echo No devices were found; exit 6"])
def test_a_silent_driver_stops_nothing(monkeypatch, tmp_path, script):
    found = gpu_of(monkeypatch, tmp_path, script)
    assert found["gpu"]["multiprocessors"] == 132 and "driver" not in found["gpu"]
    assert heading(found).startswith("# A card\n")


def test_a_page_says_that_it_is_not_complete():
    report = {"device": "", "date": "", "commit": "", "versions": {}, "command": ""}
    assert "Not complete" in heading({**report, "complete": False})
    assert heading({**report, "complete": True}) == heading(report)
    assert "Not complete" not in heading(report)


@pytest.fixture
def report(tmp_path):
    """Make a report that is kept with a page."""
    page = lambda report: f"{heading(report)}rows: {report['rows']}\n"  # noqa: E731
    return BenchmarkReport(
        CPU, "python -m b", ["a b"], tmp_path / "out/r.json", page=page, rows=[1]
    )


def test_a_file_is_the_old_or_the_new_one(report):
    report.keep()

    def killed(*_):
        raise KeyboardInterrupt

    report["rows"].append(2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        report.keep()
    assert json.loads(report.out.read_text())["rows"] == [1]
    report.keep()
    assert json.loads(report.out.read_text())["rows"] == [1, 2]
    assert {file.name for file in report.out.parent.iterdir()} == {"r.json", "r.md"}


def test_a_report_says_how_it_was_made_and_whether_it_is_all(report):
    report.keep()
    page = report.out.with_suffix(".md")
    assert {"device", "versions", "commit", "date"} <= report.keys()
    assert report["command"] == "python -m b 'a b'" and "rows: [1]" in page.read_text()
    assert json.loads(report.out.read_text()) == report and report["complete"] is False
    report |= {"rows": [3]}
    report.finish()
    assert json.loads(report.out.read_text()) == report and report["complete"] is True
    assert "Not complete" not in page.read_text() and "rows: [3]" in page.read_text()


def test_a_report_without_a_path_is_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmark", "--flag"])
    report = BenchmarkReport(CPU, "python -m b", None, None)
    report.finish()
    assert report["command"] == "python -m b --flag" and list(tmp_path.iterdir()) == []


def test_a_table_has_the_columns_of_all_rows():
    rows = [{"a": 1}, {"b": 2.0, "a": 3}]
    assert table(rows) == "| a | b |\n| --- | --- |\n| 1 |  |\n| 3 | 2 |\n"
    assert table(rows, first=rows[1]).startswith("| b | a |\n")


def test_numbers_have_three_digits_or_those_before_the_point():
    seen = [number(value) for value in (None, 0, 0.12345, 12.345, 99.96, 1234.5, 100)]
    assert seen == ["", "0", "0.123", "12.3", "100", "1234", "100"]
    assert [number(0.5, ".1%"), number(None, ".1%"), number(77.3, ".0f")] == ["50.0%", "", "77"]


def test_paths_of_the_machine_are_left_out():
    text = (
        f'File "{ROOT}/kernels/a.py" in "/opt/x/.venv/lib/python3.12/site-packages/torch/b.py", '
        f"{Path.home()}/c and {tempfile.gettempdir()}/d, 12 img/s, loss / 2"
    )
    assert with_relative_paths(text) == (
        'File "kernels/a.py" in "torch/b.py", ~/c and temporary/d, 12 img/s, loss / 2'
    )
