"""A model of a GPU for `prefetch.CopyQueue`: streams work at any time that events allow.

Released memory is used again at once, on the device and in the host's ring of pinned buffers, so
a copy that is not ordered against other work reads or leaves wrong values.
"""

import math
import random
import weakref

import numpy as np
import torch

SCRIBBLE = 0xAB


class Event:
    """A CUDA event. streams: all of the device, which continue while the host waits."""

    def __init__(self, streams):
        self.streams, self.happened = streams, False

    def query(self):
        return self.happened

    def synchronize(self):
        while not self.happened:
            assert any(stream.advance() for stream in self.streams), "streams wait for ever"


class Stream:
    """A queue of work, each item with the event it has to wait for, or None."""

    def __init__(self, streams):
        self.streams, self.queue = streams, []
        streams.append(self)

    def add(self, work):
        self.queue.append((work, None))

    def wait_event(self, event):
        self.queue.append((lambda: None, event))

    def wait_stream(self, other):
        self.wait_event(other.record_event())

    def record_event(self):
        event = Event(self.streams)
        self.add(lambda: setattr(event, "happened", True))
        return event

    def advance(self):
        """Do the first work in the queue; return False if there is none or it has to wait."""
        if not self.queue:
            return False
        work, event = self.queue[0]
        if event and not event.happened:
            return False
        self.queue.pop(0)
        work()
        return True


class Memory:
    """Buffers that are reused, the last one first, when no tensor has them."""

    def __init__(self, scribble=False, wait_for=lambda buffer: None):
        """Make the memory. wait_for: returns the event that a buffer must also wait for once it is
        freed."""
        self.scribble, self.wait_for = scribble, wait_for
        self.free, self.at = [], {}

    def tensor(self, shape, dtype=torch.int64):
        size = math.prod(shape) * dtype.itemsize
        lent = self._buffer(max(size, 1)).view()
        weakref.finalize(lent, self._give_back, lent.base).atexit = False
        tensor = torch.from_numpy(lent)[:size].view(dtype).view(shape)
        self.at[tensor.untyped_storage().data_ptr()] = lent.base
        return tensor

    def __contains__(self, tensor):
        return tensor.untyped_storage().data_ptr() in self.at

    def buffer(self, tensor):
        return self.at[tensor.untyped_storage().data_ptr()]

    def raw(self, tensor):
        """Return the values of a contiguous tensor, without keeping it alive."""
        first = tensor.storage_offset() * tensor.itemsize
        part = self.buffer(tensor)[first : first + tensor.nbytes]
        return part.view(tensor.numpy().dtype).reshape(tensor.shape)

    def _buffer(self, size):
        for place, (buffer, event) in reversed(list(enumerate(self.free))):
            if buffer.nbytes == size and (event is None or event.happened):
                del self.free[place]
                return buffer
        return np.zeros(size, np.uint8)

    def _give_back(self, buffer):
        if self.scribble:
            buffer[:] = SCRIBBLE
        self.free.append((buffer, self.wait_for(buffer)))


class FakeCuda:
    """Replaces `prefetch.Cuda`. host: the memory that batches are copied from."""

    def __init__(self, host, seed):
        self.host, self.device = host, Memory()
        self.streams = []
        self.main, self.copying = Stream(self.streams), Stream(self.streams)
        self.random = random.Random(seed)

    def current(self):
        return self.main

    def holds(self, tensor):
        return tensor in self.device

    def empty_like(self, tensor):
        return self.device.tensor(tensor.shape, tensor.dtype)

    def copy(self, target, source):
        into, out_of = self.device.raw(target), self.host.raw(source)
        self.copying.add(lambda: into.__setitem__(slice(None), out_of))

    def record_use(self, tensor, stream):
        assert stream is self.main  # which owns all memory here

    def advance(self, steps):
        """Let the device do some work, on any stream."""
        for _ in range(steps):
            self.random.choice(self.streams).advance()

    def finish(self):
        """Do all work; return False if streams wait for each other forever."""
        while any(stream.advance() for stream in self.streams):
            pass
        return not any(stream.queue for stream in self.streams)
