"""Mask R-CNN on a vision transformer: torchvision's detector on `Pyramid`'s maps.

As in ViTDet: two convolutions propose regions, four and a layer classify and refine them, four draw
their masks, with LayerNorm between them. Images come normalised, in padded squares of one size.

B = batch, C = channels, S = side of the images, N = objects of an image, M = side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from fastimae.evaluate.dense.backbone import DenseEncoder
from fastimae.evaluate.detection.heads import (
    BOX_SIDE,
    MASK_SIDE,
    Anchors,
    BoxPredictor,
    KeyedSampler,
    MaskPredictor,
    ProposalHead,
    Proposals,
    box_head,
    mask_head,
    region_pool,
)
from fastimae.evaluate.detection.pyramid import Pyramid
from fastimae.evaluate.options.detector import DetectorSettings

# Mask R-CNN's, as torchvision and detectron2 have them.
_RPN_FOREGROUND, _RPN_BACKGROUND, _RPN_NMS, _RPN_POSITIVE = 0.7, 0.3, 0.7, 0.5
_BOX_FOREGROUND, _BOX_NMS, _BOX_POSITIVE = 0.5, 0.5, 0.25
_RPN_STREAM, _BOX_STREAM = 1 << 40, 1 << 41
_BEFORE_NMS = 2
"""Proposals of a map before overlapping ones are removed, for each that may stay."""


class MaskRCNN(nn.Module):
    """Finds the boxes, classes and masks of objects in images."""

    def __init__(
        self,
        encoder: DenseEncoder,
        classes: int,
        settings: DetectorSettings,
        *,
        masks: bool = True,
    ) -> None:
        """encoder: gives one map. classes: of objects, without the background. settings: of the
        heads; their `anchor_sizes` must be given. masks: whether to find masks, or boxes alone."""
        super().__init__()
        channels = settings.head_channels
        self.encoder = encoder
        self.pyramid = Pyramid(encoder.width, encoder.patch_size, channels)
        self.rpn = _proposals(settings, channels)
        self.roi_heads = _region_heads(settings, channels, classes + 1, masks)

    def forward(
        self,
        images: Tensor,
        targets: list[dict[str, Tensor]] | None = None,
        key: Tensor | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses in training mode, and what is found in each image in evaluation mode.

        images: float [B, C, S, S], normalised. targets: to learn, of each image: boxes, float32
        [N, 4] (x1, y1, x2, y2); labels, int64 [N], from 1; masks, uint8 [N, S, S]; N may be 0. key:
        int64 [B], of the samples, from which drop path, anchors and regions are drawn in training.
        sizes: (height, width) of each image without its padding at the right and below, outside of
        which nothing is found. None: all of it.

        Losses are fp32 scalars: loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg
        and loss_mask. What is found has boxes, labels and scores, best first, and masks, float
        [N, 1, M, M] of probabilities over the boxes; without masks, neither these nor loss_mask.
        Boxes are fp32 also under autocast.
        """
        if self.training:
            for sampler in (self.rpn.fg_bg_sampler, self.roi_heads.fg_bg_sampler):
                sampler.keys = key.tolist()
        (map_BDHW,) = self.encoder(images, key)
        maps = self.pyramid(map_BDHW)
        whole = [tuple(images.shape[-2:])] * len(images)
        listed = ImageList(images, whole if sizes is None else list(sizes))
        proposals, of_proposals = self.rpn(listed, maps, targets)
        found, of_regions = self.roi_heads(maps, proposals, listed.image_sizes, targets)
        return {**of_proposals, **of_regions} if self.training else found


def _proposals(settings: DetectorSettings, channels: int) -> Proposals:
    """Return the region proposal network."""
    kept = {"training": settings.proposals, "testing": settings.proposals}
    rpn = Proposals(
        Anchors(settings.anchor_sizes),
        ProposalHead(channels),
        _RPN_FOREGROUND,
        _RPN_BACKGROUND,
        settings.rpn_batch,
        _RPN_POSITIVE,
        {"training": _BEFORE_NMS * settings.proposals, "testing": settings.proposals},
        kept,
        _RPN_NMS,
    )
    rpn.fg_bg_sampler = KeyedSampler(settings.rpn_batch, _RPN_POSITIVE, _RPN_STREAM)
    return rpn


def _region_heads(settings: DetectorSettings, channels: int, classes: int, masks: bool) -> RoIHeads:
    """Return the heads for boxes and, if wanted, masks; classes: with the background."""
    of_masks = {
        "mask_roi_pool": region_pool(MASK_SIDE),
        "mask_head": mask_head(channels),
        "mask_predictor": MaskPredictor(channels, classes),
    }
    heads = RoIHeads(
        region_pool(BOX_SIDE),
        box_head(channels),
        BoxPredictor(channels, classes),
        _BOX_FOREGROUND,
        _BOX_FOREGROUND,
        settings.roi_batch,
        _BOX_POSITIVE,
        None,
        settings.score_threshold,
        _BOX_NMS,
        settings.detections,
        **(of_masks if masks else {}),
    )
    heads.fg_bg_sampler = KeyedSampler(settings.roi_batch, _BOX_POSITIVE, _BOX_STREAM)
    return heads
