"""The FitzHugh-Nagumo neuron: its simulator, and the datasets made from it.

A neuron's membrane voltage V spikes because V excites itself (fast) while a recovery variable W pulls it back (slow):

    dV/dt = V - V³/3 - W + I
    dW/dt = ε (V + a - b W)

V, W and time have no units: neither millivolts nor milliseconds. Source: FitzHugh (1961), Nagumo et al. (1962), and
http://www.scholarpedia.org/article/FitzHugh-Nagumo_model
"""

import functools
import itertools
import math

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch.utils.data import TensorDataset

MAX_SAMPLES = 5 * 10**7  # per dataset: 0.4 GB for V in float64, and a few times that while it is made
ANYWHERE = (-3, 3), (-1.5, 2.5)  # V(0) and W(0) of a neuron that starts anywhere: well beyond the limit cycle
MAX_DURATION = 25_000  # time units: to simulate more takes longer than ten seconds


class TooLargeError(ValueError):
    """More data than fit into the memory, or than anybody would wait for."""


def check_size(N, T, duration):
    if N * T > MAX_SAMPLES or duration > MAX_DURATION:
        expected = f"expected at most {MAX_SAMPLES:,} samples in all, {MAX_DURATION:,} time units"
        raise TooLargeError(f"{N:,} traces of {T:,} samples over {duration:,g} time units: {expected}")


def simulate(v0, w0, t, I=0.5, a=0.7, b=0.8, eps=1 / 50):
    """Integrate N FitzHugh-Nagumo neurons at once, in float64, to within 1e-5 of the exact solution.

    v0, w0: (N,) or numbers, V and W at time t[0]. t: (T,) increasing times at which to sample.
    I: input current, a number or (N,); or (T, N): then I[k] is held from t[k] to t[k + 1], and the last row unused.
    a, b >= 0 and 0 < eps <= 1 shape the recovery variable; with b < 0 it could grow without bound.

    Returns V and W, each (T, N). Raises ValueError for a b or eps outside its range, and if the solver fails.
    """
    if not (b >= 0 and 0 < eps <= 1):
        raise ValueError(f"b = {b}, eps = {eps}: expected b >= 0 and 0 < eps <= 1")
    v0, w0, I, _ = np.broadcast_arrays(v0, w0, I, np.empty((len(t), 1)))  # each (T, N)

    def derivative(_, state, I):
        V, W = state.reshape(2, -1)
        return np.concatenate([V - V * V * V / 3 - W + I, eps * (V + a - b * W)])  # V**3 takes ten times as long

    # One stacked system: every step serves all N neurons. The tolerance is that of their root mean square; 1e-10 leaves
    # ample room for one that errs more, and for samples between two steps, which are interpolated.
    settings = {"method": "DOP853", "rtol": 1e-10, "atol": 1e-10}
    states = np.hstack([v0, w0], dtype=np.float64)  # every row is the start as yet
    jumps = 1 + np.flatnonzero((I[1:-1] != I[:-2]).any(1))  # the solver must not step over one: it starts again there
    for k, end in itertools.pairwise(np.unique([0, *jumps, len(t) - 1])):
        solution = solve_ivp(derivative, t[[k, end]], states[k], t_eval=t[k + 1 : end + 1], args=(I[k],), **settings)
        if not solution.success:
            raise ValueError(f"a = {a}, b = {b}, eps = {eps}: {solution.message}")
        states[k + 1 : end + 1] = solution.y.T
    return tuple(np.hsplit(states, 2))


class Traces(TensorDataset):
    """Voltage traces, each paired with itself one sample later: what is to be predicted.

    V: (T + 1, N), N traces sampled every dt; simulated, or windows of a recording, scaled to numbers of the order 1.
    I: (T + 1, N), their currents, if the network is told.

    data_x: (N, T, 1) float32, all samples of V but the last; (N, T, 2) with I
    data_y: (N, T, 1) float32, V one sample later
    Raises ValueError if V has another shape, or a number is not finite.
    """

    def __init__(self, V, dt, I=None):
        V = np.asarray(V, dtype=np.float64)
        if V.ndim != 2 or len(V) < 2:
            raise ValueError(f"V has shape {V.shape}: expected (T + 1, N), time first, at least two samples")
        if type(self) is Traces and len(V) < 100 and V.shape[1] > 100 * len(V):
            raise ValueError(f"V has shape {V.shape}, sweeps as rows? Expected (T + 1, N); recording.py makes windows")
        wrong = np.argwhere(~np.isfinite(V))
        if len(wrong):
            found = f"{len(wrong):,} of {V.size:,} values are not finite, the first is V[{wrong[0, 0]}, {wrong[0, 1]}]"
            raise ValueError(f"{found}: cut them out or interpolate")
        self.data_x = torch.cat([_to_tensor(data[:-1]) for data in (V, I) if data is not None], dim=-1)
        self.data_y, self.dt = _to_tensor(V[1:]), dt
        super().__init__(self.data_x, self.data_y)  # what an index gives: one trace and its targets


