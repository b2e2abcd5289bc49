"""RankMe against its equation with singular values from NumPy, and where it is known."""

import numpy as np
import pytest
import torch

from fastimae.evaluate.rankme import rankme


@pytest.mark.parametrize("shape", [(300, 24), (24, 300), (5, 5)])
def test_it_is_the_papers_equation(shape):
    """Columns of many sizes: the smallest singular values are 1e-6 of the largest."""
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=shape) * np.logspace(0, -6, shape[1]) + 0.3).astype(np.float32)
    sigma = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    p = sigma / np.abs(sigma).sum() + 1e-7
    expected = np.exp(-(p * np.log(p)).sum())
    assert rankme(torch.from_numpy(rows)) == pytest.approx(expected, rel=1e-5)


def test_it_counts_directions_of_equal_size():
    assert rankme(7 * torch.eye(40)[:, :12]) == pytest.approx(12, rel=1e-4)
    collapsed = torch.randn(50, 1) * torch.randn(1, 16)
    assert rankme(collapsed) == pytest.approx(1, rel=1e-4)


def test_features_that_cannot_have_a_rank_are_an_error():
    with pytest.raises(ValueError, match="no features"):
        rankme(torch.empty(0, 4))
    with pytest.raises(ValueError, match="rows"):
        rankme(torch.ones(4))
    with pytest.raises(torch.linalg.LinAlgError):
        rankme(torch.full((4, 3), torch.nan))
