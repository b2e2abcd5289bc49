"""The command fastimae-eval TASK: finds the task, parses its options, runs it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import tyro

from fastimae.arguments import UsageError, parse, peek, recipe_called
from fastimae.config import parsed_settings
from fastimae.config_file import FileSettings, config_file
from fastimae.engine.launcher import is_surplus_process
from fastimae.evaluate.options import detect_recipes, finetune_recipes, linear, segment_recipes
from fastimae.evaluate.options.cka import CkaOptions
from fastimae.evaluate.options.cluster import CLUSTERS, ClusterOptions
from fastimae.evaluate.options.detect import DetectOptions
from fastimae.evaluate.options.features import FEATURES, FeaturesOptions
from fastimae.evaluate.options.figures import (
    AttentionOptions,
    ReconstructOptions,
    TsneOptions,
    WeightsOptions,
)
from fastimae.evaluate.options.finetune import FinetuneOptions
from fastimae.evaluate.options.labels import BEST, FewshotOptions, KnnOptions
from fastimae.evaluate.options.linear import LinearOptions
from fastimae.evaluate.options.mixtures import MixtureprobeOptions, SeparabilityOptions
from fastimae.evaluate.options.msem import MsemOptions, recipe_for
from fastimae.evaluate.options.pages import CompareOptions, ReportOptions
from fastimae.evaluate.options.robustness import RobustnessOptions, ShapebiasOptions
from fastimae.evaluate.options.segment import SegmentOptions
from fastimae.evaluate.options.study import StudyOptions
from fastimae.evaluate.studies.shipped import SHIPPED
from fastimae.flags import flags_of, given_in, path_argument
from fastimae.help import Recipes, help_asked
from fastimae.settings import Settings, check_idle, config_errors, without_idle
from fastimae.wording import did_you_mean

PROG = "fastimae-eval"
WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors")
"""Suffixes of checkpoints."""


class Task(NamedTuple):
    """A task of fastimae-eval: tasks/NAME.py has its function `run(options)`."""

    options: type[Settings]
    about: str
    several: bool = False
    """Whether the processes of torchrun or srun share the work; if not, the first does it alone."""
    recipes: Recipes = MappingProxyType({})
    recipe_for: Callable[[Path], str | None] = lambda _: None
    """The recipe for a checkpoint, if --recipe is not given."""
    file: str = ""
    """The file in its folder that other commands may be given, as a study's do."""


TASKS = {
    "finetune": Task(
        FinetuneOptions,
        "train encoder and classifier with labels",
        several=True,
        recipes=finetune_recipes.RECIPES,
        file=BEST,
    ),
    "linear": Task(
        LinearOptions,
        "linear probe of frozen features",
        several=True,
        recipes=linear.RECIPES,
        file=BEST,
    ),
    "knn": Task(KnnOptions, "weighted nearest neighbours of features", several=True),
    "fewshot": Task(FewshotOptions, "logistic regression with few labels", several=True),
    "cluster": Task(
        ClusterOptions,
        "k-means of features: labels for unlabelled data",
        several=True,
        file=CLUSTERS,
    ),
    "features": Task(
        FeaturesOptions,
        "a file of features, of any layers, for other programs",
        several=True,
        file=FEATURES,
    ),
    "separability": Task(SeparabilityOptions, "linear separability of mixtures (M_ls)"),
    "msem": Task(
        MsemOptions,
        "accuracy after the i-MAE paper's fine-tuning (M_sem)",
        several=True,
        recipes=finetune_recipes.OF_IMAE,
        recipe_for=recipe_for,
        file=BEST,
    ),
    "mixtureprobe": Task(MixtureprobeOptions, "classes read from the latents of mixtures"),
    "robustness": Task(
        RobustnessOptions, "classifiers on ImageNet's variants: v2, R, A, ...", several=True
    ),
    "shapebias": Task(ShapebiasOptions, "whether classifiers go by shape or texture", several=True),
    "reconstruct": Task(ReconstructOptions, "reconstructions and their quality, over ratios"),
    "segment": Task(
        SegmentOptions,
        "semantic segmentation: frozen encoder, or fine-tuning",
        several=True,
        recipes=segment_recipes.RECIPES,
        file=BEST,
    ),
    "detect": Task(
        DetectOptions,
        "boxes and masks of objects, by Mask R-CNN (COCO)",
        several=True,
        recipes=detect_recipes.RECIPES,
        file=BEST,
    ),
    "cka": Task(CkaOptions, "similarity of masked and whole images, by layer (CKA)"),
    "attention": Task(AttentionOptions, "attention maps"),
    "weights": Task(WeightsOptions, "distributions of weights"),
    "tsne": Task(TsneOptions, "features of images in the plane (t-SNE)"),
    "study": Task(
        StudyOptions,
        "pre-train and evaluate the models of a file",
        recipes=SHIPPED,
    ),
    "report": Task(ReportOptions, "an HTML page of a run"),
    "compare": Task(CompareOptions, "several runs side by side"),
}
_FORMER = {
    "semantics": f"use {PROG} study imae_table1_cifar10, or same_class_ratio for images of your own"
}
"""Names of tasks that are gone, and what to use instead."""


