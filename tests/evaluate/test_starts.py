"""When, where and how a run was computed, as its page tells it: unknown rather than wrong."""

import datetime
import os
import subprocess
import sys

import pytest
import yaml

from fastimae.evaluate.pages.starts import UNKNOWN, facts_of, read_starts, table_of
from fastimae.locks import folder_to_write

FIRST = {
    "started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T05:04:00+00:00",
    "outcome": "stopped", "command": "fastimae-train --epochs 8", "host": "node1",
    "device": "NVIDIA H200", "processes": 8, "commit": "abc",
    "versions": {"python": "3.11.7", "fastimae": "1.0", "torch": "2.14.1", "numpy": "2.4"},
}  # fmt: skip
SECOND = FIRST | {
    "started": "2026-01-05T06:00:00+02:00", "ended": "2026-01-05T06:00:30+02:00",
    "outcome": "finished", "command": "fastimae-train --epochs 8 --resume auto", "host": "node2",
}  # fmt: skip


def facts(folder, *starts, settings=None):
    if starts:
        (folder / "run.yaml").write_text(yaml.safe_dump({"epochs": 8, "starts": list(starts)}))
    found = read_starts(folder, settings or {})
    return found, facts_of(found, folder)


def test_a_run_that_was_resumed_elsewhere(tmp_path):
    found, known = facts(tmp_path, FIRST, SECOND)
    assert known == {
        "Started": "2026-01-02 03:04 UTC",
        "Ended": "2026-01-05 04:00 UTC (finished)",
        "Time spent": "2 h 0 min",
        "Starts": "2, resumed 1 time",
        "Device": "8 x NVIDIA H200",
        "Host": "node1, then node2",
        "Versions": "fastimae 1.0, python 3.11.7, torch 2.14.1",
        "Commit": "abc",
    }
    assert found[-1].command.endswith("--resume auto")
    assert [(row["outcome"], row["time"]) for row in table_of(found)] == [
        ("stopped", "1 h 59 min"), ("finished", "30 s"),
    ]  # fmt: skip


def test_a_killed_run_has_no_end(tmp_path):
    killed = {name: value for name, value in FIRST.items() if name not in ("ended", "outcome")}
    _, known = facts(tmp_path, killed)
    assert known["Ended"] == "unknown: no end was recorded" and known["Time spent"] == UNKNOWN
    assert known["Starts"] == "1"
    _, known = facts(tmp_path, killed, SECOND)
    assert known["Time spent"] == "30 s, and 1 of 2 starts of unknown length"


def test_a_run_that_is_running_says_so(tmp_path):
    running = {name: value for name, value in FIRST.items() if name not in ("ended", "outcome")}
    facts(tmp_path, running)
    code = (
        "import pathlib, sys\nfrom fastimae.evaluate.pages.starts import *\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "print(facts_of(read_starts(folder, {}), folder)['Ended'])"
    )
    with folder_to_write(tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True,
            timeout=60, env=os.environ,
        )  # fmt: skip
    assert done.stdout.strip() == "still running"


@pytest.mark.parametrize("unquoted", [True, False])
def test_dates_written_by_hand_are_read(tmp_path, unquoted):
    date = datetime.datetime(2026, 1, 2, 3, 4) if unquoted else "2026-01-02T03:04"
    _, known = facts(tmp_path, {"started": date})
    assert known["Started"] == "2026-01-02 03:04 UTC" and known["Device"] == UNKNOWN


def test_what_older_runs_tell(tmp_path):
    for seconds, host in ((1767322000, "node.one"), (1767322900, "node.two")):
        (tmp_path / f"events.out.tfevents.{seconds}.{host}.4293.0.run-abc").touch()
    (tmp_path / "events.out.tfevents.1767000000.other.1.0.run-def").touch()
    settings = {"run": "abc", "processes": 4, "device": "cuda"}
    found, known = facts(tmp_path, settings=settings)
    assert known["Started"] == "2026-01-02 02:46 UTC" and known["Ended"] == UNKNOWN
    assert known["Host"] == "node.one, then node.two" and known["Starts"] == "2, resumed 1 time"
    assert [start.processes for start in found] == [None, 4]
    assert known["Device"] == "unknown, then 4 x cuda"


@pytest.mark.parametrize("content", [None, "[", "[]", "starts: 3", "starts: [1]", "starts: [{}]"])
def test_what_is_not_recorded_is_unknown(tmp_path, content):
    if content is not None:
        (tmp_path / "run.yaml").write_text(content)
    found, known = facts(tmp_path, settings={"device": "auto"})
    assert len(found) == 1 and table_of(found) == [] and found[0].command == ""
    assert set(known.values()) == {UNKNOWN}
