"""`fastimae-bench`: measure, try, say what to change."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from fastimae.arguments import UsageError, parse
from fastimae.bench.advice import Findings, advice, best_batch_size, best_workers
from fastimae.bench.measure import Speed, fed_speed, loader_speed, step_speed
from fastimae.bench.options import BenchOptions, changed, cores, pairs_for, settings
from fastimae.config import TrainConfig
from fastimae.engine.distributed import alone
from fastimae.engine.precision import resolve_precision
from fastimae.flags import flags_of
from fastimae.loaders.beton import BetonReader
from fastimae.loaders.errors import DataError
from fastimae.log import log
from fastimae.settings import ConfigError, config_errors

SECONDS = {"cpu": 60.0, "cuda": 300.0}
"""For all of it. On a GPU most of it is for compiling, which each batch size needs anew."""
MEASURING = {"cpu": 1.0, "cuda": 0.2}
"""Share of it for measuring."""
LOADER, STEP, BOTH, TRY = 0.1, 0.2, 0.2, 0.06
"""Shares of that for the parts; tries end when the time for all of it is over."""


def bench(argv: Sequence[str]) -> int:
    """Measure this machine and print what was found. Raises what the user can mend."""
    options = parse("fastimae-bench", BenchOptions, argv)
    with config_errors(), _flags_of_training_named():
        device = alone(options.device).device
        config = settings(options, device)
        try:
            found = measure(config, device, options)
        except torch.cuda.OutOfMemoryError as error:
            size = config.optim.batch_size
            raise UsageError(f"--batch_size {size} does not fit into the GPU's memory") from error
    print(report(found, config, device))
    return 0


@contextlib.contextmanager
def _flags_of_training_named() -> Iterator[None]:
    """Errors are worded for fastimae-train: they say so where they name flags that only it has."""
    try:
        yield
    except (ConfigError, DataError) as error:
        named = dict.fromkeys(re.findall(r"--\w+", str(error)))
        lacking = ", ".join(flag for flag in named if flag not in flags_of(BenchOptions))
        if not lacking:
            raise
        raise type(error)(f"{error} ({lacking}: of fastimae-train)") from error


def measure(config: TrainConfig, device: torch.device, options: BenchOptions) -> Findings:
    """All measurements, in about options.seconds. Raises DataError, and
    torch.cuda.OutOfMemoryError where the batch asked for does not fit."""
    seconds = options.seconds or SECONDS[device.type]
    end = time.monotonic() + seconds
    measuring = MEASURING[device.type] * seconds

    def left() -> float:
        return end - time.monotonic()

    loader = both = None
    if options.data is not None:
        fields = {"label_field": config.data.label_field, "image_field": config.data.image_field}
        with BetonReader(options.data, **fields) as reader:
            log.info(
                "%s: %d images from its field %s", reader.path, len(reader), reader.image_field
            )
        log.info("measuring the loader")
        loader = loader_speed(config, device, LOADER * measuring)
    log.info("measuring the step")
    step = step_speed(config, device, STEP * measuring)
    if options.data is not None:
        log.info("measuring both")
        both = fed_speed(config, device, BOTH * measuring)
    workers, batch_sizes = {}, {}
    if options.suggest:
        given, size = config.data.num_workers, config.optim.batch_size
        if loader is not None:
            workers = {given: loader} | try_workers(config, device, TRY * measuring, left)
        tried = try_batch_sizes(config, device, TRY * measuring, left, step)
        batch_sizes = {size: step} | tried
    return Findings(
        loader=loader, step=step, both=both,
        workers=dict(sorted(workers.items())), batch_sizes=dict(sorted(batch_sizes.items())),
    )  # fmt: skip


def try_workers(
    config: TrainConfig, device: torch.device, seconds: float, left: Callable[[], float]
) -> dict[int, Speed]:
    """The loader with 1, 2, 4... threads, up to the cores, while time is left."""
    found, count = {}, 1
    while count <= cores() and left() > 0:
        if count != config.data.num_workers:
            log.info("trying --num_workers %d", count)
            found[count] = loader_speed(changed(config, num_workers=count), device, seconds)
        count *= 2
    return found


def try_batch_sizes(
    config: TrainConfig,
    device: torch.device,
    seconds: float,
    left: Callable[[], float],
    given: Speed,
) -> dict[int, Speed]:
    """The step with larger batches: on a GPU twice as large until its memory is full.

    given: the speed of the batch asked for. A try is made where there is time for one that takes
    as long as the last: on a GPU each batch size is compiled anew.
    """
    found, last = {}, given
    for power in range(1, 7 if device.type == "cuda" else 2):
        size = config.optim.batch_size * 2**power
        if left() < last.took:
            log.info("no time left for --batch_size %d: it may take %.0f s", size, last.took)
            break
        log.info("trying --batch_size %d", size)
        try:
            last = step_speed(changed(config, batch_size=size), device, seconds)
        except torch.cuda.OutOfMemoryError:
            log.info("--batch_size %d does not fit into the GPU's memory", size)
            break
        found[size] = last
    return found


def report(found: Findings, config: TrainConfig, device: torch.device) -> str:
    """Tables, the bottleneck, and the flags to change."""
    precision = resolve_precision(config.optim.precision, device)
    workers, size = config.data.num_workers, config.optim.batch_size
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines = [
        f"{where}, {cores()} cores, torch {torch.__version__}",
        f"{config.objective.objective}, {config.model.model}, {config.data.image_size[0]} px, "
        f"--batch_size {size}, --num_workers {workers}, {precision}",
        "",
        *_speeds(found),
        *_tries("--num_workers", "loader", found.workers),
        *_tries("--batch_size", "step", found.batch_sizes),
        "",
    ]
    lines += advice(
        found, workers=workers, cores=cores(), batch_size=size, on_gpu=device.type == "cuda",
        fp32=precision == "fp32",
    )  # fmt: skip
    return "\n".join([*lines, "", f"suggested: {suggestion(found, config)}"])


def suggestion(found: Findings, config: TrainConfig) -> str:
    """The training command with what was found to be best."""
    data = ["--ffcv", str(config.data.ffcv)] if config.data.ffcv else ["--synthetic"]
    if config.data.image_field:
        data += ["--image_field", config.data.image_field]
    flags = ["--objective", config.objective.objective, "--model", config.model.model]
    flags += ["--input_size", str(config.data.image_size[0])]
    batch_size = best_batch_size(found, config.optim.batch_size)
    flags += ["--batch_size", str(batch_size)]
    for name, value in pairs_for(config.objective.objective, batch_size).items():
        flags += [f"--{name}", str(value)]
    flags += ["--num_workers", str(best_workers(found, config.data.num_workers))]
    return shlex.join(["fastimae-train", *data, *flags])


def _speeds(found: Findings) -> list[str]:
    rows = (
        ("loader alone", found.loader),
        ("step alone, made-up images", found.step),
        ("both", found.both),
    )
    lines = [f"{'':<28}{'img/s':>9}{'ms/batch':>11}"]
    lines += [f"{name:<28}{_line(speed)}" for name, speed in rows if speed is not None]
    if found.both is not None:
        lines[-1] += f"   {found.both.data_wait:.1%} of the time waiting for data"
    return lines


def _tries(flag: str, part: str, found: dict[int, Speed]) -> list[str]:
    if len(found) < 2:
        return []
    lines = [""]
    for value, speed in found.items():
        used = "" if speed.memory_gb is None or part == "loader" else f"{speed.memory_gb:8.1f} GB"
        lines.append(f"{f'{part}, {flag} {value}':<28}{_line(speed)}{used}")
    return lines


def _line(speed: Speed) -> str:
    return f"{speed.img_per_s:>9.4g}{speed.ms:>11.4g}"
