"""Runs an entry: timed trainings, one for each seed, each judged by the same linear probe."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.conditions import ROOT
from benchmarks.harness import BenchmarkReport, log_progress, write_whole
from benchmarks.speedrun.entry import Entry
from benchmarks.speedrun.rules import (
    CORES,
    JUDGE,
    TRAIN_IMAGES,
    VAL_IMAGES,
    Track,
    encoder_parameters,
    too_large,
)
from fastimae.engine.checkpoint import LAST
from fastimae.engine.launcher import without_ranks
from fastimae.interop import load_model
from fastimae.loaders.beton.reader import BetonReader
from fastimae.settings import ConfigError


class Data(NamedTuple):
    """CIFAR-10's images as .beton files."""

    train: Path
    val: Path

    def check(self) -> None:
        """Raise ConfigError for other numbers of images, DataError for what is no .beton."""
        for flag, file, counts in (
            ("--ffcv", self.train, (TRAIN_IMAGES,)), ("--val", self.val, VAL_IMAGES),
        ):  # fmt: skip
            with BetonReader(file) as images:
                if len(images) not in counts:
                    wanted = " or ".join(map(str, counts))
                    raise ConfigError(f"{flag} {file}: {len(images)} images, and not {wanted}")


def run_entry(
    entry: Entry, track: Track, data: Data, seeds: Sequence[int], report: BenchmarkReport
) -> None:
    """Train and judge with each seed; the record and the logs are kept after each of them."""
    data.check()
    report |= {"entry": entry.name, "files": entry.digests(), "judge": JUDGE, "runs": []}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as place:
            folder, load = Path(place) / "run", os.getloadavg()[0]
            seconds = train(entry, track, data, seed, folder)
            run = judge(folder, track, data, Path(place) / "judge")
            log = (folder / "log.txt").read_text(encoding="utf-8")
        write_whole(entry.log_file(report["track"], seed), log)
        report["runs"].append(
            {"seed": seed, "seconds": seconds, "load": load, **run, **last_of(log)}
        )
        report |= means(report["runs"])
        report.keep()
        log_progress(f"seed {seed}: {seconds:.0f} s, {run['acc1']:.2f} %")
    report.finish()


def train(entry: Entry, track: Track, data: Data, seed: int, folder: Path) -> float:
    """Train in a process of its own, and return its seconds, from its start to its end.

    Raises ConfigError if it fails.
    """
    config = entry.write_config(folder.with_suffix(".yaml"))
    arguments = ["--config", str(config), "--ffcv", str(data.train.resolve())]
    arguments += ["--label_field", "none", "--seed", str(seed), "--device", track.device]
    arguments += ["--save_freq", "1000000", "--output_dir", str(folder)]
    begun = time.perf_counter()
    command("train", arguments, entry.folder, environment(folder.with_name("caches")))
    return time.perf_counter() - begun


def judge(folder: Path, track: Track, data: Data, output: Path) -> dict[str, Any]:
    """Probe the encoder that a run has trained. Returns what the record has of it.

    Raises ConfigError if that fails, and for too large an encoder.
    """
    checkpoint = folder / LAST
    parameters = encoder_parameters(load_model(checkpoint, encoder_only=True))
    if broken := list(too_large(parameters)):
        raise ConfigError(broken[0])
    arguments = ["linear", "--checkpoint", str(checkpoint), "--output_dir", str(output)]
    arguments += ["--ffcv", str(data.train.resolve()), "--val", str(data.val.resolve())]
    arguments += ["--device", track.device]
    arguments += [word for name, value in JUDGE.items() for word in (f"--{name}", str(value))]
    command("evaluate", arguments, folder, environment(folder.with_name("caches")))
    numbers = json.loads((output / "results.json").read_text(encoding="utf-8"))["numbers"]
    kept = {name: numbers[name] for name in ("acc1", "train_images", "val_images")}
    return {**kept, "encoder_parameters": parameters}


def command(function: str, arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
    """Run a function of `fastimae.cli` in a process of its own, in a folder.

    Raises ConfigError if it fails.
    """
    code = f"import sys; from fastimae.cli import {function}; sys.exit({function}())"
    words = [sys.executable, "-c", code, *arguments]
    if status := subprocess.run(words, cwd=folder, env=env, check=False).returncode:
        raise ConfigError(f"exit status {status} of {function}; its messages are above")


def environment(caches: Path) -> dict[str, str]:
    """Return the environment of a run: compilers find nothing of earlier runs in their caches."""
    kernels = {
        "TORCHINDUCTOR_CACHE_DIR": caches / "inductor",
        "TRITON_CACHE_DIR": caches / "triton",
    }
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return (
        without_ranks(os.environ) | {k: str(v) for k, v in kernels.items()} | {"PYTHONPATH": paths}
    )


def use_cores(count: int = CORES) -> None:
    """Limit this process, and those that it starts, to its first CPUs. Raises ConfigError."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < count:
        raise ConfigError(
            f"--track cpu needs {count} cores, and this process may use {len(allowed)}"
        )
    os.sched_setaffinity(0, allowed[:count])
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)


def last_of(log: str) -> dict[str, float]:
    """Return the number of epochs in a run's log, and the loss of the last."""
    *_, last = (json.loads(line) for line in log.splitlines())
    return {"epochs": last["epoch"] + 1, "loss": last["train_loss"]}


def means(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the numbers of a record: the means over its runs."""
    return {
        f"mean_{name}": statistics.fmean(run[name] for run in runs) for name in ("seconds", "acc1")
    }
