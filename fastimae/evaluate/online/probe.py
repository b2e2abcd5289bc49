"""What a probe measures of an encoder: a linear classifier, nearest neighbours, and RankMe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastimae.engine.settings import Precision
from fastimae.evaluate.features import AUTO, extract, resolve_pool
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.accuracy import accuracy
from fastimae.evaluate.labels.class_names import match_training
from fastimae.evaluate.labels.neighbours import knn_accuracy
from fastimae.evaluate.labels.probe import MAX_BATCH
from fastimae.evaluate.online.crops import CenterCrops
from fastimae.evaluate.online.quick_linear import quick_linear_scores
from fastimae.evaluate.options.labels import KnnOptions
from fastimae.evaluate.rankme import rankme
from fastimae.models import MaskedAutoencoder
from fastimae.settings import RGB, Seeded

MOST_IMAGES = 10_000
"""Images to learn from, and images to test on, at most: a probe stays cheap, and its accuracy is
that of all test images within a point (two standard errors at 50 %)."""
NEIGHBOURS = 20


class OnlineProbe:
    """Measures encoders on the same labelled images again and again, as they are trained.

    Training does not notice: nothing is drawn at random while an encoder is measured, no gradient
    reaches it, and the modes of its modules are restored.
    """

    def __init__(
        self,
        train: Images,
        val: Images,
        *,
        channels: int = RGB,
        batch_size: int = MAX_BATCH,
        workers: int = 0,
        seed: int = Seeded.seed,
        precision: Precision = AUTO,
    ) -> None:
        """Choose up to MOST_IMAGES images of each side by `seed`.

        train, val: see `open_images`; whether classes match is a matter of `match_training`.
        channels, batch_size, workers: see `CenterBatches`. precision: of features, see `inference`.
        Raises DataError for images without labels, unknown classes, and images of other channels.
        """
        val, self.classes = match_training(train, val)
        self.train, self.val = (
            CenterCrops(
                images, count=MOST_IMAGES, seed=seed,
                channels=channels, batch_size=batch_size, workers=workers,
            )
            for images in (train, val)
        )  # fmt: skip
        self.precision = precision

    def check(self, size: tuple[int, int]) -> None:
        """Raise DataError if the first images of one side cannot be read. size: of crops."""
        self.train.check(size)
        self.val.check(size)

    def __call__(self, encoder: MaskedAutoencoder) -> dict[str, float]:
        """Measure an encoder on its device; return "linear_acc1", "knn_acc1" (%) and "rankme".

        The accuracies are those of `quick_linear_scores` and `knn_accuracy` (of NEIGHBOURS), the
        rank that of the features of the test images. The features are fastimae-eval's.
        """
        with undisturbed(encoder):
            train, labels = self._features(encoder, self.train)
            val, true = self._features(encoder, self.val)
        scores = quick_linear_scores(train, labels, val, classes=self.classes)
        by_k = knn_accuracy(
            train, labels, val, true, classes=self.classes,
            ks=(NEIGHBOURS,), temperature=KnnOptions.temperature, quiet=True,
        )  # fmt: skip
        return {
            "linear_acc1": accuracy(scores, true)["acc1"],
            "knn_acc1": by_k[NEIGHBOURS]["acc1"],
            "rankme": rankme(val),
        }

    def _features(self, encoder: MaskedAutoencoder, crops: CenterCrops) -> tuple[Tensor, Tensor]:
        """Return features float32 [N, D] and labels int64 [N], on the encoder's device."""
        device = encoder.pos_embed.device
        rows, labels = extract(
            encoder, crops.batches(encoder.img_size), device, resolve_pool(encoder, None),
            precision=self.precision, quiet=True,
        )  # fmt: skip
        return rows.to(device), labels.to(device)


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for the block, without gradients and compilation."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        # Batches of whole images have shapes of their own, which are not worth compiling.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
