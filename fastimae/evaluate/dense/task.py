"""What tells one dense task from another: `DenseTask`, which `run_dense` trains and tests.

C = channels, H, W = height and width.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

from numpy.typing import NDArray
from torch import nn

from fastimae.engine.distributed import World
from fastimae.evaluate.dense.testing import DenseTester
from fastimae.evaluate.options.dense import DenseOptions
from fastimae.evaluate.results import Results
from fastimae.evaluate.training.sample_loader import Collate
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.base import Objective

Transform = Callable[..., tuple[NDArray, Any]]
"""(image, target, epoch, index) -> float32 [C, H, W], and the target of this view."""


class Outcome(NamedTuple):
    """A model that has been trained, or loaded, and what is known about it."""

    tester: DenseTester
    """With the model, and its scores."""
    numbers: dict[str, Any]
    """For results.json, besides the scores."""
    origin: dict[str, Any]
    """Origin of the weights: see `origin_of`."""
    options: DenseOptions
    """The options that the scores were made with."""


@dataclasses.dataclass(frozen=True)
class MakeView:
    """Makes a training view of an image, in a worker process."""

    scenes: Any
    transform: Transform

    def __call__(self, epoch: int, index: int) -> tuple[NDArray, Any]:
        """Return float32 [C, H, W] and its target. Raises SkipImage."""
        return self.transform(*self.scenes.read(index), epoch, index)


class DenseTask(abc.ABC):
    """The parts of a dense task. Options are settled, and an encoder is pre-trained.

    Scenes are images with what is to be found in them. They have `source`, `classes`, `digest`,
    `view_digest`, `name(index)`, a length, and `read(index)`, which returns an image and a target.
    """

    kind: ClassVar[str]
    """Of its checkpoints: see `resume.kind_of`."""
    scores: ClassVar[tuple[str, ...]]
    """Scores of the best epoch for results.json; the first is largest in checkpoint-best.pth."""
    tester: ClassVar[type[DenseTester]]
    collate: ClassVar[Collate]
    """See `SampleLoader`."""

    @abc.abstractmethod
    def open(self, options: DenseOptions, split: Literal["train", "val"]) -> Any:
        """Return the scenes of a split. Raises DataError."""

    @abc.abstractmethod
    def match(self, val: Any, classes: list[str], of: str) -> Any:
        """Return scenes to test on with the classes of the model. Raises DataError for others.

        of: where `classes` are from, for the error.
        """

    @abc.abstractmethod
    def build(self, options: DenseOptions, encoder: MaskedAutoencoder, scenes: Any) -> nn.Module:
        """Return the model to train, with an `encoder` and fresh heads for the scenes.

        Raises ConfigError for what does not fit the encoder.
        """

    @abc.abstractmethod
    def transform(self, options: DenseOptions, encoder: MaskedAutoencoder) -> Transform:
        """Return what makes training views of --input_size, with the encoder's mean and std."""

    @abc.abstractmethod
    def objective(self, student: nn.Module, precision: str) -> Objective:
        """Return the losses. precision: "bf16", "fp16" or "fp32"."""

    def how(self, options: DenseOptions, precision: str) -> DenseOptions:
        """Return how the engine computes a step: `StepSettings`."""
        return options

    @abc.abstractmethod
    def log_sizes(
        self, options: DenseOptions, student: nn.Module, scenes: Any, val: Any, world: World
    ) -> None:
        """Log a line about a training: the sizes of the model and of the data, and the rate."""

    @abc.abstractmethod
    def load_trained(self, options: DenseOptions) -> tuple[nn.Module, list[str], DenseOptions]:
        """Return the model that --eval tests, the names of its classes, and the test's options.

        options: not settled. Raises CheckpointError.
        """

    @abc.abstractmethod
    def report(self, outcome: Outcome, results: Results) -> dict[str, Any]:
        """Draw pictures and write files of a test; return more numbers for results.json."""

    @abc.abstractmethod
    def in_words(self, scores: dict[str, Any]) -> str:
        """Return the main scores for the log's last line."""
