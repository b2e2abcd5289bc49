"""The order and the titles of evaluations on pages, and the units of their numbers."""

from __future__ import annotations

from collections.abc import Iterable

from fastimae.evaluate.pages.evaluations import Evaluation

ORDER = ("study", "msem", "finetune", "linear", "knn", "fewshot", "cluster", "robustness",
         "shapebias", "separability", "mixtureprobe", "reconstruct", "cka", "attention", "tsne",
         "weights")  # fmt: skip
TITLES = {
    "finetune": "Fine-tuning",
    "knn": "Nearest neighbours",
    "fewshot": "Few labels",
    "cluster": "Clusters",
    "separability": "Separability (M_ls)",
    "msem": "M_sem",
    "mixtureprobe": "Mixture probe",
    "cka": "CKA of masked and whole images",
    "shapebias": "Shape bias",
    "tsne": "t-SNE",
}
UNITS = {"acc1": "top-1 (%)", "acc5": "top-5 (%)", "mean_acc1": "mean top-1 (%)",
         "cross_entropy": "cross-entropy"}  # fmt: skip
SCORES = ("acc1", "mean_acc1")
"""Numbers that a reader looks for first, at most one per task: top-1 accuracies in percent."""


def in_order(items: Iterable[Evaluation]) -> list[Evaluation]:
    """Sort evaluations: accuracies first, pictures last."""
    rank = {task: number for number, task in enumerate(ORDER)}
    return sorted(items, key=lambda item: rank.get(item.task, len(ORDER)))


def title_of(item: Evaluation) -> str:
    """Return the evaluation's title, with its folder unless that is the default."""
    task, _, folder = item.name.partition(" ")
    return f"{TITLES.get(task, task.capitalize())} {folder}".strip()
