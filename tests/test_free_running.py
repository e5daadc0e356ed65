"""Task 2's judge, on traces whose spike times are known; and how a network runs on."""

import numpy as np
import pytest
import torch

from free_running import (
    compare_spikes,
    has_missing,
    judge,
    period_error,
    run_freely,
    without_border,
)
from models import GRU

DT = 0.5
PERIOD = 100.0
END = 1000.0  # of a trace, in time units
BEATS = PERIOD * np.arange(10)


def trace(times):
    """A trace (T,) that crosses 0 upwards at these times, and at no others."""
    V = np.full(round(END / DT), -1.0)
    for time in times:
        before = int(time // DT)
        V[before] = before * DT - time
        V[before + 1] = (before + 1) * DT - time
    return V


TRUE = 20.3 + BEATS

# what was generated, the period's error, periods in phase, drift
KNOWN_RUNS = {
    "the same": (TRUE, 0, 10, 0),
    "a period that is 1.1 % too long": (20.3 + 1.011 * BEATS, 0.011, 5.203, 0.099),
    "a period that is 2 % too short": (20.3 + 0.98 * BEATS, 0.02, 3.203, 0.18),
    "late by 4 % of a period": (TRUE + 4, 0, 10, 0.04),
    "late by 6 %": (TRUE + 6, 0, 0.203, 0.06),
    "early by 6 %": (TRUE - 6, 0, 0.203, 0.06),
    "no first spike": (TRUE[1:], 0, 0.203, 1),
    "no fifth spike": (np.delete(TRUE, 4), 1 / 8, 4.203, 1),
    "a spike too many": (np.sort([*TRUE, 470.0]), 1 / 10, 5.203, 1),
    "silent after four": (TRUE[:4], 0, 4.203, 1),
    "one spike alone": (TRUE[:1], 1, 1.203, 1),
    "never a spike": ([], 1, 0.203, 1),
}


@pytest.mark.parametrize("kind", KNOWN_RUNS)
def test_runs_of_known_spikes_are_judged_as_known(kind):
    times, *expected = KNOWN_RUNS[kind]
    comparison = compare_spikes(trace(TRUE), trace(times), DT)
    assert comparison == pytest.approx(tuple(expected), abs=1e-9)


@pytest.mark.parametrize("true", [[], [500.2]])
def test_with_a_truth_that_has_no_period_all_is_wrong(true):
    comparison = compare_spikes(trace(true), trace(TRUE), DT)
    assert comparison == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("late", [-2.0, 2.0])
def test_a_spike_that_falls_over_the_border_is_neither_missing_nor_too_much(late):
    own = 0.7 + BEATS  # the first spike comes at once
    all_times = own + late
    if late < 0:  # then it came before the trace
        all_times = np.append(all_times[1:], own[-1] + PERIOD + late)
    comparison = compare_spikes(trace(own), trace(all_times), DT)
    assert comparison == pytest.approx((0, 10, 0.02), abs=1e-9)
    other_way = compare_spikes(trace(all_times), trace(own), DT)
    assert other_way == pytest.approx((0, 10, 0.02), abs=1e-9)


# ---- the pieces, by hand ----


@pytest.mark.parametrize(
    ("true", "times", "left_true", "left"),
    [
        # less than half a period apart: they belong together
        ([3.0, 103.0], [40.0, 140.0], [3.0, 103.0], [40.0, 140.0]),
        # a spike within 5 % of the border, whose counterpart came before it
        ([3.0, 103.0], [101.0, 201.0], [103.0], [101.0, 201.0]),
        ([101.0, 201.0], [3.0, 103.0], [101.0, 201.0], [103.0]),
        # no matter of the border
        ([6.0, 106.0], [106.0, 206.0], [6.0, 106.0], [106.0, 206.0]),
        ([106.0, 206.0], [6.0, 106.0], [106.0, 206.0], [6.0, 106.0]),
        ([3.0, 103.0], [], [3.0, 103.0], []),
    ],
)
def test_only_a_first_spike_at_the_border_is_dropped(true, times, left_true, left):
    true, times = without_border(np.array(true), np.array(times), PERIOD)
    assert true.tolist() == left_true
    assert times.tolist() == left


def test_period_error_is_relative_and_1_without_a_period():
    assert period_error(np.array([5.0, 95.0, 225.0]), PERIOD) == pytest.approx(0.1)
    assert period_error(np.array([5.0, 95.0]), PERIOD) == pytest.approx(0.1)
    assert period_error(np.array([5.0]), PERIOD) == 1
    assert period_error(np.array([]), PERIOD) == 1


@pytest.mark.parametrize(
    ("last_true", "drift", "is_missing"),
    [
        (94.0, [], True),  # 6 % of a period were left for it
        (96.0, [], False),
        (94.0, [0.3, 0.0], True),
        (96.0, [0.0, 0.0], False),
        (92.0, [0.0, 0.02], True),  # 2 % late: it had until 97
        (94.0, [0.0, 0.02], False),
        (96.0, [0.0, -0.02], False),  # early ones do not shorten its time
    ],
)
def test_a_spike_is_missing_if_there_was_time_for_it(last_true, drift, is_missing):
    true_times = np.append(np.arange(len(drift)) - 10.0, last_true)
    assert has_missing(true_times, np.array(drift), period=100.0, end=100) == is_missing
    assert not has_missing(true_times[:-1], np.array(drift), period=100.0, end=100)


# ---- all traces together ----


def stacked(*traces):
    return torch.tensor(np.stack(traces, axis=1), dtype=torch.float32)[..., None]


def test_judge_of_known_runs():
    """Medians, but for the worst trajectory and for the share that is in phase."""
    true = stacked(*5 * [trace(TRUE)])
    same = judge(true, true, DT)
    assert same.pop("periods_in_phase") == pytest.approx(10, rel=1e-5)
    assert same.pop("periods_in_phase_min") == pytest.approx(10, rel=1e-5)
    assert same.pop("share_in_phase") == 1
    assert list(same.values()) == [0, 0, 0, 0]

    late = 20.3 + 1.011 * BEATS
    later = 20.3 + 1.02 * BEATS[:9]  # from the third spike on it is out of phase
    runs = [TRUE, late, later, TRUE, []]
    judged = judge(true, stacked(*map(trace, runs)), DT)
    expected = {
        "period_error": 0.011,
        "amplitude_error": 0,
        "periods_in_phase": 5.203,
        "periods_in_phase_min": 0.203,
        "share_in_phase": 0.4,
        "phase_drift": 0.099,
        "phase_drift_max": 1,
    }
    assert judged == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_amplitude_error_is_relative_to_each_trajectorys_own():
    true = stacked(trace(TRUE), 2 * trace(TRUE), 3 * trace(TRUE))
    larger = true * torch.tensor([1.0, 1.2, 0.7])[:, None]
    assert judge(true, larger, DT)["amplitude_error"] == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("num", [1, 2, 30])
def test_run_freely_is_single_steps_fed_with_their_own_output(num):
    torch.manual_seed(0)
    model = GRU(1, 6, 1, residual=True).double()
    first = torch.randn(9, 2, 1, dtype=torch.float64)
    H = torch.zeros(2, 6, dtype=torch.float64)
    states = []
    for X in first:
        H, Y = model.single_step(X, H)
        states.append(H)
    samples = []
    for _ in range(num):
        samples.append(Y)
        H, Y = model.single_step(Y, H)
        states.append(H)
    generated, all_states = run_freely(model, first, num)
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(generated, torch.stack(samples).detach(), **exact)
    torch.testing.assert_close(all_states, torch.stack(states).detach(), **exact)
