"""Recordings: windows, free runs, what is noticed in a recording, and the page."""

import code
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from scipy.integrate import solve_ivp

from backstage import integrate_and_fire
from backstage.checkpoints import load_checkpoint, save_checkpoint
from backstage.integrate_and_fire import IntegrateAndFire
from backstage.sweeps import check, noise_level, num_wrong, read_columns, time_step
from cells import CELLS
from extras import axon
from models import GRU
from recording import (
    Score,
    announce,
    chance,
    closest,
    coincidence,
    free_run,
    hold_out,
    judge,
    scaling,
    spike_times,
    straight_line,
    thin,
    windows,
    wrong_spikes,
)

TOP = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(0)
DT = 0.2  # ms
LENGTHS = [30, 47, 25]  # of the sweeps, in samples
V = [RNG.normal(-60, 10, length) for length in LENGTHS]  # mV
I = [RNG.normal(100, 50, length) for length in LENGTHS]  # pA


def current(told):
    return I if told else None


# ---- files ----


@pytest.mark.parametrize(
    "text",
    [
        "time,current,V\n0.0,1e2,-60.5\n0.1,-3,-61.5\n",
        "µ, a line of words\n0.0, 1e2, -60.5,\n0.1, -3, -61.5,\n",
        "0,0;1e2;-60,5\n0,1;-3;-61,5\n",
        "ATF 1.0\nt\tI\tV\tnote\n0.0\t1e2\t-60.5\tx\n0.1\t-3\t-61.5\ty\n",
        " 0.0   1e2  -60.5\n 0.1  -3    -61.5\n",
        "0,0 100,0 -60,5\n0,1 -3,0 -61,5\n",
    ],
)
def test_columns_are_read_whatever_separates_them(text, tmp_path):
    path = tmp_path / "cell.txt"
    path.write_text(text, encoding="latin-1")
    time, current, voltage = read_columns(path, (0, 1, 2), (1, 1, 10))
    np.testing.assert_array_equal(time, [0.0, 0.1])
    np.testing.assert_array_equal(current, [100.0, -3.0])
    np.testing.assert_array_equal(voltage, [-605.0, -615.0])
    voltage, none, time = read_columns(path, (2, None, 0), (1, 1, 1000))
    assert none is None
    np.testing.assert_array_equal(voltage, [-60.5, -61.5])
    np.testing.assert_array_equal(time, [0.0, 100.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,V\n0.0,-60\n", "no line with numbers in columns"),
        ("0.0,1,-60\n0.1,lost,-60\n", "lost"),
        ("0.0,1,-60\n0.1,1\n", "column"),
        ("", "no line"),
    ],
)
def test_a_file_without_these_columns_raises(text, message, tmp_path):
    path = tmp_path / "cell.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_columns(path, (0, 1, 2), (1, 1, 1))


# ---- before training ----


def test_scale_is_that_of_all_samples_and_survives_in_the_file(tmp_path):
    info = scaling(V, np.float64(DT), I)
    samples = np.concatenate(V)
    currents = np.concatenate(I)
    assert info == pytest.approx(
        {
            "dt": DT,
            "V_zero": (np.median(samples) + max(samples)) / 2,
            "V_unit": np.sqrt(np.mean((samples - np.mean(samples)) ** 2)),
            "V_low": min(samples),
            "V_high": max(samples),
            "I_zero": np.mean(currents),
            "I_unit": np.sqrt(np.mean((currents - np.mean(currents)) ** 2)),
        }
    )
    assert all(type(value) is float for value in info.values())
    save_checkpoint(tmp_path / "cell.pth", GRU(2, 5, 1), **info)
    assert load_checkpoint(tmp_path / "cell.pth").info == info


@pytest.mark.parametrize("told", [False, True])
def test_windows_are_those_of_a_loop_and_never_cross_into_the_next_sweep(told):
    length = 20
    hop = 7
    info = scaling(V, DT, current(told))
    expected_x = []
    expected_y = []
    for k in range(3):
        scaled = (V[k] - info["V_zero"]) / info["V_unit"]
        columns = [scaled]
        if told:
            columns.append((I[k] - info["I_zero"]) / info["I_unit"])
        start = 0
        while start + length < LENGTHS[k]:  # one sample more is the last target
            steps = range(start, start + length)
            expected_x.append([[column[t] for column in columns] for t in steps])
            expected_y.append([[scaled[t + 1]] for t in steps])
            start += hop
    data = windows(V, DT, info, length, hop, current(told))
    assert len(data) == len(expected_x) == 2 + 4 + 1
    assert data.dt == DT
    x = torch.tensor(expected_x, dtype=torch.float32).transpose(0, 1)
    y = torch.tensor(expected_y, dtype=torch.float32).transpose(0, 1)
    torch.testing.assert_close(data.data_x, x)
    torch.testing.assert_close(data.data_y, y)


def test_an_array_and_a_list_of_sweeps_are_the_same_recording():
    array = RNG.normal(-60, 10, (3, 40))
    info = scaling(array, DT)
    assert info == scaling(list(array), DT)
    assert info == scaling(array.tolist(), DT)


@pytest.mark.parametrize("make", [np.asarray, list, lambda sweep: [sweep]])
def test_one_sweep_is_a_recording(make):
    sweep = V[0].copy()
    sweep[0] = -65
    numbers = sweep.tolist()
    numbers[0] = -65  # a whole number is not a converter's count
    for data in (sweep, numbers):
        (checked,) = check(make(data), DT, make(I[0]))
        np.testing.assert_array_equal(checked, np.transpose([sweep, I[0]]))


