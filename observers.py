"""The ideal observers: the most that can be known from noisy samples.

An ideal observer knows the equations and the noise. It entertains many hypotheses, each
of them a trace without noise, and weighs them by Bayes' rule as samples arrive. Nothing
is trained. Task 1 asks it for the next voltage, task 3 for the class.
"""

import math

import numpy as np
import torch
from scipy.spatial import KDTree

from datasets import ANYWHERE, ORIGINAL, draw_starts, period, simulate

NUM_STARTS = 20_000  # hypotheses about where in the plane a neuron has started
SMALLEST_NOISE = 0.01  # with less, no hypothesis is near enough to a trace
SEED = 2**32  # of these starts: a seed that no run has
MAX_VALUES = 10**7  # of V of all these neurons at a time: 0.1 GB in float64
# Two paths lead to the limit cycle, one on each side, from two corners of the box in
# which neurons start, V(0) and W(0): the lowest V with the highest W, and vice versa.
CORNERS = ANYWHERE.V, ANYWHERE.W[::-1]
SETTLED = 20.0  # time units after its start a neuron is on one of the two paths
PATH = 220.0  # time units until a path has joined the limit cycle and been all round it
MOMENT = 0.05  # time units from one moment of a path to the next, at most
W_STRETCH = 5.0  # V spans five times as much as W
NUM_NEIGHBOURS = 21  # moments among which probability is shared out
DOUBT = 1e-6  # what is added to the probability of every moment


def weigh(x, hypotheses, noise_std, prior=None):
    """Yield after each sample how likely each of M hypotheses has become: P (N, M).

    x: (T, N), noisy traces. hypotheses: (T, ...), M traces without noise; those of more
    than two dimensions are numbered in the order in which `flatten` puts them.
    prior: P before the first sample; if not given, all are equally likely.

    Each sample x counts for those whose V is near it, by Bayes' rule:
    log P(hypothesis | x) = log P(hypothesis) - (x - V)² / 2σ² + constant.

    Raises ValueError if x and hypotheses differ in length or there is no noise.
    """
    if len(x) != len(hypotheses):
        raise ValueError(
            f"x has {len(x)} samples, hypotheses {len(hypotheses)}: expected as many"
        )
    if not 0 < noise_std < math.inf:
        raise ValueError(f"noise_std = {noise_std}: expected a finite number above 0")
    if prior is None:
        log_P = torch.zeros(x.shape[1], hypotheses[0].numel())
    else:
        log_P = prior.log()
    for x_t, V in zip(x, hypotheses):
        log_P -= (x_t[:, None] - V.flatten()).square() / (2 * noise_std**2)
        below_the_best = log_P - log_P.amax(-1, keepdim=True)
        yield below_the_best.clamp(min=-80).softmax(-1)  # exp of less is slow


# ---- task 1: the next voltage ----


def predict_next(x, V, noise_std, prior=None, batch_size=16):
    """Predict the next V of noisy traces x (T, N) from hypotheses V (T + 1, ...).

    The mean of the hypotheses, each weighed by its probability, has the least mean
    squared error that is possible. prior: as in `weigh`.

    Returns the predictions (T, N), and how likely each hypothesis is in the end (N, M).
    """
    prediction = torch.empty_like(x)
    last_P = torch.empty(x.shape[1], V[0].numel())
    for first in range(0, x.shape[1], batch_size):  # few traces stay in the cache
        part = slice(first, first + batch_size)
        part_prior = None
        if prior is not None:
            part_prior = prior[part]
        for t, P in enumerate(weigh(x[:, part], V[:-1], noise_std, part_prior)):
            prediction[t, part] = P @ V[t + 1].flatten()
        last_P[part] = P
    return prediction, last_P


