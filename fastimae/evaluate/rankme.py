"""RankMe, the effective rank of features (Garrido et al. 2023).

N = images, D = feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels.checks import check_shape

EPSILON = 1e-7
"""The paper's, for float32."""


@torch.no_grad()
def rankme(rows: Tensor) -> float:
    """Return RankMe of features [N, D], from 1 to about min(N, D): equation 1 of the paper.

    It is exp(-sum p log p) over p = sigma / sum(sigma) + EPSILON, where sigma are the min(N, D)
    singular values of the rows as they are, not centred. They are computed in float64 as roots of
    the eigenvalues of the rows' [D, D] products, to about 1e-8 of the largest. Raises ValueError
    for other shapes or no rows, and torch's LinAlgError for features that are not finite.
    """
    check_shape("rows", rows, "N", "D")
    if not len(rows):
        raise ValueError("RankMe of no features is undefined")
    wide = rows.double()
    squares = torch.linalg.eigvalsh(wide.T @ wide).clamp(min=0)[-min(rows.shape) :]
    sigma = squares.sqrt()
    p = sigma / sigma.sum() + EPSILON
    return float((-p * p.log()).sum().exp())
