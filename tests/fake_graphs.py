"""A model of stream capture in CUDA and several versions of torch, for `engine.graph`.

It models which calls of which threads spoil a capture, and what torch leaves behind then: the
stream, the pool, the random numbers. torch's own context manager, `torch.cuda.graph`, runs on it.
"""

import contextlib
import threading
from collections import Counter
from itertools import count

import pytest
import torch

from fastimae.engine.graph import drop_tracebacks, record_cuda_graph

VERSIONS = [(2, 11), (2, 13), (2, 14)]
"""2.11 cleans up nothing; 2.13 no longer allocates in a pool, but holds it; 2.14 cleans up."""


class Gpu:
    """The device, its allocator, and torch's state of it."""

    def __init__(self, version):
        self.version, self.stream, self.capture = version, "main", None
        self.holders, self.recorded_to, self.numbers = Counter(), set(), count(1)
        self.random, self.refuses = Random(), False

    def install(self, monkeypatch):
        """Replace CUDA by this model."""
        for name, fake in {
            "CUDAGraph": lambda: Graph(self),
            "MemPool": type("MemPool", (Pool,), {"gpu": self}),
            "current_device": lambda: 0,
            "current_stream": lambda: self.stream,
            "set_stream": lambda stream: setattr(self, "stream", stream),
            "stream": self._on_stream,
            "default_generators": [self.random],
            "empty_cache": self.empty_cache,
            "synchronize": self.synchronize,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", "side")
        monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocating)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self.release)

    def launch(self):
        """Start a kernel on the current stream."""
        if self.stream == "side" and self.capture and self.capture.spoiled:
            raise RuntimeError("CUDA error: no kernel can be captured")

    def malloc(self):
        """Act as cudaMalloc, cudaHostAlloc and cudaEventQuery: an error in threads that a capture
        forbids them."""
        capture = self.capture
        if capture and (capture.mode == "global" or capture.thread == threading.get_ident()):
            self._spoil()

    def synchronize(self):
        """Wait for the complete device, which is an error during any capture."""
        if self.capture:
            self._spoil()

    def empty_cache(self):
        assert not self.recorded_to, "captures_underway.empty() INTERNAL ASSERT FAILED"

    def end_allocating(self, device, pool):
        if pool not in self.recorded_to:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recorded_to.remove(pool)

    def release(self, device, pool):
        self.holders[pool] -= 1
        assert self.holders[pool] >= 0, "uc >= 0 INTERNAL ASSERT FAILED"

    def _spoil(self):
        self.capture.spoiled = True
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    @contextlib.contextmanager
    def _on_stream(self, stream):
        before, self.stream = self.stream, stream
        yield
        self.stream = before


class Random:
    """A generator that knows whether its numbers are being recorded."""

    recording = False

    def draw(self):
        assert not self.recording, "Offset increment outside graph capture"

    def clone_state(self):
        return Random()

    def graphsafe_set_state(self, other):
        self.recording = other.recording


class Pool:
    """`torch.cuda.MemPool`."""

    gpu = None

    def __init__(self):
        self.id = (0, next(self.gpu.numbers))
        self.gpu.holders[self.id] += 1

    def use_count(self):
        return self.gpu.holders[self.id]

    def __del__(self):
        self.gpu.release(0, self.id)
        self.gpu.empty_cache()


class Graph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self, gpu):
        self.gpu, self.held, self.ended, self.spoiled = gpu, False, False, False

    def capture_begin(self, pool, capture_error_mode="global", check_input_liveness=False):
        self.pool, self.mode, self.thread = pool, capture_error_mode, threading.get_ident()
        self.gpu.holders[pool] += 1
        self.gpu.recorded_to.add(pool)
        self.held, self.gpu.random.recording = True, True
        if self.gpu.refuses:
            raise RuntimeError("CUDA error: out of memory")
        self.gpu.capture = self

    def capture_end(self):
        self.gpu.capture = None
        if not self.spoiled or self.gpu.version >= (2, 13):
            self.gpu.recorded_to.remove(self.pool)
        if self.spoiled:
            raise RuntimeError("CUDA error: failed due to a previous error\nmore")
        self.ended, self.gpu.random.recording = True, False

    def replay(self):
        assert self.ended

    def reset(self):
        if self.held and self.gpu.version >= (2, 14):
            self.gpu.recorded_to.discard(self.pool)
            self.gpu.random.recording = False
        if self.ended or (self.held and self.gpu.version >= (2, 14)):
            self.gpu.release(0, self.pool)
        self.held = self.ended = False

    def __del__(self):
        self.reset()


def failure(function):
    """Return the error of recording a function, here or on a GPU, without the memory it holds."""
    with pytest.raises(RuntimeError) as caught:
        record_cuda_graph(function)
    error = caught.value
    drop_tracebacks(error)
    return error
