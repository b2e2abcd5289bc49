"""The quick linear probe against scikit-learn's logistic regression, the optimum of its loss."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastimae.evaluate.labels.logistic import logistic_regression
from fastimae.evaluate.online.quick_linear import quick_linear_scores


def features(count, seed, classes=5, width=24):
    """Overlapping classes in dimensions of different size and mean, as an encoder's features."""
    torch.manual_seed(9)
    centres, scale, shift = (
        torch.randn(classes, width),
        torch.rand(width) + 0.05,
        torch.randn(width),
    )
    torch.manual_seed(seed)
    labels = torch.randint(classes, (count,))
    return (centres[labels] + 2.5 * torch.randn(count, width)) * scale + shift, labels


def test_it_agrees_with_scikit_learn():
    (train, labels), (test, true) = features(800, 1), features(1000, 2)
    scores = quick_linear_scores(train, labels, test, classes=5)
    theirs = logistic_regression().fit(train.double().numpy(), labels.numpy())
    chances = torch.from_numpy(theirs.predict_proba(test.double().numpy())).float()
    torch.testing.assert_close(scores.softmax(1), chances, atol=5e-3, rtol=0)
    accuracy = (scores.argmax(1) == true).float().mean().item()
    assert accuracy == pytest.approx(theirs.score(test.numpy(), true.numpy()), abs=0.01)
    assert 0.6 < accuracy < 0.95  # neither chance nor trivial
    again = quick_linear_scores(train, labels, test, classes=5)
    assert torch.equal(scores, again)


def test_gradients_do_not_reach_the_encoder_even_under_no_grad():
    encoder, (pixels, labels) = nn.Linear(24, 8), features(60, 3)
    rows = encoder(pixels)
    scores = quick_linear_scores(rows, labels, rows, classes=5)
    assert encoder.weight.grad is None and not scores.requires_grad
    with torch.no_grad():
        assert torch.equal(quick_linear_scores(rows, labels, rows, classes=5), scores)
    assert F.cross_entropy(scores, labels) < 1.2  # it has learned: log 5 is 1.6


def test_a_feature_that_never_changes_and_a_class_without_images_do_no_harm():
    train, labels = features(60, 4)
    padded = F.pad(train, (0, 1), value=3.0)
    scores = quick_linear_scores(padded, labels, padded, classes=7)
    expected = quick_linear_scores(train, labels, train, classes=5)
    torch.testing.assert_close(scores[:, :5].softmax(1), expected.softmax(1), atol=1e-2, rtol=0)
    assert scores.softmax(1)[:, 5:].max() < 0.05
