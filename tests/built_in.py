"""Every built-in objective, small: what tests that hold for all of them need to know of one.

A new objective is tested as soon as it is in `OBJECTIVES`; what only it needs stands here.
"""

import types
from collections.abc import Callable
from typing import Any

from fastimae.models import MaskedAutoencoder
from fastimae.objectives import OBJECTIVES, Objective

FLAGS = {"imae": "--mix_group 2"}
"""More flags for tiny runs: pairs within groups that divide any batch."""
NARROW = {"cmae": {"proj_hidden_dim": 64, "proj_dim": 32}}
"""Settings that make what an objective adds to a tiny model as small: narrow heads."""
NO_SUM = {"cmae": "its negatives are the other images of a micro-batch, on all ranks"}
"""Objectives of which two halves of a batch do not add up to the whole, and why."""


def flags_of(name: str) -> str:
    """Return the flags of a tiny run."""
    narrow = " ".join(f"--{key} {value}" for key, value in NARROW.get(name, {}).items())
    return f"--objective {name} {FLAGS.get(name, '')} {narrow}"


def build(name: str, make: Callable[..., MaskedAutoencoder], **settings: Any) -> Objective:
    """Build an objective as a run does, with its models made by `make`, i-MAE's teacher too."""
    kind = OBJECTIVES[name]
    models = types.SimpleNamespace(student=make, teacher=lambda *_, **__: make())
    return kind.load().build(kind.Settings(**NARROW.get(name, {}) | settings), models)
