"""Conversions from end to end: complete, reproducible, resumable, and never stuck."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import odd_jpegs
import pytest
from PIL import Image

from fastimae import cli
from fastimae.loaders import native_library
from fastimae.loaders.beton.reader import BetonReader, BetonWriter
from fastimae.loaders.convert import run as convert_module
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.errors import DataError
from fastimae.locks import InUse, file_to_write

PAGE = 1 << 16
LIBRARY = SimpleNamespace(own_entropy=lambda: 0)
"""For the parent process; the workers have the real library, or none."""


def jpeg(number, size=(24, 16)):
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def make_tree(root, count=40, classes=4):
    for number in range(count):
        folder = root / f"class{number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    return root


def run(src, out, **options):
    return convert(
        ConvertOptions(src=str(src), out=out, page_size=PAGE, **{"workers": 2} | options)
    )


def test_bytes_and_labels_arrive(tmp_path):
    root = make_tree(tmp_path / "src")
    report = run(root, tmp_path / "a.beton", verify=True)
    assert (report.samples, report.passed_through, report.skipped, report.bad) == (40, 40, [], [])
    expected = {jpeg(number): number % 4 for number in range(40)}
    with BetonReader(tmp_path / "a.beton") as reader:
        assert {bytes(reader.read(i)): reader.labels[i] for i in range(40)} == expected
        trailers = [reader.trailer(i) for i in range(40)]
        assert [t.crc for t in trailers] == [zlib.crc32(reader.read(i)) for i in range(40)]
        indexed = native_library.load() is not None and native_library.load().own_entropy()
        assert {len(trailer.rows) for trailer in trailers} == {1 if indexed else 0}
        assert np.diff(reader.labels).any(), "not shuffled"
    manifest = json.loads((tmp_path / "a.beton.json").read_text())
    assert manifest["class_names"] == [f"class{i}" for i in range(4)]
    assert manifest["passed_through"] == 40
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"src", "a.beton", "a.beton.json"}


def test_the_announced_size_is_the_size_of_the_file(tmp_path, monkeypatch):
    """Even if a few small images take less than the page of metadata before them."""
    told = []
    monkeypatch.setattr(convert_module, "format_bytes", lambda size: told.append(size) or "?")
    run(make_tree(tmp_path / "src", count=120), tmp_path / "a.beton", workers=1)
    assert told[0] == pytest.approx((tmp_path / "a.beton").stat().st_size, rel=0.15)


@pytest.mark.parametrize(
    "options",
    [{"mode": "jpg"}, {"mode": "raw"}, {"reencode": True, "jpeg_quality": 50}],
    ids=["jpg", "raw", "reencode"],
)
def test_same_bytes_for_any_number_of_workers(tmp_path, options):
    root = make_tree(tmp_path / "src")
    (root / "class0" / "bad.jpg").write_bytes(b"bad")
    files = []
    for workers in (1, 3):
        out = tmp_path / f"{workers}.beton"
        run(root, out, workers=workers, max_resolution=20, **options)
        files.append(out.read_bytes())
    assert files[0] == files[1]


def test_order_depends_on_the_seed_alone(tmp_path):
    root = make_tree(tmp_path / "src")
    labels = []
    for number, seed in enumerate((0, 0, 1)):
        run(root, tmp_path / f"{number}.beton", seed=seed)
        with BetonReader(tmp_path / f"{number}.beton") as reader:
            labels.append([bytes(reader.read(i)) for i in range(40)])
    assert labels[0] == labels[1] != labels[2]
    assert sorted(labels[0]) == sorted(labels[2])


def test_limit_takes_from_all_classes(tmp_path):
    report = run(make_tree(tmp_path / "src"), tmp_path / "a.beton", limit=20)
    assert (report.samples, report.class_count) == (20, 4)
    assert "a.beton: 20 of 40 images, 4 classes, " in report.summary()
    few = run(make_tree(tmp_path / "src"), tmp_path / "b.beton", limit=2)
    assert f"b.beton: 2 of 40 images, {few.class_count} of 4 classes, " in few.summary()


def test_classes_are_counted_against_the_source_without_a_limit_too(tmp_path):
    root = make_tree(tmp_path / "src", count=3)
    (root / "class2" / "2.jpg").write_bytes(b"bad")
    report = run(root, tmp_path / "a.beton")
    assert "a.beton: 2 images, 2 of 3 classes, " in report.summary()


def test_unlabelled_source(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "1.jpg").write_bytes(jpeg(1))
    assert run(tmp_path / "src", tmp_path / "a.beton").class_count == 0
    with BetonReader(tmp_path / "a.beton") as reader:
        assert reader.labels.tolist() == [-1]


def test_report_counts_what_was_done_and_skipped(tmp_path):
    root = make_tree(tmp_path / "src", count=6)
    Image.new("CMYK", (9, 9)).save(root / "class0" / "cmyk.jpg")
    Image.new("RGB", (9, 9)).save(root / "class1" / "misnamed.jpg", "PNG")
    for number in range(25):
        (root / "class2" / f"bad{number:02}.jpg").write_bytes(jpeg(1)[:100])
    report = run(root, tmp_path / "a.beton")
    assert report.how == {"passed through": 6, "CMYK JPEG": 1, "PNG": 1}
    assert len(report.skipped) == 25
    summary = report.summary()
    assert "8 images, 4 classes" in summary
    assert "6 passed through untouched" in summary
    assert "2 encoded (CMYK JPEG: 1, PNG: 1)" in summary
    assert summary.count(".jpg: cannot be decoded") == 20
    assert "and 5 more" in summary
    assert (report.exit_status(), report.exit_status(strict=True)) == (0, 1)
    manifest = json.loads((tmp_path / "a.beton.json").read_text())
    assert {Path(entry["name"]).name for entry in manifest["skipped"]} == {
        f"bad{number:02}.jpg" for number in range(25)
    }


def test_report_counts_repaired_files(tmp_path):
    root = make_tree(tmp_path / "src", count=6)
    whole = (root / "class0" / "0.jpg").read_bytes()
    (root / "class0" / "0.jpg").write_bytes(odd_jpegs.inserted(whole, odd_jpegs.SCAN, b"A"))
    report = run(root, tmp_path / "a.beton", verify=True)
    assert report.how == {"passed through": 5, "JPEG with stray bytes, mended": 1}
    assert (report.passed_through, report.encoded, report.skipped, report.bad) == (5, {}, [], [])
    assert "  1 repaired without loss (JPEG with stray bytes: 1)\n" in report.summary()
    assert "encoded" not in report.summary()
    manifest = json.loads((tmp_path / "a.beton.json").read_text())
    assert manifest["mended"] == {"JPEG with stray bytes, mended": 1}
    assert manifest["encoded"] == {}
    with BetonReader(tmp_path / "a.beton") as reader:
        assert whole in [bytes(reader.read(i)) for i in range(6)]


@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_report_counts_shrunk_images_and_says_why(tmp_path, mode):
    root = make_tree(tmp_path / "src", count=6)
    for number, side in enumerate((300, 200, 400)):
        (root / "class0" / f"large{number}.jpg").write_bytes(jpeg(number, (side, side)))
    report = run(root, tmp_path / "a.beton", mode=mode, max_resolution=250)
    page = f"--page_size {PAGE}"
    why = {"jpg": {"--max_resolution 250": 2}, "raw": {page: 3}}[mode]
    assert report.shrunk == why
    ((reason, count),) = why.items()
    assert f"  {count} shrunk ({reason}: {count})" in report.summary().splitlines()
    assert json.loads((tmp_path / "a.beton.json").read_text())["shrunk"] == why
    report = run(root, tmp_path / "b.beton", mode=mode, max_resolution=100)
    assert report.shrunk == {"--max_resolution 100": 3}


def test_reencode_encodes_every_image(tmp_path):
    root = make_tree(tmp_path / "src", count=6)
    Image.new("RGB", (9, 9)).save(root / "class1" / "other.png")
    report = run(root, tmp_path / "a.beton", reencode=True, jpeg_quality=20, verify=True)
    assert report.how == {"--reencode": 6, "PNG": 1}
    assert "7 encoded (--reencode: 6, PNG: 1)" in report.summary()
    assert "passed through" not in report.summary()
    assert report.bad == []
    originals = {jpeg(number) for number in range(6)}
    with BetonReader(tmp_path / "a.beton") as reader:
        assert not originals & {bytes(reader.read(i)) for i in range(7)}


@pytest.mark.parametrize("built", [False, True])
def test_report_warns_once_of_a_missing_library(tmp_path, monkeypatch, built):
    out = tmp_path / "a.beton"
    run(make_tree(tmp_path / "src", count=3), out)
    monkeypatch.setattr(native_library, "load", lambda: LIBRARY if built else None)
    for options in ({"src": str(tmp_path / "src"), "out": tmp_path / "b.beton"}, {"src": str(out)}):
        summary = convert(ConvertOptions(**options, workers=1, verify=True)).summary()
        said = summary.count("without the native library damaged JPEG data may go unnoticed")
        assert said == (not built)


@pytest.mark.skipif(native_library.load() is None, reason="the native library is not built")
def test_damaged_jpeg_is_left_out_and_named(tmp_path):
    root = make_tree(tmp_path / "src", count=6)
    data = jpeg(1, size=(200, 150))
    (root / "class0" / "cut.jpg").write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    report = run(root, tmp_path / "a.beton")
    assert report.samples == 6
    assert [Path(name).name for name, _ in report.skipped] == ["cut.jpg"]
    assert report.skipped[0][1].startswith("damaged JPEG: ")


def test_nothing_usable_makes_no_file(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "bad.jpg").write_bytes(b"bad")
    report = run(tmp_path / "src", tmp_path / "a.beton", verify=True)
    assert (report.samples, report.exit_status()) == (0, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"src", "a.beton.json"}


def test_existing_file_is_kept_unless_told(tmp_path):
    root = make_tree(tmp_path / "src", count=3)
    out = tmp_path / "a.beton"
    out.write_bytes(b"precious")
    with pytest.raises(DataError, match="--overwrite"):
        run(root, out)
    assert out.read_bytes() == b"precious"
    assert run(root, out, overwrite=True).samples == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jpeg_quality": 0}, "--jpeg_quality"),
        ({"page_size": 3 << 20}, "--page_size"),
        ({"max_resolution": 0}, "--max_resolution"),
        ({"workers": 0}, "--workers"),
        ({"limit": -1}, "--limit"),
        ({"reencode": True, "mode": "raw"}, "--reencode has no effect with --mode raw"),
    ],
)
def test_bad_option_is_named(tmp_path, options, message):
    with pytest.raises(DataError, match=f"^{message}"):
        convert(ConvertOptions(src="x", out=tmp_path / "a.beton", **options))


def test_a_bad_flag_is_named_and_nothing_else(tmp_path, capsys):
    assert cli.convert(["x", str(tmp_path / "a.beton"), "--jpeg_quality", "0"]) == 2
    said = capsys.readouterr().err
    assert said == "fastimae-convert: error: --jpeg_quality must be 1 to 100, not 0\n"


def test_no_out(tmp_path):
    with pytest.raises(DataError, match="--verify"):
        convert(ConvertOptions(src="x.beton"))


SCRIPT = """
import sys
from pathlib import Path
from fastimae.loaders.convert import run as module

