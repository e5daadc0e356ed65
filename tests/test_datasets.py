"""The neuron against its own solver at the tightest tolerance, and the datasets against
the simulator.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.utils.data import DataLoader

import datasets
from datasets import (
    DrivenNeurons,
    FitzhughNagumo,
    FitzhughNagumoClassification,
    TooLargeError,
    Traces,
    crosses_upwards,
    draw_starts,
    period,
    rest_point,
    simulate,
    upward_crossings,
)

TOP = Path(__file__).resolve().parents[1]
PERIOD = 122.11  # of the default neuron
PERIOD_A = 165.57  # of class A, a = 0.95, b = 0.2
PERIOD_B = 123.29  # of class B, a = 0.7, b = 0.2

NOT_FINITE = [np.nan, np.inf, -np.inf]


@pytest.fixture
def no_solver(monkeypatch):
    """Make sure that an error comes before the solver starts: it might never end."""

    def must_not_start(*_, **__):
        pytest.fail("the solver was started")

    monkeypatch.setattr(datasets, "solve_ivp", must_not_start)


def slope(_, state, I, a, b, eps):
    V, W = state.tolist()  # Python's numbers are the quicker ones
    return V - V**3 / 3 - W + I, eps * (V + a - b * W)


def one_by_one(v0, w0, t, I=0.5, a=0.7, b=0.8, eps=1 / 50):
    """Integrate one neuron after the other, at 1e-12: V and W, each (T, N)."""
    V, W = [], []
    for start in zip(v0, w0):
        solution = solve_ivp(
            slope,
            (t[0], t[-1]),
            start,
            method="DOP853",
            t_eval=t,
            rtol=1e-12,
            atol=1e-12,
            args=(I, a, b, eps),
        )
        V.append(solution.y[0])
        W.append(solution.y[1])
    return np.stack(V, axis=1), np.stack(W, axis=1)


def sample_by_sample(v0, w0, t, I):
    """V and W, each (T,), of one neuron under a current (T,), by another solver."""
    states = [(v0, w0)]
    for k in range(len(t) - 1):
        solution = solve_ivp(
            slope,
            (t[k], t[k + 1]),
            states[-1],
            method="LSODA",
            rtol=1e-12,
            atol=1e-12,
            args=(I[k], 0.7, 0.8, 0.02),
        )
        states.append(solution.y[:, -1])
    return np.array(states).T


# ---- the simulator ----


@pytest.mark.parametrize(
    ("N", "neuron"),
    [
        (4096, {}),
        (16, {"I": 0.0}),
        (2, {"I": 1.0, "a": 0.3, "b": 1.2}),
        (1, {"b": 0.2, "eps": 0.05}),
    ],
)
def test_simulator_agrees_with_the_solver_at_1e_12_for_any_number_of_neurons(N, neuron):
    rng = np.random.default_rng(N)
    v0 = rng.uniform(-3, 3, N)
    w0 = rng.uniform(-1.5, 2.5, N)
    t = 5 + np.arange(501) * 0.4
    V, W = simulate(v0, w0, t, **neuron)
    assert V.shape == W.shape == (501, N)
    some = rng.choice(N, min(N, 3), replace=False)
    V_reference, W_reference = one_by_one(v0[some], w0[some], t, **neuron)
    assert abs(V[:, some] - V_reference).max() < 1e-6
    assert abs(W[:, some] - W_reference).max() < 1e-6


def test_current_that_changes_is_integrated_exactly():
    rng = np.random.default_rng(0)
    t = 0.4 * np.arange(100)
    v0 = rng.uniform(-3, 3, 3)
    w0 = rng.uniform(-1.5, 2.5, 3)
    I = rng.uniform(-0.2, 1.8, (100, 3))
    I[:, 1] = I[np.arange(100) // 40 * 40, 1]  # jumps seldom
    I[:, 2] = 0.5  # never
    V, W = simulate(v0, w0, t, I)
    for k in range(3):
        V_reference, W_reference = sample_by_sample(v0[k], w0[k], t, I[:, k])
        assert abs(V[:, k] - V_reference).max() < 1e-7
        assert abs(W[:, k] - W_reference).max() < 1e-7


def test_current_may_be_a_number_or_one_for_each_neuron_or_one_for_all():
    t = 0.4 * np.arange(40)
    levels = np.array([0.1, 0.5, 0.9])
    V, _ = simulate(0.3, 0.1, t, levels)
    for k, level in enumerate(levels):
        alone, _ = simulate(0.3, 0.1, t, level)
        assert abs(alone[:, 0] - V[:, k]).max() < 1e-7
    held, _ = simulate(0.3, 0.1, t, np.tile(levels, (40, 1)))
    assert (held == V).all()
    I = np.where(np.arange(40) < 20, 0.0, 1.0)[:, None]
    for_all, _ = simulate([0.3, 1.0], 0.1, t, I)
    for_each, _ = simulate([0.3, 1.0], 0.1, t, np.tile(I, 2))
    assert (for_all == for_each).all()


def test_last_current_is_not_used():
    t = 0.4 * np.arange(30)
    I = np.linspace(0, 1, 30)[:, None]
    other = I.copy()
    other[-1] = 77.0
    assert (simulate(0.0, 0.0, t, I)[0] == simulate(0.0, 0.0, t, other)[0]).all()


def test_single_time_gives_the_start():
    V, W = simulate([1.0, 2.0], 0.5, [3.0])
    assert V.tolist() == [[1.0, 2.0]]
    assert W.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("name", ["v0", "w0", "I", "a", "b", "eps"])
@pytest.mark.parametrize("value", NOT_FINITE)
def test_simulator_asks_for_finite_numbers(name, value, no_solver):
    arguments = {"v0": 0.0, "w0": 0.0, "t": [0.0, 1.0], name: value}
    with pytest.raises(ValueError, match=f"{name} .*{value}.*: expected"):
        simulate(**arguments)


@pytest.mark.parametrize("name", ["v0", "w0", "I", "a", "b"])
def test_simulator_asks_for_numbers_that_can_be_integrated(name, no_solver):
    arguments = {"v0": 0.0, "w0": 0.0, "t": [0.0, 1.0], name: 1e5}
    with pytest.raises(ValueError, match=rf"{name} contains 100000: .*at most 1,000"):
        simulate(**arguments)


@pytest.mark.parametrize("name", ["v0", "w0", "I"])
def test_simulator_asks_for_finite_numbers_in_every_neuron(name, no_solver):
    arguments = {"v0": 0.0, "w0": 0.0, "t": [0.0, 1.0], name: [0.0, 1.0, np.nan]}
    with pytest.raises(ValueError, match=f"{name} contains nan"):
        simulate(**arguments)


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([], r"t has shape \(0,\): expected \(T,\), at least one time"),
        (3.0, r"t has shape \(\): expected \(T,\)"),
        ([[0.0, 1.0]], r"t has shape \(1, 2\): expected \(T,\)"),
        ([np.nan], "t contains nan: expected finite times"),
        ([0.0, np.nan, 1.0], "t contains nan: expected finite times"),
        ([0.0, np.inf], "t contains inf: expected finite times"),
        ([3.0, 2.0, 1.0], r"t\[0\] = 3, t\[1\] = 2: expected increasing times"),
        ([0.0, 1.0, 1.0], r"t\[1\] = 1, t\[2\] = 1: expected increasing times"),
    ],
)
def test_simulator_asks_for_times_that_increase(t, message, no_solver):
    with pytest.raises(ValueError, match=message):
        simulate(0.0, 0.0, t)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"v0": np.zeros((2, 3))}, r"v0 has shape \(2, 3\), w0 \(\): expected numbers"),
        ({"w0": np.zeros((2, 3))}, r"v0 has shape \(\), w0 \(2, 3\): expected numbers"),
        ({"I": np.zeros((3, 2))}, r"I has shape \(3, 2\): .* where T is 2"),
        ({"I": np.zeros((2, 2, 1))}, r"I has shape \(2, 2, 1\): .* where T is 2"),
    ],
)
def test_simulator_asks_for_shapes_that_it_knows(wrong, message, no_solver):
    arguments = {"v0": 0.0, "w0": 0.0, "t": [0.0, 1.0]} | wrong
    with pytest.raises(ValueError, match=message):
        simulate(**arguments)


@pytest.mark.parametrize("neuron", [{"b": -0.1}, {"eps": 0.0}, {"eps": 1.1}])
def test_neuron_that_could_grow_without_bound_is_named(neuron, no_solver):
    with pytest.raises(ValueError, match="expected b >= 0 and 0 < eps <= 1"):
        simulate(0.0, 0.0, [0, 1], **neuron)


@pytest.mark.parametrize(
    ("neuron", "expected"),
    [({}, PERIOD), ({"a": 0.95, "b": 0.2}, PERIOD_A), ({"b": 0.2}, PERIOD_B)],
)
def test_periods_are_those_of_the_solver(neuron, expected):
    assert period(**neuron) == pytest.approx(expected, abs=0.02)


def test_neuron_without_a_period_is_named():
    with pytest.raises(ValueError, match="I = 0.0, .*: expected a neuron that spikes"):
        period(I=0.0)


def test_crossings_are_along_time():
    V = np.array([[-1.0, 1.0], [3.0, -1.0], [-2.0, -1.0], [0.0, 1.0], [1.0, 2.0]])
    expected = [[True, False], [False, False], [True, True], [False, False]]
    assert crosses_upwards(V).tolist() == expected
    assert crosses_upwards(torch.tensor(V)).tolist() == expected
    assert upward_crossings(V[:, 0], dt=2.0).tolist() == [0.5, 6.0]
    assert upward_crossings(V[:, 1], dt=2.0).tolist() == [5.0]
    with pytest.raises(ValueError, match=r"V has shape \(5, 1\): expected one trace"):
        upward_crossings(V[:, :1], dt=2.0)


# ---- traces ----


def test_traces_are_paired_with_themselves_one_sample_later():
    V = np.sin(np.arange(21.0))
    # each window begins with the last sample of the one before
    windows = np.lib.stride_tricks.sliding_window_view(V, 6)[::5].T  # (6, 4)
    data = Traces(windows, dt=0.1)
    assert (len(data), data.dt, data.data_x.dtype) == (4, 0.1, torch.float32)
    assert data.data_x.shape == data.data_y.shape == (5, 4, 1)
    x, y = data[2]
    assert x.shape == y.shape == (5, 1)
    np.testing.assert_allclose(x.flatten(), V[10:15], rtol=1e-6)
    np.testing.assert_allclose(y.flatten(), V[11:16], rtol=1e-6)
    for same in (windows.tolist(), torch.tensor(windows)):
        assert torch.equal(Traces(same, dt=0.1).data_x, data.data_x)


def test_traces_with_currents_show_both():
    V = np.arange(12.0).reshape(4, 3)
    I = 100 + V
    data = Traces(V, 0.1, I)
    assert data.data_x[..., 0].tolist() == V[:-1].tolist()
    assert data.data_x[..., 1].tolist() == I[:-1].tolist()
    assert data.data_y[..., 0].tolist() == V[1:].tolist()
    x, y = data[1]
    assert x.tolist() == [[1, 101], [4, 104], [7, 107]]
    assert y.tolist() == [[4], [7], [10]]


def test_data_loader_makes_batches_of_traces_batch_first():
    data = FitzhughNagumo(5, 20, duration=8.0, seed=0)
    batches = list(DataLoader(data, batch_size=2))
    assert [x.shape for x, _ in batches] == [(2, 20, 1), (2, 20, 1), (1, 20, 1)]
    assert torch.equal(torch.cat([x for x, _ in batches]).transpose(0, 1), data.data_x)
    assert torch.equal(torch.cat([y for _, y in batches]).transpose(0, 1), data.data_y)


def test_what_is_written_into_the_inputs_leaves_the_targets_alone():
    data = Traces(np.zeros((4, 2)), 0.1)
    data.data_x += 1
    assert (data.data_y == 0).all()


@pytest.mark.parametrize("name", ["V", "I"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros(5), r"has shape \(5,\): expected \(T \+ 1, N\), time first"),
        (np.zeros((1, 3)), r"has shape \(1, 3\): .*at least two samples"),
        (np.zeros((3, 0)), r"has shape \(3, 0\): .*at least one trace"),
        (np.zeros((3, 2, 1)), r"has shape \(3, 2, 1\): expected \(T \+ 1, N\)"),
    ],
)
def test_traces_ask_for_a_shape(name, wrong, message):
    arguments = {"V": np.zeros((3, 2)), "I": np.zeros((3, 2)), name: wrong}
    with pytest.raises(ValueError, match=f"{name} {message}"):
        Traces(arguments["V"], 0.1, arguments["I"])


def test_traces_ask_for_a_current_for_every_voltage():
    for shape in ((4, 2), (3, 3), (2, 3), (3, 1)):
        message = rf"V has shape \(3, 2\), I \({shape[0]}, {shape[1]}\): expected the"
        with pytest.raises(ValueError, match=message):
            Traces(np.zeros((3, 2)), 0.1, np.zeros(shape))


@pytest.mark.parametrize("name", ["V", "I"])
@pytest.mark.parametrize("value", [*NOT_FINITE, 1e39])
def test_traces_name_what_is_not_finite(name, value):
    values = np.zeros((3, 2))
    values[1, 1] = value  # float32, which the network takes, ends before 1e39
    values[2, 0] = value
    arguments = {"V": np.zeros((3, 2)), "I": np.zeros((3, 2)), name: values}
    message = rf"2 of 6 values are not finite, the first is {name}\[1, 1\] = .*: cut"
    with pytest.raises(ValueError, match=message):
        Traces(arguments["V"], 0.1, arguments["I"])


@pytest.mark.parametrize("dt", [0, -0.4, *NOT_FINITE])
def test_traces_ask_for_a_dt(dt):
    with pytest.raises(ValueError, match=f"dt = {dt}: expected a finite number above"):
        Traces(np.zeros((3, 2)), dt)


# ---- sizes ----

DATASETS = pytest.mark.parametrize(
    "dataset", [FitzhughNagumo, DrivenNeurons, FitzhughNagumoClassification]
)


@DATASETS
@pytest.mark.parametrize("name", ["N", "T"])
@pytest.mark.parametrize("number", [0, -1, 2.5, 3.0, np.nan])
def test_numbers_of_traces_and_samples_are_whole(dataset, name, number, no_solver):
    sizes = {"N": 2, "T": 10, name: number}
    message = rf"{name} = {number}: expected a whole number from 1"
    with pytest.raises(ValueError, match=message):
        dataset(**sizes)


@DATASETS
@pytest.mark.parametrize("duration", [0, -4.0, *NOT_FINITE])
def test_durations_are_finite(dataset, duration, no_solver):
    message = f"duration = {duration}: expected a finite number above 0"
    with pytest.raises(ValueError, match=message):
        dataset(2, 10, duration=duration)


@DATASETS
def test_more_data_than_anybody_waits_for_are_too_large(dataset, no_solver):
    assert issubclass(TooLargeError, ValueError)
    message = "100,000 traces of 100,000 samples .* expected at most 50,000,000 samples"
    with pytest.raises(TooLargeError, match=message):
        dataset(100_000, 100_000)
    with pytest.raises(TooLargeError, match=r"over 1e\+09 time units"):
        dataset(1, 10, duration=1e9)


def test_windows_that_need_too_long_traces_are_too_large():
    with pytest.raises(
        TooLargeError, match=r"1 traces of 1,6\d\d,\d\d\d,\d\d\d samples"
    ):
        FitzhughNagumoClassification(1, 10, duration=1e-6, random_phase=True)


def test_numpys_whole_numbers_are_whole():
    assert len(FitzhughNagumo(np.int32(3), np.int64(5), duration=2.0)) == 3


# ---- task 1: neurons that start anywhere ----


def test_regression_pairs_are_one_sample_apart():
    data = FitzhughNagumo(3, 500, duration=200.0, seed=5)
    assert data.data_x.shape == data.data_y.shape == data.data_w.shape == (500, 3, 1)
    assert data.data_x.dtype == data.data_y.dtype == data.data_w.dtype == torch.float32
    assert (data.dt, len(data)) == (0.4, 3)
    assert data.parameters == {"I": 0.5, "a": 0.7, "b": 0.8}
    assert torch.equal(data.data_x[1:], data.data_y[:-1])
    v0 = data.data_x[0, :, 0].double().numpy()
    w0 = data.data_w[0, :, 0].double().numpy()
    V, W = one_by_one(v0, w0, np.arange(501) * 0.4)
    np.testing.assert_allclose(data.data_y[..., 0], V[1:], atol=2e-5)
    np.testing.assert_allclose(data.data_w[..., 0], W[:-1], atol=2e-5)


def assert_uniform(values, low, high):
    assert low <= values.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < values.max() < high
    expected = len(values) / 10
    counts = np.histogram(values, bins=10, range=(low, high))[0]
    assert abs(counts - expected).max() < 4 * np.sqrt(expected)  # standard deviations


def test_starts_are_uniform_over_a_box_beyond_the_cycle():
    data = FitzhughNagumo(4000, 1, duration=0.1, seed=0)
    v0 = data.data_x[0, :, 0]
    w0 = data.data_w[0, :, 0]
    assert_uniform(v0, -3, 3)
    assert_uniform(w0, -1.5, 2.5)
    assert abs(np.corrcoef(v0, w0)[0, 1]) < 0.06


def test_starts_are_those_of_the_original_tutorial_if_not_anywhere():
    data = FitzhughNagumo(4000, 1, duration=0.1, seed=0, anywhere=False)
    assert_uniform(data.data_x[0, :, 0], -1, 1)
    assert (data.data_w[0] == 0).all()


@pytest.mark.parametrize("anywhere", [True, False])
def test_equal_seeds_give_the_same_neurons_at_any_rate(anywhere):
    settings = {"duration": 40.0, "anywhere": anywhere}
    one = FitzhughNagumo(5, 100, seed=6, **settings)
    same = FitzhughNagumo(5, 100, seed=6, **settings)
    finer = FitzhughNagumo(5, 200, seed=6, **settings)  # the finer test set of task 1
    for name in ("data_x", "data_y", "data_w"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    torch.testing.assert_close(finer.data_x[::2], one.data_x, rtol=0, atol=1e-5)
    torch.testing.assert_close(finer.data_w[::2], one.data_w, rtol=0, atol=1e-5)
    for seed in (7, None):
        other = FitzhughNagumo(5, 100, seed=seed, **settings)
        assert not torch.equal(one.data_x[0], other.data_x[0])


# ---- task 4: driven neurons ----


def test_driven_neurons_see_their_current():
    data = DrivenNeurons(100, 600, seed=0)
    V, I = data.data_x.double().numpy().transpose(2, 0, 1)  # each (T, N)
    assert torch.equal(data.data_x[1:, :, 0], data.data_y[:-1, :, 0])
    # a jump of the current bends the voltage from that very sample on
    bends = np.diff(V, 2, axis=0)
    jumps = np.diff(I, axis=0)[:-1]
    assert np.corrcoef(bends.ravel(), jumps.ravel())[0, 1] > 0.5
    num_levels = 1 + (np.diff(I, axis=0) != 0).sum(axis=0)
    expected = pytest.approx([3, 27, 320], rel=0.6)
    assert np.quantile(num_levels, [0.1, 0.5, 0.9]) == expected
    assert (I.min(), I.max()) == pytest.approx((-0.2, 1.8), abs=0.01)
    assert_uniform(np.unique(I), -0.2, 1.8)


def test_driven_neurons_are_the_simulators():
    data = DrivenNeurons(3, 40, duration=16.0, seed=1)
    x = data.data_x.double().numpy()
    for k in range(3):
        v0 = x[0, k, 0]
        I = x[:, k, 1]
        # W(0) is not shown: that which leads to the second sample
        w0 = np.linspace(-1.5, 2.5, 2001)
        V, _ = simulate(v0, w0, 0.4 * np.arange(40), I[:, None])
        best = abs(V[1] - x[1, k, 0]).argmin()
        assert abs(V[:, best] - x[:, k, 0]).max() < 0.02


def test_constant_currents_are_constant_and_start_the_same_neurons():
    settings = {"duration": 20.0, "seed": 0}
    constant = DrivenNeurons(5, 50, "constant", **settings)
    jumps = DrivenNeurons(5, 50, "jumps", **settings)
    assert (constant.data_x[:, :, 1] == constant.data_x[0, :, 1]).all()
    assert constant.data_x[0, :, 1].unique().numel() == 5
    assert torch.equal(constant.data_x[0], jumps.data_x[0])


@pytest.mark.parametrize("currents", ["jump", "Jumps", "", None, True])
def test_currents_that_are_not_known_are_named(currents, no_solver):
    message = f"currents = {currents!r}: expected 'constant' or 'jumps'"
    with pytest.raises(ValueError, match=message):
        DrivenNeurons(2, 10, currents)


# ---- task 3: two classes ----


def test_classes_are_clean_trajectories_from_the_originals_starts():
    data = FitzhughNagumoClassification(3, 200, duration=80.0, seed=1)
    assert data.data.shape == (200, 6, 1)
    assert (data.data.dtype, data.dt, len(data)) == (torch.float32, 0.4, 6)
    assert data.labels.tolist() == [0] * 3 + [1] * 3
    assert data.labels.dtype == torch.int64
    trace, label = data[4]
    assert torch.equal(trace, data.data[:, 4])
    assert label == 1
    for label, a in enumerate((0.95, 0.7)):
        V = data.data[:, data.labels == label, 0].double().numpy()
        expected, _ = one_by_one(V[0], [0.0] * 3, np.arange(200) * 0.4, a=a, b=0.2)
        np.testing.assert_allclose(V, expected, atol=1e-4)
    many = FitzhughNagumoClassification(2000, 2, 0.4, seed=2)
    assert_uniform(many.data[0, :, 0], -1, 1)


def test_random_phase_starts_anywhere_on_the_limit_cycle_as_long_as_it_is_there():
    data = FitzhughNagumoClassification(300, 50, 20.0, random_phase=True, seed=3)
    for label, neuron in enumerate(data.CLASSES.values()):
        # one period of its own to start in
        num_spare = len(data.traces[label]) - 50
        assert num_spare == math.ceil(period(**neuron) / 0.4)
        V, _ = simulate(0.0, 0.0, np.arange(0, 1100, 0.5), **neuron)
        cycle = V[600:, 0]
        starts = data.data[0, data.labels == label].numpy()
        tolerance = 4 * math.sqrt(0.25 / 300)  # standard deviations
        for sign in (-1, 1):  # left and right branch
            share = (sign * starts > 1).mean()
            assert share == pytest.approx((sign * cycle > 1).mean(), abs=tolerance)


def test_matched_periods_are_the_longest():
    settings = {"random_phase": True, "match_period": True, "seed": 3}
    data = FitzhughNagumoClassification(2, 50, 20.0, **settings)
    assert data.paces == pytest.approx([1, PERIOD_B / PERIOD_A], abs=1e-3)
    for V in data.traces:
        assert len(V) - 50 == math.ceil(PERIOD_A / 0.4)
    slowed = FitzhughNagumoClassification(1, 1000, match_period=True, seed=0)
    for k in range(2):
        spikes = upward_crossings(slowed.data[:, k, 0].double().numpy(), 0.4)
        assert spikes[-1] - spikes[-2] == pytest.approx(PERIOD_A, abs=0.1)


def test_redraw_gives_new_windows_and_noise_of_the_same_neurons():
    settings = {"noise_std": 0.1, "random_phase": True, "seed": 5}
    data = FitzhughNagumoClassification(4, 40, 16.0, **settings)
    same = FitzhughNagumoClassification(4, 40, 16.0, **settings)
    first = data.data.clone()
    traces = [V.copy() for V in data.traces]
    assert torch.equal(same.data, first)
    data.redraw()
    assert not torch.isclose(data.data[0], first[0], atol=1e-4).any()
    for V, before in zip(data.traces, traces):
        assert np.array_equal(V, before)
    assert torch.equal(data[7][0], data.data[:, 7])  # what an index gives is new, too
    for k in range(8):  # each is still a window of its own neuron's trace, with noise
        V = traces[k // 4][:, k % 4]
        windows = np.lib.stride_tricks.sliding_window_view(V, 40)
        noise = data.data[:, k, 0].double().numpy() - windows
        smallest = noise.std(axis=1).min()
        assert smallest == pytest.approx(0.1, abs=0.04)


def test_each_trace_runs_at_a_pace_of_its_own():
    settings = {"random_phase": True, "match_period": True, "seed": 6}
    data = FitzhughNagumoClassification(40, 900, 360.0, pace_range=2, **settings)
    paces = []
    for k in range(80):
        spikes = upward_crossings(data.data[:, k, 0].double().numpy(), data.dt)
        if len(spikes) > 1:
            paces.append(PERIOD_A / np.diff(spikes).mean())
    assert 0.5 < min(paces) < 1 < 1.8 < max(paces) < 2
    # between two samples of the neuron lies a straight line
    V = data.traces[0]
    windows = data._windows(V)
    assert windows.shape == (900, 40)
    slow = np.abs(np.diff(V, axis=0)).max()
    assert np.abs(np.diff(windows, axis=0)).max() < 2 * slow
    again = data._windows(V)
    assert not np.allclose(windows, again)


@pytest.mark.parametrize(
    ("pace_range", "random_phase"),
    [(0.9, True), (2, False), *[(x, True) for x in NOT_FINITE]],
)
def test_paces_need_a_range_and_a_random_phase(pace_range, random_phase, no_solver):
    with pytest.raises(ValueError, match=f"pace_range = {pace_range}"):
        FitzhughNagumoClassification(
            2, 10, random_phase=random_phase, pace_range=pace_range
        )


@pytest.mark.parametrize("noise_std", [-0.1, *NOT_FINITE])
def test_noise_is_a_finite_number(noise_std, no_solver):
    with pytest.raises(ValueError, match=f"noise_std = {noise_std}: expected a finite"):
        FitzhughNagumoClassification(2, 10, noise_std=noise_std)


# ---- the figures of the pages hold for these data ----


def test_seeds_give_the_data_on_which_the_pages_were_measured():
    settings = {"duration": 16.0, "seed": 0}
    hard = {"noise_std": 0.2, "random_phase": True, "match_period": True}
    neurons = FitzhughNagumo(3, 40, **settings)
    original = FitzhughNagumo(3, 40, anywhere=False, **settings)
    jumps = DrivenNeurons(3, 40, "jumps", **settings)
    constant = DrivenNeurons(3, 40, "constant", **settings)
    classes = FitzhughNagumoClassification(2, 40, **settings, **hard)
    measured = [
        (neurons.data_y[-1], [2.049739, -1.940027, -2.033452]),
        (original.data_y[-1], [1.645077, 1.691216, -1.171141]),
        (jumps.data_x[-1, :, 0], [-1.865070, -2.094136, 2.125889]),
        (jumps.data_x[-1, :, 1], [1.416273, -0.024464, 1.005698]),
        (constant.data_x[-1, :, 0], [-1.856794, -1.995116, -1.734584]),
        (constant.data_x[-1, :, 1], [1.576237, 0.251739, 0.049109]),
        (classes.data[-1], [-2.064091, -1.023772, -1.437492, -1.411996]),
    ]
    for data, expected in measured:
        assert data.flatten().tolist() == pytest.approx(expected, abs=1e-4)
    classes.redraw()
    expected = [-1.780321, -1.508412, -1.736565, 1.356581]
    assert classes.data[-1].flatten().tolist() == pytest.approx(expected, abs=1e-4)


# ---- the neuron is said in one place ----

OTHER = {"I": 0.6, "a": 0.5, "b": 0.9, "eps": 0.03}
ASK_ALL = """
import json
from datasets import DrivenNeurons, FitzhughNagumo, period, simulate
from gru_driven_neuron import REST, neuron
from gru_regression_scratch import make_neurons, parser
import numpy as np

