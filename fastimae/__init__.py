"""FastIMAE: fast, trustworthy pre-training of masked autoencoders (MAE and i-MAE).

model = fastimae.create_model("mae_vit_base_patch16")
objective = fastimae.objectives.IMAE(fastimae.create_model("mae_vit_base_patch16", heads=2))
model = fastimae.accelerate(another_mae)
"""

import importlib

__version__ = "0.1.0"
__all__ = ["accelerate", "create_model", "kernels", "loaders", "models", "objectives"]


def __getattr__(name: str):
    """Parts are imported when first used, so that `import fastimae` is quick."""
    if name == "create_model":
        return importlib.import_module("fastimae.models").create_model
    if name == "accelerate":
        return importlib.import_module("fastimae.interop.accelerate").accelerate
    if name in __all__:
        return importlib.import_module(f"fastimae.{name}")
    raise AttributeError(f"module 'fastimae' has no attribute {name!r}")
