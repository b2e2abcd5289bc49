"""The host runs a little ahead of a GPU, but no further."""

import random

import pytest
import torch

from fastimae.engine.throttle import Throttle

CUDA = torch.device("cuda")


class Gpu:
    """Ends the steps it is given, in order."""

    def __init__(self, monkeypatch):
        self.given = self.ended = self.waits = 0
        monkeypatch.setattr(torch.cuda, "Event", lambda blocking: Event(self, blocking))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)


class Event:
    def __init__(self, gpu, blocking):
        assert blocking, "a waiting host needs its core"
        self.gpu = gpu

    def record(self, stream):
        assert stream == CUDA
        self.step = self.gpu.given

    def synchronize(self):
        if self.step > self.gpu.ended:
            self.gpu.waits += 1
            self.gpu.ended = self.step


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_the_host_is_never_further_ahead(ahead, monkeypatch):
    gpu, throttle = Gpu(monkeypatch), Throttle(CUDA, ahead)
    numbers, behind = random.Random(0), set()
    for _ in range(300):
        gpu.given += 1
        throttle.wait()
        behind.add(gpu.given - gpu.ended)
        if numbers.random() < 0.3:  # fewer than the host queues
            gpu.ended = numbers.randint(gpu.ended, gpu.given)
    assert behind == set(range(1, ahead + 1)) and gpu.waits


def test_steps_that_have_ended_are_not_waited_for(monkeypatch):
    gpu, throttle = Gpu(monkeypatch), Throttle(CUDA)
    for number in range(50):
        gpu.given += 1
        throttle.wait()
        gpu.ended = number  # one step behind
    assert gpu.waits == 0


def test_on_a_cpu_nothing_happens(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", None)
    throttle = Throttle(torch.device("cpu"))
    for _ in range(5):
        throttle.wait()
    assert not throttle._ends