# what was recorded, and what is said of it
WITH_GAPS = [V[0], np.where(np.isin(np.arange(47), (5, 6, 20)), np.nan, V[1])]
GAP = r"V, sweep 1: 3 of 47 values are not finite, the first is number 5; cut .*interp"
COUNTS = "V is int16: expected mV .* .counts of a converter times mV per count"
HALF = "is float16: expected float32 or float64"
NO_VOLTAGE = "expected a membrane's voltage in mV"
NO_DT = "expected 0.002 to 5 ms. It is 1000 times the dt in s"
ALL_SWEEPS = r"V has sweeps of \[30, 47, 25\] samples, "
NO_VALUE = r"I, sweep 1: not one of its 47 values is finite; leave .* .I = \[\]"


def with_second(sweep):
    """The recording with another second sweep: each is to be looked at by itself."""
    return [V[0], sweep, V[2]]


def padded(value, begin=0, end=0):
    """The second sweep with a first or last part that is all of one value."""
    sweep = V[1].copy()
    sweep[:begin] = value
    sweep[len(sweep) - end :] = value
    return with_second(sweep)


@pytest.mark.parametrize(
    ("V", "dt", "I", "message"),
    [
        (WITH_GAPS, DT, None, GAP),
        (V[:2], DT, [I[0], np.full(47, np.nan)], NO_VALUE),
        (with_second(np.full(47, np.inf)), DT, None, "V, sweep 1: not one of its 47"),
        (V[:2], DT, [I[0], np.r_[I[1][:-1], np.inf]], "I, sweep 1: 1 of 47 values"),
        (np.transpose([V[0], V[0]]), DT, None, "V has 30 sweeps of 2 .* it, V.T"),
        (V[0], DT, I[0][:, None], "I has 30 sweeps of 1 samples: transpose it, I.T"),
        ([], DT, None, "V is empty"),
        (np.empty((3, 0)), DT, None, r"V, sweep 0 has shape \(0,\): expected"),
        (V, DT, [[], [], []], r"I, sweep 0 has shape \(0,\): expected"),
        (V, DT, [I[0], None, I[2]], r"I, sweep 1 has shape \(\): expected"),
        ([V], DT, None, r"V, sweep 0 has shape|inhomogeneous"),
        (V[0].astype(np.float16), DT, None, f"V {HALF}"),
        ([V[0], V[1].astype(np.float16)], DT, None, f"V {HALF}"),
        (V[0], DT, I[0].astype(np.float16), f"I {HALF}"),
        (V[0].astype(np.int16), DT, None, COUNTS),
        ([V[0], V[1].astype(np.int16)], DT, None, COUNTS),
        (V[0] / 1000, DT, None, f"V, sweep 0 lies between -0.08.*: {NO_VOLTAGE}"),
        (with_second(V[1] / 1000), DT, None, f"V, sweep 1 .*{NO_VOLTAGE}"),
        (with_second(V[1] / 10), DT, None, f"V, sweep 1 .*{NO_VOLTAGE}"),
        (with_second(V[1] * 10), DT, None, f"V, sweep 1 .*{NO_VOLTAGE}"),
        (with_second(V[1] * 1000), DT, None, f"V, sweep 1 .*{NO_VOLTAGE}"),
        (with_second(-V[1]), DT, None, f"V, sweep 1 .*{NO_VOLTAGE}"),
        (with_second(V[1] + 100), DT, None, f"V, sweep 1 .*{NO_VOLTAGE}"),
        # in volts, and a current that a membrane's voltage might be
        (V[0] / 1000, DT, np.repeat([0.0, -50], [5, 25]), NO_VOLTAGE),
        (np.full(30, -60.0), DT, None, f"between -60 and -60 .*{NO_VOLTAGE}"),
        (I, DT, V, "sweep 0: V lies .* are the two exchanged"),
        # exchanged columns, and the factors not: no advice to cut off the silence
        ([np.repeat([0.0, 300], 15)], DT, [V[0] / 1000], f"{NO_VOLTAGE}.* the current"),
        (padded(0.0, end=6), DT, None, "V, sweep 1: its last 6 samples are all 0,"),
        (padded(9.5, end=30), DT, None, "V, sweep 1: its last 30 .* all 9.5, .* cut"),
        (padded(0.0, begin=20), DT, None, "V, sweep 1: its first 20 samples are all"),
        ([V[0], V[1][:9]], DT, None, "V, sweep 1 has 9 samples: expected at least 10"),
        (V[0], DT, np.full(30, 50.0), "I never changes: .* leave it out"),
        (V, 2e-4, None, f"dt = 0.0002: {NO_DT}"),
        (V, 200.0, None, f"dt = 200: {NO_DT}"),
        (V, 50.0, None, f"dt = 50: {NO_DT}"),
        (V, 20_000.0, None, rf"dt = 20000: {NO_DT}, 1000 / \(the rate in Hz\)"),
        (V, np.nan, None, f"dt = nan: {NO_DT}"),
        (V, DT, I[::-1], ALL_SWEEPS + r"I of \[25, 47, 30\]: expected as many"),
        (V, DT, I[0], ALL_SWEEPS + r"I of \[30\]: expected as many"),
    ],
)
def test_what_would_be_wrong_in_silence_raises(V, dt, I, message):
    with pytest.raises(ValueError, match=message):
        scaling(V, dt, I)


def test_a_current_may_be_counts_of_any_unit():
    counts = [np.round(sweep).astype(np.int16) for sweep in I]
    numbers = [sweep.astype(np.float64) for sweep in counts]
    assert scaling(V, DT, counts) == scaling(V, DT, numbers)


