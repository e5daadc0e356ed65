"""The FitzHugh-Nagumo neuron: its simulator, and the datasets made from it.

A neuron's membrane voltage V spikes because V excites itself (fast) while a recovery
variable W pulls it back (slow):

    dV/dt = V - V³/3 - W + I
    dW/dt = ε (V + a - b W)

V, W and time have no units: neither millivolts nor milliseconds. All arrays are time
first, (T, N, ...). Source: FitzHugh (1961), Nagumo et al. (1962), and
http://www.scholarpedia.org/article/FitzHugh-Nagumo_model
"""

import functools
import itertools
import math
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch.utils.data import Dataset

# per dataset: 0.4 GB for V in float64, some more while it is made
MAX_SAMPLES = 5 * 10**7
MAX_DURATION = 25_000  # time units: to simulate more takes longer than ten seconds
MAX_SIZE = 1000  # of v0, w0, I, a, b: with more, the solver's steps become too short


class Parameters(NamedTuple):
    """The numbers in the neuron's equations: the input current, a, b and ε."""

    I: float
    a: float
    b: float
    eps: float


# The neuron of all tasks but the third, whose two differ from it in a and b. Change it
# here, and train again: what is shipped has learnt this one.
NEURON = Parameters(I=0.5, a=0.7, b=0.8, eps=1 / 50)


class TooLargeError(ValueError):
    """More data than fit into the memory, or than anybody would wait for."""


class Box(NamedTuple):
    """Where neurons start: the lowest and the highest V(0), and the same for W(0)."""

    V: tuple
    W: tuple


ANYWHERE = Box(V=(-3, 3), W=(-1.5, 2.5))  # well beyond the limit cycle
ORIGINAL = Box(V=(-1, 1), W=(0, 0))  # as in the original tutorial


def draw_starts(rng, N, box=ANYWHERE):
    """Draw V(0) and W(0) of N neurons, uniformly from a box: (N,) each."""
    v0 = rng.uniform(*box.V, N)
    w0 = rng.uniform(*box.W, N)
    return v0, w0


def check_size(N, T, duration):
    """Raise ValueError if N traces of T samples make no dataset.

    Raises TooLargeError, which is a ValueError, if it would be too large.
    """
    for name, number in {"N": N, "T": T}.items():
        if not isinstance(number, Integral) or number < 1:
            raise ValueError(f"{name} = {number}: expected a whole number from 1")
    if not 0 < duration < math.inf:
        raise ValueError(f"duration = {duration}: expected a finite number above 0")
    if int(N) * int(T) > MAX_SAMPLES or duration > MAX_DURATION:
        raise TooLargeError(
            f"{N:,} traces of {T:,} samples over {duration:,g} time units: expected "
            f"at most {MAX_SAMPLES:,} samples in all, {MAX_DURATION:,} time units"
        )


def simulate(v0, w0, t, I=NEURON.I, a=NEURON.a, b=NEURON.b, eps=NEURON.eps):
    """Integrate N FitzHugh-Nagumo neurons at once, in float64.

    v0, w0: (N,) or numbers, V and W at time t[0].
    t: (T,) increasing times at which to sample.
    I: input current, a number or (N,); or (T, N): then I[k] is held from t[k] to
    t[k + 1], and the last row is not used.
    a, b >= 0 and 0 < eps <= 1: numbers that shape the recovery variable; with b < 0 it
    could grow without bound.

    Returns V and W, each (T, N), to within 1e-5 of the exact solution. Raises
    ValueError for numbers that are not finite or outside their range, for times that
    do not increase, for other shapes, and if the solver fails.
    """
    _check_parameters(a, b, eps)
    t = _checked_times(t)
    v0, w0, I = _checked_arrays(v0, w0, I, num_samples=len(t))

    states = np.empty((len(t), 2 * len(v0)))  # V of all neurons, then W of all
    states[0] = np.concatenate([v0, w0])
    for first, last in _spans_of_constant_current(I):
        neuron = {"I": I[first], "a": a, "b": b, "eps": eps}
        span = t[first : last + 1]
        states[first + 1 : last + 1] = _integrate(states[first], span, **neuron)
    V, W = np.hsplit(states, 2)
    return V, W


