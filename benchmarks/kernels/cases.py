"""Cases of the ops around transformer blocks, and the list of all cases.

B = batch, K, M, L = visible, masked, all patches, V = P*P*C values of a patch, E = width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.block_cases import add_norm, attention, mlp
from benchmarks.kernels.crop_cases import crop_resize, draw_windows
from benchmarks.kernels.shapes import BF16, FLOAT, INT, U8, KernelCase, ModelShape, leaf
from fastimae import kernels
from fastimae.kernels import reference, reference_colors
from fastimae.kernels.mixing_ratio import LEVELS
from fastimae.models import IMAGENET_MEAN, IMAGENET_STD

STATISTICS = (IMAGENET_MEAN, IMAGENET_STD)


def cases(shape: ModelShape) -> list[KernelCase]:
    """List the cases of all ops at a shape; ops that only i-MAE needs have two branches."""
    make = (
        draw_windows, crop_resize, random_masking, mixing_ratio, patchify, mix_patchify,
        jitter_factors, color_jitter, jitter_patchify, assemble_tokens, masked_l2,
        masked_l2_inner, latent_l2, pair_l2,
    )  # fmt: skip
    encoder = attention(shape, "encoder", shape.keep + 1, shape.heads, shape.width)
    decoder = attention(
        shape, "decoder", shape.patches + 1, shape.decoder_heads, shape.decoder_width
    )
    blocks = [
        one(shape, name, tokens, width)
        for one in (add_norm, mlp)
        for name, tokens, width in (
            ("encoder", shape.keep + 1, shape.width),
            ("decoder", shape.patches + 1, shape.decoder_width),
        )
    ]
    return [*(one(shape) for one in make), *blocks, encoder, decoder]


def random_masking(s: ModelShape) -> KernelCase:
    """Draw the masks of a batch."""
    return KernelCase(
        op="random_masking",
        shape=s.name,
        inputs=lambda device: {"key": torch.arange(s.batch, device=device) * 7919},
        call=lambda op, x: op(x["key"], s.grid, 0.75),
        spec=lambda x: kernels.random_masking(x["key"], s.grid, 0.75, impl="torch"),
        # A key in; ids of visible, of masked and of all patches out, and a float for each patch.
        forward_bytes=s.batch * (8 + INT * (s.keep + s.masked + s.patches) + FLOAT * s.patches),
        tolerance=0,
    )


def mixing_ratio(s: ModelShape) -> KernelCase:
    """Draw the weights of mixtures."""
    return KernelCase(
        op="mixing_ratio",
        shape=f"{s.name} i-MAE",
        inputs=lambda device: {
            "key": torch.arange(s.batch, device=device) * 7919,
            "quantiles": torch.linspace(0, 1, LEVELS + 1, device=device),
        },
        call=lambda op, x: op(x["key"], x["quantiles"]),
        spec=lambda x: reference.mixing_ratio(x["key"], x["quantiles"]),
        # A key and two quantiles in, a weight out: too few for a share of bandwidth to mean
        # anything, but its time counts.
        forward_bytes=s.batch * (8 + 2 * FLOAT + FLOAT),
        tolerance=1e-6,
    )


def patchify(s: ModelShape) -> KernelCase:
    """Normalise the visible patches, as MAE does."""

    def spec(x: dict[str, Tensor]) -> Tensor:
        (clean,) = reference.mix_patchify(x["images"], x["ids"], s.patch, *STATISTICS)
        return clean.bfloat16()

    return KernelCase(
        op="mix_patchify",
        shape=f"{s.name} MAE",
        inputs=lambda device: _pictures(s, device),
        call=lambda op, x: op(x["images"], x["ids"], s.patch, *STATISTICS, dtype=torch.bfloat16),
        spec=spec,
        # Visible bytes and ids in, tokens out.
        forward_bytes=s.batch * s.keep * (s.values * (U8 + BF16) + INT),
    )


def mix_patchify(s: ModelShape) -> KernelCase:
    """Mix two images in their visible patches, as i-MAE does."""

    def mixture(x: dict[str, Tensor]) -> tuple:
        return x["images"], x["ids"], s.patch, *STATISTICS, x["partner"], x["alpha"]

    return KernelCase(
        op="mix_patchify",
        shape=f"{s.name} i-MAE",
        inputs=lambda device: _pictures(s, device),
        call=lambda op, x: op(*mixture(x), dtype=torch.bfloat16),
        spec=lambda x: [y.bfloat16() for y in reference.mix_patchify(*mixture(x))],
        # Visible bytes of two images and ids in; the mixture and both images out.
        forward_bytes=s.batch * s.keep * (s.values * (2 * U8 + 3 * BF16) + INT),
    )


def jitter_factors(s: ModelShape) -> KernelCase:
    """Draw how colours change."""
    return KernelCase(
        op="jitter_factors",
        shape=s.name,
        inputs=lambda device: {"key": torch.arange(s.batch, device=device) * 7919},
        call=lambda op, x: op(x["key"], 0.4),
        spec=lambda x: reference_colors.jitter_factors(x["key"], 0.4),
        # A key in, six factors out: as with mixing_ratio, its time counts.
        forward_bytes=s.batch * (8 + 6 * FLOAT),
        tolerance=1e-6,
    )


def color_jitter(s: ModelShape) -> KernelCase:
    """Change the colours of whole images."""
    return KernelCase(
        op="color_jitter",
        shape=s.name,
        inputs=lambda device: _jittered(s, device),
        call=lambda op, x: op(x["images"], x["factors"]),
        spec=lambda x: reference_colors.color_jitter(x["images"], x["factors"]),
        # Bytes in and out, once: contrast's mean takes another read where it is not 1.
        forward_bytes=s.batch * (2 * U8 * s.patches * s.values + 6 * FLOAT),
    )


def jitter_patchify(s: ModelShape) -> KernelCase:
    """Change the colours of visible patches, and normalise them."""

    def given(x: dict[str, Tensor]) -> tuple:
        return x["images"], x["ids"], x["factors"], s.patch, *STATISTICS

    return KernelCase(
        op="jitter_patchify",
        shape=s.name,
        inputs=lambda device: _jittered(s, device),
        call=lambda op, x: op(*given(x), dtype=torch.bfloat16),
        spec=lambda x: reference_colors.jitter_patchify(*given(x)).bfloat16(),
        # Visible bytes and ids in, once, and tokens out.
        forward_bytes=s.batch * (s.keep * (s.values * (U8 + BF16) + INT) + 6 * FLOAT),
    )


def assemble_tokens(s: ModelShape) -> KernelCase:
    """Fill the input of the decoder."""
    width, dtype = s.decoder_width, torch.bfloat16

    def inputs(device: torch.device) -> dict[str, Tensor]:
        mask = _mask(s, device)
        return {
            "x": leaf(s.batch, 1 + s.keep, width, device=device, dtype=dtype),
            "token": leaf(1, 1, width, device=device),
            "positions": torch.randn(1, 1 + s.patches, width, device=device),
            "ids": mask.ids_restore,
        }

    visible, every = s.batch * (1 + s.keep) * width, s.batch * (1 + s.patches) * width
    return KernelCase(
        op="assemble_tokens",
        shape=s.name,
        inputs=inputs,
        call=lambda op, x: op(x["x"], x["token"], x["positions"], x["ids"]),
        spec=lambda x: reference.assemble_tokens(x["x"], x["token"], x["positions"], x["ids"]),
        # Forward: visible tokens in, all out. Backward: all gradients in, those of visible out.
        forward_bytes=BF16 * (visible + every) + INT * s.batch * s.patches,
        both_bytes=2 * (BF16 * (visible + every) + INT * s.batch * s.patches),
    )


def masked_l2(s: ModelShape, ignored: int = 0) -> KernelCase:
    """Compute the loss on masked pixels, of two branches. ignored: see `ignore_boundary`."""

    def inputs(device: torch.device) -> dict[str, Tensor]:
        own = torch.arange(s.batch, device=device)
        return _pictures(s, device) | {
            "pred": leaf(2 * s.batch, s.masked, s.values, device=device, dtype=torch.bfloat16),
            "target": torch.cat([own, own.roll(1)]),
            "masked": _mask(s, device).ids_masked,
        }

    def call(op: Callable[..., Any], x: dict[str, Tensor]) -> Tensor:
        args = x["images"], x["target"], x["masked"], s.patch, *STATISTICS, True
        return op(x["pred"], *args, ignore_boundary=ignored, branches=2)

    def spec(x: dict[str, Tensor]) -> Tensor:
        args = x["masked"], s.patch, *STATISTICS, True, ignored
        parts = zip(x["pred"].chunk(2), x["target"].chunk(2), strict=True)
        return torch.stack([reference.masked_l2(p, x["images"], t, *args) for p, t in parts])

    values = 2 * s.batch * s.masked * s.values
    return KernelCase(
        op="masked_l2",
        shape=f"{s.name} i-MAE" + (f", boundary {ignored}" if ignored else ""),
        inputs=inputs,
        call=call,
        spec=spec,
        # Predictions and bytes in. With a gradient the difference goes out, is read again, and
        # the gradient goes out.
        forward_bytes=values * (BF16 + U8),
        both_bytes=values * (BF16 + U8 + 3 * BF16),
    )


def masked_l2_inner(s: ModelShape) -> KernelCase:
    """Compute it without the pixels near visible ones: a quarter of each side of a patch."""
    return masked_l2(s, max(s.patch // 4, 1))


def latent_l2(s: ModelShape) -> KernelCase:
    """Compute the loss on latents, of two branches."""
    shape = (2 * s.batch, 1 + s.keep, s.decoder_width)

    def spec(x: dict[str, Tensor]) -> Tensor:
        parts = zip(x["student"].chunk(2), x["teacher"].chunk(2), strict=True)
        return torch.stack([reference.latent_l2(*part) for part in parts])

    values = shape[0] * shape[1] * shape[2]
    return KernelCase(
        op="latent_l2",
        shape=f"{s.name} i-MAE",
        inputs=lambda device: {
            "student": leaf(*shape, device=device, dtype=torch.bfloat16),
            "teacher": torch.randn(shape, device=device, dtype=torch.bfloat16),
        },
        call=lambda op, x: op(x["student"], x["teacher"], branches=2),
        spec=spec,
        # Both latents in; with a gradient the difference goes out and in, the gradient out.
        forward_bytes=values * 2 * BF16,
        both_bytes=values * 5 * BF16,
    )


def pair_l2(s: ModelShape) -> KernelCase:
    """Compute the distance of two views' predictions."""
    shape = (s.batch, s.masked, s.values)
    values = s.batch * s.masked * s.values
    return KernelCase(
        op="pair_l2",
        shape=f"{s.name} R-MAE",
        inputs=lambda device: {
            name: leaf(*shape, device=device, dtype=torch.bfloat16) for name in ("first", "second")
        },
        call=lambda op, x: op(x["first"], x["second"]),
        spec=lambda x: reference.pair_l2(x["first"], x["second"]),
        # Both in; with gradients the difference goes out and in, and both gradients out.
        forward_bytes=values * 2 * BF16,
        both_bytes=values * 6 * BF16,
    )


def _pictures(s: ModelShape, device: torch.device) -> dict[str, Tensor]:
    size = (s.batch, s.side, s.side, 3)
    return {
        "images": torch.randint(0, 256, size, dtype=torch.uint8, device=device),
        "ids": _mask(s, device).ids_keep,
        "partner": torch.arange(s.batch, device=device).roll(1),
        "alpha": torch.full((s.batch,), 0.3, device=device),
    }


def _mask(s: ModelShape, device: torch.device) -> kernels.Mask:
    return kernels.random_masking(torch.arange(s.batch, device=device), s.grid, 0.75)


def _jittered(s: ModelShape, device: torch.device) -> dict[str, Tensor]:
    keys = torch.arange(s.batch, device=device) * 7919
    return _pictures(s, device) | {"factors": kernels.jitter_factors(keys, 0.4, impl="torch")}
