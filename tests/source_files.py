"""Images, folders and tar files, intact and hostile, for the tests of sources."""

import contextlib
import io
import os
import resource
import tarfile
import time
import tracemalloc

from PIL import Image

from fastimae.loaders.sources.find import find_source

SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""How to unpack a tar file: Python 3.11.2, Debian's, has no filters yet, later ones ask for one."""
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
"""How a phone's pictures begin."""


def jpeg(shade=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_files(root, *names, content=None):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg() if content is None else content)
    return root


def find(src, tmp_path):
    return find_source(str(src), tmp_path / "scratch")


def listed(source, root):
    labels = source.labels or [None] * len(source.items)
    names = [os.path.relpath(item.path, root) for item in source.items]
    return list(zip(names, labels, strict=True))


def in_tar(source):
    """Map paths in the archives to labels."""
    labels = source.labels or [None] * len(source.items)
    return {item.member: label for item, label in zip(source.items, labels, strict=True)}


def reasons(source):
    """Map file names to the reasons why they were skipped."""
    return {name.rpartition("/")[2].rpartition(":")[2]: why for name, why in source.skipped}


def make_tar(path, members, **options):
    """Write a tar file; members: content by name, or pairs, as a name may occur twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = members.items() if isinstance(members, dict) else members
    with tarfile.open(path, "w", **options) as tar:
        for name, content in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def header(name, size=0, kind=b"0", target="", size_field=None):
    """Make a header block of a tar file that states any size."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:108] = block[108:116] = block[116:124] = b"0000644\0"
    block[124:136] = size_field or b"%011o\0" % size
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[157 : 157 + len(target)] = target.encode()
    block[257:265] = b"ustar\00000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content):
    return content + bytes(-len(content) % 512)


def member(name, content, **options):
    return header(name, len(content), **options) + padded(content)


def binary(size):
    """Make a binary size field."""
    return size.to_bytes(12, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11, "big")


@contextlib.contextmanager
def little_is_spent(seconds=1.0, megabytes=32):
    """Check that the block takes little CPU time and memory, and ends."""
    tracemalloc.start()
    start = time.process_time()
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 60
    resource.setrlimit(
        resource.RLIMIT_CPU, (limit, hard)
    )  # kills the process if a hang holds the GIL
    try:
        yield
        assert time.process_time() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        tracemalloc.stop()
