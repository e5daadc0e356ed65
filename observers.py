"""The ideal observer: the most that can be known from noisy samples by one who knows the equations and the noise.

It entertains many hypotheses, each of them a trace without noise, and weighs them by Bayes' rule as samples arrive.
Nothing is trained. Task 1 asks it for the next voltage, task 3 for the class.
"""

import math

import numpy as np
import torch

from datasets import FitzhughNagumo, simulate

CORNERS = (-3.0, 3.0), (2.5, -1.5)  # V(0) and W(0) in two corners of the box in which neurons start
SETTLED = 10.0  # time units after its start a neuron is on one of the two paths from these corners to the limit cycle
PATH = 220.0  # time units along a path until it has joined the limit cycle and gone round it once


def weigh(x, hypotheses, noise_std):
    """Yield P (N, M) after each sample of noisy traces x (N, T): how likely each of M hypotheses (T, M) has become.

    At first all are equally likely. Each sample x then counts for those whose V is near it:
    log P(hypothesis | x) = log P(hypothesis) - (x - V)² / 2σ² + constant.
    """
    log_likelihood = torch.zeros(len(x), hypotheses.shape[1])
    for x_t, V in zip(x.t(), hypotheses):
        log_likelihood -= (x_t[:, None] - V).square() / (2 * noise_std**2)
        likely = (log_likelihood - log_likelihood.amax(-1, keepdim=True)).clamp(min=-80)  # exp of less is slow
        yield likely.softmax(-1)


def predict_next(x, V, noise_std, batch_size=16):
    """Predict the next V of noisy traces x (N, T) from hypotheses V (T + 1, M): (N, T).

    The mean of the hypotheses, each weighed by its probability, has the least mean squared error that is possible.
    """
    parts = []
    for part in x.split(batch_size):  # few at a time stay in the cache
        parts.append(torch.stack([P @ V_next for P, V_next in zip(weigh(part, V, noise_std), V[1:])], dim=1))
    return torch.cat(parts)


def moments_of_two_paths(dataset, num_samples, step=0.05):
    """Follow a settled neuron from each moment, `step` time units apart, of the two paths: V, (num_samples, moments).

    dataset: a FitzhughNagumo, for its dt and its parameters.
    """
    stride = math.ceil(dataset.dt / step)
    num_moments = round(PATH / dataset.dt * stride)
    t = SETTLED / 2 + np.arange(num_moments + stride * num_samples) * dataset.dt / stride
    V, _ = simulate(*CORNERS, np.append(0.0, t), **dataset.parameters)
    V = torch.tensor(V[1:], dtype=torch.float32).unfold(0, num_moments, stride)  # (time, paths, moments)
    return V[:num_samples].flatten(1)


def ideal_prediction(x, dataset, noise_std, num_starts=10_000, num_early=50):
    """Predict the next V of noisy traces x (N, T) of a FitzhughNagumo dataset as well as can be: (N, T).

    At first a neuron may have started anywhere, and the hypotheses are as many neurons that did. But those drift apart
    in phase, and soon none is near. By then one number says all: at which moment of one of two paths a neuron is.
    """
    T, dt, settled = x.shape[1], dataset.dt, math.ceil(SETTLED / dataset.dt)
    early = min(T, max(num_early, settled))
    if not dataset.anywhere:  # the starts lie on a line: few are close together, and stay so
        num_starts, early = num_starts // 10, T
    settings = {"duration": early * dt, "anywhere": dataset.anywhere, "seed": 2**32}  # a seed that no run has
    starts = FitzhughNagumo(num_starts, early, **settings, **dataset.parameters)
    V = torch.cat([starts.data_x[:, :1], starts.data_y], dim=1)[..., 0].t()
    prediction = predict_next(x[:, :early], V, noise_std)
    if early == T:
        return prediction
    later = predict_next(x[:, settled:], moments_of_two_paths(dataset, T + 1 - settled), noise_std)
    return torch.cat([prediction, later[:, early - settled :]], dim=1)
