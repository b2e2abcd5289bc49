"""Checkpoints of other code: reading and writing those of MAE, i-MAE, timm and Hugging Face."""

from fastimae.lazy import lazy

_HOMES = {"detect": "layouts", "load_model": "load"}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
