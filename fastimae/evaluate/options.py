"""What every task of fastimae-eval can be told."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastimae.config import ConfigError, plain_value
from fastimae.engine.distributed import World, join_world
from fastimae.evaluate.images import Images, is_beton, open_images
from fastimae.loaders.limits import set_max_pixels


@dataclasses.dataclass(kw_only=True)
class EvalOptions:
    """Options of any task; a task adds its own in a subclass."""

    checkpoint: Annotated[Path, tyro.conf.arg(aliases=["--finetune"])]
    """What fastimae-train wrote, or a MAE of the official layout, i-MAE, timm or Hugging Face."""
    model: str | None = None
    """Name of its model (mae_vit_base_patch16), where the file does not tell."""
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
    output_dir: Path | None = None
    """Results and pictures. None: the folder eval-TASK beside the checkpoint."""
    device: str = "auto"
    """cuda, cuda:N, cpu, or auto."""
    batch_size: int = 256
    """Images at once."""
    num_workers: int = 10
    """Threads that decode; 0 decodes in the main thread."""
    max_pixels: int | None = None
    """Larger images are left out: 4 bytes a pixel and worker. None: Pillow's 89 million."""
    seed: int = 0
    """All random choices follow from it."""
    debug: bool = False
    """Show tracebacks, and keep them in output_dir/debug.log."""

    def folder(self, task: str) -> Path:
        """Where the task's results go; it is made if needed."""
        folder = self.output_dir or self.checkpoint.parent / f"eval-{task}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def launch(self) -> dict[str, Any]:
        """Arguments of `join_world` beside the device."""
        return {}

    def train_images(self) -> Images:
        """The images of --ffcv or --data_path. Raises ConfigError unless one is given."""
        given = [path for path in (self.ffcv, self.data_path) if path]
        if len(given) != 1:
            raise ConfigError("give the images as --ffcv FILE.beton or as --data_path FOLDER")
        return self._open(given[0])

    def _open(self, source: Path) -> Images:
        set_max_pixels(self.max_pixels)
        fields = {"label_field": self.label_field, "image_field": self.image_field}
        given = filter(None, (self.ffcv, self.data_path, self.val))
        if any(fields.values()) and not any(map(is_beton, given)):
            raise ConfigError("--label_field and --image_field are for .beton files: --ffcv, --val")
        return open_images(source, **fields)

    def val_images(self) -> Images:
        """The images of --val, or of the val/ in it or in --data_path; never those of a train/.

        Raises ConfigError where there are none.
        """
        given = self.val or self.data_path
        split = given / "val" if given else None
        if split and split.is_dir():
            return self._open(split)
        if self.val is None or (self.val / "train").is_dir():
            raise ConfigError("give the images to test on as --val FILE.beton or --val FOLDER")
        return self._open(self.val)


def plain(options: Any) -> dict[str, Any]:
    """All settings by name, as plain values that JSON and `weights_only` accept."""
    return {
        field.name: plain_value(getattr(options, field.name))
        for field in dataclasses.fields(options)
    }


@contextlib.contextmanager
def joined(options: EvalOptions) -> Iterator[World]:
    """The processes that torchrun or SLURM started; only the first one writes and prints."""
    logger = logging.getLogger("fastimae")
    level = logger.level
    world = join_world(options.device, **options.launch())
    if not world.is_main:
        logger.setLevel(logging.WARNING)
    try:
        yield world
    finally:
        logger.setLevel(level)
        world.close()
