"""The report on a conversion, for the user and for the manifest beside the file."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from fastimae.loaders.convert.encode import PASSED_THROUGH, REPAIRED
from fastimae.loaders.convert.statistics import ChannelStatistics
from fastimae.loaders.convert.verify import Verification
from fastimae.loaders.image_location import LISTED
from fastimae.loaders.images.depth import depth_notes


@dataclasses.dataclass(kw_only=True)
class ConvertReport:
    """The outcome of a conversion, or of checking a file."""

    path: Path
    """The .beton file."""
    samples: int
    """Images in it."""
    class_count: int = 0
    """Classes of its images."""
    source_samples: int = 0
    """Images of the source, if --limit takes only some of them; else 0."""
    source_classes: int = 0
    """Classes of all images of the source."""
    how: dict[str, int] = dataclasses.field(default_factory=dict)
    """Number of samples by `BetonSample.how`: passed through, repaired, or encoded and why."""
    shrunk: dict[str, int] = dataclasses.field(default_factory=dict)
    """Number of samples with fewer pixels than their originals, by reason."""
    depths: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of samples that had more than 8 bits, by `pixels.depth_of`."""
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Images left out: name and reason."""
    statistics: ChannelStatistics | None = None
    """Of pixels that are not 3 x uint8; None: not computed."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What the user should know about the conversion."""
    verified: Verification | None = None
    """The result of checking the file; None: not checked."""

    @property
    def bad(self) -> list[tuple[str, str]] | None:
        """Damaged samples of the file; None: not checked."""
        return None if self.verified is None else self.verified.bad

    @property
    def passed_through(self) -> int:
        """Number of samples whose bytes are the original JPEG file's."""
        return self.how.get(PASSED_THROUGH, 0)

    @property
    def repaired(self) -> dict[str, int]:
        """Number of samples that are the original's coded data between other markers, by fault."""
        return {why: count for why, count in self.how.items() if why.endswith(REPAIRED)}

    @property
    def encoded(self) -> dict[str, int]:
        """Number of samples that were encoded again or written as raw pixels, by reason."""
        others = {PASSED_THROUGH, *self.repaired}
        return {why: count for why, count in self.how.items() if why not in others}

    def exit_status(self, strict: bool = False) -> int:
        """Return 1 if nothing was written, a sample is bad, or `strict` and an image skipped."""
        return int(not self.samples or bool(self.bad) or (strict and bool(self.skipped)))

    def summary(self) -> str:
        """Make a few lines for the terminal."""
        lines = [self._headline()]
        if self.passed_through:
            lines.append(f"  {self.passed_through} passed through untouched")
        repaired = {why.removesuffix(REPAIRED): count for why, count in self.repaired.items()}
        lines += _counted("repaired without loss", repaired)
        lines += _counted("encoded", self.encoded)
        lines += _counted("shrunk", self.shrunk)
        lines += [f"  {line}" for line in depth_notes(self.depths)]
        lines += [f"  {self.statistics}"] if self.statistics else []
        lines += _named("skipped", self.skipped)
        if self.verified is not None:
            lines += _named("bad", self.verified.bad) or ["  every sample decodes"]
            lines += _checksums(self.verified)
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def _headline(self) -> str:
        if not self.samples:
            return f"{self.path}: not written, no image could be used"
        size = format_bytes(self.path.stat().st_size)
        images = f"{self.samples}{_of(self.samples, self.source_samples)} images"
        classes = f"{self.class_count}{_of(self.class_count, self.source_classes)} classes"
        return f"{self.path}: {images}, {classes if self.class_count else 'no labels'}, {size}"


def format_bytes(count: float) -> str:
    """Format a size as `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _of(count: int, source: int) -> str:
    """Return " of 10" to put after a count that is below the source's."""
    return f" of {source}" if count < source else ""


def _counted(what: str, causes: dict[str, int]) -> list[str]:
    """Make the line for samples that were treated the same way, the most frequent reason first."""
    ordered = sorted(causes.items(), key=lambda pair: (-pair[1], pair[0]))
    listed = ", ".join(f"{why}: {count}" for why, count in ordered)
    return [f"  {sum(causes.values())} {what} ({listed})"] if causes else []


def _checksums(verified: Verification) -> list[str]:
    lines = []
    if not verified.has_trailers:
        lines.append("  the file has no checksums: damage that still decodes goes unnoticed")
    if not verified.has_record:
        lines.append("  its labels have no checksum: convert again to add one")
    return lines or ([] if verified.bad else ["  every checksum is correct"])


def _named(what: str, entries: list[tuple[str, str]]) -> list[str]:
    if not entries:
        return []
    lines = [f"  {len(entries)} {what}:"]
    lines += [f"    {name}: {reason}" for name, reason in entries[:LISTED]]
    if len(entries) > LISTED:
        lines.append(f"    and {len(entries) - LISTED} more")
    return lines
