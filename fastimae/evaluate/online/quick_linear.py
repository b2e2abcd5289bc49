"""A linear classifier of features in seconds: logistic regression by L-BFGS, on their device.

N, M = images to train and to test on, D = feature width, K = classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.evaluate.options.labels import LogisticSettings
from fastimae.kernels.checks import check_shape

ITERATIONS = 100
"""At most. Each one reads all features once or twice."""
EPSILON = 1e-6
"""Added to variances, as by the batch normalisation of `fastimae-eval linear`."""


def quick_linear_scores(train: Tensor, labels: Tensor, test: Tensor, *, classes: int) -> Tensor:
    """Fit a linear classifier, and return its scores of the test features, float32 [M, K].

    train: [N, D], labels: int64 [N], test: [M, D]. Features are standardised by mean and variance
    of `train`. The loss is convex, so that nothing is left to chance: cross-entropy summed over
    images plus |W|^2 / (2 C), scikit-learn's LogisticRegression with the C of fastimae-eval
    fewshot. It starts from zero. No gradient reaches the features. Raises ValueError for other
    shapes.
    """
    check_shape("train", train, "N", "D")
    check_shape("labels", labels, len(train))
    check_shape("test", test, "M", train.shape[1])
    train, test = train.detach().float(), test.detach().float()
    variance, mean = torch.var_mean(train, 0, correction=0)
    scale = (variance + EPSILON).rsqrt()
    weight, bias = _fit((train - mean) * scale, labels, classes)
    return F.linear((test - mean) * scale, weight, bias)


def _fit(rows_ND: Tensor, labels_N: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weight [K, D] and bias [K] of the least loss."""
    count, width = rows_ND.shape
    weight = rows_ND.new_zeros(classes, width, requires_grad=True)
    bias = rows_ND.new_zeros(classes, requires_grad=True)
    decay = 1 / (2 * LogisticSettings.c * count)  # of the mean over images
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        entropy = F.cross_entropy(F.linear(rows_ND, weight, bias), labels_N)
        value = entropy + decay * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()
