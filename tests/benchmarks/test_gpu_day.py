"""The GPU's day keeps what was measured, and survives parts that fail or hang."""

import json
import multiprocessing
import os
import signal
import sys
import time

import psutil
import pytest
import torch

from benchmarks.gpu_day import __main__ as gpu_day
from benchmarks.gpu_day import plan
from benchmarks.gpu_day.plan import Part, Stage
from benchmarks.harness import BenchmarkReport

SCRIPT = """
import json, sys, time
from pathlib import Path
def leave(**more):
    Path(sys.argv[-1]).write_text(json.dumps({"note": sys.argv[-1], **more}))
leave()
print("a table", flush=True)
"""


def day(monkeypatch, tmp_path, scripts, *argv, seconds=100.0):
    """Run a day with a small program for each part; return its status and JSON."""
    monkeypatch.setattr(gpu_day, "WORK", tmp_path / "work")
    monkeypatch.setenv("FASTIMAE_COMMIT", "abc")
    made = [
        Stage(seconds, (program(name, script, tmp_path / "work"),))
        for name, script in scripts.items()
    ]
    monkeypatch.setattr(gpu_day, "stages", lambda *_: made)
    status = gpu_day.main(["1", "--out", str(tmp_path / "out"), "--device", "cpu", *argv])
    return status, json.loads((tmp_path / "out/gpu_day_1.json").read_text())


def program(name, script, work):
    command = (sys.executable, "-c", script, str(work / f"{name}.json"))
    return Part(name=name, command=command, file=f"{name}.json")


def left(tmp_path, name):
    return json.loads((tmp_path / "out" / f"{name}.json").read_text())


def test_what_parts_leave_is_kept(monkeypatch, tmp_path, capsys):
    status, report = day(monkeypatch, tmp_path, {"train": SCRIPT, "other": SCRIPT})
    assert status == 0
    assert {"device", "versions", "commit", "date", "command"} <= set(report)
    assert report["commit"] == "abc"
    assert [part["status"] for part in report["parts"].values()] == ["ok", "ok"]
    assert left(tmp_path, "train") and left(tmp_path, "other")
    text = (tmp_path / "out/gpu_day_1.md").read_text()
    assert "a table" in text and "a table" in capsys.readouterr().out
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"train.json", "other.json", "gpu_day_1.json", "gpu_day_1.md"}


def test_a_part_that_hangs_is_killed_with_its_children(monkeypatch, tmp_path):
    hangs = SCRIPT + (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "leave(measured=1, child=child.pid)\ntime.sleep(600)"
    )
    skipped, keep = [0.0], gpu_day.keep

    def keep_and_skip(stage, out):
        """End the part's time as soon as all its output exists."""
        keep(stage, out)
        file = out / "train.json"
        if file.exists() and "child" in file.read_text():
            skipped[0] = 1000.0

    now = time.monotonic
    monkeypatch.setattr(gpu_day, "keep", keep_and_skip)
    monkeypatch.setattr(time, "monotonic", lambda: now() + skipped[0])
    scripts = {"train": hangs, "other": SCRIPT}
    status, report = day(monkeypatch, tmp_path, scripts, "--seconds", "5000", seconds=999.0)
    assert status == 1
    assert report["parts"]["train"]["status"].startswith("killed after")
    assert left(tmp_path, "train")["measured"] == 1, "partial results are kept"
    assert report["parts"]["train"]["text"] == "a table\n"
    assert report["parts"]["other"]["status"] == "ok", "a later part runs whatever an earlier did"
    child = left(tmp_path, "train")["child"]
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_failing_part_is_named_with_its_last_words(monkeypatch, tmp_path, capsys):
    fails = SCRIPT + "raise ValueError('no such kernel')"
    status, report = day(monkeypatch, tmp_path, {"kernels": fails, "other": SCRIPT})
    assert status == 1
    assert report["parts"]["kernels"]["status"] == "exit status 1"
    assert "no such kernel" in report["parts"]["kernels"]["complaint"]
    printed = capsys.readouterr().out
    assert "no such kernel" in printed
    assert printed.rstrip().endswith("| ok |"), "the shortest table last"


def test_parts_of_a_stage_run_at_once(monkeypatch, tmp_path):
    """Each waits for the other's file."""
    work = tmp_path / "work"
    waits = "while not Path(sys.argv[-1]).with_name({!r}).exists(): time.sleep(0.05)\nprint('met')"
    both = tuple(
        program(one, SCRIPT + waits.format(f"{other}.json"), work)
        for one, other in (("a", "b"), ("b", "a"))
    )
    work.mkdir()
    report = BenchmarkReport(torch.device("cpu"), "", [], None, run=1, parts={})
    monkeypatch.setattr(gpu_day, "WORK", work)
    (tmp_path / "out").mkdir()
    gpu_day.run_stages([Stage(60, both)], report, tmp_path / "out", 60)
    assert [part["status"] for part in report["parts"].values()] == ["ok", "ok"]


