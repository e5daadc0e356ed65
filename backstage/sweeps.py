"""Sweeps of a recording: read them, notice what is wrong or odd, find their spikes.

V, I and dt are those of recording.py.
"""

import math
from pathlib import Path

import numpy as np

from datasets import upward_crossings

# What a membrane's recording can be, so that other units are noticed
SHORTEST_DT = 0.002  # ms; a dt in s is shorter
LONGEST_DT = 5.0  # ms; a rate in Hz is larger
COARSE_DT = 1.0  # ms; a spike lasts as long
LOWEST_V = -200.0  # mV
HIGHEST_V = 150.0
LOWEST_MEDIAN = -130.0  # mV, of a sweep
HIGHEST_MEDIAN = -15.0
FEWEST_SAMPLES = 10  # of a sweep

# A spike crosses a level upwards, and rises by so much in the time around it
SPIKE_RISE = 10.0  # mV
RISE_TIME = 2.0  # ms, to either side

# ---- files of numbers ----


def read_columns(path, columns, factors):
    """Read columns of a text file: a list of arrays (T,), each times its factor.

    columns: their numbers, counted from 0; what is None is not in the file, and None is
    returned. They may be separated by commas, semicolons, tabs or spaces, and with
    anything but commas a comma may be the decimal point. Lines above the first numbers
    are left out.
    Raises ValueError if there are no numbers in these columns, or not in all lines.
    """
    lines = Path(path).read_text(encoding="latin-1").splitlines()  # any µ is read
    wanted = [column for column in columns if column is not None]
    begin, delimiter = find_numbers(lines, wanted)
    if begin is None:
        raise ValueError(f"{path} has no line with numbers in columns {wanted}")
    lines = lines[begin:]
    if delimiter != ",":
        lines = [line.replace(",", ".") for line in lines]
    numbers = np.loadtxt(lines, delimiter=delimiter, usecols=wanted, ndmin=2)  # (T, n)
    found = []
    for column, factor in zip(columns, factors, strict=True):
        if column is None:
            found.append(None)
        else:
            found.append(factor * numbers[:, wanted.index(column)])
    return found


def find_numbers(lines, wanted):
    """The first of the lines that has numbers in the wanted columns; the delimiter."""
    for k, line in enumerate(lines):
        for delimiter in (";", "\t", ",", None):  # None: spaces
            fields = line.split(delimiter)
            if max(wanted) < len(fields) and all(
                is_number(fields[column], delimiter) for column in wanted
            ):
                return k, delimiter
    return None, None


def is_number(field, delimiter):
    if delimiter != ",":
        field = field.replace(",", ".")
    try:
        float(field)
    except ValueError:
        return False
    return True


# ---- what would be wrong in silence ----


def time_step(times):
    """Find the time from one sample to the next.

    times: when the samples were taken: one sweep (T,), or a list of sweeps.
    Returns the step in the unit of the times.
    Raises ValueError if a sweep's times are not evenly spaced (to a third of a step:
    times in a file are rounded), or if sweeps have other steps.
    """
    steps = []
    times = listed(times)
    if len(times) == 0:
        raise ValueError("times is empty: has no file been found?")
    for k, time in enumerate(times):
        time = np.asarray(time, dtype=np.float64)
        if len(time) < FEWEST_SAMPLES:
            raise ValueError(
                f"times, sweep {k}: {len(time)} are too few: has a cut left nothing?"
            )
        step = (time[-1] - time[0]) / (len(time) - 1)
        even = time[0] + step * np.arange(len(time))
        is_even = abs(time - even).max() < step / 3  # False for NaN, too
        if not is_even:
            raise ValueError(
                f"times, sweep {k}: {describe_steps(time)}: expected even ones. Cut "
                "the sweep where they jump, or use np.interp"
            )
        steps.append(step)
    shortest = min(steps)
    longest = max(steps)
    if longest > 1.02 * shortest:  # short sweeps with rounded times differ a little
        raise ValueError(
            f"sweep {steps.index(shortest)} has a sample every {shortest:.4g}, sweep "
            f"{steps.index(longest)} every {longest:.4g}: expected one rate"
        )
    return float(np.mean(steps))


def describe_steps(time):
    steps = np.diff(time)
    backwards = np.flatnonzero(steps <= 0)
    if len(backwards) > 0:
        return f"they do not grow after number {backwards[0]:,}"
    return f"steps of {steps.min():.4g} to {steps.max():.4g}"


