"""Linear regression from moments: fitted and tested without keeping any rows.

Least squares needs only the count of the rows, their sums and their sums of products, so any number
of rows takes O((E + F)^2) memory. All in float64, as differences of large sums lose digits.

R = rows (latents of tokens), E = width of the inputs, F = width of the targets. Distances are mean
squared errors: means over rows and the F dimensions.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastimae.evaluate.options.mixtures import SeparabilityOptions
from fastimae.kernels.checks import check_shape


@dataclasses.dataclass(frozen=True)
class Affine:
    """The map x -> x @ weight + bias; weight [E, F], bias [F], float64."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def identity(cls, width: int) -> Affine:
        """Return the map that changes nothing."""
        eye = torch.eye(width, dtype=torch.float64)
        return cls(eye, torch.zeros(width, dtype=torch.float64))

    def __call__(self, x: Tensor) -> Tensor:
        """Map [..., E] -> float64 [..., F]."""
        return x.double() @ self.weight + self.bias


class Moments:
    """Sums over pairs of rows x [R, E] and y [R, F]."""

    def __init__(self, inputs: int, targets: int, device: torch.device | str = "cpu") -> None:
        """Begin without rows. inputs, targets: E and F."""
        width = 1 + inputs + targets
        self.inputs, self.targets, self.rows = inputs, targets, 0
        self._products = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows x [..., E] and y [..., F], which are on the device of these moments."""
        x, y = x.flatten(0, -2), y.flatten(0, -2)
        check_shape("x", x, "R", self.inputs)
        check_shape("y", y, len(x), self.targets)
        joined = torch.cat([x, y], dim=-1).double()
        joined = torch.cat([joined.new_ones(len(joined), 1), joined], dim=1)
        self._products += joined.T @ joined
        self.rows += len(joined)

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the means of x [E] and y [F], on the CPU."""
        mean = self._products[0, 1:].cpu() / self.rows
        return mean[: self.inputs], mean[self.inputs :]

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return biased covariances, on the CPU: of x [E, E], of x with y [E, F], of y [F, F]."""
        mean = self._products[0, 1:].cpu() / self.rows
        centred = self._products[1:, 1:].cpu() / self.rows - mean[:, None] * mean
        e = self.inputs
        return centred[:e, :e], centred[:e, e:], centred[e:, e:]

    def distance(self, fit: Affine) -> float:
        """Return the mean of (fit(x) - y)^2."""
        (mean_x, mean_y), (xx, xy, yy) = self.means(), self.covariances()
        offset = fit(mean_x) - mean_y
        spread = (fit.weight * (xx @ fit.weight - 2 * xy)).sum() + yy.trace()
        return max(float(spread + offset @ offset), 0.0) / self.targets

    def spread(self) -> float:
        """Return the mean of (y - mean(y))^2: the distance of the best constant."""
        return float(self.covariances()[2].trace()) / self.targets

    def uncentred(self) -> tuple[Tensor, Tensor]:
        """Return means of products, on the CPU: of [1, x] with itself [1 + E, 1 + E], and with y
        [1 + E, F]."""
        products, inner = self._products.cpu() / self.rows, 1 + self.inputs
        return products[:inner, :inner], products[:inner, inner:]


def least_squares(moments: Moments, ridge: float = SeparabilityOptions.ridge) -> Affine:
    """Return the affine map with the smallest mean squared distance, in closed form.

    ridge: added to the variances of the inputs, as a share of their mean; with 0, directions
    without variance get the solution of least norm. The bias is not penalised.
    """
    xx, xy, _ = moments.covariances()
    penalty = ridge * xx.diagonal().mean()
    ridged = xx + penalty * torch.eye(len(xx), dtype=xx.dtype)
    weight = torch.linalg.lstsq(ridged, xy, driver="gelsd").solution
    return _centred(moments, weight)


def gradient_descent(moments: Moments, steps: int = SeparabilityOptions.steps) -> Affine:
    """Train the same map, by full-batch gradient descent with Nesterov's momentum.

    Inputs are standardised, and the step size is 1 / largest curvature of the loss, so there is
    nothing to tune. It starts from the identity if E = F, so that step 0 is "before", else from
    zero.
    """
    xx, xy, _ = moments.covariances()
    scale = xx.diagonal().clamp(min=0).sqrt().clamp(min=1e-12)
    curvature, slope = xx / (scale[:, None] * scale), xy / scale[:, None]
    largest = torch.linalg.eigvalsh(curvature)[-1].clamp(min=1e-12)
    weight = torch.diag(scale) if xy.shape[0] == xy.shape[1] else torch.zeros_like(xy)
    ahead = weight
    for step in range(steps):
        moved = ahead - (curvature @ ahead - slope) / largest
        ahead = moved + step / (step + 3) * (moved - weight)
        weight = moved
    return _centred(moments, weight / scale[:, None])


def train_linear(
    moments: Moments,
    epochs: int = SeparabilityOptions.regression_epochs,
    lr: float = SeparabilityOptions.regression_lr,
    seed: int = SeparabilityOptions.seed,
) -> Affine:
    """Train torch's `nn.Linear` by Adam on the mean squared error of all rows: a step an epoch.

    It starts from `nn.Linear`'s distribution of initial values, drawn from the seed. The gradients
    follow from the moments: this is training on the rows themselves, in float64.
    """
    inner, cross = moments.uncentred()
    bound = moments.inputs**-0.5
    drawn = torch.Generator().manual_seed(seed)
    bias_and_weight = torch.empty_like(cross).uniform_(-bound, bound, generator=drawn)
    optimizer = torch.optim.Adam([bias_and_weight], lr=lr)
    for _ in range(epochs):
        bias_and_weight.grad = (inner @ bias_and_weight - cross) * (2 / moments.targets)
        optimizer.step()
    return Affine(bias_and_weight[1:], bias_and_weight[0])


def _centred(moments: Moments, weight: Tensor) -> Affine:
    """Add the bias that maps the mean of x to the mean of y."""
    mean_x, mean_y = moments.means()
    return Affine(weight, mean_y - mean_x @ weight)
