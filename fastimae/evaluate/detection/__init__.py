"""Object detection and instance segmentation: COCO data, Mask R-CNN on a ViT, average precision."""
