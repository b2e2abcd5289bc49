"""Options that every task of fastimae-eval has: model, output folder, and most: images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from fastimae.config import OutputSettings
from fastimae.cpus import worker_count
from fastimae.engine.launcher import LaunchSettings
from fastimae.evaluate.options.field_flags import fields_for
from fastimae.interop.options import ModelOptions
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.limits import set_max_pixels, set_value_range
from fastimae.loaders.settings import ReadSettings
from fastimae.loaders.sources.survey import log_depth, survey_files
from fastimae.loaders.sources.what_is import BETON, FOLDER, check_is, is_beton
from fastimae.log import log
from fastimae.settings import ConfigError, Count, Expert, Free, PositiveInt, Seeded, plain_settings
from fastimae.trained import crop_of, training_settings, value_range_for

if TYPE_CHECKING:
    from fastimae.evaluate.images import Images

Pool = Literal["cls", "avg"]
"""The feature of an image: the class token's latent, or the mean of its patches'."""
Kept = Literal["cls", "avg", "tokens"]
"""What is kept of an image: one vector, or all of its tokens."""


def held_out(val: Path | None) -> Path:
    """Return --val, or the val/ in it; never a train/.

    Raises ConfigError if there is neither, and DataError if --val does not exist.
    """
    if val and (val / "val").is_dir():
        return val / "val"
    if val is None or (val / "train").is_dir():
        raise ConfigError("give the images to test on as --val FILE.beton or --val FOLDER")
    if not val.exists():
        raise DataError(f"--val {val}: there is no such file or folder")
    return val


@dataclasses.dataclass(kw_only=True)
class TaskOptions(ModelOptions):
    """Options of every task: the model, the output folder."""

    recorded: ClassVar[tuple[str, ...]] = ()
    """Settings that run.yaml holds although others come from them: see `run_settings`."""

    tests: ClassVar[bool] = False
    """Whether the task can take images to test on, --val, of any kind."""

    checkpoint: Annotated[Path, tyro.conf.arg(aliases=["--finetune"])]
    """Checkpoint of fastimae-train, MAE's code, i-MAE, timm or Hugging Face."""
    config: Free[Path | None] = OutputSettings.config
    """YAML file of options, such as another result's run.yaml; flags override it."""
    output_dir: Free[Path | None] = None
    """Folder for all results. None: eval-TASK beside the checkpoint."""
    device: Free[str] = OutputSettings.device
    """cuda, cuda:N, cpu, or auto."""
    num_workers: Free[Count | None] = ReadSettings.num_workers
    """Threads that decode images; 0: the main thread does. None: one per core."""
    max_pixels: Expert[PositiveInt | None] = None
    """Larger images are skipped: decoding takes 4 bytes per pixel and worker. None: Pillow's limit,
    89 million."""
    seed: int = Seeded.seed
    """Seed of all random choices."""
    debug: Expert[Free[bool]] = False
    """Show tracebacks, and write them to output_dir/debug.log."""

    def folder(self, task: str) -> Path:
        """Return the folder for the task's results."""
        return self.output_dir or self.checkpoint.parent / f"eval-{task}"

    def worker_count(self) -> int:
        """Return the number of workers to use."""
        return worker_count(self.num_workers)

    def source(self) -> Path:
        """Return the file whose model is evaluated."""
        return self.checkpoint

    def launch(self) -> LaunchSettings:
        """Return how processes find each other."""
        return LaunchSettings()

    def check_data(self) -> None:
        """Raise ConfigError or DataError if images to test on are missing, before any is read."""

    def described(self) -> dict[str, Any]:
        """Return all settings for results.json."""
        return plain_settings(self)


