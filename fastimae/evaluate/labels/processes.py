"""The processes that share the work of a task with labels."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from fastimae.engine.distributed import World, join_world
from fastimae.evaluate.options.base import TaskOptions
from fastimae.log import log


@contextlib.contextmanager
def joined_processes(options: TaskOptions) -> Iterator[World]:
    """Join the processes that torchrun or SLURM started; only the first one writes and prints."""
    level = log.level
    world = join_world(options.device, options.launch())
    if not world.is_main:
        log.setLevel(logging.WARNING)
    try:
        yield world
    finally:
        log.setLevel(level)
        world.close()
