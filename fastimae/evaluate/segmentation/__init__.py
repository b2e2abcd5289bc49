"""Semantic segmentation: scenes with masks, heads, training, sliding windows, scores, pictures."""
