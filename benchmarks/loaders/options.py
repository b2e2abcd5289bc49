"""The options of the benchmark; each is a flag of `python -m benchmarks.loaders`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.loaders.contestants import CONTESTANTS
from fastimae.loaders.errors import DataError
from fastimae.machine import usable_cores


@dataclasses.dataclass(kw_only=True)
class Options:
    """Measure all ways of loading a .beton file, with the same images for all.

    Prints a table in Markdown. Where a library is missing, says how to get it. Exits with 1 if a
    contestant fails, or if one that promises Pillow's pixels shows others; missing a target is no
    failure. Use a quiet machine: other work on the same cores shows in min and max.
    """

    data: Path
    """A .beton file of JPEGs, as `fastimae-convert DIR F.beton --max_resolution 500` writes."""
    folder: Path | None = None
    """Original images, in any layout that fastimae-convert reads: a second section measures the
    most important contestants with these, at their full size."""
    out: Path | None = None
    """JSON file with everything measured so far, round by round; tables and the plot over threads
    are written beside it, as .md and .png."""
    batch_size: int = 64
    """Images of a batch."""
    num_workers: int | None = None
    """Threads or processes of each contestant; by default one for each core."""
    images: int = 1000
    """At most so many images of each set, drawn at random. They should fit into memory, since the
    speed of the disk is not what is measured."""
    rounds: int = 5
    """Timings of each contestant."""
    seconds: float = 1.5
    """Length of one timing."""
    only: tuple[str, ...] = ()
    """Contestants, instead of all that can run; a missing one is then an error."""
    sweep: bool = True
    """Measure 1, 2, 4... threads too, up to --num_workers, and plot it."""
    seed: int = 0
    """Of the images drawn, their windows and the order of the contestants."""
    debug: bool = False
    """Show tracebacks."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "images", "rounds", "workers"):
            if getattr(self, name) < 1:
                raise DataError(f"--{'num_' * (name == 'workers')}{name} must be at least 1")
        if self.seconds <= 0:
            raise DataError(f"--seconds must be more than 0, not {self.seconds:g}")
        if unknown := sorted(set(self.only) - set(CONTESTANTS)):
            raise DataError(f"--only {unknown[0]}: is not one of {', '.join(CONTESTANTS)}")

    @property
    def workers(self) -> int:
        """Threads or processes to use."""
        return usable_cores() if self.num_workers is None else self.num_workers