def check(V, dt, I=None):
    """Return the sweeps in float64, a list of (T, 1) or, with I, of (T, 2): V and I.

    Raises ValueError for what would be wrong in silence: another unit, too coarse
    numbers, values that are not finite, wrong axes, a padded end, an I that does not
    belong to V. Each sweep is looked at by itself. Prints a note for what is odd.
    """
    sweeps = arrange(V, dt, I)
    for note in oddities(sweeps, dt):
        print(f"note: {note}")
    return sweeps


def arrange(V, dt, I=None):
    """Return and raise as `check` does; print nothing."""
    if not SHORTEST_DT < dt < LONGEST_DT:
        raise ValueError(
            f"dt = {dt:g}: expected {SHORTEST_DT} to {LONGEST_DT:g} ms. It is 1000 "
            "times the dt in s, 1000 / (the rate in Hz); or thin less"
        )
    voltages = separate("V", V)
    currents = []
    if is_given(I):
        currents = separate("I", I)
        V_lengths = [len(voltage) for voltage in voltages]
        I_lengths = [len(current) for current in currents]
        if V_lengths != I_lengths:
            raise ValueError(
                f"V has sweeps of {V_lengths} samples, I of {I_lengths}: expected as "
                "many"
            )
    check_not_exchanged(voltages, currents)
    for k, voltage in enumerate(voltages):
        check_ends(f"V, sweep {k}", voltage)
        check_millivolts(f"V, sweep {k}", voltage)
    if not is_given(I):
        return [voltage[:, None] for voltage in voltages]
    return [np.column_stack(pair) for pair in zip(voltages, currents)]


def is_given(I):
    return I is not None and len(I) > 0


def listed(data):
    """Make a list of sweeps of whatever form they have."""
    if not isinstance(data, list | tuple):
        data = np.asarray(data)  # pandas looks things up by its own index
    if len(data) > 0 and np.ndim(data[0]) == 0:  # a number: this is one sweep
        return [data]
    return list(data)


def separate(name, data):
    """Make of V or of I, whichever `name` says, a list of sweeps (T,) in float64."""
    sweeps = []
    for k, sweep in enumerate(listed(data)):
        sweep = np.asarray(sweep)
        if sweep.ndim != 1 or len(sweep) == 0:
            raise ValueError(
                f"{name}, sweep {k} has shape {sweep.shape}: expected (T,)"
            )
        check_type(name, sweep.dtype)
        sweeps.append(sweep.astype(np.float64))
    if len(sweeps) == 0:
        raise ValueError(f"{name} is empty: expected at least one sweep")
    if is_transposed(sweeps):
        raise ValueError(
            f"{name} has {len(sweeps):,} sweeps of {len(sweeps[0]):,} samples: "
            f"transpose it, {name}.T"
        )
    for k, sweep in enumerate(sweeps):
        if len(sweep) < FEWEST_SAMPLES:
            raise ValueError(
                f"{name}, sweep {k} has {len(sweep)} samples: expected at least "
                f"{FEWEST_SAMPLES}"
            )
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


def is_transposed(sweeps):
    """Whether what is called the sweeps is rather the samples.

    There are more sweeps than samples, and sweeps resemble each other more at one
    moment than one sweep does at successive moments.
    """
    lengths = {len(sweep) for sweep in sweeps}
    longest = max(lengths)
    if len(sweeps) <= longest:
        return False
    if longest < FEWEST_SAMPLES:
        return True
    if len(lengths) > 1:
        return False
    table = np.stack(sweeps)
    in_time = np.mean(abs(np.diff(table, axis=1)))
    across = np.mean(abs(np.diff(table, axis=0)))
    return across < in_time / 2


def check_finite(name, sweep):
    wrong = np.flatnonzero(~np.isfinite(sweep))
    if len(wrong) == len(sweep):
        raise ValueError(
            f"{name}: not one of its {len(sweep):,} values is finite; leave the sweep "
            "out, or if it is the current, all currents (I = [])"
        )
    if len(wrong) > 0:
        raise ValueError(
            f"{name}: {len(wrong):,} of {len(sweep):,} values are not finite, the "
            f"first is number {wrong[0]:,}; cut the sweep there, or fill a short gap "
            "with np.interp"
        )


