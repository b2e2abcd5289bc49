"""The mixing ratio: the right quantile, the same draw by every implementation, one kernel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.kernels import mixing_ratio
from fastimae.kernels.mixing_ratio import LEVELS

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6)
IMPLS = ["torch", "triton"]
UNIFORM = torch.linspace(0, 1, LEVELS + 1)
ROUNDING = {"rtol": 0, "atol": 1.2e-7}
"""A unit in the last place of lambda, which 1 - lambda preserves."""


def word(key):
    """Compute Philox4x32-10's first word at (0, 0, 0, 2) with Python's integers."""
    words, keys = [0, 0, 0, 2], [key % 2**32, (key >> 32) % 2**32]
    for _ in range(10):
        a, b = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [b >> 32 ^ words[1] ^ keys[0], b % 2**32, a >> 32 ^ words[3] ^ keys[1], a % 2**32]
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    return words[0]


@pytest.mark.parametrize("impl", IMPLS)
@given(keys=KEYS)
@settings(max_examples=40)
def test_it_is_the_quantile_of_a_uniform_draw(impl, keys):
    quantiles = UNIFORM**2 * (3 - 2 * UNIFORM)
    place = np.array([word(key) for key in keys]) / 2**20
    drawn = np.interp(place, np.arange(LEVELS + 1), quantiles.double().numpy())
    got = mixing_ratio(torch.tensor(keys), quantiles, impl=impl)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, np.minimum(drawn, 1 - drawn), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("impl", IMPLS)
def test_the_position_is_not_rounded(impl):
    """Between quantiles 0 and 1 a draw equals its position, whose 20 bits fit into fp32."""
    keys = torch.arange(500) * 104729 - 2**61
    share = torch.tensor([word(key) % 2**20 for key in keys.tolist()]) / 2**20
    zigzag = (torch.arange(LEVELS + 1) % 2).float()
    got = mixing_ratio(keys, zigzag, impl=impl)
    assert torch.equal(got, torch.minimum(share, 1 - share))


def test_triton_draws_the_same():
    keys = torch.randint(-(2**62), 2**62, (300,))  # more than two programs, the last ragged
    skewed = UNIFORM**3
    both = [mixing_ratio(keys, skewed, impl=impl) for impl in IMPLS]
    torch.testing.assert_close(*both, **ROUNDING)
    assert both[0].min() >= 0 and both[0].max() <= 0.5


@pytest.mark.parametrize("impl", IMPLS)
def test_a_key_has_its_ratio_in_any_batch(impl):
    keys = torch.randint(2**62, (7,))
    together = mixing_ratio(keys, UNIFORM, impl=impl)
    alone = torch.cat([mixing_ratio(key, UNIFORM, impl=impl) for key in keys.split(1)])
    assert torch.equal(together, alone)
    strided = mixing_ratio(torch.stack([keys, keys + 1], 1)[:, 0], UNIFORM, impl=impl)
    assert torch.equal(together, strided)
    repeated = mixing_ratio(keys[3:4].expand(5), UNIFORM, impl=impl)
    assert repeated.is_contiguous() and torch.equal(repeated, together[3].repeat(5))
    spaced = torch.stack([UNIFORM, UNIFORM.flip(0)], 1)[:, 0]
    assert torch.equal(together, mixing_ratio(keys, spaced, impl=impl))


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl):
    assert mixing_ratio(torch.empty(0, dtype=torch.int64), UNIFORM, impl=impl).shape == (0,)


@pytest.mark.parametrize("quantiles", [UNIFORM[1:], UNIFORM[None], UNIFORM.double()])
def test_other_quantiles_are_refused(quantiles):
    with pytest.raises(ValueError, match=r"quantiles must be float32 \[4097\], not"):
        mixing_ratio(torch.arange(2), quantiles)


def test_registration():
    torch.library.opcheck(torch.ops.fastimae.mixing_ratio, (torch.arange(3), UNIFORM))


@pytest.mark.parametrize("impl", IMPLS)
def test_compiled(impl):
    compiled = torch.compile(mixing_ratio, fullgraph=True, backend="aot_eager")
    keys = torch.arange(5) - 2
    expected = mixing_ratio(keys, UNIFORM, impl="torch")
    torch.testing.assert_close(compiled(keys, UNIFORM, impl=impl), expected, **ROUNDING)
