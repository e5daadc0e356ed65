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


def test_all_are_scored_on_the_very_same_samples_without_the_first():
    data = FitzhughNagumo(3, 400, duration=160.0, seed=6)
    networks = {"test": Constant()}
    baselines = {"one": (task.voltage_and_change, Constant()), "other": (task.last_four, Constant())}
    x, y = (Q[..., 0].double().numpy() for Q in (data.data_x, data.data_y))
    data.data_y[:, :4] = torch.nan
    metrics = task.evaluate_model(networks, baselines, data)
    assert len(metrics) == 8
    for part, first in (("", 4), ("_from_tenth", 9)):
        for name in ("test", "one", "other"):
            assert metrics[f"{name}{part}_mse"] == pytest.approx(np.mean((y - 0.25)[:, first:] ** 2), rel=1e-12)
        assert metrics[f"persistence{part}_mse"] == pytest.approx(np.mean((y - x)[:, first:] ** 2), rel=1e-12)


def test_features_of_a_known_trace():
    x = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]])
    assert task.last_four(x)[0, 2:].tolist() == [[0, 1, 2, 4], [1, 2, 4, 8], [2, 4, 8, 16]]
    assert task.voltage_and_change(x)[0, 1:].tolist() == [[2, 1], [4, 2], [8, 4], [16, 8]]


@pytest.mark.parametrize(("name", "degree"), [("autoregression", 1), ("cubic", 3), ("quintic", 5)])
def test_a_baseline_finds_a_rule_of_its_own_degree_and_no_higher_one(name, degree):
    x = np.random.default_rng(0).uniform(-1, 1, (6, 100))
    change = np.diff(x, axis=1, prepend=0)

    def largest_error(y):
        y = y.copy()
        y[:, :4] = 1e3  # not fitted to
        tensors = {key: torch.tensor(values).unsqueeze(-1) for key, values in (("data_x", x), ("data_y", y))}
        features, regression = task.fit_baselines(SimpleNamespace(**tensors))[name]
        return abs(regression.predict(np.concatenate(features(x))).reshape(y.shape) - y)[:, 4:].max()

    rule = 0.3 - x + 2 * np.roll(x, 3, axis=1) if degree == 1 else 0.3 - x + 0.5 * x * change ** (degree - 1)
    assert largest_error(rule) < 1e-9  # a mixed term of the full degree; for the linear one, the oldest of four lags
    assert largest_error(x ** (degree + 1)) > 1e-3


def test_untrained_networks_are_fitted_in_their_readout_and_gain_by_width():
    torch.manual_seed(0)
    data = FitzhughNagumo(16, 300, duration=120.0, seed=3)
    networks = task.fit_untrained(GRU(1, 8, 1, residual=True), data, (8, 32))
    assert {name: network.num_hiddens for name, network in networks.items()} == {"untrained_8": 8, "untrained_32": 32}
    metrics = task.evaluate_model(networks, {}, data)
    assert metrics["untrained_32_mse"] < metrics["untrained_8_mse"] < metrics["persistence_mse"]


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
