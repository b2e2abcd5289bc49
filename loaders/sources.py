"""Finds out what the user gave, and lists its images."""

from __future__ import annotations

import glob
import re
import tarfile
from pathlib import Path

from fastimae.loaders.errors import DataError
from fastimae.loaders.items import Item, Source
from fastimae.loaders.source_folders import folder_source
from fastimae.loaders.source_published import CIFAR_FILES, cifar_source, tiny_imagenet_source
from fastimae.loaders.source_tars import tar_source

_TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def find_source(src: str, scratch: Path | None) -> Source:
    """List the images of SRC, in an order that depends on their names alone.

    Args:
        src: a folder, a tar file, a pattern of tar files (`*`, `{000..146}`), or a list file.
        scratch: a folder for what has to be unpacked; made if needed. None: that is an error.

    Raises:
        DataError: SRC does not exist, is none of these, or has no images.
    """
    path = Path(src)
    try:
        if path.is_dir():
            source = _from_folder(path, scratch)
        elif path.is_file():
            is_tar = path.name.endswith(_TAR_SUFFIXES) or tarfile.is_tarfile(path)
            source = tar_source([path], scratch) if is_tar else _from_list(path)
        else:
            source = tar_source(expand_pattern(src), scratch)
    except OSError as error:
        raise DataError(f"SRC: {error.filename or src} cannot be read: {error.strerror}") from error
    if not source.items:
        reasons = "".join(f"; {name}: {reason}" for name, reason in source.skipped[:1])
        raise DataError(f"SRC: no images in {src}{reasons}")
    return source


def expand_pattern(pattern: str) -> list[Path]:
    """The files of a shard pattern such as `shard-{000..146}.tar` or `shard-*.tar`.

    Raises:
        DataError: a file does not exist.
    """
    paths = []
    for name in _expand_braces(pattern):
        found = sorted(glob.glob(name))  # noqa: PTH207 - the pattern has a folder
        if not found:
            raise DataError(f"SRC: there is no file or folder {name}")
        paths += map(Path, found)
    return paths


def _expand_braces(pattern: str) -> list[str]:
    """As a shell does for `{a,b}` and `{08..11}`."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    span = _RANGE.fullmatch(match[1])
    if span:
        numbers = range(int(span[1]), int(span[2]) + 1)
        choices = [f"{number:0{len(span[1])}d}" for number in numbers]
    else:
        choices = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for choice in choices for name in _expand_braces(before + choice + after)]


def _from_folder(root: Path, scratch: Path | None) -> Source:
    for folder in (root, root / "cifar-10-batches-py", root / "cifar-100-python"):
        files = {name: folder / name for name in CIFAR_FILES if (folder / name).is_file()}
        cifar = cifar_source({name: Item(str(path)) for name, path in files.items()})
        if cifar is not None:
            return cifar
    source = tiny_imagenet_source(root) or folder_source(root)
    tars = sorted(path for path in root.iterdir() if path.name.endswith(_TAR_SUFFIXES))
    return tar_source(tars, scratch) if tars and not source.items else source


def _from_list(path: Path) -> Source:
    """Lines `path [label]`: paths relative to the list file, labels whole numbers."""
    try:
        lines = path.read_text(encoding="utf-8", errors="strict").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"SRC: {path} is neither a folder, a tar file nor a text file that lists images; "
            "unpack other archives first"
        ) from error
    items: list[Item] = []
    labels: list[int] = []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            name, label = _split_line(line)
            items.append(Item(str(path.parent / name)))
            labels += label
    if labels and len(labels) < len(items):
        raise DataError(f"SRC: {path} has a label on {len(labels)} of its {len(items)} lines only")
    return Source(kind="list file", items=items, labels=labels or None)


def _split_line(line: str) -> tuple[str, list[int]]:
    """The path, and the label if there is one. A path may have spaces."""
    name, *label = line.strip().rsplit(maxsplit=1)
    if label and label[0].isdecimal() and len(label[0]) < 19:
        return name, [int(label[0])]
    return line.strip(), []
