"""Finds out what the user gave, and lists its images."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fastimae.loaders.errors import DataError
from fastimae.loaders.items import LISTED, Item, Source, counts, extension
from fastimae.loaders.source_folders import folder_source
from fastimae.loaders.source_imagenet import hint_for, label_images
from fastimae.loaders.source_lists import list_source
from fastimae.loaders.source_published import CIFAR_FILES, cifar_source, tiny_imagenet_source
from fastimae.loaders.source_tars import tar_source
from fastimae.loaders.tar_files import PACKED_SUFFIXES
from fastimae.loaders.what_is import BETON, IMAGE, OTHER, PACKED_TAR, TAR, what_is
from fastimae.log import log

_TAR_SUFFIXES = (".tar", *PACKED_SUFFIXES)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def find_source(src: str, scratch: Path | None, labels: Path | None = None) -> Source:
    """List the images of SRC, in an order that depends on their names alone.

    What SRC may be, and how labels are found, is told in docs/sources.md.

    Args:
        src: a folder, a tar file, a pattern of tar files (`*`, `{000..146}`), or a list file.
        scratch: a folder for what has to be unpacked; made if needed. None: that is an error.
        labels: what --labels names, for ImageNet's validation images.

    Raises:
        DataError: SRC does not exist, is none of these, or has no images; or `labels` does not fit.
    """
    path = Path(src)
    try:
        if path.is_dir():
            source = _from_folder(path, scratch)
        elif path.is_file():
            source = _from_file(path, scratch)
        else:
            source = tar_source(expand_pattern(src), scratch)
    except OSError as error:
        raise DataError(f"SRC: {error.filename or src} cannot be read: {error.strerror}") from error
    left = f"not read, also not for labels: {counts(source.others)}" if source.others else ""
    if not source.items:
        raise DataError(f"SRC: no images in {src}{_first_of(source.skipped)}{left and f'; {left}'}")
    source.notes += [left] if left else []
    first = source.items[0]
    if labels is not None:
        label_images(source, labels)
    elif source.labels is None and (hint := hint_for(first.member or first.path)):
        source.notes.append(hint)
    return source


def _from_file(path: Path, scratch: Path | None) -> Source:
    """A tar file, also one that only its name tells as it is damaged, or a list."""
    kind = what_is(path)
    if kind == BETON:
        raise DataError(f"SRC: {path} is a .beton file already: --verify checks it")
    if kind == IMAGE:
        raise DataError(f"SRC: {path} is an image: give the folder that it lies in")
    if kind in (TAR, PACKED_TAR) or (kind == OTHER and path.name.endswith(_TAR_SUFFIXES)):
        return tar_source([path], scratch)
    return list_source(path)


def find_for_loader(src: str | Path, flag: str) -> Source:
    """As `find_source`; what a conversion reports goes to the log, a few lines of it.

    flag: where SRC came from, for messages.
    """
    try:
        source = find_source(str(src), scratch=None)
    except DataError as error:
        raise DataError(f"{flag}: {str(error).removeprefix('SRC: ')}") from error
    for note in source.notes:
        log.info("%s: %s", flag, note)
    for name, reason in source.skipped[:LISTED]:
        log.warning("%s: %s is left out: %s", flag, name, reason)
    if len(source.skipped) > LISTED:
        log.warning("%s: %d more are left out", flag, len(source.skipped) - LISTED)
    return source


def _first_of(skipped: list[tuple[str, str]]) -> str:
    more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    return "".join(f"; {name}: {reason}{more}" for name, reason in skipped[:1])


def expand_pattern(pattern: str) -> list[Path]:
    """The files of a shard pattern such as `shard-{000..146}.tar` or `shard-*.tar`, each once.

    Raises:
        DataError: a file does not exist.
    """
    paths: dict[Path, None] = {}
    for name in _expand_braces(pattern):
        # A name may have brackets that are no pattern.
        found = [name] if Path(name).exists() else sorted(glob.glob(name))  # noqa: PTH207
        if not found:
            raise DataError(f"SRC: there is no file or folder {name}")
        paths |= dict.fromkeys(map(Path, found))
    return list(paths)


def _expand_braces(pattern: str) -> Iterator[str]:
    """As a shell does for `{a,b}`, `{08..11}` and `{3..1}`, one by one."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    span = _RANGE.fullmatch(match[1])
    before, after = pattern[: match.start()], pattern[match.end() :]
    for choice in _numbers(*span.groups()) if span else match[1].split(","):
        yield from _expand_braces(before + choice + after)


def _numbers(first: str, last: str) -> Iterator[str]:
    """All are as long as the longer of the two if one has a zero in front."""
    padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))


def _from_folder(root: Path, scratch: Path | None) -> Source:
    for folder in (root, root / "cifar-10-batches-py", root / "cifar-100-python"):
        files = {name: folder / name for name in CIFAR_FILES if (folder / name).is_file()}
        cifar = cifar_source({name: Item(str(path)) for name, path in files.items()})
        if cifar is not None:
            return cifar
    source = tiny_imagenet_source(root) or folder_source(root)
    names = (path for path in root.iterdir() if path.name.endswith(_TAR_SUFFIXES))
    tars = sorted(path for path in names if path.exists())  # broken links are listed already
    if not tars:
        return source
    source.others -= Counter(extension(path.name) for path in tars)
    if source.items:
        source.notes.append(f"{len(tars)} tar files in {root} are not read: there are images")
        return source
    within = tar_source(tars, scratch)
    within.skipped += source.skipped
    within.others += source.others
    return within
