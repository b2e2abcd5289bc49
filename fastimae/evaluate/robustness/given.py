"""What the user gave as classifiers and sets: errors that name its flag, and what to do instead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.evaluate.options.labels import BEST
from fastimae.interop.open_checkpoint import HUB_WEIGHTS
from fastimae.loaders.errors import DataError

_TRAINED_BY = ("linear", "finetune", "msem")
"""Tasks whose folders hold a classifier."""


@contextlib.contextmanager
def naming(given: str, path: Path) -> Iterator[None]:
    """Let errors of the block about a file begin with its flag, unless they name one already.

    given: flag and file as the user wrote them. path: the file, with which such an error begins.
    """
    try:
        yield
    except (CheckpointError, DataError) as error:
        text = error.args[0]
        if text.startswith("--"):
            raise
        about = text.removeprefix(str(path))
        raise type(error)(f"{given}{': ' if about == text else ''}{about}") from error


def check_folder(flag: str, folder: Path) -> None:
    """Raise CheckpointError for a folder without a model, such as a run's.

    flag: the one that gave the folder.
    """
    if any((folder / name).is_file() for name in HUB_WEIGHTS):
        return
    kinds = (folder.glob(f"eval-{task}*/{BEST}") for task in _TRAINED_BY)
    inside = [str(best.parent) for found in kinds for best in sorted(found)]
    advice = f", such as {' or '.join(inside)}" if inside else ""
    raise CheckpointError(
        f"{flag} {folder} holds no {BEST}: give the folder of a fastimae-eval linear, finetune or "
        f"msem{advice}, or a classifier's file"
    )
