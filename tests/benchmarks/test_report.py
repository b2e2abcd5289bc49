"""Documents have the tables of the committed results."""

import json
import re
import shutil
from xml.etree import ElementTree

import pytest

from benchmarks import report
from benchmarks.loaders.registry import LOADERS
from fastimae.evaluate.options import finetune_recipes, linear
from fastimae.recipes import RECIPES

SVG = "{http://www.w3.org/2000/svg}"

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
    """Make a repository with one result, and pages with markers for its tables."""
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
    text = report.tables({"op": "attention", "rows": rows, "finished": []})
    assert "| 50 | 64 | 64x4x1, 64x8x1 | 60 |  | 90 |  |" in text


@pytest.mark.parametrize("marker", ["poem: benchmarks/results/train.json", "train table: no.json"])
def test_a_marker_that_cannot_be_filled_is_an_error(root, marker):
    (root / "README.md").write_text(f"<!-- {marker} -->\n<!-- end -->")
    with pytest.raises(ValueError, match=r"no such (table|file)"):
        report.main([], root)


def test_every_committed_result_can_be_shown():
    for file in (report.ROOT / report.RESULTS).glob("*.json"):
        found = json.loads(file.read_text())
        text = report.tables(found)
        filled = re.search(r"^\|.*\d.*\|$|^\d+ kernels compiled", text, re.MULTILINE)
        assert filled or not found.get("complete", True), file


def loaded(backend, speed=100.0, **more):
    return {
        "backend": backend, "img_per_s": speed, "cpu_seconds_per_img": 1e-3, "first_batch_ms": 50.0,
        "peak_memory_mb": 60.0, "pixel_mean_abs_diff": 0.0, **more,
    }  # fmt: skip


def test_every_loader_has_a_row():
    speeds = {name: 100.0 + number for number, name in enumerate(reversed(LOADERS))}
    rows = [loaded(name, speed) for name, speed in speeds.items()]
    lines = report.loader_table({"results": rows, "originals": rows[:1]}).splitlines()[2:]
    for line, (name, loader) in zip(lines, LOADERS.items(), strict=True):
        assert line.startswith(f"| {name} ({loader.label}) | {speeds[name]:.0f} |")
    assert len({loader.label for loader in LOADERS.values()}) == len(LOADERS)


@pytest.mark.parametrize("section", ["results", "originals"])
def test_a_row_of_an_unknown_loader_is_an_error(section):
    rows = {"results": [loaded("native")], "originals": []}
    rows[section] = [*rows[section], loaded("dali_cuda")]
    with pytest.raises(ValueError, match=r"dali_cuda: not in .*registry\.py"):
        report.loader_table(rows)


def test_a_loader_measured_in_part_has_a_row():
    """Its run ended before its memory was measured, or before the .beton was read."""
    rows = [loaded("native", peak_memory_mb=None, pixel_mean_abs_diff=None)]
    table = report.loader_table({"results": rows, "originals": [loaded("folder", 77.0)]})
    assert "| native (the default) | 100 |  | 1000 | 50 |  | unknown |" in table
    assert "| folder (`--data_path`) |  | 77 |  |  |  |  |" in table


def test_cases_and_variants_measured_in_part_have_what_there_is():
    rows = [row("mae", "fastimae", 400.0), row("imae", "reference", 50.0)]
    rows += [row("imae", "fastimae", 100.0), row("late", "reference", 1.0)]
    lines = report.train_table({"results": rows}).splitlines()
    assert lines[0] == "| case | batch | fastimae | reference | over reference | MFU |"
    assert lines[2:] == ["| mae | 8 | 400 |  |  | 50% |", "| imae | 8 | 100 | 50 | 2.00 | 50% |"]


def write(root, name, found):
    (root / report.RESULTS / name).write_text(json.dumps(found))


