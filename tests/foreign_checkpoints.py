"""Made-up checkpoints in every layout that `load_model` takes: one tiny encoder, written many ways.

All hold the same encoder of class `ENCODERS`: width 32, two blocks, patches of 8, images of 32
pixels. `FLAGS` are what commands need for those files that do not state their heads.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from tiny import HEADS, NAME, SIDE, save_run, tiny_model

from fastimae.cli import export
from fastimae.engine.checkpoint import FORMAT
from fastimae.interop import imae, timm
from fastimae.interop.conversion import encoder_of
from fastimae.models import MaskedAutoencoder

FLAGS = ["--num_heads", str(HEADS)]
"""Right for every file, and needed by those that hold weights alone."""
WITHOUT_NORM = ("finetuned mean", "ours finetuned mean")
"""Files of classifiers of the mean, which have an fc_norm instead of the encoder's norm."""
CLASS_TOKENS = {"pixio": 3, "timm registers": 3}
"""Layouts with several class tokens; the others have one."""
_CLASSES = 5


def foreign_model(layout: str = "ours") -> MaskedAutoencoder:
    """Make the model that a layout is written of, in which no norm or bias is trivial."""
    more = {"heads": 2} if "imae" in layout else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = tiny_model(class_tokens=CLASS_TOKENS.get(layout, 1), **more)
        for name, parameter in sorted(model.named_parameters()):
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            shape = parameter.shape
            if name == "cls_token":  # several are equal to one, repeated
                shape = (1, 1, shape[-1])
            if "pos_embed" not in name:
                noise = torch.randn(shape, generator=generator) / max(1, shape[-1] - 1) ** 0.5
                parameter.data.copy_(noise + ("norm" in name and name.endswith("weight")))
    return model


def _save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def _exported(*to: str, name: str):
    """Return a writer of what fastimae-export makes of our run."""

    def write(model: MaskedAutoencoder, folder: Path) -> Path:
        run = save_run(folder / "run", model, class_tokens=model.class_tokens)
        assert export([str(run), str(folder / name), "--to", *to]) == 0
        return folder / name

    return write


def _encoder(model: MaskedAutoencoder) -> dict[str, torch.Tensor]:
    return dict(encoder_of(model.state_dict()).weights)


def _classifier(model: MaskedAutoencoder, pool: str) -> dict[str, torch.Tensor]:
    """Return timm's names of a fine-tuned model, with a random classifier."""
    head = torch.nn.Linear(model.pos_embed.shape[-1], _CLASSES).state_dict()
    weights = timm.from_mae(model.state_dict(), global_pool=pool).weights
    return {**weights, **{f"head.{kind}": value for kind, value in head.items()}}


def _finetuned(model: MaskedAutoencoder, folder: Path, pool: str) -> Path:
    """Write MAE's fine-tuned layout."""
    content = {"model": _classifier(model, pool), "optimizer": {}, "epoch": 99}
    return _save(folder / "mae_finetuned.pth", content)


def _ours_finetuned(model: MaskedAutoencoder, folder: Path, pool: str) -> Path:
    """Write a checkpoint of fastimae-eval finetune."""
    args = {"model": NAME, "num_heads": HEADS, "input_size": [SIDE, SIDE], "in_chans": 3}
    args |= {"mean": list(model.mean), "std": list(model.std), "class_names": list("abcde")}
    content = {"model": _classifier(model, pool), "args": args, "fastimae_format": FORMAT}
    return _save(folder / "checkpoint-best.pth", content)


def _probed(model: MaskedAutoencoder, folder: Path) -> Path:
    """Write MAE's linear probe: the encoder, and a Linear behind a BatchNorm."""
    width = model.pos_embed.shape[-1]
    head = torch.nn.Sequential(
        torch.nn.BatchNorm1d(width, affine=False), torch.nn.Linear(width, _CLASSES)
    )
    weights = _encoder(model) | {f"head.{k}": v for k, v in head.state_dict().items()}
    return _save(folder / "mae_linprobe.pth", {"model": weights})


WRITERS = {
    "ours": lambda model, folder: save_run(folder / "run", model),
    "ours safetensors": _exported("fastimae", name="ours.safetensors"),
    "ours imae": lambda model, folder: save_run(folder / "run", model),
    "ours finetuned": lambda model, folder: _ours_finetuned(model, folder, "token"),
    "ours finetuned mean": lambda model, folder: _ours_finetuned(model, folder, "avg"),
    "mae": lambda model, folder: _save(folder / "mae.pth", {"model": model.state_dict()}),
    "mae encoder": lambda model, folder: _save(folder / "mae.pth", {"model": _encoder(model)}),
    "imae": lambda model, folder: _save(
        folder / "imae.pth", {"model": dict(imae.from_mae(model.state_dict()).weights)}
    ),
    "finetuned": lambda model, folder: _finetuned(model, folder, "token"),
    "finetuned mean": lambda model, folder: _finetuned(model, folder, "avg"),
    "linear probe": _probed,
    "timm": lambda model, folder: _save(folder / "timm.pth", _encoder(model)),
    "timm safetensors": _exported("timm", name="timm.safetensors"),
    "timm registers": _exported("timm", name="timm.pth"),
    "huggingface": _exported("huggingface", name="vit_mae"),
    "huggingface encoder": _exported("huggingface", "--encoder_only", name="vit_mae"),
    "pixio": _exported("huggingface", name="pixio"),
    "wrapped": lambda model, folder: _save(
        folder / "lightning.ckpt.pth",
        {"state_dict": {f"module.encoder.{k}": v for k, v in _encoder(model).items()}},
    ),
}
FOREIGN = list(WRITERS)


def write_foreign(layout: str, folder: Path) -> Path:
    """Write the checkpoint of a layout into a folder, and return its path: a file or a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return WRITERS[layout](foreign_model(layout), folder)