def test_sweeps_too_short_for_a_window_or_a_free_run_raise():
    info = scaling(V, DT)
    with pytest.raises(
        ValueError, match="sweep 2 has 25 samples: expected more than the 25 steps"
    ):
        windows(V, DT, info, 25, 5)
    assert len(windows(V, DT, info, 24, 50)) == 3
    model = GRU(1, 5, 1)
    model.info = info
    for warm_up in (0, 25):
        with pytest.raises(ValueError, match=f"warm_up = {warm_up}: .* the 25 samples"):
            free_run(model, V, DT, warm_up)
    assert len(free_run(model, V[2], DT, 24)[0]) == 25


# ---- after it ----


def small_network(cell, told, info):
    """A network whose free run stays within the range of the recording."""
    torch.manual_seed(0)
    model = CELLS[cell](1 + told, 5, 1, residual=True)
    with torch.no_grad():
        model.fc.weight.mul_(0.1)
        model.fc.bias.zero_()
    model.info = info
    return model


@torch.no_grad()
def run_from_the_beginning(model, V, warm_up, I):
    """A free run through one sweep: the whole past is shown again for every sample."""
    info = model.info
    scaled = list((V[:warm_up] - info["V_zero"]) / info["V_unit"])
    for t in range(warm_up, len(V)):
        columns = [scaled]
        if I is not None:
            columns.append((I[:t] - info["I_zero"]) / info["I_unit"])
        past = torch.tensor(np.transpose(columns), dtype=torch.float32)
        _, readouts = model(past[:, None])
        scaled.append(readouts[-1].item())
    return info["V_zero"] + info["V_unit"] * np.array(scaled)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_free_run_is_that_of_a_network_shown_its_whole_past_again(
    cell, told, tmp_path, capsys
):
    warm_up = 12
    trained = small_network(cell, told, scaling(V, DT, current(told)))
    save_checkpoint(tmp_path / "cell.pth", trained, **trained.info)
    model = load_checkpoint(tmp_path / "cell.pth")
    runs = free_run(model, V, DT, warm_up, current(told))
    assert len(runs) == 3
    for k, run in enumerate(runs):
        own_current = I[k] if told else None
        expected = run_from_the_beginning(model, V[k], warm_up, own_current)
        np.testing.assert_allclose(run, expected, atol=1e-3)
        np.testing.assert_allclose(run[:warm_up], V[k][:warm_up], atol=1e-4)
        assert np.ptp(run[warm_up:]) > 0.1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("drift", "end"), [(1.0, "V_high"), (-1.0, "V_low")])
def test_a_free_run_far_beyond_the_recording_is_clipped_and_it_is_said(
    drift, end, capsys
):
    info = scaling(V, DT)
    model = small_network("gru", False, info)
    with torch.no_grad():
        model.fc.bias.fill_(drift)  # on and on, by a standard deviation a step
    # the second sweep ends before its run is far away
    first, second = free_run(model, [V[1], V[2][:13]], DT, 12)
    margin = np.sign(drift) * (info["V_high"] - info["V_low"]) / 2
    assert first[-1] == pytest.approx(info[end] + margin)
    assert len(second) == 13
    said = capsys.readouterr().out
    assert said == "1 of 2 free runs go far beyond the recording's range: clipped\n"
    free_run(model, [V[1]], DT, 12, quiet=True)
    wrong_spikes(model, [V[1]], DT, 12)  # asked in every late epoch
    assert capsys.readouterr().out == ""


def test_a_free_run_that_is_not_a_number_is_said(capsys):
    model = small_network("gru", False, scaling(V, DT))
    with torch.no_grad():
        model.fc.bias.fill_(torch.nan)
    free_run(model, V, DT, 12)
    assert capsys.readouterr().out.startswith("3 of 3 free runs")


def test_spikes_are_counted_where_they_cross_v_zero():
    info = {"V_zero": -20.0, "dt": DT}
    sweeps = [np.array([-60, -30, -10, 30, -60, -40, 0.0]), np.array([-60.0, -21])]
    first, second = spike_times(sweeps, info)
    np.testing.assert_allclose(first, [1.5 * DT, 5.5 * DT])
    assert len(second) == 0


