"""`python -m fastimae.demo`: draw pictures, then convert, pre-train, stop, resume, as a user would.

It prints each command that it runs, measures the machine first, and cuts the training so that all
of it takes four minutes. `--data` takes a folder of your own images instead.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from fastimae.demo import pace
from fastimae.demo.commands import DemoError, finish, run, say, start, wait
from fastimae.demo.drawing import SHAPES, draw_dataset
from fastimae.engine.launcher import is_surplus_process
from fastimae.flags import OnceParser
from fastimae.folders import FolderError
from fastimae.locks import folder_to_write
from fastimae.streams import closed_early_is_fine

PER_CLASS = 400
LIMIT = 4000
"""Images of a --data folder to use at most, drawn at random: more would take too long."""


@closed_early_is_fine()
def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return 0 if every step worked and the loss fell, else 1."""
    parser = OnceParser(prog="python -m fastimae.demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of images (default: made here)")
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"))
    options = parser.parse_args(arguments)
    if is_surplus_process("the demo"):
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
    """Run all steps in order. Raises DemoError at the first that fails."""
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
    train += length_flags(beton, begin)
    if run_and_interrupt(train, run_dir):
        run([*train, "--resume", "auto"])
    else:
        say("the run ended before it could be stopped (few images): there is nothing to resume")
    first, last = loss_fell(run_dir / "log.txt")
    picture = run_dir / "reconstruction.png"
    if not picture.is_file():
        raise DemoError(f"{picture} was not made")
    say(
        f"done in {time.monotonic() - begin:.0f} s; the loss fell from {first:.3f} to {last:.3f}\n"
        f"    log:     {run_dir / 'log.txt'}\n"
        f"    picture: {picture} (two images, their mixture, and what i-MAE makes of it)"
    )


def length_flags(beton: Path, begin: float) -> list[str]:
    """Measure the machine, say how long the training will take, and return its flags."""
    from fastimae.loaders.beton.reader import BetonReader

    say("measuring how fast this machine trains")
    with BetonReader(beton, quiet=True) as reader:
        images = len(reader)
    speed = pace.measure(beton)
    left = pace.SECONDS - (time.monotonic() - begin)
    epochs, seconds = pace.choose_length(speed, images, left)
    say(
        f"{speed.img_per_s:.0f} mixtures per second: {epochs} epochs of {images} images will take "
        f"about {seconds:.0f} s"
    )
    if seconds > left:
        print("    more than planned, but with fewer the two images would not be apart")
    flags = {"epochs": epochs, **pace.SMALL_BATCH}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def run_and_interrupt(command: list[str], run_dir: Path, epochs: int = 2) -> bool:
    """Start a training run and stop it with SIGTERM, as a cluster would, after some epochs.

    Returns False if it ended before that. Raises DemoError if it fails or saves nothing.
    """
    process = start(command)
    wait(process, command, lambda: len(log_lines(run_dir / "log.txt")) >= epochs)
    into_next_epoch = time.monotonic() + 1
    wait(process, command, lambda: time.monotonic() > into_next_epoch)
    stopped = process.poll() is None
    if stopped:
        say("stopping it in the middle of an epoch with SIGTERM, as a cluster would")
        process.terminate()
    finish(process, command)
    if not (run_dir / "checkpoint-last.pth").is_file():
        raise DemoError("the stopped run left no checkpoint-last.pth")
    return stopped


def log_lines(log: Path) -> list[dict]:
    """Return the entries of a log.txt, one per finished epoch."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def loss_fell(log: Path) -> tuple[float, float]:
    """Return a log's first and last training loss. Raises DemoError if the last is not lower."""
    losses = [entry["train_loss"] for entry in log_lines(log)]
    if len(losses) < 2 or not losses[-1] < losses[0]:
        raise DemoError(f"the loss did not fall: {losses} in {log}")
    return losses[0], losses[-1]


if __name__ == "__main__":
    sys.exit(main())
