"""Classifiers that tell the nearest of their classes' colours, and images of one colour."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny import HEADS, NAME, SIDE, save_run, tiny_model

from fastimae.engine.checkpoint import FORMAT, save_checkpoint
from fastimae.engine.checkpoint_file import CLASSES, WEIGHTS
from fastimae.evaluate.features import features
from fastimae.evaluate.finetuning.classifier import build_classifier
from fastimae.evaluate.labels.probe_layer import probe_layer
from fastimae.evaluate.options.labels import BEST
from fastimae.evaluate.origin import weights_digest

SHARP = 1e4
"""Factor of the logits: probabilities are 0 or 1."""


def palette(names: Sequence[str], seed: int = 0) -> dict[str, tuple[int, int, int]]:
    """Return a colour for each class, no two alike."""
    codes = np.random.default_rng(seed).permutation(16**3)[: len(names)]
    grid = np.stack([codes // 256, codes // 16 % 16, codes % 16], 1) * 16 + 8
    return {name: tuple(map(int, rgb)) for name, rgb in zip(names, grid, strict=True)}


def flat(colour, side: int = SIDE) -> np.ndarray:
    """Return an image of one colour, uint8 [side, side, 3]."""
    return np.broadcast_to(np.uint8(colour), (side, side, 3))


def save_flat(path: Path, colour, side: int = SIDE, border: int = 0) -> Path:
    """Save a PNG of one colour, with a red border around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.empty((side + 2 * border, side + 2 * border, 3), np.uint8)
    pixels[:] = (255, 0, 0)
    pixels[border : border + side, border : border + side] = colour
    Image.fromarray(pixels).save(path)
    return path


def nearest(rows_KD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of a layer whose largest output is that of the nearest row."""
    rows = rows_KD.double()
    return (SHARP * rows).float(), (-SHARP / 2 * (rows**2).sum(1)).float()


def settings_of(model, **more) -> dict:
    return {
        "model": NAME, "num_heads": HEADS, "input_size": list(model.img_size), "in_chans": 3,
        "mean": list(model.mean), "std": list(model.std), **more,
    }  # fmt: skip


def save_fine_tuned(path: Path, names: Sequence[str], colours, *, ours: bool = True) -> Path:
    """Save a classifier as finetune does; not `ours`: as MAE's code does, without names."""
    model = tiny_model()
    net = build_classifier(model, len(names), global_pool=True).eval()
    images = torch.tensor(np.stack([flat(colours[name]) for name in names]))
    inputs = (images / 255 - torch.tensor(model.mean)) / torch.tensor(model.std)
    with torch.no_grad():
        rows = net.forward_head(net.forward_features(inputs.permute(0, 3, 1, 2)), pre_logits=True)
        net.head.weight[:], net.head.bias[:] = nearest(rows)
    content = {"model": net.state_dict()}
    if ours:
        args = settings_of(model, **{CLASSES: list(names), WEIGHTS: "begun"})
        content |= {"args": args, "fastimae_format": FORMAT, "epoch": 3}
    else:
        content["args"] = {"num_heads": HEADS}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, content)
    return path


def save_probe(folder: Path, names: Sequence[str], colours, **args) -> Path:
    """Save an encoder and a probe of it as fastimae-train and linear do. Returns the probe."""
    model = tiny_model()
    encoder = save_run(folder, model, **args)
    return save_probe_of(model, encoder, folder / "eval-linear" / BEST, names, colours)


def save_probe_of(
    model, encoder: Path, path: Path, names: Sequence[str], colours, layer: int | None = None
) -> Path:
    """Save a probe of the model in the file `encoder`, as linear does. Returns its path."""
    images = torch.tensor(np.stack([flat(colours[name]) for name in names]))
    rows = features(model, images, "cls", "fp32", -1 if layer is None else layer)
    probe = probe_layer(rows.shape[1], len(names)).eval()
    with torch.no_grad():
        probe[0].running_mean[:], probe[0].running_var[:] = rows.mean(0), rows.var(0)
        probe[1].weight[:], probe[1].bias[:] = nearest(probe[0](rows))
    path.parent.mkdir(exist_ok=True)
    settings = {
        "checkpoint": str(encoder),
        "pool": None,
        "layer": layer,
        "seed": 0,
        CLASSES: list(names),
    }
    settings |= {WEIGHTS: weights_digest(model.state_dict())}
    content = {"model": probe.state_dict(), "args": settings, "epoch": 0}
    save_checkpoint(path, {**content, "fastimae_format": FORMAT})
    return path
