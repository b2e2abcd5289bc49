"""The contract of loaders: the same tests for every back end, against torchvision."""

import dataclasses
import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
import torch
from back_ends import ALL, DECODING, QUICK, WORKING

from fastimae.loaders import Batch, DataError, DevicePrefetch
from fastimae.loaders.backends import pillow as pillow_loader


@pytest.fixture(autouse=True)
def _global_random_state_is_not_touched():
    """Check it in every test of this file."""
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def are_as_planned(data, back_end, batches, channels=3):
    """Check the batches of epoch 1: the planned samples, with torchvision's pixels."""
    plan = data.sampler()
    assert len(batches) == len(plan) == data.count // data.batch_size
    for number, batch in enumerate(batches):
        step = plan.step(1, number)
        for name in ("index", "key", "partner", "step_key"):
            assert np.array_equal(getattr(batch, name), getattr(step, name))
        assert batch.labels.tolist() == [data.labels[i] for i in step.index]
        for pixels, index, key in zip(batch.images, step.index, step.key, strict=True):
            assert data.shows(back_end, pixels, data.reference(index, key, index, channels))


@pytest.mark.parametrize("back_end", DECODING)
def test_batches_equal_torchvision(data, back_end):
    are_as_planned(data, back_end, data.epoch(back_end, 1))


@pytest.mark.parametrize("back_end", WORKING)
def test_gray_batches_equal_torchvision(data, back_end):
    with data.loader(back_end, in_chans=1) as loader:
        loader.set_epoch(1)
        are_as_planned(data, back_end, list(loader), channels=1)


@pytest.mark.parametrize("back_end", QUICK)
def test_an_example_is_the_first_batch_with_other_images(data, back_end, resources):
    """It serves to record a step before anything is read: it starts and changes nothing."""
    with data.loader(back_end) as loader:
        loader.set_epoch(3)
        before, opened = loader.state_dict(), resources.at_rest()
        example = DevicePrefetch(loader, "cpu").example()
        assert loader.state_dict() == before and resources.at_rest() == opened
        batch = next(iter(loader))
        loader.example()
        assert loader.state_dict()["step"] == 1
    for field in dataclasses.fields(Batch):
        made_up, real = getattr(example, field.name), getattr(batch, field.name)
        assert (made_up.dtype, made_up.shape) == (real.dtype, real.shape), field.name
        assert made_up.stride() == real.stride(), field.name
        assert torch.equal(made_up, real) == (field.name != "images"), field.name
    assert len(example.images.unique()) == 256


