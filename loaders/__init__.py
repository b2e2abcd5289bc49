"""Fast, reproducible image loading for masked autoencoders.

    with create_loader(ffcv="imagenet.beton", batch_size=256) as loader:
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                batch.images  # uint8 [256, 224, 224, 3]

Back ends are imported when asked for; all of them take order, crops and flips from `sampler.py`
and `crops.py`, so they differ by their decoder's rounding at most.
"""

import importlib

_HOMES = {
    "create_loader": "create",
    "LoaderSettings": "settings",
    "Batch": "base",
    "Loader": "base",
    "DevicePrefetch": "prefetch",
    "DataError": "errors",
    "BetonReader": "beton",
    "BetonWriter": "beton_writer",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Imported when first used: fastimae-convert and its workers do without torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"fastimae.loaders.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fastimae.loaders' has no attribute {name!r}")
