"""Errors of one process that all processes of a run raise, so that none waits for another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.engine.distributed import World
from fastimae.folders import FolderError


@contextlib.contextmanager
def fail_together(world: World, otherwise: Exception) -> Iterator[None]:
    """Raise in every process if the block fails in one: its own error there, `otherwise` elsewhere.

    Only file errors are shared: OSError, CheckpointError and FolderError.
    """
    failure = None
    try:
        yield
    except (OSError, CheckpointError, FolderError) as error:
        failure = error
    if world.any(failure is not None):
        raise failure or otherwise
