"""Task 4: a current that changes, and experiments whose outcome is known."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import gru_driven_neuron as task
from datasets import DrivenNeurons, period, simulate
from models import GRU, load_checkpoint


def slope(_, state, i):
    return state[0] - state[0] ** 3 / 3 - state[1] + i, 0.02 * (state[0] + 0.7 - 0.8 * state[1])


def by_pieces(v0, w0, t, I):
    """V and W (2, T) of one neuron under a current (T,), by another solver, sample by sample."""
    states = [(v0, w0)]
    for *span, i in zip(t, t[1:], I):
        states.append(solve_ivp(slope, span, states[-1], "LSODA", rtol=1e-12, atol=1e-12, args=(i,)).y[:, -1])
    return np.array(states).T


def test_a_current_that_changes_is_integrated_exactly():
    rng = np.random.default_rng(0)
    t, v0, w0 = 0.4 * np.arange(150), rng.uniform(-3, 3, 3), rng.uniform(-1.5, 2.5, 3)
    I = rng.uniform(-0.2, 1.8, (150, 3))
    I[:, 1] = I[np.arange(150) // 40 * 40, 1]  # one jumps seldom, one never
    I[:, 2] = 0.5
    V, W = simulate(v0, w0, t, I)
    for k in range(3):
        expected = by_pieces(v0[k], w0[k], t, I[:, k])
        assert abs(np.stack([V[:, k], W[:, k]]) - expected).max() < 1e-7
    assert abs(simulate(v0, w0, t, I[-1])[0][:, 2] - V[:, 2]).max() < 1e-7  # one constant current for each
    assert (simulate(v0, w0, t, np.vstack([I[:-1], I[:1]]))[0] == V).all()  # what comes after the last sample


def test_driven_neurons_see_their_current():
    data = DrivenNeurons(100, 600, seed=0)
    V, I = data.data_x[..., 0].double().numpy(), data.data_x[..., 1].double().numpy()
    assert (data.data_x[:, 1:, 0] == data.data_y[:, :-1, 0]).all()
    # a jump of the current bends the voltage from that very sample on
    assert np.corrcoef(np.diff(V, 2).ravel(), np.diff(I)[:, :-1].ravel())[0, 1] > 0.5
    num_levels = 1 + (np.diff(I) != 0).sum(1)
    assert np.quantile(num_levels, [0.1, 0.5, 0.9]) == pytest.approx([3, 27, 320], rel=0.6)
    assert -0.2 <= I.min() < -0.19
    assert 1.79 < I.max() < 1.8001
    assert (np.ptp(DrivenNeurons(5, 50, "constant", seed=0).data_x[..., 1].numpy(), axis=1) == 0).all()


def test_the_neuron_answers_as_it_is_known_to(monkeypatch):
    monkeypatch.setattr(task, "LEVELS", np.array([0.295, 0.3, 0.305, 0.5, 1.445, 1.45, 1.455]))
    monkeypatch.setattr(task, "PULSES", np.geomspace(0.05, 0.5, 47))  # 5 % apart
    assert (task.f_i_curve(task.neuron) > 0).tolist() == [False, True, True, True, True, True, False]
    assert 1 / task.f_i_curve(task.neuron)[3] == pytest.approx(period(), rel=1e-3)
    known = {(2, 1): 0.33, (5, 1): 0.16, (15, 1): 0.09, (100, -1): 0.14}
    for (width, sign), strength in known.items():
        assert task.threshold(task.neuron, width, sign) == pytest.approx(strength, rel=0.08)


def test_phase_response_is_the_shift_of_later_spikes(monkeypatch):
    monkeypatch.setattr(task, "PHASES", np.array([0.1, 0.35, 0.8]))
    t = np.arange(0, 1200, task.DT)
    shifts = []
    for phase in (None, 0.1, 0.35, 0.8):
        I = np.full(len(t), 0.5)
        if phase is not None:
            I[250 + round(phase * period() / task.DT) :][:4] += 0.2
        V = by_pieces(*task.REST, t, I)[0]
        before = np.flatnonzero((V[:-1] < 0) & (V[1:] >= 0))[-1]
        shifts.append((before + V[before] / (V[before] - V[before + 1])) * task.DT)
    expected = (shifts[0] - np.array(shifts[1:])) / period()
    assert task.phase_response(task.neuron) == pytest.approx(expected, abs=1e-3)  # at samples 0.78 apart


def silent_network(drift=0.0):
    """A network that predicts V + drift, whatever it sees."""
    model = GRU(2, 3, 1, residual=True)
    torch.nn.init.zeros_(model.fc.weight)
    torch.nn.init.constant_(model.fc.bias, drift)
    return task.network(model)


def test_a_network_runs_freely_after_its_warm_up():
    I = task.random_currents(2, 80)
    V = silent_network(0.01)(I)
    assert V[: task.WARM_UP] == pytest.approx(task.neuron(I)[: task.WARM_UP], abs=1e-6)
    steps = np.arange(1, 31)[:, None]
    assert V[task.WARM_UP :] == pytest.approx(V[task.WARM_UP - 1] + 0.01 * steps, abs=1e-5)


def smaller(monkeypatch):
    monkeypatch.setattr(task, "LEVELS", np.array([0.0, 0.5]))
    monkeypatch.setattr(task, "PULSES", np.array([0.1, 3.0]))
    monkeypatch.setattr(task, "PHASES", np.array([0.0, 0.3, 0.5]))
    original = task.random_currents
    monkeypatch.setattr(task, "random_currents", lambda num=2, T=400, **more: original(num, T, **more))


def test_a_silent_network_answers_nothing(monkeypatch):
    smaller(monkeypatch)
    true = task.evaluate_model(task.neuron)
    own, silent = (task.compare(answer, true) for answer in (true, task.evaluate_model(silent_network())))
    assert own["period_error"] == own["phase_response_error"] == 0
    assert own["random_current"] == own["white_noise"] == own["phase_response_correlation"] == pytest.approx(1)
    assert silent.pop("random_current") == silent.pop("white_noise") == 0
    assert np.isnan(list(silent.values())).all()


def test_coincidence_counts_a_spike_once():
    t = np.arange(600)
    true, late, later, half = (-np.cos(2 * np.pi * (t - shift) / 100)[:, None] for shift in (0, 5, 10, 0))
    half[300:] = -1
    scores = [task.coincidence(true, V) for V in (true, late, later, half)]
    assert scores == pytest.approx([1, 1, 0, 2 * 2 / (5 + 2)])


def test_the_script_runs(monkeypatch, tmp_path, capsys):
    smaller(monkeypatch)
    sizes = ["--num_train=4", "--num_samples=120", "--n_hidden=3", "--num_epochs=2"]
    metrics = task.main([*sizes, "--currents=constant", f"--out_dir={tmp_path}"])
    model = load_checkpoint(tmp_path / "gru_driven_neuron.pth")
    assert (model.num_inputs, model.num_outputs, model.residual, model.info["currents"]) == (2, 1, True, "constant")
    assert metrics["neuron_threshold_2"] == 3
    assert metrics["off by 0.01_random_current"] > 0.9
    assert {path.name for path in tmp_path.iterdir()} >= {"driven.png", "driven.gif"}
    assert "spikes that coincide" in capsys.readouterr().out
