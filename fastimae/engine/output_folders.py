"""The output folders of a run of one or several processes: writable, and locked for others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fastimae.engine.distributed import ALONE, World
from fastimae.engine.fail_together import fail_together
from fastimae.folders import FolderError, new_folder
from fastimae.locks import folder_to_write


@contextlib.contextmanager
def claim_folders(
    output_dir: Path, log_dir: Path | None = None, world: World = ALONE
) -> Iterator[None]:
    """Keep other runs out of the folders while the block runs; the main process holds the locks.

    See `errors_of` for errors of the block. Raises FolderError, in every process, if one of them
    cannot write, and InUse.
    """
    lost = FolderError(f"another process cannot write to {output_dir}: see its message")
    with contextlib.ExitStack() as held:
        with fail_together(world, lost):
            if world.is_main:
                held.enter_context(folder_to_write(output_dir))
                if log_dir and log_dir.resolve() != output_dir.resolve():
                    held.enter_context(folder_to_write(log_dir, "--log_dir"))
                    _check_no_run(log_dir)
        with fail_together(world, lost):  # later: the main process notices which folders are new
            if not world.is_main:
                held.enter_context(new_folder(output_dir))
        with errors_of(output_dir):
            yield


@contextlib.contextmanager
def errors_of(output_dir: Path) -> Iterator[None]:
    """Let --debug keep the traceback of the block's errors in this folder."""
    try:
        yield
    except Exception as error:
        error.__dict__.setdefault("output_dir", output_dir)
        raise


def _check_no_run(log_dir: Path) -> None:
    """Raise FolderError if log_dir belongs to another run, whose event files would be archived."""
    if any(log_dir.glob("checkpoint-*.pth")):
        raise FolderError(f"--log_dir {log_dir} is the --output_dir of another run: choose another")
