"""The order and the titles of evaluations on pages, and the units of their numbers."""

from __future__ import annotations

from collections.abc import Iterable

from fastimae.evaluate.pages.evaluations import Evaluation

ORDER = ("study", "msem", "finetune", "linear", "knn", "fewshot", "robustness", "shapebias",
         "segment", "detect", "cluster", "separability", "mixtureprobe", "reconstruct", "cka",
         "attention", "tsne", "weights", "features")  # fmt: skip
TITLES = {
    "finetune": "Fine-tuning",
    "knn": "Nearest neighbours",
    "fewshot": "Few labels",
    "cluster": "Clusters",
    "separability": "Separability (M_ls)",
    "msem": "M_sem",
    "mixtureprobe": "Mixture probe",
    "shapebias": "Shape bias",
    "segment": "Segmentation",
    "detect": "Detection",
    "cka": "CKA of masked and whole images",
    "tsne": "t-SNE",
}
_PRECISIONS = ("", "50", "75", "s", "m", "l")
"""Kinds of COCO's average precision: the mean, at one IoU, or of objects of one size."""
UNITS = {
    "acc1": "top-1 (%)",
    "acc5": "top-5 (%)",
    "mean_acc1": "mean top-1 (%)",
    "cross_entropy": "cross-entropy",
    "mIoU": "mIoU (%)",
    "aAcc": "accuracy of pixels (%)",
    "mAcc": "mean accuracy of classes (%)",
    **{f"AP{of}": f"box AP{of} (%)" for of in _PRECISIONS},
    **{f"AP{of}_mask": f"mask AP{of} (%)" for of in _PRECISIONS},
    "shape_accuracy": "shape accuracy (%)",
    "texture_accuracy": "texture accuracy (%)",
}
_SCORES = {
    "acc1": "",
    "mean_acc1": "",
    "mIoU": "mIoU",
    "AP": "box AP",
    "AP_mask": "mask AP",
    "shape_accuracy": "shape accuracy",
}
"""Numbers that a reader looks for first, in percent, and how each is told from the others of its
task; top-1 accuracies, one in a task, need no name."""
_OF_SET = "_acc1"
"""End of the name of a top-1 accuracy on one of the sets of `robustness`."""


def in_order(items: Iterable[Evaluation]) -> list[Evaluation]:
    """Sort evaluations: accuracies first, pictures last."""
    rank = {task: number for number, task in enumerate(ORDER)}
    return sorted(items, key=lambda item: rank.get(item.task, len(ORDER)))


def title_of(item: Evaluation) -> str:
    """Return the evaluation's title, with its folder unless that is the default."""
    task, _, folder = item.name.partition(" ")
    return f"{TITLES.get(task, task.capitalize())} {folder}".strip()


def scores_in(item: Evaluation) -> dict[str, str]:
    """Return which of an evaluation's numbers a reader looks for first, and a title for each."""
    named = {name: what for name, what in _SCORES.items() if name in item.numbers}
    if item.task == "robustness":
        sets = [name for name in item.numbers if name.endswith(_OF_SET)]
        named = {name: name.removesuffix(_OF_SET) for name in sets}
    return {name: f"{title_of(item)}{what and ': '}{what}" for name, what in named.items()}


def unit_of(name: str) -> str:
    """Return a number's unit, or its name in words if it has none; no two names have one text."""
    if name in UNITS:
        return UNITS[name]
    last = name.removeprefix("best_")
    if last in UNITS:
        return f"best {UNITS[last]}"
    if name.endswith(_OF_SET):
        return f"{name.removesuffix(_OF_SET)}: {UNITS['acc1']}"
    return name.replace("_", " ")
