"""A recording of your own: check it, hold a part out, train on the rest, and judge.

V: voltages in mV: one sweep (T,), an array (sweeps, T), or a list of sweeps of any
    lengths. A Series of pandas is a sweep, too.
I: the current that was sent in, in the same form and in any unit, if the network is
    told; else None, or [].
dt: ms between two samples.
docs/recording.md takes you through.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from scipy.signal import fftconvolve
from torch.nn.utils.rnn import pad_sequence

from backstage import integrate_and_fire
from backstage.sweeps import (
    arrange,
    coincidence,
    is_given,
    middle,
    num_wrong,
    spike_width,
    upstrokes,
)
from datasets import Traces

# What a step costs on one core, for a batch or for all sweeps together
SECONDS_PER_STEP = 35e-6  # in training
SECONDS_PER_FREE_STEP = 85e-6

# ---- what is held out ----


class Sweeps(NamedTuple):
    """Some sweeps of a recording, as lists."""

    V: list  # of (T,)
    I: list | None  # of (T,), alike
    numbers: list  # which of all sweeps they are


def thin(sweep, every):
    """The means of every `every` samples of a sweep (T,): (T // every,).

    A few samples may be left over at the end.
    """
    end = len(sweep) // every * every
    return np.reshape(sweep[:end], (-1, every)).mean(axis=1)


def hold_out(V, dt, I, held_out):
    """Divide a recording into Sweeps to train on and Sweeps held out.

    held_out: the numbers of these sweeps, counted from 0. Of a single sweep the last
    quarter is held out. Prints a note if what is held out is not new, or is beyond all
    that is trained on.
    Raises ValueError for a number that no sweep has, if nothing is left, and as `check`
    does.
    """
    sweeps = arrange(V, dt, I)
    held_out = np.atleast_1d(held_out).tolist()  # 3 is [3]
    if len(sweeps) == 1:
        print("note: one sweep: its last quarter is held out, as sweep 1")
        end = len(sweeps[0]) * 3 // 4
        sweeps = [sweeps[0][:end], sweeps[0][end:]]
        held_out = [1]
    numbers = range(len(sweeps))
    if not set(held_out) <= set(numbers):
        raise ValueError(
            f"held_out = {held_out}: expected sweeps from 0 to {numbers[-1]}"
        )
    if not 0 < len(set(held_out)) < len(sweeps):
        raise ValueError(
            f"held_out = {held_out}: expected at least one sweep, and one to train on"
        )
    train = pick(sweeps, [k for k in numbers if k not in held_out])
    test = pick(sweeps, [k for k in numbers if k in held_out])
    for note in held_out_notes(train, test, dt):
        print(f"note: {note}")
    return train, test


def pick(sweeps, numbers):
    """Make Sweeps of some of the sweeps of `arrange`."""
    V = [sweeps[k][:, 0] for k in numbers]
    I = None
    is_told = sweeps[0].shape[1] == 2
    if is_told:
        I = [sweeps[k][:, 1] for k in numbers]
    return Sweeps(V, I, numbers)


def held_out_notes(train, test, dt):
    """What a score of the held-out sweeps cannot say: a list of sentences."""
    notes = []
    voltages = np.concatenate(train.V)
    low = voltages.min()
    high = voltages.max()
    level = middle(voltages)
    width = spike_width(train.V, dt)
    if width < 1.1 * dt:
        notes.append(f"spikes are hardly wider than a sample ({dt:g} ms): thin less")
    for k, number in enumerate(test.numbers):
        name = f"held-out sweep {number}"
        is_beyond = (test.V[k] < low) | (test.V[k] > high)
        if is_beyond.mean() > 0.01:
            notes.append(
                f"{name}: {100 * is_beyond.mean():.0f} % of its V lies outside "
                f"{low:.4g} to {high:.4g} mV, which is trained on: a guess"
            )
        notes += drift(name, test.V[k], train.V)
        if len(upstrokes(test.V[k], level, dt)) == 0:
            notes.append(f"{name} has no spike: no score will say anything of spikes")
        if test.I is not None:
            notes += notes_on_current(name, test.I[k], train.I, dt)
    return notes


def drift(name, voltage, train_V, largest=2.0):
    """Note it if the median of V is `largest` mV outside those of what is trained on.

    These are of halves of sweeps: what drifts has another median in its second half.
    """
    medians = []
    for sweep in train_V:
        medians += [np.median(half) for half in np.array_split(sweep, 2)]
    low = min(medians)
    high = max(medians)
    median = np.median(voltage)
    if low - largest <= median <= high + largest:
        return []
    return [
        f"{name}: half of its V lies below {median:.3g} mV; in training that is "
        f"{low:.3g} to {high:.3g}: a drift, or another current?"
    ]


def notes_on_current(name, current, train_I, dt):
    """What is not new in a held-out current (T,), or beyond those trained on."""
    match = closest(current, train_I)
    if match is not None and match.is_same:
        return [f"{name}: its current occurs in training, so that it is not new"]
    current = smooth(current, dt)
    others = [smooth(other, dt) for other in train_I]
    notes = []
    beyond = describe_beyond(current, np.concatenate(others))
    if beyond is not None:
        notes.append(f"{name}: its current reaches {beyond}: a guess")
    changes = np.concatenate([change_in(other, dt) for other in others])
    beyond = describe_beyond(change_in(current, dt), changes)
    if beyond is not None:
        notes.append(f"{name}: its current changes by {beyond}: a guess")
    return notes


def smooth(current, dt, duration=5.0):
    """Means over `duration` ms, so that an electrode's noise does not count."""
    return uniform_filter1d(current, max(1, round(duration / dt)), mode="nearest")


def change_in(current, dt, duration=10.0):
    """How much a current (T,) changes within `duration` ms."""
    lag = min(len(current) - 1, max(1, round(duration / dt)))
    return current[lag:] - current[:-lag]


def describe_beyond(values, trained, share=0.1):
    """Which of the values lies beyond those trained on, by a `share` of their range.

    Returns None, or words.
    """
    low = trained.min()
    high = trained.max()
    margin = share * (high - low)
    if values.max() > high + margin:
        farthest = values.max()
    elif values.min() < low - margin:
        farthest = values.min()
    else:
        return None
    # what is far below the largest is the rounding of a zero
    unit = 1e-4 * max(abs(low), abs(high), abs(farthest))
    low, high, farthest = (unit * round(x / unit) for x in (low, high, farthest))
    return f"{farthest:.3g} (in training {low:.3g} to {high:.3g})"


class Match(NamedTuple):
    """The stretch of other sweeps whose current is closest to one."""

    sweep: int  # its place among the others
    begin: int  # the sample
    length: int
    is_same: bool


def closest(current, others, tolerance=0.02):
    """Find the Match of a current (T,) among sweeps of at least 0.8 T samples.

    A shorter one is compared with the current's beginning. The same: their root mean
    squared distance is below `tolerance` of all currents' standard deviation, noise
    smoothed. Returns None if no sweep is long enough.
    """
    samples = np.concatenate([current, *others])
    margin = min(25, len(current) // 4)  # at the ends there is less to smooth over
    smoothed = uniform_filter1d(current - samples.mean(), 2 * margin)
    nearest = None
    least = math.inf
    for k, other in enumerate(others):
        length = min(len(current), len(other))
        if length < 0.8 * len(current):
            continue
        wanted = smoothed[margin : length - margin]
        other = uniform_filter1d(other - samples.mean(), 2 * margin)
        other = other[margin : len(other) - margin]
        # |other - wanted|² at every place, by its three terms
        products = fftconvolve(other, wanted[::-1], mode="valid")
        squares = fftconvolve(other**2, np.ones(len(wanted)), mode="valid")
        distances = (squares - 2 * products + np.sum(wanted**2)) / len(wanted)
        begin = int(distances.argmin())
        if distances[begin] < least:
            least = distances[begin]
            is_same = bool(least <= (tolerance * samples.std()) ** 2)
            nearest = Match(k, begin, length, is_same)
    return nearest


# ---- training ----


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
    samples = np.concatenate(arrange(V, dt, I))
    voltage = samples[:, 0]
    info = {
        "dt": float(dt),
        "V_zero": float(middle(voltage)),
        "V_unit": float(voltage.std()),
        "V_low": float(voltage.min()),
        "V_high": float(voltage.max()),
    }
    if not is_given(I):
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
    """Turn a sweep of `arrange` (T, 1 or 2) into numbers of the order 1."""
    scaled = np.empty_like(sweep)
    scaled[:, 0] = (sweep[:, 0] - info["V_zero"]) / info["V_unit"]
    is_told = sweep.shape[1] == 2
    if is_told:
        scaled[:, 1] = (sweep[:, 1] - info["I_zero"]) / info["I_unit"]
    return scaled


def check_step(dt, info):
    """Raise ValueError if sweeps have another time step than the network's `info`."""
    if not math.isclose(dt, info["dt"], rel_tol=0.02):
        raise ValueError(
            f"dt = {dt:g} ms, but the network was trained with {info['dt']:g}: thin "
            "the sweeps alike"
        )


def windows(V, dt, info, length, hop, I=None):
    """Cut sweeps into Traces of `length` steps, scaled, one every `hop` samples.

    No window goes across the end of a sweep. Raises ValueError for a sweep that is
    shorter than a window, if dt is not that of `info`, and as `check` does.
    """
    check_step(dt, info)
    num_samples = length + 1  # the last one is a target alone
    cut = []
    for k, sweep in enumerate(arrange(V, dt, I)):
        if len(sweep) < num_samples:
            raise ValueError(
                f"sweep {k} has {len(sweep):,} samples: expected more than the "
                f"{length:,} steps of a window"
            )
        scaled = scale(sweep, info)
        for start in range(0, len(sweep) - length, hop):
            cut.append(scaled[start : start + num_samples])
    cut = np.stack(cut, axis=1)  # (length + 1, N, 1 or 2)
    if not is_given(I):
        return Traces(cut[..., 0], dt)
    return Traces(cut[..., 0], dt, cut[..., 1])


def announce(train_set, V, num_epochs, batch_size):
    """Say how many windows there are, and how long a training of the page takes.

    train_set: of `windows`, cut from the sweeps V. In a quarter of the epochs it runs
    freely through these. Returns the minutes, about.
    """
    num_windows = len(train_set)
    length = len(train_set.data_x)
    num_batches = math.ceil(num_windows / batch_size)
    longest = max(len(voltage) for voltage in V)
    training = num_epochs * num_batches * length * SECONDS_PER_STEP
    running = num_epochs / 4 * longest * SECONDS_PER_FREE_STEP
    minutes = (training + running) / 60
    print(f"{num_windows} windows of {length:,} steps, about {minutes:.1g} minutes")
    if num_windows < 50:
        print("note: expected about a hundred windows: a smaller hop makes more")
    if minutes > 2:
        print("note: a larger `every`, or V and I cut, shorten it in proportion")
    return minutes


# ---- after it ----


@torch.no_grad()
def free_run(model, V, dt, warm_up, I=None, quiet=False):
    """Show a network `warm_up` samples of each sweep; let it run on alone, told I.

    model.info: that of `scaling`. Returns a list of voltages (T,) in mV, the warm-up
    included: these samples are not the network's. What runs off, by more than half of
    the range of the sweeps trained on, is clipped, and it is said unless `quiet`.
    Raises ValueError if there are no samples after the warm-up, if dt is not the
    network's, and as `check` does.
    """
    info = model.info
    check_step(dt, info)
    sweeps = arrange(V, dt, I)
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
    num_off = sum(ran_off(run, info) for run in runs)
    if num_off > 0 and not quiet:
        print(
            f"{num_off} of {len(runs)} free runs go far beyond the recording's range: "
            "clipped"
        )
    lowest, highest = limits(info)
    return [run.clip(lowest, highest) for run in runs]


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


def limits(info):
    """The lowest and the highest voltage (mV) at which a free run has not run off."""
    margin = (info["V_high"] - info["V_low"]) / 2
    return info["V_low"] - margin, info["V_high"] + margin


def ran_off(run, info):
    """Whether a free run (T,) in mV, clipped or not, left the limits."""
    lowest, highest = limits(info)
    is_inside = (lowest < run) & (run < highest)  # False for NaN, too
    return not is_inside.all()


def spike_times(sweeps, info, warm_up=0):
    """When each of the sweeps, a list of mV (T,), spikes: a list of arrays, in ms.

    A spike crosses V_zero upwards, after `warm_up` samples. It rises by SPIKE_RISE
    within RISE_TIME, so that a cell that never fires has none.
    """
    found = []
    for sweep in sweeps:
        times = upstrokes(sweep, info["V_zero"], info["dt"])
        # the sample before the first that is the network's is the last one shown
        found.append(times[times > (warm_up - 1) * info["dt"]])
    return found


# ---- the judge ----


def wrong_spikes(model, V, dt, warm_up, I=None, tolerance=2.0):
    """How many spikes of free runs through sweeps are wrong, as `num_wrong` counts."""
    # early in training many run off: that is no news
    runs = free_run(model, V, dt, warm_up, I, quiet=True)
    voltages = [sweep[:, 0] for sweep in arrange(V, dt, I)]
    cell = spike_times(voltages, model.info, warm_up)
    network = spike_times(runs, model.info, warm_up)
    wrong = 0
    for true_times, times in zip(cell, network):
        wrong += num_wrong(true_times, times, tolerance)
    return wrong


def chance(true_times, times, tolerance):
    """The coincidence of the same spikes at the wrong time.

    They are all shifted by one to three of the cell's mean intervals, forwards and
    backwards: the rates stay, the times do not. nan if there is no interval.
    """
    if len(true_times) < 2:
        return math.nan
    interval = np.diff(true_times).mean()
    shifts = interval * np.linspace(1, 3, 100, endpoint=False)
    scores = []
    for shift in np.concatenate([-shifts, shifts]):
        scores.append(coincidence(true_times, times + shift, tolerance))
    return float(np.mean(scores))


@dataclass
class Score:
    """How a network, and what it has to beat, do in one sweep, after the warm-up.

    Spikes are counted; shares are those of `coincidence`. nan: not known, or not asked
    of a sweep that is trained on.
    """

    number: int  # of the sweep
    is_held_out: bool
    duration: float  # ms
    current: float  # its mean
    cell: int
    network: int
    in_time: float  # the share of the network's spikes that coincide with the cell's
    by_chance: float
    ran_off: bool  # whether its run left the limits of `limits`, sooner or later
    line: float = math.nan  # spikes, by a straight line through the sweeps trained on
    # spikes of an integrate-and-fire neuron fitted to them, and its share in time
    fired: float = math.nan
    fired_in_time: float = math.nan
    # the share of the cell's own spikes under the closest current, as a prediction
    copied: float = math.nan
    copied_from: str = ""  # the sweep with it; if none is told, "metronome"


def judge(model, train, test, dt, warm_up, tolerance=2.0):
    """Let a network run through Sweeps, and compare what it does alone with the cell.

    train, test: the Sweeps of `hold_out`. Prints a row for each sweep, whether its run
    ran off, and for those held out what has to be beaten. Spikes count after the
    warm-up, and coincide within `tolerance` ms.
    Returns the Scores, those of the sweeps trained on first. Raises as `free_run` does.
    """
    info = model.info
    V = train.V + test.V
    I = None
    if train.I is not None:
        I = train.I + test.I
    runs = free_run(model, V, dt, warm_up, I, quiet=True)
    cell = spike_times(V, info, warm_up)
    network = spike_times(runs, info, warm_up)
    scores = []
    for k, number in enumerate(train.numbers + test.numbers):
        score = Score(
            number=number,
            is_held_out=k >= len(train.V),
            duration=(len(V[k]) - warm_up) * dt,
            current=math.nan if I is None else float(I[k][warm_up:].mean()),
            cell=len(cell[k]),
            network=len(network[k]),
            in_time=coincidence(cell[k], network[k], tolerance),
            by_chance=chance(cell[k], network[k], tolerance),
            ran_off=ran_off(runs[k], info),
        )
        scores.append(score)
    num_trained = len(train.V)
    trained_spikes = cell[:num_trained]
    fired = None
    if I is not None:
        fired = fire_along(train, trained_spikes, V, I, info, warm_up, tolerance)
    for k in range(num_trained, len(scores)):
        score = scores[k]
        score.line = straight_line(scores[:num_trained], score)
        if fired is not None:
            score.fired = len(fired[k])
            score.fired_in_time = coincidence(cell[k], fired[k], tolerance)
        if I is not None:
            score_copy(score, I[k], cell[k], train, info, warm_up, tolerance)
        else:
            times = metronome(V[k], trained_spikes, info, warm_up)
            score.copied = coincidence(cell[k], times, tolerance)
            score.copied_from = "metronome"
    print_scores(scores, tolerance)
    return scores


def straight_line(others, score):
    """The spikes of a sweep by a straight line through other Scores; never negative.

    It is one of rates over mean currents. Without a current, or if all are the same but
    for noise, the mean rate.
    """
    rates = np.array([other.cell / other.duration for other in others])
    currents = np.array([other.current for other in others])
    if np.ptp(currents) > 0.01 * abs(currents).max():  # False for nan, too
        slope, at_zero = np.polyfit(currents, rates, 1)
        rate = at_zero + slope * score.current
    else:
        rate = rates.mean()
    return float(max(0.0, rate * score.duration))


def fire_along(train, spikes, V, I, info, warm_up, tolerance):
    """When an integrate-and-fire neuron spikes in sweeps V, I: a list of arrays, in ms.

    It is fitted to the Sweeps `train`, which have `spikes`. None if these have none.
    """
    dt = info["dt"]
    neuron = integrate_and_fire.fit(
        train.V, train.I, spikes, dt, warm_up, info["V_zero"], tolerance
    )
    if neuron is None:
        return None
    times = []
    for voltage, current in zip(V, I):
        before = voltage[warm_up - 1]
        times.append(integrate_and_fire.fire(neuron, before, current, dt, warm_up))
    return times


def score_copy(score, current, true_times, train, info, warm_up, tolerance):
    """Score the cell's own spikes under the closest current of the Sweeps `train`."""
    match = closest(current, train.I)
    if match is None:
        return
    times = spikes_of(match, train.V, info, warm_up)
    comparable = true_times[true_times < match.length * info["dt"]]
    score.copied = coincidence(comparable, times, tolerance)
    score.copied_from = f"sweep {train.numbers[match.sweep]}"
    if match.is_same:
        score.copied_from += ", a repeat"


def spikes_of(match, V, info, warm_up):
    """The cell's spikes in a Match's stretch of sweeps V, after the warm-up."""
    end = match.begin + match.length
    stretch = V[match.sweep][match.begin : end]
    (times,) = spike_times([stretch], info, warm_up)
    return times


def metronome(voltage, trained_times, info, warm_up):
    """Spikes that go on from the last one shown, at the usual interval.

    voltage: a sweep (T,) in mV. trained_times: the spikes of the sweeps trained on.
    Returns their times (ms) after the warm-up; none if there is nothing to go on.
    """
    (shown,) = spike_times([voltage[:warm_up]], info)
    intervals = np.concatenate([np.diff(times) for times in trained_times])
    if len(shown) == 0 or len(intervals) == 0:
        return np.array([])
    end = len(voltage) * info["dt"]
    times = np.arange(shown[-1], end, np.median(intervals))
    return times[times > (warm_up - 1) * info["dt"]]


def print_scores(scores, tolerance):
    in_time = f"in time, {tolerance:g} ms"
    print(f"\nafter the warm-up                spikes              {in_time}")
    titles = "cell network   line  I&F  network chance   I&F copied from"
    print(f"sweep        current   {titles}")
    for score in scores:
        name = f"{score.number}"
        if score.is_held_out:
            name += " held out"
        cells = [
            f"{name:11}",
            f"{score.current:9.4g}",
            f"{score.cell:7}",
            f"{score.network:8}",
            f"{score.line:7.1f}",
            f"{score.fired:5.0f}",
            f"{score.in_time:9.2f}",
            f"{score.by_chance:7.2f}",
            f"{score.fired_in_time:6.2f}",
            f"{score.copied:7.2f} {score.copied_from}",
        ]
        row = "".join(cells).replace("nan", "  -").rstrip()
        if score.ran_off:
            row += ", the network ran off"
        print(row)
    trained = [score for score in scores if not score.is_held_out]
    num_spikes = sum(score.cell for score in trained)
    wrong = sum(abs(score.network - score.cell) for score in trained)
    print(f"trained on: {wrong} spikes too many or too few, of {num_spikes}")
    spiking = [score for score in trained if score.cell > 1]
    if len(spiking) > 0:
        in_time = np.mean([score.in_time for score in spiking])
        by_chance = np.mean([score.by_chance for score in spiking])
        print(f"trained on: in time {in_time:.2f}, by chance {by_chance:.2f}")
    currents = {score.current for score in trained}
    ruler = "a straight line" if len(currents) > 1 else "the mean rate"
    for score in scores:
        if score.is_held_out:
            off = abs(score.network - score.cell)
            line_off = abs(score.line - score.cell)
            print(
                f"held out, sweep {score.number}: off by {off} of {score.cell}, "
                f"{ruler} by {line_off:.1f}"
            )
    if wrong > 0.1 * num_spikes:
        print("note: this network has not learnt the sweeps that it was trained on")
