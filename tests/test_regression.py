"""Task 1: all predictors on the same samples, and the first samples neither trained on nor scored."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import gru_regression_scratch as task
from datasets import FitzhughNagumo, period
from models import GRU


class Predictor:
    """Stands in for a network: predicts zero everywhere."""

    def predict(self, x):
        return torch.zeros_like(x)


class Zero:
    """Stands in for a fitted regression: predicts zero everywhere."""

    def predict(self, features):
        return np.zeros(len(features))


def test_all_are_scored_on_the_very_same_samples():
    data = FitzhughNagumo(3, 700, duration=280.0, seed=0)
    baselines = {"zero": (task.voltage_and_change, Zero()), "lagged": (task.last_four, Zero())}
    metrics = task.evaluate_model({"test": Predictor()}, baselines, data)
    y, one = data.data_y[..., 0].double().numpy(), round(period() / data.dt)
    parts = {
        "": slice(4, None),
        "_first_period": slice(4, one),
        "_later": slice(one, None),
        "_from_tenth": slice(9, None),
    }
    for part, samples in parts.items():
        expected = np.mean(y[:, samples] ** 2)
        for name in ("test", "zero", "lagged"):
            assert metrics[f"{name}{part}_mse"] == pytest.approx(expected, rel=1e-12)
    x = data.data_x[..., 0].double().numpy()
    assert metrics["persistence_mse"] == pytest.approx(np.mean((y - x)[:, 4:] ** 2), rel=1e-12)


def test_features_of_a_known_trace():
    x = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]])
    assert task.last_four(x)[0, 3:].tolist() == [[1, 2, 4, 8], [2, 4, 8, 16]]
    assert task.voltage_and_change(x)[0, 1:].tolist() == [[2, 1], [4, 2], [8, 4], [16, 8]]


def test_baselines_are_fitted_without_the_first_samples():
    data = FitzhughNagumo(8, 200, duration=80.0, seed=1)
    one = task.fit_baselines(data)
    data.data_y[:, : task.SKIP] = 1e3
    other = task.fit_baselines(data)
    x = data.data_x[..., 0].double().numpy()
    for name, (features, regression) in one.items():
        vectors = np.concatenate(features(x))
        assert (regression.predict(vectors) == other[name][1].predict(vectors)).all()


def test_the_first_samples_are_not_trained_on():
    args = SimpleNamespace(window=30, max_grad_norm=0.1)
    weights = []
    for spoil in (False, True):
        data = FitzhughNagumo(4, 90, duration=36.0, seed=2)
        if spoil:
            data.data_y[:, : task.SKIP] = 1e3
        torch.manual_seed(0)
        model = GRU(1, 5, 1, residual=True)
        optimizer = torch.optim.Adam(model.parameters())
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        loss = task.train_epoch(model, DataLoader(data, 2, shuffle=True), optimizer, schedule, args)
        weights.append((loss, model.W_hh.detach().clone()))
    assert weights[0][0] == weights[1][0]
    assert torch.equal(weights[0][1], weights[1][1])


def test_untrained_networks_are_fitted_in_their_readout_only():
    torch.manual_seed(0)
    data = FitzhughNagumo(16, 300, duration=120.0, seed=3)
    networks = task.fit_untrained(GRU(1, 8, 1, residual=True), data, (8, 32))
    assert {name: network.num_hiddens for name, network in networks.items()} == {"untrained_8": 8, "untrained_32": 32}
    metrics = task.evaluate_model(networks, {}, data)
    assert metrics["untrained_32_mse"] < metrics["untrained_8_mse"] < metrics["persistence_mse"]


def test_gradient_through_time_against_autograd_over_single_steps():
    torch.manual_seed(0)
    data = FitzhughNagumo(3, 60, duration=24.0, seed=4)
    model = GRU(1, 6, 1, residual=True)
    sizes = task.gradient_through_time(model, data, num_steps=20)
    squares = []
    for k, first in enumerate((1, 20, 40)):  # where each trajectory's 20 steps begin
        H, states = None, []
        for t in range(first + 20):
            H = torch.zeros(1, 6) if H is None else H
            H, Y = model.single_step(data.data_x[k, t][None], H)
            H.retain_grad()
            states.append(H)
        (Y - data.data_y[k, first + 19]).square().sum().backward()
        squares.append([state.grad.square().sum().item() for state in states[first:]])
    expected = np.sqrt(np.mean(squares, axis=0))[::-1]
    np.testing.assert_allclose(sizes, expected / expected[0], rtol=1e-3)
