"""Documents say what the committed results say."""

import json
import shutil

import pytest

from benchmarks import report

CONDITIONS = {
    "device": "A GPU",
    "versions": {"torch": "2.15.0"},
    "commit": "abc1234",
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m benchmarks.train",
}


def row(case, variant, speed, **more):
    return {
        "case": case, "variant": variant, "img_per_s": speed, "data": "synthetic", "mfu": 0.5,
        "batch_size": 8, "precision": "bf16", "ms": 8e3 / speed, "ms_20": 1.0, "ms_80": 2.0,
        "x_reference": speed / 100, "note": "", **more,
    }  # fmt: skip


TRAIN = {
    **CONDITIONS,
    "gemm": {"bf16": 1e12},
    "results": [
        row("mae", "reference", 100.0),
        row("mae", "fastimae", 425.0),
        row("mae", "fastimae", 300.0, data="f.beton", data_wait=0.01),
    ],
    "ladder": [row("mae", "reference", 100.0), row("mae", "SDPA", 150.0)],
    "failed": {},
}


@pytest.fixture
def root(tmp_path):
    """A repository with one result and pages that ask for its tables."""
    (tmp_path / report.RESULTS).mkdir(parents=True)
    (tmp_path / report.RESULTS / "train.json").write_text(json.dumps(TRAIN))
    for page in report.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text(
            "Before.\n<!-- train table: benchmarks/results/train.json -->\nold\n<!-- end -->\n"
            "Between.\n<!-- ladder table: benchmarks/results/train.json mae -->\n<!-- end -->\n"
            "After."
        )
    return tmp_path


def test_tables_are_filled_and_the_rest_stays(root):
    assert report.main([], root) == 0
    text = (root / "README.md").read_text()
    assert "old" not in text
    assert [text.count(word) for word in ("Before.", "Between.", "After.", "<!-- end -->")] == [
        1, 1, 1, 2,
    ]  # fmt: skip
    assert "| mae | 8 | 100 | 425 | 4.25 | 50% |" in text
    assert "| SDPA | 150 |" in text and "| x 1.50 | x 1.50 |" in text


def test_check_sees_what_is_stale_and_changes_nothing(root, capsys):
    before = (root / "README.md").read_text()
    assert report.main(["--check"], root) == 1
    assert "README.md" in capsys.readouterr().err
    assert (root / "README.md").read_text() == before
    report.main([], root)
    assert report.main(["--check"], root) == 0
    results = json.loads((root / report.RESULTS / "train.json").read_text())
    results["results"][1]["img_per_s"] = 450.0
    (root / report.RESULTS / "train.json").write_text(json.dumps(results))
    assert report.main(["--check"], root) == 1


def test_the_index_has_every_file_with_its_conditions(root):
    for name in ("aot.json", "loaders_2_cores_zen5.json"):
        shutil.copy(report.ROOT / report.RESULTS / name, root / report.RESULTS)
    report.main([], root)
    text = (root / report.INDEX).read_text()
    for name in ("aot.json", "loaders_2_cores_zen5.json", "train.json"):
        assert f"## [{name}]({name})" in text
    assert "kernels compiled for" in text and "| native (the default) |" in text
    assert "A GPU; 2026-01-02, commit abc1234, torch 2.15.0" in text
    assert "f.beton" in text and "1.0%" in text


def test_a_sweep_of_attention_has_its_best_times():
    shape = {"tokens": 50, "head_dim": 64}
    rows = [
        shape | {"way": "triton", "direction": "forward", "pass": [64, 4, 1], "us": 20.0},
        shape | {"way": "triton", "direction": "backward", "pass": [64, 4, 1], "us": 50.0},
        shape | {"way": "triton", "direction": "backward", "pass": [64, 8, 1], "us": 40.0},
        shape | {"way": "flash", "direction": "forward+backward", "pass": None, "us": 90.0},
        shape | {"way": "cudnn", "direction": "forward", "pass": None, "error": "too new"},
    ]
    text = report._tables({"rows": rows, "finished": []})
    assert "| 50 | 64 | 64x4x1, 64x8x1 | 60 |  | 90 |  |" in text


@pytest.mark.parametrize("marker", ["poem: benchmarks/results/train.json", "train table: no.json"])
def test_a_marker_that_cannot_be_filled_is_an_error(root, marker):
    (root / "README.md").write_text(f"<!-- {marker} -->\n<!-- end -->")
    with pytest.raises(ValueError, match=r"no such (table|file)"):
        report.main([], root)


def test_every_committed_result_can_be_shown():
    for file in (report.ROOT / report.RESULTS).glob("*.json"):
        assert len(report._tables(json.loads(file.read_text()))) > 20, file


def test_the_loader_table_has_what_was_measured():
    file = report.ROOT / report.RESULTS / "loaders_2_cores_zen5.json"
    found = json.loads(file.read_text())
    lines = report.loader_table(found).splitlines()[2:]
    native = next(row for row in found["results"] if row["backend"] == "native")
    assert lines[0].startswith(f"| native (the default) | {native['img_per_s']:.0f} |")
    assert len(lines) == sum(row["backend"] in report.LOADERS for row in found["results"])
