"""Checks that the arguments of an op fit together, by shape, dtype and device only.

B = batch, H, W, C = image rows, columns, channels, P = patch size, L = patches of an image,
K = visible patches, M = masked patches, E = token width, h = heads, d = head width. An empty batch
is valid. Each error is one line that names both sides.

Values are not checked: that patch numbers are in [0, L), that partners and targets are images of
the batch, that a row of ids_restore is a permutation. On a GPU the host would have to wait for them
in every step, and neither CUDA graphs nor torch.compile could contain such a check. The output of
`Mask`, `random_masking` and the loaders is valid by construction; ids from elsewhere are the
caller's responsibility.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FULL_RANGE = {torch.uint8: 255, torch.uint16: 65535}
"""The dtypes of pixels, and the value in each that stands for 1."""
IMAGE_DTYPES = (*FULL_RANGE, torch.float32, torch.bfloat16, torch.float16)
_ID_DTYPES = (torch.int32, torch.int64)


class DtypeError(TypeError, ValueError):
    """A tensor has the wrong dtype; callers may catch it as a TypeError or a ValueError."""


def check_shape(name: str, x: Tensor, *sizes: int | str) -> None:
    """Raise ValueError unless x has these sizes; a str names a dimension of any size."""
    fits = x.ndim == len(sizes)
    if fits:
        for actual, size in zip(x.shape, sizes, strict=True):
            fits = fits and (isinstance(size, str) or actual == size)
    if not fits:
        expected = ", ".join(str(size) for size in sizes)
        raise ValueError(f"{name} must be [{expected}], not {list(x.shape)}")


def check_ids(name: str, ids: Tensor) -> None:
    """Raise DtypeError unless ids have a dtype for numbers of patches or images."""
    if ids.dtype not in _ID_DTYPES:
        raise DtypeError(f"{name} must be int32 or int64, not {ids.dtype}")


def check_dtype(name: str, x: Tensor, dtype: torch.dtype) -> None:
    """Raise DtypeError unless x has this dtype."""
    if x.dtype != dtype:
        expected, actual = (str(each).removeprefix("torch.") for each in (dtype, x.dtype))
        raise DtypeError(f"{name} must be {expected}, not {actual}")


def check_float(name: str, x: Tensor) -> None:
    """Raise DtypeError unless x holds floats."""
    if not x.is_floating_point():
        raise DtypeError(f"{name} must be a float tensor, not {x.dtype}")


def check_device(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors are on the device of the first.

    A kernel would otherwise follow pointers into another device's memory.
    """
    (first, expected), *rest = [(name, x.device) for name, x in tensors.items() if x is not None]
    for name, device in rest:
        if device != expected:
            raise ValueError(f"{name} is on {device}, but {first} on {expected}")


