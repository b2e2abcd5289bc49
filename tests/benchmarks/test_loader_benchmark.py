"""The loader benchmark: what it measures, what it refuses, and that each check can fail."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from fake_loaders import Absent, Dying, Hanging, Wrong
from PIL import Image

from benchmarks.harness import ROOT, with_relative_paths
from benchmarks.loaders import __main__ as program
from benchmarks.loaders import measure as measuring
from benchmarks.loaders import process
from benchmarks.loaders.base import EndlessSteps, LoadJob, Missing, Pixels
from benchmarks.loaders.difference import difference
from benchmarks.loaders.images import image_set
from benchmarks.loaders.measure import Measured
from benchmarks.loaders.process import Failed, LoaderProcess, Round, Runner, Start
from benchmarks.loaders.registry import LOADERS
from benchmarks.loaders.results import ratios, results, stages, targets
from benchmarks.loaders.tables import markdown, plot_sweep, sweep_rows
from benchmarks.loaders.usage import cpu_seconds, family, memory_bytes
from fastimae.loaders import BetonWriter
from fastimae.loaders.errors import DataError

BATCH = 8


@pytest.fixture
def job(jpegs, tmp_path):
    images = image_set("beton", jpegs, tmp_path / "scratch", 20, 0)
    return LoadJob(images=images, batch_size=BATCH, num_workers=1, seed=3)


@pytest.fixture
def forked(monkeypatch):
    """Fork the processes of loaders, as new ones import torch; other tests start new ones."""
    fork, ours = multiprocessing.get_context("fork"), []

    def pipe():
        ours.append(fork.Pipe())
        return ours[-1]

    def run(target, *args):
        for end, _ in ours:  # else it would not see that the other side hangs up
            end.close()
        target(*args)

    context = types.SimpleNamespace(
        Pipe=pipe, Process=lambda target, args: fork.Process(target=run, args=(target, *args))
    )
    module = types.SimpleNamespace(get_context=lambda _: context)
    monkeypatch.setattr(process, "multiprocessing", module)


def measured(*speeds, name="pillow", stages=(), **more):
    """Make a loader with rounds of one second, `speeds` images in each."""
    rounds = [
        Round(images=speed, seconds=1.0, cpu_seconds=2.0, stages=dict(stages)) for speed in speeds
    ]
    job = LoadJob(images=None, batch_size=BATCH, num_workers=2, seed=0)
    return Measured(make=LOADERS[name], job=job, rounds=rounds, **more)


def test_a_whole_run(jpegs, image_folder, tmp_path, monkeypatch, forked, capsys):
    """Loaders that work are measured; those that do not are named, and fail the run."""
    fakes = {"wrong": Wrong, "dying": Dying}
    monkeypatch.setattr(program, "LOADERS", LOADERS | fakes)
    monkeypatch.setattr(program, "IN_BETON", ("wrong", "pillow", "dying"))
    monkeypatch.setattr(program, "ON_ORIGINALS", ("pillow",))
    monkeypatch.setattr(program, "OVER_THREADS", ("pillow",))
    monkeypatch.setattr(measuring, "CHECKED_IMAGES", 2 * BATCH)
    out = tmp_path / "out" / "report.json"
    settings = f"--batch_size {BATCH} --num_workers 2 --rounds 2 --seconds 0.05".split()
    status = program.main(
        ["--data", str(jpegs), "--folder", str(image_folder), "--out", str(out), *settings]
    )
    report, text = json.loads(out.read_text()), with_relative_paths(capsys.readouterr().out)
    assert status == 1 and out.with_suffix(".md").read_text() in text
    assert {"device", "versions", "commit", "date", "command", "settings"} <= set(report)
    rows = report["results"] + report["originals"]
    seen = [(row["backend"], row["section"]) for row in rows]
    assert seen == [("pillow", "beton"), ("pillow", "originals")]
    for row in rows:
        assert row["pixel_mean_abs_diff"] == row["pixel_max_abs_diff"] == row["pixels_unequal"] == 0
        assert row["images_checked"] == 4 * BATCH
        assert len(row["img_per_s_rounds"]) == 2
        assert 0 < row["img_per_s_min"] <= row["img_per_s"] <= row["img_per_s_max"]
        assert row["first_batch_ms"] > 0 and row["img_per_s_first_epoch"] > 0
        assert 0 <= row["cpu_seconds_per_img"] < 1
        assert row["peak_memory_mb"] > 0
    assert set(report["failed"]) == {"wrong (beton)", "dying (beton)"}
    assert "WRONG PIXELS" in report["failed"]["wrong (beton)"]
    assert "exit status 7" in report["failed"]["dying (beton)"]
    assert [row["num_workers"] for row in report["sweep"]] == [1, 2]
    assert out.with_suffix(".png").stat().st_size > 1000
    for part in ("| pillow |", "FAILED: wrong", "original files", "## Over threads"):
        assert part in text
    assert multiprocessing.active_children() == []


def test_a_single_wrong_value_is_seen(job):
    runner = Runner(Wrong, job)
    runner.start()
    seen = runner.check(2 * BATCH)
    runner.close()
    assert (seen.images, seen.largest) == (2 * BATCH, 1)
    values = 224 * 224 * 2 * BATCH
    assert seen.mean == pytest.approx(2 / values / 3) and seen.unequal == pytest.approx(2 / values)


@pytest.mark.parametrize(
    "name",
    [
        *("pillow", "folder", "torchvision", "torchvision_tensor"),
        *("dali", "simplejpeg", "torchcodec", "spdl"),
    ],
)
def test_loaders_decode_the_windows_they_tell(job, name):
    """The checked images are those of the set, and only the decoder makes a difference."""
    try:
        LOADERS[name].prepare()
    except Missing as missing:
        pytest.skip(str(missing))
    runner = Runner(LOADERS[name], job)
    runner.start()
    shown = next(runner.loader.pixels(runner.stream))
    seen = runner.check(BATCH)
    runner.close()
    assert np.isin(shown.index, job.images.subset).all() and len(set(shown.index)) == BATCH
    limit = 5 if name == "spdl" else 1  # FFmpeg scales the chroma of these colourful images apart
    assert seen.mean < limit and (seen.largest == 0) == LOADERS[name].exact


def test_difference_is_of_the_same_window(job):
    """The right image in a wrong window is as wrong as another image."""
    step = next(iter(EndlessSteps(job)))
    runner = Runner(LOADERS["pillow"], job)
    runner.start()
    right = next(runner.loader.pixels(runner.stream))
    runner.close()
    moved = Pixels(images=right.images, index=right.index, key=right.key + 1)
    assert difference(iter([right]), job, BATCH).largest == 0
    assert difference(iter([moved]), job, BATCH).mean > 5
    assert step.index.dtype == np.int64


def test_endless_steps_show_all_images_again_and_again(job):
    steps = EndlessSteps(job)
    shown = [steps.step(0, number) for number in range(6)]
    passes = [np.concatenate([step.index for step in shown[i : i + 2]]) for i in (0, 2, 4)]
    assert all(len(set(one)) == 2 * BATCH and set(one) <= set(job.images.subset) for one in passes)
    assert not np.array_equal(passes[0], passes[1])
    assert len({key for step in shown for key in step.key}) == 6 * BATCH


def test_images_are_a_subset_byte_for_byte(jpegs, image_folder, tmp_path):
    images = image_set("beton", jpegs, tmp_path, 20, 0)
    originals = [file.read_bytes() for file in sorted(image_folder.rglob("*.jpg"))]
    assert len(set(images.subset)) == 20 and len(list(images.folder.rglob("*.jpg"))) == 20
    assert all(images.path(i).read_bytes() == originals[i] for i in images.subset)
    assert images.facts["mean_bytes"] == np.mean([len(originals[i]) for i in images.subset])


def test_raw_pixels_are_refused(tmp_path):
    with BetonWriter(tmp_path / "raw.beton") as writer:
        writer.append(bytes(300), height=10, width=10, mode="raw", label=0)
    with pytest.raises(DataError, match="raw pixels"):
        image_set("beton", tmp_path / "raw.beton", tmp_path, 20, 0)


def test_rounds_count_what_was_taken(job):
    runner = Runner(LOADERS["pillow"], job)
    runner.start()
    begin = time.perf_counter()
    one = runner.round(0.3)
    outside = time.perf_counter() - begin
    runner.close()
    assert 0.3 <= one.seconds <= outside
    assert one.images > 0 and one.images % BATCH == 0


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("dali", "nvidia.dali", "fastimae[dali]"),
        ("ffcv_library", "ffcv", "fastimae[ffcv]"),
        ("simplejpeg", "simplejpeg", "fastimae[peers]"),
        ("torchcodec", "torchcodec.decoders", "fastimae[peers]"),
        ("spdl", "spdl.io", "fastimae[peers]"),
    ],
)
def test_a_missing_library_is_named_with_its_install_line(name, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Missing, match=r"pip install 'fastimae\[") as caught:
        LOADERS[name].prepare()
    assert extra in str(caught.value)


def test_nothing_is_imported_before_it_is_used():
    code = "import benchmarks.loaders.__main__, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    peers = {"nvidia.dali", "ffcv", "numba", "cv2", "torchvision"}
    peers |= {"simplejpeg", "torchcodec", "spdl"}
    assert not peers & set(done.stdout.split())


def test_a_missing_loader_is_named_and_an_error_if_requested(
    jpegs, tmp_path, monkeypatch, forked, capsys
):
    monkeypatch.setattr(program, "LOADERS", LOADERS | {"pillow": Absent})
    out = tmp_path / "report.json"
    arguments = f"--data {jpegs} --out {out} --batch_size {BATCH} --only pillow".split()
    assert program.main(arguments) == 1
    report = json.loads(out.read_text())
    assert report["results"] == [] and report["failed"] == {}
    assert report["missing"] == {"pillow": "no such thing: pip install such-thing"}
    assert "missing: pillow: no such thing: pip install such-thing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "pilow"], "--only pilow"),
        (["--rounds", "0"], "--rounds"),
        (["--num_workers", "0"], "--num_workers"),
        (["--batch_size", "1000"], "--batch_size 1000"),
    ],
)
def test_wrong_options_are_one_line(jpegs, arguments, message, capsys):
    assert program.main(["--data", str(jpegs), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_hanging_loader_is_ended(job):
    host = LoaderProcess(Hanging, job)
    with pytest.raises(Failed, match=r"no answer within 0\.2 s"):
        host.ask("start", limit=0.2)
    host.close()
    assert multiprocessing.active_children() == []


def test_ratios_and_targets():
    found = {
        "native": measured(200, 180, 210, name="native"),
        "ffcv": measured(100, 100, 100, name="ffcv"),
        "dali": measured(50, 60, 40, name="dali"),
        "pillow": measured(40, 40, 40),
        "absent": measured(),
    }
    rows = ratios("beton", found, targets(avx512=True))
    seen = [(row["against"], row["ratio"], row["target"], row["met"]) for row in rows]
    assert seen == [
        ("ffcv", 2.0, 1.8, True),
        ("ffcv", 2.0, 2.4, False),
        ("dali", 4.0, 3.2, True),
        ("pillow", 5.0, None, None),
    ]
    assert (rows[2]["min"], rows[2]["max"]) == (3.0, 5.25)
    # Two seconds of CPU time a round, whatever was done in it.
    assert rows[2]["cpu_ratio"] == pytest.approx(590 / 150)
    assert targets(avx512=False)[0].ratio == 1.6
    assert [row["target"] for row in ratios("originals", found, targets(avx512=True))] == [None] * 3
    assert ratios("beton", {"ffcv": found["ffcv"]}, targets(avx512=True)) == []


def test_targets_are_for_two_threads():
    job = LoadJob(images=None, batch_size=BATCH, num_workers=4, seed=0)
    native = measured(200, name="native")
    native.job = job
    rows = ratios("beton", {"native": native, "ffcv": measured(1)}, targets(avx512=True))
    assert {row["met"] for row in rows} == {None}


def test_stages_are_of_one_image():
    parts = {"images": 50, "resize": 0.01, "entropy": 0.02}, {"images": 150, "resize": 0.01}
    assert stages(*parts) == pytest.approx({"resize": 100.0, "entropy": 100.0})
    assert stages({}, {}) is None


def test_the_report_of_an_engine_with_stages(job):
    first = {"images": 10, "read": 0.001, "entropy": 0.007}
    start = Start(first_batch_ms=1.0, first_pass_img_per_s=None, bytes_before=0, stages=first)
    spent = {"images": 100, "read": 0.0, "entropy": 0.06, "pixels": 0.02, "resize": 0.02}
    one = measured(100, 100, name="native", stages=spent, start=start)
    one.job = job
    report = {
        "device": "CPU", "versions": {}, "date": "", "commit": "", "command": "", "sweep": [],
        "sets": {"beton": job.images.facts}, "results": results({"native": one}), "originals": [],
        "ratios": [], "missing": {}, "failed": {},
    }  # fmt: skip
    text = markdown(report)
    assert "| entropy decoding | 600.0 | 60% | 700.0 |" in text
    assert "| read, checksum | 0.0 | 0% | 100.0 |" in text
    assert "| sum | 1000.0 |  | 800.0 |" in text
    assert "| CPU time of the process | 20000.0 |  |  |" in text
    assert report["results"][0]["stages_us_per_img"]["entropy"] == pytest.approx(600)


def test_sweep_table_and_plot(tmp_path):
    sweep = [
        {"backend": name, "num_workers": count, "img_per_s": speed} for name, count, speed in
        [("native", 1, 100.0), ("dali", 1, 30.0), ("native", 2, 190.4)]
    ]  # fmt: skip
    assert sweep_rows(sweep) == [
        {"threads": 1, "native": "100", "dali": "30"},
        {"threads": 2, "native": "190", "dali": ""},
    ]
    ends = [row | {"img_per_s_min": 10.0, "img_per_s_max": 200.0} for row in sweep]
    plot_sweep(ends, "a CPU", tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 300


def test_usage_counts_children():
    code = "import os; data = bytearray(os.urandom(1)) * 64_000_000\nfor i in range(10**7): pass\n"
    before = memory_bytes(os.getpid()), cpu_seconds(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", code + "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        child.stdout.readline()
        assert child.pid in family(os.getpid())
        during = memory_bytes(os.getpid()), cpu_seconds(os.getpid())
        child.communicate(b"\n")
    assert child.pid not in family(os.getpid())
    # The parent's own memory may shrink a little meanwhile.
    assert during[0] - before[0] > 60e6
    assert during[1] > before[1]
    assert cpu_seconds(os.getpid()) >= during[1], "time of a child that has ended is kept"
