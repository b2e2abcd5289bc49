"""How fast is this machine? `python -m benchmarks`, or `make bench`, shows it in a few minutes.

Measures our loader against the usual ones, on a .beton file or on made-up pictures, and our
training step against the plain pipeline. Results are written to one folder. For more loaders and
variants: `python -m benchmarks.loaders`, `python -m benchmarks.train`. For the flags that make your
training faster: `fastimae-bench F.beton`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import ROOT, number
from benchmarks.pictures import made_up_beton
from fastimae.flags import OnceParser
from fastimae.loaders.native_library import load
from fastimae.streams import closed_early_is_fine

OUT = ROOT / "build" / "bench"
LOADERS = ("native", "pillow", "torchvision")
"""Our engine, our loader with Pillow, and the usual pipeline."""
CASE, SMOKE_CASE = "mae_vit_base_patch16", "mae_vit_nano_patch8"
VARIANTS = ("fastimae", "reference")
SMOKE_PICTURES = {"count": 64, "sides": (100, 75)}
"""As many as the loaders' benchmark has in a batch."""
Command = tuple[object, ...]


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Run both benchmarks; return 0 if both ended well."""
    options = parser().parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.data or made_up_beton(options.out, **SMOKE_PICTURES if options.smoke else {})
    status = 0
    for command in (loading(options, data), training(options)):
        words = [sys.executable, "-m", *map(str, command)]
        status |= subprocess.run(words, check=False).returncode
    print("\n".join(summary(options.out)))
    return int(status != 0)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = OnceParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("--data", type=Path, metavar="F.beton", help="JPEGs, not made-up pictures")
    made.add_argument("--out", type=Path, default=OUT, help="folder for everything it writes")
    made.add_argument("--smoke", action="store_true", help="a tiny model, and small pictures")
    return made


def loading(options: argparse.Namespace, data: Path) -> Command:
    """Return the command that measures loaders; our engine only if it is built."""
    names = LOADERS if load() else LOADERS[1:]
    length = ("--rounds", 3, "--seconds", 0.1 if options.smoke else 1, "--no_sweep")
    return (
        *("benchmarks.loaders", "--data", data, "--only", *names, *length),
        *("--out", options.out / "loaders.json"),
    )


def training(options: argparse.Namespace) -> Command:
    """Return the command that measures training steps."""
    case = ("--smoke", "--cases", SMOKE_CASE) if options.smoke else ("--cases", CASE)
    return (
        *("benchmarks.train", *case, "--variants", *VARIANTS, "--rounds", 2, "--no_compile"),
        *("--out", options.out / "train.json"),
    )


def summary(folder: Path) -> list[str]:
    """Sum up the results in a folder, in a line each."""
    lines = []
    for what, key, file in (
        ("Loading", "backend", "loaders.json"),
        ("Training", "variant", "train.json"),
    ):
        path = folder / file
        rows = json.loads(path.read_text())["results"] if path.exists() else []
        lines.append(f"{what}: {_speeds({row[key]: row['img_per_s'] for row in rows})}")
    return [*lines, f"All results are in {folder}"]


def _speeds(speeds: Mapping[str, float]) -> str:
    """Describe the fastest, in images per second and in multiples of the others."""
    ordered = sorted(speeds.items(), key=lambda item: -item[1])
    if not ordered:
        return "not measured"
    (name, best), *others = ordered
    times = [f", {best / speed:.1f} x {other} ({number(speed)})" for other, speed in others]
    return f"{name} {number(best)} images/s{''.join(times)}"


if __name__ == "__main__":
    sys.exit(main())
