"""Linear probe (MAE, appendix A.1): batch normalisation without affine, then one layer.

N = images, B = batch, D = feature width, K = classes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Literal

import torch
from timm.optim import Lars
from torch import Tensor, nn

from fastimae.engine.assemble import assemble, kept
from fastimae.engine.distributed import World
from fastimae.engine.files import CLASSES, WEIGHTS
from fastimae.engine.prepare import StepSettings
from fastimae.evaluate.classify.classification import (
    ClassBatch,
    Classification,
    EpochLoader,
    Step,
    check_step,
)
from fastimae.evaluate.classify.feature_cache import Features
from fastimae.evaluate.classify.probe import ProbeData, ProbeOptions, probe_data
from fastimae.evaluate.classify.training import (
    TrainingOptions,
    check_apart,
    train,
    training_numbers,
)
from fastimae.evaluate.classify.validation import Validated
from fastimae.evaluate.images import Images
from fastimae.evaluate.options import joined, plain, results_folder
from fastimae.evaluate.results import save_results
from fastimae.log import log
from fastimae.settings import Free, NotNegative, PositiveInt

MOMENTUM = 0.9
NORM_EPS = 1e-6
IN_FP32 = StepSettings(precision="fp32", compile="off")


@dataclasses.dataclass(kw_only=True)
class LinearOptions(ProbeOptions, TrainingOptions):
    """Train a linear classifier on frozen features, without augmentation."""

    batch_size: PositiveInt = 512
    """Features of a step on each GPU."""
    epochs: PositiveInt = 90
    """Passes over the features."""
    recipe: Free[str | None] = None
    """A named run to start from; other flags win over it."""
    opt: Literal["sgd", "lars"] = "sgd"
    """With momentum 0.9 both. LARS, which MAE takes, is for batches of many thousands."""
    blr: NotNegative = 0.1
    """Base learning rate, of an effective batch of 256."""
    weight_decay: NotNegative = 0.0
    """On the matrix only."""
    warmup_epochs: NotNegative = 10
    """Epochs of linear warm-up."""

    def check_images(self, train: Images, world: World) -> None:
        """As of `ProbeOptions`: there must be enough for a step."""
        check_step(len(train), self.batch_size, world, self.accum_iter)


def mae() -> dict[str, Any]:
    """MAE's linear probe on ImageNet: LARS at an effective batch of 16384.

    Command: fastimae-eval linear --recipe mae --checkpoint mae.pth --ffcv train.beton
             --val val.beton
    Hardware: one GPU that holds the features: 4 GB for ViT-B.
    Expected: 68.0 % for ViT-B in the paper, whose probe sees random crops; ours sees each image's
    centre, computed once. Not run here.
    """
    return {"opt": "lars", "batch_size": 16384}


RECIPES = {"mae": mae}


class FeatureLoader(EpochLoader):
    """Batches of features that lie on the device."""

    def __init__(self, features: Features, *, world: World, **settings: int) -> None:
        """settings: the rest of `EpochLoader`'s."""
        super().__init__(features.labels.cpu().numpy(), world=world, **settings)
        self.rows = features.rows.to(world.device)
        self.labels = features.labels.to(world.device)

    def _show(self, steps: Iterable[Step]) -> Generator[ClassBatch, None, None]:
        for step in steps:
            index = torch.from_numpy(step.index).to(self.rows.device)
            yield ClassBatch(inputs=self.rows[index], targets=self.labels[index], index=index)


def run(options: LinearOptions) -> None:
    """Write log.txt, checkpoints and results.json with acc1 and acc5."""
    options.check()
    with (
        joined(options) as world,
        results_folder(options, "linear", log_dir=options.log_dir, world=world) as folder,
    ):
        check_apart(options, folder)
        data = probe_data(options, world, folder)
        begun = {WEIGHTS: data.origin.get(WEIGHTS), CLASSES: list(data.class_names)}
        args = kept(plain(options) | begun, options, world)
        objective = Classification(build_probe(data, options.seed))
        loader = Validated(
            FeatureLoader(
                data.train, world=world, batch_size=options.batch_size, seed=options.seed,
                accum_iter=options.accum_iter, data=data.learned_from,
            ),
            objective.student,
            lambda: _share(data.val, world),
            world,
            precision=IN_FP32.precision,
            output_dir=folder,
            args=args,
            tested_on=data.tested_on,
        )  # fmt: skip
        trainer = assemble(
            objective, loader, world, run=(options,), how=IN_FP32, workers=0,
            output_dir=folder, args=args,
            optimizer=functools.partial(build_optimizer, objective, options),
        )  # fmt: skip
        trained = train(trainer, options, keep=options.features())
        if trained and world.is_main:
            numbers = {**training_numbers(loader), **data.sizes()}
            path = save_results(folder, "linear", numbers, trained, origin=data.origin)
            log.info("linear: acc1 %.2f %%, acc5 %.2f %%; %s",
                     numbers["acc1"], numbers["acc5"], path)  # fmt: skip


def build_probe(data: ProbeData, seed: int) -> nn.Sequential:
    """Normalisation by batch statistics, then a linear layer: float [B, D] -> [B, K]."""
    torch.manual_seed(seed)
    width = data.train.rows.shape[1]
    head = nn.Linear(width, data.classes)
    nn.init.trunc_normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=NORM_EPS), head)


def build_optimizer(module: nn.Module, options: LinearOptions, lr: float) -> torch.optim.Optimizer:
    """LARS, whose trust ratio scales the matrix's steps only, or SGD."""
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if options.opt == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    groups[0]["always_adapt"] = True
    return Lars(groups, lr=lr, momentum=MOMENTUM)


def _share(features: Features, world: World) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's features to validate on, in one batch."""
    rows = slice(world.rank, None, world.size)
    yield features.rows[rows].to(world.device), features.labels[rows].to(world.device)
