"""From settings to a loader: the one place that knows all back ends, each imported when used."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastimae.loaders.base import Loader
from fastimae.loaders.beton import BetonReader
from fastimae.loaders.create_checks import (
    Cache,
    Crop,
    Decoder,
    check_beton,
    check_crops,
    check_dali,
    check_numbers,
    check_range,
    check_source,
)
from fastimae.loaders.crops import RATIO, Crops
from fastimae.loaders.describe import describe
from fastimae.loaders.errors import DataError
from fastimae.loaders.sampler import Sampler
from fastimae.loaders.survey import (
    Survey,
    say_depth,
    say_windows,
    survey_files,
    survey_sizes,
)

if TYPE_CHECKING:
    import torch

    from fastimae.loaders.encoded import Encoded
    from fastimae.loaders.imagefolder import Folder

log = logging.getLogger("fastimae")


def create_loader(
    *,
    ffcv: str | Path | None = None,
    dali: str | Path | None = None,
    data_path: str | Path | None = None,
    synthetic: bool = False,
    synthetic_samples: int = 10000,
    decoder: Decoder = "auto",
    ffcv_ops: str | None = None,
    cache: Cache = "none",
    label_field: str | None = None,
    image_field: str | None = None,
    device: torch.device | str = "cpu",
    dali_share: float = 0.0,
    hw_decoder_load: float = 0.65,
    input_size: tuple[int, int] = (224, 224),
    in_chans: int = 3,
    batch_size: int,
    accum_iter: int = 1,
    num_workers: int = 10,
    min_crop: float = 0.2,
    max_crop: float = 1.0,
    crop: Crop = "random",
    crop_ratio: tuple[float, float] = RATIO,
    hflip: bool = True,
    mix_group: int = 32,
    same_class_ratio: float | None = None,
    reciprocal_pairs: bool = False,
    repeated_aug: int = 1,
    max_bad_samples: int = 100,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_mem: bool = True,
    tell: bool = True,
) -> Loader:
    """The loader for one of `ffcv` (a .beton file), `dali`, `data_path` (a folder), `synthetic`.

    dali: a .beton file, a folder, or tar shards, for DALI to decode.
    decoder: what decodes a .beton file: our "native" engine, "pillow", the "ffcv" library, or
        "auto": the engine where it was built, else Pillow; their pixels are equal.
    ffcv_ops: "module:function", which returns operations of the ffcv library to run after decoding.
    cache: "ram" reads all of the .beton file first and keeps it in memory, once for all ranks.
    label_field, image_field: which of several fields of a .beton file to read (None: the only one
        that can be meant); "none" for no labels.
    dali_share: share of the samples of `ffcv` that DALI decodes, beside `decoder`.
    device: where DALI decodes; on CUDA the batches' images are there. Others make CPU tensors.
    hw_decoder_load: share of the JPEGs that DALI gives to the GPU's JPEG engine.
    input_size: (height, width) in pixels.
    in_chans: 3 (RGB) or 1 (gray); any number for `synthetic`.
    batch_size: samples of a micro-batch on one rank; `accum_iter` of them make an optimizer step.
    min_crop, max_crop: bounds of the share of an image's area that is shown.
    crop: "none" shows all of each image, resized to `input_size`.
    crop_ratio: bounds of the shown part's width / height, relative to `input_size`'s.
    mix_group: partners come from groups of so many consecutive samples (0: the whole batch).
    same_class_ratio: share of mixtures of two images with one label (None: as it comes).
    repeated_aug: crops of each image drawn, all in one batch; an epoch is so many times as long.
    max_bad_samples: more undecodable samples than this stop the run.
    pin_mem: batches in pinned memory, where there is CUDA.
    tell: say on rank 0 what the data are and how they will be shown.

    Raises `DataError` for data that is missing or broken and settings that do not fit together.
    """
    check_source(ffcv, dali, data_path, synthetic)
    check_beton(ffcv, dali, decoder, cache, {"label": label_field, "image": image_field})
    check_range(ffcv, dali)
    if ffcv_ops is not None and decoder != "ffcv":
        raise DataError(f"--ffcv_ops {ffcv_ops} needs --decoder ffcv")
    check_numbers(in_chans, synthetic, num_workers)
    check_crops((min_crop, max_crop), crop, crop_ratio)
    check_dali(ffcv, dali_share, hw_decoder_load)
    crops = Crops(
        size=input_size, channels=in_chans, scale=(min_crop, max_crop), ratio=crop_ratio,
        random=crop == "random", hflip=hflip,
    )  # fmt: skip
    make_sampler = partial(
        Sampler,
        batch_size=batch_size,
        accum_iter=accum_iter,
        rank=rank,
        world_size=world_size,
        seed=seed,
        mix_group=mix_group,
        same_class_ratio=same_class_ratio,
        reciprocal_pairs=reciprocal_pairs,
        repeated_aug=repeated_aug,
    )
    common = {"max_bad_samples": max_bad_samples, "pin_mem": pin_mem}
    if synthetic:
        from fastimae.loaders.synthetic import SyntheticLoader, synthetic_labels

        sampler = make_sampler(synthetic_labels(synthetic_samples))
        return SyntheticLoader(sampler, shape=crops.shape, **common)
    if data_path is not None:
        from fastimae.loaders.imagefolder import FolderLoader, scan_folder

        folder = scan_folder(data_path)
        if tell and rank == 0:
            _tell(data_path, folder, survey_files(folder.open, len(folder.files)), crops)
        sampler = make_sampler(folder.labels, read=folder.read)
        return FolderLoader(folder, sampler, crops, num_workers=num_workers, **common)
    on_gpu = {"device": device, "hw_decoder_load": hw_decoder_load}
    beton: dict[str, Any] = {"cache": cache, "quiet": rank > 0}
    beton |= {"label_field": label_field, "image_field": image_field}
    if dali is not None:
        from fastimae.loaders.dali_loader import DaliLoader
        from fastimae.loaders.encoded import find_encoded

        opened: Any = find_encoded(dali, **beton)
        survey = opened.survey
        make = partial(DaliLoader, **on_gpu)
    else:
        make = _beton_loader(decoder, ffcv_ops)
        if dali_share:
            from fastimae.loaders.shared_loader import SharedLoader

            make = partial(SharedLoader, first=make, dali_share=dali_share, **on_gpu)
        opened = BetonReader(ffcv, **beton)
        survey = partial(survey_sizes, opened.heights, opened.widths)
    with contextlib.ExitStack() as on_error:
        on_error.callback(opened.close)
        if tell and rank == 0:
            _tell(ffcv or dali, opened, survey(), crops)
        sampler = make_sampler(opened.labels, read=opened.read)
        loader = make(opened, sampler, crops, num_workers=num_workers, **common)
        on_error.pop_all()
    return loader


def _beton_loader(decoder: Decoder, ffcv_ops: str | None) -> Callable[..., Loader]:
    """What makes a loader that reads .beton files with `decoder`."""
    if decoder == "ffcv":
        from fastimae.loaders.ffcv_loader import FFCVLoader
        from fastimae.loaders.ffcv_operations import load_operations

        operations = load_operations(ffcv_ops) if ffcv_ops else []
        return partial(FFCVLoader, operations=operations)
    if decoder == "auto":
        from fastimae.loaders.native_library import load, why_missing

        decoder = "native" if load() else "pillow"
        if decoder == "pillow":
            log.warning("%s; Pillow decodes instead, slower", why_missing())
    if decoder == "pillow":
        from fastimae.loaders.pillow_loader import PillowLoader

        return PillowLoader
    from fastimae.loaders.native import NativeLoader

    return NativeLoader


def _tell(
    source: str | Path | None,
    opened: BetonReader | Encoded | Folder,
    survey: Survey,
    crops: Crops,
) -> None:
    """What the run will see, so that a wrong reading is noticed at its start."""
    labels, names = opened.labels, opened.class_names
    log.info("%s: %s: %s", source, opened.kind, describe(len(labels), labels, names))
    say_depth(str(source), survey)
    say_windows(str(source), survey, crops)
