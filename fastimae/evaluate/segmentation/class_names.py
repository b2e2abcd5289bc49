"""Names of classes: those of VOC and ADE20K, and those in a text file."""

from __future__ import annotations

import itertools
from pathlib import Path

from fastimae.loaders.errors import DataError

MOST = 255
"""The most classes that masks of 8 bits have, as 255 marks pixels that do not count."""


def _split(names: str) -> list[str]:
    return names.split(", ")


VOC = _split(
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, "
    "dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
"""By the values of VOC's masks."""

ADE20K = _split(
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, "
    "person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, "
    "shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, "
    "bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, "
    "sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool "
    "table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, "
    "flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, "
    "boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, "
    "streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land, "
    "bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer "
    "belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, "
    "minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, "
    "lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, "
    "ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, "
    "clock, flag"
)
"""Of the 150 classes of the scene parsing challenge, whose masks have 1 to 150."""


def read_names(path: Path, what: str) -> list[str]:
    """Return the names in a text file, one a line; the first is that of class 0.

    what: the file in messages, such as "--classes names.txt". Raises DataError if it is missing or
    empty, has more names than masks can have classes, or one twice.
    """
    names = _lines(path, what)
    if not names or not all(names):
        raise DataError(f"{what}: write the name of a class on each line, and no empty line")
    check_names(names, what)
    return names


def check_names(names: list[str], what: str) -> None:
    """Raise DataError for too many names, and for one that is there twice. what: see above."""
    if len(names) > MOST:
        raise DataError(f"{what} has {len(names)} classes: masks have at most {MOST}, 0 to 254")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{what} has {twice!r} twice: each class needs a name of its own")


def object_info(path: Path) -> list[str]:
    """Return the names in ADE20K's objectInfo150.txt, a table; the last column has synonyms."""
    rows = (line.rstrip("\n").split("\t") for line in _lines(path, str(path))[1:])
    names = [row[-1] for row in rows if row[0].strip().isdecimal()]
    short = [name.split(",")[0].strip() for name in names]
    return short if len(set(short)) == len(short) else names


def numbered(count: int) -> list[str]:
    """Return names for classes that have none."""
    return [f"class {number}" for number in range(count)]


def _lines(path: Path, what: str) -> list[str]:
    """Return the lines of a text file, without the empty ones at its end."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise DataError(f"{what} cannot be read: {reason}") from error
    stripped = [line.strip(" \r") for line in lines]
    kept = itertools.dropwhile(lambda line: not line, reversed(stripped))
    return list(kept)[::-1]
