"""The two protocols of M_ls: how the linear map is fitted, and on which images it is measured."""

from __future__ import annotations

from collections.abc import Callable

from fastimae.evaluate.mixing.comparison import Row
from fastimae.evaluate.mixing.regression import (
    Affine,
    Moments,
    gradient_descent,
    least_squares,
    train_linear,
)
from fastimae.evaluate.options.mixtures import SeparabilityOptions
from fastimae.models.settings import HeadSpace


def held_out(fit_on: Moments, test_on: Moments, options: SeparabilityOptions) -> Row:
    """Measure on images that the map was not fitted on: in closed form, and by gradient descent."""
    before = test_on.distance(Affine.identity(fit_on.inputs))
    after = test_on.distance(least_squares(fit_on, options.ridge))
    spread = test_on.spread()
    return {
        "mse_before": before,
        "mse_after": after,
        "mse_after_trained": test_on.distance(gradient_descent(fit_on, options.steps)),
        "unexplained_before": before / spread,
        "unexplained": after / spread,
    }


def paper(fit_on: Moments, test_on: Moments, options: SeparabilityOptions) -> Row:
    """Measure a trained linear layer on the images that it was trained on, and on as many others.

    mse_closed_form is what the training approaches on its images.
    """
    identity = Affine.identity(fit_on.inputs)
    trained = train_linear(fit_on, options.regression_epochs, options.regression_lr, options.seed)
    return {
        "mse_before": fit_on.distance(identity),
        "mse_after": fit_on.distance(trained),
        "mse_after_held_out": test_on.distance(trained),
        "mse_before_held_out": test_on.distance(identity),
        "mse_closed_form": fit_on.distance(least_squares(fit_on, options.ridge)),
    }


PROTOCOLS: dict[str, Callable[[Moments, Moments, SeparabilityOptions], Row]] = {
    "held_out": held_out,
    "paper": paper,
}
COLUMNS = {
    "held_out": ("mse_before", "mse_after", "mse_after_trained", "unexplained"),
    "paper": ("mse_before", "mse_after", "mse_after_held_out"),
}
"""The columns to print; results.json has all."""


def in_words(options: SeparabilityOptions, space: HeadSpace) -> str:
    """Return what distinguishes the numbers from others of the same names, for tables."""
    protocol = {"held_out": "held out", "paper": "paper's protocol"}[options.protocol]
    tokens = ", patches only" if options.tokens == "patches" else ""
    return f"{space} space, {protocol}{tokens}"


def caption(options: SeparabilityOptions, space: HeadSpace, width: int) -> str:
    """Describe the numbers in a sentence or two. width: that of the latents."""
    tokens = "all tokens" if options.tokens == "all" else "all tokens but the class token"
    how = f"MSE per element of latents in {space} space (width {width}), {tokens}. "
    if options.protocol == "held_out":
        return (
            f"{how}After: a linear map fitted on {options.train_samples} images at most, "
            "measured on others."
        )
    return (
        f"{how}Before, after: the {options.train_samples} images on which a linear layer is "
        f"trained for {options.regression_epochs} epochs; held out: as many others."
    )
