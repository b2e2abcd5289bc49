"""A model of a GPU for code that uses torch itself: its tensors and pinned memory are fakes.

It has one stream, whose work is done at any later time. Memory is reused at once: the GPU's, as its
work is in order; torch's pinned memory, when the copies from it that torch knows of are done; and
DALI's, which something else writes to, when all work that the GPU had by then is done.
"""

import random

import torch
from fake_cuda import Memory, Stream
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FakeTorch(TorchFunctionMode):
    """Replaces torch in a `with` block, in this thread. `waits` counts how often the host waited
    for the GPU."""

    def __init__(self, seed=0):
        super().__init__()
        self.streams, self.waits, self.random = [], 0, random.Random(seed)
        self.main, self._copies = Stream(self.streams), {}
        self.device, self.pinned, self.dali = Memory(), self.pinned_memory(), self.dali_memory()
        self._meant = {
            torch.empty: self._empty,
            Tensor.to: self._to,
            Tensor.pin_memory: self._pin,
            Tensor.index_copy_: lambda into, _, at, source: self._index_copy(into, at, source),
            Tensor.__setitem__: self._index_copy,
            Tensor.is_cuda.__get__: self._is_on_gpu,
        }

    def pinned_memory(self):
        return Memory(wait_for=lambda buffer: self._copies.pop(buffer.ctypes.data, None))

    def dali_memory(self):
        return Memory(wait_for=lambda _: self.main.record_event())

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return self._meant.get(function, function)(*args, **(kwargs or {}))

    def exported(self, pixels):
        """Return a finished result of DALI as torch gets it: `pixels`, uint8 on the host."""
        tensor = self.dali.tensor(pixels.shape, torch.uint8)
        self.dali.raw(tensor)[:] = pixels
        return tensor

    def read(self, tensor, seen):
        """Let the GPU append the values of one of its tensors to `seen`, some time later."""
        values = self._raw(tensor)
        self.main.add(lambda: seen.append(values.copy()))

    def advance(self, steps):
        """Let the GPU do some work."""
        for _ in range(steps):
            self.main.advance()

    def finish(self):
        while self.main.advance():
            pass

    def _raw(self, tensor):
        return (self.device if tensor in self.device else self.dali).raw(tensor)

    def _is_on_gpu(self, tensor):
        return tensor in self.device or tensor in self.dali

    def _empty(self, *shape, dtype=torch.float32, device="cpu", pin_memory=False):
        if torch.device(device).type == "cuda":
            return self.device.tensor(*shape, dtype)
        return self.pinned.tensor(*shape, dtype) if pin_memory else torch.empty(*shape, dtype=dtype)

    def _pin(self, tensor):
        if tensor in self.pinned:
            return tensor
        pinned = self.pinned.tensor(tensor.shape, tensor.dtype)
        self.pinned.raw(pinned)[:] = tensor.numpy()
        return pinned

    def _to(self, tensor, device, non_blocking=False):
        if torch.device(device).type == "cpu" or self._is_on_gpu(tensor):
            return tensor
        target = self.device.tensor(tensor.shape, tensor.dtype)
        into = self.device.raw(target)
        if non_blocking and tensor in self.pinned:
            source = self.pinned.raw(tensor)
            self.main.add(lambda: into.__setitem__(..., source))
            self._copies[self.pinned.buffer(tensor).ctypes.data] = self.main.record_event()
        else:
            self.waits += 1
            self.finish()
            into[...] = tensor.numpy()
        return target

    def _index_copy(self, into, at, source):
        into, at, source = (self._raw(tensor) for tensor in (into, at, source))
        self.main.add(lambda: into.__setitem__(at % len(into), source))  # wrong rows, no error
