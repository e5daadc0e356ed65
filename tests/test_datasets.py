"""The neuron against its own solver at the tightest tolerance, and the datasets against the simulator."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from datasets import FitzhughNagumo, Traces, simulate


def reference(v0, w0, t, I=0.5, a=0.7, b=0.8, eps=1 / 50):
    """One neuron at a time, at 1e-12, with steps so short that nothing is interpolated over a long one."""

    def derivative(_, state):
        V, W = state.tolist()  # Python's numbers are the quicker ones
        return V - V**3 / 3 - W + I, eps * (V + a - b * W)

    options = {"method": "DOP853", "t_eval": t, "rtol": 1e-12, "atol": 1e-12, "max_step": 0.5}
    solutions = [solve_ivp(derivative, (t[0], t[-1]), start, **options).y for start in zip(v0, w0)]
    return np.stack([V for V, _ in solutions], axis=1), np.stack([W for _, W in solutions], axis=1)


@pytest.mark.parametrize("N", [1, 16, 128, 4096])
def test_simulator_agrees_with_the_solver_at_1e_12_for_any_number_of_neurons(N):
    rng = np.random.default_rng(N)
    v0, w0, t = rng.uniform(-1, 1, N), np.zeros(N), np.arange(1001) * 0.4
    V, W = simulate(v0, w0, t)
    assert V.shape == W.shape == (1001, N)
    assert V.dtype == np.float64
    some = rng.choice(N, min(N, 4), replace=False)
    V_reference, W_reference = reference(v0[some], w0[some], t)
    assert abs(V[:, some] - V_reference).max() < 1e-6
    assert abs(W[:, some] - W_reference).max() < 1e-6


def test_simulator_agrees_for_other_neurons_spiking_or_resting():
    rng = np.random.default_rng(1)
    t = np.linspace(0, 300, 601)
    spiking = 0
    for _ in range(24):
        I, a, b = rng.uniform(-0.5, 1.5), rng.uniform(0, 1.2), rng.uniform(0, 1.5)
        v0, w0 = rng.uniform(-2, 2, 3), rng.uniform(-1, 1, 3)
        V, W = simulate(v0, w0, t, I=I, a=a, b=b)
        V_reference, W_reference = reference(v0, w0, t, I=I, a=a, b=b)
        assert abs(V - V_reference).max() < 1e-6, (I, a, b)
        assert abs(W - W_reference).max() < 1e-6, (I, a, b)
        spiking += np.ptp(V[300:, 0]) > 2
    assert 0 < spiking < 24  # neurons of both kinds were drawn


def test_period_of_the_default_neuron():
    V, _ = simulate(0.0, 0.0, np.arange(0, 2000, 0.05))
    upward = np.flatnonzero((V[:-1, 0] < 0) & (V[1:, 0] >= 0)) * 0.05
    assert np.diff(upward)[2:].mean() == pytest.approx(122.1, abs=0.1)


def test_regression_pairs_are_one_sample_apart():
    data = FitzhughNagumo(3, 500, duration=200.0, seed=5)
    assert data.data_x.shape == data.data_y.shape == data.data_w.shape == (3, 500, 1)
    assert data.data_x.dtype == data.data_y.dtype == data.data_w.dtype == torch.float32
    assert data.dt == 0.4
    assert len(data) == 3
    x, y = data[1]
    torch.testing.assert_close(x[1:], y[:-1], rtol=0, atol=0)
    start = data.data_x[:, 0, 0].double().numpy(), data.data_w[:, 0, 0].double().numpy()
    V, W = reference(*start, np.arange(501) * 0.4)
    np.testing.assert_allclose(data.data_y[:, :, 0].T, V[1:], atol=2e-5)
    np.testing.assert_allclose(data.data_w[:, :, 0].T, W[:-1], atol=2e-5)


def test_start_is_uniform_over_a_box_beyond_the_cycle():
    data = FitzhughNagumo(4000, 1, duration=0.1, seed=0)
    for start, low, high in ((data.data_x[:, 0, 0], -3, 3), (data.data_w[:, 0, 0], -1.5, 2.5)):
        assert low <= start.min() < low + 0.02
        assert high - 0.02 < start.max() < high
        counts = np.histogram(start, bins=10, range=(low, high))[0]
        assert abs(counts - 400).max() < 4 * np.sqrt(400)  # four standard deviations
    assert abs(np.corrcoef(data.data_x[:, 0, 0], data.data_w[:, 0, 0])[0, 1]) < 0.06


def test_start_of_the_original():
    data = FitzhughNagumo(4000, 1, duration=0.1, seed=0, anywhere=False)
    start = data.data_x[:, 0, 0]
    assert -1 <= start.min() < -0.99
    assert 0.99 < start.max() < 1
    assert abs(start.mean()) < 0.05
    assert (data.data_w[:, 0] == 0).all()
    init = FitzhughNagumo(1, 10, seed=1, anywhere=False).get_init(5)
    assert -1 <= init[0].item() < 1


def test_equal_seeds_give_equal_data_and_the_global_state_is_left_alone():
    torch.manual_seed(3)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    one, two, other = (FitzhughNagumo(2, 50, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(one.data_y, two.data_y)
    assert not torch.equal(one.data_y, other.data_y)
    first, second = one.get_init(20), one.get_init(20)
    assert torch.equal(first, two.get_init(20))
    assert not torch.equal(first, second)
    assert not torch.equal(FitzhughNagumo(1, 5).data_x, FitzhughNagumo(1, 5).data_x)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_get_init_is_the_start_of_a_trajectory():
    init = FitzhughNagumo(1, 1000, seed=2, anywhere=False).get_init(60)
    assert init.shape == (60, 1, 1)
    V, _ = reference([float(init[0])], [0.0], np.arange(60) * 0.4)
    np.testing.assert_allclose(init[:, :, 0], V, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"N": 0}, "N = 0"),
        ({"N": 2.5}, "N = 2.5"),
        ({"N": 10**6, "T": 10**6}, "N = 1000000"),
        ({"T": -3}, "T = -3"),
        ({"T": "many"}, "T = 'many'"),
        ({"duration": 0}, "duration = 0"),
        ({"duration": float("nan")}, "duration = nan"),
        ({"I": float("inf")}, "I = inf"),
        ({"b": -0.1}, "b = -0.1"),
        ({"a": None}, "a = None"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_wrong_dataset_argument_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        FitzhughNagumo(**({"N": 1, "T": 10} | arguments))


@pytest.mark.parametrize(
    ("v0", "t", "named"),
    [
        ([np.nan], [0, 1], "v0"),
        ([0], [1, 0], r"t\[0\] = 1, t\[1\] = 0: expected strictly increasing"),
        ([0], [], "t = "),
        ("x", [0, 1], "v0"),
        ([[0]], [0, 1], "v0"),
    ],
)
def test_wrong_simulator_argument_is_named(v0, t, named):
    with pytest.raises(ValueError, match=named):
        simulate(v0, 0.0, t)


def test_one_time_gives_the_start_itself():
    V, W = simulate([0.1, 0.2], 0.3, [5.0])
    assert V.tolist() == [[0.1, 0.2]]
    assert W.tolist() == [[0.3, 0.3]]


def test_starts_of_different_lengths_are_named():
    with pytest.raises(ValueError, match="v0 has 3 values, w0 2"):
        simulate([0, 0, 0], [0, 0], [0, 1])


@pytest.mark.parametrize(("anywhere", "limit"), [(True, 3), (False, 1)])
def test_get_init_starts_where_the_dataset_does(anywhere, limit):
    data = FitzhughNagumo(1, 10, seed=4, anywhere=anywhere)
    starts = np.array([data.get_init(1).item() for _ in range(2000)])
    assert -limit <= starts.min() < -0.99 * limit
    assert 0.99 * limit < starts.max() < limit
    counts = np.histogram(starts, bins=10, range=(-limit, limit))[0]
    assert abs(counts - 200).max() < 4 * np.sqrt(200)


@pytest.mark.parametrize("anywhere", [True, False])
def test_equal_seeds_give_the_same_neurons_at_any_rate(anywhere):
    one, same, finer = (FitzhughNagumo(5, T, duration=40.0, seed=6, anywhere=anywhere) for T in (100, 100, 200))
    for name in ("data_x", "data_y", "data_w"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    for name in ("data_x", "data_w"):  # the finer test set of task 1
        torch.testing.assert_close(getattr(finer, name)[:, ::2], getattr(one, name), rtol=0, atol=1e-5)
    other = FitzhughNagumo(5, 100, duration=40.0, seed=6, anywhere=not anywhere)
    assert not torch.equal(one.data_x, other.data_x)


def test_traces_of_a_recording_are_paired_with_themselves_one_sample_later():
    V = np.sin(np.arange(21.0))
    windows = np.lib.stride_tricks.sliding_window_view(V, 6)[::5]  # each begins with the last sample of the one before
    data = Traces(windows.T, dt=0.1)
    assert (len(data), data.dt) == (4, 0.1)
    x, y = data[2]
    np.testing.assert_allclose(x.flatten(), V[10:15], rtol=1e-6)
    np.testing.assert_allclose(y.flatten(), V[11:16], rtol=1e-6)
    assert data.data_x.dtype == torch.float32
    assert torch.equal(data.data_y[:-1, -1], data.data_x[1:, 0])
    for same in (windows.T.tolist(), torch.tensor(windows.T)):
        assert torch.equal(Traces(same, dt=0.1).data_x, data.data_x)


@pytest.mark.parametrize("V", [np.zeros(5), np.zeros((1, 3)), np.zeros((5, 0)), np.array([[0.0], [np.nan]]), 3.0])
def test_traces_that_are_none_are_refused(V):
    with pytest.raises(ValueError, match="V has shape"):
        Traces(V, 0.1)


def test_sizes_that_overflow_their_type_are_refused():
    with pytest.raises(ValueError, match="expected at most 50,000,000 samples"):
        FitzhughNagumo(np.int32(50_000), np.int32(50_000))


@pytest.mark.parametrize("anywhere", ["no", 0, None])
def test_anywhere_is_a_boolean(anywhere):
    with pytest.raises(ValueError, match="anywhere = "):
        FitzhughNagumo(1, 5, anywhere=anywhere)
