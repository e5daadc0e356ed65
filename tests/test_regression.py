"""Task 1: recording, predictors, their scores, and the reach of a gradient."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gru_regression_scratch as task
from datasets import FitzhughNagumo
from models import GRU

TINY = ["--num_train=4", "--num_test=3", "--num_samples=100", "--duration=40"]
TINY += ["--n_hidden=4", "--num_epochs=1", "--device=cpu", "--no-train_visualization"]


# ---- the recording ----


def test_record_puts_the_same_noise_on_a_sample_as_input_and_as_target():
    torch.manual_seed(0)
    neurons = FitzhughNagumo(20, 500, duration=200.0, seed=1)
    noisy = task.record(neurons, 0.1)
    assert torch.equal(noisy.data_x[1:], noisy.data_y[:-1])
    noise = noisy.data_x - neurons.data_x
    assert noise.std().item() == pytest.approx(0.1, rel=0.03)
    assert noise.std(dim=0).min() > 0.08  # on every trace
    assert noise.std(dim=1).min() > 0.02  # at every time
    assert noisy.dt == neurons.dt
    assert torch.equal(task.record(neurons, 0.0).data_y, neurons.data_y)


def test_another_target_leaves_the_input_as_it_is():
    neurons = FitzhughNagumo(20, 500, duration=200.0, seed=1)
    torch.manual_seed(0)
    noisy = task.record(neurons, 0.1)
    neurons.data_y = neurons.data_w  # W is to be learnt, from V
    torch.manual_seed(0)
    of_w = task.record(neurons, 0.1)
    assert torch.equal(of_w.data_x, noisy.data_x)
    assert (of_w.data_y - neurons.data_w).std().item() == pytest.approx(0.1, rel=0.03)


# ---- the training ----


class AddsOne:
    """Stands in for a network: the next voltage is one more than the last."""

    def predict(self, x, future=0):
        beyond = x[-1:] + torch.arange(1, future + 1)[:, None, None]
        return torch.cat([x, beyond]) + 1


@pytest.mark.parametrize("T", [8, 9])
def test_from_half_way_on_a_network_sees_only_itself(T):
    x = 10.0 * torch.arange(T)[:, None, None]
    trace = task.half_on_its_own(AddsOne(), x)
    alone = 31 + np.arange(1, T - 3)  # from the fourth sample, which is 30
    assert trace.tolist() == [1, 11, 21, 31, *alone]


def test_a_report_shows_the_first_trace_and_the_samples_that_were_seen(tmp_path):
    torch.manual_seed(0)
    args = task.parse_flags([*TINY, "--noise_std=0", f"--out_dir={tmp_path}"])
    model = task.make_network(args, 3)
    view = FitzhughNagumo(3, 40, duration=16.0, seed=1)
    training = task.train_model(model, view, view, args)
    (report,) = training.history
    trace = task.half_on_its_own(model, view.data_x[:, :1])
    np.testing.assert_array_equal(report["trace"], trace)
    np.testing.assert_array_equal(report["samples"], view.data_y[:20, 0, 0])
    error = model.predict(view.data_x) - view.data_y
    assert report["view_loss"] == pytest.approx(error[9:].square().mean().item())


@pytest.mark.parametrize(("N", "T"), [(4, 60), (5, 61), (1, 20)])
def test_updates_are_counted_as_an_epoch_makes_them(N, T, monkeypatch):
    data = FitzhughNagumo(N, T, duration=0.4 * T, seed=0)
    steps = []
    monkeypatch.setattr(task, "gradient_step", lambda *_: steps.append(1))
    schedule = SimpleNamespace(step=lambda: None)
    model = GRU(1, 2, 1)
    settings = {"batch_size": 2, "window": 20, "max_grad_norm": 1.0}
    task.train_epoch(model, data, None, schedule, **settings)
    assert task.count_updates(data, batch_size=2, window=20) == len(steps)


# ---- the reach of a gradient ----


def test_gradient_through_time_matches_autograd_over_single_steps():
    torch.manual_seed(1)
    T, N, num_steps = 30, 4, 12
    data = SimpleNamespace(
        data_x=torch.randn(T, N, 1, dtype=torch.float64),
        data_y=torch.randn(T, N, 1, dtype=torch.float64),
    )
    model = GRU(1, 5, 1, residual=True).double()
    squares = torch.zeros(num_steps, N, dtype=torch.float64)
    for k, first in enumerate((1, 6, 12, 18)):  # from 1 to T - num_steps, evenly
        before, _ = model.forward_by_steps(data.data_x[:first, k : k + 1])
        H = before[-1].detach().requires_grad_()
        states = []
        for X in data.data_x[first : first + num_steps, k : k + 1]:
            H, Y = model.single_step(X, H)
            states.append(H)
        target = data.data_y[first + num_steps - 1, k]
        gradients = torch.autograd.grad((Y - target).square().sum(), states)
        for back, gradient in enumerate(reversed(gradients)):
            squares[back, k] = gradient.square().sum()
    expected = squares.mean(dim=1).sqrt()
    sizes = task.gradient_through_time(model, data, num_steps)
    np.testing.assert_allclose(sizes, expected / expected[0], rtol=1e-10)
    # asked for more, it takes what there is
    assert len(task.gradient_through_time(model, data, 200)) == T - 1


def test_gradient_through_time_of_a_state_that_only_fades():
    model = GRU(1, 3, 1, residual=True)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        # gates of 1/2, and a candidate that is constant: H_new = (H + tanh(1)) / 2
        model.b_h.fill_(1.0)
        model.fc.weight.fill_(1.0)
    data = FitzhughNagumo(2, 40, duration=16.0, seed=0)
    sizes = task.gradient_through_time(model, data, num_steps=12)
    assert sizes == pytest.approx([0.5**k for k in range(12)])


# ---- the baselines ----


def test_features_of_known_traces():
    V = np.array([[1.0, 2.0, 4.0, 8.0], [0.0, 5.0, 0.0, 5.0]]).T
    first, second = np.moveaxis(task.lags(V, 3), 1, 0)
    assert first.tolist() == [[1, 1, 1], [1, 1, 2], [1, 2, 4], [2, 4, 8]]
    assert second.tolist() == [[0, 0, 0], [0, 0, 5], [0, 5, 0], [5, 0, 5]]
    first, second = np.moveaxis(task.voltage_and_change(V), 1, 0)
    assert first.tolist() == [[1, 0], [2, 1], [4, 2], [8, 4]]
    assert second.tolist() == [[0, 0], [5, 5], [0, -5], [5, 5]]
    ramps = np.arange(20.0)[:, None] + [0, 100]
    means = task.two_means(ramps)
    assert means.shape == (20, 2, 2)
    assert means[-1].tolist() == [[12, 17], [112, 117]]


# of a random trace, a rule that each can learn: a mixed term of its full degree, or the
# oldest of its twenty lags; and a rule that it cannot learn
def of_twenty_lags(x):
    lags = task.lags(x, 21)
    return 0.3 - x + 2 * lags[..., 1], lags[..., 0]


def of_voltage_and_change(x):
    before, now = np.moveaxis(task.lags(x, 2), -1, 0)
    return 0.3 - before + (now - before) * now**4, 10 * now**6


def of_two_means(x):
    lags = task.lags(x, 10)
    before = lags[..., :5].mean(axis=-1)
    now = lags[..., 5:].mean(axis=-1)
    return 0.3 - before + before * now**4, 1e3 * now**6


@pytest.mark.parametrize(
    ("key", "rules"),
    [
        ("linear", of_twenty_lags),
        ("quintic", of_voltage_and_change),
        ("two_means", of_two_means),
    ],
)
def test_a_baseline_learns_a_rule_of_its_own_kind_and_no_other(key, rules):
    x = np.random.default_rng(0).uniform(-1, 1, (200, 20))

    def largest_error(y):
        shown = y.copy()
        shown[:9] = 1e3  # is not fitted to
        data = SimpleNamespace(
            data_x=torch.tensor(x)[..., None], data_y=torch.tensor(shown)[..., None]
        )
        baseline = task.fit_baselines(data)[key]
        return abs(baseline.predict(x) - y)[25:].max()

    learnable, other = rules(x)
    assert largest_error(learnable) < 1e-9
    assert largest_error(other) > 1e-2


# ---- the scores ----


class Constant:
    """Stands in for a network, and for a regression: both say 0.25 everywhere."""

    def fit(self, rows, targets):
        pass

    def predict(self, x):
        if torch.is_tensor(x):
            return torch.full_like(x, 0.25)
        return np.full(len(x), 0.25)


def test_all_predictors_are_scored_on_the_very_same_samples():
    data = FitzhughNagumo(3, 400, duration=160.0, seed=6)
    x = data.data_x[..., 0].double().numpy()
    y = data.data_y[..., 0].double().numpy()
    baselines = {
        "one": task.Baseline(task.voltage_and_change, Constant()),
        "other": task.Baseline(task.two_means, Constant()),
    }
    predictions = task.predict_all({"trained": Constant()}, baselines, data.data_x)
    metrics = task.evaluate_model(predictions, y)
    assert len(metrics) == 12
    parts = {
        "mse": slice(9, 400),
        "early_mse": slice(40, 80),
        "late_mse": slice(200, 400),
    }
    for part, steps in parts.items():
        of_constant = np.mean((y - 0.25)[steps] ** 2)
        for key in ("trained", "one", "other"):
            assert metrics[f"{key}_{part}"] == pytest.approx(of_constant, rel=1e-12)
        of_copying = np.mean((y - x)[steps] ** 2)
        assert metrics[f"persistence_{part}"] == pytest.approx(of_copying, rel=1e-12)


@pytest.mark.parametrize("T", [10, 20, 50, 100, 1000])
def test_the_first_nine_steps_are_never_scored_and_something_always_is(T):
    prediction = np.zeros((T, 2))
    prediction[:9] = np.inf
    metrics = task.evaluate_model({"trained": prediction}, np.ones((T, 2)))
    assert list(metrics.values()) == [1, 1, 1]


def test_a_reader_sees_labels_and_not_keys():
    assert task.label("trained", "gru") == "GRU"
    assert task.label("trained", "leaky") == "leaky network"
    assert task.label("untrained_128", "gru") == "untrained, 128 units"
    assert task.label("ideal", "leaky") == "ideal observer"
    assert task.label("of_mine", "gru") == "of_mine"  # that of a reader


# ---- the script ----


@pytest.fixture
def asked(monkeypatch):
    """What the ideal observer was asked, and what all predictors were scored by."""
    asked = SimpleNamespace()

    def ideal_prediction(x, dataset, noise_std):
        asked.x, asked.dataset, asked.noise_std = x, dataset, noise_std
        return x + 1

    evaluate_model = task.evaluate_model

    def evaluate(predictions, true):
        asked.predictions, asked.true = predictions, true
        return evaluate_model(predictions, true)

    monkeypatch.setattr(task, "ideal_prediction", ideal_prediction)
    monkeypatch.setattr(task, "evaluate_model", evaluate)
    return asked


def test_all_see_the_noisy_test_traces_and_are_scored_by_the_clean_ones(
    asked, tmp_path
):
    metrics = task.main([*TINY, "--noise_std=0.3", "--seed=1", f"--out_dir={tmp_path}"])
    test_set = FitzhughNagumo(3, 100, duration=40.0, seed=6)
    assert torch.equal(asked.dataset.data_x, test_set.data_x)
    assert asked.noise_std == 0.3
    noise = asked.x - test_set.data_x[..., 0]
    assert noise.std().item() == pytest.approx(0.3, rel=0.2)
    np.testing.assert_array_equal(asked.predictions["persistence"], asked.x)
    np.testing.assert_array_equal(asked.predictions["ideal"], asked.x + 1)
    np.testing.assert_array_equal(asked.true, test_set.data_y[..., 0])
    scored = {key.removesuffix("_late_mse") for key in metrics if "late_mse" in key}
    networks = {"untrained_4", "untrained_16", "trained"}
    baselines = {"persistence", "linear", "quintic", "two_means"}
    assert scored == networks | baselines | {"ideal"}


def test_nothing_but_the_network_depends_on_the_training(asked, tmp_path):
    flags = [*TINY, f"--out_dir={tmp_path}"]
    one = task.main(flags)
    two = task.main([*flags, "--num_epochs=2"])
    different = {key for key in one if "mse" in key and one[key] != two[key]}
    assert different == {"trained_mse", "trained_early_mse", "trained_late_mse"}


@pytest.mark.parametrize(("noise_std", "is_asked"), [(0, False), (0.01, True)])
def test_without_noise_no_ideal_observer_is_asked(noise_std, is_asked, asked, tmp_path):
    flags = [*TINY, f"--noise_std={noise_std}", f"--out_dir={tmp_path}"]
    metrics = task.main(flags)
    assert ("ideal_mse" in metrics) == is_asked
    assert hasattr(asked, "x") == is_asked


def test_without_noise_other_defaults_hold_but_what_is_given_holds_first():
    args = task.parse_flags(["--noise_std=0", "--window=70"])
    assert (args.num_epochs, args.window, args.max_grad_norm) == (30, 70, 0.003)
    args = task.parse_flags(["--noise_std=0.1"])
    assert (args.num_epochs, args.window, args.max_grad_norm) == (40, 250, 1.0)
