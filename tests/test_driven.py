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
    I[:, 1], I[:, 2] = I[np.arange(150) // 40 * 40, 1], 0.5  # one jumps seldom, one never
    V, W = simulate(v0, w0, t, I)
    expected = np.stack([by_pieces(v0[k], w0[k], t, I[:, k]) for k in range(3)], axis=-1)  # (2, T, N)
    assert abs(np.stack([V, W]) - expected).max() < 1e-7
    assert abs(simulate(v0, w0, t, I[-1])[0][:, 2] - V[:, 2]).max() < 1e-7  # one constant current for each
    assert (simulate(v0, w0, t, np.vstack([I[:-1], I[:1]]))[0] == V).all()  # what comes after the last sample


def test_driven_neurons_see_their_current():
    data = DrivenNeurons(100, 600, seed=0)
    V, I = data.data_x.double().numpy().transpose(2, 0, 1)
    assert (data.data_x[:, 1:, 0] == data.data_y[:, :-1, 0]).all()
    # a jump of the current bends the voltage from that very sample on
    assert np.corrcoef(np.diff(V, 2).ravel(), np.diff(I)[:, :-1].ravel())[0, 1] > 0.5
    num_levels = 1 + (np.diff(I) != 0).sum(1)
    assert np.quantile(num_levels, [0.1, 0.5, 0.9]) == pytest.approx([3, 27, 320], rel=0.6)
    assert (I.min(), I.max()) == pytest.approx((-0.2, 1.8), abs=0.01)
    assert (np.ptp(DrivenNeurons(5, 50, "constant", seed=0).data_x[..., 1].numpy(), axis=1) == 0).all()


def test_the_neuron_answers_as_it_is_known_to(monkeypatch):
    monkeypatch.setattr(task, "LEVELS", np.array([0.295, 0.3, 0.5, 1.45, 1.455]))
    monkeypatch.setattr(task, "PULSES", np.geomspace(0.05, 0.5, 47))  # 5 % apart
    assert task.f_i_curve(task.neuron) == pytest.approx([0, 1 / 160, 1 / period(), 1 / 160, 0], rel=0.005)
    known = {(2, 1): 0.33, (5, 1): 0.16, (15, 1): 0.09, (100, -1): 0.14}
    for (width, sign), strength in known.items():
        assert task.threshold(task.neuron, width, sign) == pytest.approx(strength, rel=0.08)


def test_phase_response_is_the_shift_of_later_spikes(monkeypatch):
    monkeypatch.setattr(task, "PHASES", np.array([0.1, 0.35, 0.8]))
    known = [-0.004, 0.094, -0.032]  # from by_pieces, at the same three moments
    assert task.phase_response(task.neuron) == pytest.approx(known, abs=1e-3)


def network_that_adds(change):
    model = GRU(2, 3, 1, residual=True)
    torch.nn.init.zeros_(model.fc.weight)
    torch.nn.init.constant_(model.fc.bias, change)
    return task.network(model)


def test_a_network_runs_freely_after_its_warm_up():
    I = task.random_currents(2, 80)
    V = network_that_adds(0.01)(I)
    assert V[: task.WARM_UP] == pytest.approx(task.neuron(I)[: task.WARM_UP], abs=1e-6)
    assert V[task.WARM_UP :] == pytest.approx(V[task.WARM_UP - 1] + 0.01 * np.arange(1, 31)[:, None], abs=1e-5)


@pytest.fixture
def small(monkeypatch):
    original = task.random_currents
    monkeypatch.setattr(task, "random_currents", lambda num=2, T=400, **more: original(num, T, **more))
    for name, values in {"LEVELS": [0.0, 0.5], "PULSES": [0.1, 3.0], "PHASES": [0.0, 0.3, 0.5]}.items():
        monkeypatch.setattr(task, name, np.array(values))


def test_a_silent_network_answers_nothing(small):
    true = task.evaluate_model(task.neuron)
    own, silent = (task.compare(answer, true) for answer in (true, task.evaluate_model(network_that_adds(0))))
    assert own["period_error"] == own["phase_response_error"] == 0
    assert own["random_current"] == own["white_noise"] == own["phase_response_correlation"] == pytest.approx(1)
    assert silent.pop("random_current") == silent.pop("white_noise") == 0
    assert np.isnan(list(silent.values())).all()


def test_coincidence_counts_a_spike_once():
    true, late, later, half = (-np.cos(2 * np.pi * (np.arange(600) - shift) / 100)[:, None] for shift in (0, 5, 10, 0))
    half[300:] = -1
    assert [task.coincidence(true, V) for V in (true, late, later, half)] == pytest.approx([1, 1, 0, 2 * 2 / (5 + 2)])


def test_the_script_runs(small, tmp_path, monkeypatch):
    save_gif = task.save_gif
    monkeypatch.setattr(task, "save_gif", lambda path, frames, *data, fps: save_gif(path, frames[-2:], *data, fps=1))
    sizes = ["--num_train=4", "--num_samples=120", "--n_hidden=3", "--num_epochs=2"]
    metrics = task.main([*sizes, "--currents=constant", f"--out_dir={tmp_path}"])
    model = load_checkpoint(tmp_path / "gru_driven_neuron.pth")
    assert (model.num_inputs, model.num_outputs, model.residual, model.info["currents"]) == (2, 1, True, "constant")
    assert (metrics["neuron_threshold_2"], metrics["neuron_random_current"]) == (3, 1)
    assert {path.name for path in tmp_path.iterdir()} >= {"driven.png", "driven.gif"}
