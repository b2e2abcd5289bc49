"""The logger of all parts; commands decide where its lines go."""

import contextlib
import logging
from collections.abc import Iterator

log = logging.getLogger("fastimae")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Drop all lines during the block, which only checks what is done, and logged, later."""
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