class Frame:
    """As pandas has it: looked up by labels, and an array if it is asked to be one."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, label):
        raise KeyError(label)  # 0 was cut off


def test_series_and_frames_of_pandas_are_recordings():
    expected = check(V[:1], DT, I[:1])
    for make in (Frame, lambda sweep: [Frame(sweep)], lambda sweep: Frame([sweep])):
        np.testing.assert_array_equal(check(make(V[0]), DT, make(I[0])), expected)
    with pytest.raises(ValueError, match=r"V has 30 sweeps of 2 samples: transpose it"):
        check(Frame(np.transpose([V[0], V[0]])), DT)


def test_many_short_sweeps_are_not_transposed_ones():
    smooth = -60 + 10 * np.sin(np.linspace(0, 6, 50))
    repeats = smooth + RNG.normal(0, 1, (100, 50))
    assert len(check(repeats, DT)) == 100
    families = smooth + RNG.normal(0, 5, (40, 1))
    with pytest.raises(ValueError, match=r"V has 50 sweeps of 40 samples: transpose"):
        check(families.T, DT)


STEPS = np.full(100, 0.2)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.cumsum(np.where(np.arange(100) < 50, 0.01, 0.2)), "steps of 0.01 to 0.2"),
        (np.cumsum(np.tile([0.02, 0.18], 50)), "times, sweep 0: steps of 0.02 to 0.18"),
        (np.delete(np.cumsum(STEPS), 40), "times, sweep 0: steps of 0.2 to 0.4"),
        (np.tile(np.cumsum(STEPS), 2), "they do not grow after number 99"),
        ([np.cumsum(STEPS), np.cumsum(STEPS)[::-1]], "times, sweep 1: they do not"),
        ([np.cumsum(STEPS), np.full(100, np.nan)], "times, sweep 1: steps of nan"),
        ([np.cumsum(STEPS), np.arange(5)], "times, sweep 1: 5 are too few"),
        ([], "times is empty: has no file been found"),
        (
            [np.cumsum(STEPS), np.cumsum(STEPS) / 4],
            "sweep 1 has a sample every 0.05, sweep 0 every 0.2: expected one rate",
        ),
    ],
)
def test_times_that_are_not_even_or_of_one_rate_raise(times, message):
    with pytest.raises(ValueError, match=message):
        time_step(times)


def test_the_time_step_is_that_of_times_that_were_rounded():
    times = np.arange(3000) / 30  # 30 kHz, in ms
    assert time_step(times.round(2)) == pytest.approx(1 / 30, rel=1e-3)
    assert time_step([times, Frame(5 + times[:40])]) == pytest.approx(1 / 30)


def test_sweeps_of_another_step_than_the_networks_raise():
    model = small_network("gru", False, scaling(V, DT))
    with pytest.raises(ValueError, match=r"dt = 0.05 ms, .* trained with 0.2: thin"):
        free_run(model, V, 0.05, 12)
    with pytest.raises(ValueError, match=r"dt = 0.8 ms, .* trained with 0.2: thin"):
        windows(V, 0.8, model.info, 20, 5)


# ---- what is odd: a note, and not an error ----

DURATION = 400.0  # ms
TIME = np.arange(0, DURATION, DT)


def cell(spikes, noise=0.3, offset=-60.0, seed=0):
    """A voltage (T,) over TIME with spikes of 1 ms and 90 mV at some times."""
    voltage = offset + 3 * np.sin(TIME / 30)
    for time in spikes:
        voltage += 90 * np.exp(-(((TIME - time) / 0.6) ** 2))
    return voltage + np.random.default_rng(seed).normal(0, noise, len(TIME))


def step(level, begin=100, end=300):
    """A current (T,) over TIME that is `level` for a while."""
    return level * ((begin < TIME) & (end > TIME))


FIRING = cell(np.arange(105, 300, 10))
SILENT = cell([])


def still(sweep):
    sweep = sweep.copy()
    sweep[-500:] = sweep[-501]
    return sweep


@pytest.mark.parametrize(
    ("V", "dt", "I", "note"),
    [
        ([FIRING, FIRING, FIRING + 30], DT, [step(1)] * 3, "sweep 2: half .* offset"),
        ([FIRING, still(FIRING)], DT, None, "V, sweep 1 stands still .* 300 to 400 ms"),
        ([SILENT], DT, None, "no sweep spikes"),
        ([FIRING], DT, [], "no current: the network can go on with a rhythm"),
        ([FIRING[::10]], 10 * DT, None, "dt is 2 ms: a spike may fall between"),
        ([FIRING], 20 * DT, None, r"spikes are \d+ ms wide half-way up: is dt = 4 in"),
        ([FIRING], 6 * DT, None, r"spikes are \d.* ms wide half-way up"),
        ([FIRING], DT / 50, None, r"spikes are 0.0\d+ ms wide half-way up"),
        ([step(10.0) - 40], DT, None, "sweep 0 hardly ever changes .* is it a current"),
        (
            [RNG.normal(-30, 5, 2000)],
            DT,
            None,
            "hardly more than noise, .* is it a current",
        ),
        ([FIRING] * 3, DT, [step(100), step(50), step(0.1)], "I, sweep 2 has a range"),
        ([FIRING], DT, [RNG.normal(9, 1, 2000)], "I is hardly more than noise"),
        ([FIRING] * 2, DT, [step(0)] * 2, "I never changes: .* I = "),
        ([FIRING] * 2, DT, [step(0), step(0) + 9], "I never changes within a sweep"),
    ],
)
def test_what_is_odd_is_noted(V, dt, I, note, capsys):
    check(V, dt, I)
    assert re.search(f"^note: .*{note}", capsys.readouterr().out, re.M)


def test_nothing_is_noted_of_a_sound_recording(capsys):
    check([FIRING, cell(np.arange(105, 300, 15))], DT, [step(100), step(50)])
    hold_out([FIRING] * 3, DT, [step(10), step(30), step(20)], [2])
    assert capsys.readouterr().out == ""


def test_only_what_rises_like_a_spike_is_one():
    slow = -60 + 8 * np.sin(TIME / 20) + RNG.normal(0, 0.3, len(TIME))
    for voltage, expected in ((slow, 0), (FIRING, 20)):
        (times,) = spike_times([voltage], scaling(voltage, DT))
        assert len(times) == expected


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_the_noise_is_measured_and_the_curve_is_not(noise):
    measured = noise_level(cell(np.arange(105, 300, 10), noise))
    assert measured == pytest.approx(noise, rel=0.1, abs=0.01)


# ---- what is held out ----


def test_held_out_sweeps_are_divided_with_their_currents():
    train, test = hold_out(V, DT, I, [1])
    assert train.numbers == [0, 2]
    assert test.numbers == [1]
    np.testing.assert_array_equal(test.V, V[1:2])
    np.testing.assert_array_equal(test.I, I[1:2])
    np.testing.assert_array_equal(np.concatenate(train.V), np.r_[V[0], V[2]])
    np.testing.assert_array_equal(np.concatenate(train.I), np.r_[I[0], I[2]])


@pytest.mark.parametrize("no_current", [None, []])
def test_of_one_sweep_the_last_quarter_is_held_out_whatever_was_chosen(
    no_current, capsys
):
    train, test = hold_out([FIRING], DT, no_current, [3])
    np.testing.assert_array_equal(train.V[0], FIRING[:1500])
    np.testing.assert_array_equal(test.V[0], FIRING[1500:])
    assert train.I is None
    assert test.I is None
    assert "its last quarter is held out" in capsys.readouterr().out


def test_one_number_is_a_choice_too():
    train, test = hold_out(V, DT, I, 1)
    assert (train.numbers, test.numbers) == ([0, 2], [1])


@pytest.mark.parametrize("held_out", [[3], [-1], [], [0, 1, 2]])
def test_a_choice_that_leaves_nothing_raises(held_out):
    with pytest.raises(ValueError, match=re.escape(f"held_out = {held_out}: expected")):
        hold_out(V, DT, I, held_out)


@pytest.mark.parametrize(
    ("currents", "note"),
    [
        ([step(10), step(20), step(20)], "its current occurs in training"),
        ([step(10), np.r_[step(20), 0, 0], step(20)], "its current occurs in training"),
        ([step(10), np.r_[step(0), step(20)], step(20)], "occurs in training"),
        ([step(10), step(20)[:1700], step(20)], "its current occurs in training"),
        (
            [step(10), step(20), step(30)],
            r"reaches 30.* \(in training .* to (20|19\.9)",
        ),
        (
            [step(10), step(20), step(-5)],
            r"reaches -5.* \(in training .* to (20|19\.9)",
        ),
        (
            [step(10, end=500), step(20, end=500), step(15)],
            r"its current changes by -15.* \(in training .* to (20|19\.9)",
        ),
    ],
)
def test_a_current_that_is_not_new_or_beyond_all_others_is_noted(
    currents, note, capsys
):
    """With an electrode's noise."""
    voltages = [np.resize(FIRING, len(current)) for current in currents]
    noisy = [current + RNG.normal(0, 0.3, len(current)) for current in currents]
    hold_out(voltages, DT, noisy, [2])
    assert re.search(f"held-out sweep 2: .*{note}", capsys.readouterr().out)


