"""Flags of robustness and shapebias: classifiers, and the sets that they are tested on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.engine.settings import Precision, StepSettings
from fastimae.evaluate.options.base import EvalOptions, TaskOptions
from fastimae.evaluate.options.labels import BEST
from fastimae.loaders.errors import DataError
from fastimae.paths import expanded
from fastimae.settings import ConfigError, Expert, FileNames, Free, PositiveInt

OBJECTNET = "objectnet"
OWN_CLASSES = ("r", "a")
"""Sets with 200 of ImageNet's classes: the answer is the best of these."""
_TAKEN = "classifier"
"""No name for a set: tables have a column of this name."""


@dataclasses.dataclass(kw_only=True)
class ClassifierOptions(TaskOptions):
    """Options of tasks that test classifiers: which, and where their encoders are."""

    classifier: tuple[Path, ...]
    """Files of linear, finetune or msem, or their folders; or fine-tuned ones of MAE and timm. The
    flags that describe a model are for the first."""
    checkpoint: Path | None = None
    """The encoder of probes, if its file has moved; its digest tells which are its own."""
    input_size: tuple[PositiveInt, ...] | None = None
    """Size to test all of them at, in pixels: a side, or height and width. Positions follow. None:
    each file's."""
    batch_size: PositiveInt = EvalOptions.batch_size
    """Images per batch."""
    output_dir: Free[Path | None] = None
    """Folder for all results. None: eval-TASK beside the first classifier, or its eval- folder."""
    precision: Precision = StepSettings.precision
    """Precision of the networks; a probe's layer is in fp32. auto: bf16 where that is faster."""

    def check(self) -> None:
        """Raise ConfigError for values out of range."""
        super().check()
        self.require(len(self.classifier) > 0, "--classifier needs a file")

    def check_files(self) -> None:
        """Raise CheckpointError or DataError for models and images that do not exist."""
        given = [("--classifier", path) for path in self.classifier]
        for flag, path in (*given, ("--checkpoint", self.checkpoint)):
            if path and not path.exists():
                raise CheckpointError(f"{flag}: there is no checkpoint {path}")
        self.check_data()

    def files(self) -> list[Path]:
        """Return the file of each classifier: the best one in the folder of a task."""
        return [best if (best := path / BEST).is_file() else path for path in self.classifier]

    def source(self) -> Path:
        """Return the file of the first classifier."""
        return self.files()[0]

    def folder(self, task: str) -> Path:
        """Return the folder for results; of a classifier in eval-linear, one beside that."""
        place = self.source().parent
        run = place.parent if place.name.startswith("eval-") else place
        return self.output_dir or run / f"eval-{task}"


@dataclasses.dataclass(kw_only=True)
class RobustnessOptions(ClassifierOptions):
    """Test classifiers on ImageNet's variants: one table over all of them.

    fastimae-eval robustness --classifier run/eval-linear --sets v2=imagenetv2 r=imagenet-r
    """

    sets: tuple[FileNames, ...]
    """NAME=DIR of each: v2, r, a, sketch, objectnet, imagenet or another name; folders called by
    WordNet numbers, or a .beton file."""
    own_classes: Expert[tuple[str, ...]] = ()
    """Names of sets, besides r and a, whose answer is the best of the set's own classes. Others:
    the best of all that the classifier knows."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, and for sets without a name of their own."""
        super().check()
        self.places()
        for name in self.own_classes:
            self.require(name in self.places(), f"--own_classes {name}: no set has this name")
            refused = f"--own_classes {name}: results have both figures of this set anyway"
            self.require(name != OBJECTNET, refused)

    def check_data(self) -> None:
        """Raise DataError for sets that do not exist."""
        for name, path in self.places().items():
            if not path.exists():
                raise DataError(f"--sets {name}={path}: there is no such file or folder")

    def places(self) -> dict[str, Path]:
        """Return the path of each set by its name. Raises ConfigError."""
        found: dict[str, Path] = {}
        for given in self.sets:
            name, equals, path = given.partition("=")
            if not (name and equals and path):
                raise ConfigError(f"--sets {given}: give it as NAME=DIR, such as v2=imagenetv2")
            if name in found or name == _TAKEN:
                whose = "another set" if name in found else "the column of classifiers"
                raise ConfigError(f"--sets {given}: {whose} is called {name}, too: rename this set")
            try:
                found[name] = Path(expanded(path))
            except ValueError as error:
                raise ConfigError(f"--sets {name}={error}") from error
        self.require(bool(found), "--sets needs a set, NAME=DIR")
        return found

    def chooses_among_own(self, name: str) -> bool:
        """Return whether the answer is the best of a set's own classes."""
        return name in (*OWN_CLASSES, *self.own_classes)


@dataclasses.dataclass(kw_only=True)
class ShapebiasOptions(ClassifierOptions):
    """Whether classifiers go by shape or by texture where these are of different categories.

    fastimae-eval shapebias --classifier run/eval-linear --data style-transfer-preprocessed-512
    """

    data: Path
    """Folder of the cue-conflict stimuli: files SHAPE1-TEXTURE2.png, flat or in subfolders."""

    def check_data(self) -> None:
        """Raise DataError unless there is such a folder."""
        if not self.data.is_dir():
            what = "this is a file" if self.data.exists() else "there is no such folder"
            raise DataError(f"--data {self.data}: {what}: give the folder of the stimuli")
