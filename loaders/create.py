"""Creates the loader for given settings: the only file that knows all back ends.

Each back end is imported when it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastimae.loaders import native_library
from fastimae.loaders.base import Loader
from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.create_checks import (
    check_cache,
    check_pseudo_labels,
    check_source,
    check_user_code,
    fitted,
)
from fastimae.loaders.images.bands import check_ordinary
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.order.choice import log_choice
from fastimae.loaders.order.pseudo_labels import PseudoLabels
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings
from fastimae.loaders.sources.describe import data_line
from fastimae.loaders.sources.survey import (
    Survey,
    log_depth,
    survey_files,
    survey_sizes,
    warn_about_windows,
)
from fastimae.log import log
from fastimae.settings import check_idle

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from fastimae.loaders.backends.dali_source import JpegSource
    from fastimae.loaders.backends.dataset import Transform
    from fastimae.loaders.images.bands import AnyImage
    from fastimae.loaders.sources.image_files import ImageFiles
    from fastimae.loaders.sources.user_dataset import UserDataset


def create_loader(
    settings: LoaderSettings | None = None,
    *,
    dataset: Any = None,
    labels: Any = None,
    transform: Transform | None = None,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    tell: bool = True,
    **named: Any,
) -> Loader:
    """Create the loader of one source: ffcv, dali, data_path, dataset or synthetic.

    settings, named: all settings, or each by its name, as in
        `create_loader(ffcv="f.beton", batch_size=64)`. `LoaderSettings` has their meaning and
        defaults.
    dataset: your own, with len and [i], or "module:function"; docs/own_data.md has the rules. With
        crop="none", hflip=False its images are used as they are.
    labels: whole numbers, one for each sample of `dataset`, if it has no .targets or .labels.
    transform: changes each crop, a PIL image, to another one (or uint8) of the same size; a crop
        of other channels than 1 or 3, or of 16 bits, is an array [H, W, C]. Its random numbers are
        seeded by the sample.
    rank, world_size: this process's rank among those that share each epoch, and their number.
    device: where DALI decodes and `cache="device"` keeps the images; if it is CUDA, the batches'
        images are there. Otherwise batches are CPU tensors.
    tell: log on rank 0 what the data is and how it will be cropped.

    With `pseudo_labels`, a file of fastimae-eval cluster, batches have its labels instead of the
    data's.

    Raises `DataError` for missing or broken data, and for settings that do not fit together.
    """
    own = _UserCode(None if isinstance(dataset, str) else dataset, labels, transform)
    if dataset is not None:
        named["dataset"] = dataset if own.dataset is None else type(dataset).__name__
    if settings and named:
        raise TypeError(f"settings, and {', '.join(named)}: give one or the other")
    settings = settings or LoaderSettings(**named)
    settings.check()
    check_idle(settings)
    check_source(settings)
    check_user_code(settings, labels, transform)
    check_cache(settings, transform)
    check_pseudo_labels(settings)
    crops = Crops(
        size=settings.image_size, channels=settings.in_chans, ratio=settings.crop_ratio,
        scale=(settings.min_crop, settings.max_crop), random=settings.crop == "random",
        hflip=settings.hflip,
    )  # fmt: skip
    make_sampler = partial(Sampler, settings=settings, rank=rank, world_size=world_size)
    common = {"max_bad_samples": settings.max_bad_samples, "pin_mem": settings.pin_mem}
    source = settings.ffcv or settings.dali or settings.data_path or settings.dataset
    if settings.synthetic:
        from fastimae.loaders.backends.synthetic import KIND, SyntheticLoader, synthetic_labels

        labels = synthetic_labels(settings.synthetic_samples)
        if tell and rank == 0:
            log.info(data_line("--synthetic", KIND, len(labels), labels, ()))
        sampler = make_sampler(labels)
        if tell and rank == 0:
            log_choice(sampler.labels, sampler.chosen, settings, ())
        return SyntheticLoader(sampler, shape=crops.shape, **common)
    with contextlib.ExitStack() as on_error:
        data, survey, make_loader = (
            _open_dataset(settings, crops, own, quiet=rank > 0)
            if settings.dataset is not None
            else _open(settings, own.transform, quiet=rank > 0, device=device)
        )
        on_error.callback(data.close)
        crops = fitted(crops, data.form, source)
        if tell and rank == 0:
            _log_data(source, data, survey(), crops)
        labels = data.labels
        if settings.pseudo_labels:
            labels = _pseudo_labels(settings.pseudo_labels, source, data, tell and rank == 0)
        sampler = make_sampler(labels, read=data.read)
        if tell and rank == 0:
            names = () if settings.pseudo_labels else data.class_names
            log_choice(sampler.labels, sampler.chosen, settings, names)
        loader = make_loader(data, sampler, crops, num_workers=settings.worker_count(), **common)
        on_error.callback(loader.close)
        loader = _on_device(loader, crops, settings, device, tell=tell and rank == 0)
        on_error.pop_all()
    return loader


def _on_device(
    loader: Loader, crops: Crops, settings: LoaderSettings, device: torch.device | str, tell: bool
) -> Loader:
    """Return what keeps the loader's images on the device, if they are to be there."""
    import torch

    device = torch.device(device)
    if settings.cache != "device" and (settings.cache != "auto" or device.type != "cuda"):
        return loader
    from fastimae.loaders.backends.device import on_device

    return on_device(loader, crops, settings, device, tell=tell)


