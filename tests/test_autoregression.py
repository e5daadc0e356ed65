"""The judges of free running, on traces whose answer is known; generation; and the shipped network."""

from plumbing import save_figure, save_gif

import functools
import json
import math
import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from running import in_a_fresh_process, run_forked

import gru_autoregression as task
from datasets import FitzhughNagumo, simulate
from models import GRU, load_checkpoint, save_checkpoint

DT = 400 / 512


@functools.cache
def spiking(slower=1.0, scale=1.0, num_samples=4096):
    """A neuron's voltage from the solver, with its time stretched and its voltage scaled: the truth is known."""
    V, _ = simulate(0.3, 0.0, np.arange(num_samples) * DT / slower)
    return scale * V[:, 0]


def test_a_perfect_generator_has_no_error():
    true = spiking()
    period_error, in_phase, drift = task.compare_spikes(true, true, DT)
    assert (period_error, drift) == (0, 0)
    assert in_phase == pytest.approx(4096 * DT / 122.11, rel=1e-3)
    assert task.spectrum_distance(true, true) < 1e-7


@pytest.mark.parametrize("slower", [1.01, 0.98])
def test_a_generator_with_a_wrong_period_drifts_out_of_phase(slower):
    period_error, in_phase, drift = task.compare_spikes(spiking(), spiking(slower), DT)
    assert period_error == pytest.approx(abs(slower - 1), rel=0.02)
    assert in_phase == pytest.approx(0.05 / abs(slower - 1), abs=1)
    assert drift == pytest.approx(25 * abs(slower - 1), abs=2 * abs(slower - 1))


def test_a_generator_that_falls_silent_is_out_of_phase_from_there():
    true = spiking()
    silent = true.copy()
    silent[800:] = -1.0
    _, in_phase, drift = task.compare_spikes(true, silent, DT)
    assert drift == 1.0  # its last spike is missing, however well timed the others were
    assert in_phase == pytest.approx(800 * DT / 122.11, abs=1)
    assert task.spectrum_distance(true, silent) > 0.2


@pytest.mark.parametrize(("left", "is_missing"), [(0.04, False), (0.3, True)])
def test_a_missing_last_spike_counts_unless_it_may_have_come_just_after_the_end(left, is_missing):
    V = spiking(num_samples=5000)
    last = np.flatnonzero(task.crosses_upwards(V))[-2]
    true = V[: last + round(left * 122.11 / DT)]  # so many periods are left after the last spike
    silent = np.where(np.arange(len(true)) < last, true, -1.0)
    _, in_phase, drift = task.compare_spikes(true, silent, DT)
    assert drift == float(is_missing)
    assert in_phase == pytest.approx((last if is_missing else len(true)) * DT / 122.11, abs=0.02)


def test_no_judgement_without_a_true_period_and_none_for_nonsense():
    assert task.compare_spikes(np.full(4096, -1.0), spiking(), DT) == (1.0, 0.0, 1.0)
    assert task.spectrum_distance(spiking(), np.full(4096, np.nan)) == 1


def test_a_generator_that_never_spikes():
    assert task.compare_spikes(spiking(), np.full(4096, -1.0), DT)[::2] == (1.0, 1.0)
    assert task.compare_spikes(spiking(), np.full(4096, -1.0), DT)[1] < 1
    assert task.spectrum_distance(spiking(), np.full(4096, -1.0)) == 1


def test_spectrum_distance_against_the_textbook_formula():
    true, other = spiking(), spiking(1.3, 0.7)
    p, q = (np.abs(np.fft.rfft(V - V.mean())) ** 2 for V in (true, other))
    p, q = p / p.sum(), q / q.sum()
    expected = np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / math.sqrt(2)
    assert task.spectrum_distance(true, other) == pytest.approx(expected, abs=1e-12)
    assert task.spectrum_distance(2 * true, 0.5 * true) < 1e-7  # the amplitude does not matter


