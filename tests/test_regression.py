"""Task 1: all predictors on the same samples, and the first samples neither trained on nor scored."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import gru_regression_scratch as task
from datasets import FitzhughNagumo
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
    y = data.data_y[..., 0].double().numpy()
    for part, samples in (("", slice(4, None)), ("_from_tenth", slice(9, None))):
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


class Constant:
    """Stands in for a network and for a fitted regression: both say 0.25 everywhere, or what else they are told."""

    def __init__(self, value=0.25):
        self.value = value

    def predict(self, x):
        return torch.full_like(x, self.value) if torch.is_tensor(x) else np.full(len(x), self.value)


def test_the_first_samples_do_not_count_in_any_score():
    data = FitzhughNagumo(3, 400, duration=160.0, seed=6)
    networks, baselines = {"test": Constant()}, {"same": (task.voltage_and_change, Constant())}
    before = task.evaluate_model(networks, baselines, data)
    data.data_y[:, : task.SKIP] = torch.nan
    assert task.evaluate_model(networks, baselines, data) == before
    data.data_y[:, task.SKIP] += 1.0
    after = task.evaluate_model(networks, baselines, data)
    assert {name for name in before if before[name] == after[name]} == {
        f"{name}_from_tenth_mse" for name in ("test", "same", "persistence")
    }


def gradient_of_one_epoch(model, data, window):
    """The loss of an epoch of one batch, and the gradients of all its windows' steps."""
    gradients = []

    class Recorder(torch.optim.SGD):
        def step(self):
            gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))

    optimizer = Recorder(model.parameters(), lr=0.0)
    args = SimpleNamespace(window=window, max_grad_norm=1e9)
    schedule = SimpleNamespace(step=lambda: None)
    return task.train_epoch(model, DataLoader(data, len(data)), optimizer, schedule, args), gradients


def test_gradients_are_bit_equal_whatever_the_first_targets_and_those_of_windows_by_autograd():
    torch.manual_seed(0)
    model, data = GRU(1, 5, 1, residual=True), FitzhughNagumo(4, 25, duration=10.0, seed=7)
    loss, gradients = gradient_of_one_epoch(model, data, window=10)
    x, y, H, losses = data.data_x.transpose(0, 1), data.data_y.transpose(0, 1), None, []
    for (start, stop), got in zip(((0, 10), (10, 20), (20, 25)), gradients, strict=True):
        states, predictions = model.forward_by_steps(x[start:stop], H)
        counted = slice(4, None) if start == 0 else slice(None)  # of the very first window only
        losses.append((predictions - y[start:stop])[counted].square().mean())
        expected = torch.autograd.grad(losses[-1], list(model.parameters()))
        torch.testing.assert_close(got, torch.cat([gradient.flatten() for gradient in expected]), rtol=1e-3, atol=1e-6)
        H = states[-1].detach()
    assert loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    data.data_y[:, : task.SKIP] = torch.nan
    spoilt_loss, spoilt = gradient_of_one_epoch(model, data, window=10)
    assert spoilt_loss == loss
    assert all(torch.equal(one, other) for one, other in zip(gradients, spoilt, strict=True))


@pytest.mark.parametrize(("name", "degree"), [("cubic", 3), ("quintic", 5)])
def test_a_polynomial_finds_a_rule_of_its_own_degree_and_no_higher_one(name, degree):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (6, 100))
    change = np.diff(x, axis=1, prepend=0)

    def fitted_to(y):
        tensors = (torch.tensor(values, dtype=torch.float64).unsqueeze(-1) for values in (x, y))
        features, regression = task.fit_baselines(SimpleNamespace(**dict(zip(("data_x", "data_y"), tensors))))[name]
        return abs(regression.predict(np.concatenate(features(x))).reshape(y.shape) - y)[:, task.SKIP :].max()

    assert fitted_to(0.3 - x + 0.5 * x * change ** (degree - 1)) < 1e-9  # a mixed term of the full degree
    assert fitted_to(x ** (degree + 1)) > 1e-3


def test_gradient_through_time_in_float64_to_the_last_digits():
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
    got = task.gradient_through_time(model, data, num_steps)
    np.testing.assert_allclose(got, expected / expected[0], rtol=1e-10)
    assert len(task.gradient_through_time(model, data, 200)) == T - 1  # cut to what there is