def test_a_drift_of_what_is_held_out_is_noted(capsys):
    """Its voltages lie within those trained on, and yet it is elsewhere."""
    sweep = -60 + 0.5 * np.random.default_rng(0).standard_normal(400)
    spikes = 60.0 * (np.arange(400) % 100 == 50)
    for moved, is_noted in ((1.0, False), (5.0, True), (-5.0, True)):
        hold_out([sweep + spikes, sweep + spikes + moved, sweep], DT, None, [1])
        assert ("a drift" in capsys.readouterr().out) == is_noted


@pytest.mark.parametrize(("width", "is_noted"), [(0.3, True), (2.0, False)])
def test_a_spike_between_two_samples_is_noted(width, is_noted, capsys):
    dt = 0.05
    time = dt * np.arange(4000)
    sweep = -60 + 90 * np.exp(-np.square((time % 40 - 20.5) / width) * 4 * np.log(2))
    noise = 0.1 * np.random.default_rng(0).standard_normal(4000)
    thinned = thin(sweep + noise, 20)
    hold_out([thinned, thinned], 20 * dt, None, [1])
    assert ("thin less" in capsys.readouterr().out) == is_noted


def test_rounded_zeros_are_written_as_zeros(capsys):
    """A mean over a few samples of 0 may leave 1e-26 of the current before."""
    steps = [np.repeat([-4e-26, level, -4e-26], 200) for level in (50.0, 100.0)]
    sweep = -60 + np.random.default_rng(0).standard_normal(600)
    hold_out([sweep, sweep], DT, steps, [1])
    assert "in training 0 to 50" in capsys.readouterr().out


def test_a_voltage_beyond_all_others_and_no_spike_are_noted(capsys):
    hold_out([FIRING, FIRING, SILENT - 20], DT, None, [2])
    said = capsys.readouterr().out
    assert re.search(r"sweep 2: 100 % of its V lies outside", said)
    assert "sweep 2 has no spike" in said


def test_the_closest_current_is_found_at_its_place():
    wanted = RNG.normal(0, 1, 300).cumsum()
    others = [RNG.normal(0, 1, 200), RNG.normal(0, 5, 1000), RNG.normal(0, 5, 500)]
    others[2][150:450] = wanted
    match = closest(wanted, others)
    assert match == (2, 150, 300, True)
    assert closest(wanted, others[:1]) is None  # too short


def test_a_long_training_is_announced(capsys):
    info = scaling([FIRING], DT)
    train_set = windows([FIRING], DT, info, 1000, 10)
    assert announce(train_set, [FIRING], 40, 8) < 2
    said = capsys.readouterr().out
    assert said.startswith("100 windows of 1,000 steps, about 0.")
    assert "note" not in said
    assert announce(train_set, [FIRING], 400, 8) > 2
    assert "shorten it" in capsys.readouterr().out
    announce(windows([FIRING], DT, info, 1000, 100), [FIRING], 40, 8)
    assert "expected about a hundred windows" in capsys.readouterr().out


# ---- the judge ----


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([10, 20, 30], 1.0),
        ([11.9, 22, 30], 1.0),
        ([12.1, 20, 30], 2 / 3),
        ([9, 10, 11, 20, 30], 6 / 8),  # three near one count once
        ([], 0.0),
    ],
)
def test_spikes_coincide_within_the_tolerance_and_count_once(times, expected):
    true_times = np.array([10.0, 20, 30])
    times = np.array(times, dtype=float)
    assert coincidence(true_times, times, 2.0) == pytest.approx(expected)
    assert coincidence(times, true_times, 2.0) == pytest.approx(expected)


