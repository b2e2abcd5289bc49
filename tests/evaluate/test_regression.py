"""The linear regression of M_ls, from moments: against numpy, scikit-learn and torch on rows."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastimae.evaluate.mixing.regression import (
    Affine,
    Moments,
    gradient_descent,
    least_squares,
    train_linear,
)

linear_model = pytest.importorskip("sklearn.linear_model")


def rows(count=400, inputs=6, targets=4, noise=0.3):
    """Correlated inputs far from the origin, and noisy affine targets; float64."""
    x = torch.randn(count, inputs, dtype=torch.float64) @ torch.randn(inputs, inputs).double() + 9
    y = x @ torch.randn(inputs, targets).double() - 5 + noise * torch.randn(count, targets)
    return x, y


def moments_of(x, y):
    moments = Moments(x.shape[-1], y.shape[-1])
    for part in torch.arange(len(x)).split(57):
        moments.add(x[part], y[part])
    return moments


def test_distance_is_the_mean_squared_error():
    x, y = rows()
    fit = Affine(torch.randn(6, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64))
    moments = moments_of(x, y)
    direct = (x @ fit.weight + fit.bias - y).square().mean()
    assert moments.rows == 400
    assert moments.distance(fit) == pytest.approx(float(direct), rel=1e-9)
    assert moments.spread() == pytest.approx(float((y - y.mean(0)).square().mean()))
    assert torch.allclose(fit(x), x @ fit.weight + fit.bias)


def test_tokens_of_images_are_rows():
    x, y = torch.randn(3, 5, 6), torch.randn(3, 5, 4)
    moments = Moments(6, 4)
    moments.add(x, y)
    assert moments.rows == 15
    assert torch.allclose(moments.means()[1], y.double().mean((0, 1)))


def test_closed_form_is_that_of_scikit_learn_and_numpy():
    x, y = rows()
    test_x, test_y = rows(50)
    fit = least_squares(moments_of(x, y), ridge=0)
    theirs = linear_model.LinearRegression().fit(x, y)
    assert np.allclose(fit.weight.T, theirs.coef_, atol=1e-8)
    assert np.allclose(fit.bias, theirs.intercept_, atol=1e-7)
    ones = np.ones((len(x), 1))
    solution = np.linalg.lstsq(np.hstack([x, ones]), y.numpy(), rcond=None)[0]
    assert np.allclose(np.vstack([fit.weight, fit.bias]), solution, atol=1e-7)
    held_out = ((theirs.predict(test_x) - test_y.numpy()) ** 2).mean()
    assert moments_of(test_x, test_y).distance(fit) == pytest.approx(held_out, rel=1e-8)


def test_ridge_is_that_of_scikit_learn():
    x, y = rows()
    share = 0.1
    alpha = share * float((x - x.mean(0)).square().mean()) * len(x)
    theirs = linear_model.Ridge(alpha=alpha).fit(x, y)
    fit = least_squares(moments_of(x, y), ridge=share)
    assert np.allclose(fit.weight.T, theirs.coef_, atol=1e-8)
    assert np.allclose(fit.bias, theirs.intercept_, atol=1e-7)


def test_inputs_without_variance_of_their_own_do_no_harm():
    x, y = rows()
    x = torch.cat([x, x[:, :2] - x[:, 2:4], torch.ones(len(x), 1)], dim=1)
    best = linear_model.LinearRegression().fit(x, y)
    wanted = ((best.predict(x) - y.numpy()) ** 2).mean()
    moments = moments_of(x, y)
    for fit in (least_squares(moments, 0), least_squares(moments), gradient_descent(moments, 5000)):
        assert moments.distance(fit) == pytest.approx(wanted, rel=1e-2)


def test_gradient_descent_starts_at_before_and_ends_at_the_closed_form():
    x, _ = rows(inputs=5)
    y = x + 0.5 * torch.randn(len(x), 5, dtype=torch.float64) + 2
    moments = moments_of(x, y)
    unbiased = x - x.mean(0) + y.mean(0)  # the bias is always the best one
    start = (unbiased - y).square().mean()
    assert moments.distance(gradient_descent(moments, 0)) == pytest.approx(float(start))
    steps = [moments.distance(gradient_descent(moments, n)) for n in (0, 1, 10, 100, 3000)]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == pytest.approx(moments.distance(least_squares(moments, 0)), rel=1e-6)


def test_latents_that_are_a_linear_function_are_found_to_be_one():
    mixed = torch.randn(300, 8)
    clean = mixed @ torch.randn(8, 8) + 3
    train, held_out = moments_of(mixed[:200], clean[:200]), moments_of(mixed[200:], clean[200:])
    before = held_out.distance(Affine.identity(8))
    assert before == pytest.approx(float((mixed[200:] - clean[200:]).square().mean()), rel=1e-6)
    assert held_out.distance(least_squares(train, 1e-12)) < 1e-9 * before
    assert held_out.distance(gradient_descent(train, 3000)) < 1e-6 * before


def test_the_trained_layer_is_nn_linear_trained_on_the_rows():
    x, y = rows(60)
    moments = moments_of(x, y)
    start = train_linear(moments, 0, 0.01, seed=5)
    layer = nn.Linear(6, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(start.weight.T)
        layer.bias.copy_(start.bias)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(70):
        optimizer.zero_grad()
        F.mse_loss(layer(x), y).backward()
        optimizer.step()
    trained = train_linear(moments, 70, 0.01, seed=5)
    assert torch.allclose(trained.weight, layer.weight.T, atol=1e-9)
    assert torch.allclose(trained.bias, layer.bias, atol=1e-9)


def test_the_trained_layer_starts_as_nn_linear_does_and_approaches_the_closed_form():
    x = torch.randn(300, 40, dtype=torch.float64)
    y = x @ torch.randn(40, 30).double() + 0.5 * torch.randn(300, 30)
    moments = moments_of(x, y)
    start, other = train_linear(moments, 0), train_linear(moments, 0, seed=1)
    drawn, torchs_own = torch.cat([start.weight, start.bias[None]]), nn.Linear(40, 30).weight
    assert drawn.abs().max() <= 40**-0.5 and not torch.equal(start.weight, other.weight)
    assert drawn.std() == pytest.approx(float(torchs_own.detach().std()), rel=0.1)
    best = moments.distance(least_squares(moments, 0))
    by_epochs = [moments.distance(train_linear(moments, n, 0.02)) for n in (0, 20, 200, 4000)]
    assert by_epochs == sorted(by_epochs, reverse=True)
    assert best - 1e-9 <= by_epochs[-1] < 1.02 * best < by_epochs[1]
