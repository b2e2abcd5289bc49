"""`fastimae-bench`: measure, try other settings, and print what to change."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Callable, Iterator

import torch

from fastimae.arguments import UsageError
from fastimae.bench.advice import Findings, advice, best_batch_size, best_workers
from fastimae.bench.measure import Speed, combined_speed, loader_speed, step_speed
from fastimae.bench.options import BenchOptions, changed, pairing_flags, settings
from fastimae.build import check_models
from fastimae.config import TrainConfig
from fastimae.cpus import usable_cores
from fastimae.engine.distributed import alone
from fastimae.engine.precision import resolve_precision
from fastimae.flags import flags_of
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.errors import DataError
from fastimae.loaders.settings import SourceSettings
from fastimae.log import log
from fastimae.settings import ConfigError, config_errors

SECONDS = {"cpu": 60.0, "cuda": 300.0}
"""Time for everything. On a GPU, compiling takes most of it: once for each batch size."""
MEASURING = {"cpu": 1.0, "cuda": 0.2}
"""Share of that for measuring."""
LOADER, STEP, BOTH, TRY = 0.1, 0.2, 0.2, 0.06
"""Shares of the measuring time. No try begins once the time for everything is over."""


def bench(options: BenchOptions) -> int:
    """Measure this machine and print the report. Raises errors that the user can fix."""
    with config_errors(), _naming_training_flags():
        device = alone(options.device).device
        config = settings(options, device)
        check_models(config)
        try:
            findings = measure(config, device, options)
        except torch.cuda.OutOfMemoryError as error:
            size = config.optim.batch_size
            raise UsageError(f"--batch_size {size} does not fit into the GPU's memory") from error
    print(report(findings, config, device))
    return 0


@contextlib.contextmanager
def _naming_training_flags() -> Iterator[None]:
    """Add to an error which of the flags it names only fastimae-train has."""
    try:
        yield
    except (ConfigError, DataError) as error:
        named = dict.fromkeys(re.findall(r"--\w+", str(error)))
        lacking = ", ".join(flag for flag in named if flag not in flags_of(BenchOptions))
        if not lacking:
            raise
        raise type(error)(f"{error} ({lacking}: only in fastimae-train)") from error


def measure(config: TrainConfig, device: torch.device, options: BenchOptions) -> Findings:
    """Take all measurements, in about options.seconds. Raises DataError, and
    torch.cuda.OutOfMemoryError if the requested batch does not fit."""
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
    if not config.data.synthetic:
        log.info("measuring the loader")
        loader = loader_speed(config, device, LOADER * measuring)
    log.info("measuring the step")
    step = step_speed(config, device, STEP * measuring)
    if not config.data.synthetic:
        log.info("measuring both")
        both = combined_speed(config, device, BOTH * measuring)
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
    """Measure the loader with 1, 2, 4... threads, up to the cores, while time is left."""
    tried, count = {}, 1
    while count <= usable_cores() and left() > 0:
        if count != config.data.num_workers:
            log.info("trying --num_workers %d", count)
            tried[count] = loader_speed(changed(config, num_workers=count), device, seconds)
        count *= 2
    return tried


def try_batch_sizes(
    config: TrainConfig,
    device: torch.device,
    seconds: float,
    left: Callable[[], float],
    given: Speed,
) -> dict[int, Speed]:
    """Measure the step with larger batches: on a GPU, double them until its memory is full.

    given: the speed with the requested batch. A try begins only if there is time for as long as the
    last one took: on a GPU, each batch size is compiled.
    """
    tried, last = {}, given
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
        tried[size] = last
    return tried


def report(findings: Findings, config: TrainConfig, device: torch.device) -> str:
    """Return the report: tables, the bottleneck, and the flags to change."""
    precision = resolve_precision(config.optim.precision, device)
    workers, size = config.data.num_workers, config.optim.batch_size
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines = [
        f"{where}, {usable_cores()} cores, torch {torch.__version__}",
        f"{config.objective.objective}, {config.model.model}, {config.data.image_size[0]} px, "
        f"--batch_size {size}, --num_workers {workers}, {precision}",
        "",
        *_speeds(findings),
        *_tries("--num_workers", "loader", findings.workers),
        *_tries("--batch_size", "step", findings.batch_sizes),
        "",
    ]
    lines += advice(
        findings, workers=workers, cores=usable_cores(), batch_size=size,
        on_gpu=device.type == "cuda", fp32=precision == "fp32",
        own_dataset=config.data.dataset is not None,
    )  # fmt: skip
    return "\n".join([*lines, "", f"suggested: {suggestion(findings, config)}"])


def suggestion(findings: Findings, config: TrainConfig) -> str:
    """Return the training command with the best settings found."""
    data = ["--ffcv", str(config.data.ffcv)] if config.data.ffcv else ["--synthetic"]
    if config.data.dataset:
        data = ["--dataset", config.data.dataset]
    if config.data.image_field:
        data += ["--image_field", config.data.image_field]
    flags = ["--objective", config.objective.objective, "--model", config.model.model]
    flags += ["--input_size", str(config.data.image_size[0])]
    if config.data.in_chans != SourceSettings.in_chans:
        flags += ["--in_chans", str(config.data.in_chans)]
    batch_size = best_batch_size(findings, config.optim.batch_size)
    flags += ["--batch_size", str(batch_size)]
    for name, value in pairing_flags(config.objective.objective, batch_size).items():
        flags += [f"--{name}", str(value)]
    flags += ["--num_workers", str(best_workers(findings, config.data.num_workers))]
    return shlex.join(["fastimae-train", *data, *flags])


def _speeds(findings: Findings) -> list[str]:
    rows = (
        ("loader alone", findings.loader),
        ("step alone (synthetic)", findings.step),
        ("both", findings.both),
    )
    lines = [f"{'':<28}{'img/s':>9}{'ms/batch':>11}"]
    lines += [f"{name:<28}{_line(speed)}" for name, speed in rows if speed is not None]
    if findings.both is not None:
        lines[-1] += f"   {findings.both.data_wait:.1%} of the time waiting for data"
    return lines


def _tries(flag: str, part: str, tried: dict[int, Speed]) -> list[str]:
    if len(tried) < 2:
        return []
    lines = [""]
    for value, speed in tried.items():
        used = "" if speed.memory_gb is None or part == "loader" else f"{speed.memory_gb:8.1f} GB"
        lines.append(f"{f'{part}, {flag} {value}':<28}{_line(speed)}{used}")
    return lines


def _line(speed: Speed) -> str:
    return f"{speed.img_per_s:>9.4g}{speed.ms:>11.4g}"
