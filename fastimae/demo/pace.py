"""How fast this machine trains the demo's model, and how many epochs it has time for.

`python -m fastimae.demo.pace F.beton` measures, in a process of its own, which leaves no memory of
a GPU occupied.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from fastimae.demo.commands import DemoError
from fastimae.engine.launcher import without_ranks
from fastimae.recipes import RECIPES

SECONDS = 240
"""The demo's time, all of it."""
MARGIN = 20
"""Seconds of that for pictures, checkpoints and processes that end."""
MEASURED_SECONDS, TRIES = 3.0, 3
"""The fastest try counts: another program may have taken the cores for a moment."""
SMALL_BATCH = {"batch_size": 16, "mix_group": 16}
"""Half of the recipe's: twice as many steps learn as much from two thirds of the images."""
LEAST_EPOCHS = 3
"""With fewer, the two images of a mixture are not apart."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """The speed of this machine."""

    img_per_s: float
    """Mixtures that it trains on per second."""
    start: float
    """Seconds from the start of a process to its first step."""


class Length(NamedTuple):
    """How long to train."""

    epochs: int
    seconds: float
    """Expected, of both processes together."""


def choose_length(pace: Pace, images: int, left: float) -> Length:
    """Return the recipe's epochs, or as many as fit into the `left` seconds, or those needed."""
    starts = 2 * pace.start + MARGIN
    per_epoch = images / pace.img_per_s
    fitting = int((left - starts) / per_epoch)
    epochs = min(max(fitting, LEAST_EPOCHS), RECIPES["demo"]()["epochs"])
    return Length(epochs, starts + epochs * per_epoch)


def measure(beton: Path) -> Pace:
    """Measure this machine in another process. Raises DemoError if that fails."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "fastimae.demo.pace", str(beton)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env=without_ranks(os.environ)
    )
    if done.returncode:
        raise DemoError(f"measuring the machine exited with status {done.returncode}")
    measured = json.loads(done.stdout)
    start = time.monotonic() - begin - measured["seconds"]
    return Pace(img_per_s=measured["img_per_s"], start=start)


def main(beton: Path) -> None:
    """Print the mixtures per second, and the seconds that measuring took, as JSON."""
    import torch

    from fastimae.bench.measure import combined_speed
    from fastimae.config import config_with, updated

    recipe = RECIPES["demo"]()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = {**recipe, **SMALL_BATCH, "ffcv": str(beton)}
    config = updated(config_with(recipe["objective"]), settings, lambda _: "recipe demo")
    begin = time.monotonic()
    speeds = [combined_speed(config, device, MEASURED_SECONDS).img_per_s for _ in range(TRIES)]
    print(json.dumps({"img_per_s": max(speeds), "seconds": time.monotonic() - begin}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
