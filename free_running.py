"""Task 2's judge: a network runs freely, and is judged by its dynamics.

A free run may be right in everything and a little late. So what is compared is not
samples but spikes: their period, and for how long they come at the right time.
"""

from typing import NamedTuple

import numpy as np
import torch

from datasets import upward_crossings

IN_PHASE = 0.05  # of a period: a spike that is off by more is out of phase


@torch.no_grad()
def run_freely(model, first, num):
    """Show a network the samples `first` (warm_up, N, 1), then let it go on alone.

    Returns the `num` samples that it generates (num, N, 1), on the CPU, and all its
    states (warm_up + num, N, num_hiddens): states[warm_up + k] has seen sample k.
    """
    states, readouts = model(first.to(model.device), future=num)
    return readouts[len(first) - 1 : -1].cpu(), states


class Comparison(NamedTuple):
    """How well the spikes of a generated trace are those of the true one."""

    period_error: float  # relative
    periods_in_phase: float  # until a spike is out of phase or missing
    drift: float  # of the last spike, in periods; 1 if it is missing


def compare_spikes(true, generated, dt):
    """Compare two traces (T,); return a Comparison.

    A true trace of less than two spikes has no period: then all is wrong.
    """
    true_times = upward_crossings(true, dt)
    times = upward_crossings(generated, dt)
    if len(true_times) < 2:
        return Comparison(period_error=1.0, periods_in_phase=0.0, drift=1.0)
    period = np.diff(true_times).mean()
    true_times, times = without_border(true_times, times, period)
    shared = min(len(times), len(true_times))
    drift = (times[:shared] - true_times[:shared]) / period
    end = len(true) * dt
    missing = has_missing(true_times, drift, period, end)

    out_of_phase = true_times[:shared][abs(drift) > IN_PHASE]
    if len(out_of_phase) > 0:
        in_phase_until = out_of_phase[0]
    elif missing:
        in_phase_until = true_times[shared]
    else:
        in_phase_until = end
    return Comparison(
        period_error=period_error(times, period),
        periods_in_phase=in_phase_until / period,
        drift=1.0 if missing else abs(drift[-1]),
    )


def without_border(true_times, times, period):
    """Drop a first spike that may have come just before the other trace began."""
    if len(times) == 0 or abs(times[0] - true_times[0]) <= period / 2:
        return true_times, times
    border = IN_PHASE * period
    if true_times[0] < border:
        true_times = true_times[1:]
    if times[0] < border:
        times = times[1:]
    return true_times, times


def period_error(times, period):
    """The relative error of the mean interval between spikes; 1 if there is none."""
    if len(times) < 2:
        return 1.0
    return abs(np.diff(times).mean() / period - 1)


def has_missing(true_times, drift, period, end):
    """Whether a true spike has no counterpart, although there was time for it.

    drift: of the spikes that have one. A spike that is late may come after the end.
    """
    if len(drift) == len(true_times):
        return False
    late = 0.0
    if len(drift) > 0:
        late = max(0.0, drift[-1])
    return true_times[len(drift)] < end - (IN_PHASE + late) * period


def judge(true, generated, dt):
    """Judge generated voltages by the true ones, both (T, N, 1): flat metrics.

    Medians over trajectories, but for min and max. period_error and amplitude_error
    are relative; share_in_phase is that of trajectories whose last spike is in phase;
    phase_drift is that of the last spike, in periods.
    """
    true = true[..., 0].double().numpy()
    V = generated[..., 0].double().numpy()
    pairs = zip(true.T, V.T)
    comparisons = [compare_spikes(one, other, dt) for one, other in pairs]
    errors, in_phase, drift = np.array(comparisons).T
    amplitude = np.ptp(V, axis=0) / np.ptp(true, axis=0)
    return {
        "period_error": float(np.median(errors)),
        "amplitude_error": float(np.median(abs(amplitude - 1))),
        "periods_in_phase": float(np.median(in_phase)),
        "periods_in_phase_min": float(in_phase.min()),
        "share_in_phase": float(np.mean(drift <= IN_PHASE)),
        "phase_drift": float(np.median(drift)),
        "phase_drift_max": float(drift.max()),
    }
