"""Each swap of `accelerate`: tried on random inputs, and installed if it does the same.

The functions raise TypeError or ValueError with the reason where a part is left.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.interop.probe import difference, mode
from fastimae.interop.swaps import (
    Swap,
    check_attention,
    draw_key,
    make_swap,
    masked_by,
)
from fastimae.kernels import Mask
from fastimae.kernels.drop_in import patch_size_of

_RATIOS = (0.1, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Of masking: some round where others cut off, or change their ways with the ratio."""


def swap_attention(module: nn.Module) -> None:
    """Put our attention in. Raises TypeError or ValueError where it differs."""
    check_attention(module)
    weight = next(module.parameters())
    swap = make_swap(module, "forward", "attention", weight)
    x = _random(weight, 2, 9, module.qkv.in_features).requires_grad_()
    _prove(swap, (x,), {"x": x})


def swap_random_masking(model: nn.Module) -> None:
    """Replace it if it is MAE's: the smallest of torch.rand's numbers stay."""
    weight = next(model.parameters())
    swap = make_swap(model, "random_masking", "random_masking", weight)
    patches = model.pos_embed.shape[1] - 1 if hasattr(model, "pos_embed") else 16
    ratios = [ratio for ratio in _RATIOS if 0 < int(patches * (1 - ratio)) < patches]
    for ratio, training in itertools.product(ratios, (False, True)):
        x = _random(weight, 1 + 2 * training, patches, 4)
        devices = [weight.device] if weight.is_cuda else []
        with mode(model, training), torch.random.fork_rng(devices):
            torch.manual_seed(0)
            theirs = swap.original(**swap.named(x, ratio))
            torch.manual_seed(0)
            noise = torch.rand(x.shape[:2], device=x.device)
        masked = noise.argsort(1).argsort(1) >= int(patches * (1 - ratio))
        _check_masking(x, masked, theirs)
    swap.install()


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


def swap_encoder(model: nn.Module) -> None:
    """Put ours in for `forward_encoder`. Raises TypeError or ValueError where it differs."""
    _need(model, "random_masking")
    imgs = _random_images(model)
    swap = make_swap(model, "forward_encoder", "forward_encoder", imgs)
    with recording(model) as drawn:

        def theirs() -> Any:
            with original_methods(model, [drawn[-1]]):
                return swap.original(**swap.named(imgs, 0.75))

        _prove(swap, (imgs, 0.75), {}, theirs)


def swap_decoder(model: nn.Module) -> None:
    """Put ours in for `forward_decoder`. Raises TypeError or ValueError where it differs."""
    weight = model.mask_token
    swap = make_swap(model, "forward_decoder", "forward_decoder", weight)
    patches = model.decoder_pos_embed.shape[1] - 1
    x = _random(weight, 2, 1 + patches // 2, model.decoder_embed.in_features).requires_grad_()
    ids_restore = torch.rand(2, patches, device=weight.device).argsort(1)
    _prove(swap, (x, ids_restore), {"x": x})


def swap_loss(model: nn.Module) -> None:
    """With raw and with normalised targets: `norm_pix_loss` may be changed later."""
    _need(model, "random_masking")
    imgs = _random_images(model)
    swap = make_swap(model, "forward_loss", "forward_loss", imgs)
    size = patch_size_of(model)
    patches = imgs.shape[2] * imgs.shape[3] // size**2
    pred = _random(imgs, 2, patches, size**2 * imgs.shape[1]).requires_grad_()
    _, mask, _ = model.random_masking(pred.detach(), 0.5)
    before = model.norm_pix_loss
    try:
        for norm_pix_loss in (False, True):
            model.norm_pix_loss = norm_pix_loss
            _prove(swap, (imgs, pred, mask), {"pred": pred})
    finally:
        model.norm_pix_loss = before


# In this order: the encoder's and the loss's rest upon our masks.
METHODS: dict[str, Callable[[nn.Module], None]] = {
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
) -> None:
    """Install the swap if both sides do the same with these inputs, else raise ValueError."""
    named = swap.named(*inputs)
    theirs = theirs or (lambda: swap.original(**named))
    if unlike := difference(swap.module, lambda: swap(**named), theirs, wrt):
        raise ValueError(unlike)
    swap.install()


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
