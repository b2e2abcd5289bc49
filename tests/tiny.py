"""Tiny models and their checkpoints, as fastimae-train writes them."""

from pathlib import Path

import torch

from fastimae.engine.checkpoint import FORMAT, LAST, save_checkpoint
from fastimae.models import MaskedAutoencoder, create_model

NAME = "mae_vit_nano_patch8"
SIDE, HEADS = 32, 4
NANO = {"embed_dim": 64, "depth": 2, "decoder_embed_dim": 64}
"""What "nano" means in tests/engine/ranks.py."""


def tiny_model(**overrides) -> MaskedAutoencoder:
    """Create a model with two encoder blocks and 16 patches, weights from torch's generator."""
    sizes = {"img_size": SIDE, "depth": 2, "embed_dim": 32, "decoder_embed_dim": 32}
    sizes |= {"num_heads": HEADS, "decoder_num_heads": HEADS}
    return create_model(NAME, **{**sizes, **overrides}).eval()


def save_run(folder: Path, model: MaskedAutoencoder, *, epoch: int = 0, **args) -> Path:
    """Write checkpoint-last.pth of a run with the settings `args`, after an epoch. Returns its
    path."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": NAME,
        "num_heads": HEADS,
        "decoder_num_heads": HEADS,
        "input_size": list(model.img_size),
        "in_chans": model.in_chans,
        "norm_pix_loss": model.norm_pix_loss,
        "head_space": model.head_space,
        "objective": "imae" if model.heads == 2 else "mae",
        "mean": list(model.mean),
        "std": list(model.std),
        **args,
    }
    path = folder / LAST
    content = {"model": model.state_dict(), "args": settings, "epoch": epoch}
    save_checkpoint(path, {**content, "fastimae_format": FORMAT})
    return path


def predict_alike(one: MaskedAutoencoder, other: MaskedAutoencoder) -> bool:
    """Return whether two models for images of 32 pixels predict the same bits under one mask."""
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    results = []
    for model in (one, other):
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(model(images)[1])
    return torch.equal(*results)
