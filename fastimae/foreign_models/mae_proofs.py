"""Proofs of the methods of MAE that draw masks, or depend on how they are drawn.

Each raises ValueError with the reason, or returns.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.foreign_models.equivalence import devices_of
from fastimae.foreign_models.installed import installed_in
from fastimae.foreign_models.mae_methods import (
    STATE,
    are_left,
    draw_key,
    masked_by,
    masking_site,
)
from fastimae.foreign_models.runtime_checks import RuntimeChecks
from fastimae.foreign_models.site import Site
from fastimae.foreign_models.trial import prove_same
from fastimae.kernels import Mask
from fastimae.kernels.drop_in import patch_size_of


def prove_random_masking(site: Site, values: tuple) -> None:
    """Prove MAE's rule: the patches, or squares of patches, with the smallest numbers of torch.rand
    stay. The side of the squares that fits is kept for our masks."""
    x, mask_ratio = values
    for each in (x[:1], x):
        with (
            torch.random.fork_rng(devices_of(site.module)),
            RuntimeChecks(site.preconditions, draws=1),
            torch.no_grad(),
        ):
            theirs = site.original(**site.by_name((each, mask_ratio)))
        unit = _find_unit(site.module, each, mask_ratio, theirs)
        _check_rows(each, *theirs)
    site.module._fastimae_unit = unit


def _find_unit(module: nn.Module, x: Tensor, mask_ratio: float, theirs: Any) -> int:
    """Return the side of the squares, in patches, by whose masking the mask can be explained."""
    patches = x.shape[1]
    if not (isinstance(theirs, tuple) and len(theirs) == 3 and theirs[1].shape == x.shape[:2]):
        raise ValueError("does not return visible rows, mask, ids_restore")
    mask = theirs[1]
    side = math.isqrt(patches) if math.isqrt(patches) ** 2 == patches else 1
    for unit in (unit for unit in range(1, side + 1) if side % unit == 0):
        units = patches // unit**2
        with torch.random.fork_rng(devices_of(module)):  # the numbers that the original drew
            noise = torch.rand(len(x), units, device=x.device)
        masked = noise.argsort(1).argsort(1) >= int(units * (1 - mask_ratio))
        if unit > 1:
            masked = masked.view(-1, side // unit, side // unit)
            masked = masked.repeat_interleave(unit, 1).repeat_interleave(unit, 2).flatten(1)
        if mask.dtype == torch.float32 and torch.equal(mask, masked.float()):
            return unit
    raise ValueError("draws its masks by another rule than MAE's")


def _check_rows(x: Tensor, rows: Tensor, mask: Tensor, ids_restore: Tensor) -> None:
    """Check that ids_restore puts the rows that are left of x back to where they were."""
    fill = x.new_zeros(len(x), x.shape[1] - rows.shape[1], x.shape[2])
    restored = torch.cat([rows, fill], 1).gather(1, ids_restore[..., None].expand_as(x))
    if not torch.equal(restored, x.masked_fill(mask[..., None].bool(), 0)):
        raise ValueError("its ids_restore does not put the visible rows back")


def prove_encoder(site: Site, values: tuple) -> None:
    """Prove the encoder: the original gets the masks that ours drew."""
    model, (imgs, mask_ratio) = site.module, values
    masks, kept = masking_site(model), {n: vars(model)[n] for n in STATE if n in vars(model)}
    patches = [imgs.shape[2 + i] // model.patch_embed.proj.kernel_size[i] for i in (0, 1)]
    x = torch.randn(len(imgs), math.prod(patches), 4, device=imgs.device)
    if masks is None or not (masks.judge((x, mask_ratio)) and masks.verdicts[-1].swapped):
        raise ValueError("needs our random_masking, which is left")

    def theirs() -> Any:
        setattr(model, masks.name, repeater([model._fastimae_mask]))
        try:
            return site.original(**site.by_name(values))
        finally:
            masks.install()

    try:
        prove_same(site, values, theirs)
    finally:
        for name in ("_fastimae_mask", "_fastimae_mask_version"):
            model.__dict__.pop(name, None)
        vars(model).update({n: v for n, v in kept.items() if n != "_fastimae_unit"})


def prove_loss(site: Site, values: tuple) -> None:
    """Prove the loss with raw and normalised targets, as `norm_pix_loss` may be changed later.

    Several kinds of images are needed: an epsilon beside the variance, or clipping, affects few.
    """
    model, (imgs, pred, mask) = site.module, values
    if are_left(masking_site(model)):
        raise ValueError("needs our random_masking, which is left")
    before = model.norm_pix_loss
    try:
        kinds = _kinds_of_images(imgs, pred, patch_size_of(model))
        for norm_pix_loss, (images, guess) in itertools.product((False, True), kinds):
            model.norm_pix_loss = norm_pix_loss
            guess = guess.detach().requires_grad_(pred.requires_grad)
            prove_same(site, (images, guess, mask))
    finally:
        model.norm_pix_loss = before


def _kinds_of_images(imgs: Tensor, pred: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and predictions to try a loss with.

    Those of the call, noise, loud noise, one bright pixel in each patch, and faint noise if the
    number format allows.
    """
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(imgs.shape, generator=generator).to(imgs)
    guess = torch.randn(pred.shape, generator=generator).to(pred)
    dots = torch.zeros_like(imgs)
    dots[..., ::size, ::size] = 1
    yield from ((imgs, pred), (noise, guess), (10 * noise, 10 * guess), (dots, guess))
    if imgs.dtype in (torch.float32, torch.float64):
        yield 1e-3 * noise, guess


def repeater(masks: list[Mask]) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return a `random_masking` that repeats the given masks in turn.

    It takes as many random numbers as our draw did, so that dropout gets the same ones.
    """
    in_turn = iter(masks)

    def repeat(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        x = [*args, *kwargs.values()][0]
        draw_key(x)
        return masked_by(next(in_turn), x)

    return repeat


@contextlib.contextmanager
def recorded_masks(model: nn.Module) -> Iterator[list[Mask]]:
    """Record the masks that our methods draw within the context."""
    drawn: list[Mask] = []
    modules = [module for module in model.modules() if masking_site(module)]
    for module in modules:
        module._fastimae_record = drawn
    try:
        yield drawn
    finally:
        for module in modules:
            del module._fastimae_record


@contextlib.contextmanager
def without_replacements(model: nn.Module, masks: list[Mask]) -> Iterator[None]:
    """Run the model's own methods, but let its `random_masking` repeat the given masks in turn."""
    everything = installed_in(model)
    masking = [site for site in (masking_site(m) for m in model.modules()) if site]
    for each in everything:
        each.remove()
    repeat = repeater(masks)
    for site in masking if masks else ():
        setattr(site.module, site.name, repeat)
    try:
        yield
    finally:
        for site in masking:
            site.module.__dict__.pop(site.name, None)
        for each in everything:
            each.install()
