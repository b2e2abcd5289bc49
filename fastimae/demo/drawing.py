"""Pictures that the demo makes itself: ten kinds of shapes in colours, of any number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fastimae.folders import write_text
from fastimae.settings import Seeded

SIDE = 96

Field = np.ndarray  # [N, SIDE, SIDE], float


def draw_dataset(folder: Path, per_class: int, seed: int = Seeded.seed) -> None:
    """Write an ImageFolder of JPEGs that depend only on the seed; replace the folder's content."""
    shutil.rmtree(folder, ignore_errors=True)
    for label, name in enumerate(SHAPES):
        (folder / name).mkdir(parents=True)
        images = draw_class(label, per_class, np.random.default_rng([seed, label]))
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{number:04}.jpg", quality=92)


def draw_scenes(folder: Path, per_class: int, seed: int = Seeded.seed) -> None:
    """Write the same drawings as `draw_dataset`, with masks, for fastimae-eval segment and detect.

    folder: a split of a data set, whose content is replaced; images/ and masks/ are in it. Masks
    have 0 on paper, and 1 + the number of the class on ink. In _annotations.coco.json the ink of
    a drawing is an object. per_class, seed: as for `draw_dataset`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    draw_dataset(folder / "images", per_class, seed)
    coco = {"categories": [{"id": number + 1, "name": name} for number, name in enumerate(SHAPES)]}
    coco |= {"images": [], "annotations": []}
    for label, (name, shape) in enumerate(SHAPES.items()):
        (folder / "masks" / name).mkdir(parents=True)
        inside = shape(*placed_grid(per_class, np.random.default_rng([seed, label]))) > 0.5
        for number, ink in enumerate(inside):
            mask = Image.fromarray(ink * np.uint8(label + 1))
            mask.save(folder / "masks" / name / f"{number:04}.png")
            _annotate(coco, f"images/{name}/{number:04}.jpg", ink, label + 1)
    write_text(folder / "_annotations.coco.json", json.dumps(coco))


def _annotate(coco: dict[str, list], name: str, ink: np.ndarray, category: int) -> None:
    """Add an image and its object to a COCO file. ink: the object's pixels, bool [H, W]."""
    number = len(coco["images"]) + 1
    size = {"height": ink.shape[0], "width": ink.shape[1]}
    coco["images"].append({"id": number, "file_name": name, **size})
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    left, top = int(columns[0]), int(rows[0])
    width, height = int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top
    coco["annotations"].append({
        "id": number, "image_id": number, "category_id": category, "iscrowd": 0,
        "bbox": [left, top, width, height], "area": int(ink.sum()),
        "segmentation": {"size": list(ink.shape), "counts": _run_lengths(ink)},
    })  # fmt: skip


def _run_lengths(ink: np.ndarray) -> list[int]:
    """Return COCO's run lengths of a mask, bool [H, W]: column by column, of paper first."""
    line = np.concatenate([[False], ink.flatten(order="F")])
    changes = np.flatnonzero(line[1:] != line[:-1])
    return np.diff([0, *changes, ink.size]).tolist()


def draw_class(label: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` pictures of a class, uint8 [count, SIDE, SIDE, 3].

    A class is a shape in two colours, bright on dark or dark on bright. Position, size, angle and
    shade vary.
    """
    inside = list(SHAPES.values())[label](*placed_grid(count, rng))
    hue = label / len(SHAPES)
    bright, dark = rng.uniform(0.8, 1.0, count), rng.uniform(0.2, 0.4, count)
    ink = colours(hue, dark if label % 2 else bright, rng)
    paper = colours(hue + 0.45, bright if label % 2 else dark, rng)
    shade = inside[..., None]
    return np.rint(255 * (shade * ink + (1 - shade) * paper)).astype(np.uint8)


def placed_grid(count: int, rng: np.random.Generator) -> tuple[Field, Field]:
    """Return each pixel's coordinates in the frame of shapes that are moved, turned and scaled."""
    line = np.linspace(-1, 1, SIDE)
    angle, scale = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.8, 1.25, count)
    x = line[None, None, :] - rng.uniform(-0.3, 0.3, count)[:, None, None]
    y = line[None, :, None] - rng.uniform(-0.3, 0.3, count)[:, None, None]
    cos, sin = (np.cos(angle) / scale)[:, None, None], (np.sin(angle) / scale)[:, None, None]
    return cos * x + sin * y, cos * y - sin * x


def colours(hue: float, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return RGB in 0..1, [N, 1, 1, 3], near `hue` (0..1), with the brightness `value` [N]."""
    turn = hue + rng.uniform(-0.02, 0.02, len(value))
    wheel = np.abs((turn[:, None] + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    saturation = rng.uniform(0.75, 0.95, len(value))[:, None]
    rgb = value[:, None] * (1 - saturation * (1 - np.clip(wheel, 0, 1)))
    return rgb[:, None, None, :]


def edge(distance: Field) -> Field:
    """Return 1 where `distance` is positive, 0 where negative, with a soft border of a pixel."""
    return np.clip(distance * SIDE / 4 + 0.5, 0, 1)


def _triangle(x: Field, y: Field) -> Field:
    sides = [np.cos(turn) * x + np.sin(turn) * y for turn in 2 * np.pi * np.arange(3) / 3]
    return edge(0.4 - np.maximum.reduce(sides))


def _star(x: Field, y: Field) -> Field:
    return edge(0.55 + 0.22 * np.cos(5 * np.arctan2(y, x)) - np.hypot(x, y))


def _moon(x: Field, y: Field) -> Field:
    return edge(np.minimum(0.75 - np.hypot(x, y), np.hypot(x - 0.4, y) - 0.55))


def _cross(x: Field, y: Field) -> Field:
    return edge(0.22 - np.minimum(np.abs(x), np.abs(y)))


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda x, y: edge(0.6 - np.hypot(x, y)),
    "ring": lambda x, y: edge(0.18 - np.abs(np.hypot(x, y) - 0.6)),
    "square": lambda x, y: edge(0.5 - np.maximum(np.abs(x), np.abs(y))),
    "triangle": _triangle,
    "star": _star,
    "moon": _moon,
    "cross": _cross,
    "stripes": lambda x, y: edge(0.25 * np.sin(5 * x)),
    "checker": lambda x, y: edge(0.25 * np.sin(4 * x) * np.sin(4 * y)),
    "waves": lambda x, y: 0.5 + 0.5 * np.sin(4 * np.hypot(x, y) + 1),
}
