"""mIoU over a data set, against loops in NumPy and torchmetrics' Jaccard index."""

import dataclasses

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from fastimae.engine.distributed import ALONE, World
from fastimae.evaluate.segmentation.scores import SegmentScores, in_words
from fastimae.loaders.errors import DataError

NAMES = [f"c{number}" for number in range(6)]


def made_up(seed=0, images=5, classes=4, ignored=0.1):
    """Return predictions and masks, int64 [N, H, W], that agree on half of the pixels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (images, 9, 7)) ** 2 // (classes - 1)
    guess = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, classes, truth.shape))
    truth[rng.random(truth.shape) < ignored] = 255
    return torch.from_numpy(guess), torch.from_numpy(truth)


def by_hand(guess, truth, classes):
    """Return (IoU of each class, accuracy of each), NaN where there are no pixels."""
    guess, truth = guess.numpy().ravel(), truth.numpy().ravel()
    guess, truth = guess[truth != 255], truth[truth != 255]
    iou, accuracy = [], []
    for number in range(classes):
        both = int(((guess == number) & (truth == number)).sum())
        either = int(((guess == number) | (truth == number)).sum())
        there = int((truth == number).sum())
        iou.append(both / either if either else np.nan)
        accuracy.append(both / there if there else np.nan)
    return np.array(iou), np.array(accuracy)


def scores_of(guess, truth, names=NAMES):
    scores = SegmentScores(names)
    for one, mask in zip(guess, truth, strict=True):
        scores.update(one[None], mask[None].to(torch.uint8))
    return scores.compute(ALONE)


def test_scores_are_those_of_all_pixels_together():
    guess, truth = made_up()
    found = scores_of(guess, truth)
    iou, accuracy = by_hand(guess, truth, len(NAMES))
    assert found["mIoU"] == pytest.approx(100 * np.nanmean(iou))
    assert found["mAcc"] == pytest.approx(100 * np.nanmean(accuracy))
    counted = truth != 255
    assert found["aAcc"] == pytest.approx(100 * (guess == truth)[counted].double().mean().item())
    assert found["IoU"]["c2"] == pytest.approx(100 * iou[2])
    jaccard = MulticlassJaccardIndex(len(NAMES), average="none", ignore_index=255)(guess, truth)
    np.testing.assert_allclose(
        [found["IoU"][name] or 0 for name in NAMES], 100 * jaccard.numpy(), rtol=1e-5
    )
    averaged_by_image = np.mean(
        [np.nanmean(by_hand(one, mask, 6)[0]) for one, mask in zip(guess, truth, strict=True)]
    )
    assert abs(found["mIoU"] - 100 * averaged_by_image) > 0.1  # another figure


def test_absent_classes_are_left_out_and_said():
    guess, truth = made_up(classes=4)
    found = scores_of(guess, truth)
    assert found["absent"] == ["c4", "c5"]
    assert [found["IoU"][name] for name in found["absent"]] == [None, None]
    assert "2 classes, c4, c5" in in_words(found)
    assert scores_of(guess, truth, NAMES[:4])["mIoU"] == pytest.approx(found["mIoU"])


def test_a_class_that_is_only_predicted_counts_as_zero():
    guess, truth = made_up(classes=4)
    guess[0, 0, 0], truth[0, 0, 0] = 5, 1
    found = scores_of(guess, truth)
    assert found["IoU"]["c5"] == 0.0
    assert found["absent"] == ["c4"]
    assert found["mAcc"] == pytest.approx(100 * np.nanmean(by_hand(guess, truth, 6)[1]))


def test_a_perfect_prediction():
    _, truth = made_up(ignored=0)
    found = scores_of(truth, truth)
    assert (found["mIoU"], found["aAcc"], found["mAcc"]) == (100.0, 100.0, 100.0)


def test_logits_count_as_their_largest():
    guess, truth = made_up(classes=6)
    logits = torch.nn.functional.one_hot(guess, 6).movedim(-1, 1).float() + torch.rand(5, 6, 9, 7)
    scores = SegmentScores(NAMES)
    scores.update(logits, truth)
    assert scores.compute(ALONE) == scores_of(logits.argmax(1), truth)


@dataclasses.dataclass(frozen=True)
class TwoRanks(World):
    """A world whose other rank has these counts."""

    other: torch.Tensor | None = None

    def all(self, values):
        assert values.dtype == torch.int64  # exact, whatever their sum is
        return [values, self.other]


def test_ranks_give_what_one_gives():
    guess, truth = made_up(images=7)
    parts = []
    for which in (slice(0, 7, 2), slice(1, 7, 2)):
        scores = SegmentScores(NAMES)
        scores.update(guess[which], truth[which])
        parts.append(scores)
    everyone = [part._matrix.compute() for part in parts]
    for part, other in zip(parts, reversed(everyone), strict=True):
        world = TwoRanks(rank=0, size=2, device=torch.device("cpu"), other=other)
        assert part.compute(world) == scores_of(guess, truth)


def test_nothing_that_counts():
    scores = SegmentScores(NAMES)
    scores.update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 255))
    with pytest.raises(DataError, match="no pixel of the test masks counts"):
        scores.compute(ALONE)


def test_shapes_must_match():
    scores = SegmentScores(NAMES)
    with pytest.raises(ValueError, match="predicted must be"):
        scores.update(torch.zeros(1, 5, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="mask must be"):
        scores.update(torch.zeros(1, 6, 4, 4), torch.zeros(1, 4, 5, dtype=torch.uint8))
