"""The iteration in progress of a loader: it can be ended from outside, or by dropping it."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from typing import Any


class CurrentIteration:
    """The iteration in progress, if any.

    It is held weakly, so that dropping the iterator (a `break` in a for loop) ends it at once.
    """

    def __init__(self) -> None:
        self._batches: weakref.ref[Generator[Any, None, None]] | None = None

    def start(self, batches: Generator[Any, None, None]) -> Generator[Any, None, None]:
        """Remember `batches`, and return it."""
        self._batches = weakref.ref(batches)
        return batches

    def stop(self) -> None:
        """Close the iteration, and with it everything that it started."""
        batches = self._batches() if self._batches else None
        if batches is not None:
            batches.close()
