"""Reads the annotations of a COCO file into a few arrays, and checks them.

N = images, A = annotations, K = classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastimae.evaluate.detection.outlines import Outline, Outlines, read_outline
from fastimae.loaders.errors import DataError

Id = int | str
_PARTS = ("images", "annotations", "categories")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoTable:
    """What a COCO file says, with the annotations of an image one after the other."""

    names: list[str]
    """[N] file names of images."""
    image_ids: list[Id]
    """[N]"""
    sizes: NDArray[np.int64]
    """[N, 2] height and width."""
    starts: NDArray[np.int64]
    """[N + 1]: image i has the annotations from starts[i] to starts[i + 1]."""
    boxes: NDArray[np.float64]
    """[A, 4] left, top, width, height, as in the file."""
    areas: NDArray[np.float64]
    """[A] as in the file; NaN: not given."""
    labels: NDArray[np.int64]
    """[A] from 1 to K."""
    crowd: NDArray[np.bool_]
    """[A] whether it is a group of objects that were not outlined one by one."""
    outlines: Outlines
    """[A]"""
    classes: list[str]
    """[K] names, in the order of their first category ids."""
    category_ids: list[Id]
    """[K] the (first) id of each class in the file."""
    dropped: Counter[str]
    """How many annotations and images were left out, by the reason."""


def read_coco(path: Path, flag: str) -> dict[str, Any]:
    """Read a COCO file's JSON. flag: that gave the path, for errors. Raises DataError."""
    try:
        content = json.loads(path.read_bytes(), parse_constant=_no_number)
    except OSError as error:
        raise DataError(f"{flag} {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{flag} {path} is no JSON: {error}") from error
    missing = [part for part in _PARTS if not isinstance(_part(content, part), list)]
    if missing:
        raise DataError(f"{flag} {path} is no COCO file: it has no list {' and '.join(missing)}")
    for part in ("images", "categories"):
        if not content[part]:
            raise DataError(f"{flag} {path}: its list {part} is empty")
    return content


def table_of(content: Mapping[str, Any], place: str, present: Sequence[bool]) -> CocoTable:
    """Make arrays of a COCO file's content.

    place: flag and file, for errors. present: whether the file of each image is there; images
    without one are left out. Boxes without an area, annotations of unknown images and outlines
    without an area are left out and counted. Raises DataError for everything that COCO's form does
    not allow.
    """
    images = [image for image, there in zip(content["images"], present, strict=True) if there]
    number_of = {image["id"]: number for number, image in enumerate(images)}
    absent = {image["id"] for image in content["images"]} - number_of.keys()
    classes, label_of = _classes(content["categories"], place)
    dropped = Counter({"images whose files are missing": len(absent)})
    rows = list(_rows(content["annotations"], place, number_of, absent, label_of, images, dropped))
    rows.sort(key=lambda row: row[0])  # stable: the order within an image is the file's
    of_image, labels, boxes, areas, crowd, outlines = zip(*rows, strict=True) if rows else [()] * 6
    first_ids = {label: id_ for id_, label in reversed(label_of.items())}
    return CocoTable(
        names=[image["file_name"] for image in images],
        image_ids=[image["id"] for image in images],
        sizes=np.array([(image["height"], image["width"]) for image in images], np.int64),
        starts=np.searchsorted(np.array(of_image, np.int64), np.arange(len(images) + 1)),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        areas=np.array(areas, np.float64),
        labels=np.array(labels, np.int64),
        crowd=np.array(crowd, bool),
        outlines=Outlines(outlines),
        classes=classes,
        category_ids=[first_ids[label] for label in range(1, len(classes) + 1)],
        dropped=+dropped,
    )


def check_images(images: Sequence[Any], place: str) -> list[str]:
    """Return the names of the images' files. Raises DataError for entries that cannot be used."""
    ids = Counter(_part(image, "id") for image in images)
    for image in images:
        name, id_ = _part(image, "file_name"), _part(image, "id")
        if not isinstance(name, str) or not name or not isinstance(id_, Id):
            raise DataError(f"{place}: an image without id or file_name")
        sides = [_part(image, side) for side in ("height", "width")]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise DataError(f"{place}: image {name} has no height and width in pixels")
        if ids[id_] > 1:
            raise DataError(f"{place}: {ids[id_]} images have the id {id_}")
    return [image["file_name"] for image in images]


def _classes(categories: Sequence[Any], place: str) -> tuple[list[str], dict[Id, int]]:
    """Return the names of classes, and the label of each category id, from 1.

    Categories of one name are one class: Roboflow's files have an empty one of that kind.
    """
    for category in categories:
        known = isinstance(_part(category, "id"), Id) and isinstance(_part(category, "name"), str)
        if not known:
            raise DataError(f"{place}: a category without id or name")
    ordered = sorted(categories, key=lambda category: (str(type(category["id"])), category["id"]))
    names = list(dict.fromkeys(category["name"] for category in ordered))
    label_of = {category["id"]: names.index(category["name"]) + 1 for category in ordered}
    if len(label_of) < len(categories):
        raise DataError(f"{place}: several categories have the same id")
    return names, label_of


Row = tuple[int, int, list[float], float, bool, Outline]
"""Image, label, box, area, crowd, outline."""


def _rows(
    annotations: Sequence[Any],
    place: str,
    number_of: Mapping[Id, int],
    absent: set[Id],
    label_of: Mapping[Id, int],
    images: Sequence[Any],
    dropped: Counter[str],
) -> Iterator[Row]:
    """Yield the annotations that can be used, and count the others."""
    for annotation in annotations:
        number = number_of.get(_part(annotation, "image_id"))
        if number is None:
            is_known = _part(annotation, "image_id") in absent
            dropped["annotations of images that the file does not list"] += not is_known
            continue
        try:
            row = _row(annotation, number, label_of, images[number])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            _refuse(annotation, place, error)
        if row[2][2] <= 0 or row[2][3] <= 0:
            dropped["boxes without an area"] += 1
        elif annotation.get("segmentation") and not row[5].is_known:
            dropped["outlines without an area"] += 1
        else:
            yield row


def _row(
    annotation: Mapping[str, Any], number: int, label_of: Mapping[Id, int], image: Mapping[str, Any]
) -> Row:
    box = [float(value) for value in annotation["bbox"]]
    if len(box) != 4 or not np.isfinite(box).all():
        raise ValueError("its bbox is not left, top, width, height")
    if annotation["category_id"] not in label_of:
        raise ValueError(f"its category_id {annotation['category_id']} is of no category")
    area = annotation.get("area")
    outline = read_outline(annotation.get("segmentation"), (image["height"], image["width"]))
    is_crowd = bool(annotation.get("iscrowd", 0))
    known = float("nan") if area is None else float(area)
    return number, label_of[annotation["category_id"]], box, known, is_crowd, outline


def _refuse(annotation: Any, place: str, error: Exception) -> NoReturn:
    reason = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
    raise DataError(f"{place}: annotation {_part(annotation, 'id')}: {reason}") from error


def _part(entry: Any, name: str) -> Any:
    """Return an entry of a JSON object; None if there is none."""
    return entry.get(name) if isinstance(entry, dict) else None


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
