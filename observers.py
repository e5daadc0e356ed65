"""The ideal observer: the most that can be known from noisy samples by one who knows the equations and the noise.

It entertains many hypotheses, each of them a trace without noise, and weighs them by Bayes' rule as samples arrive.
Nothing is trained. Task 1 asks it for the next voltage, task 3 for the class.
"""

import math

import numpy as np
import torch
from scipy.spatial import KDTree

from datasets import ANYWHERE, FitzhughNagumo, simulate

CORNERS = ANYWHERE[0], ANYWHERE[1][::-1]  # V(0) and W(0) in two corners of the box in which neurons start
SETTLED = 20.0  # time units after its start a neuron is on one of the two paths from these corners to the limit cycle
PATH = 220.0  # time units along a path until it has joined the limit cycle and gone round it once


def weigh(x, hypotheses, noise_std, prior=None):
    """Yield P (N, M) after each sample of noisy traces x (N, T): how likely each of M hypotheses (T, M) has become.

    prior: P before the first sample; if not given, all are equally likely. Each sample x counts for those whose V is
    near it: log P(hypothesis | x) = log P(hypothesis) - (x - V)² / 2σ² + constant.
    """
    log_P = torch.zeros(len(x), hypotheses.shape[1]) if prior is None else prior.log()
    for x_t, V in zip(x.t(), hypotheses):
        log_P -= (x_t[:, None] - V).square() / (2 * noise_std**2)
        likely = (log_P - log_P.amax(-1, keepdim=True)).clamp(min=-80)  # exp of less is slow
        yield likely.softmax(-1)


def predict_next(x, V, noise_std, prior=None, batch_size=16):
    """Predict the next V of noisy traces x (N, T) from hypotheses V (T + 1, M): (N, T). Also returns the last P (N, M).

    The mean of the hypotheses, each weighed by its probability, has the least mean squared error that is possible.
    """
    prediction, last = torch.empty_like(x), torch.empty(len(x), V.shape[1])
    for part in torch.arange(len(x)).split(batch_size):  # few at a time stay in the cache
        for t, P in enumerate(weigh(x[part], V, noise_std, None if prior is None else prior[part])):
            prediction[part, t] = P @ V[t + 1]
        last[part] = P
    return prediction, last


def moments_of_two_paths(dataset, num_samples, step=0.05):
    """Follow a settled neuron from each moment of the two paths, `step` time units apart.

    dataset: a FitzhughNagumo, for its dt and its parameters. Returns V (num_samples, moments), and W at the first one.
    """
    stride = math.ceil(dataset.dt / step)
    num_moments = round(PATH / dataset.dt * stride)
    t = SETTLED / 2 + np.arange(num_moments + stride * num_samples) * dataset.dt / stride
    V, W = (torch.tensor(Q[1:]).float() for Q in simulate(*CORNERS, np.append(0.0, t), **dataset.parameters))
    return V.unfold(0, num_moments, stride)[:num_samples].flatten(1), W[:num_moments].t().flatten()


def ideal_prediction(x, dataset, noise_std, num_starts=20_000):
    """Predict the next V of noisy traces x (N, T) of a FitzhughNagumo dataset as well as can be: (N, T).

    At first a neuron may have started anywhere: the hypotheses are as many neurons that did. Once they have settled,
    one number says all of a neuron: at which moment of the two paths it is. There the paths have more hypotheses, and
    so never a wide gap; each start hands its probability on to the moments around the nearest one.
    """
    T, dt, settled = x.shape[1], dataset.dt, min(x.shape[1], math.ceil(SETTLED / dataset.dt))
    if not dataset.anywhere:  # all start on one line and stay close together: a few will do to the end
        settled, num_starts = T, num_starts // 10
    settings = {"duration": (settled + 1) * dt, "anywhere": dataset.anywhere, "seed": 2**32}  # a seed that no run has
    starts = FitzhughNagumo(num_starts, settled + 1, **settings, **dataset.parameters)
    prediction, P = predict_next(x[:, :settled], starts.data_x[..., 0].t(), noise_std)
    if settled == T:
        return prediction
    V, W = moments_of_two_paths(dataset, T + 1 - settled)
    ends = np.column_stack([starts.data_x[:, -1, 0], 5 * starts.data_w[:, -1, 0]])  # V spans five times as much as W
    nearest = torch.tensor(KDTree(np.column_stack([V[0], 5 * W])).query(ends)[1])
    prior = torch.zeros(len(x), len(W)).index_add_(1, nearest, P).unflatten(1, (2, -1))  # (N, paths, moments)
    prior = torch.nn.functional.avg_pool1d(prior, 21, stride=1, padding=10).flatten(1) + 1e-6
    return torch.cat([prediction, predict_next(x[:, settled:], V, noise_std, prior)[0]], dim=1)
