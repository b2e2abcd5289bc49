"""The methods that `accelerate` puts in place of a foreign MAE's, with the same meaning.

Each takes the module first, as the method does. Its `fits_...` function decides whether it can
handle a call; all other calls go to the method that the class defines.

B: batch, C: channels, H, W: height and width of images, N: patches, K: visible patches,
T: class tokens, L: tokens, D: width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae import kernels
from fastimae.foreign_models.installed import Installed
from fastimae.foreign_models.trial import ONGOING
from fastimae.kernels import Mask, drop_in, mix_patchify
from fastimae.kernels.rows import visible_rows

if TYPE_CHECKING:
    from fastimae.foreign_models.site import Site

STATE = ("_fastimae_mask", "_fastimae_mask_version", "_fastimae_unit")
"""What these methods keep in the module: the last mask, and the side of what is masked as a whole,
in patches."""
NAMES = {
    "random_masking": ("random_masking", "random_mask", "mask_patches", "masking"),
    "forward_encoder": ("forward_encoder", "encode", "forward_enc", "encoder_forward"),
    "forward_decoder": ("forward_decoder", "decode", "forward_dec", "decoder_forward"),
    "forward_loss": ("forward_loss", "compute_loss", "reconstruction_loss", "loss"),
}
"""MAE's name of a method -> that and the names that forks give it."""


def random_masking(self: Any, x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mask x [B, N, D] with one of our masks, whose loss needs no counting of masked patches."""
    return masked_by(draw(self, x, grid_of(self, x.shape[1]), mask_ratio), x)


def masked_by(drawn: Mask, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what MAE's `random_masking` does: visible rows [B, K, D], mask, ids_restore int64."""
    return visible_rows(x, drawn), drawn.mask, drawn.ids_restore.long()


def forward_encoder(self: Any, imgs: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Encode imgs [B, C, H, W]; only the visible patches are embedded."""
    weight, bias = self.patch_embed.proj.weight, self.patch_embed.proj.bias
    patch_size = weight.shape[-1]
    images = imgs.permute(0, 2, 3, 1)
    grid = (images.shape[1] // patch_size, images.shape[2] // patch_size)
    drawn = draw(self, imgs, grid, mask_ratio)
    (patches,) = mix_patchify(images, drawn.ids_keep, patch_size, (), (), dtype=imgs.dtype)
    x = F.linear(patches, weight.permute(0, 2, 3, 1).flatten(1), bias)
    before = self.pos_embed.shape[1] - grid[0] * grid[1]  # T, or 0 if class tokens have none
    x = x + F.embedding(drawn.ids_keep, self.pos_embed[0, before:])
    first = self.cls_token + self.pos_embed[:, :before] if before else self.cls_token
    x = torch.cat((first.expand(len(x), -1, -1), x), dim=1)
    for block in self.blocks:
        x = block(x)
    return self.norm(x), drawn.mask, drawn.ids_restore.long()


def forward_decoder(self: Any, x: Tensor, ids_restore: Tensor) -> Tensor:
    """Decode x [B, T + K, D]; one kernel assembles the input, in the mask token's number format."""
    x = self.decoder_embed(x).to(self.mask_token.dtype)
    x = kernels.assemble_tokens(x, self.mask_token, self.decoder_pos_embed, ids_restore)
    for block in self.decoder_blocks:
        x = block(x)
    return self.decoder_pred(self.decoder_norm(x))[:, x.shape[1] - ids_restore.shape[1] :]


def fits_masking(self: Any, x: Tensor, mask_ratio: float) -> bool:
    """Return whether some patches are masked: MAE is called with mask_ratio=0 for features."""
    return x.ndim == 3 and leaves_some(x.shape[1], mask_ratio) and masks_are_used(self)


def masks_are_used(self: Any) -> bool:
    """Return whether the module's encoder or loss has use for masks of ours, or may have."""
    names = NAMES["forward_encoder"] + NAMES["forward_loss"]
    sites = [self.__dict__.get(name) for name in names]
    return any(isinstance(site, Installed) and not are_left(site) for site in sites)  # type: ignore[arg-type]


def leaves_some(patches: int, mask_ratio: float) -> bool:
    """Return whether masking keeps at least one patch and removes at least one."""
    return isinstance(mask_ratio, float) and 0 < int(patches * (1 - mask_ratio)) < patches


def fits_encoder(self: Any, imgs: Tensor, mask_ratio: float) -> bool:
    """Return whether some patches are masked, and nobody wants the gradient of the images."""
    masking = _masking(self)
    if masking is not None and (
        not isinstance(masking, Installed) or masking.preconditions.change()  # type: ignore[attr-defined]
    ):
        return False
    if imgs.ndim != 4 or imgs.requires_grad:
        return False
    down, across = self.patch_embed.proj.kernel_size
    return leaves_some((imgs.shape[2] // down) * (imgs.shape[3] // across), mask_ratio)


def fits_loss(self: Any, imgs: Tensor, pred: Tensor, mask: Tensor) -> bool:
    """Return whether the mask is the last drawn one, unmodified, and pred covers all patches.

    If masks are not ours, a trial says so.
    """
    drawn = getattr(self, "_fastimae_mask", None)
    if drawn is None or drawn.mask is not mask or version(mask) != self._fastimae_mask_version:
        return drawn is None and are_left(masking_site(self))
    patches = len(imgs), mask.shape[1], imgs.shape[1] * drop_in.patch_size_of(self) ** 2
    plain = isinstance(self.norm_pix_loss, bool) and not imgs.requires_grad
    return plain and pred.shape == patches


def fits_decoder(self: Any, x: Tensor, ids_restore: Tensor) -> bool:
    """Return whether there is a position for every patch, and before them one or more for x."""
    return x.ndim == 3 and len(x) == len(ids_restore)


def masking_site(self: Any) -> Site | None:
    """Return the site of the module's masking, if it has one."""
    masking = _masking(self)
    return masking if isinstance(masking, Installed) else None  # type: ignore[return-value]


def _masking(self: Any) -> Any:
    """Return what hides the class's masking in this module: a site, another function, or None."""
    hidden = (self.__dict__.get(name) for name in NAMES["random_masking"])
    return next((each for each in hidden if each is not None), None)


def are_left(site: Site | None) -> bool:
    """Return whether a model's masks stay its own."""
    return site is None or (bool(site.verdicts) and not any(v.swapped for v in site.verdicts))


def version(mask: Tensor) -> int:
    """Return how often the mask was modified in place.

    Tensors of inference mode do not count that, and compiled code cannot ask: 0 then.
    """
    return 0 if torch.compiler.is_compiling() or mask.is_inference() else mask._version


def grid_of(self: Any, patches: int) -> tuple[int, int]:
    """Return rows and columns of the patches: of a square, if squares of them are masked."""
    if getattr(self, "_fastimae_unit", 1) == 1:
        return 1, patches
    return math.isqrt(patches), math.isqrt(patches)


def draw_key(x: Tensor) -> Tensor:
    """Draw a random key for each sample, from torch's generator of its device."""
    return torch.randint(2**62, (len(x),), device=x.device)


def draw(self: Any, x: Tensor, grid: tuple[int, int], mask_ratio: float) -> Mask:
    """Draw a mask for each of the samples x, and keep it for the loss."""
    unit = getattr(self, "_fastimae_unit", 1)
    self._fastimae_mask = drawn = kernels.random_masking(draw_key(x), grid, mask_ratio, unit)
    self._fastimae_mask_version = version(drawn.mask)
    if hasattr(self, "_fastimae_record") and not ONGOING:
        self._fastimae_record.append(drawn)
    return drawn
