"""What is minimised: each objective maps a batch to a dict with `loss` and its named parts."""

from fastimae.objectives.base import Objective
from fastimae.objectives.choice import OBJECTIVES
from fastimae.objectives.imae import IMAE
from fastimae.objectives.mae import MAE

__all__ = ["MAE", "IMAE", "OBJECTIVES", "Objective"]
