"""Weights & Biases (--wandb): curves, pictures and settings. It is imported only if asked for.

Training never depends on it: without a login or a network it writes to the folder "wandb" of the
run, for `wandb sync`, and any of its errors becomes a warning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastimae.engine.run_file import FINISHED, STOPPED
from fastimae.engine.sink import RunToReport, Sink
from fastimae.log import log
from fastimae.wording import first_line

INIT_SECONDS, FINISH_SECONDS = 30, 60
"""Longest times to wait for the network at the start and at the end of a run."""


def _never_fails(method: Callable) -> Callable:
    """Turn the first error of the sink's methods into a warning, after which they do nothing."""

    @functools.wraps(method)
    def guarded(self: WandbLog, *args: Any) -> None:
        if self.run is None:
            return
        try:
            method(self, *args)
        except Exception as error:
            self.run = None
            log.warning(
                "Weights & Biases fails, and training continues without it: %s", first_line(error)
            )

    return guarded


class WandbLog(Sink):
    """Logs to a project. A resumed run continues under its id.

    Points that a resumed run logs again are the first ones: W&B takes no earlier points.
    """

    def __init__(self, run: RunToReport, project: str) -> None:
        import wandb

        self.wandb, self.run = wandb, None
        try:
            self.run = _begin(wandb, run, project)
        except Exception as error:
            log.warning("--wandb: Weights & Biases does not start: %s", first_line(error))

    @_never_fails
    def step(self, values: Mapping[str, float], point: int) -> None:
        self.run.log({**values, "epoch": point / 1000}, step=point)

    @_never_fails
    def epoch(self, line: Mapping[str, Any], point: int) -> None:
        values = {f"epoch/{name}": value for name, value in line.items() if name != "epoch"}
        self.run.log(values, step=point)

    @_never_fails
    def picture(self, path: Path, point: int) -> None:
        self.run.log({path.stem: self.wandb.Image(str(path))}, step=point)

    @_never_fails
    def close(self, outcome: str) -> None:
        folder = _folder_of(self.run)
        try:
            self.run.finish(exit_code=0 if outcome in (FINISHED, STOPPED) else 1)
        except TimeoutError:
            log.warning("Weights & Biases is slow: wandb sync %s uploads the rest", folder)


def _begin(wandb: Any, run: RunToReport, project: str) -> Any:
    """Start or continue the run; offline if W&B cannot be reached, or not logged in to."""

    def begin(**how: Any) -> Any:
        settings = wandb.Settings(
            console="off", silent=True, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True,
            **how,
        )  # fmt: skip
        wandb.setup(settings)  # silent from here on: otherwise it asks for a key, and waits
        return wandb.init(
            project=project, id=run.id or None, name=run.folder.resolve().name, resume="allow",
            dir=run.folder, config=dict(run.settings), allow_val_change=True, settings=settings,
        )  # fmt: skip

    try:
        begun = begin(init_timeout=INIT_SECONDS)
    except Exception as error:
        log.warning("--wandb: logging offline instead: %s", first_line(error))
        wandb.teardown()  # its service holds the id of the run that did not start
        begun = begin(mode="offline")
    if url := begun.url:
        log.info("Weights & Biases: %s", url)
    elif begun.offline:
        log.info("Weights & Biases, offline: wandb sync %s uploads it", _folder_of(begun))
    return begun


def _folder_of(run: Any) -> Path:
    return Path(run.dir).parent  # of the folder "files"
