"""Images in tar files: archives of class folders, and WebDataset shards."""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from fastimae.loaders.errors import DataError
from fastimae.loaders.items import Item, SkipImage, Source
from fastimae.loaders.source_folders import is_image_name
from fastimae.loaders.source_published import CIFAR_FILES, cifar_source

_DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}


def tar_source(paths: list[Path], scratch: Path | None) -> Source:
    """The images of one or more tar files, read where they lie.

    Labels are WebDataset's `.cls` members if there are any, else the folders of the images. Of
    archives that hold `train/CLASS/` next to other splits, train is taken. A tar file inside a
    tar file, as in ImageNet's, counts as a folder.

    Args:
        scratch: a folder to unpack compressed files to, because images are read in random order.
            None: they are an error.

    Raises:
        DataError: a file is not a tar file, or is damaged where it is compressed.
    """
    images: list[Item] = []
    classes: dict[str, Item] = {}
    published: dict[str, Item] = {}
    skipped: list[tuple[str, str]] = []
    for number, path in enumerate(tqdm(paths, "reading tar directories", disable=len(paths) < 2)):
        plain = _uncompressed(path, scratch and scratch / f"{number}.tar")
        try:
            with plain.open("rb") as file:
                for member, offset, size in _members(file):
                    item, name = Item(str(plain), member, offset, size), posixpath.basename(member)
                    if is_image_name(name):
                        images.append(item)
                    elif name.endswith(".cls"):
                        classes[_sample_key(item)] = item
                    elif name in CIFAR_FILES:
                        published[name] = item
        except (OSError, tarfile.TarError) as error:
            skipped.append((str(path), f"what follows in this tar file is lost: {error}"))
    cifar = cifar_source(published)
    if cifar is not None:
        return cifar
    source = _labelled_by_number(images, classes) if classes else _labelled_by_folder(images)
    source.skipped += skipped
    return source


def _members(file: BinaryIO, start: int = 0, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """Name, position and size of each file in the archive at `start`, and in archives therein."""
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # else tarfile remembers 1 KB for each of millions
            name = posixpath.join(prefix, member.name)
            if member.isfile() and name.endswith(".tar"):
                yield from _members(file, member.offset_data, name.removesuffix(".tar"))
            elif member.isfile():
                yield name, member.offset_data, member.size
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("invalid header")


def _uncompressed(path: Path, target: Path | None) -> Path:
    """The file itself, or `target` with its content if it is compressed."""
    try:
        with path.open("rb") as file:
            opener = _DECOMPRESSORS.get(file.read(2))
        if opener is None:
            return path
        if target is None:
            raise DataError(f"{path} is compressed: unpack it, or convert it with fastimae-convert")
        target.parent.mkdir(parents=True, exist_ok=True)
        with opener(path, "rb") as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({error})") from error
    return target


def _sample_key(item: Item) -> str:
    """What the members of one WebDataset sample share: the name up to the first dot."""
    folder, name = posixpath.split(item.member)
    return posixpath.join(item.path, folder, name.split(".")[0])


def _labelled_by_number(images: list[Item], classes: dict[str, Item]) -> Source:
    source = Source(kind="WebDataset shards with .cls labels", items=[], labels=[])
    for image in images:
        key = _sample_key(image)
        try:
            label = int(classes[key].read())
            if not 0 <= label < 1 << 63:
                raise ValueError
        except (KeyError, ValueError, SkipImage):
            source.skipped.append((image.name, "no whole number in a .cls file beside it"))
            continue
        source.items.append(image)
        source.labels.append(label)
    return source


def _labelled_by_folder(images: list[Item]) -> Source:
    parts = [("", "", *image.member.split("/"))[-3:-1] for image in images]
    notes = []
    splits = {split for split, _ in parts}
    if "train" in splits and len(splits) > 1:
        images = [
            image for image, (split, _) in zip(images, parts, strict=True) if split == "train"
        ]
        parts = [part for part in parts if part[0] == "train"]
        notes.append(f"took train/ only, of {', '.join(sorted(splits))}")
    names = sorted({folder for _, folder in parts})
    if len(names) < 2:
        return Source(kind="tar files without labels", items=images, notes=notes)
    label_of = {name: label for label, name in enumerate(names)}
    return Source(
        kind="tar files with class folders",
        items=images,
        labels=[label_of[folder] for _, folder in parts],
        class_names=names,
        notes=notes,
    )
