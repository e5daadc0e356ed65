"""The scripts with their defaults, held to what the pages promise.

Minutes each: python -m pytest -m slow
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
LARGEST_GIF = 1_000_000  # bytes
pytestmark = pytest.mark.slow
SEEDS = pytest.mark.parametrize("seed", ["0", "1", "2"])


def metrics_of(stem, *flags, out_dir):
    """Run a script as a student does; return the metrics that it wrote."""
    command = [sys.executable, str(TOP / f"{stem}.py"), *flags]
    command += ["--out_dir", str(out_dir)]
    subprocess.run(command, check=True, cwd=TOP, stdout=subprocess.DEVNULL)
    metrics = json.loads((out_dir / f"{stem}_metrics.json").read_text())
    print(stem, *flags, json.dumps(metrics))
    return metrics


# ---- task 1 ----


@SEEDS
def test_regression_is_near_the_ideal_early_and_far_ahead_of_filters(seed, tmp_path):
    metrics = metrics_of("gru_regression_scratch", "--seed", seed, out_dir=tmp_path)
    assert metrics["trained_early_mse"] <= 6e-4
    assert metrics["trained_early_mse"] <= 1.5 * metrics["ideal_early_mse"]
    assert metrics["trained_late_mse"] <= 4e-4
    for other in ("persistence", "linear", "quintic", "two_means"):
        assert metrics["trained_late_mse"] <= metrics[f"{other}_late_mse"] / 6
    for untrained in ("untrained_32", "untrained_128"):
        assert metrics["trained_late_mse"] <= metrics[f"{untrained}_late_mse"] / 5
    assert metrics["longer_late_mse"] <= metrics["trained_late_mse"] / 3
    assert metrics["longer_late_mse"] <= 6 * metrics["ideal_late_mse"]
    assert metrics["ideal_late_mse"] <= 3e-5
    gif = tmp_path / "fitzhugh_nagumo_regression.gif"
    assert gif.stat().st_size < LARGEST_GIF


@SEEDS
def test_five_minutes_and_the_whole_trace_bring_regression_near_the_ideal(
    seed, tmp_path
):
    flags = ["--window", "1000", "--memory", "300", "--batch_size", "8"]
    flags += ["--num_epochs", "300", "--seed", seed, "--no-train_visualization"]
    metrics = metrics_of("gru_regression_scratch", *flags, out_dir=tmp_path)
    assert metrics["trained_late_mse"] <= 6 * metrics["ideal_late_mse"]
    assert metrics["trained_early_mse"] <= 1.3 * metrics["ideal_early_mse"]


@SEEDS
def test_regression_with_adam_is_behind(seed, tmp_path):
    flags = ["--optimizer", "adam", "--seed", seed, "--no-train_visualization"]
    metrics = metrics_of("gru_regression_scratch", *flags, out_dir=tmp_path)
    assert metrics["trained_late_mse"] >= 4e-4


@SEEDS
def test_regression_without_noise_beats_untrained_networks(seed, tmp_path):
    flags = ("--noise_std", "0", "--seed", seed)
    metrics = metrics_of("gru_regression_scratch", *flags, out_dir=tmp_path)
    assert metrics["trained_mse"] <= 1.5e-7
    assert metrics["trained_mse"] < metrics["untrained_128_mse"]
    assert metrics["untrained_128_mse"] < metrics["untrained_32_mse"]


# ---- task 2 ----


def assert_generates_well(metrics, periods):
    assert metrics["trained_period_error"] <= 1e-4
    assert metrics["trained_periods_in_phase_min"] >= periods
    assert metrics["trained_amplitude_error"] <= 5e-3
    assert metrics["trained_share_in_phase_noise_0.2"] >= 0.95


@pytest.mark.parametrize(("duration", "periods"), [("3200", 26), ("12800", 104.5)])
def test_shipped_generator_keeps_the_beat_and_others_lose_it(
    duration, periods, tmp_path
):
    flags = ("--test_duration", duration)
    metrics = metrics_of("gru_autoregression", *flags, out_dir=tmp_path)
    assert_generates_well(metrics, periods)
    assert metrics["untrained_periods_in_phase"] <= 5  # of the same size
    assert metrics["polynomial_share_in_phase_noise_0.2"] <= 0.7
    assert (tmp_path / "autoGRU.gif").stat().st_size < LARGEST_GIF


@SEEDS
def test_retrained_generator_keeps_the_beat(seed, tmp_path):
    flags = ("--retrain", "--seed", seed)
    metrics = metrics_of("gru_autoregression", *flags, out_dir=tmp_path)
    assert_generates_well(metrics, periods=26)


@SEEDS
def test_500_untrained_units_are_as_good_without_noise_and_lost_with_it(seed, tmp_path):
    flags = ("--untrained", "500", "--no-train_visualization", "--seed", seed)
    metrics = metrics_of("gru_autoregression", *flags, out_dir=tmp_path)
    assert metrics["untrained_period_error"] <= 5e-4
    assert metrics["untrained_periods_in_phase_min"] >= 26
    assert metrics["untrained_share_in_phase_noise_0.2"] <= 0.7


# ---- task 3 ----


@SEEDS
def test_hard_classification_is_near_the_ideal_all_along(seed, tmp_path):
    metrics = metrics_of("gru_classification_scratch", "--seed", seed, out_dir=tmp_path)
    assert metrics["ideal_accuracy"] - metrics["accuracy"] <= 0.007
    for part in ("at_quarter", "at_half", "at_three_quarters"):
        ideal = metrics[f"ideal_accuracy_{part}"]
        assert ideal - metrics[f"accuracy_{part}"] <= 0.03
    assert metrics["features_accuracy"] < 0.75
    assert 0.75 < metrics["neighbours_accuracy"] < metrics["accuracy"]
    assert (tmp_path / "classification.gif").stat().st_size < LARGEST_GIF


@SEEDS
def test_original_classification_is_solved_by_four_features_too(seed, tmp_path):
    flags = ("--task", "original", "--seed", seed)
    metrics = metrics_of("gru_classification_scratch", *flags, out_dir=tmp_path)
    assert metrics["accuracy"] == 1
    assert metrics["features_accuracy"] >= 0.999


# ---- sample and hold ----


@SEEDS
def test_only_who_computes_its_gate_can_sample_and_hold(seed, tmp_path):
    cells = "plain", "leaky", "update_gate", "gru"
    metrics = metrics_of(
        "sample_and_hold", "--cell", *cells, "--seed", seed, out_dir=tmp_path
    )
    for without in ("plain_mse", "leaky_mse"):
        assert metrics[without] > 0.05
    for computed in ("update_gate_mse", "gru_mse"):
        assert metrics[computed] < 0.01
    assert metrics["gru_mse"] < metrics["update_gate_mse"]
    assert metrics["Z_at_trigger"] < 0.75 < 0.85 < metrics["Z_between"]
    assert metrics["Z_lower_at_trigger"] >= 28


# ---- task 4 ----


@SEEDS
def test_a_driven_network_answers_like_the_neuron_if_its_currents_jumped(
    seed, tmp_path
):
    metrics = metrics_of("gru_driven_neuron", "--seed", seed, out_dir=tmp_path)
    for name in ("jumps", "constant"):  # the f-I curve hardly tells one from the other
        assert metrics[f"{name}_fires_from"] == pytest.approx(0.300, abs=0.011)
        assert metrics[f"{name}_fires_to"] == pytest.approx(1.450, abs=0.011)
        assert metrics[f"{name}_period_error"] <= 3e-3
    for width in (2, 5, 15):
        neuron = metrics[f"neuron_threshold_{width}"]
        assert metrics[f"jumps_threshold_{width}"] == pytest.approx(neuron, rel=0.2)
        assert metrics[f"constant_threshold_{width}"] > 3 * neuron
    assert metrics["jumps_phase_response_correlation"] >= 0.99
    assert metrics["jumps_phase_response_error"] <= 2e-3
    assert metrics["jumps_random_current"] >= 0.98
    assert metrics["jumps_white_noise"] >= 0.82
    assert metrics["polynomial_random_current"] < 0.75
    assert metrics["constant_random_current"] < 0.4
