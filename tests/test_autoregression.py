"""Task 2: who generates, how generators are judged, and how a new one is trained."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gru_autoregression as task
import gru_autoregression_training as task_training
from backstage.training import distance
from cells import CELLS
from datasets import FitzhughNagumo, Traces
from free_running import judge
from models import GRU

# ---- the polynomial ----


def test_polynomial_finds_the_rule_that_made_a_trace_and_continues_it():
    V = np.random.default_rng(0).uniform(-0.1, 0.1, (60, 300))
    V[:9] = 1e3  # neither these samples nor these traces are fitted to
    V[:, 256:] = 1e3
    for t in range(11, 60):  # Hénon's map
        V[t, :256] = 1 - 1.4 * V[t - 1, :256] ** 2 + 0.3 * V[t - 2, :256]
    data = Traces(V, dt=1.0)
    generated = task.Polynomial(data).generate(data.data_x[:20, :256], 12)
    expected = data.data_x[20:32, :256]
    torch.testing.assert_close(generated.float(), expected, rtol=0, atol=1e-3)


def test_polynomial_is_of_degree_7_in_both_the_voltage_and_its_change():
    torch.manual_seed(0)
    x = torch.empty(30, 256, 1, dtype=torch.float64).uniform_(-1, 1)
    change = x[1:] - x[:-1]

    def largest_error(rule):
        y = torch.zeros_like(x)
        y[1:] = rule(x[1:], change)
        data = SimpleNamespace(data_x=x, data_y=y)
        polynomial = task.Polynomial(data)
        errors = [polynomial.generate(x[: t + 1], 1) - y[t] for t in (9, 17, 28)]
        return torch.stack(errors).abs().max()

    assert largest_error(lambda V, change: 0.5 - V**7 * change**7 / 64) < 1e-6
    assert largest_error(lambda V, change: 4 * V**8) > 1e-4
    assert largest_error(lambda V, change: change**8 / 64) > 1e-4


def test_polynomial_that_runs_away_is_held():
    first = torch.tensor([[0.1, -0.1], [1.0, -1.0]])[..., None]
    polynomial = task.Polynomial(Traces(np.ones((30, 1)), dt=1.0))
    polynomial.factors = np.array([[0.0], [2.0]])  # doubles V at every sample
    generated = polynomial.generate(first, 4)
    assert generated[..., 0].tolist() == [[2, -2], [4, -4], [5, -5], [5, -5]]


# ---- the untrained network ----


def test_an_untrained_network_is_a_new_one_whose_readout_alone_is_fitted():
    data = FitzhughNagumo(40, 200, seed=0)
    data.data_y[:10] = 1e3  # is not fitted to
    cell = CELLS["update_gate"]
    network = task.fit_untrained(cell, 30, data, seed=3)
    torch.manual_seed(3)
    new = cell(1, 30, 1, residual=True)
    for name, weight in network.named_parameters():
        is_new = torch.equal(weight, new.get_parameter(name))
        assert is_new != name.startswith("fc"), name
    error = network.predict(data.data_x)[10:] - data.data_y[10:]
    change = data.data_x[10:] - data.data_y[10:]
    assert error.square().mean() < 0.2 * change.square().mean()
    assert abs(error.mean()) < 1e-4


# ---- the judgement ----


class Oracle:
    """A generator that knows the truth, unless the noise is larger than it can bear.

    Then it is silent. Notes what it is shown and how many samples it is asked for.
    """

    def __init__(self, dataset, warm_up, bears=np.inf):
        self.clean = dataset.data_x[:warm_up].clone()
        self.truth = dataset.data_x[warm_up:].clone()
        self.bears = bears
        self.shown = []

    def __call__(self, first, num):
        self.shown.append(first)
        assert num == len(self.truth)
        noise = (first - self.clean).std()
        if noise > self.bears:
            return torch.full_like(self.truth, -1.0)
        return self.truth


@pytest.fixture(scope="module")
def neurons():
    return FitzhughNagumo(4, 500, duration=400.0, seed=1)


def test_noise_is_on_the_warm_up_alone_and_the_same_for_every_generator(neurons):
    all_clean = neurons.data_x.clone()
    oracle = Oracle(neurons, warm_up=50)
    task.evaluate_model(oracle, neurons, warm_up=50, seed=5)
    assert torch.equal(neurons.data_x, all_clean)
    clean, *noisy = oracle.shown
    assert torch.equal(clean, all_clean[:50])
    for noise, shown in zip((0.1, 0.2, 0.4), noisy, strict=True):
        sizes = (shown - clean).std(dim=0)  # of each trace
        assert sizes.flatten().tolist() == pytest.approx([noise] * 4, rel=0.4)
    other = Oracle(neurons, warm_up=50)
    task.evaluate_model(other, neurons, warm_up=50, seed=5)
    assert torch.equal(torch.stack(other.shown), torch.stack(oracle.shown))
    task.evaluate_model(other, neurons, warm_up=50, seed=6)
    assert not torch.equal(other.shown[-1], oracle.shown[-1])


def test_runs_are_judged_by_the_truth_after_clean_and_after_noisy_warm_ups(neurons):
    oracle = Oracle(neurons, warm_up=50, bears=0.3)
    metrics = task.evaluate_model(oracle, neurons, warm_up=50)
    with_noise = {
        "share_in_phase_noise_0.1": 1,
        "share_in_phase_noise_0.2": 1,
        "share_in_phase_noise_0.4": 0,
    }
    own = judge(oracle.truth, oracle.truth, neurons.dt)
    assert own["periods_in_phase"] == pytest.approx(450 * 0.8 / 122.11, rel=0.02)
    assert metrics == own | with_noise


def test_gates_are_those_of_single_step():
    torch.manual_seed(0)
    model = GRU(1, 4, 1)
    x = torch.randn(7, 1)
    all_states, _ = model(x[:, None])
    states = all_states[:, 0].detach()
    Z, R = task.gates(model, x, states)
    H_tilde = torch.tanh(
        x[1:] @ model.W_xh + (R * states[:-1]) @ model.W_hh + model.b_h
    )
    torch.testing.assert_close(Z * states[:-1] + (1 - Z) * H_tilde, states[1:])


# ---- the script ----


def test_trained_untrained_and_polynomial_are_judged_alike(monkeypatch, tmp_path):
    monkeypatch.setattr(task, "NUM_FIT", 16)
    monkeypatch.setattr(task, "FIT_SAMPLES", 256)
    judged = []

    def evaluate_model(generate, dataset, warm_up, seed):
        first = dataset.data_x[:warm_up]
        judged.append(SimpleNamespace(first=first, seed=seed, run=generate(first, 7)))
        row = dict.fromkeys([key for key, _, _ in task.ROWS], 0.0)
        return row | {"number": len(judged), "num_samples": len(dataset.data_x)}

    monkeypatch.setattr(task, "evaluate_model", evaluate_model)
    flags = ["--num_test=3", "--test_duration=400", "--warm_up=20", "--seed=2"]
    flags += ["--untrained=6", "--device=cpu", "--no-train_visualization"]
    flags += [f"--out_dir={tmp_path}"]
    metrics = task.main(flags)
    names = ["trained", "untrained", "polynomial"]
    assert [metrics[f"{name}_number"] for name in names] == [1, 2, 3]
    assert metrics["trained_num_samples"] == 20 + 512  # 400 time units

    # four times the seed, and the test set's number
    neurons = FitzhughNagumo(3, 532, duration=532 * task.DT, seed=10)
    fitted_to = FitzhughNagumo(16, 256, duration=256 * task.DT, seed=8)
    shipped = task.load_network(task.SHIPPED, "cpu", task.DT)
    untrained = task.fit_untrained(GRU, 6, fitted_to, seed=2)
    generators = [
        lambda first: shipped.predict(first, future=7)[19:-1],
        lambda first: untrained.predict(first, future=7)[19:-1],
        lambda first: task.Polynomial(fitted_to).generate(first, 7),
    ]
    for one, generator in zip(judged, generators, strict=True):
        assert one.seed == 2
        assert torch.equal(one.first, neurons.data_x[:20])
        torch.testing.assert_close(one.run, generator(one.first))


def test_retrain_hands_its_flags_on_to_the_training(monkeypatch, tmp_path):
    called = []

    def main(flags):
        called.append(task_training.parse_flags(flags))
        return {"best_period_error": 0.5}

    monkeypatch.setattr(task_training, "main", main)
    flags = ["--retrain", "--seed=7", "--device=cpu", "--cell=leaky"]
    args = task.parse_flags([*flags, f"--out_dir={tmp_path}"])
    path, metrics = task.retrain(args)
    assert path == tmp_path / "gru_autoregression_training.pth"
    assert metrics == {"best_period_error": 0.5}
    args.train_visualization = False
    task.retrain(args)
    for given, draws in zip(called, (True, False), strict=True):
        assert (given.seed, given.device, given.cell) == (7, "cpu", "leaky")
        assert (given.out_dir, given.train_visualization) == (tmp_path, draws)


def test_a_network_says_if_the_data_has_another_dt_than_its_own(capsys):
    task.load_network(task.SHIPPED, "cpu", task.DT)
    assert "note" not in capsys.readouterr().out
    task.load_network(task.SHIPPED, "cpu", 0.4)
    assert "trained at dt = 0.78125, the data has dt = 0.4" in capsys.readouterr().out


# ---- the training ----


def test_noise_has_a_level_of_its_own_on_every_trace():
    x = torch.zeros(400, 1000, 1)
    torch.manual_seed(0)
    levels = task_training.add_noise(x, 0.4).std(dim=0).flatten()
    assert (levels == 0).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert levels.max().item() == pytest.approx(0.4, abs=0.05)
    # uniform: some 175 in each quarter
    in_each_quarter, _ = np.histogram(levels[levels > 0], bins=4, range=(0, 0.4))
    assert in_each_quarter.min() > 120
    assert torch.equal(task_training.add_noise(x, 0.0), x)


def test_validation_runs_freely_and_has_its_stages_loss():
    torch.manual_seed(0)
    model = GRU(1, 4, 1, residual=True)
    valid_set = FitzhughNagumo(3, 600, duration=400.0, seed=0)
    x = valid_set.data_x
    _, readouts = model.forward_by_steps(x[:50], future=550)
    generated = readouts[49:-1].detach()
    expected = judge(x[50:], generated, valid_set.dt)["period_error"]

    view = task_training.validate(model, valid_set, warm_up=50, horizon=70)
    assert view["period_error"] == expected
    free = distance(generated[:70], x[50:120]).item()
    assert view["view_loss"] == pytest.approx(free, rel=1e-4)
    np.testing.assert_array_equal(view["trace"][:50], x[:50, 0, 0])
    np.testing.assert_allclose(view["trace"][50:], generated[:, 0, 0], atol=1e-3)

    view = task_training.validate(model, valid_set, warm_up=50, horizon=None)
    assert view["period_error"] == expected
    _, next_steps = model.forward_by_steps(x[:512])
    one_step = distance(next_steps.detach(), valid_set.data_y[:512]).item()
    assert view["view_loss"] == pytest.approx(one_step, rel=1e-4)


def test_the_best_epoch_is_chosen_by_the_period_of_whole_free_runs(
    monkeypatch, tmp_path
):
    flags = ["--num_epochs_one_step=2", "--num_epochs=8", "--first_horizon=10"]
    flags += ["--horizon=160", "--warm_up=20", "--num_samples=180"]
    flags += ["--no-train_visualization", f"--out_dir={tmp_path}"]
    args = task_training.parse_flags(flags)
    period_errors = [0.001, 0.001, 0.001, 0.001, 0.001, 0.4, 0.2, 0.1, 0.3, 0.2]
    horizons = []
    weights = []  # after each epoch

    def epoch(model, dataset, optimizer, *, horizon=None, **settings):
        horizons.append(horizon)
        optimizer.step()  # without gradients: nothing changes
        torch.nn.init.normal_(model.fc.weight)
        weights.append(copy.deepcopy(model.state_dict()))
        return 0.5

    def validate(model, dataset, warm_up, horizon):
        assert (warm_up, horizon) == (20, horizons[-1])
        error = period_errors[len(horizons) - 1]
        return {"period_error": error, "view_loss": 0.5, "trace": None}

    monkeypatch.setattr(task_training, "next_step_epoch", epoch)
    monkeypatch.setattr(task_training, "free_running_epoch", epoch)
    monkeypatch.setattr(task_training, "validate", validate)
    model = GRU(1, 2, 1, residual=True)
    train_set = SimpleNamespace(dt=0.4)
    training = task_training.train_model(model, train_set, None, args)
    # it grows by equal factors, up to half-way
    assert horizons == [None, None, 20, 40, 80, 160, 160, 160, 160, 160]
    assert training.best_score == 0.1
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[7][name]), name
