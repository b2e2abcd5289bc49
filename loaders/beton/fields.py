"""Chooses the image field and the label field of a `.beton` file.

A field requested by name is used. Otherwise these rules decide (see docs/sources.md):

1. The image is the field called `image`, or the only image field.
2. The label is the field with one of LABEL_NAMES, if it holds whole numbers (integers, or floats
   that are whole in every sample); if it holds anything else, there are no labels.
3. If there is no field of such a name, the label is the only integer field, or else the only float
   field of whole numbers.

If several fields qualify, that is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.beton.layout import FLOAT_FIELD, INT_FIELD
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import printable
from fastimae.loaders.images.pixel_form import RGB8, PixelForm

IMAGE_NAME = "image"
LABEL_NAMES = frozenset({"label", "labels", "target", "targets", "class"})
"""Upper or lower case."""
NO_LABELS = "none"
"""The name to give instead of a label field's, for no labels."""


class UnclearField(DataError):
    """A file with several fields that could be the image or the label."""


class WantedFields(NamedTuple):
    """The names of the fields to read; None: chosen by the rules."""

    label: str | None = None
    image: str | None = None


class Field(NamedTuple):
    """A column of a file: its name and type."""

    name: str
    type_id: int
    form: PixelForm | None = None
    """That of its pixels, if it is an image field."""


def choose_image(path: Path, fields: Sequence[Field], wanted: str | None) -> int:
    """Return the number of the image field. Raises `DataError` if none or several qualify."""
    images = [k for k, field in enumerate(fields) if field.form is not None]
    if not images:
        raise DataError(f"{path}: has no image field")
    named = [k for k in images if fields[k].name == (wanted or IMAGE_NAME)]
    if wanted and not named:
        raise _no_such_field(path, f"--image_field {wanted}", fields, images)
    return _only_one(path, fields, named or images, "image")


def choose_label(
    path: Path, fields: Sequence[Field], metadata: np.ndarray, wanted: str | None
) -> tuple[int, NDArray[np.int64]] | None:
    """Return the number of the label field and its values, int64 [N]; None if there is none.

    metadata: field k is named `fk`. Raises `DataError` if `wanted` does not hold whole numbers,
    and `UnclearField` if several fields qualify.
    """
    if wanted == NO_LABELS:
        return None
    numbers = {
        k: values
        for k, field in enumerate(fields)
        if (values := _whole_numbers(metadata[f"f{k}"], field.type_id)) is not None
    }
    if wanted:
        candidates = [k for k in numbers if fields[k].name == wanted]
        if not candidates:
            raise _no_such_field(path, f"--label_field {wanted}", fields, numbers)
    else:
        candidates = _label_candidates(fields, numbers)
    if not candidates:
        return None
    chosen = _only_one(path, fields, candidates, "label")
    return chosen, numbers[chosen]


def describe_fields(fields: Sequence[Field], image: int, label: int | None) -> str:
    """Describe the kind of file, with the fields that were chosen if there was a choice."""
    names, form = [field.name for field in fields], fields[image].form
    kind = ".beton file" if form == RGB8 else f".beton file of {form} pixels"
    if names == [IMAGE_NAME] or (names == [IMAGE_NAME, "label"] and label == 1):
        return kind
    labels = "no labels" if label is None else f"labels from {printable(names[label])}"
    return f"{kind}, images from its field {printable(names[image])}, {labels}"


def _label_candidates(fields: Sequence[Field], numbers: dict[int, NDArray[np.int64]]) -> list[int]:
    """Return the fields that may be the label by rules 2 and 3."""
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
    is_whole = np.all((np.abs(values) < 2**53) & (values == np.trunc(values)))
    return values.astype(np.int64) if is_whole else None


def _only_one(path: Path, fields: Sequence[Field], candidates: list[int], role: str) -> int:
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(printable(fields[k].name) for k in candidates)
    none = f", or {NO_LABELS}" if role == "label" else ""
    bench = ", fastimae-bench" if role == "image" else ""
    raise UnclearField(
        f"{path}: several fields could be the {role}: {names}; choose one with "
        f"--{role}_field NAME{none} (of fastimae-train{bench} and fastimae-eval)"
    )


def _no_such_field(
    path: Path, flag: str, fields: Sequence[Field], possible: Sequence[int] | dict
) -> DataError:
    names = ", ".join(printable(fields[k].name) for k in possible) or "none"
    return DataError(
        f"{flag}: {path} has no field of this name and a suitable type; suitable ones are: {names}"
    )
