"""Settings of the detector: anchors, proposals, heads."""

from __future__ import annotations

import dataclasses

from fastimae.settings import Expert, PositiveFloat, PositiveInt, Settings, Share

ANCHOR_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
"""Mask R-CNN's: eight times the stride."""


@dataclasses.dataclass(kw_only=True)
class DetectorSettings(Settings):
    """How objects are proposed, classified and drawn."""

    anchor_sizes: tuple[PositiveFloat, ...] | None = None
    """Sides of anchors in pixels, for strides 4, 8, 16, 32 and 64. None: 32 64 128 256 512."""
    score_threshold: Share = 0.05
    """Detections with a lower score are dropped."""
    detections: PositiveInt = 100
    """Most detections in an image; COCO's AP counts 100."""
    proposals: Expert[PositiveInt] = 1000
    """Regions that the heads look at in an image, at most."""
    rpn_batch: Expert[PositiveInt] = 256
    """Anchors of an image that the loss of proposals looks at, up to half of them objects."""
    roi_batch: Expert[PositiveInt] = 512
    """Regions of an image that the losses of boxes look at, up to a quarter of them objects."""
    head_channels: Expert[PositiveInt] = 256
    """Channels of the pyramid and of the heads."""

    def check(self) -> None:
        """Raise ConfigError for values that are out of range, or another number of anchors."""
        super().check()
        wanted = len(ANCHOR_SIZES)
        self.require(
            self.anchor_sizes is None or len(self.anchor_sizes) == wanted,
            f"--anchor_sizes: give {wanted} sizes, for strides 4, 8, 16, 32 and 64",
        )

    def settle_anchors(self) -> None:
        """Fill in anchor_sizes, unless they are given."""
        self.anchor_sizes = self.anchor_sizes or ANCHOR_SIZES
