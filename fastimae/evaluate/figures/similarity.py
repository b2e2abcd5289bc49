"""Linear CKA, a similarity of two representations of the same images, from sums over the images.

Kornblith et al. (2019): CKA = HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), with K = x x' and L = y y'.
The Gram matrices K and L have a row for each row of x and y; everything HSIC needs of them is in
sums of products of the columns, so any number of rows takes O(D^2) memory.

R = rows, D and E = widths of x and y.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Similarity:
    """Sums over pairs of rows x [R, D] and y [R, E], and their CKA. In float64."""

    def __init__(self) -> None:
        """Begin without rows."""
        self.rows = 0
        self._pivots: tuple[Tensor, Tensor] | None = None
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows x [R, D] and y [R, E]. Raises ValueError if their numbers differ."""
        if len(x) != len(y):
            raise ValueError(f"x has {len(x)} rows, y has {len(y)}")
        x, y = x.double(), y.double()
        # CKA has no origin; with one far from the rows, differences of large sums lose digits.
        self._pivots = self._pivots or (x.mean(0), y.mean(0))
        x, y = (_extended(rows - pivot) for rows, pivot in zip((x, y), self._pivots, strict=True))
        new = x.T @ x, x.T @ y, y.T @ y
        self._sums = new if self._sums is None else tuple(map(torch.add, self._sums, new))
        self.rows += len(x)

    def cka(self, *, debiased: bool = False) -> float:
        """Return the CKA of all rows so far; nan where x or y do not vary.

        debiased: with the estimate of HSIC that is unbiased (see `hsic`), which needs 4 rows. The
        other one is too large while rows are few: with fewer than D, it is near 1 for any x and y.
        """
        if self._sums is None:
            return float("nan")
        xx, xy, yy = (float(hsic(sums, debiased=debiased)) for sums in self._sums)
        return xy / (xx * yy) ** 0.5 if min(xx, yy) > 0 else float("nan")


def hsic(sums: Tensor, *, debiased: bool) -> Tensor:
    """Return an estimate of HSIC, float64 scalar, up to a factor that CKA does not depend on.

    sums: float64 [D + 2, E + 2], of products of [1, x, |x|^2] with [1, y, |y|^2]. The biased one is
    |x' y|_F^2 of centred columns. debiased: HSIC_1 of Song et al. (2012, equation 5), which leaves
    out the diagonals of K and L, of all rows at once: the average over batches by Nguyen et al.
    (2021) estimates the same, less exactly.
    """
    n, products_DE = sums[0, 0], sums[1:-1, 1:-1]
    x_D, y_E = sums[1:-1, 0], sums[0, 1:-1]
    if not debiased:
        return (products_DE - torch.outer(x_D, y_E) / n).square().sum()
    diagonals = sums[-1, -1]
    trace = products_DE.square().sum() - diagonals
    totals = (x_D @ x_D - sums[-1, 0]) * (y_E @ y_E - sums[0, -1])
    # 1' K L 1: row k of K sums to x_k . x_D - |x_k|^2 without its diagonal.
    cross = x_D @ products_DE @ y_E - x_D @ sums[1:-1, -1] - sums[-1, 1:-1] @ y_E + diagonals
    return (trace + totals / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))


def _extended(rows: Tensor) -> Tensor:
    """Return [1, x, |x|^2] for rows x [R, D]: [R, D + 2]."""
    lengths = rows.square().sum(1, keepdim=True)
    return torch.cat([torch.ones_like(lengths), rows, lengths], dim=1)
