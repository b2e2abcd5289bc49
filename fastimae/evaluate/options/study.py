"""Flags of the task that pre-trains and evaluates many models: study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fastimae.config import OutputSettings
from fastimae.loaders.settings import ReadSettings
from fastimae.settings import Count, Expert, FileNames, Seeded, Settings


@dataclasses.dataclass(kw_only=True)
class StudyOptions(Settings):
    """Pre-train and evaluate the models of a file: a table, a plot; repeat the command to resume.

    fastimae-eval study few.yaml --ffcv a.beton --val b.beton -- --recipe imae_cifar10

    The file, few.yaml, or one of the studies below by its name:

      about: What mixtures within a class do
      train: {epochs: 100}                         # flags of fastimae-train, of all models
      models:
        baseline: {objective: mae}                 # a row of the table, with its flags
        imae:                                      # rows imae-0, imae-0.5 and imae-1
          objective: imae
          teacher: baseline                        # a model stands for its checkpoint
          grid: {same_class_ratio: [0, 0.5, 1]}    # with several flags: all combinations
        other: {checkpoint: mae.pth}               # not to be trained
      evaluations:
        linear: {epochs: 50}                       # a task of fastimae-eval, with its flags
        knn5: {task: knn, k: 5, models: [imae]}    # of these models only
      columns: {linear: linear.acc1}               # numbers of results.json; without: all acc1
      plot: {x: same_class_ratio}                  # also log: true; without x: bars
      paper: {conditions: "...", numbers: {imae-0: {linear: 70.5}}}    # to stand beside ours
    """

    study: tyro.conf.Positional[Annotated[FileNames, tyro.conf.arg(metavar="FILE")]]
    """The study: a YAML file, or the name of one that comes with FastIMAE."""
    train_flags: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="-- FLAGS OF fastimae-train")]
    ] = ()
    """Flags for every pre-training, which override the file's `train`."""
    ffcv: Path | None = None
    """The .beton file to train on."""
    data_path: Path | None = None
    """A folder of images instead, with a subfolder per class."""
    val: Path | None = None
    """The .beton file or folder to test on. None: the val/ in --data_path."""
    set: tuple[str, ...] = ()
    """Changes of the file, KEY.KEY=VALUE: --set evaluations.linear.epochs=5 train.epochs=100."""
    only: tuple[str, ...] = ()
    """Models or runs to do, with what they need: --only baseline "imae-*/linear". None: all."""
    dry_run: bool = False
    """Check everything, and print all commands: what is done, and what is missing."""
    output_dir: Path = Path("study")
    """Folder for the table and the plot, with a subfolder for each model."""
    device: str = OutputSettings.device
    """cuda, cuda:N, cpu, or auto."""
    num_workers: Count | None = ReadSettings.num_workers
    """Threads that decode images. None: one per core."""
    seed: tuple[int, ...] = (Seeded.seed,)
    """Seeds: each model is trained once for each, and the table has means and deviations."""
    launcher: Expert[str] = ""
    """Words before commands that can use several GPUs, such as "torchrun --nproc_per_node=8
    --no-python"."""
    config: Path | None = OutputSettings.config
    """YAML file of options, such as another study's run.yaml; flags override it."""
    debug: Expert[bool] = False
    """Show tracebacks."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, and for seeds that are no list of them."""
        super().check()
        self.require(bool(self.seed), "--seed needs a value")
        self.require(len(set(self.seed)) == len(self.seed), "--seed: a seed is given twice")
