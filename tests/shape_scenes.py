"""Scenes of coloured shapes with masks and instances, as folders, VOC, ADE20K or COCO data sets."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASSES = ("background", "circle", "square", "triangle")
"""What the values of a scene's mask are."""
COLOURS = ((200, 60, 50), (60, 190, 70), (70, 80, 210))
"""Of circles, squares and triangles, about."""
CATEGORIES = {2: "circle", 5: "square", 9: "triangle"}
"""Of COCO files: numbers with gaps, as COCO's are."""
IGNORED = 255
LAYOUTS = ("folders", "images_first", "voc", "ade20k")
SPLITS = {"ade20k": {"train": "training", "val": "validation"}}
_ROOTS = {"voc": "VOCdevkit/VOC2012", "ade20k": "ADEChallengeData2016"}
_TRIES = 100


@dataclasses.dataclass(kw_only=True)
class Instance:
    """A shape: its number in `CLASSES`, corners, pixels bool [H, W] and box (x, y, x2, y2).

    As in COCO, the box is that of the corners, whose coordinates are edges of pixels.
    """

    label: int
    polygon: list[tuple[float, float]]
    pixels: NDArray[np.bool_]

    @property
    def box(self) -> tuple[float, float, float, float]:
        x, y = zip(*self.polygon, strict=True)
        return min(x), min(y), max(x), max(y)


@dataclasses.dataclass(kw_only=True)
class Scene:
    """An image, RGB; its mask, uint8 [H, W], of numbers in `CLASSES`; and its instances."""

    image: Image.Image
    mask: NDArray[np.uint8]
    instances: list[Instance]


def make_scene(
    seed: int, size: int | tuple[int, int] = 64, shapes: int = 3, *, smallest: float = 0.12
) -> Scene:
    """Draw up to `shapes` shapes, at least one, that do not touch on a gray texture.

    size: the side, or (height, width), in pixels. smallest: radius, as a share of the shorter side;
    the first shape's is at least 0.2, and none is above 0.28.
    """
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(seed)
    image, mask, instances = _texture(rng, height, width), np.zeros((height, width), np.uint8), []
    for number in range(rng.integers(1, shapes + 1)):
        label = 1 + (seed + number) % 3  # all classes are as frequent
        radii = (smallest, 0.2) if number else (0.2, 0.28)
        instance = _place(rng, label, mask, radii)
        if instance is not None:
            mask[instance.pixels] = label
            colour = rng.integers(-30, 31, 3) + COLOURS[label - 1]
            image[instance.pixels] = colour + rng.integers(-15, 16, (instance.pixels.sum(), 3))
            instances.append(instance)
    picture = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    return Scene(image=picture, mask=mask, instances=instances)


def write_segmentation(
    folder: Path,
    layout: str = "folders",
    *,
    train: int = 8,
    val: int = 4,
    size: int | tuple[int, int] = 64,
) -> Path:
    """Write scenes in one of `LAYOUTS`, and return the folder that `--data` takes.

    Scenes of train are others than those of val; each layout has the same. Pixels around a shape
    are ignored in VOC (255) and ADE20K (0, so that its classes are numbered from 1).
    """
    for split, index, scene in _scenes(train, val, size):
        name = f"{split}_{index:03d}"
        (images, masks), mask = _places(folder, layout, split), scene.mask
        if layout in _ROOTS:
            mask = np.where(_edges(mask), IGNORED, mask).astype(np.uint8)
        if layout == "ade20k":
            mask = np.where(mask == IGNORED, 0, mask + 1).astype(np.uint8)
        save_image(scene.image, images / f"{name}.jpg")
        save_mask(mask, masks / f"{name}.png", palette=layout == "voc")
        if layout == "voc":
            _add_line(folder / _ROOTS["voc"] / f"ImageSets/Segmentation/{split}.txt", name)
    if layout in ("folders", "images_first"):
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return folder


def write_coco(
    folder: Path,
    *,
    train: int = 8,
    val: int = 4,
    size: int | tuple[int, int] = 128,
    crowd: bool = False,
    smallest: float = 0.12,
) -> Path:
    """Write scenes as COCO's folders train2017, val2017 and annotations; return `folder`.

    crowd: each image's last instance is a crowd, whose mask is run lengths and not polygons.
    smallest: see `make_scene`.
    """
    found: dict[str, dict[str, list]] = {split: {"images": [], "annotations": []}
                                         for split in ("train", "val")}  # fmt: skip
    for split, index, scene in _scenes(train, val, size, smallest):
        number, name = 100 + 7 * index, f"{100 + 7 * index:012d}.jpg"
        save_image(scene.image, folder / f"{split}2017" / name)
        width, height = scene.image.size
        entry = {"id": number, "file_name": name, "width": width, "height": height}
        found[split]["images"].append(entry)
        for instance in scene.instances:
            last = crowd and instance is scene.instances[-1]
            record = {"id": len(found[split]["annotations"]) + 1, "image_id": number}
            found[split]["annotations"].append(record | _annotation(instance, last))
    categories = [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, content in found.items():
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(content | {"categories": categories}))
    return folder


