"""Flags of the tasks that read results: report, compare."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fastimae.settings import Expert, Settings


@dataclasses.dataclass(kw_only=True)
class ReportOptions(Settings):
    """One HTML file with a run's curves, pictures and numbers; it needs nothing else to open.

    fastimae-eval report runs/mae
    """

    run_folder: tyro.conf.Positional[
        Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    ] = None
    """Folder that fastimae-train or a study wrote, with the eval-* folders in it."""
    run: Expert[Path | None] = None
    """Earlier spelling of RUN."""
    output: Path | None = None
    """The file to write. None: report.html in RUN."""
    debug: Expert[bool] = False
    """Show tracebacks."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, and unless one folder is given."""
        super().check()
        self.require((self.run is None) != (self.run_folder is None), "name the folder of one run")

    def folder(self) -> Path:
        """Return the run's folder."""
        return self.run_folder or self.run


@dataclasses.dataclass(kw_only=True)
class CompareOptions(Settings):
    """Runs side by side: accuracies with the best marked, curves, pictures, settings that differ.

    fastimae-eval compare runs/mae runs/imae
    """

    runs: tyro.conf.Positional[tuple[Annotated[Path, tyro.conf.arg(metavar="RUN")], ...]]
    """Folders that fastimae-train wrote, with the eval-* folders in them."""
    output_dir: Path = Path("comparison")
    """Folder for compare.json and compare.html."""
    all: bool = False
    """Print the rows of evaluations' tables, too (they are in both files anyway)."""
    debug: Expert[bool] = False
    """Show tracebacks."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, and if no folder is given."""
        super().check()
        self.require(bool(self.runs), "name the folders of the runs")
