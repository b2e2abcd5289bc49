"""Detection and instance segmentation: COCO data, a Mask R-CNN on the encoder, its scores."""
