"""Batches whose fields are tensors, or lists and dicts of them, as the targets of detection are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor

Value = TypeVar("Value")


def mapped(value: Value, change: Callable[[Any], Any], kind: type = Tensor) -> Value:
    """Return a copy of nested lists, tuples, dicts, dataclasses with each leaf of `kind` changed.

    value: other leaves, such as None and strings, stay. change: receives each leaf of that kind.
    kind: by default tensors.
    """
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(item, change, kind) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [mapped(item, change, kind) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(
            value, **{name: mapped(getattr(value, name), change, kind) for name in names}
        )
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in a nested value, in the order in which `mapped` meets them."""
    found: list[Tensor] = []
    mapped(value, lambda tensor: found.append(tensor) or tensor)
    return iter(found)