def _spans_of_constant_current(I):
    """List the spans of rows (first, last) in which each current of I (T, N) is held.

    The solver must not step over a jump of the current: it starts again there.
    """
    changes = (I[1:-1] != I[:-2]).any(axis=1)  # the last row is not used
    jumps = 1 + np.flatnonzero(changes)
    edges = np.unique([0, *jumps, len(I) - 1])
    return list(itertools.pairwise(edges))


def _integrate(start, t, I, a, b, eps):
    """Integrate V and W of all neurons, (2N,), from t[0] on: (T - 1, 2N), at t[1:].

    As one stacked system every step serves all N neurons. The tolerance is that of
    their root mean square; 1e-10 leaves ample room for one that errs more, and for
    samples between two steps, which are interpolated.
    """

    def derivative(_, state):
        V, W = state.reshape(2, -1)
        dV = V - V * V * V / 3 - W + I  # V**3 takes ten times as long
        dW = eps * (V + a - b * W)
        return np.concatenate([dV, dW])

    solution = solve_ivp(
        derivative,
        t_span=(t[0], t[-1]),
        y0=start,
        method="DOP853",
        t_eval=t[1:],
        rtol=1e-10,
        atol=1e-10,
    )
    if not solution.success:
        raise ValueError(f"a = {a}, b = {b}, eps = {eps}: {solution.message}")
    return solution.y.T


def _check_parameters(a, b, eps):
    _check_bounded("a", a)
    if not (b >= 0 and 0 < eps <= 1):
        raise ValueError(f"b = {b}, eps = {eps}: expected b >= 0 and 0 < eps <= 1")
    _check_bounded("b", b)


def _checked_times(t):
    t = np.asarray(t, dtype=np.float64)
    if t.ndim != 1 or len(t) == 0:
        raise ValueError(f"t has shape {t.shape}: expected (T,), at least one time")
    if not np.isfinite(t).all():
        wrong = t[~np.isfinite(t)]
        raise ValueError(f"t contains {wrong[0]}: expected finite times")
    if (np.diff(t) <= 0).any():
        k = np.argmax(np.diff(t) <= 0)
        raise ValueError(
            f"t[{k}] = {t[k]:g}, t[{k + 1}] = {t[k + 1]:g}: expected increasing times"
        )
    return t


def _checked_arrays(v0, w0, I, num_samples):
    """Return v0 (N,), w0 (N,) and I (T, N), if they are numbers that can be solved."""
    arrays = {}
    for name, value in {"v0": v0, "w0": w0, "I": I}.items():
        arrays[name] = np.asarray(value, dtype=np.float64)
        _check_bounded(name, arrays[name])
    v0, w0, I = arrays["v0"], arrays["w0"], arrays["I"]
    if v0.ndim > 1 or w0.ndim > 1:
        raise ValueError(
            f"v0 has shape {v0.shape}, w0 {w0.shape}: expected numbers or (N,)"
        )
    if I.ndim > 2 or (I.ndim == 2 and len(I) != num_samples):
        raise ValueError(
            f"I has shape {I.shape}: expected a number, (N,) or (T, N), where T is "
            f"{num_samples}"
        )
    shape = np.broadcast_shapes(v0.shape, w0.shape, I.shape, (num_samples, 1))
    v0 = np.broadcast_to(v0, shape[1:])
    w0 = np.broadcast_to(w0, shape[1:])
    return v0, w0, np.broadcast_to(I, shape)


def _check_bounded(name, values):
    values = np.asarray(values)
    within = np.abs(values) <= MAX_SIZE  # False for NaN, too
    if not within.all():
        raise ValueError(
            f"{name} contains {values[~within][0]:g}: expected finite numbers, at most "
            f"{MAX_SIZE:,} in size"
        )


