"""Named augmentations, `fastimae-train --aug NAME`: the flags that each stands for."""

from __future__ import annotations

from typing import Any

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "strong": {"min_crop": 0.08, "color_jitter": 0.4, "blur": 0.5},
}
"""strong: for a data set of few images (occlusion paper, table 6). Ours: all that the paper says is
"stronger augmentation"; these are supervised training's crops, and SimSiam's colours and blur."""
