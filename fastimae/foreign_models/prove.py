"""Proofs that replacements are equivalent: each is tried on random inputs before it is installed.

The functions return the replacement, or raise TypeError or ValueError with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.foreign_models.equivalence import devices_of, find_difference, training_mode
from fastimae.foreign_models.replacements import (
    Replacement,
    check_attention,
    draw_key,
    leaves_some,
    make_replacement,
    masked_by,
)
from fastimae.foreign_models.runtime_checks import RuntimeChecks
from fastimae.kernels import Mask
from fastimae.kernels.drop_in import patch_size_of

_ENCODER_RATIOS = (0.5, 0.75, 0.9)
"""Mask ratios of the encoder's trials."""
_MASKING_RATIOS = (0.1, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Mask ratios of the masking's trials: other rules may round, or depend on the ratio."""


def prove_attention(module: nn.Module, longest: int = 9, path: str = "") -> Replacement:
    """Prove our attention.

    longest: longest sequence of the trials, and of later calls, as a method may scale scores by
    the number of tokens. path: the module's name in its model.
    """
    check_attention(module)
    weight = next(module.parameters())
    replacement = make_replacement(module, "forward", weight)
    replacement.longest, replacement.path = longest, path
    for tokens in sorted({min(9, longest), longest}):
        x = _random(weight, 2, tokens, module.qkv.in_features).requires_grad_()
        _check_same(replacement, (x,), {"x": x})
    return replacement


def prove_random_masking(model: nn.Module) -> Replacement:
    """Prove MAE's rule: the patches with the smallest numbers of torch.rand stay."""
    weight = next(model.parameters())
    replacement = make_replacement(model, "random_masking", weight)
    patches = model.pos_embed.shape[1] - 1 if hasattr(model, "pos_embed") else 16
    ratios = [ratio for ratio in _MASKING_RATIOS if leaves_some(patches, ratio)]
    for ratio, training in itertools.product(ratios, (False, True)):
        x = _random(weight, 1 + 2 * training, patches, 4)
        with training_mode(model, training), torch.random.fork_rng(devices_of(model)):
            torch.manual_seed(0)
            with RuntimeChecks(replacement.preconditions, draws=1):
                theirs = replacement.original(**replacement.by_name(x, ratio))
            torch.manual_seed(0)
            noise = torch.rand(x.shape[:2], device=x.device)
        masked = noise.argsort(1).argsort(1) >= int(patches * (1 - ratio))
        _check_masking(x, masked, theirs)
    return replacement


def _check_masking(x: Tensor, masked: Tensor, theirs: Any) -> None:
    """Check that a `random_masking` of x removed exactly what `masked` marks, else ValueError."""
    if not (isinstance(theirs, tuple) and len(theirs) == 3 and theirs[1].shape == masked.shape):
        raise ValueError("does not return visible rows, mask, ids_restore")
    rows, mask, ids_restore = theirs
    if mask.dtype != torch.float32 or not torch.equal(mask, masked.float()):
        raise ValueError("draws its masks by another rule than MAE's")
    fill = x.new_zeros(len(x), x.shape[1] - rows.shape[1], x.shape[2])
    restored = torch.cat([rows, fill], 1).gather(1, ids_restore[..., None].expand_as(x))
    if not torch.equal(restored, x.masked_fill(masked[..., None], 0)):
        raise ValueError("its ids_restore does not put the visible rows back")


def prove_encoder(model: nn.Module) -> Replacement:
    """Prove the encoder at several ratios; the original gets the masks that ours drew."""
    _require(model, "random_masking")
    imgs = _random_images(model)
    replacement = make_replacement(model, "forward_encoder", imgs)
    patches = model.pos_embed.shape[1] - 1
    ratios = [ratio for ratio in _ENCODER_RATIOS if leaves_some(patches, ratio)]
    with recorded_masks(model) as drawn:

        def theirs(ratio: float) -> Any:
            with without_replacements(model, [drawn[-1]]):
                return replacement.original(**replacement.by_name(imgs, ratio))

        for ratio in ratios or [0.75]:
            _check_same(replacement, (imgs, ratio), {}, functools.partial(theirs, ratio))
    return replacement


def prove_decoder(model: nn.Module) -> Replacement:
    """Prove the decoder with half of the patches visible, forward and backward."""
    weight = model.mask_token
    replacement = make_replacement(model, "forward_decoder", weight)
    patches = model.decoder_pos_embed.shape[1] - 1
    x = _random(weight, 2, 1 + patches // 2, model.decoder_embed.in_features).requires_grad_()
    ids_restore = torch.rand(2, patches, device=weight.device).argsort(1)
    _check_same(replacement, (x, ids_restore), {"x": x})
    return replacement


def prove_loss(model: nn.Module) -> Replacement:
    """Prove the loss with raw and normalised targets, as `norm_pix_loss` may be changed later.

    Several kinds of images are needed: an epsilon beside the variance, or clipping, affects few.
    """
    _require(model, "random_masking")
    imgs = _random_images(model)
    replacement = make_replacement(model, "forward_loss", imgs)
    size = patch_size_of(model)
    patches = imgs.shape[2] * imgs.shape[3] // size**2
    pred = _random(imgs, 2, patches, size**2 * imgs.shape[1])
    _, mask, _ = model.random_masking(pred, 0.5)
    before = model.norm_pix_loss
    try:
        kinds = _kinds_of_images(imgs, size)
        for norm_pix_loss, (images, scale) in itertools.product((False, True), kinds):
            model.norm_pix_loss = norm_pix_loss
            guess = (pred * scale).requires_grad_()
            _check_same(replacement, (images, guess, mask), {"pred": guess}, multiplies=False)
    finally:
        model.norm_pix_loss = before
    return replacement


def _kinds_of_images(imgs: Tensor, size: int) -> Iterator[tuple[Tensor, float]]:
    """Yield images to try a loss with, each with the scale of its predictions.

    Noise, loud noise, one bright pixel in each patch, and faint noise if the number format allows.
    """
    dots = torch.zeros_like(imgs)
    dots[..., ::size, ::size] = 1
    yield from ((imgs, 1.0), (10 * imgs, 10.0), (dots, 1.0))
    if imgs.dtype in (torch.float32, torch.float64):
        yield 1e-3 * imgs, 1.0


# In this order: those of the encoder and the loss depend on our masks.
METHODS: dict[str, Callable[[nn.Module], Replacement]] = {
    "random_masking": prove_random_masking,
    "forward_encoder": prove_encoder,
    "forward_decoder": prove_decoder,
    "forward_loss": prove_loss,
}


def _require(model: nn.Module, name: str) -> None:
    """Check that the method of this name is ours."""
    if not isinstance(model.__dict__.get(name), Replacement):
        raise ValueError(f"needs our {name}, which was not installed")


def _check_same(
    replacement: Replacement,
    inputs: tuple,
    wrt: dict[str, Tensor],
    theirs: Callable[[], Any] | None = None,
    *,
    multiplies: bool = True,
) -> None:
    """Check that original and replacement agree on these inputs, else ValueError.

    The original may neither read tensor values nor draw random numbers. theirs: how to call it,
    if not with the inputs. multiplies: it multiplies matrices, less exactly on some devices.
    """
    named = replacement.by_name(*inputs)
    original = theirs or (lambda: replacement.original(**named))

    def checked() -> Any:
        with RuntimeChecks(replacement.preconditions):
            return original()

    differing = find_difference(
        replacement.module, lambda: replacement(**named), checked, wrt, multiplies=multiplies
    )
    if differing:
        raise ValueError(differing)


def _random(like: Tensor, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator).to(like.device, like.dtype)


def _random_images(model: nn.Module) -> Tensor:
    """Draw two images of the patch embedding's size, else a square with the model's positions.

    The weights are not accessed: parametrizations compute them anew each time.
    """
    convolution = model.patch_embed.proj
    side = math.isqrt(model.pos_embed.shape[1] - 1) * convolution.kernel_size[-1]
    size = getattr(model.patch_embed, "img_size", None) or (side, side)
    height, width = (size, size) if isinstance(size, int) else size
    return _random(model.cls_token, 2, convolution.in_channels, height, width)


@contextlib.contextmanager
def recorded_masks(model: nn.Module) -> Iterator[list[Mask]]:
    """Record the masks that our methods draw within the context."""
    model._fastimae_record = drawn = []
    try:
        yield drawn
    finally:
        del model._fastimae_record


def replacements_of(model: nn.Module) -> list[Replacement]:
    """Return all replacements in the model."""
    return [
        v for m in model.modules() for v in list(vars(m).values()) if isinstance(v, Replacement)
    ]


@contextlib.contextmanager
def without_replacements(model: nn.Module, masks: Sequence[Mask]) -> Iterator[None]:
    """Run the model's own methods, but let its `random_masking` repeat the given masks in turn.

    That takes as many random numbers as our draw did, so that dropout gets the same ones.
    """
    replacements = replacements_of(model)
    in_turn = iter(masks)

    def repeat(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        x = [*args, *kwargs.values()][0]
        draw_key(x)
        return masked_by(next(in_turn), x)

    for replacement in replacements:
        replacement.remove()
    if masks:
        model.random_masking = repeat
    try:
        yield
    finally:
        model.__dict__.pop("random_masking", None)
        for replacement in replacements:
            replacement.install()