class Traces(Dataset):
    """Voltage traces, each paired with itself one sample later: the next V to predict.

    V: (T + 1, N), N traces sampled every dt; simulated, or windows of a recording,
    scaled to numbers of the order 1.
    I: (T + 1, N), their currents, if the network is told.

    data_x: (T, N, 1) float32, all samples of V but the last; (T, N, 2) with I
    data_y: (T, N, 1) float32, V one sample later
    There are len(traces) = N of them. traces[k] is one, (T, 1) or (T, 2), and its
    targets, (T, 1): a DataLoader makes batches (B, T, ...) of these, batch first.

    Raises ValueError if V, I or dt contain what is not finite, if V and I have other
    shapes, and if dt is not above 0.
    """

    def __init__(self, V, dt, I=None):
        if not 0 < dt < math.inf:
            raise ValueError(f"dt = {dt}: expected a finite number above 0")
        V = _checked_traces("V", V)
        inputs = [V[:-1]]
        if I is not None:
            I = _checked_traces("I", I)
            if I.shape != V.shape:
                raise ValueError(
                    f"V has shape {tuple(V.shape[:2])}, I {tuple(I.shape[:2])}: "
                    "expected the same"
                )
            inputs.append(I[:-1])
        self.data_x = torch.cat(inputs, dim=-1)
        self.data_y = V[1:]
        self.dt = dt

    def __len__(self):
        return self.data_x.shape[1]

    def __getitem__(self, k):
        return self.data_x[:, k], self.data_y[:, k]