module.CHECKPOINT_SECONDS = 0
if __name__ == "__main__":
    src, out, workers = sys.argv[1:]
    module.convert(module.ConvertOptions(
        src=src, out=Path(out), workers=int(workers), page_size=1 << 16))
"""


def start(tmp_path, *arguments):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, script, *map(str, arguments)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )


def processes_of(group):
    """List the live processes of a process group."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, owner = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(owner) == group and state != "Z":
            found.append(status.parent.name)
    return found


@pytest.fixture(scope="module")
def large_tree(tmp_path_factory):
    """A source, and the file that an undisturbed conversion makes of it."""
    folder = tmp_path_factory.mktemp("large")
    root = make_tree(folder / "src", count=800)
    run(root, folder / "whole.beton")
    return root, (folder / "whole.beton").read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_gives_the_same_file(tmp_path, large_tree, how):
    root, whole = large_tree
    out, journal = tmp_path / "out.beton", tmp_path / "out.beton.journal"
    process = start(tmp_path, root, out, 2)
    while process.poll() is None and (not journal.exists() or journal.stat().st_size < 10_000):
        time.sleep(0.01)
    os.kill(process.pid, how)
    process.wait(30)
    assert not out.exists(), "it was over before it could be killed"
    for _ in range(200):
        if not processes_of(process.pid):
            break
        time.sleep(0.05)
    assert not processes_of(process.pid), "workers outlived their parent"
    with journal.open("ab") as file:
        file.write(b'{"torn line')
    report = run(root, out, workers=1)
    assert out.read_bytes() == whole
    assert report.passed_through == 800
    assert not journal.exists()


