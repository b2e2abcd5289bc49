"""The ledger: the table of records in README.md, and whether each record is what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import card, table
from benchmarks.speedrun.entry import Entry
from benchmarks.speedrun.rules import JUDGE, SEEDS, TRACKS, TRAIN_IMAGES, VAL_IMAGES, too_large
from benchmarks.speedrun.run import last_of, means

PAGE = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- ledger -->", "<!-- end of the ledger -->"


def reaches(record: Mapping[str, Any], track: str) -> bool:
    """Return whether a record has all seeds, and its mean accuracy is the target at least."""
    seeds = [run["seed"] for run in record["runs"]]
    return seeds == list(SEEDS) and record["mean_acc1"] >= TRACKS[track].target


def problems(entry: Entry, track: str) -> Iterator[str]:
    """Yield what is wrong with an entry's record on a track, a line each."""
    if (record := entry.record(track)) is None:
        return
    if not record["complete"]:
        yield "its run did not end"
    if record["files"] != entry.digests():
        yield f"{', '.join(entry.digests())}: not what was run: run it again"
    if record["judge"] != JUDGE:
        yield "another probe was its judge"
    if {name: record[name] for name in means(record["runs"])} != means(record["runs"]):
        yield "its means are not those of its runs"
    for run in record["runs"]:
        yield from (f"seed {run['seed']}: {line}" for line in _of_run(entry, track, run))


def _of_run(entry: Entry, track: str, run: Mapping[str, Any]) -> Iterator[str]:
    yield from too_large(run["encoder_parameters"])
    if run["train_images"] != TRAIN_IMAGES or run["val_images"] not in VAL_IMAGES:
        yield f"{run['train_images']} and {run['val_images']} images are not CIFAR-10's"
    log = entry.log_file(track, run["seed"])
    if not log.exists():
        yield f"{log.name} is missing"
    elif not last_of(log.read_text(encoding="utf-8")).items() <= run.items():
        yield f"{log.name} has another end than the record"


def page_with(entries: Sequence[Entry], page: str) -> str:
    """Return README.md's text with the table of these entries' records."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(entries)}\n{END}{after}"


def tables(entries: Sequence[Entry]) -> str:
    """Make a table for each track: the fastest record first, then what misses the target."""
    parts = []
    for name, track in TRACKS.items():
        found = [(entry, entry.record(name)) for entry in entries if entry.record(name)]
        found.sort(key=lambda pair: (not reaches(pair[1], name), pair[1]["mean_seconds"]))
        rows = [_row(entry, record, name) for entry, record in found]
        parts.append(f"**{track.hardware}, to {track.target:g} %**\n")
        parts.append(table(rows) if rows else "No entry yet.\n")
    return "\n".join(parts)


def _row(entry: Entry, record: Mapping[str, Any], track: str) -> dict[str, object]:
    accuracies = ", ".join(f"{run['acc1']:.2f}" for run in record["runs"])
    return {
        "entry": f"[{entry.name}](entries/{entry.name}/{entry.record_file(track).name})",
        "what": entry.title,
        "by": entry.by,
        "seconds": f"{record['mean_seconds']:.0f}",
        "linear probe": f"{record['mean_acc1']:.2f} % ({accuracies})",
        "target": "reached" if reaches(record, track) else "**not reached**",
        "measured": f"{record['date'][:10]}, {card(record)}",
    }
