"""The tables: ours beside the paper's, and how many epochs each model and each number has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cifar10.jobs import Job
from benchmarks.cifar10.pace import FULL, RECIPE
from benchmarks.cifar10.progress import epochs_of_result, epochs_trained
from fastimae.evaluate.pages.tables import markdown as markdown_table
from fastimae.evaluate.studies.commands import Commands
from fastimae.evaluate.studies.table import rows, table


def results(studies: Mapping[str, Commands], jobs: Sequence[Job], epochs: int) -> dict[str, Any]:
    """Return what is done so far, as parts of a report. epochs: planned for each pre-training."""
    return {
        "epochs": epochs,
        "cells": cells(jobs),
        "studies": {
            name: {
                "about": commands.study.about,
                "table": table(commands.study, rows(commands.study, commands)),
                "conditions": [commands.conditions(), commands.study.conditions],
            }
            for name, commands in studies.items()
        },
    }


def cells(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return a row for each model: its epochs, and those of the weights each number is of."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        model, _, evaluation = job.run.name.partition("/")
        if job.trains:
            trained = epochs_trained(job.run.folder)
            found[model] = {"model": model, "epochs": trained, "planned": job.epochs}
        else:
            found[model][evaluation] = epochs_of_result(job.run.folder, job.run.folder.parent)
    return list(found.values())


def markdown(report: Mapping[str, Any]) -> str:
    """Make all tables of a report, each with its conditions, and the table of epochs."""
    planned = report["epochs"]
    length = (
        f"{planned:,} epochs of pre-training are planned for each model, as in the paper"
        if planned == FULL
        else f"{planned:,} epochs of pre-training are planned for each model, where the paper has "
        f"{FULL:,}; warm-up, fine-tuning and linear probes are shorter by the same factor, the "
        "regression of table 2 is not"
    )
    parts = [
        part
        for study in report["studies"].values()
        for part in (study["about"], markdown_table(study["table"]), *study["conditions"])
    ]
    note = (
        f"Recipe {RECIPE}: {length}. The MAE, which teaches others, is trained to its end first. "
        "Epochs that each model has, and had when each number was measured:"
    )
    return "\n\n".join([*parts, note, markdown_table(report["cells"])]) + "\n"
