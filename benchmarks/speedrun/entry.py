"""An entry of the speedrun: a folder with entry.yaml, and its records by track."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speedrun.rules import broken_by
from fastimae.arguments import parse_training
from fastimae.config import flatten
from fastimae.config_file import read_yaml
from fastimae.engine.run_file import to_yaml
from fastimae.folders import write_text
from fastimae.settings import ConfigError

ENTRIES = Path(__file__).parent / "entries"
FILE = "entry.yaml"
_KEYS = {"title": str, "by": str, "settings": dict}
_FILES = re.compile(r"entry\.yaml|\w+\.py|__pycache__|results_\w+\.json|log_\w+\.txt")
"""Names of what an entry's folder may hold."""


class Entry(NamedTuple):
    """What is trained: settings of fastimae-train, and an objective of its own if it likes."""

    folder: Path
    title: str
    by: str
    settings: dict[str, Any]
    """By flag name, as in a file for --config."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    def write_config(self, file: Path) -> Path:
        """Write the settings for --config."""
        write_text(file, to_yaml(self.settings))
        return file

    def record_file(self, track: str) -> Path:
        """Return the file of its record on a track."""
        return self.folder / f"results_{track}.json"

    def log_file(self, track: str, seed: int) -> Path:
        """Return the file of a run's losses, epoch by epoch."""
        return self.folder / f"log_{track}_seed{seed}.txt"

    def record(self, track: str) -> dict[str, Any] | None:
        """Read its record on a track, if it has one."""
        file = self.record_file(track)
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def digests(self) -> dict[str, str]:
        """Return SHA-256 of the files that decide what is trained, by name."""
        files = [self.folder / FILE, *sorted(self.folder.glob("*.py"))]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def read_entry(folder: Path) -> Entry:
    """Read an entry's folder, and check its settings against the rules. Raises ConfigError."""
    folder = folder.resolve()
    if not (folder / FILE).exists():
        raise ConfigError(f"no entry {folder.name}: there is no {FILE} in {folder}")
    content = read_yaml(folder / FILE, f"{folder.name}/{FILE}")
    if content.keys() != _KEYS.keys() or not all(
        isinstance(content[key], kind) for key, kind in _KEYS.items()
    ):
        raise ConfigError(
            f"{content.source}: expected title and by, which are texts, and settings, a mapping"
        )
    entry = Entry(folder, content["title"], content["by"], content["settings"])
    broken = [
        f"{file.name}: an entry has no such file"
        for file in sorted(folder.iterdir()) if not _FILES.fullmatch(file.name)
    ]  # fmt: skip
    if broken := broken or list(broken_by(entry.settings, all_settings(entry))):
        raise ConfigError(f"{content.source}: {'; '.join(broken)}")
    return entry


def all_settings(entry: Entry) -> dict[str, Any]:
    """Return all settings that follow from an entry's, by flag name. Raises ConfigError."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(entry.folder):
        config = entry.write_config(Path(place) / FILE)
        try:
            return flatten(parse_training("fastimae-train", ["--config", str(config)]))
        except ConfigError as error:  # it names that file, and the line there
            why = re.sub(rf"^config {re.escape(str(config))}(, line \d+)?: ", "", str(error))
            raise ConfigError(f"{entry.name}/{FILE}: {why}") from error


def all_entries() -> list[Entry]:
    """Read all entries, by name. Raises ConfigError."""
    return [read_entry(file.parent) for file in sorted(ENTRIES.glob(f"*/{FILE}"))]
