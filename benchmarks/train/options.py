"""The options of the benchmark; each is a flag of `python -m benchmarks.train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from benchmarks.train.cases import CASES, SMOKE_CASES, Case, default_cases
from benchmarks.train.variants import contestants
from fastimae.bench.options import cores
from fastimae.settings import ConfigError


@dataclasses.dataclass(kw_only=True)
class Options:
    """Train on this machine in the usual ways and in ours, taking turns, and compare.

    Variants: reference (the plain pipeline, eager; fp16 on a GPU, fp32 on a CPU), reference_bf16,
    reference_tuned (what a careful user makes of it: bf16 where it pays, SDPA, torch.compile, no
    wait for the loss) and fastimae. First each has to compute the same loss. Prints tables in
    Markdown. Exits with 1 if a case fails; a speed is never a failure. Use a quiet machine.
    """

    cases: tuple[str, ...] = ()
    """Models, instead of those that the device trains in minutes."""
    data: Path | None = None
    """A .beton file: measure our step fed by our loader, too."""
    folder: Path | None = None
    """The same images as folders of classes: measure the plain pipeline fed by its loader, too."""
    out: Path | None = None
    """JSON file with everything measured so far, round by round; plots are written beside it, as
    .png."""
    device: str = "auto"
    """cuda, cpu, or auto."""
    ladder: bool = False
    """Measure one optimisation after another, from the plain pipeline to ours, for i-MAE."""
    table: bool = True
    """Measure the variants; --no_table for the ladder alone."""
    variants: tuple[str, ...] = ()
    """Only these of them, and of the fed ones."""
    batch_size: tuple[int, ...] = ()
    """Images of a step: one number, or one for each of --cases; by default what fits a GPU of
    80 GB, for all variants, or little on a CPU."""
    rounds: int | None = None
    """Timings of each variant; by default 7 on a GPU, 3 on a CPU."""
    compile: bool = True
    """torch.compile in reference_tuned, which takes a minute or two."""
    num_workers: int | None = None
    """Of the loaders; by default one for each core, at most 16."""
    seconds: float = 8.0
    """How long to measure each fed variant."""
    smoke: bool = False
    """Tiny models, to try the benchmark itself."""
    debug: bool = False
    """Show tracebacks."""

    def __post_init__(self) -> None:
        known = SMOKE_CASES if self.smoke else CASES
        if unknown := [name for name in self.cases if name not in known]:
            raise ConfigError(f"--cases {unknown[0]} is not one of {', '.join(known)}")
        ways = contestants(torch.device("cpu"))  # of the same names everywhere
        if unknown := [name for name in self.variants if name not in ways]:
            raise ConfigError(f"--variants {unknown[0]} is not one of {', '.join(ways)}")
        if min(self.batch_size, default=1) < 1 or (self.rounds is not None and self.rounds < 1):
            raise ConfigError("--batch_size and --rounds must be at least 1")
        if len(self.batch_size) > 1 and len(self.batch_size) != len(self.cases):
            raise ConfigError("--batch_size: give one number, or one for each of --cases")
        if self.folder is not None and self.data is None:
            raise ConfigError("--folder is for the plain pipeline: give ours the same as --data")

    @property
    def where(self) -> torch.device:
        """The device to measure."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def chosen(self) -> list[Case]:
        """The cases to measure."""
        known = SMOKE_CASES if self.smoke else CASES
        names = self.cases or default_cases(self.where, self.smoke)
        sizes = self.batch_size or (None,)
        if len(sizes) == 1:
            sizes *= len(names)
        return [self._changed(known[name], size) for name, size in zip(names, sizes, strict=True)]

    def _changed(self, case: Case, batch_size: int | None) -> Case:
        asked = {"batch": batch_size, "rounds": self.rounds}
        changes = {
            f"{name}_{kind}": value
            for name, value in asked.items()
            for kind in ("cuda", "cpu")
            if value is not None
        }
        return dataclasses.replace(case, **changes)

    @property
    def workers(self) -> int:
        """Threads or processes of a loader."""
        return cores() if self.num_workers is None else self.num_workers
