"""The parts of Mask R-CNN that differ from torchvision's: keyed sampling, fp32 boxes, LayerNorm.

torchvision's `RegionProposalNetwork` and `RoIHeads` do the rest: anchors, matching, losses, NMS.
What they compute boxes from is fp32, also where convolutions run under autocast: in bf16 the corner
of a box in an image of 1,024 pixels could be off by four.

B = batch, A = anchors of an image, C = channels, H, W = height and width of a map, R = regions,
K = classes with the background, M = side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from fastimae.evaluate.detection.pyramid import RPN_STRIDES, STRIDES, ChannelNorm

ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height / width of anchors."""
BOX_SIDE, MASK_SIDE = 7, 14
"""Of the regions that the box and the mask head look at; masks have twice the side."""
_HIDDEN = 4
"""Width of the box head's fully connected layer, in channels: 1,024 for 256."""
_KEY_BITS = (1 << 63) - 1


class KeyedSampler:
    """Draws the anchors or regions of an image that a loss looks at, as torchvision's sampler does.

    The draw is a function of the sample's key, not of a global generator: a resumed run draws what
    the uninterrupted one does, with any number of ranks.
    """

    def __init__(self, count: int, positive_share: float, stream: int) -> None:
        """count: to draw of an image. positive_share: at most, of objects. stream: differs between
        samplers that are given the same keys."""
        self.count, self.positive_share, self.stream = count, positive_share, stream
        self.keys: Sequence[int] = ()
        """Of the images of the batch that comes next."""

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return uint8 masks [A] of each image: drawn positives, drawn negatives.

        labels: [A] of each image: 1 or more for objects, 0 for background, -1 for neither.
        """
        pairs = [self._draw(each, key) for each, key in zip(labels, self.keys, strict=True)]
        return [positive for positive, _ in pairs], [negative for _, negative in pairs]

    def _draw(self, labels_A: Tensor, key: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(labels_A.device)
        generator.manual_seed((key + self.stream) & _KEY_BITS)
        positives = torch.where(labels_A >= 1)[0]
        negatives = torch.where(labels_A == 0)[0]
        wanted = min(int(self.count * self.positive_share), len(positives))
        counts = wanted, min(self.count - wanted, len(negatives))
        masks = []
        for indices, count in zip((positives, negatives), counts, strict=True):
            order = torch.randperm(len(indices), generator=generator, device=labels_A.device)
            mask = torch.zeros_like(labels_A, dtype=torch.uint8)
            mask[indices[order[:count]]] = 1
            masks.append(mask)
        return masks[0], masks[1]


class Anchors(AnchorGenerator):
    """Anchors of one size per map of the pyramid, in fp32 and at the maps' true strides."""

    def __init__(self, sizes: Sequence[float]) -> None:
        """sizes: sides of the square anchors in pixels, one for each of `RPN_STRIDES`."""
        super().__init__(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(sizes))

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        """Return float32 [A, 4] (x1, y1, x2, y2) of each image; maps: [B, C, H, W] by stride."""
        self.set_cell_anchors(torch.float32, maps[0].device)
        grids = [list(each.shape[-2:]) for each in maps]
        strides = [[stride, stride] for stride in RPN_STRIDES]
        anchors = torch.cat(self.grid_anchors(grids, strides))
        return [anchors for _ in images.image_sizes]


class Proposals(RegionProposalNetwork):
    """torchvision's region proposal network, which proposes the whole image if it has nothing."""

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, image_shapes: list, num_anchors_per_level: list
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As in the base class. A loss of no regions at all would be the mean of nothing."""
        boxes, scores = super().filter_proposals(
            proposals, objectness, image_shapes, num_anchors_per_level
        )
        for index, (found, (height, width)) in enumerate(zip(boxes, image_shapes, strict=True)):
            if not len(found):
                boxes[index] = found.new_tensor([[0.0, 0.0, width, height]])
                scores[index] = scores[index].new_zeros(1)
        return boxes, scores


class ProposalHead(RPNHead):
    """Two convolutions, then objectness and box of each anchor, in fp32."""

    def __init__(self, channels: int) -> None:
        """channels: C, of the maps."""
        super().__init__(channels, len(ASPECT_RATIOS), conv_depth=2)

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness [B, 3, H, W] and boxes [B, 12, H, W] of each map in x."""
        logits, boxes = super().forward(x)
        return [each.float() for each in logits], [each.float() for each in boxes]


class BoxPredictor(FastRCNNPredictor):
    """Class and box of a region, in fp32."""

    def __init__(self, channels: int, classes: int) -> None:
        """channels: C, of the head. classes: K, with the background.

        Weights begin small, as in Fast R-CNN.
        """
        super().__init__(_HIDDEN * channels, classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [R, K] and boxes [R, 4 K]; x: float [R, 4 C]."""
        logits, boxes = super().forward(x)
        return logits.float(), boxes.float()


class MaskPredictor(MaskRCNNPredictor):
    """Masks of a region, one for each class, in fp32."""

    def __init__(self, channels: int, classes: int) -> None:
        """channels: C. classes: K, with the background. Masks begin undecided."""
        super().__init__(channels, channels, classes)
        nn.init.normal_(self.mask_fcn_logits.weight, std=0.001)
        nn.init.zeros_(self.mask_fcn_logits.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [R, K, 2 M, 2 M]; x: float [R, C, M, M]."""
        return super().forward(x).float()


def box_head(channels: int) -> nn.Module:
    """Return ViTDet's box head: four convolutions of `channels` with LayerNorm, one layer."""
    shape = (channels, BOX_SIDE, BOX_SIDE)
    return FastRCNNConvFCHead(shape, [channels] * 4, [_HIDDEN * channels], norm_layer=ChannelNorm)


def mask_head(channels: int) -> nn.Module:
    """Return ViTDet's mask head: four convolutions of `channels` with LayerNorm."""
    return MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=ChannelNorm)


def region_pool(side: int) -> MultiScaleRoIAlign:
    """Return the pooling of regions to side x side from the map that their size asks for.

    torchvision would guess the maps' scales from the first batch, whose images may all be wide.
    """
    pool = MultiScaleRoIAlign([str(stride) for stride in STRIDES], side, sampling_ratio=2)
    pool.scales = [1 / stride for stride in STRIDES]
    levels = [stride.bit_length() - 1 for stride in STRIDES]
    pool.map_levels = initLevelMapper(levels[0], levels[-1])
    return pool
