"""Prefetching: batches are complete in any timing, and reading ahead has no other effect."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
from fake_cuda import Event, FakeCuda, Memory, Stream

from fastimae.loaders import Batch, DevicePrefetch, create_loader
from fastimae.loaders.nested import mapped, tensors_in
from fastimae.loaders.prefetch import CopyQueue

SIZE, OTHERS = 3, 20


class Counting:
    """A loader of batches filled with their number, in memory that is used again."""

    def __init__(self, count=12):
        self.count, self.epoch, self.at, self.closed = count, 0, 0, 0
        self.memory = Memory(scribble=True)

    def __len__(self):
        return self.count

    def __iter__(self):
        try:
            while self.at < self.count:
                self.at += 1
                yield self._batch(100 * self.epoch + self.at)
        finally:
            self.closed += 1

    def _batch(self, value):
        tensors = {field.name: self._filled(value) for field in dataclasses.fields(Batch)}
        return Batch(**tensors)

    def _filled(self, value):
        tensor = self.memory.tensor((SIZE,))
        self.memory.raw(tensor)[:] = value
        return tensor

    def set_epoch(self, epoch):
        self.epoch, self.at = epoch, 0

    def state_dict(self):
        return {"epoch": self.epoch, "step": self.at}

    def load_state_dict(self, state):
        self.epoch, self.at = state["epoch"], state["step"]

    def close(self):
        self.set_epoch(-1)


@dataclasses.dataclass(kw_only=True)
class Objects:
    """A batch as detection has it: any number of objects in an image."""

    index: torch.Tensor
    targets: list
    key: None = None


class CountingObjects(Counting):
    """The same with batches of nested tensors."""

    def _batch(self, value):
        targets = [{"boxes": self._filled(value), "names": ["a"]} for _ in range(value % 3)]
        return Objects(index=self._filled(value), targets=targets)


def prefetching(seed=0, depth=1, cuda=FakeCuda, loader=Counting):
    """Make a prefetch on a model of a GPU; return both."""
    prefetch = DevicePrefetch(loader(), "cpu", depth=depth)
    model = cuda(prefetch.loader.memory, seed)
    prefetch._copies = CopyQueue(model)
    return prefetch, model


def values_seen(seed, depth=1, cuda=FakeCuda, stop=12, loader=Counting):
    """Return what steps on the main stream read: batches 1 to `stop`, and memory of their own."""
    prefetch, gpu = prefetching(seed, depth, cuda, loader)
    seen = []

    def step(batch):
        """Read a batch, then use memory of its own for a while."""
        buffers = [gpu.device.raw(tensor) for tensor in tensors_in(batch)]
        gpu.main.add(lambda: seen.extend(np.unique(buffers).tolist()))
        own = gpu.device.raw(gpu.empty_like(batch.index))
        gpu.main.add(lambda: own.fill(-1))
        gpu.main.add(lambda: seen.extend(np.unique(own).tolist()))

    for number, batch in enumerate(prefetch, 1):
        step(batch)
        gpu.advance(gpu.random.randrange(60))
        if number == stop:
            break
    del batch
    others = [gpu.device.tensor((SIZE,)) for _ in range(OTHERS)]  # for work after the loop
    for tensor in others:
        own = gpu.device.raw(tensor)
        gpu.main.add(lambda own=own: own.fill(-1))
        gpu.advance(gpu.random.randrange(5))
        gpu.main.add(lambda own=own: seen.extend(np.unique(own).tolist()))
    assert gpu.finish()
    return seen


def expected(stop=12):
    return [value for number in range(1, stop + 1) for value in (number, -1)] + [-1] * OTHERS


@pytest.mark.parametrize("loader", [Counting, CountingObjects])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("stop", [12, 5])
def test_steps_see_their_batches_whatever_the_timing(depth, stop, loader):
    for seed in range(100):
        assert values_seen(seed, depth, stop=stop, loader=loader) == expected(stop)


class NoWaiting(FakeCuda):
    """The caller does not wait for copies."""

    def current(self):
        self.main.wait_event = lambda event: None
        return self.main


class HastyCopies(FakeCuda):
    """Copies do not wait for earlier work of the caller."""

    def __init__(self, host, seed):
        super().__init__(host, seed)
        self.copying.wait_stream = lambda other: None


class ForgottenSources(FakeCuda):
    """Sources are released before they have been read."""

    def __init__(self, host, seed):
        super().__init__(host, seed)
        record = self.copying.record_event
        self.copying.record_event = lambda: Premature(record())


class Premature(Event):
    def __init__(self, event):
        self.event = event

    happened = property(lambda self: self.event.happened)

    def query(self):
        return True


@pytest.mark.parametrize("mistake", [NoWaiting, HastyCopies, ForgottenSources])
def test_the_model_notices_a_missing_order(mistake):
    assert any(values_seen(seed, cuda=mistake) != expected() for seed in range(20))


def test_what_is_on_the_device_already_stays_where_it_is():
    prefetch, gpu = prefetching()
    make = prefetch.loader._batch
    there = [gpu.device.tensor((SIZE,)) for _ in range(prefetch.loader.count)]

    def batch(value):
        gpu.device.raw(there[value - 1])[:] = -value
        return dataclasses.replace(make(value), images=there[value - 1])

    prefetch.loader._batch = batch
    for number, got in enumerate(prefetch, 1):
        assert got.images is there[number - 1] and gpu.holds(got.labels)
        assert gpu.finish()
        assert gpu.device.raw(got.images).tolist() == [-number] * SIZE
        assert gpu.device.raw(got.labels).tolist() == [number] * SIZE


def test_the_next_copy_runs_while_the_step_does():
    prefetch, gpu = prefetching()
    batches = iter(prefetch)
    for number in range(1, 6):
        copied = gpu.device.raw(next(batches).index)
        gpu.finish()
        assert (copied == number).all()
        # The main stream has got no work since, so the next batch did not wait for it.
        assert any((b.view(int) == number + 1).all() for b in gpu.device.at.values())


def test_memory_does_not_grow_when_the_host_is_ahead():
    """The device does nothing at all; the caller holds one batch, and two more are being copied."""
    prefetch, gpu = prefetching()
    for batch in prefetch:
        assert len(gpu.device.at) <= 3 * len(dataclasses.fields(batch))


@pytest.mark.parametrize("depth", [1, 2, 20])
def test_state_is_that_of_the_batches_handed_out(depth):
    prefetch, gpu = prefetching(depth=depth)
    assert prefetch.state_dict() == {"epoch": 0, "step": 0}
    for number, _ in enumerate(prefetch, 1):
        assert prefetch.state_dict() == {"epoch": 0, "step": number}
        if number == 5:
            break
    assert prefetch.state_dict() == {"epoch": 0, "step": 5} and prefetch.loader.closed == 1
    rest = [gpu.device.raw(batch.index).copy() for batch in prefetch if gpu.finish()]
    assert [int(value[0]) for value in rest] == list(range(6, 13))
    assert prefetch.state_dict() == {"epoch": 0, "step": 12} and list(prefetch) == []


def test_going_elsewhere_ends_the_iteration():
    prefetch, _ = prefetching()
    for go in (
        lambda: prefetch.set_epoch(3),
        lambda: prefetch.load_state_dict({"epoch": 3, "step": 0}),
    ):
        batches = iter(prefetch)
        next(batches)
        go()
        assert next(batches, None) is None
        assert prefetch.state_dict() == {"epoch": 3, "step": 0} and prefetch.epoch == 3
    first, second = iter(prefetch), iter(prefetch)
    next(second)
    assert next(first, None) is None
    with prefetch:
        pass
    assert next(second, None) is None and prefetch.epoch == -1


def test_an_error_of_the_loader_reaches_the_caller(monkeypatch):
    prefetch, gpu = prefetching()

    def fail(value):
        if value == 4:
            raise ZeroDivisionError("in the loader")
        return Counting._batch(prefetch.loader, value)

    monkeypatch.setattr(prefetch.loader, "_batch", fail)
    with pytest.raises(ZeroDivisionError, match="in the loader"):
        list(prefetch)
    assert prefetch.state_dict()["step"] == 2 and gpu.finish()


def test_closing_waits_for_pending_copies():
    prefetch, gpu = prefetching()
    next(iter(prefetch))
    assert gpu.copying.queue
    prefetch.close()
    assert not gpu.copying.queue


@pytest.mark.parametrize("back_end", ["pillow-3", "folder-2"])
def test_batches_pass_through_on_the_cpu(data, back_end, resources):
    before = resources.at_rest()
    with data.loader(back_end) as loader:
        batches = list(loader)
    with DevicePrefetch(data.loader(back_end), "cpu") as prefetch:
        opened = resources.at_rest()
        assert len(prefetch) == len(batches)
        first = next(iter(prefetch))
        assert prefetch.state_dict()["step"] == 1
        assert resources.settle_at(opened)
        assert data.same([first, *prefetch], batches)
        prefetch.set_epoch(1)
        assert len(list(prefetch)) == len(batches) and prefetch.report() == {"bad_samples": 0}
    assert resources.settle_at(before)


def test_fake_streams_wait():
    """Test of the model itself: work behind an event is done after it, in order."""
    streams, done = [], []
    one, two = Stream(streams), Stream(streams)
    one.add(lambda: done.append("one"))
    two.wait_stream(one)
    two.add(lambda: done.append("two"))
    one.add(lambda: done.append("later"))
    assert not two.advance() and one.advance() and one.advance()
    while two.advance():
        pass
    assert done == ["one", "two"] and one.queue


def test_an_example_is_on_the_device():
    with create_loader(synthetic=True, batch_size=4, input_size=(8, 8), mix_group=0) as loader:
        assert DevicePrefetch(loader, "meta").example().images.is_meta


def test_nested_values_keep_their_form():
    class Pair(NamedTuple):
        one: torch.Tensor
        other: str

    value = {"a": [torch.ones(2), None], "b": (Pair(torch.zeros(1), "x"), 3)}
    changed = mapped(value, lambda tensor: tensor + 1)
    assert changed["a"][0].tolist() == [2, 2] and changed["a"][1] is None
    (pair, three) = changed["b"]
    assert type(pair) is Pair and (pair.one.item(), pair.other, three) == (1, "x", 3)
    assert value["a"][0].tolist() == [1, 1]
    assert [tensor.tolist() for tensor in tensors_in(changed)] == [[2, 2], [1]]
