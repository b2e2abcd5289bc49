"""Random masking: draws which patches stay visible, as a function of the sample's key alone.

B = batch, L = patches of an image, K = visible patches, M = L - K masked patches, U = mask units
of an image. A mask unit is a square of u x u patches that share their noise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels.checks import check_dtype, check_key, check_shape

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MAX_PATCHES = 4096  # one program holds a sample


class Mask(NamedTuple):
    """A mask. Rows of ids_keep and ids_masked are ascending, so the boolean mask determines it."""

    ids_keep: Tensor
    """int32 [B, K], visible patches in ascending order."""
    ids_restore: Tensor
    """int32 [B, L], rank of each patch: visible patches come first, then masked patches."""
    mask: Tensor
    """float32 [B, L], 0 where the patch is visible and 1 where it is masked, as in MAE."""
    ids_masked: Tensor
    """int32 [B, M], masked patches in ascending order."""

    @classmethod
    def from_bool(cls, masked: Tensor) -> Mask:
        """Make a mask from bool [B, L], True where masked.

        Raises ValueError for another dtype or shape, and if rows differ in their number of masked
        patches.
        """
        check_shape("masked", masked, "B", "L")
        check_dtype("masked", masked, torch.bool)
        keep = (~masked).sum(1)
        if len(keep) and not torch.equal(keep, keep[:1].expand_as(keep)):
            raise ValueError("every image of a batch must have the same number of masked patches")
        return mask_of(masked, int(keep[0]) if len(keep) else 0)

    @classmethod
    def of_nothing(cls, images: int, patches: int, device: torch.device | str) -> Mask:
        """Make the mask that hides no patch, without waiting for the device."""
        masked = torch.zeros(images, patches, dtype=torch.bool, device=device)
        return mask_of(masked, patches)

    def complement(self) -> Mask:
        """Return the mask that hides what this one shows, and shows what it hides."""
        keep, hidden = self.ids_keep.shape[1], self.ids_masked.shape[1]
        is_visible = self.ids_restore < keep
        ids_restore = torch.where(is_visible, self.ids_restore + hidden, self.ids_restore - keep)
        return Mask(self.ids_masked, ids_restore, 1 - self.mask, self.ids_keep)

    def repeat(self, times: int) -> Mask:
        """Return the mask for `times` stacked copies of the batch."""
        return Mask(*(part.repeat(times, 1) for part in self))


@jit
def _random_masking_kernel(
    key_ptr,
    key_stride,
    ids_keep_ptr,
    ids_restore_ptr,
    mask_ptr,
    ids_masked_ptr,
    keep,
    PATCHES: tl.constexpr,
    ACROSS: tl.constexpr,
    UNIT: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Keep the `keep` patches of least noise visible; noise = (Philox word of the unit, unit).

    key [B]; ids_keep [B, keep], ids_restore and mask [B, PATCHES], ids_masked [B, PATCHES - keep],
    contiguous. BITS: bits of a unit's number. Grid: one program per sample.

    There is no sort: the keep-th least noise is determined bit by bit, as the largest number that
    fewer than `keep` patches are below. Then each patch number is stored at its rank.
    """
    row = tl.program_id(0).to(tl.int64)
    patch = tl.arange(0, BLOCK)
    inside = patch < PATCHES
    unit = patch // ACROSS // UNIT * (ACROSS // UNIT) + patch % ACROSS // UNIT
    word_0, word_1, word_2, word_3 = tl.randint4x(tl.load(key_ptr + row * key_stride), unit // 4)
    low = tl.where(unit % 2 == 0, word_0, word_1)
    high = tl.where(unit % 2 == 0, word_2, word_3)
    word = tl.where(unit % 4 < 2, low, high).to(tl.uint32, bitcast=True).to(tl.int64)
    noise = tl.where(inside, word << BITS | unit, 1 << 62)

    cut = tl.zeros((), tl.int64)
    bit = tl.full((), 1 << (31 + BITS), tl.int64)
    for _ in range(32 + BITS):
        below = tl.sum((noise < (cut | bit)).to(tl.int32), 0)
        cut = tl.where(below < keep, cut | bit, cut)
        bit = bit >> 1

    visible = noise <= cut
    seen = tl.cumsum(visible.to(tl.int32), 0)
    rank = tl.where(visible, seen - 1, keep + patch - seen)
    tl.store(ids_restore_ptr + row * PATCHES + patch, rank, mask=inside)
    tl.store(mask_ptr + row * PATCHES + patch, (noise > cut).to(tl.float32), mask=inside)
    tl.store(ids_keep_ptr + row * keep + rank, patch, mask=visible)
    tl.store(
        ids_masked_ptr + row * (PATCHES - keep) + rank - keep, patch, mask=inside & (noise > cut)
    )


def _settings(patches: int) -> dict[str, int]:
    """Return block size and warps: 8 patches per thread."""
    block = triton.next_power_of_2(patches)
    return {"BLOCK": block, "num_warps": max(block // 256, 1)}


@torch.library.custom_op("fastimae::random_masking", mutates_args=())
def _random_masking(
    key: Tensor, down: int, across: int, unit: int, keep: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw the parts of a `Mask` with `keep` visible patches."""
    parts = _empty_parts(key, down, across, unit, keep)
    ids_keep, ids_restore, mask, ids_masked = parts
    if len(key):
        launch(
            _random_masking_kernel,
            (len(key),),
            key_ptr=key,
            key_stride=key.stride(0),
            ids_keep_ptr=ids_keep,
            ids_restore_ptr=ids_restore,
            mask_ptr=mask,
            ids_masked_ptr=ids_masked,
            keep=keep,
            PATCHES=down * across,
            ACROSS=across,
            UNIT=unit,
            BITS=(down * across // unit**2 - 1).bit_length(),
            **_settings(down * across),
        )
    return parts


@_random_masking.register_fake
def _empty_parts(
    key: Tensor, down: int, across: int, unit: int, keep: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ids = [key.new_empty(len(key), n, dtype=torch.int32) for n in (keep, down * across)]
    mask = torch.empty_like(ids[1], dtype=torch.float32)
    return *ids, mask, key.new_empty(len(key), down * across - keep, dtype=torch.int32)


def _random_masking_torch(key: Tensor, down: int, across: int, unit: int, keep: int) -> Mask:
    units = (down // unit, across // unit)
    count, keep_units = units[0] * units[1], keep // unit**2
    order_U = torch.arange(count, device=key.device)
    noise_BU = (uniform_words(key, count) << 31) | order_U  # unique: ties go to the lower index
    least = noise_BU.topk(keep_units, dim=1, largest=False, sorted=False).values
    masked = (noise_BU > least.amax(1, keepdim=True)).view(-1, *units)
    if unit > 1:
        masked = masked.repeat_interleave(unit, 1).repeat_interleave(unit, 2)
    return mask_of(masked.flatten(1), keep)


def mask_of(masked: Tensor, keep: int) -> Mask:
    """Make a mask from bool [B, L], True where masked, with `keep` visible patches in every row."""
    patches_L = torch.arange(masked.shape[1], dtype=torch.int32, device=masked.device)
    seen_BL = (~masked).cumsum(1, dtype=torch.int32)
    ids_restore = torch.where(masked, keep + patches_L - seen_BL, seen_BL - 1)
    order_BL = torch.empty_like(ids_restore)
    order_BL.scatter_(1, ids_restore.long(), patches_L.expand_as(ids_restore))
    ids_keep, ids_masked = order_BL[:, :keep].contiguous(), order_BL[:, keep:].contiguous()
    return Mask(ids_keep, ids_restore, masked.float(), ids_masked)


def uniform_words(key: Tensor, count: int, stream: int = 0) -> Tensor:
    """Draw int64 [B, count] uniform 32-bit words: lane i % 4 of Philox block i // 4."""
    blocks = torch.arange((count + 3) // 4, device=key.device)
    return torch.stack(philox(key[:, None], blocks, stream), dim=-1).flatten(1)[:, :count]


def philox(key: Tensor, counter: Tensor, stream: int = 0) -> tuple[Tensor, ...]:
    """Compute Philox4x32-10 (Salmon et al., 2011) at (counter, 0, 0, stream).

    key: int64, all 64 bits used. counter: int64 in [0, 2^32), broadcast with key. Returns four
    int64 tensors with words in [0, 2^32), bit-equal to Triton's `randint4x` for stream 0.
    """
    zero = torch.zeros_like(counter)
    return philox_at(key, counter, zero, zero, torch.full_like(counter, stream))


def philox_at(key: Tensor, *counter: Tensor) -> tuple[Tensor, ...]:
    """Compute Philox4x32-10 at a counter of four words, int64 in [0, 2^32) each; see `philox`."""
    words = list(counter)
    keys = [key & _WORD, (key >> 32) & _WORD]
    for _ in range(10):
        product_0, product_1 = words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]
        words = [  # words 1 and 3 keep the upper half of their product until the next round
            ((product_1 >> 32) ^ words[1] ^ keys[0]) & _WORD,
            product_1,
            ((product_0 >> 32) ^ words[3] ^ keys[1]) & _WORD,
            product_0,
        ]
        keys = [(k + w) & _WORD for k, w in zip(keys, _WEYL, strict=True)]
    return words[0], words[1] & _WORD, words[2], words[3] & _WORD


def visible_patches(grid: tuple[int, int], mask_ratio: float, unit: int = 1) -> int:
    """Return how many patches of an image stay visible, as `random_masking` computes it.

    Raises ValueError if no mask can be drawn with these settings.
    """
    down, across = grid
    if unit < 1 or down % unit or across % unit:
        raise ValueError(f"a mask unit of {unit} patches does not divide the grid {down}x{across}")
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"mask_ratio must be between 0 and 1, not {mask_ratio}")
    units = (down // unit) * (across // unit)
    keep = int(units * (1 - mask_ratio))
    if not 0 < keep < units:
        raise ValueError(
            f"mask_ratio {mask_ratio} leaves {keep} of {units} mask units visible: "
            "change mask_ratio or the mask patch size"
        )
    return keep * unit**2


def masked_share(grid: tuple[int, int], mask_ratio: float, unit: int = 1) -> float:
    """Return the share of patches that `random_masking` masks, which it rounds up to whole units.

    For example 0.918 for a ratio of 0.9 and units of 4 x 4 patches in a grid of 28 x 28. A ratio of
    0 masks nothing. Raises ValueError as `visible_patches`.
    """
    patches = grid[0] * grid[1]
    return (patches - visible_patches(grid, mask_ratio, unit)) / patches if mask_ratio else 0.0


def random_masking(
    key: Tensor, grid: tuple[int, int], mask_ratio: float, unit: int = 1, *, impl: Impl = "auto"
) -> Mask:
    """Draw a uniform random subset of visible patches for each sample (MAE, section 3).

    key: int64 [B], one random key per sample. grid: patches (down, across). mask_ratio: share of
    masked patches; int(L * (1 - mask_ratio)) stay visible. unit: side of the square of patches
    that is masked as a whole (as in hierarchical latent variables, where the mask patch differs
    from the ViT patch). impl: "triton", "torch", or "auto" for the faster available.

    Returns a `Mask`. The same key gives the same mask on every device, in every batch and with
    every implementation.
    Raises ValueError for another key, if the grid is not a multiple of `unit`, if no patch would
    be visible or masked, and if impl="triton" cannot run.
    """
    check_key(key)
    down, across = grid
    keep = visible_patches(grid, mask_ratio, unit)
    obstacle = f"more than {_MAX_PATCHES} patches" if down * across > _MAX_PATCHES else ""
    if use_triton("random_masking", impl, key, obstacle=obstacle):
        return Mask(*_random_masking(key, down, across, unit, keep))
    return _random_masking_torch(key, down, across, unit, keep)
