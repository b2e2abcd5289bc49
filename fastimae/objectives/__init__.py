"""What is minimised: each objective maps a batch to a dict with `loss` and its named parts."""

from fastimae.objectives.imae import IMAE
from fastimae.objectives.mae import MAE

__all__ = ["MAE", "IMAE"]
