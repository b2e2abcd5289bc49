"""fastimae-eval features: a file of the features of all images, of any layers, for other programs.

N = images, T = tokens, D = encoder width.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.engine.distributed import World
from fastimae.engine.fail_together import fail_together
from fastimae.engine.precision import resolve_precision
from fastimae.engine.signals import sigterm_as_ctrl_c
from fastimae.evaluate.feature_files.extraction import Step, View, steps
from fastimae.evaluate.feature_files.shards import GB, Shards, features_at
from fastimae.evaluate.features import resolve_layer, resolve_pool
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.features import FEATURES, FeaturesOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import open_results
from fastimae.folders import FolderError, cannot_write
from fastimae.loaders.errors import DataError
from fastimae.locks import file_to_write
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.progress import Meter
from fastimae.settings import ConfigError

LOST = "the main process cannot write to OUT: see its message"


def run(options: FeaturesOptions) -> None:
    """Write the file or files, and results.json with their sizes."""
    with (
        joined_processes(options) as world,
        open_results(options, "features", world=world) as results,
        contextlib.ExitStack() as locks,
        sigterm_as_ctrl_c(),
    ):
        out = options.out or results.folder / FEATURES
        with fail_together(world, FolderError(LOST)):
            if world.is_main:
                locks.enter_context(file_to_write(out, "OUT"))
                features_at(out)
        model = options.load_encoder(world.device)
        view = view_of(options, model, world)
        origin = origin_of(options.checkpoint, model)
        images = options.val_or_train_images()
        about = about_of(options, view, images, origin)
        shards = Shards(out, images, view.columns(), about, options.max_shard_size * GB)
        write(shards, view, options, world)
        if world.is_main:
            numbers = numbers_of(shards, view)
            path = results.save(numbers, origin=origin)
            log.info("features: %d images, %s; %s, %s", numbers["images"], _shape(view),
                     _named(shards.paths), path)  # fmt: skip


def view_of(options: FeaturesOptions, model: MaskedAutoencoder, world: World) -> View:
    """Return what the options ask for. Raises ConfigError for what the model does not have."""
    layers = [resolve_layer(model, layer, "--layers") for layer in options.layers or [-1]]
    if twice := [layer for layer in layers if layers.count(layer) > 1]:
        raise ConfigError(f"--layers names block {twice[0]} twice: keep one")
    return View(
        model=model,
        layers=layers,
        pool=resolve_pool(model, options.pool),
        dtype=options.dtype,
        precision=resolve_precision(options.precision, world.device),
    )


def about_of(
    options: FeaturesOptions, view: View, images: Images, origin: Mapping[str, Any]
) -> dict[str, str]:
    """Return the metadata of the files: text, or JSON."""
    model = view.model
    about = {
        "checkpoint": str(options.checkpoint),
        **origin,
        "random_init": options.random_init,
        "data": str(images.source),
        "images": len(images),
        "classes": images.classes or [],
        "layers": list(view.layers),
        "pool": view.pool,
        "precision": view.precision,
        "input_size": list(model.img_size),
        "grid": list(model.grid),
        "class_tokens": model.class_tokens,
        "crop": "none" if images.whole else "center",
    }
    return {"format": "pt"} | {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in about.items()
        if value is not None
    }


def write(shards: Shards, view: View, options: FeaturesOptions, world: World) -> None:
    """Compute and write all features. Raises FolderError, DataError, CheckpointError."""
    lost = FolderError(LOST)
    with _disk_errors(shards.out), contextlib.ExitStack() as files:
        with fail_together(world, lost):
            if world.is_main:
                shards.check_room()
                files.enter_context(shards.writing())
        meter = files.enter_context(
            Meter(len(shards.images), "features", "img", quiet=not world.is_main)
        )
        computed = steps(
            view, shards.images, world,
            batch_size=options.batch_size, workers=options.worker_count(),
        )  # fmt: skip
        readable = 0
        for step in computed:
            with fail_together(world, lost):
                if world.is_main:
                    _check_numbers(step, options)
                    shards.write(step.index, step.features)
            readable += len(step.index)
            meter.update(step.images - meter.done)
        if not world.max(readable):
            raise DataError(
                f"{shards.images.source}: none of its {len(shards.images)} images can be read"
            )


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Raise FolderError if the disk is full, or fails."""
    try:
        yield
    except OSError as error:
        raise cannot_write(out, "OUT", error) from error


def _check_numbers(step: Step, options: FeaturesOptions) -> None:
    """Raise CheckpointError for features that are no numbers."""
    for rows in step.features.values():
        right = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
        if not right.all():
            smaller = " or --dtype float32" if options.dtype == "float16" else ""
            raise CheckpointError(
                f"{options.checkpoint}: the features of image {step.index[~right][0]} are infinite "
                f"or NaN: try --precision fp32{smaller}, or another checkpoint"
            )


def numbers_of(shards: Shards, view: View) -> dict[str, Any]:
    """Return the numbers of results.json."""
    return {
        "images": len(shards.images) - shards.skipped,
        "bad_images": shards.skipped,
        "classes": len(shards.images.classes or ()),
        "layers": list(view.layers),
        "pool": view.pool,
        "width": view.model.pos_embed.shape[-1],
        "tokens": view.model.pos_embed.shape[1] if view.pool == "tokens" else 1,
        "files": [str(path) for path in shards.paths],
        "bytes": sum(path.stat().st_size for path in shards.paths),
    }


def _shape(view: View) -> str:
    """Return "768 numbers each", or of tokens and layers as many."""
    (column, *others) = view.columns().values()
    shape = " x ".join(map(str, column.shape))
    return f"{shape} numbers each" + f" of {1 + len(others)} layers" * bool(others)


def _named(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
