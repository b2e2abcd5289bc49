"""Each swap of `accelerate`: tried on random inputs, and returned if it does the same.

The functions raise TypeError or ValueError with the reason where a part is left.
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

from fastimae.interop.asking import Asking
from fastimae.interop.probe import devices_of, difference, mode
from fastimae.interop.swaps import (
    Swap,
    check_attention,
    draw_key,
    leaves_some,
    make_swap,
    masked_by,
)
from fastimae.kernels import Mask
from fastimae.kernels.drop_in import patch_size_of

_ENCODED = (0.5, 0.75, 0.9)
"""Ratios that an encoder is tried with."""
_RATIOS = (0.1, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Of masking: some round where others cut off, or change their ways with the ratio."""


def swap_attention(module: nn.Module, longest: int = 9, place: str = "") -> Swap:
    """Our attention.

    longest: sequence that it is tried with, and stands for: scores may be scaled by their number.
    place: the module's name in its model.
    """
    check_attention(module)
    weight = next(module.parameters())
    swap = make_swap(module, "forward", weight)
    swap.longest, swap.place = longest, place
    for tokens in sorted({min(9, longest), longest}):
        x = _random(weight, 2, tokens, module.qkv.in_features).requires_grad_()
        _prove(swap, (x,), {"x": x})
    return swap


def swap_random_masking(model: nn.Module) -> Swap:
    """MAE's rule: the smallest of torch.rand's numbers stay."""
    weight = next(model.parameters())
    swap = make_swap(model, "random_masking", weight)
    patches = model.pos_embed.shape[1] - 1 if hasattr(model, "pos_embed") else 16
    ratios = [ratio for ratio in _RATIOS if leaves_some(patches, ratio)]
    for ratio, training in itertools.product(ratios, (False, True)):
        x = _random(weight, 1 + 2 * training, patches, 4)
        with mode(model, training), torch.random.fork_rng(devices_of(model)):
            torch.manual_seed(0)
            with Asking(swap.watch, draws=1):
                theirs = swap.original(**swap.named(x, ratio))
            torch.manual_seed(0)
            noise = torch.rand(x.shape[:2], device=x.device)
        masked = noise.argsort(1).argsort(1) >= int(patches * (1 - ratio))
        _check_masking(x, masked, theirs)
    return swap


def _check_masking(x: Tensor, masked: Tensor, theirs: Any) -> None:
    """Raise ValueError unless a `random_masking` of x removed what `masked` says."""
    if not (isinstance(theirs, tuple) and len(theirs) == 3 and theirs[1].shape == masked.shape):
        raise ValueError("does not return visible rows, mask, ids_restore")
    rows, mask, ids_restore = theirs
    if mask.dtype != torch.float32 or not torch.equal(mask, masked.float()):
        raise ValueError("draws its masks by another rule than MAE's")
    fill = x.new_zeros(len(x), x.shape[1] - rows.shape[1], x.shape[2])
    restored = torch.cat([rows, fill], 1).gather(1, ids_restore[..., None].expand_as(x))
    if not torch.equal(restored, x.masked_fill(masked[..., None], 0)):
        raise ValueError("its ids_restore does not put the visible rows back")


def swap_encoder(model: nn.Module) -> Swap:
    """With several ratios, under the masks that the model itself draws."""
    _need(model, "random_masking")
    imgs = _random_images(model)
    swap = make_swap(model, "forward_encoder", imgs)
    patches = model.pos_embed.shape[1] - 1
    ratios = [ratio for ratio in _ENCODED if leaves_some(patches, ratio)]
    with recording(model) as drawn:

        def theirs(ratio: float) -> Any:
            with original_methods(model, [drawn[-1]]):
                return swap.original(**swap.named(imgs, ratio))

        for ratio in ratios or [0.75]:
            _prove(swap, (imgs, ratio), {}, functools.partial(theirs, ratio))
    return swap


