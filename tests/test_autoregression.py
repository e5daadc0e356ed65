"""Task 2: the judges of free running, on traces whose answer is known; generation; and the shipped network."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gru_autoregression as task
from datasets import FitzhughNagumo, Traces, crosses_upwards, simulate
from models import GRU

DT = 400 / 512
PERIOD = 122.11
T, LONGER = 2048, 2600  # samples: 13 periods, and 3 more


@functools.cache
def spiking(slower=1.0, num_samples=T):
    """A neuron's voltage from the solver, with its time stretched: the truth is known."""
    if slower == 1 and num_samples < LONGER:
        return spiking(slower, LONGER)[:num_samples]
    return simulate(0.3, 0.0, np.arange(num_samples) * DT / slower)[0][:, 0]


def silent_from(sample, V):
    return np.where(np.arange(len(V)) < sample, V, -1.0)


def spikes(V):
    """The sample before each upward crossing."""
    return np.flatnonzero(crosses_upwards(V))


@pytest.mark.parametrize("slower", [1.01, 0.98])
def test_a_wrong_period_drifts_out_of_phase(slower):
    period_error, in_phase, drift = task.compare_spikes(spiking(), spiking(slower), DT)
    assert period_error == pytest.approx(abs(slower - 1), rel=0.02)
    assert in_phase == pytest.approx(0.05 / abs(slower - 1), abs=1)
    assert drift == pytest.approx(12 * abs(slower - 1), abs=2 * abs(slower - 1))


def test_a_truth_without_a_period_and_a_generator_that_never_spikes_are_all_wrong():
    silent = np.full(T, -1.0)
    assert task.compare_spikes(silent, spiking(), DT) == (1.0, 0.0, 1.0)
    assert task.compare_spikes(spiking(), silent, DT)[::2] == (1.0, 1.0)


@pytest.mark.parametrize(("left", "is_missing"), [(0.04, False), (0.3, True)])
def test_a_missing_last_spike_counts_unless_it_may_have_come_just_after_the_end(left, is_missing):
    V = spiking(num_samples=LONGER)
    last = spikes(V)[-2]
    true = V[: last + round(left * PERIOD / DT)]  # so many periods are left after the last spike
    _, in_phase, drift = task.compare_spikes(true, silent_from(last, true), DT)
    assert drift == float(is_missing)
    assert in_phase == pytest.approx((last if is_missing else len(true)) * DT / PERIOD, abs=0.02)


@pytest.mark.parametrize(("samples", "after"), [(1, 0), (1, 1), (-1, 0)])
def test_a_run_that_is_one_sample_off_is_so_by_a_sample_over_the_border_too(samples, after):
    V, begin = spiking(num_samples=LONGER), spikes(spiking(num_samples=LONGER))[2] + after
    true, late = V[begin : begin + T], V[begin - samples : begin - samples + T]
    _, in_phase, drift = task.compare_spikes(true, late, DT)
    assert drift == pytest.approx(DT / PERIOD, rel=1e-3)
    assert in_phase == pytest.approx(T * DT / PERIOD, rel=1e-3)


def test_a_first_spike_that_is_missing_is_no_matter_of_the_border():
    true = spiking()[100:]
    first = spikes(true)[0]
    without_the_first = np.where(np.arange(len(true)) < first + 80, -1.0, true)
    assert task.compare_spikes(true, without_the_first, DT)[1] == pytest.approx(first * DT / PERIOD, abs=0.01)


def as_dataset(*traces):
    return SimpleNamespace(data_x=torch.tensor(np.stack(traces), dtype=torch.float32).unsqueeze(-1), dt=DT)


def test_judge_of_known_runs():
    true, silent = spiking(), silent_from(800, spiking())
    dataset = as_dataset(true, true, true, true)
    perfect = task.judge(dataset, dataset.data_x, 50)
    assert perfect["share_in_phase"] == 1
    assert perfect["period_error"] < 1e-6
    assert perfect["amplitude_error"] == perfect["phase_drift_max"] == 0
    assert perfect["periods_in_phase_min"] == pytest.approx((T - 50) * DT / PERIOD, rel=2e-3)
    mixed = task.judge(dataset, as_dataset(true, true, true, silent).data_x, 50)
    assert mixed["share_in_phase"] == 0.75
    assert (mixed["phase_drift"], mixed["phase_drift_max"]) == (0, 1)
    assert mixed["periods_in_phase_min"] < 6.5 < mixed["periods_in_phase"]
    assert task.judge(dataset, 1.1 * dataset.data_x, 50)["amplitude_error"] == pytest.approx(0.1, abs=1e-6)
    late = dataset.data_x.roll(round(0.1 * PERIOD / DT), 1)  # by a tenth of a period
    assert task.judge(dataset, late, 50)["share_in_phase"] == 0
    in_the_warm_up = dataset.data_x.clone()
    in_the_warm_up[:, :50] = 9.0
    assert task.judge(dataset, in_the_warm_up, 50) == perfect