@pytest.mark.parametrize("future_T", [1, 2, 7, 8, 30])
def test_generate_equals_single_steps_across_its_blocks(future_T):
    torch.manual_seed(0)
    model = GRU(1, 6, 1, residual=True).double()
    init_x = torch.randn(9, 2, 1).double()
    generated = task.generate(model, init_x, future_T, block=7)
    states, readouts = model(init_x)
    H, Y = states[-1], readouts[-1]
    expected = [Y]
    for _ in range(future_T - 1):
        H, Y = model.single_step(Y, H)
        expected.append(Y)
    torch.testing.assert_close(generated, torch.stack(expected).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("future_T", [0, -1, 2.5])
def test_generate_refuses_a_horizon_below_one(future_T):
    with pytest.raises(ValueError, match="future_T"):
        task.generate(GRU(1, 3, 1), torch.zeros(2, 1, 1), future_T)


def test_run_freely_lines_up_samples_and_states():
    torch.manual_seed(0)
    model = GRU(1, 6, 1, residual=True)
    x = torch.randn(3, 40, 1)
    generated, states = task.run_freely(model, x, 10)
    assert torch.equal(generated[:, :10], x[:, :10])
    torch.testing.assert_close(generated[:, 10:].transpose(0, 1), task.generate(model, x[:, :10].transpose(0, 1), 30))
    # the state at t is the one that has just seen the sample of t
    torch.testing.assert_close(model(generated.transpose(0, 1))[0].detach(), states)


def test_recovery_is_read_out_by_regression_on_other_trajectories():
    rng = np.random.default_rng(0)
    states = torch.tensor(rng.standard_normal((50, 4, 3)), dtype=torch.float32)
    w = (states @ torch.tensor([1.0, -2.0, 0.5]) + 0.3).t().unsqueeze(-1)  # (N, T, 1)
    w[:, :10] = 7.0  # the warm-up is left out
    regression, r2 = task.fit_recovery(states, w, warm_up=10)
    np.testing.assert_allclose(regression.coef_, [1.0, -2.0, 0.5], atol=1e-5)
    assert r2 == pytest.approx(1)
    w[:2] = torch.randn(2, 50, 1)  # on these it is fitted
    _, r2 = task.fit_recovery(states, w, warm_up=10)
    assert r2 < 0.9


def test_noise_has_a_level_of_its_own_on_every_trace():
    torch.manual_seed(0)
    x = torch.zeros(400, 1000, 1)
    noisy = task.add_noise(x, 0.4)
    levels = noisy.std(dim=0).flatten()
    assert (levels == 0).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert levels.max().item() == pytest.approx(0.4, abs=0.05)
    assert np.histogram(levels[levels > 0], bins=4, range=(0, 0.4))[0].min() > 120  # uniform: 175 each
    assert torch.equal(task.add_noise(x, 0.0), x)


def as_dataset(traces):
    x = torch.tensor(np.stack(traces), dtype=torch.float32).unsqueeze(-1)
    return SimpleNamespace(data_x=x, dt=DT)


def test_judge_of_known_runs():
    true = spiking()
    silent = np.where(np.arange(len(true)) < 800, true, -1.0)
    dataset = as_dataset([true, true, true, true])
    perfect = task.judge(dataset, dataset.data_x, 50)
    assert perfect["share_in_phase"] == 1
    assert perfect["period_error"] < 1e-6
    assert perfect["amplitude_error"] == perfect["phase_drift_max"] == 0
    mixed = task.judge(dataset, as_dataset([true, true, true, silent]).data_x, 50)
    assert mixed["share_in_phase"] == 0.75
    assert mixed["phase_drift"] == 0
    assert mixed["phase_drift_max"] == 1
    assert mixed["periods_in_phase_min"] < 6 < mixed["periods_in_phase"]
    assert task.judge(dataset, 1.1 * dataset.data_x, 50)["amplitude_error"] == pytest.approx(0.1, abs=1e-6)


def test_noise_changes_the_warm_up_alone():
    torch.manual_seed(0)
    model, x = GRU(1, 6, 1, residual=True), torch.randn(3, 40, 1)
    noisy = x.clone()
    noisy[:, 10:] += 1.0  # beyond the warm-up nothing is looked at
    assert torch.equal(task.run_freely(model, x, 10)[0][:, 10:], task.run_freely(model, noisy, 10)[0][:, 10:])


def test_controls_of_the_recovery_variable():
    data = FitzhughNagumo(6, 600, duration=470.0, seed=0)
    controls = task.recovery_controls(GRU(1, 40, 1), data, 50)
    assert controls["w_r2_untrained"] > 0.999
    assert controls["w_r2_two_samples"] < 0.5
    data.data_w = 2 * data.data_x - 1  # something that the last sample tells
    assert task.recovery_controls(GRU(1, 40, 1), data, 50)["w_r2_two_samples"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--untrained --retrain", "--untrained: expected no --retrain"),
        ("--untrained --checkpoint x.pth", "--checkpoint: has no effect"),
        ("--retrain --checkpoint x.pth", "--checkpoint: has no effect"),
        ("--untrained --horizon 100", "--horizon: has no effect with --untrained"),
        ("--no-anywhere", "--anywhere: has no effect"),
        ("--retrain --num_epochs 0 --num_epochs_one_step 0", "expected at least one epoch"),
        ("--retrain --window 513", "--window.*here 513"),
        ("--n_hidden 32", "--n_hidden: has no effect on a network that is loaded; add --retrain"),
    ],
)
def test_flags_that_would_have_no_effect_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        task.main(flags.split())


