"""Data sets in the layout their authors published: CIFAR-10, CIFAR-100 and Tiny-ImageNet."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastimae.loaders.errors import DataError
from fastimae.loaders.items import Item, Source
from fastimae.loaders.source_folders import folder_source


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
        files: where the `CIFAR_FILES` that were found lie; None is returned if that is not enough.

    Raises:
        DataError: the files are damaged, or are pickles of more than arrays.
    """
    for layout in _CIFAR_LAYOUTS:
        if {*layout.batches, layout.meta} <= files.keys():
            try:
                return _read_cifar(layout, files)
            # A damaged pickle makes the unpickler raise nearly anything.
            except Exception as error:
                where = files[layout.meta].path
                raise DataError(f"SRC: {where}: damaged {layout.title} files: {error}") from error
    return None


def _read_cifar(layout: _CifarLayout, files: Mapping[str, Item]) -> Source:
    items: list[Item] = []
    labels: list[int] = []
    for batch in layout.batches:
        content = _unpickle(files[batch])
        pixels = content[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        items += [
            Item(files[batch].path, f"{batch}/{number}", inline=_PPM_HEADER + image.tobytes())
            for number, image in enumerate(pixels)
        ]
        labels += map(int, content[layout.labels])
    if len(items) != len(labels):
        raise ValueError(f"{len(items)} images, {len(labels)} labels")
    return Source(
        kind=f"{layout.title} as published, training images",
        items=items,
        labels=labels,
        class_names=[name.decode() for name in _unpickle(files[layout.meta])[layout.class_names]],
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
    classes = sorted((root.parent / "wnids.txt").read_text().split())
    annotations = root / "val_annotations.txt"
    if annotations.is_file():
        return _annotated_source(annotations, classes)
    source = folder_source(root, class_names=classes)
    source.kind = "Tiny-ImageNet as published"
    return source


def _annotated_source(annotations: Path, classes: list[str]) -> Source:
    """The validation images: a line of the annotations names the file and its class."""
    label_of = {name: label for label, name in enumerate(classes)}
    items, labels = [], []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        name, class_name = [*line.split(), "", ""][:2]
        if class_name not in label_of:
            raise DataError(f"{annotations}: line {number} names no class of wnids.txt")
        items.append(Item(str(annotations.parent / "images" / name)))
        labels.append(label_of[class_name])
    return Source(
        kind="Tiny-ImageNet as published, validation images",
        items=items,
        labels=labels,
        class_names=classes,
    )


def _unpickle(item: Item) -> dict[bytes, Any]:
    return _ArrayUnpickler(io.BytesIO(item.read()), encoding="bytes").load()


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED_IN_PICKLES = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Loads plain values and numpy arrays; a pickle that asks for more could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED_IN_PICKLES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED_IN_PICKLES[module, name]
