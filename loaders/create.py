"""From settings to a loader: the one place that knows all back ends, each imported when used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastimae.loaders.base import Loader
from fastimae.loaders.beton import BetonReader
from fastimae.loaders.create_checks import check_source
from fastimae.loaders.crops import Crops
from fastimae.loaders.describe import describe
from fastimae.loaders.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings
from fastimae.loaders.survey import (
    Survey,
    say_depth,
    say_windows,
    survey_files,
    survey_sizes,
)
from fastimae.log import log
from fastimae.settings import check_idle

if TYPE_CHECKING:
    import torch

    from fastimae.loaders.encoded import Encoded
    from fastimae.loaders.imagefolder import Folder


def create_loader(
    settings: LoaderSettings | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    tell: bool = True,
    **named: Any,
) -> Loader:
    """The loader for one of `ffcv` (a .beton file), `dali`, `data_path` (a folder), `synthetic`.

    settings: or each by its name, `create_loader(ffcv="f.beton", batch_size=64)`: see
        `LoaderSettings` for their meaning and defaults.
    rank, world_size: which of how many processes this is, that share each epoch.
    device: where DALI decodes; on CUDA the batches' images are there. Others make CPU tensors.
    tell: say on rank 0 what the data are and how they will be shown.

    Raises `DataError` for data that is missing or broken and settings that do not fit together.
    """
    if settings and named:
        raise TypeError(f"settings, and {', '.join(named)}: give one of both")
    settings = settings or LoaderSettings(**named)
    settings.check()
    check_idle(settings)
    check_source(settings)
    crops = Crops(
        size=settings.image_size, channels=settings.in_chans, ratio=settings.crop_ratio,
        scale=(settings.min_crop, settings.max_crop), random=settings.crop == "random",
        hflip=settings.hflip,
    )  # fmt: skip
    make_sampler = partial(Sampler, settings=settings, rank=rank, world_size=world_size)
    common = {"max_bad_samples": settings.max_bad_samples, "pin_mem": settings.pin_mem}
    source = settings.ffcv or settings.dali or settings.data_path
    if settings.synthetic:
        from fastimae.loaders.synthetic import SyntheticLoader, synthetic_labels

        sampler = make_sampler(synthetic_labels(settings.synthetic_samples))
        return SyntheticLoader(sampler, shape=crops.shape, **common)
    with contextlib.ExitStack() as on_error:
        opened, survey, make = _open(settings, quiet=rank > 0, device=device)
        on_error.callback(opened.close)
        if tell and rank == 0:
            _tell(source, opened, survey(), crops)
        sampler = make_sampler(opened.labels, read=opened.read)
        loader = make(opened, sampler, crops, num_workers=settings.num_workers, **common)
        on_error.pop_all()
    return loader


def _open(
    settings: LoaderSettings, *, quiet: bool, device: torch.device | str
) -> tuple[BetonReader | Encoded | Folder, Callable[[], Survey], Callable[..., Loader]]:
    """The source, what looks at some of its images, and what makes its loader."""
    if settings.data_path is not None:
        from fastimae.loaders.imagefolder import FolderLoader, scan_folder

        folder = scan_folder(settings.data_path)
        return folder, partial(survey_files, folder.open, len(folder.files)), FolderLoader
    fields = {"label_field": settings.label_field, "image_field": settings.image_field}
    on_gpu = {"device": device, "hw_decoder_load": settings.hw_decoder_load}
    if settings.dali is not None:
        from fastimae.loaders.dali_loader import DaliLoader
        from fastimae.loaders.encoded import find_encoded

        encoded = find_encoded(settings.dali, cache=settings.cache, quiet=quiet, **fields)
        return encoded, encoded.survey, partial(DaliLoader, **on_gpu)
    make = _beton_loader(settings.decoder, settings.ffcv_ops)
    if settings.dali_share:
        from fastimae.loaders.shared_loader import SharedLoader

        make = partial(SharedLoader, first=make, dali_share=settings.dali_share, **on_gpu)
    reader = BetonReader(settings.ffcv, cache=settings.cache, quiet=quiet, **fields)
    return reader, partial(survey_sizes, reader.heights, reader.widths), make


def _beton_loader(decoder: str, ffcv_ops: str | None) -> Callable[..., Loader]:
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
