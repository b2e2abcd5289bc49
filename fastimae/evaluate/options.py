"""What every task of fastimae-eval can be told."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastimae.config import OutputSettings
from fastimae.engine.checkpoint import CheckpointError
from fastimae.engine.claim import ALONE, claimed
from fastimae.engine.distributed import World, join_world
from fastimae.engine.launcher import LaunchSettings
from fastimae.evaluate.fields import fields_for
from fastimae.evaluate.images import Images, open_images
from fastimae.evaluate.result_files import check_own
from fastimae.evaluate.trained import crop_of, range_for, training_of
from fastimae.interop.options import ModelOptions
from fastimae.loaders.errors import DataError
from fastimae.loaders.limits import set_max_pixels, set_value_range
from fastimae.loaders.settings import ReadSettings
from fastimae.loaders.survey import say_depth, survey_files
from fastimae.loaders.what_is import BETON, FOLDER, check_is, is_beton
from fastimae.log import log
from fastimae.settings import ConfigError, Count, Free, PositiveInt, Seeded, plain_value


@dataclasses.dataclass(kw_only=True)
class EvalOptions(ModelOptions):
    """Options of any task; a task adds its own in a subclass."""

    checkpoint: Annotated[Path, tyro.conf.arg(aliases=["--finetune"])]
    """What fastimae-train wrote, or a MAE of the official layout, i-MAE, timm or Hugging Face."""
    ffcv: Path | None = None
    """The .beton file to train a probe on, or to take images from."""
    data_path: Path | None = None
    """A folder instead, by class or flat; its train/ is taken where it has one."""
    val: Path | None = None
    """The .beton file or folder to test on; its val/ is taken where it has one. None: the val/ in
    --data_path."""
    label_field: str | None = None
    """Which field of .beton files of several is the label; none: they have no labels."""
    image_field: str | None = None
    """Which field of .beton files of several is the image."""
    output_dir: Free[Path | None] = None
    """All that is written. None: the folder eval-TASK beside the checkpoint."""
    device: Free[str] = OutputSettings.device
    """cuda, cuda:N, cpu, or auto."""
    batch_size: PositiveInt = 256
    """Images at once."""
    num_workers: Free[Count] = ReadSettings.num_workers
    """Threads that decode; 0 decodes in the main thread."""
    max_pixels: PositiveInt | None = None
    """Larger images are left out: 4 bytes a pixel and worker. None: Pillow's 89 million."""
    value_range: tuple[float, float] | None = None
    """LOW HIGH, of images of more than 8 bits: what becomes 0 and 255. None: as in training."""
    seed: int = Seeded.seed
    """All random choices follow from it."""
    debug: Free[bool] = False
    """Show tracebacks, and keep them in output_dir/debug.log."""

    def folder(self, task: str) -> Path:
        """Where the task's results go."""
        return self.output_dir or self.checkpoint.parent / f"eval-{task}"

    def source(self) -> Path:
        """The file that results are of."""
        return self.checkpoint

    def launch(self) -> LaunchSettings:
        """How processes find each other."""
        return LaunchSettings()

    def train_images(self) -> Images:
        """The images of --ffcv or --data_path. Raises ConfigError unless one is given."""
        if (self.ffcv is None) == (self.data_path is None):
            raise ConfigError("give the images as --ffcv FILE.beton or as --data_path FOLDER")
        self._check_kinds()
        return self._open(self.ffcv or self.data_path)

    def _open(self, source: Path) -> Images:
        """The images, read and shown as in training unless the options say otherwise."""
        trained, asked = self._trained
        set_max_pixels(self.max_pixels)
        set_value_range(self.value_range)
        given = filter(None, (self.ffcv, self.val))
        fields = {"label_field": self.label_field, "image_field": self.image_field}
        fields = fields_for(source, fields, list(filter(is_beton, given)))
        images = open_images(source, **fields)
        images.whole = self.crop_of(trained) == "none"
        if not is_beton(source):
            say_depth(str(source), survey_files(images.open, len(images)))
        elif asked:
            log.info("--value_range has no effect on %s, whose images have 8 bits", source)
        return images

    @functools.cached_property
    def _trained(self) -> tuple[Mapping[str, Any], bool]:
        """The settings of the training, and whether --value_range is given; looked at once, so that
        what is to be said of the two is said once. Fills in value_range."""
        trained, asked = training_of(self.source()), self.value_range is not None
        self.value_range = range_for(self.value_range, trained, self.source())
        return trained, asked

    def _check_kinds(self) -> None:
        """Raise DataError where a flag names something else than it takes."""
        takes = {BETON: "--ffcv", FOLDER: "--data_path"}
        for flag, kinds in (("ffcv", (BETON,)), ("data_path", (FOLDER,)), ("val", (BETON, FOLDER))):
            if given := getattr(self, flag):
                check_is(given, *kinds, flag=f"--{flag}", flags=takes)

    def crop_of(self, trained: Mapping[str, Any]) -> str:
        """--crop, by the settings of a training: with "none", images are shown whole."""
        return crop_of(trained)

    def val_images(self) -> Images:
        """The images of `val_source`."""
        return self._open(self.val_source())

    def val_source(self) -> Path:
        """--val, or the val/ in it or in --data_path; never the train/ of one.

        Raises ConfigError where there is none, and DataError where it cannot be that.
        """
        self._check_kinds()
        given = self.val or self.data_path
        split = given / "val" if given else None
        if split and split.is_dir():
            return split
        if self.val is None or (self.val / "train").is_dir():
            raise ConfigError("give the images to test on as --val FILE.beton or --val FOLDER")
        if not self.val.exists():
            raise DataError(f"--val {self.val}: there is no such file or folder")
        return self.val


def plain(options: Any) -> dict[str, Any]:
    """All settings by name, as plain values that JSON and `weights_only` accept."""
    return {
        field.name: plain_value(getattr(options, field.name))
        for field in dataclasses.fields(options)
    }


def recorded(options: Any) -> dict[str, Any]:
    """What results.json says of the settings: all, and how much of an image a task shows."""
    if not isinstance(options, EvalOptions):  # of a study, whose tasks have results of their own
        return plain(options)
    return {"crop": options.crop_of(training_of(options.checkpoint)), **plain(options)}


@contextlib.contextmanager
def results_folder(
    options: EvalOptions,
    task: str,
    *,
    inside: str = "",
    log_dir: Path | None = None,
    world: World = ALONE,
) -> Iterator[Path]:
    """The task's folder, or one inside it, made, and the task's alone; to be entered before
    anything is computed.

    Raises CheckpointError where it would be made beside a checkpoint that is not there, and
    FolderError where it has another task's results, or as `fastimae.engine.claim.claimed`.
    """
    if options.output_dir is None and not options.source().exists():
        raise CheckpointError(f"there is no checkpoint {options.source()}")
    folder = options.folder(task) / inside
    check_own(folder, task)
    with claimed(folder, log_dir, world):
        yield folder


@contextlib.contextmanager
def joined(options: EvalOptions) -> Iterator[World]:
    """The processes that torchrun or SLURM started; only the first one writes and prints."""
    level = log.level
    world = join_world(options.device, options.launch())
    if not world.is_main:
        log.setLevel(logging.WARNING)
    try:
        yield world
    finally:
        log.setLevel(level)
        world.close()
