"""The whole chain in a few minutes on two CPU cores: `make demo`, or `python -m fastimae.demo`.

Makes pictures (or takes a folder), then runs the commands a user would run, each shown before it
runs: convert, pre-train a small i-MAE, stop it in the middle, resume it, look at the result.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fastimae.engine.launcher import stands_aside, without_ranks
from fastimae.flags import OnceParser
from fastimae.folders import FolderError
from fastimae.locks import folder_to_write
from fastimae.settings import Seeded

SIDE = 96
PER_CLASS = 400
LIMIT = 4000
"""Images of a folder of your own that are used, drawn at random: more would take longer."""
STEP_SECONDS = 900
"""A command that takes longer than this hangs, and fails the demo."""

Field = np.ndarray  # [N, SIDE, SIDE], float


class DemoError(Exception):
    """A step of the demo failed."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo; 0 if every step worked and the loss fell, else 1."""
    parser = OnceParser(prog="python -m fastimae.demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of images (default: made here)")
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"))
    options = parser.parse_args(arguments)
    if stands_aside("the demo"):
        return 0
    try:
        with folder_to_write(options.output_dir):
            demo(options.data, options.output_dir)
    except (DemoError, FolderError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def demo(data: Path | None, output: Path) -> None:
    """Every step in turn. Raises DemoError at the first that fails."""
    begin = time.monotonic()
    beton, run_dir = output / "demo.beton", output / "run"
    for stale in output.glob(f"{beton.name}*"):
        stale.unlink()
    shutil.rmtree(run_dir, ignore_errors=True)
    if data is None:
        data = output / "images"
        say(f"drawing {PER_CLASS} pictures of each of {len(SHAPES)} kinds into {data}")
        draw_dataset(data, PER_CLASS)
    run(["fastimae-convert", str(data), str(beton), "--limit", str(LIMIT)])
    train = ["fastimae-train", "--recipe", "demo"]
    train += ["--ffcv", str(beton), "--output_dir", str(run_dir)]
    if run_and_interrupt(train, run_dir):
        run([*train, "--resume", "auto"])
    else:
        say("so few images that the run was over before it could be stopped: nothing to resume")
    first, last = loss_fell(run_dir / "log.txt")
    picture = run_dir / "reconstruction.png"
    if not picture.is_file():
        raise DemoError(f"{picture} was not made")
    say(
        f"done in {time.monotonic() - begin:.0f} s; the loss fell from {first:.3f} to {last:.3f}\n"
        f"    log:     {run_dir / 'log.txt'}\n"
        f"    picture: {picture} (two images, their mixture, and what i-MAE makes of it)"
    )


def run(command: list[str]) -> None:
    """Shows a command and runs it. Raises DemoError unless it exits with 0."""
    finish(start(command), command)


def run_and_interrupt(command: list[str], run_dir: Path, epochs: int = 2) -> bool:
    """Starts a training run and stops it with SIGTERM, as a cluster would, after some epochs.

    False where it was done before that. Raises DemoError if it fails or saves nothing.
    """
    process = start(command)
    deadline = time.monotonic() + STEP_SECONDS
    while len(log_lines(run_dir / "log.txt")) < epochs and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise DemoError(f"the run made no progress in {STEP_SECONDS} s")
        time.sleep(0.1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)  # into the next epoch
    stopped = process.poll() is None
    if stopped:
        say("stopping it in the middle of an epoch with SIGTERM, as a cluster would")
        process.terminate()
    finish(process, command)
    if not (run_dir / "checkpoint-last.pth").is_file():
        raise DemoError("the stopped run left no checkpoint-last.pth")
    return stopped


def start(command: list[str]) -> subprocess.Popen:
    """Shows a command line and starts it, from the environment that this Python belongs to, and
    as one process, whatever a launcher told this one."""
    say(f"$ {shlex.join(command)}")
    program = Path(sys.executable).with_name(command[0])
    if not program.is_file():
        raise DemoError(f"{program} is not installed: make setup")
    return subprocess.Popen([program, *command[1:]], env=without_ranks(os.environ))


def finish(process: subprocess.Popen, command: list[str]) -> None:
    """Waits for a command. Raises DemoError if it hangs or does not exit with 0."""
    try:
        code = process.wait(STEP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise DemoError(f"{command[0]} still runs after {STEP_SECONDS} s") from None
    if code != 0:
        raise DemoError(f"{command[0]} exited with status {code}")


def log_lines(log: Path) -> list[dict]:
    """The entries of a log.txt, one per finished epoch."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def loss_fell(log: Path) -> tuple[float, float]:
    """First and last training loss of a log. Raises DemoError if the last is not lower."""
    losses = [entry["train_loss"] for entry in log_lines(log)]
    if len(losses) < 2 or not losses[-1] < losses[0]:
        raise DemoError(f"the loss did not fall: {losses} in {log}")
    return losses[0], losses[-1]


def say(text: str) -> None:
    """One line of the demo's own, apart from what the commands print."""
    print(f"\n=== {text}", flush=True)


def draw_dataset(folder: Path, per_class: int, seed: int = Seeded.seed) -> None:
    """Writes an ImageFolder of JPEGs, the same for the same seed; replaces what `folder` holds."""
    shutil.rmtree(folder, ignore_errors=True)
    for label, name in enumerate(SHAPES):
        (folder / name).mkdir(parents=True)
        images = draw_class(label, per_class, np.random.default_rng([seed, label]))
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{number:04}.jpg", quality=92)


def draw_class(label: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` pictures of one kind, uint8 [count, SIDE, SIDE, 3].

    A kind is a shape in two colours of its own, bright on dark or dark on bright; place, size,
    angle and shade vary.
    """
    inside = list(SHAPES.values())[label](*placed_grid(count, rng))
    hue = label / len(SHAPES)
    bright, dark = rng.uniform(0.8, 1.0, count), rng.uniform(0.2, 0.4, count)
    ink = colours(hue, dark if label % 2 else bright, rng)
    paper = colours(hue + 0.45, bright if label % 2 else dark, rng)
    shade = inside[..., None]
    return np.rint(255 * (shade * ink + (1 - shade) * paper)).astype(np.uint8)


def placed_grid(count: int, rng: np.random.Generator) -> tuple[Field, Field]:
    """Coordinates of each pixel in the frame of a shape that is moved, turned and scaled."""
    line = np.linspace(-1, 1, SIDE)
    angle, scale = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.8, 1.25, count)
    x = line[None, None, :] - rng.uniform(-0.3, 0.3, count)[:, None, None]
    y = line[None, :, None] - rng.uniform(-0.3, 0.3, count)[:, None, None]
    cos, sin = (np.cos(angle) / scale)[:, None, None], (np.sin(angle) / scale)[:, None, None]
    return cos * x + sin * y, cos * y - sin * x


def colours(hue: float, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """RGB in 0..1, [N, 1, 1, 3], near `hue` (0..1), as bright as `value` [N]."""
    turn = hue + rng.uniform(-0.02, 0.02, len(value))
    wheel = np.abs((turn[:, None] + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    saturation = rng.uniform(0.75, 0.95, len(value))[:, None]
    rgb = value[:, None] * (1 - saturation * (1 - np.clip(wheel, 0, 1)))
    return rgb[:, None, None, :]


def edge(distance: Field) -> Field:
    """1 where `distance` is positive, 0 where negative, with a soft border of about a pixel."""
    return np.clip(distance * SIDE / 4 + 0.5, 0, 1)


def _triangle(x: Field, y: Field) -> Field:
    sides = [np.cos(turn) * x + np.sin(turn) * y for turn in 2 * np.pi * np.arange(3) / 3]
    return edge(0.4 - np.maximum.reduce(sides))


def _star(x: Field, y: Field) -> Field:
    return edge(0.55 + 0.22 * np.cos(5 * np.arctan2(y, x)) - np.hypot(x, y))


def _moon(x: Field, y: Field) -> Field:
    return edge(np.minimum(0.75 - np.hypot(x, y), np.hypot(x - 0.4, y) - 0.55))


def _cross(x: Field, y: Field) -> Field:
    return edge(0.22 - np.minimum(np.abs(x), np.abs(y)))


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda x, y: edge(0.6 - np.hypot(x, y)),
    "ring": lambda x, y: edge(0.18 - np.abs(np.hypot(x, y) - 0.6)),
    "square": lambda x, y: edge(0.5 - np.maximum(np.abs(x), np.abs(y))),
    "triangle": _triangle,
    "star": _star,
    "moon": _moon,
    "cross": _cross,
    "stripes": lambda x, y: edge(0.25 * np.sin(5 * x)),
    "checker": lambda x, y: edge(0.25 * np.sin(4 * x) * np.sin(4 * y)),
    "waves": lambda x, y: 0.5 + 0.5 * np.sin(4 * np.hypot(x, y) + 1),
}


if __name__ == "__main__":
    sys.exit(main())
