"""Unwritable output is an error that names path, reason and flag; files are replaced atomically."""

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastimae.folders import FolderError, prepare_file, prepare_folder, replacing, write_text

ROOT = Path(__file__).resolve().parents[1]


def test_folders_are_made_and_left_empty(tmp_path):
    prepare_folder(tmp_path / "a" / "b")
    prepare_file(tmp_path / "c" / "file", "OUT")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "c"]


def test_all_ranks_prepare_one_folder_at_once(tmp_path):
    def prepare(_):
        for _ in range(200):
            prepare_folder(tmp_path / "out")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare, range(8)))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_file_in_the_way_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    for prepare in (prepare_folder, lambda path, flag: prepare_file(path / "x", flag)):
        with pytest.raises(FolderError) as error:
            prepare(tmp_path / name, "--log_dir")
        message = str(error.value)
        assert (
            str(tmp_path / name) in message and f"({tmp_path / 'file'} is not a folder)" in message
        )
        assert message.endswith("choose another --log_dir")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FolderError, match="which is a folder: choose another OUT"):
        prepare_file(tmp_path, "OUT")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permissions(tmp_path):
    tmp_path.chmod(0o555)
    for path in (tmp_path, tmp_path / "below"):
        with pytest.raises(FolderError, match="Permission denied"):
            prepare_folder(path)
    tmp_path.chmod(0o755)


MOUNTS = {
    "read-only": ("mount -t tmpfs -o size=64k none {0} && mount -o remount,ro {0}", "Read-only"),
    "full": ("mount -t tmpfs -o size=64k none {0} && ! dd if=/dev/zero of={0}/x", "No space"),
}


@pytest.mark.parametrize("kind", MOUNTS)
def test_disks_that_take_nothing(tmp_path, kind):
    """On a full disk, an empty file can be created but not written to."""
    mount, reason = MOUNTS[kind]
    code = (
        "import sys; from pathlib import Path; from fastimae.folders import *\n"
        "try: prepare_folder(Path(sys.argv[1]))\n"
        "except FolderError as error: print(error)"
    )
    mounted = f"{mount.format(tmp_path)} 2>/dev/null || exit 77"
    script = f'{mounted}; "{sys.executable}" -c "$0" {tmp_path}'
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, code],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    if done.returncode and "Traceback" not in done.stderr:
        pytest.skip(f"no mounts of our own here: {done.stderr}")
    assert f"cannot write to {tmp_path}" in done.stdout and reason in done.stdout, done.stderr


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_alone(tmp_path, failure):
    file = tmp_path / "log.txt"
    write_text(file, "old")
    with pytest.raises(failure), replacing(file) as partial:
        partial.write_text("ne")
        assert partial.parent == tmp_path and file.read_text() == "old"
        raise failure
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("log.txt", "old")]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_files_obey_the_umask_even_if_a_library_makes_them_private(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a.safetensors") as partial:
            save_file({"a": torch.zeros(2)}, partial)
        with replacing(tmp_path / "private") as partial:
            partial.unlink()
            os.close(os.open(partial, os.O_CREAT | os.O_RDWR, 0o600))
        write_text(tmp_path / "text", "")
        prepare_folder(tmp_path / "folder")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes.pop("folder") == 0o777 & ~umask
    assert set(modes.values()) == {0o666 & ~umask}


def test_errors_name_the_file(monkeypatch, tmp_path):
    """An error of write() knows no file, as on a full disk."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/report\.html'"):
        write_text(tmp_path / "report.html", "")


def test_readers_find_one_text_or_the_other(tmp_path):
    """While two processes write, each with a mark."""
    file, texts = tmp_path / "log.txt", {letter: letter * 100_000 for letter in "ab"}
    write_text(file, texts["a"])

    def write(letter):
        for _ in range(50):
            write_text(file, texts[letter], f".{letter}")

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, letter) for letter in texts]
        while not all(writer.done() for writer in writers):
            assert file.read_text() in texts.values()
        assert [writer.result() for writer in writers] == [None, None]
    assert list(tmp_path.iterdir()) == [file]