@dataclasses.dataclass(kw_only=True)
class EvalOptions(TaskOptions):
    """Options of tasks that look at images: which ones, and how they are read."""

    tests = True

    input_size: tuple[PositiveInt, ...] | None = None
    """Size to read images at, in pixels: a side, or height and width. Positions follow. None: the
    file's."""
    in_chans: Expert[PositiveInt | None] = None
    """Channels to read images with. The first layer follows. None: the file's."""
    ffcv: Path | None = None
    """A .beton file of the images to train a probe on, to draw, or to write features of."""
    data_path: Path | None = None
    """A folder of images instead, flat or with a subfolder per class; its train/ if it has one."""
    val: Path | None = None
    """The .beton file or folder of images to test on; the folder's val/ if it has one. None: the
    val/ in --data_path."""
    label_field: Expert[str | None] = None
    """Label field of .beton files; "none": ignore labels. None: found by its name or type."""
    image_field: Expert[str | None] = None
    """Image field of .beton files. None: the one called image, or the only one."""
    batch_size: PositiveInt = 256
    """Images per batch."""
    value_range: Expert[tuple[float, float] | None] = None
    """LOW HIGH: values that become 0 and 255, in images of more than 8 bits. None: as in
    training."""

    def of_model(self) -> dict[str, Any]:
        """As in `ModelOptions`."""
        return {**super().of_model(), "in_chans": self.in_chans}

    def check_data(self) -> None:
        """As in `TaskOptions`, for tasks that take --val."""
        if self.tests:
            self.val_source()

    def train_images(self) -> Images:
        """Open the images of --ffcv or --data_path. Raises ConfigError unless one is given."""
        if (self.ffcv is None) == (self.data_path is None):
            raise ConfigError("give the images as --ffcv FILE.beton or as --data_path FOLDER")
        self._check_kinds()
        return self._open(self.ffcv or self.data_path)

    def _open(self, source: Path) -> Images:
        """Open images, to be decoded and cropped as in training unless options differ."""
        from fastimae.evaluate.images import open_images  # which imports torch

        trained, asked = self._trained
        set_max_pixels(self.max_pixels)
        set_value_range(self.value_range)
        given = filter(None, (self.ffcv, self.val))
        fields = {"label_field": self.label_field, "image_field": self.image_field}
        fields = fields_for(source, fields, list(filter(is_beton, given)))
        images = open_images(source, channels=trained.get("in_chans"), **fields)
        images.whole = self.crop_of(trained) == "none"
        if not is_beton(source):
            log_depth(str(source), survey_files(images.open, len(images)))
        elif asked:
            log.info("--value_range has no effect on %s, whose images have 8 bits", source)
        return images

    @functools.cached_property
    def _trained(self) -> tuple[Mapping[str, Any], bool]:
        """The settings of the training, and whether --value_range is given; fills in value_range.

        Cached, so that a difference between the two is logged once.
        """
        trained, asked = training_settings(self.source()), self.value_range is not None
        self.value_range = value_range_for(self.value_range, trained, self.source())
        return trained, asked

    def _check_kinds(self) -> None:
        """Raise DataError if a flag names the wrong kind of file."""
        takes = {BETON: "--ffcv", FOLDER: "--data_path"}
        for flag, kinds in (("ffcv", (BETON,)), ("data_path", (FOLDER,)), ("val", (BETON, FOLDER))):
            if given := getattr(self, flag):
                check_is(given, *kinds, flag=f"--{flag}", flags=takes)

    def crop_of(self, trained: Mapping[str, Any]) -> str:
        """Return the --crop of a training by its settings; with "none" images are resized whole."""
        return crop_of(trained)

    def described(self) -> dict[str, Any]:
        """Return all settings for results.json; "crop" is that of the images to test on."""
        return {"crop": self.crop_of(training_settings(self.checkpoint)), **super().described()}

    def val_images(self) -> Images:
        """Open the images of `val_source`."""
        return self._open(self.val_source())

    def val_source(self) -> Path:
        """Return --val, or the val/ in it or in --data_path; never a train/.

        Raises ConfigError if neither is given, and DataError if --val does not exist.
        """
        self._check_kinds()
        split = self.data_path / "val" if self.val is None and self.data_path else None
        return split if split and split.is_dir() else held_out(self.val)

    def val_or_train_images(self) -> Images:
        """Open the images of --val if given, else those of --ffcv or --data_path.

        Raises ConfigError if none is given.
        """
        if self.val:
            return self.val_images()
        if self.ffcv is None and self.data_path is None:
            raise ConfigError("give images: --val, --ffcv FILE.beton or --data_path FOLDER")
        return self.train_images()


@dataclasses.dataclass(kw_only=True)
class SeveralOptions(EvalOptions):
    """Options of tasks that put several models side by side."""

    others: tuple[Path, ...] = ()
    """More checkpoints beside --checkpoint: a baseline MAE, an i-MAE without distillation, ..."""
