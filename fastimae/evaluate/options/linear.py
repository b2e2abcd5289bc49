"""Flags of a linear probe, and MAE's settings as a recipe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from fastimae.evaluate.options.labels import ProbeOptions, TrainingOptions
from fastimae.settings import Free, NotNegative, PositiveInt

if TYPE_CHECKING:
    from fastimae.engine.distributed import World
    from fastimae.evaluate.images import Images


@dataclasses.dataclass(kw_only=True)
class LinearOptions(ProbeOptions, TrainingOptions):
    """Train a linear classifier on frozen features, without augmentation.

    fastimae-eval linear --checkpoint mae.pth --ffcv train.beton --val val.beton
    """

    batch_size: PositiveInt = 512
    """Features per GPU and step."""
    epochs: PositiveInt = 90
    """Passes over the features."""
    recipe: Free[str | None] = None
    """Name of a recipe to start from; other flags override its settings."""
    opt: Literal["sgd", "lars"] = "sgd"
    """SGD or LARS, both with momentum 0.9. LARS, MAE's choice, is for batches of many thousands."""
    blr: NotNegative = 0.1
    """Base learning rate, for an effective batch of 256."""
    weight_decay: NotNegative = 0.0
    """Weight decay of the matrix; the bias has none."""
    warmup_epochs: NotNegative = 10
    """Epochs of linear warm-up."""

    def check_images(self, train: Images, world: World) -> None:
        """Raise ConfigError if there are too few images for a step."""
        from fastimae.evaluate.labels.classification import check_step  # which imports torch

        check_step(len(train), self.batch_size, world, self.accum_iter)


def mae() -> dict[str, Any]:
    """MAE's linear probe on ImageNet: LARS at an effective batch of 16384.

    Command: fastimae-eval linear --recipe mae --checkpoint mae.pth --ffcv train.beton
             --val val.beton
    Hardware: one GPU that holds the features: 4 GB for ViT-B.
    Expected: 68.0 % for ViT-B in the paper, whose probe sees random crops; ours sees each image's
    centre, computed once. Not run here.
    """
    return {"opt": "lars", "batch_size": 16384}


RECIPES = {"mae": mae}
