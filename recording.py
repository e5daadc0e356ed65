"""A recording of your own: check it, scale it, cut it, let a network run beside it.

V: voltages in mV: one sweep (T,), an array (sweeps, T), or a list of sweeps of any
    lengths.
I: the current that was sent in, in the same form and in any unit, if the network is
    told.
dt: ms between two samples.
docs/recording.md takes you through.
"""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from datasets import Traces, upward_crossings

# What a membrane's recording can be, so that other units are noticed
SHORTEST_DT = 0.002  # ms; a dt in s is shorter
LONGEST_DT = 10.0  # ms; with a longer one most spikes fall between two samples
SMALLEST_PEAK = 1.0  # mV, whatever its sign; volts are smaller
LARGEST_PEAK = 1000.0  # mV; µV and counts are larger

# ---- before training ----


def check(V, dt, I=None):
    """Return the sweeps in float64, a list of (T, 1) or, with I, of (T, 2): V and I.

    Raises ValueError for what would be wrong in silence: another unit, too coarse
    numbers, values that are not finite, wrong axes, an I that does not belong to V.
    """
    if not SHORTEST_DT < dt < LONGEST_DT:
        raise ValueError(f"dt = {dt:g}: expected ms, 1000 times the dt in s")
    voltages = separate("V", V)
    check_millivolts(voltages)
    if I is None:
        return [voltage[:, None] for voltage in voltages]
    currents = separate("I", I)
    V_lengths = [len(voltage) for voltage in voltages]
    I_lengths = [len(current) for current in currents]
    if V_lengths != I_lengths:
        raise ValueError(
            f"V has sweeps of {V_lengths} samples, I of {I_lengths}: expected as many"
        )
    return [np.column_stack(pair) for pair in zip(voltages, currents)]


def separate(name, data):
    """Make of V or of I, whichever `name` says, a list of sweeps (T,) in float64."""
    if len(data) == 0:
        raise ValueError(f"{name} is empty: expected at least one sweep")
    if np.ndim(data[0]) == 0:  # a number: this is one sweep
        data = [data]
    sweeps = []
    for k, sweep in enumerate(data):
        sweep = np.asarray(sweep)
        if sweep.ndim != 1 or len(sweep) == 0:
            raise ValueError(
                f"{name}, sweep {k} has shape {sweep.shape}: expected (T,)"
            )
        check_type(name, sweep.dtype)
        sweeps.append(sweep.astype(np.float64))
    longest = max(len(sweep) for sweep in sweeps)
    if len(sweeps) > longest:
        raise ValueError(
            f"{name} has {len(sweeps):,} sweeps of {longest:,} samples: transpose it, "
            f"{name}.T"
        )
    for k, sweep in enumerate(sweeps):
        check_finite(f"{name}, sweep {k}", sweep)
    return sweeps


def check_type(name, dtype):
    if dtype == np.float16:  # three digits
        raise ValueError(f"{name} is {dtype}: expected float32 or float64")
    if name == "V" and dtype.kind in "iu":
        raise ValueError(
            f"V is {dtype}: expected mV in float32 or float64 (counts of a converter "
            "times mV per count)"
        )


def check_finite(name, sweep):
    wrong = np.flatnonzero(~np.isfinite(sweep))
    if len(wrong) > 0:
        raise ValueError(
            f"{name}: {len(wrong):,} of {len(sweep):,} values are not finite, the "
            f"first is number {wrong[0]:,}; cut the sweep there, or fill a short gap "
            "with np.interp"
        )


def check_millivolts(voltages):
    samples = np.concatenate(voltages)
    low = samples.min()
    high = samples.max()
    is_flat = low == high
    is_in_range = SMALLEST_PEAK < max(-low, high) < LARGEST_PEAK
    is_upside_down = np.median(samples) > 0
    if is_flat or not is_in_range or is_upside_down:
        raise ValueError(
            f"V lies between {low:.3g} and {high:.3g}: expected a membrane's voltage "
            "in mV"
        )


def scaling(V, dt, I=None):
    """Measure what turns the sweeps to train on into numbers of the order 1.

    Returns a dict, to be saved with the weights and to be found again in model.info:
    dt: as given
    V_zero: what becomes 0, half-way between the median and the highest voltage, so
        that only spikes cross it
    V_unit: what becomes 1, the standard deviation
    V_low, V_high: the lowest and the highest voltage
    I_zero, I_unit: mean and standard deviation of I, if it is given
    Raises ValueError if I never changes, and as `check` does.
    """
    samples = np.concatenate(check(V, dt, I))
    voltage = samples[:, 0]
    info = {
        "dt": float(dt),
        "V_zero": float((np.median(voltage) + voltage.max()) / 2),
        "V_unit": float(voltage.std()),
        "V_low": float(voltage.min()),
        "V_high": float(voltage.max()),
    }
    if I is None:
        return info
    current = samples[:, 1]
    if current.min() == current.max():
        raise ValueError(
            "I never changes: the network can learn nothing from it, leave it out"
        )
    info["I_zero"] = float(current.mean())
    info["I_unit"] = float(current.std())
    return info


