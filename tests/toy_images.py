"""Pictures that a small model can distinguish, and checkpoints to evaluate them with."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastimae.models import MaskedAutoencoder, create_model

MODEL = "mae_vit_nano_patch8"


def save_colours(root: Path, per_class: int, *, size: int = 32, seed: int = 0) -> Path:
    """Save class folders red, green and blue of noise in which that channel is brighter."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(("a_red", "b_green", "c_blue")):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
            pixels[..., channel] += 90
            Image.fromarray(pixels).save(root / name / f"{number:03d}.png")
    return root


BANDS = {"in_chans": 6, "mean": (0.1,) * 6, "std": (0.05,) * 6}
"""Of a model for the images of `save_bands`."""


def save_bands(root: Path, per_class: int, *, size: int = 32, seed: int = 0) -> Path:
    """Save class folders of .npy files, uint16 of six channels, as dark as a satellite's; one
    channel is brighter in each."""
    rng = np.random.default_rng(seed)
    for channel in range(3):
        (root / f"class_{channel}").mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(2000, 9000, (size, size, 6), dtype=np.uint16)
            pixels[..., 2 * channel] += 6000
            np.save(root / f"class_{channel}" / f"{number:03d}.npy", pixels)
    return root


def save_splits(root: Path, per_class: int) -> Path:
    """Save root/train with so many images per class, and root/val with half as many others."""
    save_colours(root / "train", per_class)
    save_colours(root / "val", per_class // 2, seed=1)
    return root


def save_gray(pictures: object, path: Path, note: str) -> None:
    """Save one gray pixel in place of a figure: `draw_grid` takes a second."""
    Image.new("L", (1, 1), 128).save(path, "PNG")


def save_mae(path: Path, **model: object) -> MaskedAutoencoder:
    """Save a checkpoint of a model with random weights, as training does."""
    net = create_model(MODEL, **{"img_size": 32, **model})
    args = {
        "model": MODEL, "num_heads": net.blocks[0].attn.num_heads, "in_chans": net.in_chans,
        "input_size": list(net.img_size), "mean": list(net.mean), "std": list(net.std),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": net.state_dict(), "args": args, "fastimae_format": 1}, path)
    return net


def save_trained(path: Path, **settings: object) -> Path:
    """Save a checkpoint whose training had these settings."""
    save_mae(path)
    content = torch.load(path, weights_only=True)
    content["args"] |= settings
    torch.save(content, path)
    return path
