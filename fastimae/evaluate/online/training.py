"""Probes of a run: which images they use, and what a trainer calls at the end of its epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from fastimae.engine.probe_settings import ProbeSettings
from fastimae.evaluate.images import Images, open_images
from fastimae.evaluate.labels.class_names import check_labelled
from fastimae.evaluate.online.probe import OnlineProbe
from fastimae.evaluate.options.base import held_out
from fastimae.evaluate.options.field_flags import fields_for
from fastimae.loaders.images.limits import set_value_range
from fastimae.loaders.settings import DataSettings
from fastimae.loaders.sources.what_is import BETON, FOLDER, check_is, is_beton
from fastimae.log import log, quietly
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError, plain_settings
from fastimae.trained import value_range_for

Encoders = Mapping[str, Callable[[], AbstractContextManager[MaskedAutoencoder]]]
"""Encoders to probe, each within a context, by the prefix of its values: "" for the model itself,
"ema_" for an average, whose weights are the model's within its context."""


def open_probe_images(data: DataSettings, val: Path) -> tuple[Images, Images]:
    """Open the images to learn from, those of the training, and to test on, those of --val.

    --images does not choose among them. Raises ConfigError for a training on other sources than
    --ffcv and --data_path, and DataError for files that cannot be read or have no labels.
    """
    source = data.ffcv or data.data_path
    if source is None:
        raise ConfigError(
            "--probe_freq learns from images of --ffcv or --data_path: give one, or drop it"
        )
    check_is(val, BETON, FOLDER, flag="--val", flags={BETON: "--ffcv", FOLDER: "--data_path"})
    val = held_out(val)
    set_value_range(value_range_for(None, plain_settings(data), val))
    with quietly():  # the training's loader has described them
        train = _open(data, source, val)
    return train, _open(data, val, source)


def _open(data: DataSettings, source: Path, other: Path) -> Images:
    """Open images as evaluation would. other: those of the other side."""
    asked = {"label_field": data.label_field, "image_field": data.image_field}
    fields = fields_for(source, asked, list(filter(is_beton, (source, other))))
    images = open_images(source, channels=data.in_chans, **fields)
    check_labelled(images, "--probe_freq")
    images.whole = data.crop == "none"
    return images


def probe_after_epochs(
    probe: OnlineProbe, encoders: Encoders, settings: ProbeSettings, epochs: int
) -> Callable[[int], dict[str, float]]:
    """Return a function of an epoch that is over, from 0 to `epochs` - 1: what a `Trainer` calls.

    It returns {} unless a probe is due; else the probe's values with names such as
    "probe_knn_acc1" and "probe_ema_knn_acc1", and "probe_seconds", the time of all. A probe that
    fails, as for lack of memory, is a warning.
    """

    def after(epoch: int) -> dict[str, float]:
        if not settings.is_due(epoch, epochs):
            return {}
        started, values = time.perf_counter(), {}
        for prefix, within in encoders.items():
            with within() as encoder:  # an error here is not one of the probe
                measured = _measured(probe, encoder, epoch)
            values |= {f"probe_{prefix}{name}": round(x, 4) for name, x in measured.items()}
        return {**values, "probe_seconds": round(time.perf_counter() - started, 2)}

    return after


def _measured(probe: OnlineProbe, encoder: MaskedAutoencoder, epoch: int) -> Mapping[str, Any]:
    try:
        return probe(encoder)
    except Exception as error:  # whatever it is, the training is worth more
        log.warning("the probe after epoch %d failed, and training goes on: %s", epoch + 1, error)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # outside of the handler, which holds on to the probe's tensors
    return {}