def scale(sweep, info):
    """Turn a sweep of `check` (T, 1 or 2) into numbers of the order 1."""
    scaled = np.empty_like(sweep)
    scaled[:, 0] = (sweep[:, 0] - info["V_zero"]) / info["V_unit"]
    is_told = sweep.shape[1] == 2
    if is_told:
        scaled[:, 1] = (sweep[:, 1] - info["I_zero"]) / info["I_unit"]
    return scaled


def windows(V, info, length, hop, I=None):
    """Cut sweeps into Traces of `length` steps, scaled, one every `hop` samples.

    No window goes across the end of a sweep. Raises ValueError for a sweep that is
    shorter than a window, and as `check` does.
    """
    num_samples = length + 1  # the last one is a target alone
    cut = []
    for k, sweep in enumerate(check(V, info["dt"], I)):
        if len(sweep) < num_samples:
            raise ValueError(
                f"sweep {k} has {len(sweep):,} samples: expected more than the "
                f"{length:,} steps of a window"
            )
        scaled = scale(sweep, info)
        for start in range(0, len(sweep) - length, hop):
            cut.append(scaled[start : start + num_samples])
    cut = np.stack(cut, axis=1)  # (length + 1, N, 1 or 2)
    if I is None:
        return Traces(cut[..., 0], info["dt"])
    return Traces(cut[..., 0], info["dt"], cut[..., 1])


# ---- after it ----


@torch.no_grad()
def free_run(model, V, warm_up, I=None):
    """Show a network `warm_up` samples of each sweep; let it run on alone, told I.

    model.info: that of `scaling`. Returns a list of voltages (T,) in mV, the warm-up
    included. What runs off, by more than half of the range of the sweeps trained on,
    is clipped, and it is said.
    Raises ValueError if there are no samples after the warm-up, and as `check` does.
    """
    info = model.info
    sweeps = check(V, info["dt"], I)
    shortest = min(len(sweep) for sweep in sweeps)
    if not 0 < warm_up < shortest:
        raise ValueError(
            f"warm_up = {warm_up:,}: expected at least 1, and fewer than the "
            f"{shortest:,} samples of a sweep"
        )
    scaled = [torch.tensor(scale(sweep, info)) for sweep in sweeps]
    # short sweeps are filled with zeros: all run side by side, as long as the longest
    inputs = pad_sequence(scaled).to(model.W_hh)
    voltages = run_on(model, inputs, warm_up).double().cpu().numpy()
    runs = []
    for k, sweep in enumerate(sweeps):
        runs.append(info["V_zero"] + info["V_unit"] * voltages[: len(sweep), k])
    return clip(runs, info)


def run_on(model, inputs, warm_up):
    """Replace the V of inputs (T, N, 1 or 2) after the warm-up by what a network makes.

    Returns V (T, N), scaled.
    """
    states, readouts = model(inputs[:warm_up])
    H = states[-1]
    V = readouts[-1]
    generated = []
    for current in inputs[warm_up:, :, 1:]:  # (N, 1), or (N, 0) if it is not told
        generated.append(V)
        X = torch.cat([V, current], dim=-1)
        H, V = model.single_step(X, H)
    shown = inputs[:warm_up, :, :1]
    return torch.cat([shown, torch.stack(generated)])[..., 0]


def clip(runs, info):
    """Clip free runs in mV that go far beyond the sweeps trained on, and say so."""
    margin = (info["V_high"] - info["V_low"]) / 2
    lowest = info["V_low"] - margin
    highest = info["V_high"] + margin
    num_outside = 0
    for run in runs:
        is_inside = (lowest <= run) & (run <= highest)  # False for NaN, too
        if not is_inside.all():
            num_outside += 1
    if num_outside > 0:
        print(
            f"{num_outside} of {len(runs)} free runs go far beyond the recording's "
            "range: clipped"
        )
    return [run.clip(lowest, highest) for run in runs]


def spike_times(sweeps, info):
    """When each of the sweeps, a list of mV (T,), spikes: a list of arrays, in ms.

    A spike crosses V_zero upwards.
    """
    return [upward_crossings(sweep - info["V_zero"], info["dt"]) for sweep in sweeps]
