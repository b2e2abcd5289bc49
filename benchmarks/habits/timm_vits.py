"""timm's VisionTransformer: fine-tuned as classifiers, and read layer by layer."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from benchmarks.habits.base import Habit, Size, classified


def vit(size: Size, **settings: Any) -> nn.Module:
    """Make a classifier of ten classes. settings: of VisionTransformer."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=size.img_size,
        patch_size=size.patch_size,
        num_classes=10,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        **settings,
    )


def intermediates(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Read the maps of two layers, as segmentation and detection do."""
    maps = model.forward_intermediates(imgs, indices=2, intermediates_only=True)
    return sum(one.square().mean() for one in maps), *maps


def _classifier(name: str, **settings: Any) -> Habit:
    return Habit(f"timm ViT, {name}", functools.partial(vit, **settings), classified, "timm")


HABITS = (
    _classifier("class token"),
    _classifier("mean with fc_norm", global_pool="avg", fc_norm=True),
    _classifier("drop path", drop_path_rate=0.2),
    _classifier("LayerScale", init_values=0.1),
    Habit("timm ViT, forward_intermediates", vit, intermediates, "timm"),
)
