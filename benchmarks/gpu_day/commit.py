"""Which commit is measured, on a machine that may have no git."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from benchmarks.conditions import ROOT, commit

FILE = "commit"
"""Of a kit: the commit, and what its sources add up to."""
_FOLDERS = ("fastimae", "kernels", "loaders", "benchmarks", "tests")
_KINDS = (".py", ".sh", ".cc", ".h", ".json")


def write_commit(kit: Path) -> None:
    """Note the commit of this tree in a kit."""
    (kit / FILE).write_text(f"{commit()} {digest()}\n")


def measured_commit(kit: Path) -> str:
    """By git, or else as the kit says: "-dirty" where the sources are not the kit's."""
    found = commit()
    if found == "unknown" and (kit / FILE).exists():
        found, _, noted = (kit / FILE).read_text().strip().partition(" ")
        found += "" if noted == digest() or found.endswith("-dirty") else "-dirty"
    return found


def digest(root: Path = ROOT) -> str:
    """A hash of the names and bytes of all sources, which results are not."""
    walks = (walk for folder in _FOLDERS for walk in os.walk(root / folder))  # follows no links
    paths = [Path(folder, name) for folder, _, names in walks for name in names]
    sources = {
        path.relative_to(root).as_posix(): path
        for path in paths
        if path.suffix in _KINDS and path.parent.name != "results"
    }
    whole = hashlib.sha256()
    for name, path in sorted(sources.items()):
        whole.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]
