"""Images with boxes, classes and outlines of objects, from a COCO data set.

N = objects of an image, H, W = height, width. Boxes are left, top, right, bottom, in pixels.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fastimae.evaluate.detection.coco_file import CocoTable, Id, check_images, read_coco, table_of
from fastimae.evaluate.detection.layout import Split, files_in, find_annotations, find_images
from fastimae.evaluate.detection.outlines import Outline, Size, fill
from fastimae.evaluate.detection.targets import MAX_OBJECTS
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import LISTED, ImageLocation, SkipImage
from fastimae.loaders.images.decode import errors_skip
from fastimae.loaders.images.limits import check_pixels, max_pixels, open_image, value_range
from fastimae.loaders.images.pixels import eight_bits
from fastimae.loaders.order.epoch_steps import digest_of
from fastimae.loaders.sources.describe import first_of, in_short
from fastimae.log import log


class Annotations(NamedTuple):
    """The objects of an image."""

    boxes: NDArray[np.float32]
    """[N, 4], within the image."""
    labels: NDArray[np.int64]
    """[N] from 1: `CocoScenes.classes[label - 1]` is its name."""
    outlines: list[Outline]
    """[N]; an object without one has its box as mask."""
    crowd: NDArray[np.bool_]
    """[N] whether it is a group of objects: none to learn, and nothing found in it is wrong."""
    size: Size
    """(H, W) of the image."""

    @property
    def masks(self) -> NDArray[np.bool_]:
        """The pixels of each object, bool [N, H, W]."""
        masks = np.zeros((len(self.labels), *self.size), bool)
        for mask, outline, box in zip(masks, self.outlines, self.boxes, strict=True):
            if outline.is_known:
                mask[:] = fill(outline, self.size)
            else:
                left, top, right, bottom = np.rint(box).astype(int)
                mask[top:bottom, left:right] = True
        return masks


class CocoScenes:
    """The images of a split of a COCO data set. Picklable, for worker processes."""

    source: Path
    """The annotation file."""
    classes: list[str]
    """The name of each class; labels count from 1."""
    category_ids: list[Id]
    """The id of each class in the annotation file; the first, if it has several of one name."""

    def __init__(self, source: Path, folder: Path, table: CocoTable) -> None:
        """source: the annotation file. folder: of the images. table: what the file says."""
        self.source, self.folder, self.table = source, folder, table
        self.classes, self.category_ids = table.classes, table.category_ids
        self.labels = table.labels
        # One array: reference counts of strings would make each forked worker copy their pages.
        self._names = np.array([os.fsencode(name) for name in table.names])
        self._chosen = np.arange(len(table.names))

    def __len__(self) -> int:
        return len(self._chosen)

    def image_id(self, index: int) -> Id:
        """Return the id of image `index` in the annotation file."""
        return self.table.image_ids[self._chosen[index]]

    def name(self, index: int) -> str:
        """Return the path of image `index`."""
        return str(self.folder / os.fsdecode(self._names[self._chosen[index]]))

    def size(self, index: int) -> Size:
        """Return the (height, width) of image `index` by the annotation file."""
        height, width = self.table.sizes[self._chosen[index]].tolist()
        return height, width

    def rows(self, index: int) -> slice:
        """Return where the annotations of image `index` are in `table`."""
        first, last = self.table.starts[self._chosen[index] :][:2].tolist()
        return slice(first, last)

    @property
    def has_masks(self) -> bool:
        """Whether any object has an outline: if none has, there is no mask to learn or to score."""
        return bool(self.table.outlines.known.any())

    def annotations(self, index: int) -> Annotations:
        """Return the objects of image `index`; those whose box is outside of it have no area."""
        table, rows, (height, width) = self.table, self.rows(index), self.size(index)
        corners = table.boxes[rows] + np.pad(table.boxes[rows, :2], ((0, 0), (2, 0)))
        return Annotations(
            boxes=corners.clip(0, [width, height] * 2).astype(np.float32),
            labels=self.labels[rows],
            outlines=[table.outlines[row] for row in range(rows.start, rows.stop)],
            crowd=table.crowd[rows],
            size=(height, width),
        )

    def read(self, index: int) -> tuple[Image.Image, Annotations]:
        """Decode image `index` in RGB, and return it with its objects. Raises SkipImage."""
        with errors_skip():
            image = open_image(self.read_bytes(index))
            check_pixels(*image.size)
            image = _upright(image, self.size(index))
        return image, self.annotations(index)

    def read_bytes(self, index: int) -> bytes:
        """Read the file of image `index`. Raises SkipImage."""
        return ImageLocation(self.name(index)).read()

    @functools.cached_property
    def digest(self) -> int:
        """A hash of all annotations and of the contents of some images; not of names of files."""
        digest = digest_of(self._chosen, self.read_bytes)
        outlines = self.table.outlines
        for part in (self.table.boxes, self.labels, self.table.crowd, self.table.starts,
                     outlines.numbers, outlines.ends, outlines.parts):  # fmt: skip
            digest = zlib.crc32(np.ascontiguousarray(part), digest)
        return zlib.crc32(repr(self.classes).encode(), digest)

    @functools.cached_property
    def view_digest(self) -> int:
        """`digest`, and the limits by which images are skipped and decoded."""
        return zlib.crc32(repr((max_pixels(), value_range())).encode(), self.digest)

    def at(self, indices: NDArray[np.int64]) -> CocoScenes:
        """Return the images at these positions as a data set of its own."""
        scenes = self._copy()
        scenes._chosen = self._chosen[indices]
        return scenes

    def with_classes(self, classes: list[str]) -> CocoScenes:
        """Return the same images with labels as training numbers its classes, matched by name.

        Raises DataError if they have objects of a class that is not among `classes`.
        """
        used = {self.classes[label - 1] for label in np.unique(self.labels).tolist()}
        if unknown := sorted(used - set(classes)):
            raise DataError(
                f"{self.source} has classes that training does not know: "
                f"{first_of(unknown, LISTED)} (it knows {len(classes)}: {in_short(classes)})"
            )
        number_of = {name: number for number, name in enumerate(classes, 1)}
        new = np.array([0, *(number_of.get(name, 0) for name in self.classes)], np.int64)
        ids = dict(zip(self.classes, self.category_ids, strict=True))
        scenes = self._copy()
        scenes.classes, scenes.labels = list(classes), new[self.labels]
        scenes.category_ids = [ids.get(name, name) for name in classes]
        return scenes

    def _copy(self) -> CocoScenes:
        """Return a copy that has not computed any digest yet."""
        scenes = copy.copy(self)
        for digest in ("digest", "view_digest"):
            scenes.__dict__.pop(digest, None)
        return scenes


def open_coco(root: Path, split: Split, annotations: Path | None = None) -> CocoScenes:
    """Open the images of a split, "train" or "val", of a COCO data set.

    root: the folder --coco. annotations: the file, if it is not where COCO or Roboflow have it.
    For training, images without objects to learn are left out. Logs a line that describes the
    data, and what was left out. Raises DataError if they cannot be used.
    """
    path = find_annotations(root, split, annotations)
    with _no_collection():
        scenes = _open(root, split, path)
    if split == "train":
        scenes = _with_objects(scenes)
    if not (scenes.table.labels[~scenes.table.crowd] > 0).any():
        raise DataError(f"--{split}_annotations {path}: no image has an object with a box")
    _describe(scenes, split)
    return scenes


def _open(root: Path, split: Split, path: Path) -> CocoScenes:
    """Read an annotation file, and find its images."""
    flag = f"--{split}_annotations"
    content = read_coco(path, flag)
    names = check_images(content["images"], f"{flag} {path}")
    folder = find_images(root, split, path, names)
    present = files_in(folder, names)
    scenes = CocoScenes(path, folder, table_of(content, f"{flag} {path}", present))
    _warn_of_missing(scenes, names, present)
    return scenes


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Stop Python's search for garbage: over millions of numbers it takes a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _with_objects(scenes: CocoScenes) -> CocoScenes:
    """Leave out the images without an object to learn."""
    ends = np.concatenate([[0], np.cumsum(~scenes.table.crowd)])[scenes.table.starts]
    counts = np.diff(ends)
    if too_many := int((counts > MAX_OBJECTS).sum()):
        log.warning("%s: %d images have more than %d objects: the largest of a view are learned, "
                    "and the others are taken for background", scenes.source, too_many,
                    MAX_OBJECTS)  # fmt: skip
    kept = np.flatnonzero(counts)
    if left_out := len(scenes) - len(kept):
        log.info("%s: %d images without objects are not trained on", scenes.source, left_out)
    return scenes.at(kept)


def _warn_of_missing(scenes: CocoScenes, names: list[str], present: list[bool]) -> None:
    missing = [name for name, there in zip(names, present, strict=True) if not there]
    if missing:
        log.warning("%s: %d of %d images are not in %s, and left out: %s", scenes.source,
                    len(missing), len(names), scenes.folder, first_of(missing, 3))  # fmt: skip
    for reason, count in scenes.table.dropped.items():
        if reason.startswith("images"):
            continue
        log.warning("%s: %d %s, left out", scenes.source, count, reason)


def _describe(scenes: CocoScenes, split: Split) -> None:
    table = scenes.table
    crowd, boxes = int(table.crowd.sum()), int((~table.outlines.known).sum())
    notes = [f", {crowd} crowd regions"] if crowd else []
    if boxes:
        notes.append(f", {boxes} without an outline" if scenes.has_masks else ", boxes alone")
    log.info("%s: COCO, %s: %d images, %d objects of %d classes (%s)%s", scenes.source, split,
             len(scenes), len(table.labels) - crowd, len(scenes.classes),
             in_short(scenes.classes), "".join(notes))  # fmt: skip


def _upright(image: Image.Image, size: Size) -> Image.Image:
    """Return the image in RGB, turned as the annotations are.

    COCO's are of the pixels as they are stored; tools for labelling turn photographs by their EXIF
    first. The size that the annotations state decides. Raises SkipImage if neither has it.
    """
    wanted = size[::-1]
    if image.size != wanted:
        width, height = image.size
        image = ImageOps.exif_transpose(image)
        if image.size != wanted:
            raise SkipImage(
                f"{width}x{height} pixels, and the annotations are of an image of "
                f"{wanted[0]}x{wanted[1]}"
            )
    return eight_bits(image)
