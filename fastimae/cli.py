"""Console scripts: parse, build, run, close."""

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
from fastimae.loaders.convert_options import ConvertOptions
from fastimae.log import log

# OpenMP's threads spin while they wait for each other. Where cores also decode images, or are
# shared, long spins take the time that others need. Must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@command("fastimae-train", several=True)
def train(argv: Sequence[str]) -> int:
    """fastimae-train: pre-train MAE or i-MAE. Exit status 0; 2 for what the user can mend."""
    config = parse_training("fastimae-train", argv)
    if config is None:  # --print_config
        return 0
    from fastimae import build
    from fastimae.engine.assemble import resume_or_begin
    from fastimae.engine.claim import claimed
    from fastimae.engine.distributed import join_world
    from fastimae.settings import config_errors

    run = config.run
    with config_errors():
        world = join_world(run.device, run)
    if not world.is_main:
        log.setLevel(logging.WARNING)
    try:
        with (
            claimed(run.output_dir, run.log_dir, world),
            build.build_loader(config, world) as loader,
        ):
            with config_errors():
                trainer = build.build_trainer(config, world, loader)
            resume_or_begin(trainer, build.go_on_training)
            finished = trainer.run()
    finally:
        world.close()
    if finished and world.is_main:
        build.say_goodbye(run.output_dir)
    return 0


@command("fastimae-convert")
def convert(argv: Sequence[str]) -> int:
    """fastimae-convert: make a .beton of images, or verify one."""
    from fastimae.engine.signals import sigterm_as_ctrl_c
    from fastimae.loaders import convert

    options = parse("fastimae-convert", ConvertArguments, argv)
    with sigterm_as_ctrl_c():
        report = convert.convert(options)
    log.info(report.summary())
    return report.exit_status(options.strict)


@command("fastimae-doctor")
def doctor(argv: Sequence[str]) -> int:
    """fastimae-doctor: say what is installed, what is missing, and how to get it."""
    from fastimae.doctor import doctor

    parse("fastimae-doctor", DoctorOptions, argv)
    return doctor()


@command("fastimae-bench")
def bench(argv: Sequence[str]) -> int:
    """fastimae-bench: how fast this machine loads and trains, and what holds it back."""
    from fastimae.bench.command import bench

    return bench(argv)


@command("fastimae-eval", several=True)
def evaluate(argv: Sequence[str]) -> int:
    """fastimae-eval: what a checkpoint has learned, one task a call."""
    from fastimae.evaluate.command import evaluate

    return evaluate(argv)


@command("fastimae-export")
def export(argv: Sequence[str]) -> int:
    """fastimae-export: a checkpoint in the layout of timm, Hugging Face or MAE."""
    from fastimae.interop.command import export

    return export(argv)


@command("fastimae-import")
def import_(argv: Sequence[str]) -> int:
    """fastimae-import: other people's checkpoints in our layout."""
    from fastimae.interop.command import import_

    return import_(argv)


@dataclasses.dataclass(kw_only=True)
class ConvertArguments(ConvertOptions):
    """Make a .beton file of images: from folders, lists, tars or data sets as published."""

    src: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SRC")]]
    """What to convert: a folder, a list file, tar files (docs/sources.md); with --verify and no
    OUT, a .beton file to check."""
    out: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="OUT")]] = None
    """The .beton file to write."""
    debug: bool = False
    """Show tracebacks."""


@dataclasses.dataclass(kw_only=True)
class DoctorOptions:
    """Say what is installed, what is missing, what that costs, and how to get it."""

    debug: bool = False
    """Show tracebacks."""


if __name__ == "__main__":
    sys.exit(train())