def check_images(
    images: Tensor, patch_size: int, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Raise DtypeError or ValueError unless images can be cut into patches and normalised.

    images: [B, H, W, C].
    """
    if images.ndim != 4:
        raise ValueError(f"images must be [B, H, W, C], not {list(images.shape)}")
    if images.dtype not in IMAGE_DTYPES:
        names = [str(dtype).removeprefix("torch.") for dtype in IMAGE_DTYPES]
        expected = f"{', '.join(names[:-1])} or {names[-1]}"
        raise DtypeError(f"images must be {expected}, not {images.dtype}")
    channels = images.shape[3]
    if are_pixels(images) and not len(mean) == len(std) == channels:
        raise ValueError(
            f"mean and std need a value for each of {channels} channels, not {len(mean)} "
            f"and {len(std)}{_layout_hint('images', images, len(mean), last=True)}"
        )
    check_grid(images, patch_size)


def check_grid(images: Tensor, patch_size: int) -> None:
    """Raise ValueError unless images [B, H, W, C] divide into whole patches."""
    height, width = images.shape[1:3]
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"patch_size {patch_size} does not divide images of {height}x{width}")


def check_size(
    name: str, images: Tensor, size: tuple[int, int], channels: int, *, channels_last: bool = True
) -> None:
    """Raise ValueError unless images have a model's size, as [B, H, W, C] or [B, C, H, W]."""
    sizes = (*size, channels) if channels_last else (channels, *size)
    if images.ndim != 4 or images.shape[1:] != sizes:
        actual, expected = list(images.shape), ", ".join(map(str, ("B", *sizes)))
        hint = _layout_hint(name, images, channels, last=channels_last)
        raise ValueError(f"{name} must be [{expected}] for this model, not {actual}{hint}")


def are_pixels(images: Tensor) -> bool:
    """Return whether images are pixels: integers, [B, H, W, C], that are yet to be normalised.

    Floats are treated as already normalised; models take them as [B, C, H, W].
    """
    return images.dtype in FULL_RANGE


def check_pixels(name: str, images: Tensor) -> None:
    """Raise DtypeError unless images are pixels: see `are_pixels`."""
    if not are_pixels(images):
        ranges = " or ".join(
            f"{str(dtype).removeprefix('torch.')}, values 0 to {top}"
            for dtype, top in FULL_RANGE.items()
        )
        raise DtypeError(f"{name} must be {ranges}, not {images.dtype}")


def _layout_hint(name: str, images: Tensor, channels: int, *, last: bool) -> str:
    """Suggest a permutation where the channels are on the wrong axis."""
    if images.ndim != 4:
        return ""
    expected, other = (3, 1) if last else (1, 3)
    if images.shape[expected] == channels or images.shape[other] != channels:
        return ""
    layout, order = ("[B, C, H, W]", "0, 2, 3, 1") if last else ("[B, H, W, C]", "0, 3, 1, 2")
    return f": it looks like {layout}; pass {name}.permute({order})"


def check_key(key: Tensor) -> None:
    """Raise ValueError unless key is int64 [B]."""
    check_shape("key", key, "B")
    check_dtype("key", key, torch.int64)


def check_windows(
    key: Tensor,
    height: Tensor,
    width: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> None:
    """Raise ValueError unless `draw_windows` can draw from these."""
    check_key(key)
    for name, lengths in (("height", height), ("width", width)):
        check_shape(name, lengths, len(key))
        check_dtype(name, lengths, torch.int32)
    check_device(key=key, height=height, width=width)
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"draw_windows: scale {scale} must satisfy 0 < low <= high <= 1")
    if not 0 < ratio[0] <= ratio[1] < float("inf"):
        raise ValueError(f"draw_windows: ratio {ratio} must satisfy 0 < low <= high, both finite")


def check_mask(mask: Sequence[Tensor], batch: int, patches: int) -> None:
    """Raise ValueError unless a `Mask` is for `batch` images of `patches` patches."""
    ids_keep, ids_restore, drawn, ids_masked = mask
    check_shape("mask.ids_keep", ids_keep, batch, "K")
    check_shape("mask.ids_restore", ids_restore, batch, patches)
    check_shape("mask.mask", drawn, batch, patches)
    check_shape("mask.ids_masked", ids_masked, batch, patches - ids_keep.shape[1])


def check_mixture(
    images: Tensor, ids_keep: Tensor, patch_size: int, partner: Tensor | None, alpha: Tensor | None
) -> None:
    """Raise ValueError unless the other arguments of `mix_patchify` fit its images."""
    check_visible(images, ids_keep, patch_size)
    check_device(images=images, partner=partner, alpha=alpha)
    if partner is None and alpha is None:
        return
    if partner is None or alpha is None:
        raise ValueError("partner and alpha belong together: pass both or neither")
    check_pairs(len(images), partner, alpha)


def check_visible(images: Tensor, ids_keep: Tensor, patch_size: int) -> None:
    """Raise ValueError unless ids_keep [B, K] are for the patches of images."""
    check_shape("ids_keep", ids_keep, len(images), "K")
    check_ids("ids_keep", ids_keep)
    _check_count("ids_keep", ids_keep, images, patch_size)
    check_device(images=images, ids_keep=ids_keep)


def check_jitter(images: Tensor, factors: Tensor) -> None:
    """Raise ValueError unless images are bytes in RGB, [B, H, W, 3], with six factors each."""
    check_shape("images", images, "B", "H", "W", "C")
    if images.shape[3] != 3:
        hint = _layout_hint("images", images, 3, last=True)
        raise ValueError(f"colour jitter needs RGB images, not {images.shape[3]} channels{hint}")
    if images.dtype != torch.uint8:
        raise DtypeError(
            f"images of colour jitter must be uint8, values 0 to 255, not {images.dtype}"
        )
    check_shape("factors", factors, len(images), 6)
    check_dtype("factors", factors, torch.float32)
    check_device(images=images, factors=factors)


def check_pairs(batch: int, partner: Tensor, alpha: Tensor) -> None:
    """Raise ValueError unless every image of a batch has a partner and a weight."""
    check_shape("partner", partner, batch)
    check_dtype("partner", partner, torch.int64)
    check_shape("alpha", alpha, batch)
    check_float("alpha", alpha)


def _check_count(name: str, ids: Tensor, images: Tensor, patch_size: int) -> None:
    patches = (images.shape[1] // patch_size) * (images.shape[2] // patch_size)
    if ids.shape[1] > patches:
        raise ValueError(f"{name} has {ids.shape[1]} patches, but images have only {patches}")


def check_prediction(
    pred: Tensor,
    images: Tensor,
    target: Tensor,
    ids_masked: Tensor,
    patch_size: int,
    branches: int | None,
    ignore_boundary: int,
    kept: Tensor | None = None,
) -> None:
    """Raise ValueError unless the other arguments of `masked_l2` fit its images."""
    check_branches("masked_l2", pred, branches)
    check_shape("pred", pred, "B", "M", patch_size**2 * images.shape[3])
    check_float("pred", pred)
    rows, masked, _ = pred.shape
    check_shape("target", target, rows)
    shared = rows // (branches or 1)
    is_shared = ids_masked.ndim and len(ids_masked) == shared
    check_shape("ids_masked", ids_masked, shared if is_shared else rows, masked)
    check_ids("target", target)
    check_ids("ids_masked", ids_masked)
    _check_count("ids_masked", ids_masked, images, patch_size)
    if rows and not len(images):
        raise ValueError(f"pred has {rows} rows, but there are no images for target to index")
    check_kept(kept, *ids_masked.shape)
    check_device(pred=pred, images=images, target=target, ids_masked=ids_masked, kept=kept)
    if not 0 <= ignore_boundary <= patch_size:
        raise ValueError(f"ignore_boundary must be in 0..{patch_size} (P), not {ignore_boundary}")
    if ignore_boundary and kept is not None:
        raise ValueError("ignore_boundary and kept exclude each other: pass one of them")


def check_branches(op: str, x: Tensor, branches: int | None) -> None:
    """Raise ValueError unless `branches` divides the first axis of x."""
    if branches is not None and (branches < 1 or not x.ndim or len(x) % branches):
        raise ValueError(f"{op}: {branches} branches do not divide a tensor of {list(x.shape)}")


def check_tokens(x: Tensor, mask_token: Tensor, positions: Tensor, ids_restore: Tensor) -> None:
    """Raise ValueError unless the arguments of `assemble_tokens` fit together."""
    fits = x.ndim == 3 and ids_restore.ndim == 2 and len(x) == len(ids_restore)
    if fits:
        patches, width = ids_restore.shape[1], x.shape[2]
        fits = positions.ndim == 3 and positions.shape[::2] == (1, width)
        fits = fits and mask_token.shape == (1, 1, width)
        fits = fits and 1 <= positions.shape[1] - patches <= x.shape[1] <= positions.shape[1]
    if not fits:
        shapes = [tuple(part.shape) for part in (x, mask_token, positions, ids_restore)]
        raise ValueError(
            "assemble_tokens: shapes {}, {}, {}, {} of x, mask_token, positions and ids_restore "
            "do not fit together".format(*shapes)
        )
    check_float("x", x)
    check_ids("ids_restore", ids_restore)
    check_device(x=x, mask_token=mask_token, positions=positions, ids_restore=ids_restore)


def check_add_norm(
    x: Tensor, change: Tensor, bias: Tensor | None, weight: Tensor, norm_bias: Tensor
) -> None:
    """Raise ValueError unless the arguments of `add_norm` fit together."""
    if not x.ndim or x.shape != change.shape:
        raise ValueError(
            f"add_norm: x {list(x.shape)} and change {list(change.shape)} must have the same "
            "shape [..., D]"
        )
    check_float("x", x)
    vectors = {"weight": weight, "norm_bias": norm_bias}
    if bias is not None:
        vectors["bias"] = bias
    for name, vector in vectors.items():
        check_shape(name, vector, x.shape[-1])
    check_device(x=x, change=change, **vectors)


def check_spread(rows: Tensor, ids_keep: Tensor, ids_restore: Tensor) -> None:
    """Raise ValueError unless rows are as `spread_rows` expects them for a mask."""
    check_shape("ids_restore", ids_restore, len(ids_keep), "L")
    (batch, keep), patches = ids_keep.shape, ids_restore.shape[1]
    first = class_tokens(len(rows), batch, keep, patches)
    check_shape("rows", rows, batch * (max(first, 1) + keep) + patches, "W")
    check_float("rows", rows)
    check_ids("ids_restore", ids_restore)
    check_device(rows=rows, ids_restore=ids_restore)


def class_tokens(rows: int, batch: int, keep: int, patches: int) -> int:
    """Return the class tokens of a sample, given the number of rows as `spread_rows` takes them.

    An empty batch does not show it: 1.
    """
    return (rows - patches) // batch - keep if batch else 1


def check_latents(student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError unless `latent_l2` can compare them."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"latent_l2: student {list(student.shape)} and teacher {list(teacher.shape)} differ"
        )
    check_float("student", student)
    check_float("teacher", teacher)
    check_device(student=student, teacher=teacher)


def check_pair(first: Tensor, second: Tensor, kept: Tensor | None) -> None:
    """Raise ValueError unless `pair_l2` can compare them."""
    check_shape("first", first, "B", "M", "D")
    check_float("first", first)
    check_shape("second", second, *first.shape)
    check_dtype("second", second, first.dtype)
    check_kept(kept, *first.shape[:2])
    check_device(first=first, second=second, kept=kept)


def check_kept(kept: Tensor | None, batch: int, rows: int) -> None:
    """Raise ValueError unless kept is bool [batch, rows], or None."""
    if kept is not None:
        check_shape("kept", kept, batch, rows)
        check_dtype("kept", kept, torch.bool)


def check_qkv(qkv: Tensor, bias: Tensor | None = None) -> None:
    """Raise ValueError unless qkv is packed, [B, N, 3, h, d], and bias [3 * h * d]."""
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(f"attention: qkv must be [B, N, 3, h, d], not {list(qkv.shape)}")
    check_float("qkv", qkv)
    if bias is not None:
        check_shape("bias", bias, qkv.shape[2:].numel())
        check_float("bias", bias)
        check_device(qkv=qkv, bias=bias)


def check_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> None:
    """Raise ValueError unless the two linear layers fit together and to x [..., d]."""
    check_float("x", x)
    if not x.ndim:
        raise ValueError("mlp: x must be [..., d], not a scalar")
    check_shape("weight1", weight1, "H", x.shape[-1])
    check_shape("bias1", bias1, weight1.shape[0])
    check_shape("weight2", weight2, "d", weight1.shape[0])
    check_shape("bias2", bias2, weight2.shape[0])
    check_device(x=x, weight1=weight1, bias1=bias1, weight2=weight2, bias2=bias2)


def check_rows(x: Tensor, ids: Tensor, ids_restore: Tensor) -> None:
    """Raise ValueError unless x [B, N, D] ends with a row for each patch of a mask."""
    fits = x.ndim == 3 and ids_restore.ndim == ids.ndim == 2
    if not (fits and len(x) == len(ids_restore) == len(ids) and x.shape[1] >= ids_restore.shape[1]):
        raise ValueError(
            f"a mask of {list(ids_restore.shape)} cannot select rows of {list(x.shape)}: "
            "x must be [B, N, D] with at least as many rows N as the mask has patches"
        )
