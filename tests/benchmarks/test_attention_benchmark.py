"""The sweep over attention, in the interpreter, and the table that is made from it."""

import dataclasses
import json
import os
import shutil

import pytest

from benchmarks import sweeps, winners
from benchmarks.attention import __main__ as benchmark
from benchmarks.attention import table, variants
from benchmarks.attention.cases import SHAPES, SMOKE_SHAPES, passes
from fastimae.kernels import _attention_choice as choice
from fastimae.kernels import _tables
from fastimae.kernels._attention_choice import Pass

COMMAND = ["--smoke", "--device", "cpu"]
BACKENDS = ("cudnn", "flash", "efficient")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Copy the tables to a folder for writing, in their state before any measurement."""
    copy = tmp_path / "tables"
    shutil.copytree(_tables.FOLDER, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in copy.glob("attention_sm*.json"):
        content = json.loads(path.read_text())
        for row in content["rows"]:
            row |= {"sdpa": list(choice.BACKENDS), "source": "estimate, not measured"}
            if (row["tokens"], row["head_dim"]) == (197, 32):
                row |= {"use": "triton", "forward": [32, 8, 1, 1], "backward": [32, 8, 1, 1]}
        winners.write_table(path, content, choice.parse)
    monkeypatch.setattr(_tables, "FOLDER", copy)
    choice.table_for.cache_clear()
    yield copy
    choice.table_for.cache_clear()


@pytest.fixture
def one_shape(monkeypatch):
    """Sweep one shape with few passes: the interpreter is slow."""
    op = dataclasses.replace(benchmark.OP, smoke_shapes=SMOKE_SHAPES[:1])
    monkeypatch.setattr(benchmark, "OP", op)
    few = lambda shape, direction, number: passes(shape, direction, number)[:2]  # noqa: E731
    monkeypatch.setattr(variants, "passes", few)


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
    with pytest.raises(SystemExit, match=r"sweep\.json is from a rehearsal"):
        benchmark.main(["--write", str(out)])


def test_a_kill_keeps_what_was_measured(one_shape, tmp_path, monkeypatch):
    out, right = tmp_path / "sweep.json", sweeps.measure

    def killed_at_the_third(*given):
        if len(json.loads(out.read_text())["rows"]) == 2:
            raise KeyboardInterrupt
        return right(*given)

    monkeypatch.setattr(sweeps, "measure", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main([*COMMAND, "--out", str(out)])
    report = json.loads(out.read_text())
    assert len(report["rows"]) == 2 and not report["complete"] and report["finished"] == []


def test_nothing_starts_after_the_deadline(tmp_path):
    out = tmp_path / "sweep.json"
    assert benchmark.main([*COMMAND, "--seconds", "0", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["rows"] == [] and not report["complete"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_wrong_results_have_no_time(direction, one_shape, tmp_path, monkeypatch, capsys):
    kernel, right = variants.kernel, getattr(variants.kernel, direction)

    def wrong(*inputs, **options):
        out = right(*inputs, **options)
        out[0][-1] *= 1.02
        return out

    monkeypatch.setattr(kernel, direction, wrong)
    assert benchmark.main(COMMAND) == 1
    assert f"N=50 d=32 triton {direction} 64x8x1x1: wrong results" in capsys.readouterr().out


def test_without_an_interpreter_the_rehearsal_restarts_with_one(monkeypatch):
    """Whether kernels are interpreted is fixed when they are imported."""

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
    """Write a report of given microseconds: {(way, direction, pass): us or None for an error}."""
    shape = {"tokens": 197, "head_dim": 32, "heads": 16, "batch": 256}
    report = {
        "device": "A GPU", "gpu": {"driver": "1.2"}, "date": "2027-01-02T00:00:00", "commit": "abc",
        "versions": {"torch": "2.11", "triton": "3.6"}, "architecture": architecture,
        "finished": finished, "rows": [], "op": "attention", "shape": ["tokens", "head_dim"],
    }  # fmt: skip
    for (way, direction, one), us in rows.items():
        found = {"error": "wrong results"} if us is None else {"us": us}
        names = {"way": way, "direction": direction, "pass": one}
        report["rows"].append(shape | names | found)
    path.write_text(json.dumps(report))
    return path


BOTH = "forward+backward"
TIMES = {
    ("triton", "forward", (32, 8, 1, 1)): 100.0,
    ("triton", "forward", (64, 8, 1, 1)): 98.0,  # noise
    ("triton", "backward", (32, 8, 1, 1)): 400.0,
    ("triton", "backward", (64, 8, 2, 1)): 300.0,
    ("triton", "backward", (64, 8, 3, 1)): None,
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
        ({}, {"use": "triton", "backward": [64, 8, 2, 1], "sdpa": ["cudnn", "flash", "efficient"]}),
        ({("triton", "forward", (64, 8, 1, 1)): 90.0}, {"use": "triton", "forward": [64, 8, 1, 1]}),
        (
            {("flash", BOTH, None): 395.0},
            {"use": "triton", "sdpa": ["flash", "cudnn", "efficient"]},
        ),
        ({("flash", BOTH, None): 380.0}, {"use": "sdpa", "sdpa": ["flash", "cudnn", "efficient"]}),
        ({("cudnn", BOTH, None): None}, {"use": "triton", "sdpa": ["flash", "efficient"]}),
        (
            {key: None for key in TIMES if key[0] == "triton"},
            {"use": "sdpa", "forward": [32, 8, 1, 1]},
        ),
    ],
)
def test_the_winner_is_faster_by_more_than_noise(changes, expected, folder, tmp_path):
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
    """It starts from the table that the architecture used before."""
    table.update(sweep(tmp_path / "sweep.json", TIMES, [[197, 32]], architecture=89))
    assert (
        row_of(folder, 89)["source"].startswith("A GPU")
        and _tables.architecture("attention", (8, 9)) == 89
    )
    assert row_of(folder, 89, 50, 64) == row_of(folder, 80, 50, 64)


@pytest.mark.parametrize("number", [80, 90, 100])
def test_the_sweep_tries_what_the_tables_hold(number):
    """Otherwise the present choice could not win."""
    found = json.loads(_tables.table_path("attention", number).read_text())["rows"]
    by_shape = {(shape.tokens, shape.head_dim): shape for shape in SHAPES}
    assert set(by_shape) == {(row["tokens"], row["head_dim"]) for row in found}
    for row in found:
        for direction in ("forward", "backward"):
            tried = passes(by_shape[row["tokens"], row["head_dim"]], direction, number)
            assert not row[direction] if not tried else Pass(*row[direction]) in tried
    assert Pass(64, 8, 2) in passes(by_shape[197, 32], "backward", 90)
