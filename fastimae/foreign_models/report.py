"""The report of `accelerate`: a table of parts, what became of each, and what it brings."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fastimae.foreign_models.site import Site

State = Literal["swapped", "left", "waiting"]


@dataclasses.dataclass(frozen=True)
class Row:
    """A part of the model.

    speedup: time of the original's forward and backward pass by that of ours. share: the original's
    forward pass in that of the whole model's first call. None where not measured.
    """

    part: str
    state: State
    why: str = ""
    speedup: float | None = None
    share: float | None = None


@dataclasses.dataclass
class Report:
    """What `accelerate` found: `print` it for a table; `rows` has a `Row` for each part.

    sites: places that are, or may be, swapped. refused: other parts, with the reason. seconds: of
    the first whole call without its trials, None before it.
    """

    sites: list[Site] = dataclasses.field(default_factory=list)
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float | None = None

    @property
    def rows(self) -> list[Row]:
        """The parts as they are now, those that can be swapped first."""
        rows = [_row(site, self.seconds) for site in self.sites]
        return rows + [Row(part, "left", why) for part, why in self.refused.items()]

    @property
    def swapped(self) -> list[str]:
        """Parts whose calls our kernels take."""
        return [row.part for row in self.rows if row.state == "swapped"]

    @property
    def left(self) -> dict[str, str]:
        """Parts that are left alone, each with the reason."""
        return {row.part: row.why for row in self.rows if row.state == "left"}

    @property
    def waiting(self) -> list[str]:
        """Parts that were not called yet, or not in a way that ours supports."""
        return [row.part for row in self.rows if row.state == "waiting"]

    def __str__(self) -> str:
        cells = [("part", "state", "speed", "share", "why"), *map(_cells, grouped(self.rows))]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        lines = [
            "  ".join([*(text.ljust(w) for text, w in zip(row, widths, strict=False)), row[4]])
            for row in cells
        ]
        return "\n".join(line.rstrip() for line in lines)


def _row(site: Site, seconds: float | None) -> Row:
    """Describe a site: swapped if it is for some calls."""
    last = next((v for v in reversed(site.verdicts) if v.swapped), None)
    if not site.verdicts:
        return Row(site.label, "waiting", "for its first call")
    if last and not site.part.used(site.module):
        return Row(site.label, "left", "no other part has use for it")
    verdict = last or site.verdicts[-1]
    others = dict.fromkeys(v.why for v in site.verdicts if not v.swapped)
    why = "; ".join(f"not where it {each}" if last else each for each in others)
    timing = verdict.timing
    share = min(timing.seconds / seconds, 1.0) if timing and seconds else None
    speedup = timing.speedup if timing else None
    return Row(site.label, "swapped" if last else "left", why, speedup, share)


def grouped(rows: list[Row]) -> list[Row]:
    """Join rows that differ in numbers of their names alone: blocks.*.attn (12)."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        family = re.sub(r"(^|[._])\d+(?=\.|$)", r"\1*", row.part)
        groups.setdefault((family, row.state, row.why), []).append(row)
    return [_joined(family, members) for (family, *_), members in groups.items()]


def _joined(family: str, members: list[Row]) -> Row:
    if len(members) == 1:
        return members[0]
    shares = [row.share for row in members if row.share is not None]
    part, total = f"{family} ({len(members)})", sum(shares) if shares else None
    return dataclasses.replace(members[0], part=part, share=total)


def _cells(row: Row) -> tuple[str, ...]:
    speed = "" if row.speedup is None else f"{row.speedup:.2f}x"
    share = "" if row.share is None else f"{row.share:.0%}"
    return row.part, row.state, speed, share, row.why
