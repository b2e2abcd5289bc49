"""CIFAR-10, CIFAR-100 and Tiny-ImageNet in the layout in which they were published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import ImageLocation, Source, printable
from fastimae.loaders.sources.folders import folder_source, subfolders
from fastimae.loaders.sources.safe_pickle import load_arrays


class _CifarLayout(NamedTuple):
    """File and entry names in the published "python version" of a CIFAR data set."""

    title: str
    batches: tuple[str, ...]
    meta: str
    labels: bytes
    class_names: bytes


_CIFAR_LAYOUTS = (
    _CifarLayout(
        title="CIFAR-10",
        batches=tuple(f"data_batch_{number}" for number in range(1, 6)),
        meta="batches.meta",
        labels=b"labels",
        class_names=b"label_names",
    ),
    _CifarLayout(
        title="CIFAR-100",
        batches=("train",),
        meta="meta",
        labels=b"fine_labels",
        class_names=b"fine_label_names",
    ),
)
CIFAR_FILES = frozenset(
    name for layout in _CIFAR_LAYOUTS for name in (*layout.batches, layout.meta)
)
"""File names by which a CIFAR data set is recognised."""
_PPM_HEADER = b"P6 32 32 255\n"


def cifar_source(files: Mapping[str, ImageLocation]) -> Source | None:
    """List the 50,000 training images of CIFAR-10 or -100; None without meta file and a batch.

    Args:
        files: the locations of those `CIFAR_FILES` that exist, by name.

    Raises:
        DataError: a file is missing or damaged, or its pickle holds more than arrays.
    """
    for layout in _CIFAR_LAYOUTS:
        missing = [name for name in layout.batches if name not in files]
        if layout.meta in files and len(missing) < len(layout.batches):
            where = f"SRC: {files[layout.meta].path}:"
            if missing:
                lost = ", ".join(missing)
                raise DataError(f"{where} {layout.title} without {lost}; download it again")
            try:
                return _read_cifar(layout, files)
            # A damaged pickle makes the unpickler raise almost anything.
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise DataError(f"{where} damaged {layout.title} files: {reason}") from error
    return None


def _read_cifar(layout: _CifarLayout, files: Mapping[str, ImageLocation]) -> Source:
    names = load_arrays(files[layout.meta].read())[layout.class_names]
    items: list[ImageLocation] = []
    labels: list[int] = []
    for batch in layout.batches:
        content = load_arrays(files[batch].read())
        pixels = content[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        numbers = content[layout.labels]
        if len(numbers) != len(pixels):
            raise ValueError(f"{batch} has {len(pixels)} images but {len(numbers)} labels")
        if not all(type(number) is int and 0 <= number < len(names) for number in numbers):
            raise ValueError(f"{batch} has labels that name no class")
        items += [
            ImageLocation(
                files[batch].path, f"{batch}/{number}", inline=_PPM_HEADER + image.tobytes()
            )
            for number, image in enumerate(pixels)
        ]
        labels += numbers
    return Source(
        kind=f"{layout.title} as published, training images",
        items=items,
        labels=labels,
        class_names=[name.decode() for name in names],
        notes=["published as pixels: --mode raw keeps them exactly"],
    )


def tiny_imagenet_source(root: Path) -> Source | None:
    """List Tiny-ImageNet, or its train or val folder; None if `root` is something else.

    Labels are positions in the sorted list of `wnids.txt`, for train and val alike.
    """
    if (root / "wnids.txt").is_file() and (root / "train").is_dir():
        source = tiny_imagenet_source(root / "train")
        if source is not None:
            source.kind += f", {root / 'train'} only"
        return source
    if root.name not in ("train", "val") or not (root.parent / "wnids.txt").is_file():
        return None
    classes = sorted({word for line in _lines(root.parent / "wnids.txt") for word in line.split()})
    annotations = root / "val_annotations.txt"
    if annotations.is_file():
        return _annotated_source(annotations, classes)
    source = folder_source(root, class_names=classes)
    source.kind = "Tiny-ImageNet as published"
    for other in sorted(set(subfolders(root)) - set(classes)):
        source.skipped.append((printable(str(root / other)), "not a class in wnids.txt"))
    return source


def _annotated_source(annotations: Path, classes: list[str]) -> Source:
    """List the validation images: each line of the annotations names a file and its class."""
    label_of = {name: label for label, name in enumerate(classes)}
    items, labels = [], []
    for number, line in enumerate(_lines(annotations), 1):
        name, class_name = [*line.split(), "", ""][:2]
        if class_name not in label_of:
            raise DataError(f"SRC: {annotations}: line {number} names no class in wnids.txt")
        items.append(ImageLocation(str(annotations.parent / "images" / name)))
        labels.append(label_of[class_name])
    return Source(
        kind="Tiny-ImageNet as published, validation images",
        items=items,
        labels=labels,
        class_names=classes,
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"SRC: {path} is damaged (not UTF-8 text)") from error
