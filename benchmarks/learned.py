"""What models learned on CIFAR-10: tables of committed results of benchmarks before the studies.

`python -m benchmarks.cifar10`, of the commits that the results name, trained MAE and i-MAE, or the
objectives of the occlusion paper, for a few epochs. A study's file does the same now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import number, table


def markdown(report: Mapping[str, Any]) -> str:
    """Make tables of accuracy, of M_ls before -> after the regression by mixing ratio, of CKA.

    M_ls is a sum over the width: the mean squared error of today's `separability` is another scale.
    """
    rows: dict[str, dict[str, Any]] = {}
    for one in report["separability"]:
        row = rows.setdefault(one["model"], {"M_ls, sum over the width": one["model"]})
        both = one["before"], one["after_closed_form"]
        row[f"{one['mix_ratio']:g}"] = " → ".join(number(each) for each in both)
    tables = [table(report["results"]), *([table(list(rows.values()))] if rows else [])]
    return "\n".join([*tables, *([cka_table(report["cka"])] if "cka" in report else [])])


def cka_table(means: list[Mapping[str, Any]]) -> str:
    """Make a row for each model: the mean of CKA over the layers, by masking ratio."""
    rows: dict[str, dict[str, Any]] = {}
    for one in means:
        row = rows.setdefault(one["model"], {"CKA, mean of layers": one["model"]})
        row[f"{one['mask_ratio']:g}"] = f"{one['cka']:.3f}"
    return table(list(rows.values()))


def all_tables(report: Mapping[str, Any]) -> str:
    """Make all tables: probes, separability, losses; and list the commands."""
    commands = "\n".join(report["commands"])
    losses = [
        {"run": name, "epochs": len(lines)}
        | {
            f"{when} loss": number(lines[i]["train_loss"])
            for when, i in (("first", 0), ("last", -1))
        }
        for name, lines in report["curves"].items()
    ]
    return f"{markdown(report)}\n{table(losses)}\n```\n{commands}\n```\n"
