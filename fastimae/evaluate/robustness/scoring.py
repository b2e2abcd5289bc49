"""Accuracy of classifiers on a set: among all classes, and among the set's own.

B = batch, K = classes of a classifier, F = folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.accuracy import TOP, percentages
from fastimae.evaluate.options.robustness import ClassifierOptions
from fastimae.evaluate.robustness.classifiers import Classifier
from fastimae.evaluate.robustness.sets import ImageSet
from fastimae.loaders.errors import DataError
from fastimae.progress import tracked

Row = dict[str, Any]


def score(
    classifiers: Sequence[Classifier],
    answers: Sequence[Tensor],
    found: ImageSet,
    options: ClassifierOptions,
    world: World,
) -> list[Row]:
    """Test classifiers on a set: a row for each, the same on all ranks.

    answers: the `right_answers` of each. "acc1" and "acc5" are those of the set's protocol, "among"
    says whether it is the best of all classes or of the set's own; "acc1_all" and "acc1_own" are
    both figures. Raises DataError if no image can be read.
    """
    hits = [torch.zeros(2, len(TOP), dtype=torch.float64, device=world.device) for _ in classifiers]
    right = [answer_FK.to(world.device) for answer_FK in answers]
    bad = [0] * len(classifiers)
    for group in groups_of(classifiers):
        batches = Shown(found.images, classifiers[group[0]], options, world, found.name)
        for pixels_BHWC, folders_B in batches:
            for number in group:
                logits_BK = classifiers[number].logits(pixels_BHWC)
                hits[number] += counted(logits_BK, right[number][folders_B], right[number].any(0))
        failed = batches.bad_of_all()
        bad = [failed if number in group else before for number, before in enumerate(bad)]
    if max(bad) == len(found.images):
        raise DataError(f"{found.given}: no image can be read")
    return [
        _row(classifier, found, right[number], world.mean(hits[number]) * world.size, bad[number])
        for number, classifier in enumerate(classifiers)
    ]


def groups_of(classifiers: Sequence[Classifier]) -> list[list[int]]:
    """Return the positions of classifiers that see the same pixels, group by group."""
    views = [classifier.view for classifier in classifiers]
    return [[n for n, other in enumerate(views) if other == view] for view in dict.fromkeys(views)]


class Shown:
    """This rank's share of a set's images as a classifier sees them, on the device.

    Yields (pixels [B, H, W, C], labels int64 [B]).
    """

    def __init__(
        self,
        images: Images,
        classifier: Classifier,
        options: ClassifierOptions,
        world: World,
        title: str,
    ) -> None:
        """title: of the progress bar. Raises DataError for images of other channels."""
        self.world, self.title = world, title
        self.batches = CenterBatches(
            images.seen(whole=classifier.whole), classifier.size, batch_size=options.batch_size,
            workers=options.worker_count(), channels=classifier.channels,
            indices=np.arange(len(images))[world.rank :: world.size],
        )  # fmt: skip

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        quiet = not self.world.is_main
        for pixels_BHWC, labels_B in tracked(self.batches, self.title, "batch", quiet=quiet):
            yield pixels_BHWC.to(self.world.device), labels_B.to(self.world.device)

    def bad_of_all(self) -> int:
        """Return the number of images that no rank could read, of all ranks."""
        bad = torch.tensor(len(self.batches.bad), dtype=torch.float64, device=self.world.device)
        return round(float(self.world.mean(bad) * self.world.size))


def counted(logits_BK: Tensor, right_BK: Tensor, own_K: Tensor) -> Tensor:
    """Count images whose right classes are among the best 1 and 5: int64 [2, 2].

    The first row is among all classes, the second among the set's own, `own_K` (bool). An image
    with several right classes is a hit if one of them is there.
    """
    outside = torch.finfo(logits_BK.dtype).min
    views = logits_BK, logits_BK.masked_fill(~own_K, outside)
    rows = []
    for scores_BK in views:
        best = scores_BK.topk(min(max(TOP), scores_BK.shape[1]), dim=1).indices
        found = right_BK.gather(1, best).cumsum(1) > 0
        rows.append(torch.stack([found[:, min(k, found.shape[1]) - 1].sum() for k in TOP]))
    return torch.stack(rows)


def _row(classifier: Classifier, found: ImageSet, right_FK: Tensor, hits: Tensor, bad: int) -> Row:
    count = len(found.images) - bad
    among_all, among_own = (percentages(counts, count) for counts in hits)
    own = int(right_FK.any(0).sum())
    return {
        "classifier": classifier.name,
        "set": found.name,
        **(among_own if found.own else among_all),
        "among": own if found.own else len(classifier.names),
        "acc1_all": among_all["acc1"],
        "acc1_own": among_own["acc1"],
        "images": count,
        "bad_images": bad,
        "left_out": found.left_out,
        "folders": int(right_FK.any(1).sum()),
        "own_classes": own,
    }
