"""fastimae-eval TASK: finds the task, reads its options, runs it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import tyro

from fastimae.arguments import UsageError, parse, peek, recipe_called
from fastimae.engine.launcher import stands_aside
from fastimae.settings import check_idle, config_errors

PROG = "fastimae-eval"


class Task(NamedTuple):
    """Where a task lives: its module here, which has `run(options)`, and its options class."""

    place: str
    options: str
    about: str
    several: bool = False
    """Whether the processes that torchrun or srun starts share the work; else the first does it."""

    @property
    def module(self) -> str:
        """Full name of the module."""
        return f"fastimae.evaluate.{self.place}"


TASKS = {
    "finetune": Task(
        "classify.finetune",
        "FinetuneOptions",
        "train all of the encoder with labels",
        several=True,
    ),
    "linear": Task(
        "classify.linear", "LinearOptions", "a linear probe of the features", several=True
    ),
    "knn": Task("classify.knn", "KnnOptions", "weighted nearest neighbours", several=True),
    "fewshot": Task("classify.fewshot", "FewshotOptions", "a probe with few labels", several=True),
    "separability": Task("imae.separability", "SeparabilityOptions", "M_ls of the i-MAE paper"),
    "msem": Task("imae.msem", "MsemOptions", "M_sem of the i-MAE paper"),
    "semantics": Task("imae.semantics", "SemanticsOptions", "a study over same-class ratios"),
    "reconstruct": Task(
        "figures.grids",
        "ReconstructOptions",
        "pictures and their quality, over ratios",
    ),
    "attention": Task("figures.attention_maps", "AttentionOptions", "attention maps"),
    "weights": Task("figures.weights", "WeightsOptions", "distributions of weights"),
    "tsne": Task("figures.tsne", "TsneOptions", "features of images in the plane"),
    "report": Task("report.page", "ReportOptions", "an HTML page of a run"),
    "compare": Task("report.compare", "CompareOptions", "several runs side by side"),
}
"""Imported when asked for: a task's libraries are needed by that task alone."""


def evaluate(argv: Sequence[str]) -> int:
    """Run the task that argv[0] names with the options after it. Returns 0.

    Raises UsageError, ConfigError, DataError or CheckpointError for what the user can mend.
    """
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name not in TASKS:
        raise UsageError(f"there is no task {name}: use one of {', '.join(TASKS)}")
    task = TASKS[name]
    if not task.several and stands_aside(f"{PROG} {name}"):
        return 0
    options = options_of(name, rest)
    with config_errors():
        _import(name, task.module).run(options)
    return 0


def options_of(name: str, argv: Sequence[str]) -> Any:
    """A task's options from its flags. Raises UsageError, and ConfigError for what is out of
    range."""
    task = TASKS[name]
    module = _import(name, task.module)
    options_class = getattr(module, task.options)
    recipe = _recipe(options_class, getattr(module, "RECIPES", {}), argv)
    options = parse(f"{PROG} {name}", options_class, argv, recipe)
    options.check()
    check_idle(options)
    return options


def _import(name: str, module: str):
    """The task's module. Raises UsageError with the line to type where a library is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fastimae"):
            raise
        raise UsageError(
            f"{name} needs {error.name}, which is not installed: pip install 'fastimae[eval]'"
        ) from error


def _recipe(options: type, recipes: dict, argv: Sequence[str]) -> Any:
    """Defaults by the recipe that argv names, None where it names none. Raises UsageError."""
    name = peek(argv, "recipe").get("recipe")
    if name is None or not recipes:
        return None
    return options(**_missing(options), **recipe_called(name, recipes))


def _missing(options: type) -> dict[str, Any]:
    """What has to be given, for tyro."""
    no_default = dataclasses.MISSING
    return {
        field.name: tyro.MISSING for field in dataclasses.fields(options)
        if field.default is no_default and field.default_factory is no_default
    }  # fmt: skip


def _help() -> str:
    width = max(map(len, TASKS))
    lines = [f"  {name:{width}}  {task.about}" for name, task in TASKS.items()]
    usage = f"usage: {PROG} TASK --checkpoint FILE ... ({PROG} TASK --help: its options)"
    return "\n".join([usage, "", "What a checkpoint has learned.", "", *lines])