flags = ["--num_samples", "40", "--duration", "40"]
task_1 = make_neurons(parser.parse_args(flags), num=1, offset=0)
task_2 = FitzhughNagumo(1, 40, duration=40.0, seed=0)
task_4 = DrivenNeurons(1, 40, "constant", duration=40.0, seed=0)
print(json.dumps({
    "period": period(),
    "rest": REST,
    "task 1": task_1.data_y.flatten().tolist(),
    "task 2": task_2.data_y.flatten().tolist(),
    "task 4": task_4.data_y.flatten().tolist(),
    "asked": neuron(np.full((40, 1), 0.3)).flatten().tolist(),
}))
"""


def test_changed_in_one_place_the_neuron_is_another_in_every_task(tmp_path):
    text = (TOP / "datasets.py").read_text()
    numbers = "I=0.5, a=0.7, b=0.8, eps=1 / 50"
    assert text.count(numbers) == 1
    other = ", ".join(f"{name}={value}" for name, value in OTHER.items())
    (tmp_path / "datasets.py").write_text(text.replace(numbers, other))
    said = subprocess.run(
        [sys.executable, "-c", ASK_ALL],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{TOP}"},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    answers = json.loads(said.stdout)

    crossings = upward_crossings(
        simulate(0, 0, np.arange(0, 1500, 0.1), **OTHER)[0][:, 0], 0.1
    )
    assert answers["period"] == pytest.approx(np.diff(crossings)[2:].mean())
    shape = {name: OTHER[name] for name in ("a", "b", "eps")}
    V, W = answers["rest"]
    rest = np.array([V - V**3 / 3 - W, V + shape["a"] - shape["b"] * W])
    assert np.abs(rest).max() < 1e-9
    t = np.arange(41.0)
    v0, w0 = draw_starts(np.random.default_rng(0), 1)
    expected, _ = simulate(v0, w0, t, **OTHER)
    for task in ("task 1", "task 2"):
        np.testing.assert_allclose(answers[task], expected[1:, 0], atol=1e-5)
    # its start and current are drawn alike, whatever the neuron
    usual = DrivenNeurons(1, 40, "constant", duration=40.0, seed=0).data_y.flatten()
    assert np.abs(np.array(answers["task 4"]) - usual.numpy()).max() > 0.01
    expected, _ = simulate(V, W, 400 / 512 * np.arange(40), 0.3, **shape)
    np.testing.assert_allclose(answers["asked"], expected[:, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("I", "a", "b"), [(0.5, 0.7, 0.8), (0.0, 0.7, 0.8), (0.5, 0.7, 2.0)]
)
def test_a_neuron_stands_still_at_its_rest_point(I, a, b):
    V, W = rest_point(I, a, b)
    assert abs(V - V**3 / 3 - W + I) < 1e-12
    assert abs(V + a - b * W) < 1e-12


def test_the_neuron_could_rest_where_the_page_says():
    V, _ = rest_point()
    assert round(V, 3) == -0.805


@pytest.mark.parametrize("b", [0, -1, np.nan])
def test_without_b_there_is_no_rest_point_to_compute(b):
    with pytest.raises(ValueError, match=f"b = {b}: expected b > 0"):
        rest_point(b=b)
