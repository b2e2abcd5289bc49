"""detectron2's layout: the ViT of its ViTDet (Li et al., 2022), and the lines of its config.

N = tokens, L = patches of an image, n = class tokens, D = width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastimae.engine.checkpoint_file import Unfit
from fastimae.interop.conversion import Conversion
from fastimae.models import MaskedAutoencoder
from fastimae.models.sizes import global_blocks_of

PREFIX = "backbone.net."
"""Of the ViT's names in detectron2's models: its pyramid is `backbone`, with the ViT as `net`."""
SUFFIX = ".pth"
PATCH_SIZE = 16
"""That ViTDet's pyramid, with strides 4 to 32, and its heads are made for."""
_KEPT = ("patch_embed.", "pos_embed", "blocks.")


def from_mae(model: MaskedAutoencoder, weights: Mapping[str, Tensor]) -> Conversion:
    """Convert our names to those of detectron2's ViT, which has no class token and no last norm.

    model: that of the weights. The positions keep one row before those of the patches, as for
    `pretrain_use_cls_token=True`. Raises Unfit, a ValueError, if images are not square.
    """
    if model.img_size[0] != model.img_size[1]:
        raise Unfit("is for images that are not square, which detectron2's ViT does not support")
    renamed = {name: f"{PREFIX}{name}" for name in weights if name.startswith(_KEPT)}
    theirs = {new: weights[name] for name, new in renamed.items()}
    theirs[f"{PREFIX}pos_embed"] = one_class_row(weights["pos_embed"], model.patches)
    return Conversion(theirs, renamed, tuple(name for name in weights if name not in renamed))


def one_class_row(positions_1ND: Tensor, patches: int) -> Tensor:
    """Return positions with the first of n class tokens' rows alone, [1, 1 + L, D]. patches: L."""
    return torch.cat([positions_1ND[:, :1], positions_1ND[:, -patches:]], 1)


def config_of(model: MaskedAutoencoder, out: Path) -> list[str]:
    """Return lines for a config file of ViTDet (detectron2's LazyConfig), in Python.

    out: the written file. Windows are as large as the pre-training's grid, as in ViTDet, and the
    last block of each quarter is global. Mean and deviation are of pixels in 0..255.
    """
    block, depth = model.blocks[0], len(model.blocks)
    seen = global_blocks_of(depth)
    width, hidden = model.pos_embed.shape[-1], block.mlp.fc1.out_features
    net = {
        "patch_size": model.patch_size,
        "in_chans": model.in_chans,
        "embed_dim": width,
        "depth": depth,
        "num_heads": block.attn.num_heads,
        "mlp_ratio": hidden / width,
        "pretrain_img_size": model.img_size[0],
        "window_size": model.grid[0],
        "window_block_indexes": [number for number in range(depth) if number not in seen],
    }
    pixels = {"pixel_mean": model.mean, "pixel_std": model.std}
    return [
        f"train.init_checkpoint = {str(out)!r}",
        *(f"model.backbone.net.{name} = {value}" for name, value in net.items()),
        *(f"model.{k} = {[round(255 * v, 3) for v in values]}" for k, values in pixels.items()),
        f'optimizer.params.lr_factor_func.keywords["num_layers"] = {depth}',
    ]
