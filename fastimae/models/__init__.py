"""Models by name: `create_model("mae_vit_base_patch16")`."""

from __future__ import annotations

import difflib
import re

from fastimae.models.mae import IMAGENET_MEAN, IMAGENET_STD, MaskedAutoencoder
from fastimae.settings import ConfigError

# MAE, appendix A.1 (base, large, huge); tiny and small are DeiT's, with a decoder to match;
# nano is ours, for demonstrations and tests.
SIZES = {
    "nano": {
        "embed_dim": 128, "depth": 4, "num_heads": 4,
        "decoder_embed_dim": 128, "decoder_depth": 1, "decoder_num_heads": 4,
    },
    "tiny": {
        "embed_dim": 192, "depth": 12, "num_heads": 3,
        "decoder_embed_dim": 192, "decoder_depth": 4, "decoder_num_heads": 3,
    },
    "small": {
        "embed_dim": 384, "depth": 12, "num_heads": 6,
        "decoder_embed_dim": 256, "decoder_depth": 8, "decoder_num_heads": 8,
    },
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
}  # fmt: skip
DECODER = {"decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": 16}
PATCH_SIZES = range(2, 33)

_NAME = re.compile(
    r"mae_vit_(?P<size>[a-z]+)_patch(?P<patch>\d+)(_dec(?P<width>\d+)d(?P<depth>\d+)b)?"
)


def create_model(name: str, **overrides: object) -> MaskedAutoencoder:
    """Build the masked autoencoder called `name`.

    name: `mae_vit_{nano,tiny,small,base,large,huge}_patchN`, N from 2 to 32, optionally ending in
    MAE's `_dec512d8b` (decoder of width 512 and 8 blocks). overrides: keyword arguments of
    `MaskedAutoencoder`; None means the model's own value. Raises ValueError for another name.
    """
    sizes = parse_name(name)
    sizes.update({key: value for key, value in overrides.items() if value is not None})
    return MaskedAutoencoder(**sizes)


def parse_name(name: str) -> dict[str, int]:
    """Sizes that the name stands for, as keyword arguments of `MaskedAutoencoder`."""
    match = _NAME.fullmatch(name)
    if not match or match["size"] not in SIZES or int(match["patch"]) not in PATCH_SIZES:
        raise ConfigError(f"--model {name} is not known: {advice(name)}")
    sizes = {**DECODER, **SIZES[match["size"]], "patch_size": int(match["patch"])}
    if match["width"]:
        sizes.update(decoder_embed_dim=int(match["width"]), decoder_depth=int(match["depth"]))
    return sizes


def advice(name: str) -> str:
    """What to write instead of an unknown name: the nearest one, and how names are made."""
    patches = [int(number) for number in re.findall(r"\d+", name) if int(number) in PATCH_SIZES]
    words = re.findall(r"[a-z]+", name)
    near = [size for word in words for size in difflib.get_close_matches(word, SIZES, n=1)]
    meant = f"do you mean mae_vit_{near[0]}_patch{[*patches, 16][0]}? Else " if near else ""
    return (
        f"{meant}use mae_vit_SIZE_patchN with SIZE one of {', '.join(SIZES)} "
        f"and N from {PATCH_SIZES[0]} to {PATCH_SIZES[-1]}"
    )


__all__ = ["create_model", "parse_name", "MaskedAutoencoder", "IMAGENET_MEAN", "IMAGENET_STD"]
