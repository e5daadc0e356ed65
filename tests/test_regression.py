"""Task 1: all predictors on the same samples, and the first samples neither trained on nor scored."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gru_regression_scratch as task
from datasets import FitzhughNagumo
from models import GRU


class Constant:
    """Stands in for a network and for a fitted regression: both say 0.25 everywhere."""

    def predict(self, x):
        return torch.full_like(x, 0.25) if torch.is_tensor(x) else np.full(len(x), 0.25)


def test_all_are_scored_on_the_very_same_samples():
    data = FitzhughNagumo(3, 400, duration=160.0, seed=6)
    baselines = {"one": (task.voltage_and_change, Constant()), "other": (task.two_means, Constant())}
    x, y = (Q[..., 0].double().numpy() for Q in (data.data_x, data.data_y))
    predictions = task.predict_all({"gru": Constant()}, baselines, data.data_x)
    metrics = task.evaluate_model(predictions, y)
    assert len(metrics) == 12
    for part, cut in (("mse", slice(9, 400)), ("early_mse", slice(40, 80)), ("late_mse", slice(200, 400))):
        for name in ("gru", "one", "other"):
            assert metrics[f"{name}_{part}"] == pytest.approx(np.mean((y - 0.25)[:, cut] ** 2), rel=1e-12)
        assert metrics[f"persistence_{part}"] == pytest.approx(np.mean((y - x)[:, cut] ** 2), rel=1e-12)


def test_features_of_a_known_trace():
    x = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]])
    assert task.lags(x, 3)[0].tolist() == [[1, 1, 1], [1, 1, 2], [1, 2, 4], [2, 4, 8], [4, 8, 16]]
    assert task.voltage_and_change(x)[0].tolist() == [[1, 0], [2, 1], [4, 2], [8, 4], [16, 8]]
    assert task.two_means(np.arange(20.0)[None])[0, -1].tolist() == [12, 17]


@pytest.mark.parametrize(("name", "degree"), [("linear", 1), ("quintic", 5), ("two_means", 5)])
def test_a_baseline_finds_a_rule_of_its_own_degree_and_no_higher_one(name, degree):
    x = np.random.default_rng(0).uniform(-1, 1, (20, 200))
    before, now = np.moveaxis(task.two_means(x) if name == "two_means" else task.voltage_and_change(x), -1, 0)

    def largest_error(y):
        y = y.copy()
        y[:, :9] = 1e3  # not fitted to
        tensors = {key: torch.tensor(values).unsqueeze(-1) for key, values in (("data_x", x), ("data_y", y))}
        features, regression = task.fit_baselines(SimpleNamespace(**tensors))[name]
        return abs(regression.predict(np.concatenate(features(x))).reshape(y.shape) - y)[:, 20:].max()

    rule = 0.3 - x + 2 * task.lags(x, 20)[..., 0] if degree == 1 else 0.3 - before + before * now ** (degree - 1)
    assert largest_error(rule) < 1e-9  # a mixed term of the full degree; for the linear one, the oldest of twenty lags
    assert largest_error(10 * now ** (degree + 1)) > 1e-3


def test_gradient_through_time_matches_autograd_over_single_steps():
    torch.manual_seed(1)
    N, T, num_steps = 4, 30, 12
    data = SimpleNamespace(data_x=torch.randn(N, T, 1).double(), data_y=torch.randn(N, T, 1).double())
    model = GRU(1, 5, 1, residual=True).double()
    squares = torch.zeros(N, num_steps).double()
    for k, first in enumerate((1, 6, 12, 18)):  # from 1 to T - num_steps, evenly
        H, _ = model.forward_by_steps(data.data_x[k, :first, None])
        states = [H[-1].detach().requires_grad_()]
        for t in range(first, first + num_steps):
            H, Y = model.single_step(data.data_x[k, t][None], states[-1])
            states.append(H)
        gradients = torch.autograd.grad((Y - data.data_y[k, first + num_steps - 1]).square().sum(), states[1:])
        squares[k] = torch.stack([gradient.square().sum() for gradient in gradients]).flip(0)
    expected = squares.mean(0).sqrt()
    np.testing.assert_allclose(task.gradient_through_time(model, data, num_steps), expected / expected[0], rtol=1e-10)
    assert len(task.gradient_through_time(model, data, 200)) == T - 1  # cut to what there is


def test_gradient_through_time_of_a_state_that_only_fades():
    model, data = GRU(1, 3, 1, residual=True), FitzhughNagumo(2, 40, duration=16.0, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.b_h.fill_(1.0)  # a candidate that is constant, and gates of 1/2: H' = (H + tanh(1)) / 2
        model.fc.weight.fill_(1.0)
    sizes = task.gradient_through_time(model, data, num_steps=12)
    assert sizes == pytest.approx([0.5**k for k in range(12)])
