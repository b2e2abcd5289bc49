"""A habit: a way in which people write, call and train vision transformers and their MAEs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of a model: pixels of images and patches, then widths, blocks and heads."""

    img_size: int = 224
    patch_size: int = 16
    width: int = 384
    depth: int = 6
    heads: int = 6
    decoder_width: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return (self.img_size // self.patch_size) ** 2


SMALL = Size()
"""ViT-S's width and half of its depth: a step takes seconds at most on two cores."""
TINY = Size(
    img_size=32, patch_size=8, width=48, depth=2, heads=3,
    decoder_width=32, decoder_depth=1, decoder_heads=2,
)  # fmt: skip
"""For tests: 16 patches."""
Step = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]


@dataclasses.dataclass(frozen=True)
class Habit:
    """A class of models and how its users call it.

    step: makes (loss, *other outputs) of the model and images, float [B, channels, H, W]; whatever
    is drawn comes from torch's generators. needs: the library that `build` imports, if any.
    """

    name: str
    build: Callable[[Size], nn.Module]
    step: Step
    needs: str = ""
    channels: int = 3


def classified(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Fine-tune a classifier: logits, and their cross entropy with labels 0, 1, 2, ..."""
    logits = model(imgs)
    labels = imgs.new_zeros(len(imgs), logits.shape[1])
    labels.diagonal().fill_(1.0)
    return nn.functional.cross_entropy(logits, labels), logits


def as_returned(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Return what a MAE returns: loss, predictions, mask."""
    return model(imgs)
