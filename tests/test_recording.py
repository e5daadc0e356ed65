"""Recordings: windows against a loop by hand, the free run against the network's own, and what is refused and how."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from models import GRU, load_checkpoint, save_checkpoint
from recording import free_run, scaling, windows

RNG = np.random.default_rng(0)
V = [RNG.normal(-60, 10, length) for length in (30, 47, 25)]  # sweeps of unequal lengths, mV
I = [RNG.normal(100, 50, len(sweep)) for sweep in V]


@pytest.mark.parametrize("told", [False, True])
def test_windows_are_those_of_a_loop_by_hand_and_never_cross_from_one_sweep_to_the_next(told):
    info = scaling(V, 0.2, I if told else None)
    zero = (np.median([*V[0], *V[1], *V[2]]) + max(map(max, V))) / 2
    unit, I_zero, I_unit = np.std([*V[0], *V[1], *V[2]]), np.mean([*I[0], *I[1], *I[2]]), np.std([*I[0], *I[1], *I[2]])
    x, y = [], []
    for v, i in zip(V, I):
        for start in range(0, len(v) - 20, 7):
            inputs, targets = [], []
            for t in range(start, start + 20):
                inputs.append([(v[t] - zero) / unit] + [(i[t] - I_zero) / I_unit] * told)
                targets.append([(v[t + 1] - zero) / unit])
            x.append(inputs)
            y.append(targets)
    data = windows(V, info, 20, 7, I if told else None)
    assert (len(data), data.dt) == (len(x), 0.2) == (7, 0.2)
    torch.testing.assert_close(data.data_x, torch.tensor(x, dtype=torch.float32))
    torch.testing.assert_close(data.data_y, torch.tensor(y, dtype=torch.float32))


def test_an_array_a_list_and_a_single_sweep_are_the_same_recording():
    array = RNG.normal(-60, 10, (3, 40))
    info = scaling(array, 0.2)
    assert info == scaling(list(array), 0.2) == scaling(array.astype(np.float64).tolist(), 0.2)
    assert torch.equal(windows(array[1], info, 20, 5).data_x, windows(array[1:2], info, 20, 5).data_x)


@pytest.mark.parametrize("told", [False, True])
def test_free_run_is_the_networks_own_with_the_scale_that_its_file_says(told, tmp_path):
    torch.manual_seed(0)
    info = scaling(V, 0.2, I if told else None)
    model = GRU(1 + told, 5, 1, residual=True)
    model.fc.weight.data *= 0.1  # so that it stays within the range of the recording
    model.fc.bias.data.zero_()
    save_checkpoint(tmp_path / "cell.pth", model, **info)
    model = load_checkpoint(tmp_path / "cell.pth")
    assert model.info == info
    _, run, _ = free_run(model, V, 12, I if told else None)
    np.testing.assert_allclose(run[:12], V[1][:12], rtol=1e-6)
    x = (V[1][:12] - info["V_zero"]) / info["V_unit"]
    if told:
        for t in range(11, 46):  # the whole past again for every sample
            inputs = np.stack([x, (I[1][: t + 1] - info["I_zero"]) / info["I_unit"]], -1)
            with torch.no_grad():
                x = np.append(x, model(torch.tensor(inputs, dtype=torch.float32)[:, None])[1][-1].item())
    else:
        inputs = torch.tensor(x, dtype=torch.float32)[None, :, None]
        x = np.append(x, model.predict(inputs, future=34)[0, 11:, 0].numpy())
    np.testing.assert_allclose(run, info["V_zero"] + info["V_unit"] * x, atol=1e-3)


def test_a_free_run_that_leaves_the_recording_is_clipped_and_it_is_said(capsys):
    model = GRU(1, 5, 1, residual=True)
    model.info = scaling(V, 0.2)
    model.fc.bias.data.fill_(1.0)  # up and up, by a standard deviation a step
    (run,) = free_run(model, V[1], 12)
    height = model.info["V_high"] - model.info["V_low"]
    assert run.max() == pytest.approx(model.info["V_high"] + height / 2)
    assert "1 of 1 free runs go far beyond the recording's range" in capsys.readouterr().out


NAN = [V[0], np.where(np.isin(np.arange(47), (5, 6, 20)), np.nan, V[1])]


@pytest.mark.parametrize(
    ("V", "dt", "I", "message"),
    [
        (NAN, 0.2, None, r"V, sweep 1: 3 of 47 values are not finite, the first is number 5; cut .* np.interp"),
        (V[:2], 0.2, [I[0], np.full(47, np.inf)], "I, sweep 1: 47 of 47 values are not finite"),
        (np.transpose([V[0], V[0]]), 0.2, None, r"V has 30 sweeps of 2 samples: transpose it, V.T"),
        (V[0].astype(np.float16), 0.2, None, "V is float16: expected mV in float32 or float64"),
        (V[0].astype(np.int16), 0.2, None, "V is int16: expected mV .* .counts of a converter times mV per count"),
        (V[0] / 1000, 0.2, None, "V lies between -0.08.* and -0.0.*: expected a membrane's voltage in mV"),
        (V[0] * 1000, 0.2, None, "voltage in mV"),
        (-V[0], 0.2, None, "voltage in mV"),
        (V[0], 0.2, np.full(30, 50.0), "I never changes: .* leave it out"),
        (np.full(30, -60.0), 0.2, None, "V lies between -60 and -60"),
        (V, 2e-4, None, "dt = 0.0002: expected ms, 1000 times the dt in s"),
        (V, 0.2, I[::-1], r"V has sweeps of \[30, 47, 25\] samples, I of \[25, 47, 30\]: expected as many"),
        (V, 0.2, I[0], r"I of \[30\]: expected as many"),
    ],
)
def test_what_would_be_wrong_without_a_word_is_named(V, dt, I, message):
    with pytest.raises(ValueError, match=message):
        scaling(V, dt, I)


def test_sweeps_too_short_for_a_window_or_a_free_run_are_named():
    info = scaling(V, 0.2)
    with pytest.raises(ValueError, match="sweep 2 has 25 samples: expected more than the 25 steps of a window"):
        windows(V, info, 25, 5)
    model = GRU(1, 5, 1)
    model.info = info
    with pytest.raises(ValueError, match="warm_up = 25: expected fewer than the 25 samples of a sweep"):
        free_run(model, V[2], 25)


def test_the_axon_of_the_page_is_that_of_hodgkin_and_huxley():
    axon = runpy.run_path(str(Path(__file__).resolve().parents[1] / "docs" / "axon.py"))
    dt, I = axon["DT"], np.repeat([0.0, 10.0, -2.0, 15.0], 400)[:, None]  # 20 ms each

    def derivative(t, state):
        V, m, h, n = state
        a_m, b_m = 0.1 * (V + 40) / (1 - np.exp(-(V + 40) / 10)), 4 * np.exp(-(V + 65) / 18)
        a_h, b_h = 0.07 * np.exp(-(V + 65) / 20), 1 / (1 + np.exp(-(V + 35) / 10))
        a_n, b_n = 0.01 * (V + 55) / (1 - np.exp(-(V + 55) / 10)), 0.125 * np.exp(-(V + 65) / 80)
        inward = 120 * m**3 * h * (50 - V) + 36 * n**4 * (-77 - V) + 0.3 * (-54.4 - V)
        gates = a_m * (1 - m) - b_m * m, a_h * (1 - h) - b_h * h, a_n * (1 - n) - b_n * n
        return I[min(int(t / dt), len(I) - 1), 0] + inward, *gates

    t = dt * np.arange(len(I))
    exact = solve_ivp(derivative, (0, t[-1]), (-65, 0.053, 0.596, 0.318), t_eval=t, max_step=dt).y[0]
    V = axon["axon"](I)[:, 0]
    spikes, others = (t[1:][(x[:-1] < 0) & (x[1:] >= 0)] for x in (exact, V))
    assert len(spikes) == len(others) >= 3
    np.testing.assert_allclose(others, spikes, atol=0.2)
    assert abs(V[:380] - exact[:380]).max() < 0.05
