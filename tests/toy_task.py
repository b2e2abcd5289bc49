"""A task with labels that is no classification: a map of each image, and any number of points.

An image's target is its brightness from left to right, and the map's mean at 0 to 3 points.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn

from fastimae.engine.distributed import World, join_world
from fastimae.engine.launcher import LaunchSettings
from fastimae.engine.run_file import RunFile
from fastimae.engine.settings import StepSettings
from fastimae.evaluate.options.trained import LabelledRunSettings
from fastimae.evaluate.training.run import train_with_labels
from fastimae.evaluate.training.sample_loader import SampleLoader
from fastimae.loaders.image_location import SkipImage
from fastimae.models.drop_path import path_factors
from fastimae.objectives.base import Objective
from fastimae.settings import Seeded, plain_settings

SAMPLES, SIDE, BROKEN, DATA = 34, 8, 5, 7


@dataclasses.dataclass(kw_only=True)
class ToyOptions(StepSettings, Seeded, LaunchSettings, LabelledRunSettings):
    """Options as a task has them."""

    output_dir: Path
    checkpoint: Path | None = None
    device: str = "cpu"
    num_workers: int = 0


def make_sample(epoch, index):
    """Make a noisy ramp; the noise is from the generators that the loader has seeded."""
    if index == BROKEN:
        raise SkipImage("made to be broken")
    rng = np.random.default_rng(index)
    ramp = np.linspace(0, 1, SIDE, dtype=np.float32)[None] * np.float32(rng.random() + 0.5)
    map_HW = np.repeat(ramp, SIDE, 0)[:, ::-1]  # a view with negative strides
    noise = torch.randn(1, SIDE, SIDE).numpy() * 0.1
    points = rng.integers(0, SIDE, (index % 4, 2))
    return (map_HW[None] + noise).astype(np.float32), {"map": map_HW, "points": points}


class ToyModel(nn.Module):
    """A convolution between two norms, one of which has statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, images, key=None):
        change = self.conv(self.norm(images))
        if key is not None:
            change = change * path_factors(key, 0.5, 2)[1, 0, :, None, None, None]
        return (images + change)[:, 0]


class ToyObjective(Objective):
    """Squares of the differences, of all pixels and at the points of each image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.student = ToyModel()

    def forward(self, batch):
        maps = self.student(batch.inputs, batch.key)
        return losses(maps, batch.targets)


def losses(maps, targets):
    found, wanted = [], []
    for map_HW, target in zip(maps, targets, strict=True):
        row, column = target["points"].T
        found.append(map_HW[row, column])
        wanted.append(target["map"][row, column])
    of_map = (maps - torch.stack([target["map"] for target in targets])).square().mean()
    at_points = (torch.cat(found) - torch.cat(wanted)).square().sum() / max(len(maps), 1)
    return {"loss": of_map + at_points, "of_map": of_map, "at_points": at_points}


def make_loader(options, world, samples=SAMPLES, make=make_sample):
    return SampleLoader(
        make, samples, shape=(1, SIDE, SIDE), batch_size=options.batch_size,
        num_workers=options.num_workers, pin_mem=False, world=world, seed=options.seed, data=DATA,
        source="toys", accum_iter=options.accum_iter,
    )  # fmt: skip


def measure(student, world):
    """Test on two noiseless images, of which the ranks have a part each."""
    student.eval()
    error = torch.zeros(1, dtype=torch.float64)
    with torch.no_grad():
        for index in range(world.rank, 4, world.size):
            _, target = make_sample(0, index)
            truth = torch.from_numpy(target["map"].copy())
            error += (student(truth[None, None])[0] - truth).square().mean()
    error = float(world.mean(error) * world.size) / 4
    return {"test_score": -error, "test_error": error}


def train(options, world, *, tested_by=measure, settings=None, tested_on=1, loader=None):
    objective = ToyObjective()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    settings = {**plain_settings(options), **(settings or {})}
    return train_with_labels(
        options, objective, loader or make_loader(options, world), world,
        measure=functools.partial(tested_by, objective.student, world), best="test_score",
        tested_on=tested_on, how=options, workers=options.num_workers,
        optimizer=lambda lr, adamw: adamw(list(objective.student.parameters()), lr=lr),
        output_dir=options.output_dir, run_file=RunFile(options.output_dir, settings),
        settings=settings,
    )  # fmt: skip


def toy_options(folder, **changes):
    given = {"lr": 1e-2, "precision": "fp32", "batch_size": 4, "epochs": 3, "warmup_epochs": 1}
    return ToyOptions(output_dir=folder, **given | changes)


def command(words):
    """Train by flags, as one of a launcher's processes; return an exit status."""
    options = tyro.cli(ToyOptions, args=words)
    world = join_world(options.device, options)
    train(options, world)
    world.close()
    return 0


ALONE = World(0, 1, torch.device("cpu"))
