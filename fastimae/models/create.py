"""From a name to a model."""

from __future__ import annotations

from fastimae.models.mae import MaskedAutoencoder
from fastimae.models.names import parse_name


def create_model(name: str, **overrides: object) -> MaskedAutoencoder:
    """Build the masked autoencoder called `name`.

    name: `mae_vit_{nano,tiny,small,base,large,huge}_patchN`, N from 2 to 32, optionally with MAE's
    suffix `_dec512d8b` (decoder of width 512 and 8 blocks). overrides: keyword arguments of
    `MaskedAutoencoder`, such as img_size, norm_pix_loss or heads; None keeps the model's default.
    Raises ValueError for a name that is not in `list_models`.
    """
    sizes = parse_name(name)
    sizes.update({key: value for key, value in overrides.items() if value is not None})
    return MaskedAutoencoder(**sizes)
