"""Training objectives: each maps a batch to a dict with `loss` and its named parts."""

from fastimae.lazy import lazy

_HOMES = {
    "MAE": "mae",
    "IMAE": "imae",
    "RMAE": "rmae",
    "CMAE": "cmae",
    "OBJECTIVES": "choice",
    "Objective": "base",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