def evaluate(argv: Sequence[str]) -> int:
    """Run the task that argv[0] names with the options after it. Returns 0.

    Raises UsageError, ConfigError, DataError or CheckpointError for what the user can fix.
    """
    name, *rest = argv or ["--help"]
    if help_asked([name]):
        print(_help())
        return 0
    if name not in TASKS:
        raise UsageError(f"{_no_task(name, rest)} ({PROG} --help)")
    task = TASKS[name]
    if not task.several and is_surplus_process(f"{PROG} {name}"):
        return 0
    options = options_of(name, rest)
    with config_errors():
        task_module(name).run(options)
    return 0


def _no_task(word: str, rest: Sequence[str]) -> str:
    """Return the error about a first word that is not a task. rest: the words after it."""
    path = Path(word or "nothing")
    if word.startswith("-") or path.exists() or path.suffix in WEIGHTS:
        task = next((each for each in rest if each in TASKS), "knn")
        flag = "" if word.startswith("-") else "--checkpoint "
        return f"the task comes first: {PROG} {task} {flag}{word} ..."
    if word in _FORMER:
        return f"there is no task {word} any more: {_FORMER[word]}"
    near = did_you_mean(word, TASKS) or f": use one of {', '.join(TASKS)}"
    return f"there is no task {word}{near}"


def options_of(name: str, argv: Sequence[str]) -> Any:
    """Parse a task's options. Raises UsageError, and ConfigError for values that cannot work."""
    task = TASKS[name]
    first = peek(argv, "recipe", "config", "checkpoint", "finetune")
    file = config_file(first)
    of_recipe = _recipe(task, first, file)
    default = _defaults(task, of_recipe, file)
    options = parse(f"{PROG} {name}", task.options, argv, default, task.recipes)
    given = given_in(argv, flags_of(task.options))
    kept = given if "eval" in given else given | file.names()
    options = without_idle(options, (of_recipe.keys() | file.names()) - kept)
    options.check()
    check_idle(options, places=file.places(given))
    return options


def task_module(name: str) -> ModuleType:
    """Import a task's module. Raises UsageError with the line to type if a library is missing."""
    try:
        return importlib.import_module(f"fastimae.evaluate.tasks.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fastimae"):
            raise
        raise UsageError(
            f"{name} needs {error.name}, which is not installed: pip install 'fastimae[eval]'"
        ) from error


def _recipe(task: Task, first: Mapping[str, str], file: FileSettings) -> Mapping[str, Any]:
    """Return the settings of --recipe, with its name; or of the recipe for the checkpoint, if any.

    first: the flags among which they may be. Raises ConfigError.
    """
    recipe = first.get("recipe") or file.get("recipe")
    if not task.recipes:
        return {}
    if recipe is None:
        given = first.get("checkpoint") or first.get("finetune") or file.get("checkpoint") or ""
        with contextlib.suppress(argparse.ArgumentTypeError):  # of a path that the parser refuses
            recipe = task.recipe_for(path_argument(str(given))) if given else None
    if not recipe:
        return {}
    with file.naming("recipe", first):
        return {**recipe_called(str(recipe), task.recipes), "recipe": str(recipe)}


def _defaults(task: Task, of_recipe: Mapping[str, Any], file: FileSettings) -> Any:
    """Return the options of a recipe and of a --config file, which overrides it; None without any.

    Raises ConfigError.
    """
    if not file and not of_recipe:
        return None
    given = parsed_settings([task.options], file, file.place)
    return task.options(**_missing(task.options) | of_recipe | given)


def _missing(options: type) -> dict[str, Any]:
    """Return the options that have no default, as tyro marks them."""
    no_default = dataclasses.MISSING
    return {
        field.name: tyro.MISSING for field in dataclasses.fields(options)
        if field.default is no_default and field.default_factory is no_default
    }  # fmt: skip


def _help() -> str:
    width = max(map(len, TASKS))
    lines = [f"  {name:{width}}  {task.about}" for name, task in TASKS.items()]
    usage = f"usage: {PROG} TASK --checkpoint FILE ... ({PROG} TASK --help: its options)"
    example = f"    {PROG} knn --checkpoint mae.pth --data_path imagenet"
    about = "What a checkpoint has learned."
    return "\n".join([usage, "", about, "", example, "", *lines])