def test_an_untrained_network_by_its_flag(tmp_path):
    flags = "--untrained --n_hidden 20 --num_train 8 --num_test 2 --test_duration 300 --no-train_visualization"
    metrics = task.main([*flags.split(), "--out_dir", str(tmp_path)])
    assert metrics["flags"]["n_hidden"] == 20
    assert metrics["flags"]["anywhere"] is True
    assert not {"horizon", "checkpoint"} & set(metrics["flags"])
    assert metrics["test_mse"] < 1
    assert [path.name for path in tmp_path.iterdir()] == ["gru_autoregression_metrics.json"]


def test_shipped_network_holds_the_limit_cycle():
    model = load_checkpoint(task.SHIPPED)
    size = {"N": 16, "T": 50 + 4096, "duration": (50 + 4096) * DT}
    test_set, original = FitzhughNagumo(**size, seed=99), FitzhughNagumo(**size, seed=98, anywhere=False)
    generated, states = task.run_freely(model, test_set.data_x, 50)
    torch.manual_seed(0)
    metrics = task.evaluate_model(model, test_set, original, generated, 50)
    for prefix in ("", "original_"):
        assert metrics[f"{prefix}period_error"] <= 1e-4
        assert metrics[f"{prefix}periods_in_phase_min"] >= 26
        assert metrics[f"{prefix}amplitude_error"] <= 5e-3
    assert metrics["share_in_phase_noise_0.1"] >= metrics["share_in_phase_noise_0.4"] >= 0.8
    assert metrics["share_in_phase_noise_0.2"] >= 0.93
    assert task.fit_recovery(states, test_set.data_w, 50)[1] >= 0.99
    assert metrics["test_mse"] < 0.02 * metrics["persistence_mse"]