def test_other_options_start_over_and_say_so(tmp_path, monkeypatch, caplog):
    root, out = make_tree(tmp_path / "src"), tmp_path / "a.beton"
    interrupt_after(monkeypatch, 20)
    with pytest.raises(KeyboardInterrupt):
        run(root, out)
    monkeypatch.undo()
    caplog.set_level("INFO", "fastimae")
    run(root, out, seed=1)
    assert "starting over" in caplog.text
    run(root, tmp_path / "b.beton", seed=1)
    assert out.read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_interrupted_conversion_resumes(tmp_path, monkeypatch, caplog):
    root, out = make_tree(tmp_path / "src"), tmp_path / "a.beton"
    (root / "class0" / "bad.jpg").write_bytes(b"bad")
    interrupt_after(monkeypatch, 30)
    with pytest.raises(KeyboardInterrupt):
        run(root, out)
    monkeypatch.undo()
    caplog.set_level("INFO", "fastimae")
    report = run(root, out)
    assert "resuming after" in caplog.text
    assert (report.passed_through, len(report.skipped)) == (40, 1)
    run(root, tmp_path / "b.beton")
    assert out.read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_any_number_of_interruptions_give_the_same_file(tmp_path, monkeypatch):
    root, out = make_tree(tmp_path / "src"), tmp_path / "a.beton"
    for samples in (3, 4, 17, 39):
        with monkeypatch.context() as patch:
            interrupt_after(patch, samples)
            with pytest.raises(KeyboardInterrupt):
                run(root, out, workers=1 + samples % 2)
    run(root, out)
    run(root, tmp_path / "b.beton", workers=1)
    assert out.read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_library_that_was_built_meanwhile_starts_over(tmp_path, monkeypatch, caplog):
    """Otherwise only half of the file would have an index of rows."""
    root, out = make_tree(tmp_path / "src"), tmp_path / "a.beton"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 20)
        missing = native_library.load() is None
        patch.setattr(native_library, "load", lambda: LIBRARY if missing else None)
        with pytest.raises(KeyboardInterrupt):
            run(root, out)
    caplog.set_level("INFO", "fastimae")
    run(root, out)
    assert "starting over" in caplog.text


