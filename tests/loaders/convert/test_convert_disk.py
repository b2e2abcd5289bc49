"""A conversion and the room on the disk: refused if it cannot fit, resumable if the disk fills."""

import io
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_disk import run_on_small_disk

from fastimae import cli
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.errors import DataError

PAGE = 1 << 16


def make_flat(root, count=60, size=48):
    """Write noise as JPEGs of about 3 kB."""
    root.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG", quality=75)
        (root / f"{number}.jpg").write_bytes(buffer.getvalue())
    return root


@pytest.fixture
def full_disk(monkeypatch):
    """Return a function that sets the free space."""

    def set_free(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    return set_free


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, "--reencode, --max_resolution 500, --limit"),
        ({"reencode": True}, "--max_resolution 500, --limit"),
        ({"mode": "raw", "max_resolution": 64}, "--mode jpg, --max_resolution, --limit"),
    ],
)
def test_what_cannot_fit_is_refused_before_anything_is_written(
    tmp_path, full_disk, options, flags, capsys
):
    root = make_flat(tmp_path / "src")
    full_disk(100_000)
    argv = [
        str(root),
        str(tmp_path / "out" / "a.beton"),
        "--workers",
        "1",
        "--page_size",
        str(PAGE),
    ]
    for name, value in options.items():
        argv += [f"--{name}", str(value)][: 1 if value is True else 2]
    assert cli.convert(argv) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fastimae-convert: error: OUT: {argv[1]} does not fit: about ")
    assert "kB to write for 60 images, 100.0 kB free at " in line
    assert line.endswith(f"make it smaller with {flags}")
    assert not (tmp_path / "out").exists()
    full_disk(10**9)
    assert cli.convert(argv) == 0


def test_a_conversion_that_stops_fitting_keeps_its_progress(tmp_path, full_disk, monkeypatch):
    root, out = make_flat(tmp_path / "src"), tmp_path / "a.beton"
    options = ConvertOptions(src=str(root), out=out, page_size=PAGE, workers=1)
    from fastimae.loaders.convert import run

    append, count = run.BetonWriter.append, iter(range(31))
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(
        run.BetonWriter, "append",
        lambda writer, *args, **more: append(writer, *args, **more) if next(count) < 30 else 1 / 0,
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        convert(options)
    monkeypatch.setattr(run.BetonWriter, "append", append)
    full_disk(1000)
    with pytest.raises(DataError, match="to write for 30 images"):
        convert(options)
    full_disk(10**9)
    assert convert(options).samples == 60


FILLS_UP = """
import shutil, sys
from pathlib import Path
from fastimae.loaders.convert import run
from fastimae.loaders.errors import DataError

disk, source = Path(sys.argv[1]), sys.argv[2]
out = disk / "a.beton"
options = run.ConvertOptions(src=source, out=out, page_size=1 << 16, workers=1)
run.CHECKPOINT_SECONDS = 0
usage = shutil.disk_usage
shutil.disk_usage = lambda folder: usage(folder)._replace(free=10**9)  # other programs fill it
(disk / "others").write_bytes(bytes(280_000))
try:
    run.convert(options)
except DataError as error:
    print(error)
assert not out.exists()
(disk / "others").unlink()
print(run.convert(options).samples)
print(sorted(file.name for file in disk.iterdir()))
"""


def test_a_disk_that_fills_up_is_one_line_and_the_same_command_resumes(tmp_path):
    root = make_flat(tmp_path / "src")
    printed = run_on_small_disk(FILLS_UP, tmp_path / "disk", "384k", root)
    error, samples, left = printed.splitlines()
    assert "No space left on device; fix that, then the same command resumes" in error
    assert samples == "60" and left == "['a.beton', 'a.beton.json']"