def test_two_silent_traces_have_no_coincidence():
    assert np.isnan(coincidence(np.array([]), np.array([]), 2.0))


def test_chance_is_the_tolerance_in_units_of_the_interval():
    times = np.arange(0, 4000, 10.0)
    assert chance(times, times, 2.0) == pytest.approx(4 / 10, abs=0.02)
    assert np.isnan(chance(times[:1], times, 2.0))


def score(current, spikes, duration=1000.0):
    return Score(0, False, duration, current, spikes, 0, 0.0, 0.0, False)


@pytest.mark.parametrize(
    ("others", "current", "expected"),
    [
        ([score(50, 10), score(100, 20)], 75, 15),
        ([score(50, 10), score(100, 40, 2000.0)], 75, 15),  # rates, not counts
        ([score(50, 10), score(100, 20)], -50, 0),
        ([score(50, 10), score(50, 20)], 75, 15),  # no line through one current
        ([score(50, 10), score(50.1, 20)], 75, 15),  # nor through its noise
        ([score(np.nan, 10), score(np.nan, 20)], np.nan, 15),
    ],
)
def test_a_straight_line_through_the_other_sweeps(others, current, expected):
    assert straight_line(others, score(current, 0)) == pytest.approx(expected)


class Told(GRU):
    """A network that says what it is told: V is ten times the current, in mV."""

    def single_step(self, X, H):
        info = self.info
        current = info["I_zero"] + info["I_unit"] * X[:, 1:]
        return H, (10 * current - 60 - info["V_zero"]) / info["V_unit"]


def spikes_at(times):
    """A current (T,) that makes Told spike at these times."""
    return 9 * np.exp(-(((TIME[:, None] - times) / 0.6) ** 2)).sum(axis=1)


def judged(currents, voltages, held_out, warm_up=500):
    """What `judge` makes of Told: its Scores, by the numbers of the sweeps."""
    train, test = hold_out(voltages, DT, currents, held_out)
    model = Told(2, 3, 1)
    model.info = scaling(train.V, DT, train.I)
    scores = judge(model, train, test, DT, warm_up)
    return {score.number: score for score in scores}


EARLY = np.arange(20, 100, 10.0)  # within a warm-up of 100 ms
REGULAR = np.arange(120, 390, 10.0)
SPARSE = np.arange(120, 390, 27.0)


def test_only_what_comes_after_the_warm_up_counts(capsys):
    currents = [spikes_at(np.r_[EARLY, REGULAR]), spikes_at(SPARSE), spikes_at(EARLY)]
    voltages = [cell(np.r_[EARLY, REGULAR]), cell(SPARSE), cell(EARLY)]
    scores = judged(currents, voltages, [1])
    assert [scores[k].cell for k in range(3)] == [len(REGULAR), len(SPARSE), 0]
    assert [scores[k].network for k in range(3)] == [len(REGULAR), len(SPARSE), 0]
    assert scores[0].in_time == 1.0
    assert [scores[k].is_held_out for k in range(3)] == [False, True, False]
    said = capsys.readouterr().out
    assert "trained on: 0 spikes too many or too few, of 27" in said
    assert re.search(r"^1 held out .* 10 +10 ", said, re.M)
    assert "has not learnt" not in said


def test_a_network_that_failed_in_training_is_told_so(capsys):
    currents = [spikes_at(SPARSE), spikes_at(REGULAR), spikes_at(SPARSE)]
    voltages = [cell(REGULAR), cell(REGULAR), cell(SPARSE)]
    scores = judged(currents, voltages, [2])
    assert scores[0].in_time < 0.6
    said = capsys.readouterr().out
    assert "trained on: 17 spikes too many or too few, of 54" in said
    assert "note: this network has not learnt" in said


def test_an_integrate_and_fire_neuron_is_a_case_done_by_hand():
    """It doubles what is left to 100, spikes above 60, is reset to 0 and pauses."""
    neuron = IntegrateAndFire(0.5, 10.0, 0.0, reset=0.0, threshold=60.0, pause=1)
    I = np.full(9, 5.0)
    # V: 0, | 50, 75 (a spike), 0 (the pause), 50, 75 (a spike), 0, 50, 75
    times = integrate_and_fire.fire(neuron, 0.0, I, 2.0, first=1)
    np.testing.assert_array_equal(times, [4.0, 10.0, 16.0])
    # from sample 3 on, and it begins above the threshold
    times = integrate_and_fire.fire(neuron, 100.0, I, 2.0, first=3)
    np.testing.assert_array_equal(times, [6.0, 12.0])


def leaky_cell(I, dt, noise=0.0):
    """Voltages (T,) under a current: a leak of 10 ms, and spikes of 4 samples."""
    rng = np.random.default_rng(0)
    voltage = [-65.0]
    held = []
    for current in I[:-1]:
        if held:
            voltage.append(held.pop(0))
            continue
        V = voltage[-1]
        V += dt / 10 * (-65 - V + current) + noise * rng.standard_normal()
        if V > -50:
            held = [30.0, -10.0, -70.0]
            V = 0.0
        voltage.append(V)
    return np.array(voltage)