def follow_starts(x, dataset, noise_std, num_starts):
    """Predict the next V of x (T, N) from neurons that started as those of a dataset.

    dataset: a FitzhughNagumo. The neurons are followed a piece of time after the other,
    so that they fit into the memory at any dt.

    Returns the predictions (T, N), how likely each of the neurons is in the end
    (N, num_starts), and where it is then, in the plane of V and W: (num_starts, 2).
    """
    box = ANYWHERE if dataset.anywhere else ORIGINAL
    v, w = draw_starts(np.random.default_rng(SEED), num_starts, box)
    predictions = []
    P = None
    for piece in x.split(max(1, MAX_VALUES // num_starts)):
        t = np.arange(len(piece) + 1) * dataset.dt
        V, W = simulate(v, w, t, **dataset.parameters)
        prediction, P = predict_next(piece, _float32(V), noise_std, prior=P)
        predictions.append(prediction)
        v = V[-1]
        w = W[-1]
    return torch.cat(predictions), P, _float32(np.column_stack([v, w]))


def moments_of_two_paths(dataset, num_samples):
    """Follow a settled neuron from every moment of the two paths, MOMENT apart or less.

    dataset: a FitzhughNagumo, for its dt and its parameters.
    Returns V (num_samples, 2, moments), a view that takes no more memory than the paths
    themselves, and the moments in the plane of V and W, one path after the other:
    (2 * moments, 2).
    """
    moments_per_sample = math.ceil(dataset.dt / MOMENT)
    num_moments = round(PATH / dataset.dt * moments_per_sample)
    num_all = num_moments + moments_per_sample * num_samples
    # The first moments are early: some neurons settle sooner than others.
    t = SETTLED / 2 + np.arange(num_all) * dataset.dt / moments_per_sample
    V, W = simulate(*CORNERS, np.append(0.0, t), **dataset.parameters)
    V = _float32(V[1:].T)  # (2, num_all), contiguous in time: quick to read
    W = _float32(W[1:].T)
    points = torch.stack([V[:, :num_moments], W[:, :num_moments]], dim=-1)
    V_from_each = V.unfold(1, num_moments, moments_per_sample)[:, :num_samples]
    return V_from_each.transpose(0, 1), points.flatten(0, 1)


def hand_over(P, ends, moments):
    """Hand the probabilities P (N, num_starts) of starts on to moments of two paths.

    ends: (num_starts, 2), where each start has come to, in the plane of V and W.
    moments: (2 * moments, 2), all moments of one path, then all of the other.

    Each start gives its probability to the nearest moment. There are gaps between the
    starts: so a moment shares with its neighbours on the path, and none is ruled out.

    Returns a prior of the moments, (N, 2 * moments), as `weigh` takes it.
    """
    stretch = torch.tensor([1.0, W_STRETCH])
    _, nearest = KDTree(moments * stretch).query(ends * stretch)
    prior = torch.zeros(len(P), len(moments))
    prior.index_add_(1, torch.tensor(nearest), P)
    shared = torch.nn.functional.avg_pool1d(
        prior.unflatten(1, (2, -1)),  # (N, paths, moments)
        kernel_size=NUM_NEIGHBOURS,
        stride=1,
        padding=NUM_NEIGHBOURS // 2,
    )
    return shared.flatten(1) + DOUBT


def ideal_prediction(x, dataset, noise_std, num_starts=NUM_STARTS):
    """Predict the next V of noisy traces of a FitzhughNagumo dataset as well as can be.

    x: (T, N), V with noise of this standard deviation, sampled every dataset.dt from
    the start on. Returns (T, N). Raises ValueError if there is no noise.

    At first a neuron may have started anywhere: the hypotheses are as many neurons that
    did. Once they have settled, one number says all of a neuron: at which moment of the
    two paths it is. There the paths have more hypotheses, and so never a wide gap.
    """
    if not dataset.anywhere:
        # All start on one line and stay close together: a few will do to the end.
        prediction, _, _ = follow_starts(x, dataset, noise_std, num_starts // 10)
        return prediction

    T = len(x)
    settled = min(T, math.ceil(SETTLED / dataset.dt))
    early, P, ends = follow_starts(x[:settled], dataset, noise_std, num_starts)
    if settled == T:
        return early
    V, moments = moments_of_two_paths(dataset, T + 1 - settled)
    prior = hand_over(P, ends, moments)
    late, _ = predict_next(x[settled:], V, noise_std, prior)
    return torch.cat([early, late])


def _float32(values):
    return torch.tensor(np.ascontiguousarray(values, dtype=np.float32))


# ---- task 3: the class ----


def clean_windows(dataset, num_phases=1000):
    """Simulate each class without noise, from num_phases phases of its limit cycle.

    dataset: a FitzhughNagumoClassification whose traces start anywhere on the cycle.
    Returns (T, classes, num_phases) float32: what its windows could be.
    """
    windows = []
    for parameters, pace in zip(dataset.CLASSES.values(), dataset.paces):
        own_period = period(**parameters)
        phases = np.arange(num_phases) / num_phases
        begins = own_period * (2 + phases)  # after two periods to settle
        V, W = simulate(0.0, 0.0, np.append(0.0, begins), **parameters)
        t = pace * dataset.dt * np.arange(dataset.T)
        V_from_each, _ = simulate(V[1:, 0], W[1:, 0], t, **parameters)
        windows.append(_float32(V_from_each))
    return torch.stack(windows, dim=1)


def ideal_beliefs(data, windows, noise_std, batch_size=250):
    """The best that can be known of the class: its probability after every sample.

    data: (T, N, 1), noisy traces. windows: (T, classes, phases), what a trace of each
    class would be without noise, from each phase. A class is as likely as its phases
    are together.

    Returns (T, N, classes). Raises ValueError if data and windows differ in length.
    """
    T, num_classes, num_phases = windows.shape
    beliefs = torch.empty(T, data.shape[1], num_classes)
    for first in range(0, data.shape[1], batch_size):  # few traces stay in the cache
        part = slice(first, first + batch_size)
        for t, P in enumerate(weigh(data[:, part, 0], windows, noise_std)):
            beliefs[t, part] = P.unflatten(-1, (num_classes, num_phases)).sum(-1)
    return beliefs
