"""Fast, reproducible image loading for masked autoencoders.

    with create_loader(ffcv="imagenet.beton", batch_size=256) as loader:
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                batch.images  # uint8 [256, 224, 224, 3]

The folders follow the data: `sources` finds images, `convert` packs them into the `.beton` format
of `beton`, `order` plans each step, `images` decodes and crops them, and `backends` turns plans
into batches, with the threads and processes of `workers`. `device` keeps all images of a small data
set on a GPU. `base.py` is the contract of all loaders, `create.py` picks one.

All back ends take order, crops and flips from `order/sampler.py` and `images/crops.py`, so they
differ only in how their decoders compute pixels.
"""

from fastimae.lazy import lazy

_HOMES = {
    "create_loader": "create",
    "LoaderSettings": "settings",
    "Batch": "batch",
    "Loader": "base",
    "DevicePrefetch": "prefetch",
    "NormalizedPairs": "normalized",
    "DataError": "errors",
    "BetonReader": "beton.reader",
    "BetonWriter": "beton.writer",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