def test_a_page_switches_to_the_gpus_result_by_itself(root):
    gpu, cpu = "benchmarks/results/gpu_train.json", "benchmarks/results/train.json"
    kernels = "benchmarks/results/gpu_kernels.json"
    text = "".join(
        f"<!-- {marker} -->\n<!-- end -->\n"
        for marker in (
            f"train table: {gpu} or {cpu}",
            f"conditions: {gpu} or {cpu}",
            f"kernel table: {kernels} or nothing",
            f"ladder table: {gpu} or {cpu} mae",
        )
    )
    (root / "README.md").write_text(text)
    report.main([], root)
    before = (root / "README.md").read_text()
    assert "| mae | 8 | 100 | 425 |" in before and "A GPU;" in before and "| SDPA | 150 |" in before
    assert f"{kernels} or nothing -->\nNot measured on a GPU yet.\n<!-- end -->" in before
    faster = [row("mae", "reference", 1000.0), row("mae", "fastimae", 5000.0)]
    write(root, "gpu_train.json", {**TRAIN, "device": "NVIDIA H100", "results": faster})
    timed = {"op": "attention", "shape": "S", "pass": "forward", "variant": "auto", "ms": 0.5}
    rows = [{"op": "copy", "of copy": 1.0}, {**timed, "of copy": 0.9}]
    write(root, "gpu_kernels.json", {**CONDITIONS, "rows": rows, "traffic": []})
    assert report.main(["--check"], root) == 1
    report.main([], root)
    after = (root / "README.md").read_text()
    assert "| mae | 8 | 1000 | 5000 | 5.00 | 50% |" in after and "425" not in after
    assert "NVIDIA H100; " in after and "| attention | S | forward | 0.5 | 90% |" in after
    assert "Not measured" not in after


def test_a_result_of_plain_rows_is_a_table(root):
    write(root, "gpu_gemm.json", {**CONDITIONS, "rows": [{"product": "fc1", "TFLOP/s": 612.5}]})
    assert "| product | TFLOP/s |\n| --- | --- |\n| fc1 | 612.5 |" in report.index(root)


@pytest.mark.parametrize("cut", [{"complete": False}, {"results": [], "ladder": []}])
def test_a_page_does_not_switch_to_an_incomplete_result(cut, root):
    marker = (
        "<!-- train table: benchmarks/results/gpu_train.json or benchmarks/results/train.json -->"
    )
    (root / "README.md").write_text(f"{marker}\n<!-- end -->\n")
    gpu = {**TRAIN, "device": "H100", "results": [row("mae", "fastimae", 9000.0)], **cut}
    (root / report.RESULTS / "gpu_train.json").write_text(json.dumps(gpu))
    report.main([], root)
    text = (root / "README.md").read_text()
    assert "425" in text and "9000" not in text


def test_the_chart_of_loaders_is_drawn_from_the_result_and_checked(root):
    rows = [loaded("torchvision", 500.0), loaded("native", 4000.0), loaded("folder", 9000.0)]
    found = {**CONDITIONS, "results": rows, "originals": []}
    write(root, report.CHART_OF.name, found)
    assert report.main([], root) == 0
    for scheme in ("light", "dark"):
        drawn = ElementTree.parse(root / f"docs/images/loaders-{scheme}.svg").getroot()
        texts = [text.text for text in drawn.iter(f"{SVG}text")]
        assert texts == ["FastIMAE", "4000", "torchvision with Pillow", "500"]
        long, short = (float(bar.get("width")) for bar in drawn.iter(f"{SVG}rect"))
        assert long / short == pytest.approx(8, rel=1e-2)
    assert report.main(["--check"], root) == 0
    rows[0]["img_per_s"] = 501.0
    write(root, report.CHART_OF.name, found)
    assert report.main(["--check"], root) == 1


def test_recipes_have_their_settings_and_commands(root):
    (root / "docs/recipes.md").write_text("<!-- recipes -->\n<!-- end -->\n")
    report.main([], root)
    text = (root / "docs/recipes.md").read_text()
    for name, recipe in RECIPES.items():
        part = text.split(f"## {name}\n")[1].split("\n## ")[0]
        commands = part.split("```")[1]
        assert f"--recipe {name}" in commands or commands == "\nmake demo\n"
        assert all(f"| `{setting}` | " in part for setting in recipe())
        assert "**Hardware:** " in part and "**Expected:** " in part


def test_recipes_of_tasks_have_sections_of_their_own(root):
    markers = "".join(f"<!-- recipes {task} -->\n<!-- end -->\n" for task in ("finetune", "linear"))
    (root / "docs/recipes.md").write_text(markers)
    report.main([], root)
    text = (root / "docs/recipes.md").read_text()
    for task, recipes in (("finetune", finetune_recipes.RECIPES), ("linear", linear.RECIPES)):
        for name, recipe in recipes.items():
            part = text.split(f"## {task}: {name}\n")[1].split("\n## ")[0]
            assert all(f"| `{setting}` | " in part for setting in recipe())
