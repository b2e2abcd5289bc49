"""The plain pipeline: MAE and i-MAE as they are usually trained, with the same maths as ours."""

from benchmarks.reference.data import plain_loader
from benchmarks.reference.model import PlainMAE, mixture, mixture_loss, plain_imae_loss
from benchmarks.reference.step import PlainStep, plain_adamw, usual_dtype

__all__ = [
    "PlainMAE",
    "PlainStep",
    "mixture",
    "mixture_loss",
    "plain_adamw",
    "plain_imae_loss",
    "plain_loader",
    "usual_dtype",
]