@pytest.mark.parametrize("back_end", QUICK)
def test_a_fixed_batch_is_the_same_at_any_time_and_in_any_run(data, back_end):
    """Pictures of it can be compared: over epochs, batch sizes, ranks and resumes."""
    with data.loader(back_end) as loader:
        first = loader.fixed_batch(12)
        assert loader.state_dict()["step"] == 0
    other = {"batch_size": 4, "rank": 1, "world_size": 2, "repeated_aug": 2, "mix_group": 2}
    with data.loader(back_end, **other) as loader:
        loader.set_epoch(3)
        next(iter(loader))
        again = DevicePrefetch(loader, "cpu").fixed_batch(12)
        assert loader.state_dict()["step"] == 1 and loader.state_dict()["bad"] == {}
        assert data.same([first], [again])
        loader.load_state_dict(loader.state_dict())
        assert len(list(loader)) == len(loader) - 1
    assert np.array_equal(first.index, np.arange(12) * data.count // 12)
    assert first.partner.tolist() == [*range(6, 12), *range(6)]
    assert not torch.equal(first.images[0], first.images[6])
    if not back_end.startswith("synthetic"):
        for pixels, index, key in zip(first.images, first.index, first.key, strict=True):
            assert data.shows(back_end, pixels, data.reference(int(index), key, int(index)))


def test_a_fixed_batch_of_more_samples_than_there_are_has_each_once(data):
    with data.loader("pillow-2") as loader:
        batch = loader.fixed_batch(1000)
    assert batch.index.tolist() == list(range(data.count)) == sorted(batch.partner.tolist())
    assert batch.images.shape[0] == data.count


@pytest.mark.parametrize("back_end", ["pillow-2", "dataset-1"])
def test_a_fixed_batch_replaces_bad_samples_and_does_not_count_them(broken, back_end):
    with broken({0: b"broken"}).loader(back_end) as loader:
        batch = loader.fixed_batch(6)
        assert loader.bad == {} and loader.report()["bad_samples"] == 0
    assert batch.index[0] == batch.index[1] == 7
    assert torch.equal(batch.labels, torch.tensor(loader.sampler.labels[batch.index]))


@pytest.mark.parametrize("back_end", ALL)
def test_epochs_end_and_batches_stay_what_they_are(data, back_end):
    """While two loaders take turns, and through later epochs."""
    first, second = data.epoch(back_end, 0), data.epoch(back_end, 1)
    assert not data.same(first, second)
    with data.loader(back_end) as one, data.loader(back_end) as two:
        two.set_epoch(1)
        taken = list(zip(one, two, strict=True))
        assert len(taken) == len(one) == data.count // data.batch_size
        assert list(one) == []
        one.set_epoch(1)
        assert one.epoch == 1 and data.same(list(one), second)
        one.set_epoch(0)
        assert data.same([next(iter(one))], first[:1])
    assert data.same([batch for batch, _ in taken], first)
    assert data.same([batch for _, batch in taken], second)


@pytest.mark.parametrize("back_end", ALL)
def test_resume_equals_uninterrupted(data, back_end, tmp_path):
    """In the same loader, where the second iteration ends the first, and in another."""
    expected = data.epoch(back_end, 1)
    with data.loader(back_end) as loader:
        loader.set_epoch(1)
        begun = iter(loader)
        first = next(begun)
        torch.save(loader.state_dict(), tmp_path / "state.pth")
        rest = list(loader)
        assert next(begun, None) is None
    with data.loader(back_end) as loader:
        loader.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
        assert loader.epoch == 1
        resumed = list(loader)
    assert data.same([first, *rest], expected) and data.same(resumed, expected[1:])


@pytest.mark.parametrize("stop", range(6))
def test_an_epoch_resumes_after_any_batch(data, stop):
    with data.loader("pillow-0") as loader:
        for _, _ in zip(range(stop), loader, strict=False):
            pass
        state = loader.state_dict()
    with data.loader("pillow-0") as loader:
        loader.load_state_dict(state)
        assert data.same(list(loader), data.epoch("pillow-0", 0)[stop:])


def test_resume_with_other_ranks_and_batch(data):
    """Two ranks of 4 resume where one rank of 8 stopped."""
    expected = data.epoch("pillow-0", 0)[2:]
    with data.loader("pillow-0") as loader:
        for _, _ in zip(range(2), loader, strict=False):
            pass
        state = loader.state_dict()
    ranks = [data.loader("pillow-0", batch_size=4, world_size=2, rank=r) for r in range(2)]
    for loader in ranks:
        loader.load_state_dict(state)
    for whole, *parts in zip(expected, *ranks, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    for loader in ranks:
        loader.close()


def test_resume_with_other_repeated_augmentation(data):
    """A state counts the images drawn, whatever the number of their copies."""
    with data.loader("synthetic-0", batch_size=4) as loader:
        next(iter(loader))
        state, rest = loader.state_dict(), list(loader)
    with data.loader("synthetic-0", repeated_aug=2) as loader:
        loader.load_state_dict(state)
        for once, twice in zip(rest, loader, strict=True):
            assert torch.equal(twice.index, once.index.repeat(2))
    with data.loader("synthetic-0", batch_size=16, repeated_aug=2) as loader:
        loader.load_state_dict(state)  # in the middle of its first step, which is repeated in full
        assert len(list(loader)) == len(loader) == 5 and loader.state_dict()["finished"]


@pytest.mark.parametrize("back_end", ALL)
def test_nothing_is_left_running(data, back_end, resources):
    """After a break, an error in the loop, the end of an epoch, and close."""
    data.epoch(back_end, 0)  # libraries start threads of their own when they are first used
    before = resources.at_rest()
    with data.loader(back_end) as loader:
        opened = resources.at_rest()
        for _ in loader:
            break
        assert resources.settle_at(opened)
        with pytest.raises(ZeroDivisionError):
            for batch in loader:
                len(batch) / 0
        assert resources.settle_at(opened)
        assert len(list(loader)) == len(loader) - 2
        assert resources.settle_at(opened)
        loader.set_epoch(1)
        kept = iter(loader)
        next(kept)
    assert resources.settle_at(before)
    with pytest.raises(ValueError, match="closed"):
        iter(loader)
    loader.close()


def test_error_in_a_thread_reaches_the_caller(data, monkeypatch, resources):
    def fail(*_):
        raise ZeroDivisionError("in a thread")

    before = resources.at_rest()
    monkeypatch.setattr(pillow_loader, "decode_rows", fail)
    with data.loader("pillow-3") as loader, pytest.raises(ZeroDivisionError, match="in a thread"):
        next(iter(loader))
    assert resources.settle_at(before)


def test_death_of_a_process_is_an_error(data):
    """Our error, never torch's, which its signal handler would raise between two batches."""
    died = pytest.raises(DataError, match="a loading process died")
    with data.loader("folder-2", batch_size=2, mix_group=2) as loader, died:
        iterator = iter(loader)
        next(iterator)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        list(iterator)
    assert not multiprocessing.active_children()
