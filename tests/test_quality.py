"""The scripts with their defaults, held to what the README promises. Minutes each: python -m pytest -m slow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
SEEDS = pytest.mark.parametrize("seed", ["0", "1", "2"])


def metrics_of(stem, *flags, out_dir):
    command = [sys.executable, str(TOP / f"{stem}.py"), *flags, "--out_dir", str(out_dir)]
    subprocess.run(command, check=True, cwd=TOP, stdout=subprocess.DEVNULL)
    metrics = json.loads((out_dir / f"{stem}_metrics.json").read_text())
    print(stem, *flags, json.dumps(metrics))
    return metrics


@SEEDS
def test_regression(seed, tmp_path):
    metrics = metrics_of("gru_regression_scratch", "--seed", seed, out_dir=tmp_path)
    assert metrics["gru_early_mse"] <= min(7e-4, 2.2 * metrics["ideal_early_mse"])
    assert metrics["gru_late_mse"] <= 7e-4
    others = ("persistence", "linear", "quintic", "two_means", "untrained_32", "untrained_128")
    assert metrics["gru_late_mse"] <= min(metrics[f"{name}_late_mse"] for name in others) / 3
    assert metrics["ideal_late_mse"] <= 3e-5
    assert (tmp_path / "fitzhugh_nagumo_regression.gif").stat().st_size < 1_000_000


@SEEDS
def test_regression_without_noise(seed, tmp_path):
    metrics = metrics_of("gru_regression_scratch", "--noise_std", "0", "--seed", seed, out_dir=tmp_path)
    assert metrics["gru_mse"] <= 3e-7
    assert metrics["gru_mse"] < metrics["untrained_128_mse"] < metrics["untrained_32_mse"]


@SEEDS
def test_hard_classification(seed, tmp_path):
    metrics = metrics_of("gru_classification_scratch", "--seed", seed, out_dir=tmp_path)
    assert metrics["ideal_accuracy"] - metrics["accuracy"] <= 0.010
    for part in ("_at_quarter", "_at_half", "_at_three_quarters"):
        assert metrics[f"ideal_accuracy{part}"] - metrics[f"accuracy{part}"] <= 0.03
    assert metrics["features_accuracy"] < 0.75 < metrics["neighbours_accuracy"] < metrics["accuracy"]
    assert (tmp_path / "classification.gif").stat().st_size < 1_000_000


@SEEDS
def test_original_classification(seed, tmp_path):
    metrics = metrics_of("gru_classification_scratch", "--task", "original", "--seed", seed, out_dir=tmp_path)
    assert metrics["accuracy"] == 1
    assert metrics["features_accuracy"] >= 0.999


def good_generator(metrics, periods, period_error):
    for prefix in ("", "original_"):
        assert metrics[f"{prefix}period_error"] <= period_error
        assert metrics[f"{prefix}periods_in_phase_min"] >= periods
        assert metrics[f"{prefix}amplitude_error"] <= 5e-3
    assert metrics["share_in_phase_noise_0.2"] >= 0.95


@pytest.mark.parametrize(("duration", "periods"), [("3200", 26), ("12800", 104.5)])
def test_shipped_generator(duration, periods, tmp_path):
    good_generator(metrics_of("gru_autoregression", "--test_duration", duration, out_dir=tmp_path), periods, 1e-4)
    assert (tmp_path / "autoGRU.gif").stat().st_size < 1_000_000


@SEEDS
def test_retrained_generator(seed, tmp_path):
    good_generator(metrics_of("gru_autoregression", "--retrain", "--seed", seed, out_dir=tmp_path), 26, 1e-4)


@SEEDS
def test_an_untrained_network_is_as_good_without_noise_and_lost_with_it(seed, tmp_path):
    flags = ("--untrained", "--n_hidden", "500", "--no-train_visualization", "--seed", seed)
    metrics = metrics_of("gru_autoregression", *flags, out_dir=tmp_path)
    assert metrics["period_error"] <= 5e-4
    assert metrics["periods_in_phase_min"] >= 26
    assert metrics["share_in_phase_noise_0.2"] <= 0.7


@SEEDS
def test_driven_neuron(seed, tmp_path):
    metrics = metrics_of("gru_driven_neuron", "--seed", seed, out_dir=tmp_path)
    for name in ("jumps", "constant"):  # the f-I curve hardly tells one from the other
        assert metrics[f"{name}_fires_from"] == pytest.approx(0.300, abs=0.021)
        assert metrics[f"{name}_fires_to"] == pytest.approx(1.450, abs=0.021)
        assert metrics[f"{name}_period_error"] <= 1e-2
    for width in (2, 5, 15):
        neuron = metrics[f"neuron_threshold_{width}"]
        assert metrics[f"jumps_threshold_{width}"] == pytest.approx(neuron, rel=0.35)
        assert metrics[f"constant_threshold_{width}"] > 3 * neuron
    assert metrics["jumps_phase_response_correlation"] >= 0.98
    assert metrics["jumps_phase_response_error"] <= 3e-3
    assert metrics["jumps_random_current"] >= 0.96
    assert metrics["constant_random_current"] < 0.4
