"""What names of models tell: MAE's, i-MAE's, timm's."""

from __future__ import annotations

import re
from typing import Any

from fastimae.models import parse_name

# i-MAE calls its teachers tmae_vit_..., fine-tuning code vit_..., timm vit_..._224.
_NAME = re.compile(
    r"(t?mae_)?(?P<model>vit_[a-z]+_patch\d+(?:_dec\d+d\d+b)?)(_(?P<side>\d+))?(\..*)?"
)


def named_sizes(name: object) -> dict[str, Any]:
    """Sizes of a model by MAE's, i-MAE's or timm's name for it; {} for an unknown name."""
    match = _NAME.fullmatch(str(name))
    try:
        return dict(parse_name(f"mae_{match['model']}")) if match else {}
    except ValueError:
        return {}


def named_side(name: object) -> int | None:
    """The side of its images that timm's name of a model ends in."""
    match = _NAME.fullmatch(str(name))
    return int(match["side"]) if match and match["side"] else None