def _checked_traces(name, values):
    """Make a float32 tensor (T + 1, N, 1) of an array (T + 1, N)."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] < 1:
        raise ValueError(
            f"{name} has shape {values.shape}: expected (T + 1, N), time first, at "
            "least two samples of at least one trace"
        )
    traces = _to_tensor(values)
    wrong = torch.nonzero(~traces.isfinite())  # also what float32 cannot hold
    if len(wrong) > 0:
        t, k, _ = wrong[0].tolist()
        raise ValueError(
            f"{len(wrong):,} of {values.size:,} values are not finite, the first is "
            f"{name}[{t}, {k}] = {values[t, k]:g}: cut them out or interpolate"
        )
    return traces


def _to_tensor(values):
    """(T, N) array to (T, N, 1) float32 tensor."""
    return torch.tensor(values, dtype=torch.float32).unsqueeze(-1)


class FitzhughNagumo(Traces):
    """Traces of N neurons, of T samples over `duration` time units.

    Each neuron starts anywhere in the plane: V(0) uniform in [-3, 3), W(0) in
    [-1.5, 2.5), well beyond the limit cycle. anywhere=False: V(0) in [-1, 1) and
    W(0) = 0, as in the original tutorial; then nearly all traces follow one path.
    dt is duration / T. Equal seeds give equal data.

    data_x, data_y: (T, N, 1) float32, V at the times 0, dt, ..., (T - 1) dt, and V one
    sample later
    data_w: (T, N, 1) float32, the recovery variable at the times of data_x; never shown
    to the network
    parameters: I, a and b, as `simulate` takes them

    Raises ValueError for sizes and parameters that cannot be; a TooLargeError for too
    many samples or too long a duration.
    """

    def __init__(
        self,
        N,
        T,
        I=NEURON.I,
        a=NEURON.a,
        b=NEURON.b,
        duration=400.0,
        seed=None,
        anywhere=True,
    ):
        check_size(N, T, duration)
        self.anywhere = anywhere
        self.parameters = {"I": I, "a": a, "b": b}
        box = ANYWHERE if anywhere else ORIGINAL
        v0, w0 = draw_starts(np.random.default_rng(seed), N, box)
        dt = duration / T
        V, W = simulate(v0, w0, np.arange(T + 1) * dt, **self.parameters)
        super().__init__(V, dt)
        self.data_w = _to_tensor(W[:-1])


class DrivenNeurons(Traces):
    """Traces of N neurons that start anywhere, each driven by a current of its own.

    currents: "constant"; or "jumps": levels that last 1 to 500 samples on average,
    log-uniform by trace. The levels are uniform in [-0.2, 1.8).
    T samples over `duration` time units; dt is duration / T.

    data_x: (T, N, 2) float32, V and the current, which the network is told
    data_y: (T, N, 1) float32, V one sample later
    Raises ValueError for other currents, and as FitzhughNagumo does.
    """

    LEVELS = (-0.2, 1.8)
    LONGEST_MEAN = 500  # samples

    def __init__(self, N, T, currents="jumps", duration=400.0, seed=None):
        if currents not in ("constant", "jumps"):
            raise ValueError(f"currents = {currents!r}: expected 'constant' or 'jumps'")
        check_size(N, T, duration)
        rng = np.random.default_rng(seed)
        I = self._draw_currents(rng, T + 1, N, currents)
        v0, w0 = draw_starts(rng, N)
        dt = duration / T
        V, _ = simulate(v0, w0, np.arange(T + 1) * dt, I)
        super().__init__(V, dt, I)

    def _draw_currents(self, rng, num_samples, N, currents):
        """Draw currents (num_samples, N) that jump to a new level at random moments."""
        # All is drawn for constant currents, too: equal seeds start equal neurons.
        chance = rng.random((num_samples, N))
        jump_probability = self.LONGEST_MEAN ** -rng.uniform(0, 1, N)
        levels = rng.uniform(*self.LEVELS, (num_samples, N))
        if currents == "constant":
            return np.tile(levels[0], (num_samples, 1))
        jumps = chance < jump_probability
        I = levels.copy()
        for t in range(1, num_samples):
            I[t] = np.where(jumps[t], levels[t], I[t - 1])
        return I


class FitzhughNagumoClassification(Dataset):
    """Voltage traces of two neurons that differ in `a`, N each of class A and class B.

    T samples over `duration` time units; dt is duration / T. Each trace starts from
    V(0) uniform in [-1, 1) and W(0) = 0.
    noise_std: standard deviation of the observation noise that is added to V.
    random_phase: start anywhere on the limit cycle instead.
    match_period: slow every class down to the longest period: only the waveform tells
    them apart then.
    pace_range: above 1, each trace runs at a pace of its own, up to so many times
    slower or faster. Needs random_phase.

    data: (T, 2N, 1) float32, first all of class A, then all of class B
    labels: (2N,) int64, 0 for class A, 1 for class B
    traces: for each class (T, N) float64, without noise; with a random phase longer by
    a period (and for the fastest pace), from which `redraw` cuts windows of T samples
    paces: for each class, its own time units per time unit of the dataset
    dataset[k] is one trace, (T, 1), and its label.

    Raises ValueError for sizes and noise that cannot be; a TooLargeError for too many
    samples or too long a duration.
    """

    CLASSES = {
        "A": {"I": NEURON.I, "a": 0.95, "b": 0.2},
        "B": {"I": NEURON.I, "a": 0.7, "b": 0.2},
    }

    def __init__(
        self,
        N,
        T,
        duration=400.0,
        noise_std=0.0,
        random_phase=False,
        match_period=False,
        pace_range=1.0,
        seed=None,
    ):
        check_size(N, T, duration)
        if not 0 <= noise_std < math.inf:
            raise ValueError(
                f"noise_std = {noise_std}: expected a finite number from 0"
            )
        if not 1 <= pace_range < math.inf or (pace_range > 1 and not random_phase):
            raise ValueError(
                f"pace_range = {pace_range}, random_phase = {random_phase}: expected a "
                "finite number from 1, and above 1 a random phase"
            )
        self.T = T
        self.dt = duration / T
        self.noise_std = noise_std
        self.pace_range = pace_range
        self.rng = np.random.default_rng(seed)
        periods = [period(**parameters) for parameters in self.CLASSES.values()]
        longest = max(periods)
        self.paces = [1.0 for _ in periods]
        if match_period:
            self.paces = [own_period / longest for own_period in periods]
        self.labels = torch.arange(len(self.CLASSES)).repeat_interleave(N)
        if random_phase:
            self.traces = self._traces_on_limit_cycle(N, periods, duration)
        else:
            self.traces = self._traces_from_start(N)
        self.redraw()

    def _traces_from_start(self, N):
        t = np.arange(self.T) * self.dt
        traces = []
        for parameters, pace in zip(self.CLASSES.values(), self.paces):
            v0 = self.rng.uniform(-1, 1, N)
            V, _ = simulate(v0, 0.0, pace * t, **parameters)
            traces.append(V.copy())  # V is a view, and would keep W in the memory
        return traces

    def _traces_on_limit_cycle(self, N, periods, duration):
        """Simulate T samples and one period more, from which to choose a window."""
        num_steps = math.ceil(self.pace_range * self.T)  # of the fastest window
        num_spare = math.ceil(max(periods) / self.dt)
        check_size(N, num_steps + num_spare, (num_steps + num_spare) * self.dt)
        t = np.arange(num_steps + num_spare) * self.dt
        traces = []
        for parameters, own_period, pace in zip(
            self.CLASSES.values(), periods, self.paces
        ):
            v0 = self.rng.uniform(-1, 1, N)
            settled = 2 * own_period  # on the limit cycle
            V, _ = simulate(v0, 0.0, np.append(0.0, settled + pace * t), **parameters)
            V = V[1:]
            # one period of its own: no phase is likelier than another
            num_own_spare = math.ceil(own_period / pace / self.dt)
            traces.append(V[: num_steps + num_own_spare].copy())
        return traces

    def redraw(self):
        """Draw new windows and noise from the same neurons: an endless training set."""
        V = np.hstack([self._windows(V) for V in self.traces])  # (T, 2N)
        noise = self.noise_std * self.rng.standard_normal(V.shape)
        self.data = _to_tensor(V + noise)

    def _windows(self, V):
        """Draw a window of T samples from each trace of V (..., N): (T, N)."""
        N = V.shape[1]
        num_steps = math.ceil(self.pace_range * self.T)
        start = self.rng.integers(0, len(V) - num_steps + 1, N)
        pace = 1.0
        if self.pace_range > 1:
            pace = self.pace_range ** self.rng.uniform(-1, 1, N)
        sample = start + pace * np.arange(self.T)[:, None]  # (T, N)
        before = sample.astype(int)
        after = np.minimum(before + 1, len(V) - 1)
        share = sample - before  # 0 if the pace is 1
        each = np.arange(N)
        return (1 - share) * V[before, each] + share * V[after, each]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, k):
        return self.data[:, k], self.labels[k]


@functools.cache
def period(I=NEURON.I, a=NEURON.a, b=NEURON.b):
    """Measure the period of a spiking neuron, in time units.

    It is the mean interval between upward crossings of V = 0. Raises ValueError if
    there are hardly any.
    """
    dt = 0.1
    V, _ = simulate(0.0, 0.0, np.arange(0, 1500, dt), I=I, a=a, b=b)
    crossings = upward_crossings(V[:, 0], dt)
    if len(crossings) < 5:
        raise ValueError(f"I = {I}, a = {a}, b = {b}: expected a neuron that spikes")
    intervals = np.diff(crossings)
    return float(intervals[2:].mean())  # the first ones still depend on the start


def rest_point(I=NEURON.I, a=NEURON.a, b=NEURON.b):
    """Where a neuron could rest, stably or not: V and W, where both stand still.

    W = (V + a) / b in V - V³/3 - W + I = 0 leaves a cubic in V. With b <= 1 it has one
    root; with more, the lowest is taken. Raises ValueError unless b > 0.
    """
    if not b > 0:
        raise ValueError(f"b = {b}: expected b > 0")
    roots = np.roots([-1 / 3, 0, 1 - 1 / b, I - a / b])
    V = roots[abs(roots.imag) < 1e-9].real.min()
    return float(V), float((V + a) / b)


def crosses_upwards(V):
    """Mark where a spike begins: V crosses 0 upwards from one sample to the next.

    V: (T, ...); returns (T - 1, ...).
    """
    return (V[:-1] < 0) & (V[1:] >= 0)


def upward_crossings(V, dt):
    """Find the times at which a trace V (T,), sampled every dt, crosses 0 upwards.

    They are interpolated linearly between two samples. Raises ValueError for several
    traces at once.
    """
    if V.ndim != 1:
        raise ValueError(f"V has shape {tuple(V.shape)}: expected one trace, (T,)")
    before = np.flatnonzero(crosses_upwards(V))
    share = V[before] / (V[before] - V[before + 1])
    return (before + share) * dt