class _UserCode(NamedTuple):
    """What a caller from Python gives beside settings."""

    dataset: Any
    labels: Any
    transform: Transform | None


class _OpenData(NamedTuple):
    """An open source, and the back end that reads it."""

    data: BetonReader | JpegSource | ImageFiles | UserDataset
    survey: Callable[[], Survey]
    """Looks at some of its images."""
    make_loader: Callable[..., Loader]
    """Makes a loader from (data, sampler, crops, **settings)."""


def _open_dataset(
    settings: LoaderSettings, crops: Crops, own: _UserCode, *, quiet: bool
) -> _OpenData:
    from fastimae.loaders.backends.dataset import DatasetLoader
    from fastimae.loaders.backends.dataset_open import open_dataset

    data, survey = open_dataset(settings, crops, quiet=quiet, **own._asdict())
    return _OpenData(data, survey, partial(DatasetLoader, transform=own.transform))


def _transformed(
    transform: Transform, open_image: Callable[[int], AnyImage], sample_name: Callable[[int], str]
) -> Callable[..., Loader]:
    """Return what makes a loader whose crops are transformed."""
    from fastimae.loaders.backends.dataset_open import transform_loader

    return partial(
        transform_loader, transform=transform, open_image=open_image, sample_name=sample_name
    )


def _open(
    settings: LoaderSettings,
    transform: Transform | None,
    *,
    quiet: bool,
    device: torch.device | str,
) -> _OpenData:
    if settings.data_path is not None:
        from fastimae.loaders.backends.folder import FolderLoader
        from fastimae.loaders.sources.image_files import scan_folder

        files = scan_folder(settings.data_path, channels=settings.in_chans)
        survey = partial(survey_files, files.open, len(files.files))
        if transform is None:
            return _OpenData(files, survey, FolderLoader)
        return _OpenData(files, survey, _transformed(transform, files.open, files.path))
    fields = {"label_field": settings.label_field, "image_field": settings.image_field}
    on_gpu = {"device": device, "hw_decoder_load": settings.hw_decoder_load}
    if settings.dali is not None:
        from fastimae.loaders.backends.dali import DaliLoader
        from fastimae.loaders.backends.dali_source import find_jpegs

        jpegs = find_jpegs(settings.dali, cache=settings.cache, quiet=quiet, **fields)
        return _OpenData(jpegs, jpegs.survey, partial(DaliLoader, **on_gpu))
    make_loader = _beton_loader(settings.decoder, settings.ffcv_ops)
    if settings.dali_share:
        from fastimae.loaders.backends.dali import DaliLoader
        from fastimae.loaders.backends.shared import SharedLoader

        dali = partial(DaliLoader.of_beton, **on_gpu)
        make_loader = partial(
            SharedLoader, first=make_loader, dali=dali, dali_share=settings.dali_share
        )
    reader = BetonReader(settings.ffcv, cache=settings.cache, quiet=quiet, **fields)
    if settings.decoder == "ffcv" or settings.dali_share:
        flag = "--dali_share" if settings.dali_share else "--decoder ffcv"
        check_ordinary(reader.form, reader.path, flag)
    if transform is not None:
        name = f"sample {{}} of {reader.path}".format
        make_loader = _transformed(transform, partial(open_sample, reader), name)
    return _OpenData(reader, partial(survey_sizes, reader.heights, reader.widths), make_loader)


def _beton_loader(decoder: str, ffcv_ops: str | None) -> Callable[..., Loader]:
    """Return the class of loaders that decode .beton files with `decoder`, or a partial of it."""
    if decoder == "ffcv":
        from fastimae.loaders.backends.ffcv import FFCVLoader
        from fastimae.loaders.backends.ffcv_operations import load_operations

        operations = load_operations(ffcv_ops) if ffcv_ops else []
        return partial(FFCVLoader, operations=operations)
    if decoder == "auto":
        decoder = "native" if native_library.load() else "pillow"
        if decoder == "pillow":
            log.warning("%s; Pillow decodes instead, slower", native_library.why_missing())
    if decoder == "pillow":
        from fastimae.loaders.backends.pillow import PillowLoader

        return PillowLoader
    from fastimae.loaders.backends.native import NativeLoader

    return NativeLoader


def _pseudo_labels(
    path: Path,
    source: str | Path,
    data: BetonReader | JpegSource | ImageFiles,
    tell: bool,
) -> NDArray[np.int64]:
    """Return the labels of a file for these images. Raises DataError if it is of others."""
    found = PseudoLabels.read(path)
    labels = found.of(data.identity(), len(data.labels), str(source), path)
    if tell:
        log.info(
            "--same_class_ratio: the classes are the %d clusters in %s, made with %s (weights %s)",
            found.clusters, path, found.checkpoint, found.weights,
        )  # fmt: skip
    return labels


def _log_data(
    source: str | Path | None,
    data: BetonReader | JpegSource | ImageFiles | UserDataset,
    survey: Survey,
    crops: Crops,
) -> None:
    """Log what the run will train on, so that a misunderstanding is noticed at its start."""
    labels, names = data.labels, data.class_names
    known = getattr(data, "labels_known", True)  # only a user's dataset may not know
    log.info(data_line(source, data.kind, len(labels), labels, names, labels_known=known))
    log_depth(str(source), survey)
    warn_about_windows(str(source), survey, crops)