def test_an_integrate_and_fire_neuron_is_fitted_to_one():
    """Its leak, and in a sweep that it was not fitted to, its spikes."""
    rng = np.random.default_rng(1)
    dt = 0.5
    I = [np.repeat(rng.uniform(0, 40, 40), 50) for _ in range(3)]
    V = [leaky_cell(current, dt, noise=0.05) for current in I]
    info = scaling(V[:2], dt, I[:2])
    first = 20
    spikes = spike_times(V, info, first)
    neuron = integrate_and_fire.fit(V[:2], I[:2], spikes[:2], dt, first, -20.0, 2.0)
    assert neuron.keep == pytest.approx(1 - dt / 10, abs=2e-3)
    assert neuron.by_current == pytest.approx(dt / 10, abs=2e-3)
    assert neuron.towards == pytest.approx(-65 * dt / 10, abs=0.1)
    assert (neuron.reset, neuron.pause) == (-70.0, 3)
    assert neuron.threshold == pytest.approx(-50, abs=0.6)
    fired = integrate_and_fire.fire(neuron, V[2][first - 1], I[2], dt, first)
    assert len(spikes[2]) > 30
    assert coincidence(spikes[2], fired, 2.0) > 0.9
    assert integrate_and_fire.fit(V, I, [[], [], []], dt, first, 0.0, 2.0) is None


def test_wrong_spikes_count_twice_in_number_and_once_in_time():
    true_times = np.array([10.0, 20.0, 30.0])
    assert num_wrong(true_times, np.array([10.5, 20.5, 30.5]), 1.0) == 0
    assert num_wrong(true_times, np.array([10.5, 25.0, 30.5]), 1.0) == 2
    assert num_wrong(true_times, np.array([]), 1.0) == 9


def test_the_cells_own_spikes_under_the_closest_current_are_a_ruler(capsys):
    currents = [spikes_at(REGULAR), spikes_at(REGULAR), spikes_at(SPARSE)]
    moved = REGULAR.copy()
    moved[:9] += 4  # of 27: the cell does not repeat itself
    voltages = [cell(REGULAR), cell(moved), cell(SPARSE)]
    repeat = judged(currents, voltages, [0])[0]
    assert repeat.copied == pytest.approx(18 / 27)
    assert repeat.copied_from == "sweep 1, a repeat"
    assert "occurs in training" in capsys.readouterr().out
    shorter = [cell(REGULAR), cell(moved)[:1675], cell(SPARSE)]
    currents_shorter = [currents[0], currents[1][:1675], currents[2]]
    repeat = judged(currents_shorter, shorter, [0])[0]
    assert repeat.copied == pytest.approx(13 / 22)  # of those that it could have
    new = judged(currents, voltages, [2])[2]
    assert new.copied_from in ("sweep 0", "sweep 1")


def test_without_a_current_the_ruler_is_a_metronome():
    voltages = [cell(REGULAR), cell(np.r_[92, np.arange(102, 245, 10), 297, 333])]
    train, test = hold_out(voltages, DT, None, [1])
    model = small_network("gru", False, scaling(train.V, DT))
    held_out = judge(model, train, test, DT, 500)[1]
    assert held_out.copied_from == "metronome"
    num_ticks = len(np.arange(102, 400, 10))
    assert held_out.copied == pytest.approx(2 * 16 / (17 + num_ticks))
    nothing_shown = judge(model, train, test, DT, 400)[1]
    assert nothing_shown.copied == 0


def test_wrong_spikes_are_those_after_the_warm_up_in_number_and_in_time():
    generated = np.array([151.0, 205, 250, 300])
    currents = [spikes_at(generated), spikes_at(SPARSE)]
    voltages = [cell([50, 150, 200, 250]), cell(SPARSE)]
    model = Told(2, 3, 1)
    model.info = scaling(voltages, DT, currents)
    # one too many, and 200, 205 and 300 are alone
    assert wrong_spikes(model, voltages, DT, 500, currents) == 2 * 1 + 3
    assert wrong_spikes(model, voltages[1], DT, 500, currents[1]) == 0


def test_the_row_of_a_run_that_ran_off_says_so(capsys):
    currents = [spikes_at(REGULAR), spikes_at(SPARSE), spikes_at(REGULAR)]
    voltages = [cell(REGULAR), cell(SPARSE), cell(REGULAR)]
    currents[0][-100:] = -40.0  # after its last spike
    scores = judged(currents, voltages, [1])
    assert [scores[k].ran_off for k in range(3)] == [True, False, False]
    rows = re.findall("^.* ran off$", capsys.readouterr().out, re.M)
    assert len(rows) == 1
    assert rows[0].startswith("0 ")


def test_thinned_sweeps_are_means_and_the_rest_is_left_out():
    np.testing.assert_array_equal(thin([1, 3, 5, 7, 100], 2), [2, 6])


# ---- the page ----


def hodgkin_huxley(I):
    """V (T,) of the equations of 1952, a current (T,) in each DT, by a solver."""

    def derivative(t, state):
        V, m, h, n = state
        k = min(int(t / axon.DT), len(I) - 1)
        a_m = 0.1 * (V + 40) / (1 - np.exp(-(V + 40) / 10))
        b_m = 4 * np.exp(-(V + 65) / 18)
        a_h = 0.07 * np.exp(-(V + 65) / 20)
        b_h = 1 / (1 + np.exp(-(V + 35) / 10))
        a_n = 0.01 * (V + 55) / (1 - np.exp(-(V + 55) / 10))
        b_n = 0.125 * np.exp(-(V + 65) / 80)
        inward = 120 * m**3 * h * (50 - V) + 36 * n**4 * (-77 - V) + 0.3 * (-54.4 - V)
        return [
            I[k] + inward,
            a_m * (1 - m) - b_m * m,
            a_h * (1 - h) - b_h * h,
            a_n * (1 - n) - b_n * n,
        ]

    t = axon.DT * np.arange(len(I))
    rest = (-65, 0.053, 0.596, 0.318)
    solution = solve_ivp(derivative, (0, t[-1]), rest, t_eval=t, max_step=axon.DT)
    return solution.y[0]


