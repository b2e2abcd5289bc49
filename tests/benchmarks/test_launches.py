"""Launches are counted: one an operation, none for views, and those of our kernels."""

import pytest
import torch

from benchmarks.launches import SMOKE, Launches, main, ordinary, resident
from fastimae.kernels import set_default_impl

X = torch.ones(4, 4)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: X + X, 1),
        (lambda: (X + 1) * 2, 2),
        (lambda: X.t().reshape(2, 8).detach(), 1),  # the transposed one is copied
        (lambda: X.view(2, 8)[:, 0].unsqueeze(1), 0),
        (lambda: torch.empty_like(X), 0),
        (lambda: torch.zeros(3), 1),
        (lambda: X.clone().add_(1), 2),
        (lambda: torch._foreach_add_([torch.empty(()) for _ in range(111)], 1), 2),
        (lambda: torch.stack([X] * 129), 2),
        (lambda: torch.nn.functional.linear(X, X, X[0]), 1),
    ],
)
def test_what_an_operation_launches(work, expected):
    with Launches() as counter:
        work()
    assert counter.of("bookkeeping") == expected


@pytest.fixture
def as_before():
    yield
    set_default_impl("auto")


def test_both_steps_compute_the_same_and_the_resident_one_has_less_around_it(as_before):
    set_default_impl("auto", attention="triton", mlp="triton")
    one, other = ordinary(SMOKE), resident(SMOKE)
    for part in ("forward", "backward", "update"):
        assert one.of(part) == other.of(part) > 0, part
    assert other.of("batch") < one.of("batch") and other.of("bookkeeping") < one.of("bookkeeping")
    assert one.counts["forward", "_random_masking_kernel"] == 1
    assert other.counts["batch", "_random_masking_kernel"] == 0
    assert one.counts["update", "_kernel"] == 1, "AdamW is one launch where sizes allow it"


def test_the_command_prints_both(as_before, capsys):
    assert main(["--smoke", "--accum_iter", "2"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split()[1] for row in rows] == ["step", "---", "ordinary", "resident"]
