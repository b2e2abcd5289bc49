"""Flags of the tasks that learn from labels: knn, fewshot, and what others share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fastimae.engine.settings import Precision, StepSettings
from fastimae.evaluate.options.base import EvalOptions, Kept, Pool
from fastimae.evaluate.options.trained import FreshOptions, TrainedOptions
from fastimae.loaders.settings import ChoiceSettings
from fastimae.settings import (
    Expert,
    Free,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Settings,
)

if TYPE_CHECKING:
    from fastimae.engine.distributed import World
    from fastimae.evaluate.images import Images

BEST = "checkpoint-best.pth"
"""The epoch with the highest accuracy, mIoU or AP, of a task that trains."""


@dataclasses.dataclass(kw_only=True)
class EncoderOptions(FreshOptions, EvalOptions):
    """Options of finetune, msem, linear, knn, fewshot, cluster and features."""


@dataclasses.dataclass(kw_only=True)
class TrainingOptions(TrainedOptions, ChoiceSettings, EncoderOptions):
    """Options of finetune, msem and linear, with MAE's names."""

    epochs: PositiveInt = 50
    """Passes over the training images."""
    warmup_epochs: NotNegative = 5
    """Epochs of linear warm-up."""
    label_fraction: PositiveShare | None = None
    """Train on this share of each class, chosen by --seed. None: all images."""
    label_list: Expert[Path | None] = None
    """Train on the images in a text file: a file name, or a position from 0, a line."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, CheckpointError if --resume does not exist."""
        super().check()
        chosen_by = self.label_fraction, self.label_list, self.chooses_images or None
        self.require(
            sum(choice is not None for choice in chosen_by) <= 1,
            "--label_fraction, --label_list and --images each choose the images to train on: give "
            "one of them",
        )

    def train_images(self) -> Images:
        """As in `EvalOptions`, but the part that the flags choose. Raises DataError."""
        from fastimae.evaluate.labels import few_labels  # which imports torch

        images = super().train_images()
        if self.label_list:
            return few_labels.images_of_list(images, self.label_list)
        if self.label_fraction:
            return few_labels.share_of_each_class(images, self.label_fraction, self.seed)
        if self.chooses_images:
            return few_labels.images_of_pretraining(images, self, self.seed)
        return images


@dataclasses.dataclass(kw_only=True)
class ProbeOptions(EncoderOptions):
    """Options of linear, knn, fewshot and cluster."""

    pool: Pool | None = None
    """Latent of the class token (cls), or mean of the patches' (avg). None: cls, as in MAE, but avg
    for a model fine-tuned on the mean."""
    layer: int | None = None
    """Block whose output is probed, from 0; -1 is the last. The encoder's last norm follows. None:
    the last."""
    precision: Precision = StepSettings.precision
    """Precision of the encoder; what follows it is in fp32. auto: as in pre-training, bf16 where
    that is faster."""
    feature_dir: Expert[Free[Path | None]] = None
    """Folder where probes share computed features. None: eval-features in output_dir, or else
    beside the checkpoint."""

    @property
    def kept(self) -> Kept | None:
        """What of an image is probed; None: see --pool."""
        return self.pool

    def features_folder(self) -> Path:
        """Return the folder where probes share computed features."""
        return self.feature_dir or (self.output_dir or self.checkpoint.parent) / "eval-features"

    def check_images(self, train: Images, world: World) -> None:
        """Raise ConfigError or DataError if a probe of these images is bound to fail.

        Called before features are computed. The base accepts all.
        """


@dataclasses.dataclass(kw_only=True)
class KnnOptions(ProbeOptions):
    """Classify by weighted nearest neighbours among the training images' features.

    fastimae-eval knn --checkpoint mae.pth --ffcv train.beton --val val.beton
    """

    k: tuple[PositiveInt, ...] = (10, 20, 100, 200)
    """Numbers of neighbours to try; the best is reported first."""
    temperature: PositiveFloat = 0.07
    """A neighbour's vote weighs exp(cosine similarity / temperature)."""


@dataclasses.dataclass(kw_only=True)
class LogisticSettings(Settings):
    """The logistic regression."""

    c: PositiveFloat = 1.0
    """scikit-learn's C of LogisticRegression: larger means less regularisation."""


@dataclasses.dataclass(kw_only=True)
class FewshotOptions(LogisticSettings, ProbeOptions):
    """Learn from a few labels: mean and deviation of accuracy over several choices of them.

    fastimae-eval fewshot --checkpoint mae.pth --ffcv train.beton --val val.beton --shots 5
    """

    fraction: PositiveShare | None = None
    """Share of the labels of each class, at least one. None: 0.01, unless --shots is given."""
    shots: PositiveInt | None = None
    """Labels per class, instead of --fraction."""
    draws: PositiveInt = 5
    """Number of random choices of labels."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, and for both --fraction and --shots."""
        super().check()
        self.require(
            self.shots is None or self.fraction is None,
            "--shots and --fraction both set the number of labels: give one",
        )

    def check_images(self, train: Images, world: World) -> None:
        """Raise DataError unless there are two classes, which a regression needs."""
        from fastimae.evaluate.labels.class_names import check_two_classes  # which imports torch

        check_two_classes(train)
