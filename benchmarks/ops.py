"""The ops of a step against the bandwidth of a plain copy, measured in the same run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.harness import interleaved
from fastimae.kernels import assemble_tokens, masked_l2, mix_patchify, random_masking
from fastimae.models import IMAGENET_MEAN, IMAGENET_STD

SIDE, PATCH, WIDTH = 224, 16, 512
COPY_BYTES = 2**28


def measure_ops(device: torch.device, batch: int) -> list[dict[str, object]]:
    """Forward time, GB/s and share of the copy bandwidth of each op, at ViT-B/16 shapes."""
    ops = _ops(device, batch)
    source = torch.empty(COPY_BYTES if device.type == "cuda" else 2**22, dtype=torch.uint8)
    source = source.to(device)
    target = torch.empty_like(source)
    calls = {"copy": lambda: target.copy_(source)} | {name: call for name, (call, _) in ops.items()}
    timings = interleaved(calls, device, rounds=7, calls=3)
    moved = {"copy": 2 * source.numel()} | {name: size for name, (_, size) in ops.items()}
    copied = moved["copy"] / timings["copy"].median
    return [
        {
            "op": name,
            "ms": 1e3 * timing.median,
            "GB": moved[name] / 1e9,
            "GB/s": moved[name] / timing.median / 1e9,
            "of copy": moved[name] / timing.median / copied,
        }
        for name, timing in timings.items()
    ]


def _ops(device: torch.device, batch: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Each op as a call, and the bytes that a perfect kernel would move for it."""
    grid = (SIDE // PATCH, SIDE // PATCH)
    patches, pixels = grid[0] * grid[1], PATCH * PATCH * 3
    key = torch.arange(batch, device=device)
    mask = random_masking(key, grid, 0.75)
    keep, hidden = mask.ids_keep.shape[1], mask.ids_masked.shape[1]
    images = torch.randint(0, 256, (batch, SIDE, SIDE, 3), dtype=torch.uint8, device=device)
    partner, alpha = key.roll(1), torch.full((batch,), 0.3, device=device)
    statistics = (IMAGENET_MEAN, IMAGENET_STD)
    x = torch.randn(batch, 1 + keep, WIDTH, device=device, dtype=torch.bfloat16)
    token, positions = (torch.randn(1, n, WIDTH, device=device) for n in (1, 1 + patches))
    pred = torch.randn(batch, hidden, pixels, device=device, dtype=torch.bfloat16)
    ids = mask.ids_masked
    return {
        # keys in; 32-bit ids and positions, float mask out
        "random_masking": (
            lambda: random_masking(key, grid, 0.75),
            batch * (8 + 4 * keep + 8 * patches),
        ),
        # visible uint8 pixels of two images in, three bf16 streams out
        "mix_patchify": (
            lambda: mix_patchify(images, mask.ids_keep, PATCH, *statistics, partner, alpha),
            batch * keep * pixels * (2 + 3 * 2),
        ),
        # visible tokens in, all tokens out
        "assemble_tokens": (
            lambda: assemble_tokens(x, token, positions, mask.ids_restore),
            batch * WIDTH * 2 * (2 + keep + patches),
        ),
        # predictions and uint8 targets in
        "masked_l2": (
            lambda: masked_l2(pred, images, key, ids, PATCH, *statistics, True),
            batch * hidden * pixels * (2 + 1),
        ),
    }
