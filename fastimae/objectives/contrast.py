"""Contrast of two views, place by place: InfoNCE (C-MAE, equations 9 and 10) and BYOL's loss.

B = samples of this process, C = samples of all processes, T = places (tokens of an image),
P = width of the heads' output.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def directions(x: Tensor) -> Tensor:
    """Scale vectors [..., P] to unit length: computed in fp32 at least, returned as x is."""
    return F.normalize(at_least_fp32(x), dim=-1).to(x.dtype)


def info_nce(online: Tensor, target: Tensor, first: int, temperature: float) -> Tensor:
    """Compute InfoNCE of each token of the online view (equation 9).

    online: directions [B, T, P]. target: directions [C, T, P] of the samples of all processes, of
    which this process's begin at `first`. Negatives are the tokens at the same place in all other
    images. The paper does not say which it takes; MoCo v3, to which it refers, contrasts a sample
    with the others of the global batch. Products are in the inputs' dtype, the softmax in fp32 at
    least. Returns losses [B, T].
    """
    batch, places, _ = online.shape
    logits_TBC = torch.bmm(online.transpose(0, 1), target.permute(1, 2, 0))
    logits_NC = at_least_fp32(logits_TBC.flatten(0, 1)) / temperature
    own_N = torch.arange(first, first + batch, device=online.device).repeat(places)
    return F.cross_entropy(logits_NC, own_N, reduction="none").view(places, batch).t()


def cosines(online: Tensor, target: Tensor) -> Tensor:
    """Return the cosines of pairs of directions [B, T, P]: at least fp32 [B, T]."""
    return (at_least_fp32(online) * at_least_fp32(target)).sum(-1)


def byol(cosines: Tensor) -> Tensor:
    """Compute BYOL's loss of cosines: the squared distance of the directions. It has no negatives.

    The paper only names it (section 3, table 4); BYOL, equation 2.
    """
    return 2 - 2 * cosines


def spread(target: Tensor) -> Tensor:
    """Return how different images are: 1 - |mean direction|^2, fp32, averaged over places.

    target: directions [B, T, P] of this process; the mean is that of all. 0 where a model has
    collapsed, and gives the same output for every image.
    """
    mean_1TP = at_least_fp32(target).mean(0, keepdim=True)
    mean_TP = gather_ranks(mean_1TP)[0].mean(0)
    return 1 - mean_TP.square().sum(-1).mean()


def gather_ranks(rows: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes, by rank, and where this process's begin among them.

    rows: [B, ...], as many in each process. No gradient passes. A CUDA graph can record it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows.detach(), 0
    joined = rows.new_empty(dist.get_world_size() * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(joined, rows.detach().contiguous())
    return joined, dist.get_rank() * len(rows)


def at_least_fp32(x: Tensor) -> Tensor:
    """Convert bf16 and fp16 to fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
