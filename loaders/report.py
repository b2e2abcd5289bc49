"""What a conversion did, for the user and for the manifest beside the file."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from fastimae.loaders.depth import about_depth
from fastimae.loaders.encode import MENDED, PASSED_THROUGH
from fastimae.loaders.items import LISTED
from fastimae.loaders.verify import Verification


@dataclasses.dataclass(kw_only=True)
class ConvertReport:
    """The outcome of one conversion, or of checking a file."""

    path: Path
    """The .beton file."""
    samples: int
    """Images in it."""
    class_count: int = 0
    how: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many samples were passed through, mended, or encoded for which reason."""
    shrunk: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many samples have fewer pixels than their originals, and why."""
    depths: Counter[str] = dataclasses.field(default_factory=Counter)
    """How many samples had more than 8 bits, by what `pixels.depth_of` says of them."""
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Images left out: name and reason."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What the user should know about how it was done."""
    verified: Verification | None = None
    """What a look at the whole file found; None: not checked."""

    @property
    def bad(self) -> list[tuple[str, str]] | None:
        """Samples of the file that are not whole; None: not checked."""
        return None if self.verified is None else self.verified.bad

    @property
    def passed_through(self) -> int:
        """Samples whose bytes are the original JPEG file's."""
        return self.how.get(PASSED_THROUGH, 0)

    @property
    def mended(self) -> dict[str, int]:
        """Samples that are the original's coded data between other markers, by what was odd."""
        return {why: count for why, count in self.how.items() if why.endswith(MENDED)}

    @property
    def encoded(self) -> dict[str, int]:
        """Samples whose image was encoded again, or written as raw pixels, by the reason."""
        others = {PASSED_THROUGH, *self.mended}
        return {why: count for why, count in self.how.items() if why not in others}

    def exit_status(self, strict: bool = False) -> int:
        """0, or 1 if nothing was written, a sample is bad, or `strict` and an image skipped."""
        return int(not self.samples or bool(self.bad) or (strict and bool(self.skipped)))

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = [self._headline()]
        if self.passed_through:
            lines.append(f"  {self.passed_through} passed through untouched")
        mended = {why.removesuffix(MENDED): count for why, count in self.mended.items()}
        lines += _counted("mended without loss", mended)
        lines += _counted("encoded", self.encoded)
        lines += _counted("shrunk", self.shrunk)
        lines += [f"  {line}" for line in about_depth(self.depths)]
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
        classes = f"{self.class_count} classes" if self.class_count else "no labels"
        return f"{self.path}: {self.samples} images, {classes}, {size}"


def format_bytes(count: float) -> str:
    """12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _counted(what: str, causes: dict[str, int]) -> list[str]:
    """The line for samples that share a fate, the most frequent cause first."""
    ordered = sorted(causes.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{why}: {count}" for why, count in ordered)
    return [f"  {sum(causes.values())} {what} ({shown})"] if causes else []


def _checksums(found: Verification) -> list[str]:
    lines = []
    if not found.has_trailers:
        lines.append("  the file has no checksums: damage that still decodes goes unnoticed")
    if not found.has_record:
        lines.append("  its labels have no checksum: convert again to have one")
    return lines or ([] if found.bad else ["  every checksum is right"])


def _named(what: str, entries: list[tuple[str, str]]) -> list[str]:
    if not entries:
        return []
    lines = [f"  {len(entries)} {what}:"]
    lines += [f"    {name}: {reason}" for name, reason in entries[:LISTED]]
    if len(entries) > LISTED:
        lines.append(f"    and {len(entries) - LISTED} more")
    return lines
