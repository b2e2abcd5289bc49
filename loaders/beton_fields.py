"""Which field of a `.beton` file is the image, and which the label.

What is asked for by name is taken. Else these rules, also told in docs/sources.md:

1. The image is the field called `image`, or the only image field.
2. The label is the field called by one of LABEL_NAMES, if it holds whole numbers (integers, or
   floats that are whole in every sample); if it does not, there are no labels.
3. If there is no such field, it is the only integer field, or else the only float field of whole
   numbers.

Where two could be meant, that is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.beton_format import FLOAT_FIELD, IMAGE_FIELD, INT_FIELD
from fastimae.loaders.errors import DataError
from fastimae.loaders.items import shown

IMAGE_NAME = "image"
LABEL_NAMES = frozenset({"label", "labels", "target", "targets", "class"})
"""In small or capital letters."""
NO_LABELS = "none"
"""What to ask for in place of a label field, to have none."""


class UnclearField(DataError):
    """Nothing says which of several fields is meant."""


class Wanted(NamedTuple):
    """The fields to read, by name; None: by the rules."""

    label: str | None = None
    image: str | None = None


class Field(NamedTuple):
    """A column of a file."""

    name: str
    type_id: int


def choose_image(path: Path, fields: Sequence[Field], wanted: str | None) -> int:
    """The number of the image field. Raises `DataError` if there is none, or more than one."""
    images = [k for k, field in enumerate(fields) if field.type_id == IMAGE_FIELD]
    if not images:
        raise DataError(f"{path}: has no RGB image field")
    named = [k for k in images if fields[k].name == (wanted or IMAGE_NAME)]
    if wanted and not named:
        raise _no_such_field(path, f"--image_field {wanted}", fields, images)
    return _only_one(path, fields, named or images, "image")


def choose_label(
    path: Path, fields: Sequence[Field], metadata: np.ndarray, wanted: str | None
) -> tuple[int, NDArray[np.int64]] | None:
    """The number of the label field and its values, int64 [N]; None where there is none.

    metadata: field k is named `fk`. Raises `DataError` where `wanted` does not hold whole numbers,
    and `UnclearField` where several fields could be meant.
    """
    if wanted == NO_LABELS:
        return None
    numbers = {
        k: values
        for k, field in enumerate(fields)
        if (values := _whole_numbers(metadata[f"f{k}"], field.type_id)) is not None
    }
    if wanted:
        found = [k for k in numbers if fields[k].name == wanted]
        if not found:
            raise _no_such_field(path, f"--label_field {wanted}", fields, numbers)
    else:
        found = _by_rules(fields, numbers)
    if not found:
        return None
    chosen = _only_one(path, fields, found, "label")
    return chosen, numbers[chosen]


def told(fields: Sequence[Field], image: int, label: int | None) -> str:
    """What the file is, with what was chosen where there was a choice."""
    names = [field.name for field in fields]
    if names == [IMAGE_NAME] or (names == [IMAGE_NAME, "label"] and label == 1):
        return ".beton file"
    labels = "no labels" if label is None else f"labels from {shown(names[label])}"
    return f".beton file, images from its field {shown(names[image])}, {labels}"


def _by_rules(fields: Sequence[Field], numbers: dict[int, NDArray[np.int64]]) -> list[int]:
    """Those that may be the label."""
    named = {k for k, field in enumerate(fields) if field.name.lower() in LABEL_NAMES}
    if named:
        return [k for k in numbers if k in named]
    integers = [k for k in numbers if fields[k].type_id == INT_FIELD]
    return integers or list(numbers)


def _whole_numbers(values: np.ndarray, type_id: int) -> NDArray[np.int64] | None:
    if type_id == INT_FIELD:
        return values
    if type_id != FLOAT_FIELD:
        return None
    whole = np.all((np.abs(values) < 2**53) & (values == np.trunc(values)))
    return values.astype(np.int64) if whole else None


def _only_one(path: Path, fields: Sequence[Field], found: list[int], what: str) -> int:
    if len(found) == 1:
        return found[0]
    names = ", ".join(shown(fields[k].name) for k in found)
    none = f", or {NO_LABELS}" if what == "label" else ""
    bench = ", fastimae-bench" if what == "image" else ""
    raise UnclearField(
        f"{path}: nothing says which of its fields is the {what}: {names}; name it with "
        f"--{what}_field NAME{none} (of fastimae-train{bench} and fastimae-eval)"
    )


def _no_such_field(
    path: Path, flag: str, fields: Sequence[Field], possible: Sequence[int] | dict
) -> DataError:
    names = ", ".join(shown(fields[k].name) for k in possible) or "none"
    return DataError(f"{flag}: not a field of {path} that can be it; those are: {names}")
