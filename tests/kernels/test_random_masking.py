"""Masks: right sizes, uniform, a function of the key alone in every implementation, and Philox."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fastimae.kernels import Mask, random_masking
from fastimae.kernels.random_masking import philox

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6)
IMPLS = ["torch", "triton"]


def assert_equal(mask, other):
    for name, a, b in zip(Mask._fields, mask, other, strict=True):
        assert a.dtype == b.dtype and a.is_contiguous() and b.is_contiguous()
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [  # known answers of Random123, restricted to counters of the form (c, 0, 0, stream)
        (0, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ],
)
def test_philox_known_answer(key, counter, words):
    got = philox(torch.tensor([key]), torch.tensor([counter[0]]), counter[1])
    assert tuple(int(word) for word in got) == words


@given(
    key=st.integers(-(2**63), 2**63 - 1),
    counter=st.integers(0, 2**32 - 1),
    stream=st.integers(0, 3),
)
def test_philox_equals_integer_arithmetic(key, counter, stream):
    words = [counter, 0, 0, stream]
    keys = [key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF]
    for _ in range(10):
        a, b = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [
            (b >> 32) ^ words[1] ^ keys[0],
            b % 2**32,
            (a >> 32) ^ words[3] ^ keys[1],
            a % 2**32,
        ]
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    got = philox(torch.tensor([key]), torch.tensor([counter]), stream)
    assert [int(word) for word in got] == words


@settings(max_examples=50)
@given(
    keys=KEYS,
    units=st.tuples(st.integers(1, 6), st.integers(2, 6)),
    unit=st.integers(1, 3),
    ratio=st.floats(0.2, 0.8),
)
def test_mask_is_consistent(keys, units, unit, ratio):
    keep_units = int(units[0] * units[1] * (1 - ratio))
    if keep_units == 0:
        return
    grid = (units[0] * unit, units[1] * unit)
    mask = random_masking(torch.tensor(keys), grid, ratio, unit)
    patches, keep = grid[0] * grid[1], keep_units * unit**2
    assert mask.ids_keep.shape == (len(keys), keep)
    for row in range(len(keys)):
        visible = [i for i in range(patches) if mask.mask[row, i] == 0]
        hidden = [i for i in range(patches) if mask.mask[row, i] == 1]
        assert mask.ids_keep[row].tolist() == visible
        assert mask.ids_masked[row].tolist() == hidden
        stacked = visible + hidden
        assert [stacked[i] for i in mask.ids_restore[row]] == list(range(patches))
        squares = mask.mask[row].view(units[0], unit, units[1], unit).transpose(1, 2).flatten(2)
        assert (squares.min(-1).values == squares.max(-1).values).all()
    again = Mask.from_bool(mask.mask.bool())
    assert_equal(mask, again)


@settings(max_examples=50)
@given(
    keys=KEYS,
    units=st.tuples(st.integers(1, 16), st.integers(2, 16)),
    unit=st.integers(1, 4),
    ratio=st.floats(0.05, 0.95),
)
def test_triton_draws_the_same_mask(keys, units, unit, ratio):
    if not 0 < int(units[0] * units[1] * (1 - ratio)) < units[0] * units[1]:
        return
    args = torch.tensor(keys), (units[0] * unit, units[1] * unit), ratio, unit
    assert_equal(random_masking(*args, impl="triton"), random_masking(*args, impl="torch"))


@pytest.mark.parametrize("impl", IMPLS)
def test_ties_go_to_the_lower_unit(impl):
    # Units 927 and 3221 of key 444 draw the same word: ranks 982 and 983 of 4096.
    mask = random_masking(torch.tensor([444]), (64, 64), 1 - 982.5 / 4096, impl=impl)
    assert mask.ids_keep.shape == (1, 982)
    assert mask.mask[0, 927] == 0 and mask.mask[0, 3221] == 1


@pytest.mark.parametrize("impl", IMPLS)
@given(keys=KEYS, split=st.integers(0, 6))
@settings(max_examples=20)
def test_a_sample_has_its_mask_in_any_batch(impl, keys, split):
    together = random_masking(torch.tensor(keys), (4, 4), 0.75, impl=impl)
    key = torch.tensor(keys * 2)[::2]  # strided
    parts = [random_masking(k, (4, 4), 0.75, impl=impl) for k in (key[:split], key[split:])]
    order = [keys.index(k) for k in key.tolist()]
    assert_equal(Mask(*map(torch.cat, zip(*parts, strict=True))), [p[order] for p in together])


def test_repeat_stacks_copies():
    mask = random_masking(torch.arange(3), (4, 4), 0.75)
    assert_equal(mask.repeat(2), random_masking(torch.arange(3).repeat(2), (4, 4), 0.75))


def test_every_subset_is_equally_likely():
    keys = torch.arange(20_000) * 7919
    mask = random_masking(keys, (2, 3), 0.5)
    subsets = (mask.mask.long() * 2 ** torch.arange(6)).sum(1)
    counts = torch.bincount(subsets, minlength=64)
    counts = counts[counts > 0]
    assert len(counts) == 20  # 6 choose 3
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_sizes_are_maes():
    mask = random_masking(torch.arange(2), (14, 14), 0.75)
    assert mask.ids_keep.shape == (2, 49) and mask.mask.sum(1).tolist() == [147, 147]


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl):
    mask = random_masking(torch.empty(0, dtype=torch.int64), (4, 4), 0.75, impl=impl)
    assert [part.shape for part in mask] == [(0, 4), (0, 16), (0, 16), (0, 12)]


@pytest.mark.parametrize(
    ("grid", "ratio", "unit", "words"),
    [
        ((4, 6), 0.75, 4, "does not divide the grid 4x6"),
        ((2, 2), 0.9, 1, "leaves 0 of 4"),
        ((2, 2), 0.0, 1, "leaves 4 of 4"),
    ],
)
def test_impossible_masks_are_refused(grid, ratio, unit, words):
    with pytest.raises(ValueError, match=words):
        random_masking(torch.arange(2), grid, ratio, unit)


def test_ragged_masks_are_refused():
    with pytest.raises(ValueError, match="same number of masked patches"):
        Mask.from_bool(torch.tensor([[True, False], [True, True]]))


def test_large_grids_have_no_kernel():
    key = torch.arange(1)
    assert random_masking(key, (65, 64), 0.75).ids_keep.shape == (1, 1040)
    with pytest.raises(ValueError, match="cannot run: more than 4096 patches"):
        random_masking(key, (65, 64), 0.75, impl="triton")


def test_registration():
    torch.library.opcheck(torch.ops.fastimae.random_masking, (torch.arange(3), 4, 6, 2, 8))


@pytest.mark.parametrize("impl", IMPLS)
def test_compiled(impl):
    compiled = torch.compile(random_masking, fullgraph=True, backend="aot_eager")
    args = torch.arange(5), (4, 6), 0.5, 2
    assert_equal(compiled(*args, impl=impl), random_masking(*args, impl="torch"))
