"""Averaging gradients during backward: the numbers, and the order of communication.

The other process is a fake with twice this one's gradients, added only when it is waited for.
Real processes: test_averaging.py.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.engine import buckets as module
from fastimae.engine.buckets import ALIGNMENT, Buckets

FLAT_BYTES = 4


class Network:
    """A fake of torch.distributed that notes what is sent and waited for."""

    ReduceOp = torch.distributed.ReduceOp

    def __init__(self, backend="gloo"):
        self.events, self.backend = [], backend

    def get_world_size(self):
        return 2

    def get_backend(self):
        return self.backend

    def all_reduce(self, flat, how, async_op):
        assert async_op and flat.dtype == torch.float32
        number = sum(event[0] == "send" for event in self.events)
        self.events.append(("send", number))
        share = 2 if how == self.ReduceOp.AVG else 1
        return Work(self.events, number, flat, flat.clone().mul_(3).div_(share))


class Work:
    def __init__(self, events, number, flat, result):
        self.events, self.number, self.flat, self.result = events, number, flat, result

    def wait(self):
        self.events.append(("wait", self.number))
        self.flat.copy_(self.result)


@pytest.fixture
def network(monkeypatch):
    """Return a function that installs a fake of a backend."""

    def install(backend="gloo"):
        fake = Network(backend)
        monkeypatch.setattr(module, "dist", fake)
        return fake

    return install


def make_leaves(sizes, dtype=torch.float32):
    return [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]


def loss_of(leaves):
    """Use the leaves in order; the gradient of each is twice the leaf."""
    return torch.stack([leaf.float().square().sum() for leaf in leaves]).sum()


def noted(leaves, network):
    """Note when a leaf's gradient arrives, before the buckets see it."""
    for number, leaf in enumerate(leaves):
        event = ("gradient", number)
        leaf.register_post_accumulate_grad_hook(lambda _, e=event: network.events.append(e))


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("accumulated", [1, 3])
def test_means_are_of_sums_in_fp32(backend, dtype, accumulated, network):
    """Whatever the gradients' format, for several steps in a row; and `grad` is freed."""
    network(backend)
    leaves = make_leaves([(3, 5), (7,), (40,)], dtype)
    buckets = Buckets(leaves, first_bytes=1, full_bytes=200)
    for step in range(2):
        expected = [torch.zeros(leaf.shape) for leaf in leaves]
        for number in range(accumulated):
            factor = 1 + 2**-7 * (number + step)
            loss = loss_of(leaves) * factor
            grads = torch.autograd.grad(loss, leaves, retain_graph=True)
            expected = [old + grad.float() for old, grad in zip(expected, grads, strict=True)]
            with buckets.backward(add=number > 0, last=number == accumulated - 1):
                loss.backward()
        for leaf, total in zip(leaves, expected, strict=True):
            assert leaf.grad is None
            assert buckets.means[leaf].dtype == torch.float32
            assert torch.equal(buckets.means[leaf], total * 3 / 2)


def test_nothing_is_sent_before_the_last_pass(network):
    fake = network()
    leaves = make_leaves([4, 4])
    buckets = Buckets(leaves, first_bytes=1, full_bytes=1)
    for last in (False, False, True):
        assert fake.events == []
        with buckets.backward(add=True, last=last):
            loss_of(leaves).backward()
    assert [event for event in fake.events if event[0] == "send"] == [("send", 0), ("send", 1)]


