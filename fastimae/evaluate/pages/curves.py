"""Which charts training logs make: losses, accuracies, and one for each other number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fastimae.evaluate.pages.charts import Chart, line_chart
from fastimae.evaluate.pages.tables import is_number

Log = Sequence[Mapping[str, Any]]


class Axis(NamedTuple):
    """What a chart shows, and in which unit."""

    title: str
    y_label: str


ACCURACY = Axis("Accuracy", "accuracy (%)")
LOSS = Axis("Loss", "loss")
PARTS = Axis("Loss, its parts", "loss")
OVERLAP = Axis("Mean IoU", "mIoU (%)")
PRECISION = Axis("Average precision", "AP (%)")
RANK = Axis("RankMe", "effective rank of features")
_FIRST = (ACCURACY, OVERLAP, PRECISION, LOSS, PARTS)
_UNPLOTTED = ("epoch", "bad_samples")
_AXES = {
    "train_lr": Axis("Learning rate", "learning rate"),
    "img_per_s": Axis("Speed", "images per second"),
    "mfu": Axis("MFU, the share of the device's peak", "share of the peak"),
    "data_wait": Axis("Waiting for data", "share of the time"),
    "memory_gb": Axis("Memory", "GB"),
    "probe_seconds": Axis("Time of a probe", "seconds"),
}
_TITLES = {
    "train_loss": "Training loss",
    "test_loss": "Test loss",
    "test_acc1": "Top-1 accuracy",
    "test_acc5": "Top-5 accuracy",
    "test_mIoU": "Mean IoU",
    "test_aAcc": "Accuracy of pixels",
    "test_mAcc": "Mean accuracy of classes",
    "test_AP": "AP of boxes",
    "test_AP_mask": "AP of masks",
    "probe_linear_acc1": "Linear probe while training",
    "probe_knn_acc1": "Nearest neighbours while training",
    "probe_rankme": "RankMe while training",
    "probe_ema_linear_acc1": "Linear probe while training, of the average",
    "probe_ema_knn_acc1": "Nearest neighbours while training, of the average",
    "probe_ema_rankme": "RankMe while training, of the average",
}
"""Of charts of a single number."""


def curves(log: Log) -> list[Chart]:
    """Draw the numbers of a log over its epochs; a log of a single line has no curves."""
    if len(log) < 2:
        return []
    groups: dict[Axis, dict[str, list[tuple[float, float]]]] = {}
    for name, points in _numbers(log).items():
        axis = axis_of(name)
        groups.setdefault(axis, {})[axis.y_label if name in _AXES else _in_words(name)] = points
    return [
        chart for axis in sorted(groups, key=_rank)
        for chart in line_chart(axis.title, groups[axis], axis.y_label)
    ]  # fmt: skip


def curves_over_each_other(logs: Mapping[str, Log], prefix: str = "") -> dict[str, Chart]:
    """Draw each number of the logs, given by run, in a chart with a line for each run.

    Return the charts by the number's name, losses and accuracies first. prefix: of their titles.
    """
    points = {run: _numbers(log) for run, log in logs.items()}
    names = dict.fromkeys(name for of_run in points.values() for name in of_run)
    charts = {}
    for name in sorted(names, key=lambda name: (_rank(axis_of(name)), name)):
        lines = {run: of_run.get(name, []) for run, of_run in points.items()}
        if any(len(line) > 1 for line in lines.values()):
            for chart in line_chart(prefix + _title_of(name), lines, axis_of(name).y_label):
                charts[name] = chart
    return charts


def axis_of(name: str) -> Axis:
    """Return the axis of the chart that shows a number of the log."""
    if "acc" in name.lower():
        return ACCURACY
    if name.endswith("mIoU"):
        return OVERLAP
    if name.startswith("test_AP"):
        return PRECISION
    if name.endswith("rankme"):
        return RANK
    if name != "train_lr" and name.startswith(("train_", "val_", "test_")):
        return LOSS if "loss" in name else PARTS
    return _AXES.get(name, Axis(_in_words(name).capitalize(), "value"))


def _rank(axis: Axis) -> tuple[bool, str]:
    return axis not in _FIRST, axis.title


def _title_of(name: str) -> str:
    """Return the title of a chart of this number alone."""
    words = name.replace("_", " ")
    title = _AXES[name].title if name in _AXES else words[:1].upper() + words[1:]
    return _TITLES.get(name, title)


def _numbers(log: Log) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each number in a log: the epoch, counted from 1, and the value."""
    found: dict[str, list[tuple[float, float]]] = {}
    for number, entry in enumerate(log):
        epoch = entry["epoch"] if is_number(entry.get("epoch")) else number
        for name, value in _plotted(entry):
            found.setdefault(name, []).append((float(epoch) + 1, float(value)))
    return found


def _plotted(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if is_number(value) and name not in _UNPLOTTED:
            yield name, value


def _in_words(name: str) -> str:
    return name.removeprefix("train_").removeprefix("probe_").replace("_", " ")
