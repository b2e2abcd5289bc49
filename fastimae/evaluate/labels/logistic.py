"""Logistic regression on standardised features, as fewshot and mixtureprobe fit it."""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fastimae.evaluate.options.labels import LogisticSettings

ITERATIONS = 1000
"""At most; scikit-learn's default of 100 may stop before it converges."""


def logistic_regression(c: float = LogisticSettings.c) -> Pipeline:
    """Return the classifier, not fitted yet."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=ITERATIONS))
