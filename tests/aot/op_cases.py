"""Calls of every op at the shapes of training."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from fastimae.kernels.adamw import AdamWUpdate, ParameterTensors
from fastimae.kernels.assemble_tokens import assemble_tokens
from fastimae.kernels.color_jitter import color_jitter, jitter_factors
from fastimae.kernels.crop_resize import crop_resize
from fastimae.kernels.draw_windows import draw_windows
from fastimae.kernels.jitter_patchify import jitter_patchify
from fastimae.kernels.latent_l2 import latent_l2
from fastimae.kernels.masked_l2 import masked_l2
from fastimae.kernels.mix_patchify import mix_patchify
from fastimae.kernels.mixing_ratio import LEVELS, mixing_ratio
from fastimae.kernels.pair_l2 import pair_l2
from fastimae.kernels.pixel_store import PixelStore
from fastimae.kernels.random_masking import Mask, random_masking
from fastimae.kernels.resize_taps import ResizeTaps, resize_taps
from fastimae.kernels.spread_rows import spread_rows
from fastimae.models.encoder import channel_statistics
from tests.aot.block_cases import block_cases, settings_cases
from tests.aot.models import BANDS, MODELS, AotCase, ModelSizes, floats, ids


def cases() -> Iterator[AotCase]:
    """Yield every op for every model, for MAE and for i-MAE where they differ."""
    for model in MODELS:
        pixels = {"images_ptr": model.aligned}
        ranks = {"ids_keep_ptr": 4, "ids_masked_ptr": 4}  # each id goes to its rank
        # Colours are read and written channel by channel.
        single = {"images_ptr": 1, "out_ptr": model.dtype.itemsize}
        # What decides which pixels count: a patch a thread, and a table.
        small = {"ids_ptr": 4, "visible_ptr": 2, "kept_ptr": 4}
        # A pixel and a weight at a time: each output has its own.
        weights = ("down_weights_ptr", "across_weights_ptr")
        crops = {"pixels_ptr": 1, "out_ptr": 4, **dict.fromkeys(weights, 4)}
        windows = dict.fromkeys(("height_ptr", "width_ptr", "window_ptr"), 4)
        for op, variant, call, narrow in (
            ("draw_windows", "", _draw_windows, windows),
            ("crop_resize", "", _crop_resize, crops),
            ("random_masking", "", _random_masking, ranks),
            ("mixing_ratio", "i-MAE", _mixing_ratio, {"quantiles_ptr": 4}),
            ("mixing_ratio", "i-MAE, per sample", _mixing_ratio_each, {"quantiles_ptr": 4}),
            ("mix_patchify", "MAE", _patchify, pixels),
            ("mix_patchify", "i-MAE", _mix_patchify, pixels),
            ("jitter_factors", "", _jitter_factors, {"factors_ptr": 4}),
            ("color_jitter", "", _color_jitter, {"images_ptr": 1, "out_ptr": 1}),
            ("jitter_patchify", "", _jitter_patchify, single),
            ("assemble_tokens", "", _assemble_tokens, {}),
            ("assemble_tokens", "8 class tokens", functools.partial(_assemble_tokens, first=8), {}),
            ("spread_rows", "tokens", _spread_rows, {}),
            ("spread_rows", "8 class tokens", functools.partial(_spread_rows, first=8), {}),
            ("spread_rows", "qkv", _spread_qkv, {}),
            ("masked_l2", "MAE", _masked_l2, pixels),
            ("masked_l2", "i-MAE", _masked_l2_branches, pixels),
            ("masked_l2", "raw, no gradient", _masked_l2_raw, pixels),
            ("masked_l2", "no boundary", _masked_l2_inner, pixels | small),
            ("latent_l2", "i-MAE", _latent_l2, {}),
            ("latent_l2", "no class token", _latent_l2_sliced, {}),
            ("pair_l2", "R-MAE", _pair_l2, {}),
            ("pair_l2", "R-MAE, some rows", _pair_l2_some, {"kept_ptr": 1}),
        ):
            name = f"{model.name} {variant}".strip()
            yield AotCase(op, name, functools.partial(call, model), narrow)
        yield from block_cases(model)
    for model in BANDS:
        pixels = {"images_ptr": model.aligned, "pixels_ptr": 2}
        for op, call in (
            ("mix_patchify", _patchify), ("masked_l2", _masked_l2), ("crop_resize", _crop_resize),
        ):  # fmt: skip
            yield AotCase(op, model.name, functools.partial(call, model), pixels)
    yield from settings_cases()
    yield from _updates()


def _updates() -> Iterator[AotCase]:
    """Yield the update of parameters, for each format of gradients and copies."""
    for name, gradient, copy in (
        ("bf16 gradients", torch.bfloat16, torch.bfloat16),
        ("summed gradients", torch.float32, torch.bfloat16),
        ("fp32", torch.float32, None),
    ):
        # Each program reads its own row of chunks and factors.
        narrow = {"chunks_ptr": 4, "factors_ptr": 4}
        yield AotCase("adamw", name, functools.partial(_update, gradient, copy), narrow)


def _update(gradient: torch.dtype, copy: torch.dtype | None) -> None:
    """Update two tensors, clipped."""
    tensors = [
        ParameterTensors(
            *(torch.zeros(4096, dtype=d) for d in (torch.float32, gradient)),
            *torch.zeros(2, 4096),
            torch.zeros(()),
            copy and torch.zeros(4096, dtype=copy),
            1e-3,
            0.05,
        )
        for _ in range(2)
    ]
    AdamWUpdate(impl="triton")(tensors, torch.ones(()), betas=(0.9, 0.95), eps=1e-8)


def _images(model: ModelSizes) -> Tensor:
    return torch.zeros(model.batch, model.side, model.side, model.channels, dtype=model.pixels)


def _statistics(model: ModelSizes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return channel_statistics(model.channels, None, None)


def _draw_windows(model: ModelSizes) -> object:
    key = torch.zeros(model.batch, dtype=torch.int64)
    sides = key.int()
    return draw_windows(key, sides, sides, scale=(0.2, 1), ratio=(0.75, 4 / 3), impl="triton")


@functools.cache
def _crop_taps(side: int, dtype: torch.dtype) -> ResizeTaps:
    return resize_taps(2 * side, (side, side), dtype=dtype)


def _crop_resize(model: ModelSizes) -> Tensor:
    """Crop images of twice the side."""
    store = PixelStore.of(
        [torch.zeros(2 * model.side, 2 * model.side, model.channels, dtype=model.pixels)]
    )
    index = torch.zeros(model.batch, dtype=torch.int64)
    window, flip = torch.zeros(model.batch, 4, dtype=torch.int32), index.bool()
    taps = _crop_taps(model.side, model.pixels)
    return crop_resize(store, index, window, flip, taps, impl="triton")


def _random_masking(model: ModelSizes) -> object:
    across = model.side // model.patch
    key = torch.zeros(model.batch, dtype=torch.int64)
    return random_masking(key, (across, across), 0.75, impl="triton")


def _mixing_ratio(model: ModelSizes) -> object:
    """Draw with one key for the batch, which is the default."""
    key = torch.zeros(1, dtype=torch.int64).expand(model.batch)
    return mixing_ratio(key, torch.zeros(LEVELS + 1), impl="triton")


def _mixing_ratio_each(model: ModelSizes) -> object:
    key = torch.zeros(model.batch, dtype=torch.int64)
    return mixing_ratio(key, torch.zeros(LEVELS + 1), impl="triton")


def _patchify(model: ModelSizes) -> object:
    kept = ids(model, model.keep)
    return mix_patchify(
        _images(model), kept, model.patch, *_statistics(model), dtype=model.dtype, impl="triton"
    )


def _mix_patchify(model: ModelSizes) -> object:
    kept, partner = ids(model, model.keep), torch.zeros(model.batch, dtype=torch.int64)
    mixing = (partner, torch.zeros(model.batch))
    return mix_patchify(
        _images(model),
        kept,
        model.patch,
        *_statistics(model),
        *mixing,
        dtype=model.dtype,
        impl="triton",
    )


def _jitter_factors(model: ModelSizes) -> Tensor:
    key = torch.zeros(model.batch, dtype=torch.int64)
    return jitter_factors(key, 0.4, view=1, impl="triton")


def _color_jitter(model: ModelSizes) -> object:
    return color_jitter(_images(model), torch.zeros(model.batch, 6), impl="triton")


def _jitter_patchify(model: ModelSizes) -> object:
    kept, factors = ids(model, model.keep), torch.zeros(model.batch, 6)
    return jitter_patchify(
        _images(model),
        kept,
        factors,
        model.patch,
        *_statistics(model),
        dtype=model.dtype,
        impl="triton",
    )


def _assemble_tokens(model: ModelSizes, first: int = 1) -> object:
    x = floats(model, first + model.keep, model.decoder_width)
    token = torch.zeros(1, 1, model.decoder_width, requires_grad=True)
    positions = torch.zeros(1, first + model.patches, model.decoder_width)
    return assemble_tokens(x, token, positions, ids(model, model.patches), impl="triton")


def _spread_rows(model: ModelSizes, parts: int = 1, first: int = 1) -> object:
    visible = model.batch * (first + model.keep)
    rows = torch.zeros(
        visible + model.patches, parts * model.decoder_width, dtype=model.dtype, requires_grad=True
    )
    keep, every = ids(model, model.keep), ids(model, model.patches)
    masked = ids(model, model.patches - model.keep)
    return spread_rows(rows, Mask(keep, every, every, masked), impl="triton")


def _spread_qkv(model: ModelSizes) -> object:
    return _spread_rows(model, parts=3)


def _masked_l2(
    model: ModelSizes, branches: int | None = None, norm_pix: bool = True, ignored: int = 0
) -> Tensor:
    masked = model.patches - model.keep
    pred = floats(model, masked, model.channels * model.patch**2).repeat(branches or 1, 1, 1)
    target, hidden = torch.zeros(len(pred), dtype=torch.int64), ids(model, masked)
    return masked_l2(
        pred, _images(model), target, hidden, model.patch, *_statistics(model), norm_pix,
        ignore_boundary=ignored, branches=branches, impl="triton",
    )  # fmt: skip


def _masked_l2_branches(model: ModelSizes) -> object:
    return _masked_l2(model, branches=2)


def _masked_l2_inner(model: ModelSizes) -> object:
    """Leave out a quarter of each side of a patch."""
    return _masked_l2(model, ignored=max(model.patch // 4, 1))


@torch.no_grad()
def _masked_l2_raw(model: ModelSizes) -> object:
    return _masked_l2(model, norm_pix=False)


def _latent_l2(model: ModelSizes) -> object:
    student, teacher = (floats(model, 1 + model.keep, model.width) for _ in range(2))
    return latent_l2(student, teacher, branches=2, impl="triton")


def _latent_l2_sliced(model: ModelSizes) -> object:
    student, teacher = (floats(model, 1 + model.keep, model.width) for _ in range(2))
    return latent_l2(student[:, 1:], teacher[:, 1:], impl="triton")


def _pair_l2(model: ModelSizes, kept: Tensor | None = None) -> object:
    masked = model.patches - model.keep
    first, second = (floats(model, masked, 3 * model.patch**2) for _ in range(2))
    return pair_l2(first, second, kept=kept, impl="triton")


def _pair_l2_some(model: ModelSizes) -> object:
    kept = torch.zeros(model.batch, model.patches - model.keep, dtype=torch.bool)
    return _pair_l2(model, kept)