class FitzhughNagumo(Traces):
    """Traces of N neurons, of T samples over `duration` time units: `data_x` at the times 0, dt, ..., (T - 1) dt.

    Each neuron starts anywhere in the plane: V(0) uniform in [-3, 3), W(0) in [-1.5, 2.5), well beyond the limit cycle.
    anywhere=False: V(0) in [-1, 1) and W(0) = 0, as in the original tutorial; then nearly all traces follow one path.
    dt is duration / T. Equal seeds give equal data.
    data_w: (N, T, 1) float32, the recovery variable at the times of data_x; never shown to the network
    """

    def __init__(self, N, T, I=0.5, a=0.7, b=0.8, duration=400.0, seed=None, anywhere=True):
        check_size(N, T, duration)
        self.anywhere, self.rng = anywhere, np.random.default_rng(seed)
        self.parameters = {"I": I, "a": a, "b": b}
        V, W = self._trajectories(N, np.arange(T + 1) * (duration / T))  # (T + 1, N)
        super().__init__(V, duration / T)
        self.data_w = _to_tensor(W[:-1])

    def _trajectories(self, N, t):
        box = ANYWHERE if self.anywhere else ((-1, 1), (0, 0))
        v0, w0 = (self.rng.uniform(*side, N) for side in box)
        return simulate(v0, w0, t, **self.parameters)

    def get_init(self, n=50):
        """The first n samples of a new trajectory, as (n, 1, 1): time first and a batch of one, as the GRU takes it."""
        return _to_tensor(self._trajectories(1, np.arange(n) * self.dt)[0]).transpose(0, 1)


class DrivenNeurons(Traces):
    """Traces of N neurons that start anywhere, and the current of each, which the network is told: data_x is V and I.

    currents: "constant", or "jumps": levels in [-0.2, 1.8) that last 1 to 500 samples on average, log-uniform by trace.
    """

    def __init__(self, N, T, currents="jumps", duration=400.0, seed=None):
        check_size(N, T, duration)
        rng = np.random.default_rng(seed)
        jumps = rng.random((T + 1, N)) < 500 ** -rng.uniform(0, 1, N) * (currents == "jumps")
        last = np.maximum.accumulate(np.where(jumps, np.arange(T + 1)[:, None], 0))  # at every sample: the last jump
        I = np.take_along_axis(rng.uniform(-0.2, 1.8, (T + 1, N)), last, axis=0)
        v0, w0 = (rng.uniform(*side, N) for side in ANYWHERE)
        super().__init__(simulate(v0, w0, np.arange(T + 1) * (duration / T), I)[0], duration / T, I)


class FitzhughNagumoClassification(TensorDataset):
    """N voltage traces each of two neurons that differ in `a`: class A (label 0) and class B (label 1).

    T samples over `duration` time units; dt = duration / T. Each trace starts from V(0) uniform in [-1, 1), W(0) = 0.
    noise_std: standard deviation of the observation noise that is added to V.
    random_phase: start anywhere on the limit cycle instead.
    match_period: slow every class down to the longest period: only the waveform tells them apart then.
    data: (2N, T, 1) float32, first all of class A, then all of class B
    labels: (2N,) int64
    """

    CLASSES = {"A": {"I": 0.5, "a": 0.95, "b": 0.2}, "B": {"I": 0.5, "a": 0.7, "b": 0.2}}

    def __init__(self, N, T, duration=400.0, noise_std=0.0, random_phase=False, match_period=False, seed=None):
        self.T, self.dt, self.noise_std, self.rng = T, duration / T, noise_std, np.random.default_rng(seed)
        periods = [period(**parameters) for parameters in self.CLASSES.values()]
        self.paces = [own / max(periods) if match_period else 1.0 for own in periods]
        # with a random phase: two periods to settle on the limit cycle, and one more to choose the window's start from
        num_spare = math.ceil(max(periods) / self.dt) if random_phase else 0
        check_size(N, T + num_spare, duration)
        t = np.arange(T + num_spare) * self.dt
        self.traces = []  # per class (N, T + num_spare), without noise
        for parameters, own_period, pace in zip(self.CLASSES.values(), periods, self.paces):
            own_t = np.append(0.0, 2 * own_period + pace * t) if random_phase else pace * t
            V, _ = simulate(self.rng.uniform(-1, 1, N), 0.0, own_t, **parameters)
            num_own = T + math.ceil(own_period / pace / self.dt)  # one period of its own: no phase is likelier
            self.traces.append(V[-len(t) :][:num_own].T.copy())
        self.labels = torch.arange(len(self.CLASSES)).repeat_interleave(N)
        self.redraw()

    def redraw(self):
        """Draw new windows and noise from the same neurons: a simulator is an endless training set."""
        windows = []
        for V in self.traces:
            start = self.rng.integers(0, V.shape[1] - self.T + 1, len(V))
            windows.append(np.lib.stride_tricks.sliding_window_view(V, self.T, axis=1)[np.arange(len(V)), start])
        V = np.vstack(windows).T  # (T, 2N)
        self.data = _to_tensor(V + self.noise_std * self.rng.standard_normal(V.shape))
        super().__init__(self.data, self.labels)  # what an index gives: one trace and its label


@functools.cache
def period(I=0.5, a=0.7, b=0.8):
    """Measure the period of a spiking neuron, in time units: the mean interval between upward crossings of V = 0."""
    t = np.arange(0, 1500, 0.1)
    V = simulate(0.0, 0.0, t, I=I, a=a, b=b)[0][:, 0]
    crossings = upward_crossings(V, 0.1)
    if len(crossings) < 5:
        raise ValueError(f"I = {I}, a = {a}, b = {b}: expected a neuron that spikes")
    return float(np.diff(crossings)[2:].mean())  # the first intervals still depend on the start


def crosses_upwards(V):
    """Mark where a spike begins, V crossing 0 upwards from one sample to the next: (..., T) to (..., T - 1)."""
    return (V[..., :-1] < 0) & (V[..., 1:] >= 0)


def upward_crossings(V, dt):
    """Find the times at which a trace (T,) crosses V = 0 upwards, interpolated linearly between two samples."""
    before = np.flatnonzero(crosses_upwards(V))
    return (before + V[before] / (V[before] - V[before + 1])) * dt


def _to_tensor(V):
    """(T, N) array to (N, T, 1) float32 tensor."""
    return torch.tensor(V.T, dtype=torch.float32).unsqueeze(-1)
