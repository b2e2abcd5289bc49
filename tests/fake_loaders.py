"""Loaders that go wrong, for the test of the loader benchmark.

In a separate module, so that the loader's process can import them.
"""

import os
import time

from benchmarks.loaders.base import Missing
from benchmarks.loaders.fastimae_loaders import Pillow


class Wrong(Pillow):
    """Promises Pillow's pixels, but one value in each batch is wrong."""

    def batches(self):
        for batch in super().batches():
            batch.images[3, 5, 7, 1] ^= 1
            yield batch


class Absent(Pillow):
    """Its library is not installed."""

    @classmethod
    def prepare(cls):
        raise Missing("no such thing: pip install such-thing")


class Dying(Pillow):
    """Starts well, then its process exits silently."""

    def stage_times(self):
        os._exit(7)


class Hanging(Pillow):
    """Never becomes ready."""

    @classmethod
    def prepare(cls):
        time.sleep(600)
