"""Random masking: which patches stay visible, as a function of the sample's key alone.

L = patches of an image, K = visible patches, B = batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


class Mask(NamedTuple):
    """A drawn mask. Rows of both id tensors are ascending, so the boolean mask says it all."""

    ids_keep: Tensor
    """int32 [B, K], visible patches in ascending order."""
    ids_restore: Tensor
    """int32 [B, L], row of each patch in (visible patches, then masked patches)."""
    mask: Tensor
    """float32 [B, L], 0 where the patch is visible and 1 where it is masked, as in MAE."""

    @classmethod
    def from_bool(cls, masked: Tensor) -> Mask:
        """Mask from bool [B, L], true where masked.

        Raises ValueError where rows differ in their number of masked patches.
        """
        keep = (~masked).sum(1)
        if len(keep) and not torch.equal(keep, keep[:1].expand_as(keep)):
            raise ValueError("every image of a batch must have the same number of masked patches")
        return _from_bool(masked, int(keep[0]) if len(keep) else 0)

    @property
    def ids_masked(self) -> Tensor:
        """int32 [B, L - K], masked patches in ascending order."""
        return _patches_by_row(self.ids_restore)[:, self.ids_keep.shape[1] :]

    def repeat(self, times: int) -> Mask:
        """The same mask for `times` stacked copies of the batch."""
        return Mask(*(part.repeat(times, 1) for part in self))


def random_masking(key: Tensor, grid: tuple[int, int], mask_ratio: float, unit: int = 1) -> Mask:
    """Draw a uniform random subset of visible patches for each sample (MAE, section 3).

    key: int64 [B], one random key a sample. grid: patches (down, across). mask_ratio: share of
    patches masked; int(L * (1 - mask_ratio)) stay visible. unit: side of the square of patches
    that is masked as one (hierarchical latent variables: mask patch apart from ViT patch).

    Returns a `Mask`. The same key gives the same mask on every device and in every batch.
    Raises ValueError where the grid is not a multiple of `unit` or no patch would be visible
    or masked.
    """
    down, across = grid
    if down % unit or across % unit:
        raise ValueError(f"a mask unit of {unit} patches does not divide the grid {down}x{across}")
    units = (down // unit) * (across // unit)
    keep = int(units * (1 - mask_ratio))
    if not 0 < keep < units:
        raise ValueError(
            f"mask_ratio {mask_ratio} leaves {keep} of {units} mask units visible: "
            "change mask_ratio or the mask patch size"
        )
    order = torch.arange(units, device=key.device)
    noise = (_uniform_words(key, units) << 31) | order  # unique: ties fall to the lower index
    cut = noise.kthvalue(keep, dim=1, keepdim=True).values if len(key) else noise[:, :1]
    masked = (noise > cut).view(-1, down // unit, across // unit)
    masked = masked.repeat_interleave(unit, 1).repeat_interleave(unit, 2).flatten(1)
    return _from_bool(masked, keep * unit * unit)


def _from_bool(masked: Tensor, keep: int) -> Mask:
    visible_rank = (~masked).cumsum(1) - 1
    masked_rank = masked.cumsum(1) - 1 + keep
    ids_restore = torch.where(masked, masked_rank, visible_rank).to(torch.int32)
    ids_keep = _patches_by_row(ids_restore)[:, :keep].contiguous()
    return Mask(ids_keep, ids_restore, masked.float())


def _patches_by_row(ids_restore: Tensor) -> Tensor:
    """The inverse permutation of each row of ids_restore, int32 [B, L]."""
    patches = torch.arange(ids_restore.shape[1], dtype=torch.int32, device=ids_restore.device)
    empty = torch.empty_like(ids_restore)
    return empty.scatter_(1, ids_restore.long(), patches.expand_as(ids_restore))


def _uniform_words(key: Tensor, count: int) -> Tensor:
    """int64 [B, count] of uniform 32-bit words: lane i % 4 of Philox block i // 4."""
    blocks = torch.arange((count + 3) // 4, device=key.device)
    words = philox(key[:, None].expand(-1, len(blocks)), blocks.expand(len(key), -1))
    return torch.stack(words, dim=-1).flatten(1)[:, :count]


def philox(key: Tensor, counter: Tensor, stream: int = 0) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al., 2011) at (counter, 0, 0, stream).

    key: int64, all 64 bits used. counter: int64 in [0, 2^32), same shape. Returns four int64
    tensors of that shape with words in [0, 2^32), bit-equal to Triton's `randint4x` for stream 0.
    """
    words = [counter, torch.zeros_like(counter), torch.zeros_like(counter)]
    words.append(torch.full_like(counter, stream))
    keys = [key & _WORD, (key >> 32) & _WORD]
    for _ in range(10):
        product_0, product_1 = words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]
        words = [
            ((product_1 >> 32) & _WORD) ^ words[1] ^ keys[0],
            product_1 & _WORD,
            ((product_0 >> 32) & _WORD) ^ words[3] ^ keys[1],
            product_0 & _WORD,
        ]
        keys = [(k + w) & _WORD for k, w in zip(keys, _WEYL, strict=True)]
    return tuple(words)
