"""Names of models: the sizes that each implies, and what to write instead of an unknown one."""

from __future__ import annotations

import fnmatch
import re

from fastimae.settings import ConfigError
from fastimae.wording import nearest

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
_LETTERS = {"t": "tiny", "ti": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge"}
"""Sizes in names such as ViT-B/16."""

_NAME = re.compile(
    r"mae_vit_(?P<size>[a-z]+)_patch(?P<patch>\d+)(_dec(?P<width>\d+)d(?P<depth>\d+)b)?"
)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that `create_model` takes, small models first.

    pattern: with `*` and `?` as in file names, such as "*base*" or "*_patch16". MAE's suffix for
    other decoders (`_dec512d8b`) can follow each name.
    """
    names = [f"mae_vit_{size}_patch{patch}" for size in SIZES for patch in PATCH_SIZES]
    return fnmatch.filter(names, pattern)


def parse_name(name: str) -> dict[str, int]:
    """Return the sizes of a model's name, as keyword arguments of `MaskedAutoencoder`."""
    match = _NAME.fullmatch(name)
    if not match or match["size"] not in SIZES or int(match["patch"]) not in PATCH_SIZES:
        raise ConfigError(f"--model {name} is not known: {name_hint(name)}")
    sizes = {**DECODER, **SIZES[match["size"]], "patch_size": int(match["patch"])}
    if match["width"]:
        sizes.update(decoder_embed_dim=int(match["width"]), decoder_depth=int(match["depth"]))
    return sizes


def name_hint(name: str) -> str:
    """Suggest the nearest name for an unknown one, and describe how names are formed."""
    patches = [int(number) for number in re.findall(r"\d+", name) if int(number) in PATCH_SIZES]
    words = [re.sub("^(vit|deit)", "", word) for word in re.findall(r"[a-z]+", name.lower())]
    near = [size for word in words for size in nearest(_LETTERS.get(word, word), SIZES)]
    guess = f"did you mean mae_vit_{near[0]}_patch{[*patches, 16][0]}? Otherwise " if near else ""
    return (
        f"{guess}use mae_vit_SIZE_patchN with SIZE one of {', '.join(SIZES)} "
        f"and N from {PATCH_SIZES[0]} to {PATCH_SIZES[-1]}"
    )