def test_a_leaf_without_gradient_counts_as_zeros(network):
    """In a step of one pass; in one of several, it adds nothing."""
    network()
    leaves = make_leaves([4, 5, 6])
    buckets = Buckets(leaves, first_bytes=1, full_bytes=10**6)
    for passes in ([{0, 1, 2}], [{0, 2}], [{1}], [set()], [{0, 1}, {1, 2}], [{0}, set()]):
        for number, used in enumerate(passes):
            with buckets.backward(add=number > 0, last=number == len(passes) - 1):
                if used:
                    loss_of([leaves[i] for i in used]).backward()
        for i, leaf in enumerate(leaves):
            count = sum(i in used for used in passes)
            assert torch.equal(buckets.means[leaf], 2 * count * leaf.detach() * 3 / 2), passes


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    first=st.integers(1, 2000),
    full=st.integers(1, 4000),
    order=st.randoms(),
)
@settings(max_examples=60, deadline=None)
def test_the_order_is_always_the_same(sizes, first, full, order):
    """In whatever order gradients arrive, buckets are sent in theirs, each complete. Only those
    after an incomplete one wait, and nothing is read before all have arrived."""
    with pytest.MonkeyPatch.context() as patch:
        fake = Network()
        patch.setattr(module, "dist", fake)
        leaves = make_leaves(sizes)
        noted(leaves, fake)
        buckets = Buckets(leaves, first_bytes=first, full_bytes=full)
        own = [[_number(leaf, leaves) for leaf in bucket.leaves] for bucket in buckets.buckets]
        arrivals = order.sample(range(len(leaves)), len(leaves))
        with buckets.backward():
            for number in arrivals:
                leaves[number].sum().backward()
    come, sent = set(), 0
    expected = []
    for number in arrivals:
        come.add(number)
        expected.append(("gradient", number))
        while sent < len(own) and come >= set(own[sent]):
            expected.append(("send", sent))
            sent += 1
    assert fake.events == expected + [("wait", number) for number in range(len(own))]


def _number(leaf, leaves):
    return next(i for i, other in enumerate(leaves) if other is leaf)


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    first=st.integers(1, 2000),
    full=st.integers(1, 4000),
)
@settings(max_examples=60, deadline=None)
def test_buckets_share_out_the_leaves_from_the_last_one(sizes, first, full):
    """Each is full only with its last leaf; gradients are aligned and do not overlap."""
    leaves = make_leaves(sizes)
    made = module._make_buckets(leaves[::-1], first, full)
    flattened = [leaf for bucket in made for leaf in bucket.leaves]
    assert list(map(id, flattened)) == list(map(id, leaves[::-1]))
    for number, bucket in enumerate(made):
        wanted, starts = full if number else first, []
        for total, leaf in zip(bucket.sums, bucket.leaves, strict=True):
            assert total.shape == leaf.shape
            starts.append(total.storage_offset())
        ends = [s + leaf.numel() for s, leaf in zip(starts, bucket.leaves, strict=True)]
        assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
        assert all(start % ALIGNMENT == 0 for start in starts) and ends[-1] <= len(bucket.flat)
        assert starts[-1] * FLAT_BYTES < wanted
        assert bucket is made[-1] or len(bucket.flat) * FLAT_BYTES >= wanted


def test_a_pass_that_fails_leaves_nothing(network):
    """Neither its sums, nor reductions that nothing waits for."""
    fake = network()
    leaves = make_leaves([4, 4, 4])
    buckets = Buckets(leaves, first_bytes=1, full_bytes=1)
    with buckets.backward(last=False):
        loss_of(leaves).backward()
    with pytest.raises(ZeroDivisionError), buckets.backward():
        loss_of(leaves[::2]).backward()  # the last bucket is sent, the first one waits
        raise ZeroDivisionError
    fake.events.clear()
    with buckets.backward():
        loss_of(leaves).backward()
    for leaf in leaves:
        assert torch.equal(buckets.means[leaf], 2 * leaf.detach() * 3 / 2)
    assert fake.events == [(what, number) for what in ("send", "wait") for number in range(3)]


def test_sums_can_be_averaged_after_all_passes(network):
    """All passes are then alike; the order of sending stays the same."""
    fake = network()
    leaves = make_leaves([4, 5])
    buckets = Buckets(leaves, first_bytes=1, full_bytes=1)
    for _ in range(3):
        with buckets.backward(add=True, last=False):
            loss_of(leaves).backward()
    assert fake.events == []
    buckets.average()
    for leaf in leaves:
        assert torch.equal(buckets.means[leaf], 3 * 2 * leaf.detach() * 3 / 2)
    assert fake.events == [("send", 0), ("send", 1), ("wait", 0), ("wait", 1)]


def test_a_second_gradient_in_one_pass_is_an_error(network):
    """Its bucket may have been sent without it."""
    network()
    leaves = make_leaves([4])
    buckets = Buckets(leaves)
    with pytest.raises(RuntimeError, match="second gradient"), buckets.backward():
        leaves[0].sum().backward()
        leaves[0].sum().backward()
    with pytest.raises(RuntimeError, match="too late"):
        leaves[0].sum().backward()
