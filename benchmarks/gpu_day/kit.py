"""The contents of a kit that a run uses: the measured commit, and images to train on."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from benchmarks.conditions import ROOT, commit
from benchmarks.pictures import made_up_beton
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.errors import DataError

COMMIT, BETON = "commit", "images.beton"
CIFAR, CIFAR_VAL = "cifar.beton", "cifar_val.beton"
"""Files of a kit; the first has the commit and a hash of its sources."""
_FOLDERS = ("fastimae", "kernels", "loaders", "benchmarks", "tests")
_KINDS = (".py", ".sh", ".cc", ".h", ".json")


def write_commit(kit: Path) -> None:
    """Write the commit of this tree into a kit."""
    (kit / COMMIT).write_text(f"{commit()} {digest()}\n")


def measured_commit(kit: Path) -> str:
    """Return the commit by git, else by the kit, with "-dirty" if the sources are not the kit's."""
    found = commit()
    if found == "unknown" and (kit / COMMIT).exists():
        found, _, noted = (kit / COMMIT).read_text().strip().partition(" ")
        found += "" if noted == digest() or found.endswith("-dirty") else "-dirty"
    return found


def digest(root: Path = ROOT) -> str:
    """Hash the names and bytes of all sources; results are not sources."""
    walks = (
        walk for folder in _FOLDERS for walk in os.walk(root / folder)
    )  # does not follow links
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


def find_images(kit: Path, folder: Path) -> dict[str, Path | None]:
    """Return fields of `DaySettings`: a .beton, its JPEGs as folders of classes, and CIFAR-10's
    images for training and for validation.

    kit: as `benchmarks.gpu_kit` made it; if it has no images, made-up ones are used, with a message
    and a name that say so. folder: for what is written.
    """
    beton, images = kit / BETON, folder / "images"
    cifar = {name: kit / file for name, file in (("cifar", CIFAR), ("cifar_val", CIFAR_VAL))}
    try:
        unpack(beton, images)
    except DataError as error:
        print(f"using made-up pictures instead of images: {error}", file=sys.stderr)
        beton = made_up_beton(folder)
        unpack(beton, images)
    there = {name: file if file.exists() else None for name, file in cifar.items()}
    return {"beton": beton, "images": images, **there}


def unpack(beton: Path, folder: Path) -> None:
    """Write the samples of a .beton as files in folders of classes, with the same bytes."""
    with BetonReader(beton) as reader:
        for index, label in enumerate(reader.labels.tolist()):
            file = folder / f"{label:04d}" / f"{index:06d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(reader.read(index))
