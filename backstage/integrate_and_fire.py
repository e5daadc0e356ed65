"""An integrate-and-fire neuron, fitted to sweeps: what a network has to beat.

Its voltage leaks towards rest and adds up the current,

    V[t + 1] = keep V[t] + by_current I[t] + towards,

and above `threshold` it spikes, pauses, and goes on from `reset`. Six numbers, and no
memory of earlier spikes. Source: Gerstner et al., Neuronal Dynamics
(2014), chapter 1, https://neuronaldynamics.epfl.ch
"""

from typing import NamedTuple

import numpy as np

from backstage.sweeps import num_wrong

BEFORE_SPIKE = 2.0  # ms in which a spike's upstroke begins, which it does not have
AFTER_SPIKE = 5.0  # ms until it is over
NUM_THRESHOLDS = 100


class IntegrateAndFire(NamedTuple):
    """Voltages in mV, the current in its own unit, the pause in samples."""

    keep: float
    by_current: float
    towards: float
    reset: float
    threshold: float
    pause: int


def fit(V, I, spikes, dt, first, highest, tolerance):
    """Fit an IntegrateAndFire to sweeps; None if they have no spike.

    V, I: lists of (T,). spikes: the times (ms) of each sweep's, after its sample
    `first`. Between spikes the leak is fitted by least squares. It goes on from the
    lowest voltage after a spike, when that is reached. The threshold is that of many,
    up to `highest` mV, with which fewest spikes are wrong.
    """
    if sum(len(times) for times in spikes) == 0:
        return None
    inputs = []
    targets = []
    lowest = []  # voltages after spikes
    pauses = []  # samples until there
    for voltage, current, times in zip(V, I, spikes):
        is_quiet = np.ones(len(voltage), dtype=bool)
        # which spikes came before is not known
        is_quiet[: first + round(AFTER_SPIKE / dt)] = False
        for spike in times:
            begin = max(0, round((spike - BEFORE_SPIKE) / dt))
            end = round((spike + AFTER_SPIKE) / dt)
            is_quiet[begin:end] = False
            after = voltage[int(spike / dt) + 1 : end + 1]
            lowest.append(after.min())
            pauses.append(after.argmin())
        kept = is_quiet[:-1] & is_quiet[1:]
        columns = [voltage[:-1], current[:-1], np.ones(len(kept))]
        inputs.append(np.column_stack(columns)[kept])
        targets.append(voltage[1:][kept])
    leak, *_ = np.linalg.lstsq(np.concatenate(inputs), np.concatenate(targets))
    reset = np.median(lowest)
    pause = int(np.median(pauses))

    best = None
    fewest = np.inf
    for threshold in np.linspace(reset, highest, NUM_THRESHOLDS + 1)[1:]:
        candidate = IntegrateAndFire(*leak, reset, threshold, pause)
        wrong = 0
        for voltage, current, times in zip(V, I, spikes):
            fired = fire(candidate, voltage[first - 1], current, dt, first)
            wrong += num_wrong(times, fired, tolerance)
        if wrong < fewest:
            best = candidate
            fewest = wrong
    return best


def fire(neuron, before, I, dt, first):
    """When an IntegrateAndFire spikes from sample `first` on, in ms.

    before: its voltage at the sample before. I: the current (T,).
    """
    times = []
    voltage = before
    silent_until = first
    for t, current in enumerate(I[first - 1 : -1].tolist(), start=first):
        voltage = neuron.keep * voltage + neuron.by_current * current + neuron.towards
        if t < silent_until:
            voltage = neuron.reset
        elif voltage > neuron.threshold:
            times.append(t * dt)
            voltage = neuron.reset
            silent_until = t + 1 + neuron.pause
    return np.array(times)