def test_the_axon_is_that_of_hodgkin_and_huxley():
    steps = 400  # 20 ms
    I = np.repeat([0.0, 10.0, -2.0, 15.0], steps)
    exact = hodgkin_huxley(I)
    V = axon.axon(I[:, None])[:, 0]
    info = {"V_zero": 0.0, "dt": axon.DT}
    true_times, times = spike_times([exact, V], info)
    assert len(true_times) == len(times) >= 3
    np.testing.assert_allclose(times, true_times, atol=0.2)
    np.testing.assert_allclose(V[:380], exact[:380], atol=0.05)


def test_the_axons_currents_jump_and_the_last_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axon.main(num_sweeps=2, duration=500)
    names = ["axon_0.csv", "axon_1.csv", "steady.csv"]
    assert sorted(path.name for path in Path("outputs").iterdir()) == names
    currents = []
    for name in names:
        path = Path("outputs") / name
        assert path.read_text().startswith("time_ms,current_uA_per_cm2,voltage_mV\n")
        time, current, _ = np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)
        np.testing.assert_allclose(time, axon.DT * np.arange(10_000))
        currents.append(current)
    for jumping in currents[:2]:
        assert 10 < np.count_nonzero(np.diff(jumping)) < 50  # 25 expected
        assert -2 <= jumping.min() < jumping.max() <= 16
    assert (currents[2] == 10).all()


class Prompt(code.InteractiveConsole):
    """A Python that is typed into; what it would print as an error, it raises."""

    def showsyntaxerror(self, filename=None, **_):
        raise

    def showtraceback(self):
        raise


def paste(prompt, block):
    for line in block.splitlines():
        prompt.push(line)
    prompt.push("")


def replaced(text, edits):
    for old, new in edits.items():
        if old not in text:
            pytest.fail(f"docs/recording.md no longer has: {old}")
        text = text.replace(old, new)
    return text


PAGE = (TOP / "docs" / "recording.md").read_text()
SHORTER = {
    "num_epochs = 50": "num_epochs = 2",
    "length = 1250": "length = 300",
    "range(5)": "range(2)",
    "held_out = [3]": "held_out = [1]",
}
ALL_PATHS = '[f"outputs/axon_{k}.csv" for k in range(2)]'
ONE_SWEEP = {ALL_PATHS: '["outputs/axon_1.csv"]'}
# what the page says of a constant current
NOT_TOLD = {
    ALL_PATHS: '["outputs/steady.csv"]',
    "columns = 0, 1, 2": "columns = 0, None, 2",
}


@pytest.mark.parametrize(
    ("edits", "num_sweeps", "is_told"),
    [({}, 2, True), (ONE_SWEEP, 2, True), (NOT_TOLD, 2, False)],
    ids=["two sweeps", "one sweep", "not told"],
)
def test_a_recording_goes_through_its_page(
    edits, num_sweeps, is_told, capsys, tmp_path, monkeypatch
):
    """A single sweep, or no current, with nothing else changed."""
    monkeypatch.chdir(tmp_path)
    axon.main(num_sweeps=2, duration=500)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(blocks) == 3
    prompt = Prompt()
    paste(prompt, replaced(replaced("\n".join(blocks), SHORTER), edits))
    info = prompt.locals["info"]
    assert load_checkpoint("outputs/cell.pth").info == info
    assert ("I_unit" in info) == is_told
    for picture in ("look.png", "recording.png"):
        assert (Path("outputs") / picture).stat().st_size > 0
    assert "wrong_spikes" in prompt.locals["history"][-1]
    scores = prompt.locals["scores"]
    assert [score.number for score in scores] == list(range(num_sweeps))
    assert [score.is_held_out for score in scores] == [False, True]
    assert np.isfinite(scores[-1].fired) == is_told
    said = capsys.readouterr().out
    assert "next voltage, trained: " in said
    assert re.search(r"^1 held out ", said, re.M)


READERS = re.findall(r"^```py\n(.*?)^```$", PAGE, re.M | re.S)
RECORDED = 'I.append(cell["I"][k])'
(REBUILT,) = re.findall(r"rebuild it.*`(I\.append.*)`", PAGE)


def test_the_readers_of_other_formats_are_python():
    assert len(READERS) == 3
    for reader in READERS:
        compile(reader, "docs/recording.md", "exec")


def test_arrays_are_read_and_a_current_is_rebuilt_as_the_page_says(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    voltages = RNG.normal(-60, 10, (2, 10_000))  # 500 ms
    currents = RNG.normal(100, 50, (2, 10_000))
    scipy.io.savemat("cell.mat", {"V": voltages, "I": currents})
    names = {"np": np, "times": [], "V": [], "I": [], "heights": [50, 100]}
    exec(READERS[0], names)
    assert time_step(names["times"]) == pytest.approx(1 / 20)
    np.testing.assert_array_equal(names["V"], voltages)
    np.testing.assert_array_equal(names["I"], currents)
    names["I"] = []
    exec(replaced(READERS[0], {RECORDED: REBUILT}), names)
    on = slice(4001, 8000)  # between 200 and 400 ms
    np.testing.assert_array_equal(names["I"][1][on], 100)
    np.testing.assert_array_equal(np.sum(names["I"], axis=1), [50 * 3999, 100 * 3999])
