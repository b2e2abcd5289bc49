"""Whether the settings of a loader fit together: errors that name the flag to change."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from fastimae.loaders.crops import check_ratio
from fastimae.loaders.errors import DataError
from fastimae.loaders.limits import value_range
from fastimae.loaders.what_is import BETON, FOLDER, TAR, check_is, is_beton

Decoder = Literal["auto", "native", "pillow", "ffcv"]
Cache = Literal["none", "ram"]
Crop = Literal["random", "none"]

_TAKES = {BETON: "--ffcv", FOLDER: "--data_path", TAR: "--dali"}
"""The flag for each kind of file."""


def check_source(
    ffcv: str | Path | None,
    dali: str | Path | None,
    data_path: str | Path | None,
    synthetic: bool,
) -> None:
    """Raise DataError unless there is one source, and what lies there is what its flag takes."""
    sources = sum(given is not None for given in (ffcv, dali, data_path)) + synthetic
    if sources != 1:
        raise DataError(
            f"{'none' if not sources else 'more than one'} of --ffcv FILE.beton, --dali SOURCE, "
            "--data_path FOLDER and --synthetic is given: choose one"
        )
    if ffcv is not None:
        check_is(ffcv, BETON, flag="--ffcv", flags=_TAKES)
    if data_path is not None:
        check_is(data_path, FOLDER, flag="--data_path", flags=_TAKES)


def check_beton(
    ffcv: str | Path | None,
    dali: str | Path | None,
    decoder: str,
    cache: str,
    fields: dict[str, str | None],
) -> None:
    """Raise DataError for flags that are about a .beton file, where there is none."""
    beton = ffcv is not None or is_beton(dali or "")
    if cache not in get_args(Cache):
        raise DataError(f"--cache {cache} is not one of {', '.join(get_args(Cache))}")
    if cache != "none" and not beton:
        raise DataError(f"--cache {cache} keeps a .beton file in memory: --ffcv FILE.beton")
    if decoder not in get_args(Decoder):
        raise DataError(f"--decoder {decoder} is not one of {', '.join(get_args(Decoder))}")
    if decoder != "auto" and ffcv is None:
        raise DataError(f"--decoder {decoder} needs --ffcv FILE.beton")
    for kind, name in fields.items():
        if name is not None and not beton:
            raise DataError(f"--{kind}_field {name} is for a .beton file: --ffcv FILE.beton")


def check_range(ffcv: str | Path | None, dali: str | Path | None) -> None:
    """Raise DataError for a range of values where images have 8 bits."""
    beton = ffcv or (dali if is_beton(dali or "") else None)
    if value_range() and beton:
        raise DataError(
            f"--value_range has no effect on {beton}, whose images have 8 bits: drop it here, "
            "and give it to fastimae-convert"
        )


def check_numbers(in_chans: int, synthetic: bool, num_workers: int) -> None:
    """Raise DataError for channels that images do not have, or fewer than no workers."""
    if in_chans not in (1, 3) and not synthetic:
        raise DataError(f"--in_chans {in_chans}: images have 3 channels (RGB) or 1 (gray)")
    if num_workers < 0:
        raise DataError(f"--num_workers {num_workers} must be 0 or more")


def check_crops(scale: tuple[float, float], crop: str, ratio: tuple[float, float]) -> None:
    """Raise DataError for bounds of windows that are none."""
    if not 0 < scale[0] <= scale[1] <= 1:
        raise DataError(
            f"--min_crop {scale[0]} and --max_crop {scale[1]} must satisfy 0 < min <= max <= 1"
        )
    if crop not in get_args(Crop):
        raise DataError(f"--crop {crop} is not one of {', '.join(get_args(Crop))}")
    check_ratio(ratio)


def check_dali(ffcv: str | Path | None, dali_share: float, hw_decoder_load: float) -> None:
    """Raise DataError for shares that are none."""
    if not 0 <= hw_decoder_load <= 1:
        raise DataError(f"--hw_decoder_load {hw_decoder_load} must be between 0 and 1")
    if not 0 <= dali_share < 1:
        raise DataError(f"--dali_share {dali_share} must be 0 or more, and below 1 (--dali: all)")
    if dali_share and ffcv is None:
        raise DataError(f"--dali_share {dali_share} needs --ffcv FILE.beton")