def save_image(image: Image.Image, path: Path, **options: object) -> Path:
    """Save a JPEG of high quality, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95, **options)
    return path


def save_mask(mask: NDArray, path: Path, *, palette: bool = False) -> Path:
    """Save a mask, uint8 or uint16 [H, W], as a PNG, with colours for its values if `palette`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette([(37 * value * (1 + channel)) % 256
                          for value in range(256) for channel in range(3)])  # fmt: skip
    image.save(path)
    return path


def _scenes(
    train: int, val: int, size: int | tuple[int, int], smallest: float = 0.12
) -> Iterator[tuple[str, int, Scene]]:
    """Yield (split, number within it, scene)."""
    for split, count, first in (("train", train, 0), ("val", val, 10_000)):
        for index in range(count):
            yield split, index, make_scene(first + index, size, smallest=smallest)


def _places(folder: Path, layout: str, split: str) -> tuple[Path, Path]:
    """Return the folders of images and of masks."""
    root, name = folder / _ROOTS.get(layout, ""), SPLITS.get(layout, {}).get(split, split)
    return {
        "folders": (root / name / "images", root / name / "masks"),
        "images_first": (root / "images" / name, root / "masks" / name),
        "voc": (root / "JPEGImages", root / "SegmentationClass"),
        "ade20k": (root / "images" / name, root / "annotations" / name),
    }[layout]


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.int64]:
    """Return gray noise over a gray slope, [height, width, 3]."""
    slope = np.linspace(rng.integers(60, 110), rng.integers(110, 170), width)
    noise = rng.integers(-20, 21, (height, width))
    return np.repeat((slope + noise)[..., None], 3, axis=2).astype(np.int64)


def _place(
    rng: np.random.Generator, label: int, mask: NDArray[np.uint8], radii: tuple[float, float]
) -> Instance | None:
    """Find a place for a shape that does not touch what is in the mask; None if there is none."""
    height, width = mask.shape
    for _ in range(_TRIES):
        radius = rng.uniform(*radii) * min(height, width)
        x, y = (rng.uniform(radius + 1, side - radius - 1) for side in (width, height))
        corners = _corners(label, x, y, radius)
        drawn = Image.new("L", (width, height))
        ImageDraw.Draw(drawn).polygon(corners, fill=1)
        pixels = np.asarray(drawn) > 0
        if not mask[_grown(pixels)].any():
            return Instance(label=label, polygon=corners, pixels=pixels)
    return None


def _corners(label: int, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Return the corners of a circle (24 of them), square or triangle, in whole pixels."""
    count, start = {1: (24, 0.0), 2: (4, math.pi / 4), 3: (3, -math.pi / 2)}[label]
    angles = [start + 2 * math.pi * corner / count for corner in range(count)]
    return [
        (round(x + radius * math.cos(angle)), round(y + radius * math.sin(angle)))
        for angle in angles
    ]


def _grown(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add all neighbours of the pixels."""
    padded = np.pad(pixels, 1)
    height, width = pixels.shape
    return np.any(
        [padded[row : row + height, column : column + width]
         for row in range(3) for column in range(3)], axis=0,
    )  # fmt: skip


def _edges(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the background pixels that touch a shape."""
    return _grown(mask > 0) & (mask == 0)


def _annotation(instance: Instance, crowd: bool) -> dict[str, object]:
    """Return COCO's entry of an instance, without its numbers."""
    left, top, right, bottom = instance.box
    polygon = [float(value) for corner in instance.polygon for value in corner]
    return {
        "category_id": list(CATEGORIES)[instance.label - 1],
        "bbox": [left, top, right - left, bottom - top],
        "area": int(instance.pixels.sum()),
        "iscrowd": int(crowd),
        "segmentation": _run_lengths(instance.pixels) if crowd else [polygon],
    }


def _run_lengths(pixels: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return COCO's uncompressed run lengths, column by column, first of zeros."""
    flat = np.concatenate([[False], pixels.flatten(order="F")])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], starts, [pixels.size]])).tolist()
    return {"size": list(pixels.shape), "counts": counts}


def _add_line(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{line}\n")
