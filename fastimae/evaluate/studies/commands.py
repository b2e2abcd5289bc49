"""The commands of a study: one for each pre-training and each evaluation, in order of need."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastimae.arguments import parse_training, peek
from fastimae.config import TrainConfig, config_with
from fastimae.engine.checkpoint import LAST
from fastimae.evaluate.command import TASKS, options_of, task_module
from fastimae.evaluate.options.study import StudyOptions
from fastimae.evaluate.pages.runs import is_finished
from fastimae.evaluate.result_files import RESULTS
from fastimae.evaluate.studies.cells import Cell, cells_of, fits
from fastimae.evaluate.studies.file import OF_STUDY, Evaluation, Study
from fastimae.evaluate.studies.flag_words import Flags, naming, typed_flags, words_of
from fastimae.evaluate.studies.order import chosen, in_order
from fastimae.evaluate.studies.references import Known, known_models, resolved
from fastimae.evaluate.studies.runs import StudyRun
from fastimae.flags import flags_of
from fastimae.recipes import RECIPES
from fastimae.settings import ConfigError
from fastimae.wording import did_you_mean

_SOURCES = ("ffcv", "data_path", "dali", "dataset", "synthetic")
"""Flags that name images to train on."""
_AFTER = "after --"


class Commands:
    """The commands of a study, for the options of its call."""

    def __init__(self, study: Study, options: StudyOptions) -> None:
        """Make the cells. Raises ConfigError for flags that the study sets itself, and for an
        evaluation of models that there are not."""
        self.study, self.options = study, options
        self.launcher = tuple(shlex.split(options.launcher))
        self.cells = cells_of(study, options.seed, _typed(options.train_flags))
        for each in study.evaluations.values():
            for pattern in each.models:
                if not any(fits(cell, pattern) for cell in self.cells):
                    near = did_you_mean(pattern, [cell.row for cell in self.cells])
                    keys = ("evaluations", each.name, "models")
                    raise study.content.error(f"there is no model {pattern}{near}", *keys)

    def folder(self, cell: Cell, evaluation: str = "") -> Path:
        """Return the folder of a pre-training, or of an evaluation of it."""
        folder = self.options.output_dir / cell.name
        return folder / f"eval-{evaluation}" if evaluation else folder

    def checkpoint(self, cell: Cell) -> Path:
        """Return the file with a cell's model."""
        return cell.checkpoint or self.folder(cell) / LAST

    def evaluations(self, cell: Cell) -> list[Evaluation]:
        """Return the evaluations of a cell."""
        return [
            each for each in self.study.evaluations.values()
            if not each.models or any(fits(cell, pattern) for pattern in each.models)
        ]  # fmt: skip

    def runs(self) -> list[StudyRun]:
        """Return the runs of --only, or all, each after those that it needs. Raises ConfigError."""
        found = []
        for cell in self.cells:
            found += [] if cell.checkpoint else [self.training(cell)]
            found += [self.evaluation(cell, each) for each in self.evaluations(cell)]
        return chosen(in_order(found), self.cells, self.options.only)

    def training(self, cell: Cell) -> StudyRun:
        """Return the run that pre-trains a cell's model."""
        place = self.study.content.place("models", cell.model)
        with naming(cell.flags, place):
            owner = _config_of(cell.flags)
        values, needs = resolved(cell.flags, owner, self._known(cell))
        folder = self.folder(cell)
        command = [
            *("fastimae-train", *words_of(self._data(values) | self._common(cell) | values)),
            *("--output_dir", str(folder), "--resume", "auto"),
        ]

        def check() -> None:
            with naming(cell.flags, place):
                parse_training("fastimae-train", command[1:])

        return StudyRun(
            name=cell.name, folder=folder, command=command, needs=tuple(needs), check=check,
            done=functools.partial(is_finished, folder), launcher=self.launcher,
        )  # fmt: skip

    def evaluation(self, cell: Cell, evaluation: Evaluation) -> StudyRun:
        """Return the run of an evaluation of a cell's model."""
        task = TASKS[evaluation.task]
        has = {field.name for field in dataclasses.fields(task.options)}
        known = self._known(cell) | self._files(cell)
        values, needs = resolved(evaluation.flags, task.options, known)
        folder, checkpoint = self.folder(cell, evaluation.name), self.checkpoint(cell)
        place = self.study.content.place("evaluations", evaluation.name)
        own = {"checkpoint": checkpoint} | (self._data(values) if "ffcv" in has else {})
        own |= self._common(cell)
        if self.options.val and task.options.tests:
            own |= {"val": self.options.val}
        own |= {"output_dir": folder}
        if "feature_dir" in has:
            own |= {"feature_dir": folder.parent / "eval-features"}
        if "resume" in has:
            own |= {"resume": "auto"}
        command = ["fastimae-eval", evaluation.task, *words_of(own | values)]

        def check() -> None:
            with naming(evaluation.flags, place):
                task_module(evaluation.task)  # a missing library shows before hours of training
                options_of(evaluation.task, command[2:]).check_data()

        return StudyRun(
            name=f"{cell.name}/{evaluation.name}", folder=folder, command=command,
            needs=(cell.name, *needs), check=check, done=(folder / RESULTS).is_file,
            checkpoint=checkpoint, launcher=self.launcher if task.several else (),
        )  # fmt: skip

    def conditions(self) -> str:
        """Return how our numbers are measured: flags that all models share, tasks, and images."""
        shared = {"pre-training": {**self.study.train, **_typed(self.options.train_flags)}}
        shared |= {
            name if name == each.task else f"{name} ({each.task})": each.flags
            for name, each in self.study.evaluations.items()
        }
        words = (
            " ".join([name, *words_of({flag: its.value for flag, its in flags.items()})])
            for name, flags in shared.items()
        )
        images = [self.options.ffcv or self.options.data_path, self.options.val]
        paths = " and ".join(str(path) for path in images if path)
        return f"Ours: {'; '.join(words)}; images of {paths or 'the models'}."

    def _known(self, cell: Cell) -> Known:
        """Return what a cell's flags may name: models, and files of their evaluations."""
        models = known_models(cell, self.cells)
        known = {name: (other.name, self.checkpoint(other)) for name, other in models.items()}
        for name, other in models.items():
            known |= {f"{name}/{each}": file for each, file in self._files(other).items()}
        return known

    def _files(self, cell: Cell) -> Known:
        """Return the evaluations of a cell that leave a file for other commands, by name."""
        return {
            each.name: (f"{cell.name}/{each.name}", self.folder(cell, each.name) / file)
            for each in self.evaluations(cell)
            if (file := TASKS[each.task].file)
        }

    def _data(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the images to train on, unless the flags name others. Raises ConfigError."""
        if any(values.get(name) for name in _SOURCES):
            return {}
        given = {"ffcv": self.options.ffcv, "data_path": self.options.data_path}
        given = {name: path for name, path in given.items() if path}
        if len(given) != 1:
            raise ConfigError("give the images as --ffcv FILE.beton or as --data_path FOLDER")
        return given

    def _common(self, cell: Cell) -> dict[str, Any]:
        given = {
            "device": self.options.device,
            "num_workers": self.options.num_workers,
            "seed": cell.seed,
        }
        return {name: value for name, value in given.items() if value is not None}


def _typed(words: Sequence[str]) -> Flags:
    """Return the flags of fastimae-train on the command line. Raises ConfigError."""
    objective = peek(words, "objective").get("objective")
    owner = type(config_with(objective)) if objective else TrainConfig
    found = typed_flags(words, flags_of(owner), _AFTER)
    if taken := sorted(found.keys() & {*OF_STUDY}):
        flags = ", ".join(f"--{name}" for name in taken)
        raise ConfigError(f"{flags} {_AFTER}: the study sets that itself")
    return found


def _config_of(flags: Flags) -> type:
    """Return the class of the options of a pre-training, which has its objective's settings."""
    recipe = RECIPES.get(_text(flags, "recipe"), dict)()
    objective = _text(flags, "objective") or recipe.get("objective")
    return type(config_with(objective)) if objective else TrainConfig


def _text(flags: Flags, name: str) -> str:
    value = flags[name].value if name in flags else ""
    return str(value[0] if isinstance(value, list) and value else value)
