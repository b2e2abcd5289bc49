"""fastimae-eval msem: the i-MAE paper's M_sem, accuracy and cross-entropy after fine-tuning.

Section 3.3 of the paper: a model is pre-trained on mixtures of which a share r are of one class
(`fastimae-train --same_class_ratio r`). Then "we finetune the model with Mixup strategy (both
baseline and our models) and cross-entropy loss. We use accuracy as the metric of semantics under
this percentage of instance mixture", with M_sem = -sum_i t_i log p_i (equation 8). So M_sem belongs
to a pre-trained model and its r, and is measured by a fine-tuning of table 7: acc1 is the number of
table 1, cross_entropy that of equation 8.

Our reading: the sum is over the classes of one image, so cross_entropy is its mean over the test
images; these are clean, as those that the accuracy is of. Both are of the last epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.evaluate.finetuning.training import fine_tune
from fastimae.evaluate.labels.accuracy import in_words as accuracies
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.msem import MsemOptions, changes, in_words
from fastimae.evaluate.results import open_results
from fastimae.log import log
from fastimae.trained import training_settings

RATIO, REALISED, CLUSTERS = "same_class_ratio", "realised_same_class_ratio", "pseudo_labels"


def run(options: MsemOptions) -> None:
    """Fine-tune; write log.txt, checkpoints, and results.json with acc1 and cross_entropy."""
    with (
        joined_processes(options) as world,
        open_results(options, "msem", log_dir=options.log_dir, world=world) as results,
    ):
        pretraining = same_class_ratios(options)
        outcome = fine_tune(options, world, results)
        if outcome.numbers and world.is_main:
            used = dataclasses.replace(outcome.options, checkpoint=options.checkpoint)
            differs = in_words(changes(used, used.effective_batch(world)))
            numbers = m_sem(outcome.numbers, pretraining, str(used.recipe), differs)
            path = results.save(numbers, used, origin=outcome.origin)
            log.info("msem: %s; %s", described(numbers), path)


def same_class_ratios(options: MsemOptions) -> dict[str, Any]:
    """Return the share of mixtures within a class in pre-training, asked for and realised.

    And the file of the clusters that were its classes, None if these were labels. All are None
    where they are not known, without a ratio, and for --random_init.
    """
    if options.random_init:
        return {RATIO: None, REALISED: None, CLUSTERS: None}
    try:
        loader = load_checkpoint(options.checkpoint, mmap=True).get("loader")
    except CheckpointError:  # of other code; loading its weights raises what is wrong with it
        loader = None
    realised = loader.get(RATIO) if isinstance(loader, dict) else None
    trained = training_settings(options.checkpoint)
    return {RATIO: trained.get(RATIO), REALISED: realised, CLUSTERS: trained.get(CLUSTERS)}


def m_sem(
    tuned: Mapping[str, Any], pretraining: Mapping[str, Any], recipe: str, differs: str
) -> dict[str, Any]:
    """Return the numbers for results.json.

    tuned: of `fine_tune`, whose "loss" is the mean of equation 8 over the test images, in nats.
    pretraining: of `same_class_ratios`. differs: how the settings differ from those of the recipe.
    """
    rest = {name: value for name, value in tuned.items() if name not in ("acc1", "acc5", "loss")}
    return {
        "acc1": tuned["acc1"],
        "acc5": tuned["acc5"],
        "cross_entropy": tuned["loss"],
        **pretraining,
        "recipe": recipe,
        "differs_from_paper": differs,
        **rest,
    }


def described(numbers: Mapping[str, Any]) -> str:
    """Return the numbers in words, for the log."""
    asked, realised, clusters = (numbers[name] for name in (RATIO, REALISED, CLUSTERS))
    known = "" if realised is None else f" (realised {realised:g})"
    known += f" of the clusters in {clusters}, not of classes" if clusters else ""
    at = "" if asked is None else f", pre-trained at r = {asked:g}{known}"
    differs = numbers["differs_from_paper"]
    how = f"differs from the paper: {differs}" if differs else "settings as in the paper"
    entropy = f"cross-entropy {numbers['cross_entropy']:.4f}"
    return f"{accuracies(numbers)}, {entropy}{at}; recipe {numbers['recipe']}, {how}"
