"""The sweep over an MLP's products, in the interpreter, and the table that is made from it."""

import dataclasses
import json
import shutil

import pytest

from benchmarks.mlp import __main__ as benchmark
from benchmarks.mlp import table, variants
from benchmarks.mlp.cases import SHAPES, SMOKE_SHAPES, blocks_to_try
from fastimae.kernels import _mlp_choice as choice
from fastimae.kernels import _tables

COMMAND = ["--smoke", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Copy the tables to a folder for writing."""
    copy = tmp_path / "tables"
    copy.mkdir()
    for path in _tables.FOLDER.glob("mlp_sm*.json"):
        shutil.copy(path, copy)
    monkeypatch.setattr(_tables, "FOLDER", copy)
    choice.table_for.cache_clear()
    yield copy
    choice.table_for.cache_clear()


@pytest.fixture
def few(monkeypatch):
    """Sweep one shape with one setting: the interpreter is slow."""
    op = dataclasses.replace(benchmark.OP, smoke_shapes=SMOKE_SHAPES[1:])
    monkeypatch.setattr(benchmark, "OP", op)
    one = lambda direction, number: blocks_to_try(direction, number)[:1]  # noqa: E731
    monkeypatch.setattr(variants, "blocks_to_try", one)


def test_a_rehearsal(few, tmp_path, capsys):
    out = tmp_path / "sweep.json"
    assert benchmark.main([*COMMAND, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["finished"] == [[64, 64]] and report["complete"]
    measured = [(row["way"], row["direction"], row["blocks"]) for row in report["rows"]]
    tried = {one: list(blocks_to_try(one, 80)[0]) for one in ("forward", "backward")}
    ours = {("triton", direction, tuple(blocks)) for direction, blocks in tried.items()}
    theirs = {("torch", "forward", ()), ("torch", "backward", ()), ("cublaslt", "forward", ())}
    assert {(*names, tuple(blocks or ())) for *names, blocks in measured} == ours | theirs
    assert all(row["us"] > 0 and row["off"] < 1e-2 for row in report["rows"])
    assert "| 64 | 64 | forward | 128x128x32x4x3 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"sweep\.json is from a rehearsal"):
        benchmark.main(["--write", str(out)])


@pytest.mark.parametrize(("direction", "part"), [("forward", 1), ("backward", 0), ("backward", 1)])
def test_wrong_results_have_no_time(direction, part, few, monkeypatch, capsys):
    right = getattr(variants.kernel, direction)

    def wrong(*inputs, **options):
        out = right(*inputs, **options)
        out[part][: len(out[part]) // 2] *= 1.03
        return out

    monkeypatch.setattr(variants.kernel, direction, wrong)
    assert benchmark.main(COMMAND) == 1
    said = capsys.readouterr().out.splitlines()
    assert [f"triton {direction}" in line for line in said].count(True) == 1
    assert any(f"triton {direction} 128x128" in one and "wrong results" in one for one in said)


TIMES = {
    ("triton", "forward", (128, 128, 64, 4, 3)): 100.0,
    ("triton", "forward", (128, 256, 64, 8, 3)): 98.0,  # noise
    ("triton", "backward", (128, 128, 64, 4, 2)): 140.0,
    ("triton", "backward", (128, 256, 64, 8, 3)): 120.0,
    ("triton", "backward", (128, 128, 64, 8, 3)): None,
    ("torch", "forward", None): 150.0,
    ("torch", "backward", None): 210.0,
    ("cublaslt", "forward", None): 1.0,  # whatever it takes
}


def sweep(path, times, finished):
    """Write a report of given microseconds, None for an error."""
    report = {
        "device": "A GPU", "gpu": {"driver": "1.2"}, "date": "2027-01-02T00:00:00", "commit": "abc",
        "versions": {"torch": "2.11", "triton": "3.6"}, "architecture": 90, "op": "mlp",
        "shape": ["rows", "width"], "finished": finished, "rows": [],
    }  # fmt: skip
    for (way, direction, blocks), us in times.items():
        found = {"error": "wrong results"} if us is None else {"us": us}
        names = {"way": way, "direction": direction, "blocks": blocks}
        report["rows"].append({"rows": 12800, "width": 768} | names | found)
    path.write_text(json.dumps(report))
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"use": "triton", "backward": [128, 256, 64, 8, 3]}),
        ({("torch", "forward", None): 2.0}, {"use": "torch"}),
        ({("torch", "backward", None): 68.0}, {"use": "triton"}),  # noise
        (
            {("triton", "forward", (128, 256, 64, 8, 3)): 90.0},
            {"forward": [128, 256, 64, 8, 3]},
        ),
        ({key: None for key in TIMES if key[0] == "triton"}, {"use": "torch"}),
        ({key: None for key in TIMES if key[0] == "torch"}, {"use": "triton"}),
    ],
)
def test_the_winner_is_faster_by_more_than_noise(changes, expected, folder, tmp_path):
    rows = table.update(sweep(tmp_path / "sweep.json", TIMES | changes, [[12800, 768]]))
    (row,) = [one for one in rows if (one["rows"], one["width"]) == (12800, 768)]
    kept = {"forward": [128, 128, 64, 4, 3]}
    assert {name: row[name] for name in (*kept, *expected)} == kept | expected
    assert row["source"] == "A GPU, driver 1.2, 2027-01-02, commit abc, torch 2.11 triton 3.6"
    assert json.loads((folder / "mlp_sm90.json").read_text())["rows"] == rows


def test_a_shape_that_was_not_finished_keeps_its_row(folder, tmp_path):
    before = (folder / "mlp_sm90.json").read_text()
    table.update(sweep(tmp_path / "sweep.json", TIMES, []))
    assert (folder / "mlp_sm90.json").read_text() == before


@pytest.mark.parametrize("number", [80, 90, 100])
def test_the_sweep_tries_what_the_tables_hold(number):
    """Otherwise the present choice could not win."""
    found = json.loads(_tables.table_path("mlp", number).read_text())["rows"]
    shapes = {(shape.rows, shape.width) for shape in SHAPES}
    assert shapes == {(row["rows"], row["width"]) for row in found}
    for row in found:
        for direction in ("forward", "backward"):
            assert tuple(row[direction]) in blocks_to_try(direction, number)
