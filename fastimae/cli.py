"""The console scripts: each parses its command line, builds what it needs, and runs it."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from fastimae.arguments import command, parse, parse_training
from fastimae.loaders.convert.options import ConvertOptions
from fastimae.log import log
from fastimae.settings import Expert, FileNames

# OpenMP's threads spin while they wait for each other. On cores that also decode images, or are
# shared, long spins take time from other work. Must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@command("fastimae-train", several=True)
def train(argv: Sequence[str]) -> int:
    """fastimae-train: pre-train MAE or i-MAE. Exit status 0, or 2 for errors the user can fix."""
    config = parse_training("fastimae-train", argv)
    if config is None:  # --print_config
        return 0
    from fastimae import build
    from fastimae.engine.assemble import resume_or_begin
    from fastimae.engine.distributed import join_world
    from fastimae.engine.output_folders import claim_folders, errors_of
    from fastimae.settings import config_errors

    run = config.run
    with errors_of(run.output_dir):
        build.check_models(config)
    with config_errors():
        world = join_world(run.device, run)
    if not world.is_main:
        log.setLevel(logging.WARNING)
    try:
        with (
            claim_folders(run.output_dir, run.log_dir, world),
            build.build_loader(config, world) as loader,
        ):
            with config_errors():
                trainer = build.build_trainer(config, world, loader)
            resume_or_begin(trainer, build.resume_training)
            finished = trainer.run()
    finally:
        world.close()
    if finished and world.is_main:
        build.log_outcome(run.output_dir)
    return 0


@command("fastimae-convert")
def convert(argv: Sequence[str]) -> int:
    """fastimae-convert: make a .beton of images, or verify one."""
    from fastimae.engine.signals import sigterm_as_ctrl_c
    from fastimae.loaders.convert import run as convert

    options = parse("fastimae-convert", ConvertArguments, argv)
    with sigterm_as_ctrl_c():
        report = convert.convert(options)
    log.info(report.summary())
    return report.exit_status(options.strict)


@command("fastimae-doctor")
def doctor(argv: Sequence[str]) -> int:
    """fastimae-doctor: report what is installed, what is missing, and how to get it."""
    from fastimae.doctor import doctor

    parse("fastimae-doctor", DoctorOptions, argv)
    return doctor()


@command("fastimae-bench")
def bench(argv: Sequence[str]) -> int:
    """fastimae-bench: measure how fast this machine trains, and name its bottleneck."""
    from fastimae.bench.options import BenchOptions

    options = parse("fastimae-bench", BenchOptions, argv)
    from fastimae.bench.command import bench

    return bench(options)


@command("fastimae-eval", several=True)
def evaluate(argv: Sequence[str]) -> int:
    """fastimae-eval: measure what a checkpoint has learned, one task per call."""
    from fastimae.evaluate.command import evaluate

    return evaluate(argv)


@command("fastimae-export")
def export(argv: Sequence[str]) -> int:
    """fastimae-export: convert a checkpoint to the layout of timm, Hugging Face or MAE."""
    from fastimae.interop.options import ExportOptions

    options = parse("fastimae-export", ExportOptions, argv)
    from fastimae.interop.command import convert

    convert(options)
    return 0


@command("fastimae-import")
def import_(argv: Sequence[str]) -> int:
    """fastimae-import: convert checkpoints of other projects to our layout."""
    from fastimae.interop.options import ExportOptions, ImportOptions

    options = parse("fastimae-import", ImportOptions, argv)
    from fastimae.interop.command import convert

    convert(ExportOptions(to="fastimae", **vars(options)))
    return 0


@dataclasses.dataclass(kw_only=True)
class ConvertArguments(ConvertOptions):
    """Make a .beton file of images from folders, lists, tars or data sets as published.

    fastimae-convert imagenet/train imagenet.beton --max_resolution 500
    """

    src: tyro.conf.Positional[Annotated[FileNames, tyro.conf.arg(metavar="SRC")]]
    """What to convert: a folder, a list file, tar files (docs/sources.md); with --verify and no
    OUT, a .beton file to check."""
    out: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="OUT")]] = None
    """The .beton file to write."""
    debug: Expert[bool] = False
    """Show tracebacks."""


@dataclasses.dataclass(kw_only=True)
class DoctorOptions:
    """Show what is installed, what is missing, what that costs, and how to get it.

    fastimae-doctor
    """

    debug: Expert[bool] = False
    """Show tracebacks."""


if __name__ == "__main__":
    sys.exit(train())
