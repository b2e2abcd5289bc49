"""`cache="ram"`: the file is in memory, locked if allowed; an error if there is no room."""

import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastimae.loaders.beton import ram_cache
from fastimae.loaders.beton.reader import BetonReader, BetonWriter
from fastimae.loaders.errors import DataError

PAGE = 4096


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.beton"
    with BetonWriter(path, page_size=1 << 16) as writer:
        for number in range(40):
            writer.append(bytes([number]) * 50_000, height=1, width=1, label=number)
    return path


def mapped(path):
    """Return the kernel's count of KiB of each kind in this process's mappings of a file."""
    totals = {}
    for block in re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M
    ):
        if str(path) in block:
            for name, count in re.findall(r"^(\w+): +(\d+) kB", block, flags=re.M):
                totals[name] = totals.get(name, 0) + int(count)
    return totals


@pytest.fixture
def refuse(monkeypatch):
    """Return a function that makes the kernel refuse a system call."""

    def install(*names):
        calls = {name: getattr(ram_cache._libc, name) for name in ("mlock", "madvise")}
        calls |= {name: lambda *_: -1 for name in names}
        monkeypatch.setattr(ram_cache, "_libc", SimpleNamespace(**calls))

    return install


@pytest.mark.parametrize("missing", [(), ("madvise",), ("mlock", "madvise")])
def test_all_of_the_file_is_mapped_in(path, refuse, missing):
    refuse(*missing)
    with BetonReader(path, cache="ram") as reader:
        assert mapped(path)["Rss"] * 1024 >= path.stat().st_size
        assert all(bytes(reader.read(i)) == bytes([i]) * 50_000 for i in range(40))
    assert mapped(path) == {}, "not unmapped"


def test_it_is_not_read_unasked(path):
    with BetonReader(path):
        assert mapped(path).get("Locked", 0) == 0


def test_several_pieces(path, monkeypatch):
    monkeypatch.setattr(ram_cache, "CHUNK_BYTES", 16 * PAGE)
    with BetonReader(path, cache="ram"):
        assert mapped(path)["Rss"] * 1024 >= path.stat().st_size


def test_refused_lock_is_one_line_that_says_what_to_change(path, refuse, caplog):
    refuse("mlock")
    with BetonReader(path, cache="ram"):
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "--cache ram" in caplog.text and "ulimit -l unlimited" in caplog.text


def test_file_larger_than_the_memory_is_refused(path, monkeypatch):
    monkeypatch.setattr(ram_cache, "_is_in_memory", lambda *_: False)
    monkeypatch.setattr(ram_cache, "RESERVE_BYTES", 1000)
    size = path.stat().st_size
    monkeypatch.setattr(ram_cache, "available_bytes", lambda: size + 999)
    with pytest.raises(DataError, match=r"--cache ram: .*a\.beton has 0\.0 GB"):
        BetonReader(path, cache="ram")
    assert mapped(path) == {}, "not unmapped"
    monkeypatch.setattr(ram_cache, "available_bytes", lambda: size + 1000)
    BetonReader(path, cache="ram").close()


def test_file_that_another_process_keeps_in_memory_needs_no_more(path, monkeypatch):
    monkeypatch.setattr(ram_cache, "available_bytes", lambda: 0)
    monkeypatch.setattr(ram_cache.os, "preadv", lambda *_: 1)
    with BetonReader(path, cache="ram") as cached, BetonReader(path) as reader:
        assert bytes(cached.read(7)) == bytes(reader.read(7))


def test_copy_in_another_process_shares_the_memory(path, monkeypatch):
    with BetonReader(path, cache="ram") as reader:
        monkeypatch.setattr(ram_cache, "keep_in_memory", None)
        with pickle.loads(pickle.dumps(reader)) as copy:
            assert bytes(copy.read(7)) == bytes(reader.read(7))


@pytest.mark.parametrize(("limit", "expected"), [("max", 3 << 20), ("1048576", 1 << 20)])
def test_available_memory_respects_cgroups(tmp_path, monkeypatch, limit, expected):
    (tmp_path / "meminfo").write_text("MemTotal: 9999 kB\nMemAvailable:    3072 kB\nHuge: 0\n")
    (tmp_path / "cgroup").write_text("4:memory:/other\n0::/job/step\n")
    (tmp_path / "fs/job/step").mkdir(parents=True)
    (tmp_path / "fs/job/memory.max").write_text(limit + "\n")
    (tmp_path / "fs/job/step/memory.max").write_text("max\n")
    for name, part in (("_MEMINFO", "meminfo"), ("_OWN_CGROUP", "cgroup"), ("_CGROUPS", "fs")):
        monkeypatch.setattr(ram_cache, name, tmp_path / part)
    assert ram_cache.available_bytes() == expected
