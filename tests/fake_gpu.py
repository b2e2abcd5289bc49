"""A fake GPU whose clock only its own work advances, to test timing."""

import contextlib
import itertools
from types import SimpleNamespace

import torch


class FakeGpu:
    """`launch` is work; the rest stands for what `benchmarks.timing` uses of torch.

    paces: factors by which the work of successive replays takes longer than when it was launched.
    """

    def __init__(self, monkeypatch, paces=()):
        self.now, self.recording = 0.0, None
        self.paces = itertools.chain(paces, itertools.repeat(1.0))
        self.replayed, self.aside = [], 0
        monkeypatch.setattr("benchmarks.timing.record_cuda_graph", self.record)
        for name in ("Event", "Stream", "current_stream", "stream", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def launch(self, name, seconds):
        if self.recording is None:
            self.now += seconds
        else:
            self.recording.append((name, seconds))

    def record(self, function):
        self.recording = work = []
        try:
            function()
        finally:
            self.recording = None

        def replay():
            pace = next(self.paces)
            self.replayed += [name for name, _ in work]
            self.now += pace * sum(seconds for _, seconds in work)

        return replay

    def Event(self, enable_timing):
        event = SimpleNamespace(synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.now)
        event.elapsed_time = lambda end: 1e3 * (end.at - event.at)
        return event

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda other: None)

    def current_stream(self):
        return self.Stream()

    @contextlib.contextmanager
    def stream(self, stream):
        self.aside += 1
        yield

    def synchronize(self, device):
        pass
