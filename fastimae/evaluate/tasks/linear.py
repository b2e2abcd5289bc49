"""fastimae-eval linear: a linear probe, which is batch norm without affine, then one layer.

As in MAE, appendix A.1, and i-MAE, table 8. Or an attentive probe of all tokens.

N = images, B = batch, D = feature width, K = classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import torch
from timm.optim import Lars
from torch import Tensor, nn

from fastimae.engine.build_step import StepSettings
from fastimae.engine.checkpoint_file import CLASSES, LABELLED, PROBED, WEIGHTS
from fastimae.engine.distributed import World
from fastimae.engine.resume import ATTENTIVE_PROBE, LINEAR_PROBE
from fastimae.evaluate.labels.accuracy import in_words
from fastimae.evaluate.labels.attentive import attentive_probe
from fastimae.evaluate.labels.classification import Classification
from fastimae.evaluate.labels.cropped_features import CroppedFeatures
from fastimae.evaluate.labels.feature_cache import Features
from fastimae.evaluate.labels.probe import ProbeData, Tested, open_probe, probe_data
from fastimae.evaluate.labels.probe_layer import probe_layer
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.labels.token_batches import TokenBatches
from fastimae.evaluate.labels.training import train_classifier
from fastimae.evaluate.options.linear import LinearOptions
from fastimae.evaluate.results import Results, open_results
from fastimae.evaluate.training.batches import EpochLoader, LabelledBatch, StepSamples
from fastimae.evaluate.training.checks import check_apart, check_resume
from fastimae.loaders.sources.survey import survey_files, warn_about_windows
from fastimae.log import log
from fastimae.settings import plain_settings
from fastimae.trained import training_settings

MOMENTUM = 0.9
IN_FP32 = StepSettings(precision="fp32", compile="off")


class FeatureLoader(EpochLoader):
    """Batches of features that are on the device already."""

    def __init__(self, features: Features, *, world: World, **settings: int) -> None:
        """Copy the features to the device. settings: the other arguments of `EpochLoader`."""
        super().__init__(len(features.labels), world=world, **settings)
        self.rows = features.rows.to(world.device)
        self.labels = features.labels.to(world.device)

    def _decode_steps(self, steps: Iterable[StepSamples]) -> Generator[LabelledBatch, None, None]:
        for step in steps:
            index = torch.from_numpy(step.index).to(self.rows.device)
            yield LabelledBatch(inputs=self.rows[index], targets=self.labels[index], index=index)


def run(options: LinearOptions) -> None:
    """Write log.txt, checkpoints and results.json with acc1 and acc5."""
    with (
        joined_processes(options) as world,
        open_results(options, "linear", log_dir=options.log_dir, world=world) as results,
    ):
        check_apart(options.checkpoint, results.folder)
        options.settle_crops(training_settings(options.checkpoint))
        prepare = _cached if options.crop == "center" and not options.attends else _computed
        data, loader = prepare(options, world, results)
        objective = Classification(_probe(options, data, loader))
        trained = train_classifier(
            options, objective, loader, world,
            validation=lambda: _share(data.val, world), tested_on=data.tested_on,
            how=IN_FP32, workers=0 if prepare is _cached else options.worker_count(),
            optimizer=lambda lr, _: build_optimizer(objective, options, lr),
            output_dir=results.folder, run_file=results.run_file,
            settings={
                **plain_settings(options),
                WEIGHTS: data.origin.get(WEIGHTS),
                CLASSES: list(data.class_names),
                LABELLED: data.chosen,
                PROBED: {**data.probed, "probe_heads": _heads(options, loader)},
            },
            keep=options.features_folder(),
        )  # fmt: skip
        if trained and isinstance(data.val, TokenBatches):
            data.val.count()
        bad = loader.bad_of_all() if trained else 0
        if trained and world.is_main:
            numbers = {**trained.numbers, **_sizes(data, loader, bad)}
            path = results.save(numbers, trained.options, origin=data.origin)
            log.info("linear: %s; %s", in_words(numbers), path)


def _cached(options: LinearOptions, world: World, results: Results) -> tuple[Tested, EpochLoader]:
    """Compute the features of each image's centre, or read them."""
    data = probe_data(options, world, results.folder, _check(options, results))
    loader = FeatureLoader(
        data.train, world=world, data=data.learned_from, **loader_settings(options)
    )
    return data, loader


def _computed(
    options: LinearOptions, world: World, results: Results
) -> tuple[Tested, CroppedFeatures]:
    """Open a loader that computes features in each epoch: of random crops, or tokens."""
    store, images, data = open_probe(options, world, results.folder, _check(options, results))
    cropped = options.crop == "random"
    crops = options.crops(store.model.img_size, store.model.in_chans) if cropped else None
    if crops and world.is_main:
        surveyed = survey_files(images.open, len(images))
        advice = "--crop center takes the middle of all images"
        warn_about_windows(str(images.source), surveyed, crops, advice)
    return data, CroppedFeatures(store, images, crops, **loader_settings(options))


def _check(options: LinearOptions, results: Results) -> Callable[[Mapping[str, Any]], None]:
    kind = ATTENTIVE_PROBE if options.attends else LINEAR_PROBE
    return functools.partial(check_resume, options.resume, results.folder, kind)


def loader_settings(options: LinearOptions) -> dict[str, int]:
    """Return the arguments of `EpochLoader` that are options."""
    names = "batch_size", "seed", "accum_iter"
    return {name: getattr(options, name) for name in names}


def _sizes(data: Tested, loader: EpochLoader, bad: int) -> dict[str, Any]:
    """Return the numbers of classes and images. bad: training images that no rank could read."""
    if isinstance(data, ProbeData):
        return data.sizes()
    return data.sizes_with(loader.epoch_steps.samples, bad)


def _probe(options: LinearOptions, data: Tested, loader: EpochLoader) -> nn.Sequential:
    """Return the fresh probe that the options ask for. Raises ValueError for --probe_heads."""
    heads = _heads(options, loader)
    if heads is None:
        return build_probe(data, options.seed)
    width = loader.store.model.pos_embed.shape[-1]
    return attentive_probe(width, heads, data.classes, options.seed)


def _heads(options: LinearOptions, loader: EpochLoader) -> int | None:
    """Return the heads of an attentive probe, as many as the encoder's by default; else None."""
    if not options.attends:
        return None
    return options.probe_heads or loader.store.model.blocks[0].attn.num_heads


def build_probe(data: Tested, seed: int) -> nn.Sequential:
    """Return batch normalisation and a linear layer: float [B, D] -> [B, K]."""
    torch.manual_seed(seed)
    return probe_layer(data.val.rows.shape[1], data.classes)


def build_optimizer(module: nn.Module, options: LinearOptions, lr: float) -> torch.optim.Optimizer:
    """Return SGD, AdamW, or LARS with a trust ratio for matrices only."""
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if options.opt == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    if options.opt == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    groups[0]["always_adapt"] = True
    return Lars(groups, lr=lr, momentum=MOMENTUM)


def _share(tested: Features | TokenBatches, world: World) -> Iterable[tuple[Tensor, Tensor]]:
    """Return this rank's features to validate on, in one batch, or its tokens, in several."""
    return tested if isinstance(tested, TokenBatches) else _in_one(tested, world)


def _in_one(features: Features, world: World) -> Iterator[tuple[Tensor, Tensor]]:
    rows = slice(world.rank, None, world.size)
    yield features.rows[rows].to(world.device), features.labels[rows].to(world.device)
