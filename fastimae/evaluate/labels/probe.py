"""Probes of frozen features: the encoder and images, and features to train and test on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastimae.engine.distributed import World
from fastimae.engine.fail_together import fail_together
from fastimae.evaluate.features import resolve_layer, resolve_pool
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.class_names import match_training
from fastimae.evaluate.labels.feature_cache import Features, FeatureStore
from fastimae.evaluate.labels.few_labels import labelled_part
from fastimae.evaluate.labels.token_batches import TokenBatches
from fastimae.evaluate.options.labels import ProbeOptions
from fastimae.evaluate.origin import origin_of
from fastimae.folders import FolderError, new_folder

MAX_BATCH = 512
"""Most images whose features are computed at once, however large the probe's batch is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tested:
    """The features that a probe is tested on, and what it learns."""

    val: Features | TokenBatches
    classes: int
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Origin of the encoder: see `origin_of`."""
    class_names: Sequence[str] = ()
    """Empty if names are not known."""
    learned_from: int = 0
    """`Images.digest` of the training images."""
    chosen: str = ""
    """`Images.chosen` of the training images."""
    tested_on: int = 0
    """`Images.view_digest` of the test images."""
    probed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Which features of the encoder they are, by the names of flags."""

    def sizes_with(self, train_images: int, bad: int) -> dict[str, Any]:
        """Return the numbers of classes and images, for results.json.

        bad: number of training images that could not be read.
        """
        return {
            "classes": self.classes,
            "train_images": train_images,
            "val_images": len(self.val),
            "bad_images": bad + self.val.bad,
            **labelled_part(self.chosen),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeData(Tested):
    """Features to train a probe on and to test it on."""

    train: Features

    def sizes(self) -> dict[str, Any]:
        """Return the numbers of classes and images, for results.json."""
        return self.sizes_with(len(self.train), self.train.bad)


class OpenProbe(NamedTuple):
    """An encoder, and images whose features it has not computed yet."""

    store: FeatureStore
    train: Images
    tested: Tested


def probe_data(
    options: ProbeOptions,
    world: World,
    folder: Path,
    check: Callable[[Mapping[str, Any]], None] = lambda origin: None,
) -> ProbeData:
    """Load the encoder, and compute or read its features. Raises DataError, CheckpointError.

    Arguments: see `open_probe`.
    """
    store, train, tested = open_probe(options, world, folder, check)
    return ProbeData(train=store.features(train), **vars(tested))


def open_probe(
    options: ProbeOptions,
    world: World,
    folder: Path,
    check: Callable[[Mapping[str, Any]], None],
) -> OpenProbe:
    """Load the encoder, and compute or read the features to test on, unless these are tokens.

    Raises DataError, CheckpointError.

    folder: of this task, for temporary files. check: called with the encoder's origin before images
    are opened.
    """
    store = feature_store(options, world, folder)
    origin = origin_of(options.checkpoint, store.model)
    check(origin)
    train = options.train_images()
    val, classes = match_training(train, options.val_images())
    options.check_images(train, world)
    tested = Tested(
        val=TokenBatches(store, val) if store.pool == "tokens" else store.features(val),
        classes=classes,
        class_names=train.classes or [],
        origin=origin,
        learned_from=train.digest,
        chosen=train.chosen,
        tested_on=val.view_digest,
        probed=_probed(store),
    )
    return OpenProbe(store, train, tested)


def _probed(store: FeatureStore) -> dict[str, Any]:
    """Return what features depend on besides the encoder's weights, as it is in effect."""
    model = store.model
    return {
        "layer": store.layer,
        "pool": store.pool,
        "num_heads": model.blocks[0].attn.num_heads,
        "input_size": list(model.img_size),
        "mean": list(model.mean),
        "std": list(model.std),
    }


def feature_store(options: ProbeOptions, world: World, folder: Path) -> FeatureStore:
    """Load the encoder whose features are computed or read. Raises CheckpointError, FolderError.

    folder: see `probe_data`.
    """
    lost = FolderError("the main process cannot write to --feature_dir: see its message")
    with fail_together(world, lost):
        if world.is_main:
            with new_folder(options.features_folder(), "--feature_dir"):
                pass  # it can be written
    model = options.load_encoder(world.device)
    return FeatureStore(
        model=model,
        folder=options.features_folder(),
        scratch=folder,
        world=world,
        layer=resolve_layer(model, options.layer),
        pool=resolve_pool(model, options.kept),
        precision=options.precision,
        batch_size=min(options.batch_size, MAX_BATCH),
        workers=options.worker_count(),
    )