def check_not_exchanged(voltages, currents):
    """Raise ValueError if I looks like a membrane's voltage in mV, and V does not.

    A V in volts does not either; but then small steps of I may look so.
    """
    for k, pair in enumerate(zip(voltages, currents)):
        voltage, current = pair
        is_voltage = is_membrane(voltage) or is_membrane(1000 * voltage)
        if is_membrane(current) and not is_voltage:
            raise ValueError(
                f"sweep {k}: V lies between {describe(voltage)}, I between "
                f"{describe(current)}: are the two exchanged?"
            )


def check_millivolts(name, voltage):
    if not is_membrane(voltage):
        raise ValueError(
            f"{name} lies between {describe(voltage)}: expected a membrane's voltage "
            "in mV (volts times 1000). Or is this the current?"
        )


def describe(sweep):
    return f"{sweep.min():.3g} and {sweep.max():.3g} (median {np.median(sweep):.3g})"


def is_membrane(sweep):
    """Whether a sweep's values are those of a membrane's voltage in mV."""
    low = sweep.min()
    high = sweep.max()
    is_in_range = LOWEST_V <= low < high <= HIGHEST_V
    return is_in_range and LOWEST_MEDIAN <= np.median(sweep) <= HIGHEST_MEDIAN


def check_ends(name, voltage):
    """Raise ValueError for a sweep that was padded: with zeros, as a rule."""
    edges = edges_of_runs(voltage)
    if len(edges) < 3:
        return
    first_end = edges[1]
    last_begin = edges[-2]
    num_last = len(voltage) - last_begin
    jumps = abs(np.diff(voltage))
    if (
        first_end >= 5
        and jumps[first_end - 1] > SPIKE_RISE
        and is_membrane(voltage[first_end:])  # else it is not a padded voltage
    ):
        raise ValueError(
            f"{name}: its first {first_end:,} samples are all {voltage[0]:.4g}, and "
            "then it jumps: cut them off"
        )
    if (
        num_last >= 5
        and jumps[last_begin - 1] > SPIKE_RISE
        and is_membrane(voltage[:last_begin])
    ):
        raise ValueError(
            f"{name}: its last {num_last:,} samples are all {voltage[-1]:.4g}, after "
            "a jump: cut them off"
        )


def edges_of_runs(sweep):
    """Where runs of one and the same value begin, and where the last ends."""
    changes = np.flatnonzero(np.diff(sweep)) + 1
    return np.concatenate([[0], changes, [len(sweep)]])


# ---- what is odd ----


def oddities(sweeps, dt):
    """What may be a mistake in sweeps (T, 1 or 2) of `arrange`: a list of sentences."""
    voltages = [sweep[:, 0] for sweep in sweeps]
    notes = []
    if dt > COARSE_DT:
        notes.append(f"dt is {dt:g} ms: a spike may fall between two samples")
    notes += odd_offsets(voltages)
    for k, voltage in enumerate(voltages):
        notes += odd_voltage(f"V, sweep {k}", voltage, dt)
    notes += odd_spikes(voltages, dt)
    if sweeps[0].shape[1] == 2:
        notes += odd_currents([sweep[:, 1] for sweep in sweeps])
    else:
        notes.append("no current: the network can go on with a rhythm, and no more")
    return notes


def odd_offsets(voltages, largest=15.0):
    """A sweep whose median is farther than `largest` mV from that of the others."""
    medians = np.array([np.median(voltage) for voltage in voltages])
    notes = []
    for k, median in enumerate(medians):
        others = np.delete(medians, k)
        if len(others) > 0 and abs(median - np.median(others)) > largest:
            notes.append(
                f"V, sweep {k}: half of it lies below {median:.3g} mV, of the others "
                f"below {np.median(others):.3g}: an offset, or another current?"
            )
    return notes


def odd_voltage(name, voltage, dt):
    edges = edges_of_runs(voltage)
    runs = np.diff(edges)
    longest = runs.argmax()
    notes = []
    if np.mean(np.diff(voltage) == 0) > 0.95:
        notes.append(
            f"{name} hardly ever changes from one sample to the next: is it a current?"
        )
    elif runs[longest] >= 20 and runs[longest] * dt >= 20:
        begin = edges[longest] * dt
        end = edges[longest + 1] * dt
        notes.append(
            f"{name} stands still at {voltage[edges[longest]]:.4g} from {begin:.0f} to "
            f"{end:.0f} ms: was the cell lost? Cut it"
        )
    noise = noise_level(voltage)
    if noise > 2 and noise > voltage.std() / 2:
        notes.append(
            f"{name} is hardly more than noise, {noise:.2g} mV on each sample: is it a "
            "current?"
        )
    return notes


