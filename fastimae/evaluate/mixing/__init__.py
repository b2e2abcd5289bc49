"""Mixtures of images, and measurements on them, as in the i-MAE paper."""
