"""Data sets in the layout their authors published: CIFAR-10, CIFAR-100 and Tiny-ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fastimae.loaders.errors import DataError
from fastimae.loaders.items import Item, Source, shown
from fastimae.loaders.safe_pickle import load_arrays
from fastimae.loaders.source_folders import folder_source, subfolders


class _CifarLayout(NamedTuple):
    """Names inside the published python version of a CIFAR data set."""

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
"""File names by which a CIFAR data set is known."""
_PPM_HEADER = b"P6 32 32 255\n"


def cifar_source(files: Mapping[str, Item]) -> Source | None:
    """The 50,000 training images of CIFAR-10 or -100.

    Args:
        files: where the `CIFAR_FILES` that were found lie; without the meta file and a batch None
            is returned.

    Raises:
        DataError: a file is missing or damaged, or is a pickle of more than arrays.
    """
    for layout in _CIFAR_LAYOUTS:
        missing = [name for name in layout.batches if name not in files]
        if layout.meta in files and len(missing) < len(layout.batches):
            where = f"SRC: {files[layout.meta].path}:"
            if missing:
                lost = ", ".join(missing)
                raise DataError(f"{where} {layout.title} without {lost}: download it again")
            try:
                return _read_cifar(layout, files)
            # A damaged pickle makes the unpickler raise nearly anything.
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise DataError(f"{where} damaged {layout.title} files: {reason}") from error
    return None


def _read_cifar(layout: _CifarLayout, files: Mapping[str, Item]) -> Source:
    names = load_arrays(files[layout.meta].read())[layout.class_names]
    items: list[Item] = []
    labels: list[int] = []
    for batch in layout.batches:
        content = load_arrays(files[batch].read())
        pixels = content[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        numbers = content[layout.labels]
        if len(numbers) != len(pixels):
            raise ValueError(f"{batch} has {len(pixels)} images, {len(numbers)} labels")
        if not all(type(number) is int and 0 <= number < len(names) for number in numbers):
            raise ValueError(f"{batch} has labels that are no classes")
        items += [
            Item(files[batch].path, f"{batch}/{number}", inline=_PPM_HEADER + image.tobytes())
            for number, image in enumerate(pixels)
        ]
        labels += numbers
    return Source(
        kind=f"{layout.title} as published, training images",
        items=items,
        labels=labels,
        class_names=[name.decode() for name in names],
        notes=["it is published as pixels: --mode raw keeps them exactly"],
    )


def tiny_imagenet_source(root: Path) -> Source | None:
    """Tiny-ImageNet, or its train or val folder; None if `root` is something else.

    Labels are positions in the sorted list of `wnids.txt`, for train and val alike.
    """
    if (root / "wnids.txt").is_file() and (root / "train").is_dir():
        source = tiny_imagenet_source(root / "train")
        if source is not None:
            source.notes.append(f"took {root / 'train'}; val is a set of its own")
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
        source.skipped.append((shown(str(root / other)), "not a class of wnids.txt"))
    return source


def _annotated_source(annotations: Path, classes: list[str]) -> Source:
    """The validation images: a line of the annotations names the file and its class."""
    label_of = {name: label for label, name in enumerate(classes)}
    items, labels = [], []
    for number, line in enumerate(_lines(annotations), 1):
        name, class_name = [*line.split(), "", ""][:2]
        if class_name not in label_of:
            raise DataError(f"SRC: {annotations}: line {number} names no class of wnids.txt")
        items.append(Item(str(annotations.parent / "images" / name)))
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
        raise DataError(f"SRC: {path} is damaged: it is not text") from error
