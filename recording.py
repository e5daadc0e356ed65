"""A recording of your own: check it, scale it, cut it into windows, and let a network run beside it.

V: mV, one sweep (T,), an array (sweeps, T) or a list of sweeps of any lengths. I: the current that was sent in, in the
same form, in any unit. dt: ms between two samples. docs/recording.md takes you through.
"""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from datasets import Traces, upward_crossings


def check(V, dt, I=None):
    """Return the sweeps in float64, (T, 1) or, with I, (T, 2). Raises ValueError for what would be wrong in silence."""
    dtype = np.asarray(V[0]).dtype
    if dtype == np.float16 or dtype.kind in "iu":
        raise ValueError(f"V is {dtype}: expected mV in float32 or float64 (counts of a converter times mV per count)")
    if not dt > 0.002:
        raise ValueError(f"dt = {dt:g}: expected ms, 1000 times the dt in s")
    V = _finite("V", V)
    low, high = min(map(np.min, V)), max(map(np.max, V))
    if low == high or not 1 < max(-low, high) < 1000 or np.median(np.concatenate(V)) > 0:
        raise ValueError(f"V lies between {low:.3g} and {high:.3g}: expected a membrane's voltage in mV")
    I = [sweep[:, :0] for sweep in V] if I is None else _finite("I", I)
    if list(map(len, V)) != list(map(len, I)):
        raise ValueError(f"V has sweeps of {[*map(len, V)]} samples, I of {[*map(len, I)]}: expected as many")
    return list(map(np.hstack, zip(V, I)))


def _finite(name, data):
    sweeps = [np.array(sweep, dtype=np.float64) for sweep in ([data] if np.ndim(data[0]) == 0 else data)]
    if len(sweeps) > len(sweeps[0]):
        raise ValueError(f"{name} has {len(sweeps):,} sweeps of {len(sweeps[0]):,} samples: transpose it, {name}.T")
    for k, sweep in enumerate(sweeps):
        if sweep.ndim != 1 or not len(sweep):
            raise ValueError(f"{name}, sweep {k} has shape {sweep.shape}: expected (T,)")
        if len(wrong := np.flatnonzero(~np.isfinite(sweep))):
            found = f"{len(wrong):,} of {len(sweep):,} values are not finite, the first is number {wrong[0]:,}"
            raise ValueError(f"{name}, sweep {k}: {found}; cut the sweep there, or fill a short gap with np.interp")
    return [sweep[:, None] for sweep in sweeps]


def scaling(V, dt, I=None):
    """Measure in the sweeps to train on what turns them into numbers of the order 1: a dict, saved with the weights.

    V_zero, which becomes 0, lies half-way between the median and the highest voltage, so that only spikes cross it.
    """
    data = np.concatenate(check(V, dt, I))
    V = data[:, 0]
    info = {"dt": dt, "V_zero": (np.median(V) + V.max()) / 2, "V_unit": V.std(), "V_low": V.min(), "V_high": V.max()}
    if I is None:
        return info
    if np.ptp(data[:, 1]) == 0:
        raise ValueError("I never changes: the network can learn nothing from it, leave it out")
    return info | {"I_zero": data[:, 1].mean(), "I_unit": data[:, 1].std()}


def scale(sweep, info):
    names = "VI"[: sweep.shape[1]]
    return (sweep - [info[f"{name}_zero"] for name in names]) / [info[f"{name}_unit"] for name in names]


def windows(V, info, length, hop, I=None):
    """Make Traces of windows of `length` steps, scaled, one every `hop` samples, none across the end of a sweep."""
    cut = []
    for k, sweep in enumerate(check(V, info["dt"], I)):
        if len(sweep) <= length:
            raise ValueError(
                f"sweep {k} has {len(sweep):,} samples: expected more than the {length:,} steps of a window"
            )
        cut.append(np.lib.stride_tricks.sliding_window_view(scale(sweep, info), length + 1, axis=0)[::hop])
    V, *I = np.concatenate(cut).transpose(1, 2, 0)  # each (length + 1, N)
    return Traces(V, info["dt"], *I)


@torch.no_grad()
def free_run(model, V, warm_up, I=None):
    """Show a network the first `warm_up` samples of each sweep, then let it run on alone, told I; return a list of mV.

    What runs off, by more than half of the range of the sweeps trained on, is clipped, and it is said.
    """
    sweeps, info, runs, outside = check(V, model.info["dt"], I), model.info, [], 0
    if not 0 < warm_up < min(map(len, sweeps)):
        raise ValueError(f"warm_up = {warm_up:,}: expected fewer than the {min(map(len, sweeps)):,} samples of a sweep")
    x = pad_sequence([torch.tensor(scale(sweep, info), dtype=torch.float32) for sweep in sweeps]).to(model.device)
    states, readouts = model(x[:warm_up])
    H, Y = states[-1], readouts[-1]
    for X in x[warm_up:]:  # (N, 1 or 2), a view: what is written here stays
        X[:, :1] = Y
        H, Y = model.single_step(X, H)
    reach = (info["V_high"] - info["V_low"]) / 2
    for k, sweep in enumerate(sweeps):
        V = info["V_zero"] + info["V_unit"] * x[: len(sweep), k, 0].double().cpu().numpy()
        runs.append(V.clip(info["V_low"] - reach, info["V_high"] + reach))
        outside += (runs[k] != V).any()
    if outside:
        print(f"{outside} of {len(runs)} free runs go far beyond the recording's range: clipped")
    return runs


def spike_times(sweeps, info):
    """When each of the sweeps, a list of mV, crosses V_zero upwards: a list of arrays, in ms."""
    return [upward_crossings(sweep - info["V_zero"], info["dt"]) for sweep in sweeps]