def test_journal_of_an_earlier_release_starts_over(tmp_path):
    """Its rows do not contain the length of trailers."""
    root, out = make_tree(tmp_path / "src"), tmp_path / "a.beton"
    run(root, out)
    whole = out.read_bytes()
    out.rename(tmp_path / "a.beton.part")
    source = convert_module.find_source(str(root), tmp_path / "scratch")
    options = ConvertOptions(src=str(root), out=out, page_size=PAGE)
    entry = {"done": 1, "rows": [[PAGE, 9, 16, 24, 0, 0]], "how": {}, "skipped": []}
    first = {"fingerprint": convert_module._fingerprint(source, options)}
    journal = tmp_path / "a.beton.journal"
    journal.write_text(json.dumps(first) + "\n" + json.dumps(entry) + "\n")
    run(root, out)
    assert out.read_bytes() == whole


SPOILT_JOURNALS = {
    "huge": f'{{"done": 1, "rows": [[{10**40}, 1, 1, 1, 1, 1, 1]], "how": {{}}, "skipped": []}}',
    "deep": "[" * 100_000,
    "strange": '{"done": 1, "rows": [], "how": 7, "skipped": []}',
    "binary": "\0\1",
}


@pytest.mark.parametrize("name", SPOILT_JOURNALS)
def test_spoilt_journal_starts_over(tmp_path, name):
    root, out = make_tree(tmp_path / "src", count=3), tmp_path / "a.beton"
    source = convert_module.find_source(str(root), tmp_path / "scratch")
    options = ConvertOptions(src=str(root), out=out, page_size=PAGE)
    first = json.dumps({"fingerprint": convert_module._fingerprint(source, options)})
    (tmp_path / "a.beton.journal").write_text(f"{first}\n{SPOILT_JOURNALS[name]}\n")
    assert run(root, out, workers=1).samples == 3