def test_evaluation_puts_noise_of_the_named_size_on_the_warm_up_and_judges_by_the_clean_truth(monkeypatch):
    dataset, shown = FitzhughNagumo(4, 500, duration=400.0, seed=1), []
    clean = dataset.data_x.clone()

    def oracle(model, x, warm_up):  # in place of run_freely: notes what it is shown, and answers with the truth
        shown.append(x)
        return clean.clone(), None

    monkeypatch.setattr(task, "run_freely", oracle)
    metrics = task.evaluate_model(None, dataset, 50, seed=0)
    assert torch.equal(dataset.data_x, clean)
    assert torch.equal(shown[0], clean)
    assert metrics["share_in_phase"] == 1
    for noise, noisy in zip((0.1, 0.2, 0.4), shown[1:], strict=True):
        assert (noisy - clean)[:, :50].std().item() == pytest.approx(noise, rel=0.2)
        assert metrics[f"share_in_phase_noise_{noise}"] == 1
    task.evaluate_model(None, dataset, 50, seed=0)
    assert torch.equal(shown[-1], shown[3])  # every model is shown the same noise


def test_noise_has_a_level_of_its_own_on_every_trace():
    x = torch.zeros(400, 1000, 1)
    torch.manual_seed(0)
    noisy = task.add_noise(x, 0.4)
    levels = noisy.std(dim=0).flatten()
    assert (levels == 0).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert levels.max().item() == pytest.approx(0.4, abs=0.05)
    assert np.histogram(levels[levels > 0], bins=4, range=(0, 0.4))[0].min() > 120  # uniform: 175 each
    assert torch.equal(task.add_noise(x, 0.0), x)


def test_polynomial_finds_the_rule_of_two_samples_that_made_a_trace_and_continues_it():
    V = np.random.default_rng(0).uniform(-0.1, 0.1, (60, 256))
    for t in range(2, 60):  # Hénon's map
        V[t] = 1 - 1.4 * V[t - 1] ** 2 + 0.3 * V[t - 2]
    dataset = Traces(V, 1.0)
    samples, _ = task.run_freely(task.Polynomial(dataset), dataset.data_x[:, :20], 12)
    torch.testing.assert_close(samples.float(), dataset.data_x[:, :20], rtol=0, atol=1e-3)


@pytest.mark.parametrize("future_T", [1, 2, 30])
def test_run_freely_is_single_steps_fed_with_their_own_output(future_T):
    torch.manual_seed(0)
    model, init_x = GRU(1, 6, 1, residual=True).double(), torch.randn(9, 2, 1).double()
    H, expected = torch.zeros(2, 6).double(), []
    for X in init_x:
        H, Y = model.single_step(X, H)
    states = [H]
    for _ in range(future_T):
        expected.append(Y)
        H, Y = model.single_step(Y, H)
        states.append(H)
    expected, states = torch.stack(expected).detach(), torch.stack(states).detach()
    x = torch.cat([init_x, torch.full((future_T, 2, 1), 9.0)]).transpose(0, 1)  # beyond the warm-up nothing is seen
    samples, all_states = task.run_freely(model, x, 9)
    torch.testing.assert_close(samples, torch.cat([init_x, expected]).transpose(0, 1), rtol=1e-12, atol=1e-12)
    assert all_states.shape == (9 + future_T, 2, 6)
    torch.testing.assert_close(all_states[8:], states, rtol=1e-12, atol=1e-12)  # each has just seen its own sample


def test_gates_are_those_of_single_step():
    torch.manual_seed(0)
    model, x = GRU(1, 4, 1), torch.randn(7, 1)
    states = model(x[:, None])[0][:, 0].detach()
    Z, R = task.gates(model, x, states)
    H_tilde = torch.tanh(x[1:] @ model.W_xh + (R * states[:-1]) @ model.W_hh + model.b_h)
    torch.testing.assert_close(Z * states[:-1] + (1 - Z) * H_tilde, states[1:])
