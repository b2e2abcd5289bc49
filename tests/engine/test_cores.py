"""The division of CPU cores between computing and loading."""

import os
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastimae.engine import cores as module
from fastimae.engine.cores import SHARED, Cores, cores_here, plan_cores

CPU = torch.device("cpu")


@given(st.sets(st.integers(0, 500), min_size=1, max_size=128), st.integers(0, 64))
def test_plans_share_few_cores_and_divide_many(cores, workers):
    plan = plan_cores(sorted(cores), workers)
    if len(cores) < 8 or not workers:
        assert plan.compute == plan.load == sorted(cores)
    else:
        assert sorted([*plan.compute, *plan.load]) == sorted(cores)
        assert 1 <= len(plan.load) <= workers and len(plan.compute) >= 7 * len(plan.load)


def test_threads_that_the_first_batch_starts_are_on_the_loaders_cores(monkeypatch):
    masks: dict[int, set] = {}  # the affinity of each thread, as the system would keep it

    def pin(thread, cores):
        masks[thread or threading.get_native_id()] = set(cores)

    monkeypatch.setattr(os, "sched_setaffinity", pin)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    here = threading.get_native_id()

    def batches():
        for number in range(3):
            yield number, masks[here]

    plan = Cores((0, 1, 2), (3,))
    plan.pin()
    assert masks[here] == {0, 1, 2} and len(masks) >= threading.active_count()
    assert list(plan.batches(batches())) == [(0, {3}), (1, {0, 1, 2}), (2, {0, 1, 2})]


def test_nothing_is_pinned_where_cores_are_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: pytest.fail("pinned"))
    SHARED.pin()
    assert list(SHARED.batches(iter([1, 2]))) == [1, 2]


def test_the_users_and_the_launchers_choice_stands(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores_here(CPU, 10).load == list(range(14, 16))
    assert cores_here(torch.device("cuda"), 10) == SHARED
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # torchrun sets it, too
    assert cores_here(CPU, 10) == SHARED == module.SHARED
