"""The sweep over ways of attention, in the interpreter, and the table that is made of it."""

import json
import os
import shutil

import pytest

from benchmarks import attention as benchmark
from benchmarks import attention_table as table
from benchmarks import attention_ways
from benchmarks.attention_cases import SHAPES, SMOKE_SHAPES, passes
from fastimae.kernels import _attention_choice as choice

COMMAND = ["--smoke", "--device", "cpu"]
BACKENDS = ("cudnn", "flash", "efficient")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the tables, to be written to, as before any measurement."""
    copy = tmp_path / "tables"
    shutil.copytree(choice.FOLDER, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in copy.glob("attention_sm*.json"):
        content = json.loads(path.read_text())
        for row in content["rows"]:
            row |= {"sdpa": list(choice.BACKENDS), "source": "estimate, not measured"}
            if (row["tokens"], row["head_dim"]) == (197, 32):
                row |= {"use": "triton", "forward": [32, 8, 1], "backward": [32, 8, 1]}
        table.write_table(path, content)
    monkeypatch.setattr(choice, "FOLDER", copy)
    choice.table_for.cache_clear()
    yield copy
    choice.table_for.cache_clear()


@pytest.fixture
def one_shape(monkeypatch):
    """One shape and few passes: the interpreter is slow."""
    monkeypatch.setattr(benchmark, "SMOKE_SHAPES", SMOKE_SHAPES[:1])
    few = lambda shape, direction, number: passes(shape, direction, number)[:2]  # noqa: E731
    monkeypatch.setattr(attention_ways, "passes", few)


def test_a_rehearsal(one_shape, tmp_path, capsys):
    out = tmp_path / "sweep.json"
    assert benchmark.main([*COMMAND, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["finished"] == [[50, 32]] and report["complete"]
    assert {"device", "versions", "commit", "date", "command"} <= set(report)
    measured = [(r["way"], r["direction"], r["pass"]) for r in report["rows"]]
    tried = {d: passes(SMOKE_SHAPES[0], d, 80)[:2] for d in ("forward", "backward")}
    ours = [("triton", d, list(one)) for d, both in tried.items() for one in both]
    theirs = [(name, d, None) for name in BACKENDS for d in ("forward", "forward+backward")]
    assert measured == ours + theirs
    for row in report["rows"]:
        if row["way"] in ("triton", "flash"):
            assert row["us"] > 0 and row["off"] < 1e-2
        else:  # of GPUs: a row, not the end
            assert row["error"].startswith("RuntimeError: No viable backend")
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last.startswith("| 50 | 32 | 64x")
    with pytest.raises(SystemExit, match=r"sweep\.json is of a rehearsal"):
        benchmark.main(["--write", str(out)])


def test_what_was_measured_stands_when_it_is_killed(one_shape, tmp_path, monkeypatch):
    out, right = tmp_path / "sweep.json", benchmark.measure

    def killed_at_the_third(way, shape, inputs):
        if len(json.loads(out.read_text())["rows"]) == 2:
            raise KeyboardInterrupt
        return right(way, shape, inputs)

    monkeypatch.setattr(benchmark, "measure", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main([*COMMAND, "--out", str(out)])
    report = json.loads(out.read_text())
    assert len(report["rows"]) == 2 and not report["complete"] and report["finished"] == []


def test_nothing_begins_when_the_time_is_over(tmp_path):
    out = tmp_path / "sweep.json"
    assert benchmark.main([*COMMAND, "--seconds", "0", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["rows"] == [] and not report["complete"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_wrong_results_have_no_time(direction, one_shape, tmp_path, monkeypatch, capsys):
    kernel, right = attention_ways.kernel, getattr(attention_ways.kernel, direction)

    def wrong(*inputs):
        out = right(*inputs)
        (out[0] if direction == "forward" else out)[-1] *= 1.02
        return out

    monkeypatch.setattr(kernel, direction, wrong)
    assert benchmark.main(COMMAND) == 1
    assert f"N=50 d=32 triton {direction} 64x8x1: wrong results" in capsys.readouterr().out


def test_without_an_interpreter_the_rehearsal_starts_again_with_one(monkeypatch):
    """Kernels are interpreted or compiled from their import on."""

    class Started(Exception):
        pass

    def execve(program, command, environment):
        assert environment["TRITON_INTERPRET"] == "1" and command[2:] == [MODULE, *COMMAND]
        raise Started

    MODULE = "benchmarks.attention"
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(Started):
        benchmark.main(COMMAND)


def sweep(path, rows, finished, architecture=90):
    """A report of given microseconds: {(way, direction, pass): us or None for an error}."""
    shape = {"tokens": 197, "head_dim": 32, "heads": 16, "batch": 256}
    report = {
        "device": "A GPU", "gpu": {"driver": "1.2"}, "date": "2027-01-02T00:00:00", "commit": "abc",
        "versions": {"torch": "2.11", "triton": "3.6"}, "architecture": architecture,
        "finished": finished, "rows": [],
    }  # fmt: skip
    for (way, direction, one), us in rows.items():
        found = {"error": "wrong results"} if us is None else {"us": us}
        names = {"way": way, "direction": direction, "pass": one}
        report["rows"].append(shape | names | found)
    path.write_text(json.dumps(report))
    return path


BOTH = "forward+backward"
TIMES = {
    ("triton", "forward", (32, 8, 1)): 100.0,
    ("triton", "forward", (64, 8, 1)): 98.0,  # noise
    ("triton", "backward", (32, 8, 1)): 400.0,
    ("triton", "backward", (64, 8, 2)): 300.0,
    ("triton", "backward", (64, 8, 3)): None,
    ("cudnn", BOTH, None): 450.0,
    ("flash", BOTH, None): 440.0,  # noise
    ("efficient", BOTH, None): 900.0,
}


def row_of(folder, number, tokens=197, head_dim=32):
    rows = json.loads((folder / f"attention_sm{number}.json").read_text())["rows"]
    return next(r for r in rows if (r["tokens"], r["head_dim"]) == (tokens, head_dim))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"use": "triton", "backward": [64, 8, 2], "sdpa": ["cudnn", "flash", "efficient"]}),
        ({("triton", "forward", (64, 8, 1)): 90.0}, {"use": "triton", "forward": [64, 8, 1]}),
        (
            {("flash", BOTH, None): 395.0},
            {"use": "triton", "sdpa": ["flash", "cudnn", "efficient"]},
        ),
        ({("flash", BOTH, None): 380.0}, {"use": "sdpa", "sdpa": ["flash", "cudnn", "efficient"]}),
        ({("cudnn", BOTH, None): None}, {"use": "triton", "sdpa": ["flash", "efficient"]}),
        (
            {key: None for key in TIMES if key[0] == "triton"},
            {"use": "sdpa", "forward": [32, 8, 1]},
        ),
    ],
)
def test_the_winner_is_who_is_faster_by_more_than_noise(changes, expected, folder, tmp_path):
    before = row_of(folder, 90)
    path = sweep(tmp_path / "sweep.json", TIMES | changes, finished=[[197, 32]])
    benchmark.main(["--write", str(path)])
    after = row_of(folder, 90)
    source = "A GPU, driver 1.2, 2027-01-02, commit abc, torch 2.11 triton 3.6"
    kept = {name: before[name] for name in ("forward", "tokens")}
    assert {name: after[name] for name in (*kept, *expected, "source")} == (
        kept | expected | {"source": source}
    )
    assert choice.table_for((9, 0))[256, 32].use == expected["use"]
    assert row_of(folder, 90, 50, 64)["source"] == row_of(folder, 80)["source"]


def test_a_shape_that_was_not_finished_keeps_its_row(folder, tmp_path):
    before = (folder / "attention_sm90.json").read_text()
    table.update(sweep(tmp_path / "sweep.json", TIMES, finished=[]))
    assert (folder / "attention_sm90.json").read_text() == before


def test_an_architecture_without_a_table_gets_its_own(folder, tmp_path):
    """Made from the table that it took before."""
    table.update(sweep(tmp_path / "sweep.json", TIMES, [[197, 32]], architecture=89))
    assert row_of(folder, 89)["source"].startswith("A GPU") and choice.architecture((8, 9)) == 89
    assert row_of(folder, 89, 50, 64) == row_of(folder, 80, 50, 64)


@pytest.mark.parametrize("number", [80, 90, 100])
def test_the_sweep_tries_what_the_tables_hold(number):
    """Otherwise what is present could not defend its place."""
    found = json.loads(choice.path_of(number).read_text())["rows"]
    by_shape = {(shape.tokens, shape.head_dim): shape for shape in SHAPES}
    assert set(by_shape) == {(row["tokens"], row["head_dim"]) for row in found}
    for row in found:
        for direction in ("forward", "backward"):
            tried = passes(by_shape[row["tokens"], row["head_dim"]], direction, number)
            assert not row[direction] if not tried else tuple(row[direction]) in tried
    assert (64, 8, 2) in passes(by_shape[197, 32], "backward", 90)