def swap_decoder(model: nn.Module) -> Swap:
    """With half of the patches visible, forward and backward."""
    weight = model.mask_token
    swap = make_swap(model, "forward_decoder", weight)
    patches = model.decoder_pos_embed.shape[1] - 1
    x = _random(weight, 2, 1 + patches // 2, model.decoder_embed.in_features).requires_grad_()
    ids_restore = torch.rand(2, patches, device=weight.device).argsort(1)
    _prove(swap, (x, ids_restore), {"x": x})
    return swap


def swap_loss(model: nn.Module) -> Swap:
    """With raw and with normalised targets: `norm_pix_loss` may be changed later. With all kinds
    of images: what is added to a variance, and where values are cut off, shows in few."""
    _need(model, "random_masking")
    imgs = _random_images(model)
    swap = make_swap(model, "forward_loss", imgs)
    size = patch_size_of(model)
    patches = imgs.shape[2] * imgs.shape[3] // size**2
    pred = _random(imgs, 2, patches, size**2 * imgs.shape[1])
    _, mask, _ = model.random_masking(pred, 0.5)
    before = model.norm_pix_loss
    try:
        for norm_pix_loss, (kind, loud) in itertools.product((False, True), _kinds(imgs, size)):
            model.norm_pix_loss = norm_pix_loss
            guess = (pred * loud).requires_grad_()
            _prove(swap, (kind, guess, mask), {"pred": guess}, multiplies=False)
    finally:
        model.norm_pix_loss = before
    return swap


def _kinds(imgs: Tensor, size: int) -> Iterator[tuple[Tensor, float]]:
    """Images to try a loss with, each with the size of predictions for it: noise, loud noise, a
    bright pixel in each patch, and noise that is hardly there, if the number format can hold it."""
    dots = torch.zeros_like(imgs)
    dots[..., ::size, ::size] = 1
    yield from ((imgs, 1.0), (10 * imgs, 10.0), (dots, 1.0))
    if imgs.dtype in (torch.float32, torch.float64):
        yield 1e-3 * imgs, 1.0


# In this order: the encoder's and the loss's rest upon our masks.
METHODS: dict[str, Callable[[nn.Module], Swap]] = {
    "random_masking": swap_random_masking,
    "forward_encoder": swap_encoder,
    "forward_decoder": swap_decoder,
    "forward_loss": swap_loss,
}


def _need(model: nn.Module, name: str) -> None:
    if not isinstance(model.__dict__.get(name), Swap):
        raise ValueError(f"needs our {name}, which was not swapped in")


def _prove(
    swap: Swap,
    inputs: tuple,
    wrt: dict[str, Tensor],
    theirs: Callable[[], Any] | None = None,
    *,
    multiplies: bool = True,
) -> None:
    """Raise ValueError unless both sides do the same with these inputs, and the method neither
    asks for values nor draws any. multiplies: matrices, which some devices do with fewer digits."""
    named = swap.named(*inputs)
    original = theirs or (lambda: swap.original(**named))

    def watched() -> Any:
        with Asking(swap.watch):
            return original()

    unlike = difference(swap.module, lambda: swap(**named), watched, wrt, multiplies=multiplies)
    if unlike:
        raise ValueError(unlike)


def _random(like: Tensor, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator).to(like.device, like.dtype)


def _random_images(model: nn.Module) -> Tensor:
    """Two images of the model's size: its patch embedding's, else a square of its positions. Told
    without looking at weights: some are computed anew by each look."""
    convolution = model.patch_embed.proj
    side = math.isqrt(model.pos_embed.shape[1] - 1) * convolution.kernel_size[-1]
    size = getattr(model.patch_embed, "img_size", None) or (side, side)
    height, width = (size, size) if isinstance(size, int) else size
    return _random(model.cls_token, 2, convolution.in_channels, height, width)


@contextlib.contextmanager
def recording(model: nn.Module) -> Iterator[list[Mask]]:
    """The masks that our methods draw meanwhile."""
    model._fastimae_record = drawn = []
    try:
        yield drawn
    finally:
        del model._fastimae_record


def swaps_of(model: nn.Module) -> list[Swap]:
    """All replacements in the model."""
    return [v for m in model.modules() for v in list(vars(m).values()) if isinstance(v, Swap)]


@contextlib.contextmanager
def original_methods(model: nn.Module, masks: Sequence[Mask]) -> Iterator[None]:
    """The model without swaps, but its `random_masking` repeats the given masks in turn.

    That takes as many random numbers as our draw did, so that dropout meets the same ones.
    """
    swaps = swaps_of(model)
    in_turn = iter(masks)

    def repeat(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        x = [*args, *kwargs.values()][0]
        draw_key(x)
        return masked_by(next(in_turn), x)

    for swap in swaps:
        swap.remove()
    if masks:
        model.random_masking = repeat
    try:
        yield
    finally:
        model.__dict__.pop("random_masking", None)
        for swap in swaps:
            swap.install()
