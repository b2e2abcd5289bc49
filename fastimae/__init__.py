"""FastIMAE: fast, trustworthy pre-training of masked autoencoders (MAE and i-MAE).

model = fastimae.create_model("mae_vit_base_patch16")  # one of fastimae.list_models()
model = fastimae.load_model("checkpoint-last.pth")
features = model.forward_features(images, pool="mean")
objective = fastimae.objectives.IMAE(fastimae.create_model("mae_vit_base_patch16", heads=2))
model = fastimae.accelerate(another_mae)
"""

from fastimae.checkout import find_packages_beside
from fastimae.lazy import lazy

__version__ = "0.1.0"
_HOMES = {
    "create_model": "models",
    "list_models": "models",
    "load_model": "interop",
    "accelerate": "foreign_models.accelerate",
    "restore": "foreign_models.accelerate",
}
__all__ = [*_HOMES, "interop", "kernels", "loaders", "models", "objectives"]
__getattr__, __dir__ = lazy(__name__, _HOMES)
find_packages_beside()
