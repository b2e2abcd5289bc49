"""Whether what lies at a loader's source is what its settings say."""

from __future__ import annotations

from fastimae.loaders.errors import DataError
from fastimae.loaders.limits import value_range
from fastimae.loaders.settings import SourceSettings
from fastimae.loaders.what_is import BETON, FOLDER, TAR, check_is, is_beton

_TAKES = {BETON: "--ffcv", FOLDER: "--data_path", TAR: "--dali"}
"""The flag for each kind of file."""


def check_source(settings: SourceSettings) -> None:
    """Raise DataError unless there is one source, which is what its flag takes, and has what other
    flags are about."""
    paths = settings.ffcv, settings.dali, settings.data_path
    sources = sum(given is not None for given in paths) + settings.synthetic
    if sources != 1:
        raise DataError(
            f"{'none' if not sources else 'more than one'} of --ffcv FILE.beton, --dali SOURCE, "
            "--data_path FOLDER and --synthetic is given: choose one"
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


def _check_no_beton(settings: SourceSettings) -> None:
    if settings.cache != "none":
        raise DataError(f"--cache {settings.cache} keeps a .beton file in memory: --ffcv FILE")
    for name in ("label_field", "image_field"):
        if (field := getattr(settings, name)) is not None:
            raise DataError(f"--{name} {field} is for a .beton file: --ffcv FILE.beton")