def odd_spikes(voltages, dt):
    """No spikes, or some that are too short or too long for this dt."""
    width = spike_width(voltages, dt)
    if math.isnan(width):
        return ["no sweep spikes: no score will say anything of spikes"]
    if 0.1 < width < 5:
        return []
    return [f"spikes are {width:.2g} ms wide half-way up: is dt = {dt:g} in ms?"]


def odd_currents(currents):
    spans = np.array([np.ptp(current) for current in currents])
    everything = np.concatenate(currents)
    if np.ptp(everything) == 0:
        return ["I never changes: the network can learn nothing from it, I = []"]
    if not spans.any():
        return ["I never changes within a sweep: nothing shows what a change does"]
    usual = np.median(spans[spans > 0])
    notes = []
    if noise_level(everything) > 0.7 * everything.std():
        notes.append(
            "I is hardly more than noise: if that is the electrode's, the network can "
            "learn nothing from it, I = []"
        )
    for k, span in enumerate(spans):
        is_alike = usual / 300 < span < usual * 300
        if span > 0 and not is_alike:  # pA and nA differ by 1000
            notes.append(
                f"I, sweep {k} has a range of {span:.3g}, others of {usual:.3g}: the "
                "same unit?"
            )
    return notes


def noise_level(sweep):
    """The standard deviation of the noise on a sample (mV), at most.

    In differences, in differences of these, and so on, a smooth curve vanishes and
    noise does not: white noise of 1 makes those of order n √(2n over n) large. Half of
    all samples count, so that spikes do not.
    """
    levels = []
    differences = sweep
    for order in range(1, 9):
        differences = np.diff(differences)
        typical = np.median(abs(differences)) / 0.6745  # of a Gaussian's: its std
        levels.append(typical / math.sqrt(math.comb(2 * order, order)))
    return min(levels)


# ---- spikes ----


def middle(voltage):
    """Half-way between the median and the highest voltage."""
    return (np.median(voltage) + voltage.max()) / 2


def spike_width(voltages, dt):
    """The usual width (ms) of spikes half-way up; nan if there are none."""
    widths = []
    for voltage in voltages:
        level = middle(voltage)
        ups = upstrokes(voltage, level, dt)
        downs = upward_crossings(level - voltage, dt)
        for up in ups:
            later = downs[downs > up]
            if len(later) > 0:
                widths.append(later[0] - up)
    return float(np.median(widths)) if len(widths) > 0 else math.nan


def upstrokes(sweep, level, dt):
    """The times (ms) at which a sweep (T,) crosses a level upwards, as spikes do."""
    reach = math.ceil(RISE_TIME / dt)  # samples
    kept = []
    for time in upward_crossings(sweep - level, dt):
        before = int(time / dt)
        lowest = sweep[max(0, before - reach) : before + 1].min()
        highest = sweep[before + 1 : before + 2 + reach].max(initial=level)
        if highest - lowest >= SPIKE_RISE:
            kept.append(time)
    return np.array(kept)


def coincidence(true_times, times, tolerance):
    """The share of spikes that come at the same time, to `tolerance` ms.

    0: none, 1: all; an F1 score, as in task 4. nan if neither has spikes.
    """
    num_spikes = len(true_times) + len(times)
    if num_spikes == 0:
        return math.nan
    return 2 * num_hits(true_times, times, tolerance) / num_spikes


def num_hits(true_times, times, tolerance):
    """How many spikes of two trains coincide."""
    # of either those that have one near; the fewer, as one may be near to two
    hits = num_near(true_times, times, tolerance)
    return min(hits, num_near(times, true_times, tolerance))


def num_near(times, others, tolerance):
    """How many of `times` have one of `others` within the tolerance; both ascend."""
    first = np.searchsorted(others, times - tolerance, side="left")
    end = np.searchsorted(others, times + tolerance, side="right")
    return np.count_nonzero(end > first)


def num_wrong(true_times, times, tolerance):
    """How wrong the spikes of a train are, in number and in time.

    Each spike too many or too few counts twice; of both trains, each that does not
    coincide counts once. Else what cannot keep time would do best to be silent.
    """
    too_many_or_few = abs(len(true_times) - len(times))
    hits = num_hits(true_times, times, tolerance)
    return 2 * too_many_or_few + len(true_times) + len(times) - 2 * hits
