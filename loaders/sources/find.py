"""Turns SRC, in whatever layout, into a list of its images."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import LISTED, ImageLocation, Source, counts, extension
from fastimae.loaders.images.formats import ARRAY_SUFFIX
from fastimae.loaders.sources.folders import folder_source
from fastimae.loaders.sources.imagenet import hint_for, label_images
from fastimae.loaders.sources.lists import list_source
from fastimae.loaders.sources.published import CIFAR_FILES, cifar_source, tiny_imagenet_source
from fastimae.loaders.sources.tar_files import PACKED_SUFFIXES
from fastimae.loaders.sources.tars import tar_source
from fastimae.loaders.sources.what_is import BETON, IMAGE, OTHER, PACKED_TAR, TAR, what_is
from fastimae.log import log

_TAR_SUFFIXES = (".tar", *PACKED_SUFFIXES)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def find_source(
    src: str, scratch: Path | None, labels: Path | None = None, *, arrays: bool = True
) -> Source:
    """List the images of SRC, in an order that depends on their names alone.

    docs/sources.md explains what SRC may be and how labels are found.

    Args:
        src: a folder, a tar file, a pattern of tar files (`*`, `{000..146}`), or a list file.
        scratch: a folder for what has to be unpacked, made if needed. None: unpacking is an error.
        labels: the argument of --labels, for ImageNet's validation images.
        arrays: whether .npy files of a folder without images are its images.

    Raises:
        DataError: SRC does not exist, is none of these or has no images, or `labels` does not fit.
    """
    path = Path(src)
    try:
        if path.is_dir():
            source = _from_folder(path, scratch, arrays=arrays)
        elif path.is_file():
            source = _from_file(path, scratch)
        else:
            source = tar_source(expand_pattern(src), scratch)
    except OSError as error:
        raise DataError(f"SRC: {error.filename or src} cannot be read: {error.strerror}") from error
    ignored = f"ignored, also as labels: {counts(source.others)}" if source.others else ""
    if not source.items:
        reason = _first_reason(source.skipped) + (ignored and f"; {ignored}")
        raise DataError(f"SRC: no images in {src}{reason}")
    source.notes += [ignored] if ignored else []
    first = source.items[0]
    if labels is not None:
        label_images(source, labels)
    elif source.labels is None and (hint := hint_for(first.member or first.path)):
        source.notes.append(hint)
    return source


def _from_file(path: Path, scratch: Path | None) -> Source:
    """Read a tar file or a list file. A damaged tar file is recognised by its name alone."""
    kind = what_is(path)
    if kind == BETON:
        raise DataError(f"SRC: {path} is already a .beton file; --verify checks it")
    if kind == IMAGE:
        raise DataError(f"SRC: {path} is an image; give the folder that contains it")
    if kind in (TAR, PACKED_TAR) or (kind == OTHER and path.name.endswith(_TAR_SUFFIXES)):
        return tar_source([path], scratch)
    return list_source(path)


def find_for_loader(src: str | Path, flag: str, *, arrays: bool = True) -> Source:
    """Call `find_source`, and log the first lines of what a conversion would report.

    flag: the flag that gave SRC, for messages.
    """
    try:
        source = find_source(str(src), scratch=None, arrays=arrays)
    except DataError as error:
        raise DataError(f"{flag}: {str(error).removeprefix('SRC: ')}") from error
    for note in source.notes:
        log.info("%s: %s", flag, note)
    for name, reason in source.skipped[:LISTED]:
        log.warning("%s: %s is left out: %s", flag, name, reason)
    if len(source.skipped) > LISTED:
        log.warning("%s: %d more are left out", flag, len(source.skipped) - LISTED)
    return source


def _first_reason(skipped: list[tuple[str, str]]) -> str:
    more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    return "".join(f"; {name}: {reason}{more}" for name, reason in skipped[:1])


def expand_pattern(pattern: str) -> list[Path]:
    """List the files of a pattern such as `shard-{000..146}.tar` or `shard-*.tar`, each once.

    Raises:
        DataError: a file does not exist.
    """
    paths: dict[Path, None] = {}
    for name in _expand_braces(pattern):
        # Checked first, because a file name may contain glob characters.
        matches = [name] if Path(name).exists() else sorted(glob.glob(name))  # noqa: PTH207
        if not matches:
            raise DataError(f"SRC: there is no file or folder {name}")
        paths |= dict.fromkeys(map(Path, matches))
    return list(paths)


def _expand_braces(pattern: str) -> Iterator[str]:
    """Expand `{a,b}`, `{08..11}` and `{3..1}` as a shell does, lazily."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    span = _RANGE.fullmatch(match[1])
    before, after = pattern[: match.start()], pattern[match.end() :]
    for choice in _expand_range(*span.groups()) if span else match[1].split(","):
        yield from _expand_braces(before + choice + after)


def _expand_range(first: str, last: str) -> Iterator[str]:
    """List the numbers of a range; if an end has a leading zero, all get the same width."""
    padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))


def _from_folder(root: Path, scratch: Path | None, *, arrays: bool) -> Source:
    for folder in (root, root / "cifar-10-batches-py", root / "cifar-100-python"):
        files = {name: folder / name for name in CIFAR_FILES if (folder / name).is_file()}
        cifar = cifar_source({name: ImageLocation(str(path)) for name, path in files.items()})
        if cifar is not None:
            return cifar
    source = tiny_imagenet_source(root) or folder_source(root)
    names = (path for path in root.iterdir() if path.name.endswith(_TAR_SUFFIXES))
    tars = sorted(path for path in names if path.exists())  # broken links are in `skipped` already
    if not tars:
        if arrays and not source.items and source.others[ARRAY_SUFFIX]:
            return folder_source(root, arrays=True)
        return source
    source.others -= Counter(extension(path.name) for path in tars)
    if source.items:
        source.notes.append(f"{len(tars)} tar files in {root} are ignored, as it has images")
        return source
    in_tars = tar_source(tars, scratch)
    in_tars.skipped += source.skipped
    in_tars.others += source.others
    return in_tars
