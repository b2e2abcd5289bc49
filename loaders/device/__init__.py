"""Samples that are kept on the training device: decoding them there, and planning epochs there."""
