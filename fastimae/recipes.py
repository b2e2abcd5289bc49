"""Named training runs, `fastimae-train --recipe NAME`: settings that flags override."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Settings = dict[str, Any]


def mae_vit_base() -> Settings:
    """MAE's ImageNet pre-training of ViT-B (He et al., 2021, table 8), 800 epochs.

    Command: torchrun --nproc_per_node=8 --no-python fastimae-train --recipe mae_vit_base
             --ffcv imagenet.beton --batch_size 512
    Hardware: written for 8 GPUs of 80 GB; effective batch 4096 (batch_size x GPUs x accum_iter).
    Expected: the paper's pictures and features.
    Hours: not measured yet.
    """
    return {
        "model": "mae_vit_base_patch16",
        "norm_pix_loss": True,
        "mask_ratio": 0.75,
        "batch_size": 512,
        "epochs": 800,
        "warmup_epochs": 40,
        "blr": 1.5e-4,
        "weight_decay": 0.05,
    }


def imae_vit_base() -> Settings:
    """i-MAE on ImageNet from a pre-trained MAE, 50 epochs as in its released recipe.

    Command: torchrun --nproc_per_node=8 --no-python fastimae-train --recipe imae_vit_base
             --ffcv imagenet.beton --init mae_full.pth --teacher mae_full.pth
    Hardware: 8 GPUs; batch 256 on each.
    Expected: not measured yet.
    Hours: not measured yet.
    """
    return {
        "objective": "imae",
        "model": "mae_vit_base_patch16",
        "mask_ratio": 0.75,
        "batch_size": 256,
        "epochs": 50,
        "warmup_epochs": 5,
        "blr": 1e-4,
        "weight_decay": 0.05,
    }


def imae_cifar10() -> Settings:
    """i-MAE on CIFAR-10: MAE's optimizer settings, epochs and model of our choice.

    Command: fastimae-convert cifar-10-batches-py cifar10.beton
             fastimae-train --objective mae --recipe imae_cifar10 --ffcv cifar10.beton
             fastimae-train --recipe imae_cifar10 --ffcv cifar10.beton --teacher mae.pth
    Hardware: one GPU, or 2 CPU cores for a few epochs.
    Expected: a loss that falls in all four parts; accuracy is not measured yet.
    Hours: not measured yet.
    """
    return {
        "objective": "imae",
        "model": "mae_vit_tiny_patch4",
        "input_size": [32],
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
        "mask_ratio": 0.75,
        "batch_size": 512,
        "epochs": 200,
        "warmup_epochs": 20,
        "blr": 1.5e-4,
        "weight_decay": 0.05,
    }


def imae_tiny_imagenet() -> Settings:
    """i-MAE on Tiny-ImageNet: MAE's optimizer settings, epochs and model of our choice.

    Command: fastimae-convert tiny-imagenet-200/train tiny.beton
             fastimae-train --recipe imae_tiny_imagenet --ffcv tiny.beton --teacher mae.pth
    Hardware: one GPU.
    Expected: a loss that falls in all four parts; accuracy is not measured yet.
    Hours: not measured yet.
    """
    return {
        "objective": "imae",
        "model": "mae_vit_small_patch8",
        "input_size": [64],
        "mask_ratio": 0.75,
        "batch_size": 512,
        "epochs": 200,
        "warmup_epochs": 20,
        "blr": 1.5e-4,
        "weight_decay": 0.05,
    }


def demo() -> Settings:
    """i-MAE small enough for two CPU cores and four minutes, on 64-pixel pictures.

    Command: make demo
    Hardware: 2 CPU cores.
    Expected: train_loss from above 3 to below 0.8 on the pictures that the demo draws, and both
              images of each mixture apart in reconstruction.png. `make demo` halves the batch
              and cuts the epochs on slow machines, to 3 at least: then below 1.6.
    """
    return {
        "objective": "imae",
        "model": "mae_vit_nano_patch8",
        "input_size": [64],
        "min_crop": 0.6,
        "mix_lambda": 0.3,
        "mask_ratio": 0.5,
        "batch_size": 32,
        "epochs": 12,
        "warmup_epochs": 1,
        "lr": 1.5e-3,
        "clip_grad": 1.0,
        "num_workers": 2,
        "vis_freq": 3,
    }


RECIPES: dict[str, Callable[[], Settings]] = {
    recipe.__name__: recipe
    for recipe in (mae_vit_base, imae_vit_base, imae_cifar10, imae_tiny_imagenet, demo)
}
