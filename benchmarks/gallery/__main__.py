"""Run the commands of docs/gallery.md and copy their pictures: `python -m benchmarks.gallery`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from benchmarks.conditions import ROOT
from benchmarks.gallery import copies, hero, script
from fastimae.demo.drawing import SHAPES, draw_dataset, draw_scenes
from fastimae.flags import OnceParser
from fastimae.streams import closed_early_is_fine

WORK = ROOT / "build/gallery"
TRAIN, VAL = 400, 40
"""Drawings of each kind."""
MASKED = {"train": 40, "val": 4}
"""Those with masks, for segmentation."""


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Run everything, about half an hour on two cores; with --copy_only only copy pictures."""
    parser = OnceParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="folder to run the commands in")
    parser.add_argument("--copy_only", action="store_true", help="use the pictures that are there")
    options = parser.parse_args(argv)
    work = options.work.resolve()
    page = (ROOT / script.PAGE).read_text()
    if not options.copy_only:
        draw(work)
        for command in script.commands(page):
            print(f"\n=== $ {command}", flush=True)
            subprocess.run(["bash", "-euc", command], cwd=work, env=environment(), check=True)
    pictures = script.pictures(page)
    for picture in pictures:
        copies.copy(work / picture.source, ROOT / "docs" / picture.target, picture.command)
    hero.draw(work / hero.SOURCE, ROOT / hero.TARGET, script.command_of(page, hero.SOURCE))
    print(f"{len(pictures) + 1} pictures in docs/images")
    return 0


def draw(work: Path) -> None:
    """Draw the images to train and to test on; remove what an earlier run left."""
    shutil.rmtree(work, ignore_errors=True)
    for name, count, seed in (("train", TRAIN, 0), ("val", VAL, 1)):
        draw_dataset(work / "pictures" / name, count, seed)
        draw_scenes(work / "scenes" / name, MASKED[name], seed)
    for name, change in {"gray": ImageOps.grayscale, "negative": ImageOps.invert}.items():
        change_all(work / "pictures/val", work / "sets" / name, change)
    (work / "scenes" / "classes.txt").write_text("\n".join(["paper", *SHAPES]))


def change_all(source: Path, target: Path, change: Callable[[Image.Image], Image.Image]) -> None:
    """Write the images of a folder of classes to another one, changed."""
    for path in source.rglob("*.jpg"):
        copied = target / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        change(Image.open(path)).save(copied)


def environment() -> dict[str, str]:
    """Return this process's environment, with the console scripts of this Python first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    sys.exit(main())
