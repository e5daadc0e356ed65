"""Recordings: windows, free runs, what is noticed in a recording, and the page."""

import code
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from backstage.checkpoints import load_checkpoint, save_checkpoint
from cells import CELLS
from extras import axon
from models import GRU
from recording import check, free_run, scaling, spike_times, windows

TOP = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(0)
DT = 0.2  # ms
LENGTHS = [30, 47, 25]  # of the sweeps, in samples
V = [RNG.normal(-60, 10, length) for length in LENGTHS]  # mV
I = [RNG.normal(100, 50, length) for length in LENGTHS]  # pA


def current(told):
    return I if told else None


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
    data = windows(V, info, length, hop, current(told))
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
NO_DT = "expected ms, 1000 times the dt in s"
ALL_SWEEPS = r"V has sweeps of \[30, 47, 25\] samples, "


@pytest.mark.parametrize(
    ("V", "dt", "I", "message"),
    [
        (WITH_GAPS, DT, None, GAP),
        (V[:2], DT, [I[0], np.full(47, np.inf)], "I, sweep 1: 47 of 47 values"),
        (np.transpose([V[0], V[0]]), DT, None, "V has 30 sweeps of 2 .* it, V.T"),
        (V[0], DT, I[0][:, None], "I has 30 sweeps of 1 samples: transpose it, I.T"),
        ([], DT, None, "V is empty"),
        (V, DT, [], "I is empty"),
        (np.empty((3, 0)), DT, None, r"V, sweep 0 has shape \(0,\): expected"),
        (V, DT, [[], [], []], r"I, sweep 0 has shape \(0,\): expected"),
        (V, DT, [I[0], None, I[2]], r"I, sweep 1 has shape \(\): expected"),
        ([V], DT, None, r"V, sweep 0 has shape|inhomogeneous"),
        (V[0].astype(np.float16), DT, None, f"V {HALF}"),
        ([V[0], V[1].astype(np.float16)], DT, None, f"V {HALF}"),
        (V[0], DT, I[0].astype(np.float16), f"I {HALF}"),
        (V[0].astype(np.int16), DT, None, COUNTS),
        ([V[0], V[1].astype(np.int16)], DT, None, COUNTS),
        (V[0] / 1000, DT, None, f"V lies between -0.08.* and -0.0.*: {NO_VOLTAGE}"),
        (V[0] * 1000, DT, None, NO_VOLTAGE),
        (-V[0], DT, None, NO_VOLTAGE),
        (np.full(30, -60.0), DT, None, f"V lies between -60 and -60: {NO_VOLTAGE}"),
        (V[0], DT, np.full(30, 50.0), "I never changes: .* leave it out"),
        (V, 2e-4, None, f"dt = 0.0002: {NO_DT}"),
        (V, 200.0, None, f"dt = 200: {NO_DT}"),
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
        windows(V, info, 25, 5)
    assert len(windows(V, info, 24, 50)) == 3
    model = GRU(1, 5, 1)
    model.info = info
    for warm_up in (0, 25):
        with pytest.raises(ValueError, match=f"warm_up = {warm_up}: .* the 25 samples"):
            free_run(model, V, warm_up)
    assert len(free_run(model, V[2], 24)[0]) == 25


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
    runs = free_run(model, V, warm_up, current(told))
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
    first, second = free_run(model, [V[1], V[2][:13]], 12)
    margin = np.sign(drift) * (info["V_high"] - info["V_low"]) / 2
    assert first[-1] == pytest.approx(info[end] + margin)
    assert len(second) == 13
    said = capsys.readouterr().out
    assert said == "1 of 2 free runs go far beyond the recording's range: clipped\n"


def test_a_free_run_that_is_not_a_number_is_said(capsys):
    model = small_network("gru", False, scaling(V, DT))
    with torch.no_grad():
        model.fc.bias.fill_(torch.nan)
    free_run(model, V, 12)
    assert capsys.readouterr().out.startswith("3 of 3 free runs")


def test_spikes_are_counted_where_they_cross_v_zero():
    info = {"V_zero": -20.0, "dt": DT}
    sweeps = [np.array([-60, -30, -10, 30, -60, -40, 0.0]), np.array([-60.0, -21])]
    first, second = spike_times(sweeps, info)
    np.testing.assert_allclose(first, [1.5 * DT, 5.5 * DT])
    assert len(second) == 0


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
    "num_epochs = 40": "num_epochs = 2",
    "length=1250": "length=300",
}
TWO_SWEEPS = {"range(5)": "range(2)"}
ONE_SWEEP = {
    '[f"outputs/axon_{k}.csv" for k in range(5)]': '["outputs/steady.csv"]',
    # what the page says of one long recording, without a current
    "train_V = V[:-1]": "end = len(V[0]) * 3 // 4\ntrain_V = [V[0][:end]]",
    "test_V = V[-1:]": "test_V = [V[0][end:]]",
    "train_I = I[:-1]": "train_I = None",
    "test_I = I[-1:]": "test_I = None",
}


@pytest.mark.parametrize("edits", [TWO_SWEEPS, ONE_SWEEP], ids=["told", "not told"])
def test_a_recording_goes_through_its_page(edits, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axon.main(num_sweeps=2, duration=500)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(blocks) == 3
    prompt = Prompt()
    paste(prompt, replaced("\n".join(blocks), SHORTER | edits))
    info = prompt.locals["info"]
    assert load_checkpoint("outputs/cell.pth").info == info
    assert ("I_unit" in info) == (edits is TWO_SWEEPS)
    for picture in ("look.png", "recording.png"):
        assert (Path("outputs") / picture).stat().st_size > 0
    assert "wrong_spikes" in prompt.locals["history"][-1]
    said = capsys.readouterr().out
    assert "next voltage, GRU: " in said
    assert len(re.findall("spikes, network", said)) == 2


def test_what_the_page_says_of_one_long_recording_is_what_is_tested():
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S)
    for new in ONE_SWEEP.values():
        for line in new.splitlines():
            if "outputs" not in line:
                assert f"`{line}`" in prose
