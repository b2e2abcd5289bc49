"""A model of a GPU for `prefetch.Copies`: work on streams is done at any time that events allow.

Memory that is let go of is used again at once, on the device as in the host's ring of pinned
buffers, so a copy that is not ordered against other work reads or leaves wrong values.
"""

import random
import weakref

import numpy as np
import torch

SCRIBBLE = 255


class Event:
    """streams: all of the device's, whose work goes on while the host waits."""

    def __init__(self, streams):
        self.streams, self.happened = streams, False

    def query(self):
        return self.happened

    def synchronize(self):
        while not self.happened:
            assert any(stream.advance() for stream in self.streams), "streams wait for ever"


class Stream:
    """A queue of work, each item with the event that it has to wait for or None."""

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
        """Do the first work in the queue; False if there is none, or it has to wait."""
        if not self.queue:
            return False
        work, event = self.queue[0]
        if event and not event.happened:
            return False
        self.queue.pop(0)
        work()
        return True


class Memory:
    """Buffers of one size that are used again, the last one first, when no tensor has them."""

    def __init__(self, size, scribble=False):
        self.size, self.scribble = size, scribble
        self.free, self.at = [], {}

    def tensor(self):
        buffer = self.free.pop() if self.free else np.zeros(self.size, np.int64)
        lent = buffer.view()
        weakref.finalize(lent, self._give_back, buffer).atexit = False
        tensor = torch.from_numpy(lent)
        self.at[tensor.data_ptr()] = buffer
        return tensor

    def raw(self, tensor):
        """The buffer of a tensor, which it does not keep alive."""
        return self.at[tensor.data_ptr()]

    def _give_back(self, buffer):
        if self.scribble:
            buffer[:] = SCRIBBLE
        self.free.append(buffer)


class FakeCuda:
    """Stands in for `prefetch.Cuda`. host: the memory that batches are copied from."""

    def __init__(self, host, seed):
        self.host, self.device = host, Memory(host.size)
        self.streams = []
        self.main, self.copying = Stream(self.streams), Stream(self.streams)
        self.random = random.Random(seed)

    def current(self):
        return self.main

    def holds(self, tensor):
        return tensor.data_ptr() in self.device.at

    def empty_like(self, tensor):
        return self.device.tensor()

    def copy(self, target, source):
        into, out_of = self.device.raw(target), self.host.raw(source)
        self.copying.add(lambda: into.__setitem__(slice(None), out_of))

    def use(self, tensor, stream):
        assert stream is self.main  # which owns all memory here

    def advance(self, steps):
        """Let the device do some work, on whichever stream."""
        for _ in range(steps):
            self.random.choice(self.streams).advance()

    def finish(self):
        """Do all work. False if streams wait for each other for ever."""
        while any(stream.advance() for stream in self.streams):
            pass
        return not any(stream.queue for stream in self.streams)
