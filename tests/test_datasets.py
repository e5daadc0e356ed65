"""The neuron against its own solver at the tightest tolerance, and the datasets against the simulator."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from datasets import FitzhughNagumo, FitzhughNagumoClassification, TooLargeError, Traces, period, simulate

PERIOD, PERIOD_A, PERIOD_B = 122.11, 165.57, 123.29  # of the default neuron; of a 0.95, b 0.2; of a 0.7, b 0.2


def reference(v0, w0, t, I=0.5, a=0.7, b=0.8, eps=1 / 50):
    """One neuron at a time, at 1e-12."""

    def derivative(_, state):
        V, W = state.tolist()  # Python's numbers are the quicker ones
        return V - V**3 / 3 - W + I, eps * (V + a - b * W)

    options = {"method": "DOP853", "t_eval": t, "rtol": 1e-12, "atol": 1e-12}
    solutions = [solve_ivp(derivative, (t[0], t[-1]), start, **options).y for start in zip(v0, w0)]
    return np.stack([V for V, _ in solutions], axis=1), np.stack([W for _, W in solutions], axis=1)


@pytest.mark.parametrize(
    ("N", "neuron"), [(4096, {}), (16, {"I": 0.0}), (2, {"I": 1.0, "a": 0.3, "b": 1.2}), (1, {"b": 0.2, "eps": 0.05})]
)
def test_simulator_agrees_with_the_solver_at_1e_12_for_any_number_of_neurons(N, neuron):
    rng = np.random.default_rng(N)
    v0, w0, t = rng.uniform(-3, 3, N), rng.uniform(-1.5, 2.5, N), 5 + np.arange(1001) * 0.4
    V, W = simulate(v0, w0, t, **neuron)
    assert V.shape == W.shape == (1001, N)
    some = rng.choice(N, min(N, 3), replace=False)
    V_reference, W_reference = reference(v0[some], w0[some], t, **neuron)
    assert abs(V[:, some] - V_reference).max() < 1e-6
    assert abs(W[:, some] - W_reference).max() < 1e-6


@pytest.mark.parametrize(
    ("neuron", "expected"), [({}, PERIOD), ({"a": 0.95, "b": 0.2}, PERIOD_A), ({"b": 0.2}, PERIOD_B)]
)
def test_periods_are_those_of_the_solver(neuron, expected):
    assert period(**neuron) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("neuron", [{"b": -0.1}, {"eps": 0.0}, {"eps": 1.1}, {"b": np.nan}])
def test_neuron_that_could_grow_without_bound_is_named(neuron):
    with pytest.raises(ValueError, match="expected b >= 0 and 0 < eps <= 1"):
        simulate(0.0, 0.0, [0, 1], **neuron)
    with pytest.raises(ValueError, match="expected a neuron that spikes"):
        period(I=0.0)


def test_regression_pairs_are_one_sample_apart():
    data = FitzhughNagumo(3, 500, duration=200.0, seed=5)
    assert data.data_x.shape == data.data_y.shape == data.data_w.shape == (3, 500, 1)
    assert data.data_x.dtype == data.data_y.dtype == data.data_w.dtype == torch.float32
    assert (data.dt, len(data)) == (0.4, 3)
    x, y = data[1]
    torch.testing.assert_close(x[1:], y[:-1], rtol=0, atol=0)
    start = data.data_x[:, 0, 0].double().numpy(), data.data_w[:, 0, 0].double().numpy()
    V, W = reference(*start, np.arange(501) * 0.4)
    np.testing.assert_allclose(data.data_y[:, :, 0].T, V[1:], atol=2e-5)
    np.testing.assert_allclose(data.data_w[:, :, 0].T, W[:-1], atol=2e-5)


def assert_uniform(values, low, high):
    assert low <= values.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < values.max() < high
    expected = len(values) / 10
    counts = np.histogram(values, bins=10, range=(low, high))[0]
    assert abs(counts - expected).max() < 4 * np.sqrt(expected)  # four standard deviations


@pytest.mark.parametrize(("anywhere", "limit"), [(True, 3), (False, 1)])
def test_starts_are_uniform_over_a_box_beyond_the_cycle_or_those_of_the_original(anywhere, limit):
    data = FitzhughNagumo(4000, 1, duration=0.1, seed=0, anywhere=anywhere)
    v0, w0 = data.data_x[:, 0, 0], data.data_w[:, 0, 0]
    assert_uniform(v0, -limit, limit)
    assert_uniform(np.array([data.get_init(1).item() for _ in range(2000)]), -limit, limit)
    if anywhere:
        assert_uniform(w0, -1.5, 2.5)
        assert abs(np.corrcoef(v0, w0)[0, 1]) < 0.06
    else:
        assert (w0 == 0).all()


@pytest.mark.parametrize("anywhere", [True, False])
def test_equal_seeds_give_the_same_neurons_at_any_rate(anywhere):
    one, same, finer = (FitzhughNagumo(5, T, duration=40.0, seed=6, anywhere=anywhere) for T in (100, 100, 200))
    for name in ("data_x", "data_y", "data_w"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    for name in ("data_x", "data_w"):  # the finer test set of task 1
        torch.testing.assert_close(getattr(finer, name)[:, ::2], getattr(one, name), rtol=0, atol=1e-5)
    for other in (FitzhughNagumo(5, 100, seed=7, anywhere=anywhere), FitzhughNagumo(5, 100, anywhere=anywhere)):
        assert not torch.equal(one.data_x[:, 0], other.data_x[:, 0])


def test_traces_of_a_recording_are_paired_with_themselves_one_sample_later():
    V = np.sin(np.arange(21.0))
    windows = np.lib.stride_tricks.sliding_window_view(V, 6)[::5]  # each begins with the last sample of the one before
    data = Traces(windows.T, dt=0.1)
    assert (len(data), data.dt, data.data_x.dtype) == (4, 0.1, torch.float32)
    x, y = data[2]
    np.testing.assert_allclose(x.flatten(), V[10:15], rtol=1e-6)
    np.testing.assert_allclose(y.flatten(), V[11:16], rtol=1e-6)
    for same in (windows.T.tolist(), torch.tensor(windows.T)):
        assert torch.equal(Traces(same, dt=0.1).data_x, data.data_x)


@pytest.mark.parametrize(
    ("V", "message"),
    [
        (np.zeros(5), r"V has shape \(5,\): expected \(T \+ 1, N\), time first"),
        (np.zeros((1, 3)), r"V has shape \(1, 3\): .*at least two samples"),
        (
            [[0.0, 1.0], [0.0, np.nan], [np.inf, 0.0]],
            r"2 of 6 values are not finite, the first is V\[1, 1\]: cut them out",
        ),
        (np.zeros((17, 6000)), r"V has shape \(17, 6000\), sweeps as rows\? .* recording.py makes windows"),
    ],
)
def test_traces_say_what_is_wrong_with_a_recording(V, message):
    with pytest.raises(ValueError, match=message):
        Traces(V, 0.1)


def test_more_data_than_anybody_waits_for_are_too_large():
    with pytest.raises(TooLargeError, match="100,000 traces of 100,000 samples .* expected at most 50,000,000 samples"):
        FitzhughNagumo(100_000, 100_000)
    with pytest.raises(TooLargeError, match="over 1e\\+09 time units"):
        FitzhughNagumo(1, 10, duration=1e9)
    with pytest.raises(TooLargeError):
        FitzhughNagumoClassification(100_000, 100_000, random_phase=True)


def test_classes_are_clean_trajectories_from_the_originals_starts():
    data = FitzhughNagumoClassification(3, 200, duration=80.0, seed=1)
    assert (data.data.shape, data.data.dtype, data.dt) == ((6, 200, 1), torch.float32, 0.4)
    assert (data.labels.tolist(), data.labels.dtype) == ([0] * 3 + [1] * 3, torch.int64)
    assert torch.equal(data[4][0], data.data[4])
    assert data[4][1] == 1
    for label, a in enumerate((0.95, 0.7)):
        traces = data.data[data.labels == label, :, 0].double().numpy()
        V, _ = simulate(traces[:, 0], 0.0, np.arange(200) * 0.4, a=a, b=0.2)
        np.testing.assert_allclose(traces, V.T, atol=1e-4)
    assert_uniform(FitzhughNagumoClassification(2000, 2, 0.4, seed=2).data[:, 0, 0], -1, 1)


def test_random_phase_starts_anywhere_on_the_limit_cycle_as_long_as_the_neuron_is_there():
    data = FitzhughNagumoClassification(300, 50, 20.0, random_phase=True, seed=3)
    for label, (V, neuron) in enumerate(zip(data.traces, data.CLASSES.values())):
        assert V.shape[1] - 50 == math.ceil(period(**neuron) / 0.4)  # one period of its own to start in
        cycle = simulate(0.0, 0.0, np.arange(0, 1100, 0.5), **neuron)[0][600:, 0]
        for branch in (lambda V: V < -1, lambda V: V > 1):
            share = branch(data.data[data.labels == label, 0].numpy()).mean()
            assert share == pytest.approx(branch(cycle).mean(), abs=4 * math.sqrt(0.25 / 300))
    matched = FitzhughNagumoClassification(2, 50, 20.0, random_phase=True, match_period=True, seed=3)
    assert {V.shape[1] - 50 for V in matched.traces} == {math.ceil(PERIOD_A / 0.4)}


def test_redraw_gives_new_windows_and_noise_of_the_same_neurons():
    settings = {"noise_std": 0.1, "random_phase": True, "seed": 5}
    data, again = (FitzhughNagumoClassification(4, 40, 16.0, **settings) for _ in range(2))
    first, traces = data.data.clone(), [V.copy() for V in data.traces]
    assert torch.equal(again.data, first)
    data.redraw()
    assert not torch.isclose(data.data[:, 0], first[:, 0], atol=1e-4).any()
    assert all((one == other).all() for one, other in zip(data.traces, traces))
    assert torch.equal(data[7][0], data.data[7])  # what an index gives is new, too
    for k, x in enumerate(data.data[:4, :, 0].numpy()):  # each is still a window of its own neuron's trace
        windows = np.lib.stride_tricks.sliding_window_view(traces[0][k], 40)
        assert abs(windows - x).max(axis=1).min() < 0.5
