"""Checks a loader's source before it is opened: one source, and of the kind its flag takes."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastimae.loaders.errors import DataError
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.limits import value_range
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.settings import LoaderSettings, SourceSettings
from fastimae.loaders.sources.what_is import BETON, FOLDER, TAR, check_is, is_beton

_TAKES = {BETON: "--ffcv", FOLDER: "--data_path", TAR: "--dali"}
"""The flag for each kind of file."""


def check_source(settings: SourceSettings) -> None:
    """Raise DataError unless there is exactly one source, of the kind that its flag takes, to which
    all other flags apply."""
    paths = settings.ffcv, settings.dali, settings.data_path, settings.dataset
    sources = sum(given is not None for given in paths) + settings.synthetic
    if sources != 1:
        raise DataError(
            f"{'none' if not sources else 'more than one'} of --ffcv FILE.beton, --dali SOURCE, "
            "--data_path FOLDER, --dataset FILE.py:FUNCTION and --synthetic is given: choose one"
        )
    if settings.ffcv is not None:
        check_is(settings.ffcv, BETON, flag="--ffcv", flags=_TAKES)
    if settings.data_path is not None:
        check_is(settings.data_path, FOLDER, flag="--data_path", flags=_TAKES)
    beton = settings.ffcv or (settings.dali if is_beton(settings.dali or "") else None)
    if beton is None:
        _check_no_beton(settings)
    elif value_range():
        raise DataError(
            f"--value_range has no effect on {beton}, whose images have 8 bits: drop it here, "
            "and give it to fastimae-convert"
        )


def check_pseudo_labels(settings: LoaderSettings) -> None:
    """Raise DataError for a source whose images --pseudo_labels cannot be of."""
    source = "--synthetic" if settings.synthetic else f"--dataset {settings.dataset}"
    if settings.pseudo_labels and (settings.synthetic or settings.dataset is not None):
        raise DataError(
            f"--pseudo_labels are labels of a .beton file or of a folder, not of {source}: give "
            "--ffcv, --data_path or --dali"
        )


def check_user_code(settings: SourceSettings, labels: Any, transform: Any) -> None:
    """Raise DataError unless labels and a transform from Python can be used with this source."""
    if labels is not None and settings.dataset is None:
        raise DataError("labels are those of a dataset: give both")
    beton_by_pillow = settings.decoder != "ffcv" and not settings.dali_share
    by_pillow = settings.dataset or settings.data_path or (settings.ffcv and beton_by_pillow)
    if transform is not None and not by_pillow:
        raise DataError(
            "a transform needs images that Pillow decodes: give --ffcv (without --decoder ffcv or "
            "--dali_share), --data_path or --dataset"
        )


def check_cache(settings: SourceSettings, transform: Any) -> None:
    """Raise DataError for --cache device unless our own decoders make all pixels."""
    others = {
        "a transform": transform is not None,
        "--synthetic": settings.synthetic,
        "--dataset": settings.dataset is not None,
        "--dali": settings.dali is not None,
        "--dali_share": settings.dali_share,
        "--decoder ffcv": settings.decoder == "ffcv",
    }
    for maker in (name for name, given in others.items() if given):
        if settings.cache == "device":
            raise DataError(
                f"--cache device keeps images that FastIMAE decodes itself, and {maker} makes the "
                "pixels here: leave out one of them"
            )


def fitted(crops: Crops, form: PixelForm, source: Any) -> Crops:
    """Return the crops of images of this form. Raises DataError if --in_chans is another number."""
    if form == RGB8 and crops.of_ordinary:  # gray is made from RGB
        return crops
    if form.channels != crops.channels:
        raise DataError(
            f"{source} has images of {form} pixels, and --in_chans is {crops.channels}: give "
            f"--in_chans {form.channels}"
        )
    return dataclasses.replace(crops, dtype=form.dtype)


def _check_no_beton(settings: SourceSettings) -> None:
    if settings.cache == "ram":
        raise DataError("--cache ram keeps a .beton file in memory: give --ffcv FILE")
    for name in ("label_field", "image_field"):
        if (field := getattr(settings, name)) is not None:
            raise DataError(f"--{name} {field} is for a .beton file: give --ffcv FILE.beton")
