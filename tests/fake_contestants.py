"""Ways of loading images that go wrong, for the test of the loader benchmark.

In a module of their own so that the contestant's process can import them.
"""

import os
import time

from benchmarks.loaders.contestant import Missing
from benchmarks.loaders.ours import Pillow


class Wrong(Pillow):
    """One value of one pixel in each batch is not Pillow's, and it promises that all are."""

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
    """Its process ends without a word, after it has begun well."""

    def stage_times(self):
        os._exit(7)


class Hanging(Pillow):
    """Never gets ready."""

    @classmethod
    def prepare(cls):
        time.sleep(600)