def generate_a_hundred_thousand_steps():
    """Return them as an array, and by how many KiB the peak of this process grew for the last 97,000."""
    model = load_checkpoint(task.SHIPPED)
    init_x = FitzhughNagumo(1, 512, seed=3).get_init(50)
    task.generate(model, init_x, 3000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generated = task.generate(model, init_x, 100_000)
    return generated.flatten().numpy(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


@pytest.mark.slow
def test_a_hundred_thousand_steps_end_on_the_limit_cycle():
    generated, growth = in_a_fresh_process(generate_a_hundred_thousand_steps)
    assert growth < 10_000  # all states would take 25,600
    last = generated[-2000:]
    spikes = task.upward_crossings(last, DT)
    assert np.diff(spikes).mean() == pytest.approx(122.11, rel=2e-3)
    assert np.ptp(last) == pytest.approx(3.96, rel=0.01)


def test_bare_state_dict_of_any_size_is_run(tmp_path):
    torch.save(GRU(1, 11, 1).state_dict(), tmp_path / "bare.pth")
    model = task.load_model(tmp_path / "bare.pth", "cpu", DT)
    assert model.num_hiddens == 11


def test_pictures_of_a_network_of_a_single_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "save_gif", lambda path, frames, *rest, **fps: save_gif(path, frames[:2], *rest, **fps))
    model, data = GRU(1, 1, 1), FitzhughNagumo(2, 500, duration=390.0, seed=0)
    generated, states = task.run_freely(model, data.data_x, 50)
    recovery, _ = task.fit_recovery(states, data.data_w, 50)
    task.draw_pictures(tmp_path, model, data, generated, states, recovery, 50)
    names = {"autoGRU.gif", "phase_portrait.png", "gates.png"}
    assert {path.name for path in tmp_path.iterdir() if path.stat().st_size > 1000} == names


def test_the_portrait_of_many_units_is_the_same_every_time(tmp_path):
    torch.manual_seed(0)
    model, data = GRU(1, 500, 1), FitzhughNagumo(2, 600, duration=470.0, seed=0)
    generated, states = task.run_freely(model, data.data_x, 50)
    recovery, _ = task.fit_recovery(states, data.data_w, 50)
    for name in ("one.png", "other.png"):
        save_figure(tmp_path / name, task.draw_phase_portrait, data, generated, states, recovery, 50)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_a_network_of_another_task_is_refused(tmp_path):
    save_checkpoint(tmp_path / "other.pth", GRU(1, 4, 2), task="classification")
    with pytest.raises(ValueError, match=r"other\.pth: classification, 1 inputs and 2 outputs: expected.*--retrain"):
        task.load_model(tmp_path / "other.pth", "cpu", DT)


def test_noise_is_fixed_by_the_seed_and_leaves_its_traces_alone():
    x = torch.randn(20, 30, 1)
    before = x.clone()
    torch.manual_seed(5)
    one, other = task.add_noise(x, 0.3), task.add_noise(x, 0.3)
    torch.manual_seed(5)
    assert torch.equal(task.add_noise(x, 0.3), one)
    assert not torch.equal(one, other)
    assert torch.equal(x, before)


class Oracle(torch.nn.Module):
    """Stands in for run_freely and the network: notes what it is shown, and answers with the truth."""

    def __init__(self, dataset, original):
        super().__init__()
        self.dataset, self.original, self.shown = dataset, original, []

    def run_freely(self, model, x, warm_up):
        self.shown.append(x)
        truth = self.original if x is self.original.data_x else self.dataset
        return truth.data_x.clone(), None

    def predict(self, x):
        return self.dataset.data_y


def test_evaluation_puts_noise_of_the_named_size_on_the_warm_up_and_judges_by_the_clean_truth(monkeypatch):
    dataset, original = (FitzhughNagumo(4, 1000, duration=800.0, seed=s, anywhere=s > 0) for s in (1, 0))
    oracle, clean = Oracle(dataset, original), dataset.data_x.clone()
    monkeypatch.setattr(task, "run_freely", oracle.run_freely)
    torch.manual_seed(0)
    silent = torch.full_like(dataset.data_x, -1.0)
    metrics = task.evaluate_model(oracle, dataset, original, silent, 50)
    assert torch.equal(dataset.data_x, clean)
    assert metrics["share_in_phase"] == 0  # of what was generated before
    assert metrics["period_error"] == metrics["phase_drift_max"] == 1
    assert metrics["original_share_in_phase"] == 1
    assert metrics["test_mse"] == 0
    assert oracle.shown[0] is original.data_x
    for noise, shown in zip((0.1, 0.2, 0.4), oracle.shown[1:], strict=True):
        assert (shown - clean)[:, :50].std().item() == pytest.approx(noise, rel=0.2)
        assert metrics[f"share_in_phase_noise_{noise}"] == 1


def late(samples, begin):
    """A true trace that begins at sample `begin` of a neuron's, and the same trace so many samples late, both (T,)."""
    V = spiking(num_samples=5000)
    return V[begin : begin + 4096], V[begin - samples : begin - samples + 4096]


def test_a_run_that_is_one_sample_late_is_so_by_a_sample():
    before_a_spike = np.flatnonzero(task.crosses_upwards(spiking(num_samples=5000)))[2]
    drift = task.compare_spikes(*late(1, before_a_spike), DT)[2]
    assert drift == pytest.approx(DT / 122.11, rel=1e-3)


@pytest.mark.parametrize("samples", [1, -1])
def test_a_run_that_is_one_sample_off_over_the_border_is_so_by_a_sample(samples):
    after_a_spike = np.flatnonzero(task.crosses_upwards(spiking(num_samples=5000)))[2] + 1
    _, in_phase, drift = task.compare_spikes(*late(samples, after_a_spike + min(0, samples)), DT)
    assert drift == pytest.approx(DT / 122.11, rel=1e-3)
    assert in_phase == pytest.approx(4096 * DT / 122.11, rel=1e-3)


def test_a_first_spike_that_is_missing_is_no_matter_of_the_border():
    true = spiking()[100:]
    begins = np.flatnonzero(task.crosses_upwards(true))
    without_the_first = np.where(np.arange(len(true)) < begins[0] + 80, -1.0, true)
    assert begins[0] * DT > 0.05 * 122.11
    assert task.compare_spikes(true, without_the_first, DT)[1] == pytest.approx(begins[0] * DT / 122.11, abs=0.01)


def test_controls_give_the_known_answer_of_linear_functions():
    data, model, warm_up = FitzhughNagumo(8, 300, duration=240.0, seed=3), GRU(1, 5, 1), 20
    torch.manual_seed(4)
    states = GRU(1, 5, 1)(data.data_x.transpose(0, 1))[0].detach()  # the untrained network that is to be drawn
    before, weights = data.data_x.roll(1, 1), torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    answers = {}
    for name, w in (
        ("of the states", (states @ weights + 0.3).t().unsqueeze(-1)),
        ("of two samples", 5 * (data.data_x - before) - 0.2 * before + 1),
        ("of neither", torch.randn_like(before)),
    ):
        data.data_w = w.clone()
        data.data_w[:, :warm_up] = 1e3  # not looked at
        torch.manual_seed(4)
        answers[name] = task.recovery_controls(model, data, warm_up)
    assert answers["of the states"]["w_r2_untrained"] == pytest.approx(1, abs=1e-6)
    assert answers["of the states"]["w_r2_two_samples"] < 0.99
    assert answers["of two samples"]["w_r2_two_samples"] == pytest.approx(1, abs=1e-6)
    assert all(r2 < 0.05 for r2 in answers["of neither"].values())


@pytest.mark.parametrize("name", sorted(action.dest for action in task.train_flags._group_actions))
@pytest.mark.parametrize("mode", ["", "--untrained"])
def test_every_flag_of_training_is_refused_where_it_has_no_effect(mode, name):
    value = str(task.parser.get_default(name) + 1)
    args = task.parser.parse_args([*mode.split(), f"--{name}", value])
    if mode and name in ("n_hidden", "num_train"):
        task.check_flags(args)
        assert getattr(args, name) == int(value)
    else:
        with pytest.raises(ValueError, match=f"^--{name}: has no effect"):
            task.check_flags(args)


def test_an_untrained_network_from_the_shell(tmp_path):
    flags = "--untrained --n_hidden 12 --num_train 4 --num_test 2 --num_samples 128 --duration 100 --test_duration 300"
    result = run_forked("gru_autoregression", f"{flags} --no-train_visualization", tmp_path, tiny=False)
    assert (result.returncode, result.stderr) == (0, "")
    metrics = json.loads((tmp_path / "gru_autoregression_metrics.json").read_text())
    assert metrics["train_seconds"] == 0
    assert metrics["test_mse"] < 0.2
    assert set(metrics["flags"]).isdisjoint({"horizon", "init_lr", "num_epochs"})