def test_unused_time_goes_to_the_next_stage(monkeypatch, tmp_path):
    _, report = day(monkeypatch, tmp_path, {"a": SCRIPT, "b": SCRIPT}, seconds=30)
    assert report["parts"]["a"]["had"] == 30
    assert report["parts"]["b"]["had"] > 30


def test_the_whole_has_a_limit(monkeypatch, tmp_path):
    limit = str(plan.START)
    status, report = day(
        monkeypatch, tmp_path, {"a": "import time; time.sleep(60)"}, "--seconds", limit
    )
    assert status == 1 and report["parts"]["a"]["status"].startswith("killed")


def test_results_of_an_earlier_run_are_not_taken_for_new(monkeypatch, tmp_path):
    day(monkeypatch, tmp_path, {"train": SCRIPT})
    day(monkeypatch, tmp_path, {"train": "raise SystemExit(3)"})
    assert not (tmp_path / "out/train.json").exists()


def test_the_report_is_written_after_each_stage(monkeypatch, tmp_path):
    seen = tmp_path / "out/gpu_day_1.json"
    looks = SCRIPT + f"print(list(json.loads(Path({str(seen)!r}).read_text())['parts']))"
    _, report = day(monkeypatch, tmp_path, {"a": SCRIPT, "b": looks})
    assert report["parts"]["b"]["text"].endswith("['a']\n")


@pytest.mark.parametrize("left", ["{", "[1]", '{"rows": 3}', "\xff"])
def test_a_file_that_is_no_result_does_not_end_the_day(left, monkeypatch, tmp_path):
    torn = f"import sys\nopen(sys.argv[-1], 'w', encoding='latin-1').write({left!r})"
    _, report = day(monkeypatch, tmp_path, {"train": torn, "other": SCRIPT})
    assert report["parts"]["other"]["status"] == "ok"


def test_no_paths_of_the_machine_are_kept(monkeypatch, tmp_path):
    fails = "import json\njson.loads('{')"
    _, report = day(monkeypatch, tmp_path, {"train": fails})
    complaint = report["parts"]["train"]["complaint"]
    assert 'File "json/__init__.py"' in complaint and "JSONDecodeError" in complaint


def test_a_part_that_says_much_does_not_fill_the_report(monkeypatch, tmp_path):
    _, report = day(monkeypatch, tmp_path, {"train": SCRIPT + "print('x' * 10**6, 'end')"})
    assert len(report["parts"]["train"]["text"]) < 1e5
    assert report["parts"]["train"]["text"].endswith("end\n")


def test_parts_that_are_not_there_are_an_error(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="--only c: the parts are a, b"):
        day(monkeypatch, tmp_path, {"a": SCRIPT, "b": SCRIPT}, "--only", "c")


def test_without_a_gpu_it_says_how_to_rehearse(tmp_path):
    with pytest.raises(SystemExit, match="no CUDA device: --smoke --device cpu"):
        gpu_day.main(["1", "--out", str(tmp_path)])


def test_some_parts_only(monkeypatch, tmp_path):
    _, report = day(monkeypatch, tmp_path, {"a": SCRIPT, "b": SCRIPT}, "--only", "b")
    assert list(report["parts"]) == ["b"]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_kill_at_any_moment_keeps_what_was_measured(by, monkeypatch, tmp_path):
    """The driver is killed in the middle of a part; if it can, it ends the part."""
    hangs = SCRIPT + "leave(measured=2)\ntime.sleep(600)"
    kept = tmp_path / "out/t.json"
    fork = multiprocessing.get_context("fork")  # a new process would import torch first
    driver = fork.Process(target=day, args=(monkeypatch, tmp_path, {"t": hangs}))
    driver.start()
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (
            kept.exists() and "measured" in kept.read_text()
        ):
            time.sleep(0.1)
    finally:
        children = psutil.Process(driver.pid).children(recursive=True)
        os.kill(driver.pid, by)
        driver.join()
        _, alive = psutil.wait_procs(children, timeout=100 if by != signal.SIGKILL else 0)
        for child in alive:
            child.kill()
    assert by == signal.SIGKILL or not alive
    assert driver.exitcode == (-by if by == signal.SIGKILL else gpu_day.STOPPED)
    assert left(tmp_path, "t")["measured"] == 2
