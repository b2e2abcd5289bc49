"""What the probes of frozen features share: options, and features to train and test on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastimae.engine.claim import agreed
from fastimae.engine.distributed import World
from fastimae.engine.precision import Precision
from fastimae.engine.prepare import StepSettings
from fastimae.evaluate.class_names import match_training
from fastimae.evaluate.classify.feature_cache import Features, FeatureStore
from fastimae.evaluate.encoder import Pool, check_pool, load_encoder
from fastimae.evaluate.images import Images
from fastimae.evaluate.options import EvalOptions
from fastimae.evaluate.origin import origin_of
from fastimae.folders import FolderError, prepare_folder
from fastimae.settings import Free

MAX_BATCH = 512
"""Images whose features are computed at once, however large a probe's batch is."""


@dataclasses.dataclass(kw_only=True)
class ProbeOptions(EvalOptions):
    """Options of linear, knn and fewshot."""

    pool: Pool | None = None
    """cls: the class token's latent. avg: the mean of the patches'. None: cls, as MAE's linear
    probe, but avg for a model that was fine-tuned on that mean."""
    precision: Precision = StepSettings.precision
    """Of the encoder. auto: bf16 where it pays, as in pre-training; the probe itself is in fp32."""
    random_init: bool = False
    """Probe the same architecture with fresh weights: what pre-training must beat."""
    feature_dir: Free[Path | None] = None
    """Where features are kept between probes. None: eval-features in output_dir, or without one
    beside the checkpoint."""

    def features(self) -> Path:
        """Where features are kept."""
        return self.feature_dir or (self.output_dir or self.checkpoint.parent) / "eval-features"

    def check_images(self, train: Images, world: World) -> None:
        """Raise what the user can mend where a probe of these images is bound to fail: before
        features are computed."""

    def folder(self, task: str) -> Path:
        """As of `EvalOptions`; the baseline has a folder of its own."""
        return super().folder(f"{task}-random" if self.random_init else task)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeData:
    """Features to train a probe on, and to test it on."""

    train: Features
    val: Features
    classes: int
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the encoder: see `origin_of`."""
    class_names: Sequence[str] = ()
    """Empty where they are not known."""
    learned_from: int = 0
    """`Images.digest` of those to train on."""
    tested_on: int = 0
    """`Images.as_tested` of those to test on."""

    def sizes(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "classes": self.classes,
            "train_images": len(self.train),
            "val_images": len(self.val),
            "bad_images": self.train.bad + self.val.bad,
        }


def probe_data(options: ProbeOptions, world: World, folder: Path) -> ProbeData:
    """Load the encoder and make, or find, its features. Raises DataError, CheckpointError.

    folder: the task's own, for files on the way.
    """
    with agreed(world, FolderError("the main process cannot write to --feature_dir: it says why")):
        if world.is_main:
            prepare_folder(options.features(), "--feature_dir")
    train = options.train_images()
    val, classes = match_training(train, options.val_images())
    options.check_images(train, world)
    model = load_encoder(
        options.checkpoint, world.device,
        random_init=options.random_init, seed=options.seed, **options.of_model(),
    )  # fmt: skip
    origin = origin_of(options.checkpoint, model)
    store = FeatureStore(
        model=model,
        folder=options.features(),
        scratch=folder,
        world=world,
        pool=check_pool(model, options.pool),
        precision=options.precision,
        batch_size=min(options.batch_size, MAX_BATCH),
        workers=options.num_workers,
    )
    return ProbeData(
        train=store.features(train),
        val=store.features(val),
        classes=classes,
        class_names=train.classes or [],
        origin=origin,
        learned_from=train.digest,
        tested_on=val.as_tested,
    )
