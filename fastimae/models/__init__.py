"""Models by name: `create_model("mae_vit_base_patch16")`."""

from fastimae.lazy import lazy

_HOMES = {
    "create_model": "create",
    "list_models": "names",
    "parse_name": "names",
    "MaskedAutoencoder": "mae",
    "IMAGENET_MEAN": "encoder",
    "IMAGENET_STD": "encoder",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
