"""The folders that a run, of one process or several, writes to: tried out, and its alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from fastimae.engine.distributed import World
from fastimae.engine.files import CheckpointError
from fastimae.folders import FolderError, prepare_folder
from fastimae.locks import folder_to_write

ALONE = World(0, 1, torch.device("cpu"))


@contextlib.contextmanager
def claimed(output_dir: Path, log_dir: Path | None = None, world: World = ALONE) -> Iterator[None]:
    """Inside, no other run writes to the folders, which the main process holds.

    What the block raises knows the folder as `output_dir`, for a traceback to be kept there.
    Raises FolderError, in every process, where one of them cannot write, or InUse.
    """
    lost = FolderError(f"another process cannot write to {output_dir}: it says why")
    with contextlib.ExitStack() as held:
        with agreed(world, lost):
            if world.is_main:
                held.enter_context(folder_to_write(output_dir))
                if log_dir and log_dir.resolve() != output_dir.resolve():
                    held.enter_context(folder_to_write(log_dir, "--log_dir"))
                    _check_no_run(log_dir)
            else:
                prepare_folder(output_dir)
        try:
            yield
        except Exception as error:
            error.__dict__.setdefault("output_dir", output_dir)
            raise


def _check_no_run(log_dir: Path) -> None:
    """Raise FolderError where a run's files lie in log_dir: its curves would be moved from them."""
    if any(log_dir.glob("checkpoint-*.pth")):
        raise FolderError(f"--log_dir {log_dir} is the --output_dir of another run: choose another")


@contextlib.contextmanager
def agreed(world: World, otherwise: Exception) -> Iterator[None]:
    """Where the block fails in one process, all raise: that one its own error, others this one."""
    failure = None
    try:
        yield
    except (OSError, CheckpointError, FolderError) as error:
        failure = error
    if world.any(failure is not None):
        raise failure or otherwise