def test_unusable_files_are_in_the_report_with_a_reason(tmp_path):
    root = make_tree(tmp_path / "src", count=3)
    (root / "class0" / "loop.jpg").symlink_to("loop.jpg")
    (root / "class1" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (root / "class1" / "two\nlines.jpg").write_bytes(b"bad")
    report = run(root, tmp_path / "a.beton", workers=1)
    assert (report.samples, report.exit_status(), report.exit_status(strict=True)) == (3, 0, 1)
    lines = report.summary().splitlines()
    assert any("loop.jpg: cannot be read: Too many levels" in line for line in lines)
    assert any("phone.heic: HEIC is not supported: convert it" in line for line in lines)
    assert any(r"two\nlines.jpg: not an image" in line for line in lines)


def interrupt_after(monkeypatch, samples):
    """Record each sample in the journal, and press Ctrl-C after this many."""
    append = BetonWriter.append

    def counting(writer, *arguments, **options):
        if len(writer.rows) == samples:
            raise KeyboardInterrupt
        append(writer, *arguments, **options)

    monkeypatch.setattr(convert_module, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(BetonWriter, "append", counting)


def test_lost_part_file_starts_over(tmp_path, monkeypatch):
    root, out = make_tree(tmp_path / "src"), tmp_path / "a.beton"
    interrupt_after(monkeypatch, 30)
    with pytest.raises(KeyboardInterrupt):
        run(root, out)
    monkeypatch.undo()
    os.truncate(tmp_path / "a.beton.part", 70_000)
    assert run(root, out, verify=True).bad == []


def test_full_disk_is_one_line_and_resumable(tmp_path, monkeypatch):
    root, out = make_tree(tmp_path / "src"), tmp_path / "a.beton"

    def full(writer):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(BetonWriter, "sync", full)
    with pytest.raises(DataError, match=r"a\.beton: No space left on device; fix that, then"):
        run(root, out)
    monkeypatch.undo()
    assert run(root, out).samples == 40


def test_two_conversions_to_one_file(tmp_path):
    root, out = make_tree(tmp_path / "src", count=3), tmp_path / "a.beton"
    (tmp_path / "a.beton.unpacked").mkdir()  # the first conversion's, which reads from it
    with file_to_write(out), pytest.raises(InUse, match=f"{out} is in use by .*another OUT"):
        run(root, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.beton.unpacked", "src"]


def test_a_file_that_another_conversion_just_finished_is_not_written_over(tmp_path, monkeypatch):
    """The file's existence is checked once the other conversion is done."""
    root, out = make_tree(tmp_path / "src", count=3), tmp_path / "a.beton"
    real = convert_module.file_to_write

    def after_the_other(path):
        monkeypatch.setattr(convert_module, "file_to_write", real)
        run(root, out)
        return real(path)

    monkeypatch.setattr(convert_module, "file_to_write", after_the_other)
    with pytest.raises(DataError, match="exists"):
        run(root, out)


def test_verify_of_another_kind_of_file(tmp_path):
    (tmp_path / "a.beton").write_bytes(bytes(9999))
    with pytest.raises(DataError, match=r"a\.beton"):
        convert(ConvertOptions(src=str(tmp_path / "a.beton"), verify=True))


def test_unguarded_script_gets_an_explanation(tmp_path):
    make_tree(tmp_path / "src", count=2)
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from fastimae.loaders.convert.run import *\nfrom pathlib import Path\n"
        f"convert(ConvertOptions(src={str(tmp_path / 'src')!r}, out=Path('a.beton')))\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "DataError: worker processes cannot start" in done.stderr
