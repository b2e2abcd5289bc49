"""run.yaml in each run folder: all settings, and when, where and with what the run was started.

The settings are at the top level, as --print_config prints them, so that --config reads the file
back. The list under `starts` has an entry for each start and resume.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fastimae import __version__
from fastimae.best_effort import best_effort
from fastimae.engine.checkpoint_file import changed_settings
from fastimae.engine.command_line import command_line
from fastimae.folders import write_text
from fastimae.machine import checkout_commit, versions_of
from fastimae.wording import in_one_line

if TYPE_CHECKING:
    from fastimae.engine.distributed import World

RUN_FILE = "run.yaml"
STARTS = "starts"
FINISHED, STOPPED, INTERRUPTED = "finished", "stopped", "interrupted"
"""Outcomes: stopped by a signal, and saved; interrupted, and not saved. Or "error: ...". The entry
of a run that is running, or was killed, has neither `outcome` nor `ended`."""
_PACKAGES = (
    *("torch", "triton", "numpy", "pillow", "torchvision", "timm"),
    *("scikit-learn", "torchmetrics", "piq"),
)


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The one in C, where PyYAML has it, takes a tenth of the time."""


def read_run_file(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's run.yaml; None if there is none that can be read."""
    try:
        content = yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def to_yaml(content: Mapping[str, Any]) -> str:
    """Return plain settings as YAML, in their order, each value in one line."""
    return yaml.dump(
        dict(content), Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=2**31 - 1
    )


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those that decide results."""
    own = {"python": platform.python_version(), "fastimae": __version__}
    return own | _installed()


@functools.cache
def _installed() -> dict[str, str]:
    return versions_of(_PACKAGES)


class RunFile:
    """Writes the run.yaml of a folder. A file that cannot be written is a warning."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], **facts: Any) -> None:
        """Note the settings, by flag name as plain values, and the time, which is the start's.

        facts: more values for each entry.
        """
        self.folder, self.settings, self.facts = folder, settings, facts
        self.created = _now()
        self.starts: list[dict[str, Any]] = []
        """The entries, once the file has one of this process."""
        self.is_new = True
        """Whether there is no earlier entry, or settings that make the run have changed since."""

    @contextlib.contextmanager
    def recording(self, world: World, **facts: Any) -> Iterator[dict[str, Any]]:
        """Write the file with a new entry, and complete the entry when the block ends.

        Only the main process writes. facts: more values for the entry. The block sets the `outcome`
        of the entry that it gets.
        """
        self._begin(world, facts)
        entry = self.starts[-1]
        try:
            yield entry
        except KeyboardInterrupt:
            entry["outcome"] = INTERRUPTED
            raise
        except BaseException as error:
            entry["outcome"] = f"error: {in_one_line(error)}"
            raise
        finally:
            entry["ended"] = _now()
            self._write(world)

    def record(self, world: World) -> None:
        """Write the file with the entry of a run that has just finished."""
        with self.recording(world) as entry:
            entry["outcome"] = FINISHED

    def _begin(self, world: World, facts: Mapping[str, Any]) -> None:
        before = read_run_file(self.folder) or {}
        starts = before.get(STARTS)
        self.starts = starts if isinstance(starts, list) else []
        self.is_new = not self.starts or bool(changed_settings(before, self.settings))
        entry = {
            "started": self.created,
            "command": command_line(),
            **self.facts,
            **facts,
            "host": platform.node(),
            "device": world.device_name,
            "processes": world.size,
            "versions": versions(),
            "commit": checkout_commit() if world.is_main else None,  # it starts git
        }
        self.starts.append(entry)
        self._write(world)

    def _write(self, world: World) -> None:
        path = self.folder / RUN_FILE
        if world.is_main:
            with best_effort(path):
                write_text(path, to_yaml({**self.settings, STARTS: self.starts}))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
