"""Sizes that a model's name implies: names of MAE, i-MAE and timm."""

from __future__ import annotations

import re
from typing import Any

from fastimae.models import parse_name

# i-MAE calls its teachers tmae_vit_..., fine-tuning code vit_..., timm vit_..._224.
_NAME = re.compile(
    r"(t?mae_)?(?P<model>vit_[a-z]+_patch\d+(?:_dec\d+d\d+b)?)(_(?P<side>\d+))?(\..*)?"
)


def named_sizes(name: object) -> dict[str, Any]:
    """Return the sizes of a model by its name in MAE, i-MAE or timm; {} for an unknown name."""
    match = _NAME.fullmatch(str(name))
    try:
        return dict(parse_name(f"mae_{match['model']}")) if match else {}
    except ValueError:
        return {}


def named_side(name: object) -> int | None:
    """Return the side of the images that a name of timm ends with; None if it has none."""
    match = _NAME.fullmatch(str(name))
    return int(match["side"]) if match and match["side"] else None
