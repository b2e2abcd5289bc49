"""When, where and how a run was started and resumed; "unknown" where nothing is recorded."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastimae.engine.checkpoint_file import PROCESSES, RUN
from fastimae.engine.previous_runs import EVENTS, run_suffix
from fastimae.engine.run_file import STARTS, read_run_file
from fastimae.folders import FolderError
from fastimae.locks import InUse, check_free

UNKNOWN = "unknown"
SHOWN_VERSIONS = ("fastimae", "python", "torch", "triton")
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.(.+)\.\d+\.\d+\.run-\w+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """A start or a resume of a run. None and "" are unknown."""

    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    outcome: str = ""
    command: str = ""
    host: str = ""
    device: str = ""
    processes: int | None = None
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    commit: str = ""

    @property
    def duration(self) -> datetime.timedelta | None:
        """The time from start to end; None if one of them is unknown."""
        return self.ended - self.started if self.started and self.ended else None

    @property
    def machine(self) -> str:
        """Device and processes in words."""
        count = f"{self.processes} x " if self.processes and self.processes > 1 else ""
        return f"{count}{self.device or 'unknown device'}" if count or self.device else UNKNOWN


def read_starts(folder: Path, settings: Mapping[str, Any]) -> tuple[Start, ...]:
    """Return the starts in run.yaml; for older runs, those in the names of TensorBoard's files.

    settings: those in the checkpoint.
    """
    entries = (read_run_file(folder) or {}).get(STARTS)
    known = entries if isinstance(entries, list) else ()
    found = [_start(entry) for entry in known if isinstance(entry, dict)]
    return tuple(found or _starts_of_older_run(folder, settings))


def _starts_of_older_run(folder: Path, settings: Mapping[str, Any]) -> list[Start]:
    """Return a start for each of TensorBoard's files of this run; the settings are the last's."""
    files = folder.glob(EVENTS + run_suffix(str(settings[RUN]))) if settings.get(RUN) else ()
    found = [_EVENT_FILE.fullmatch(name) for name in sorted(file.name for file in files)]
    starts = [Start(started=_instant(int(match[1])), host=match[2]) for match in found if match]
    *earlier, last = starts or [Start()]
    processes, device = settings.get(PROCESSES), str(settings.get("device", ""))
    device = "" if device == "auto" else device
    return [*earlier, dataclasses.replace(last, processes=processes, device=device)]


def facts_of(starts: Sequence[Start], folder: Path) -> dict[str, str]:
    """Return when and where a run was computed, in words; its command is not among them."""
    last = starts[-1]
    return {
        "Started": when(starts[0].started),
        "Ended": _end_of(last, folder),
        "Time spent": _total(starts),
        "Starts": _count(starts),
        "Device": _joined(start.machine for start in starts),
        "Host": _joined(start.host or UNKNOWN for start in starts),
        "Versions": _versions(last.versions) or UNKNOWN,
        "Commit": _joined(start.commit or UNKNOWN for start in starts),
    }


def table_of(starts: Sequence[Start]) -> list[dict[str, Any]]:
    """Return a row for each start of a run that was resumed; no rows for others."""
    if len(starts) < 2:
        return []
    return [
        {
            "started": when(start.started),
            "ended": when(start.ended),
            "time": _spent(start.duration),
            "outcome": start.outcome or UNKNOWN,
            "device": start.machine,
            "host": start.host or UNKNOWN,
            "command": start.command or UNKNOWN,
        }
        for start in starts
    ]


def when(instant: datetime.datetime | None) -> str:
    """Write a date and time in UTC."""
    if instant is None:
        return UNKNOWN
    return f"{instant.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def parse_date(value: Any) -> datetime.datetime | None:
    """Read a date as results.json and YAML hold it; one without a time zone is in UTC."""
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime.datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)


def _start(entry: Mapping[str, Any]) -> Start:
    processes, versions = entry.get("processes"), entry.get("versions")
    texts = ("outcome", "command", "host", "device", "commit")
    return Start(
        started=parse_date(entry.get("started")),
        ended=parse_date(entry.get("ended")),
        processes=processes if isinstance(processes, int) else None,
        versions=versions if isinstance(versions, dict) else {},
        **{name: str(entry.get(name) or "") for name in texts},
    )


def _instant(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _end_of(last: Start, folder: Path) -> str:
    if last.ended:
        return f"{when(last.ended)}{f' ({last.outcome})' if last.outcome else ''}"
    try:
        check_free(folder)
    except InUse:
        return "still running"
    except FolderError:
        pass
    return f"{UNKNOWN}: no end was recorded" if last.command else UNKNOWN


def _total(starts: Sequence[Start]) -> str:
    """Add up the time of all starts; a start that was killed has no end."""
    known = [start.duration for start in starts if start.duration is not None]
    if not known:
        return UNKNOWN
    total = _spent(sum(known, datetime.timedelta()))
    missing = len(starts) - len(known)
    return f"{total}, and {missing} of {len(starts)} starts of unknown length" if missing else total


def _spent(duration: datetime.timedelta | None) -> str:
    """Write a duration in the two largest units that it fills."""
    if duration is None:
        return UNKNOWN
    seconds = max(round(duration.total_seconds()), 0)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


def _count(starts: Sequence[Start]) -> str:
    if len(starts) == 1 and starts[0].started is None:
        return UNKNOWN
    resumed = len(starts) - 1
    return f"{len(starts)}, resumed {resumed} time{'s' * (resumed > 1)}" if resumed else "1"


def _joined(values: Iterable[str]) -> str:
    """Return different values in order; a run that moved has several."""
    return ", then ".join(dict.fromkeys(values))


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in SHOWN_VERSIONS if name in versions)
