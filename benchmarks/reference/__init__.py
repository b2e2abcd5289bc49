"""MAE and i-MAE as they are usually trained: the same maths as ours, written the plain way."""

from benchmarks.reference.model import PlainMAE, plain_imae_loss
from benchmarks.reference.step import plain_step

__all__ = ["PlainMAE", "plain_imae_loss", "plain_step"]
