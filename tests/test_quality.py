"""The scripts with their defaults, held to what the README promises. Minutes each: python -m pytest -m slow."""

import json
import subprocess
import sys

import pytest
from test_scripts import TOP

pytestmark = pytest.mark.slow


def metrics_of(stem, *flags, out_dir):
    command = [sys.executable, str(TOP / f"{stem}.py"), *flags, "--out_dir", str(out_dir)]
    subprocess.run(command, check=True, cwd=TOP, stdout=subprocess.DEVNULL)
    metrics = json.loads((out_dir / f"{stem}_metrics.json").read_text())
    del metrics["flags"]
    print(stem, *flags, json.dumps(metrics))
    return metrics


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_regression(seed, tmp_path):
    metrics = metrics_of("gru_regression_scratch", "--seed", seed, out_dir=tmp_path)
    assert metrics["test_mse"] <= 2e-6
    assert metrics["test_mse"] < metrics["polynomial_mse"] < metrics["autoregression_mse"] < metrics["persistence_mse"]
    assert (tmp_path / "fitzhugh_nagumo_regression.gif").stat().st_size < 1_000_000


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_hard_classification(seed, tmp_path):
    metrics = metrics_of("gru_classification_scratch", "--seed", seed, out_dir=tmp_path)
    assert metrics["accuracy"] >= 0.97
    assert metrics["baseline_accuracy"] < 0.75
    assert (tmp_path / "classification.gif").stat().st_size < 1_000_000


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_original_classification(seed, tmp_path):
    metrics = metrics_of("gru_classification_scratch", "--task", "original", "--seed", seed, out_dir=tmp_path)
    assert metrics["accuracy"] == 1
    assert metrics["baseline_accuracy"] >= 0.999


def test_shipped_generator(tmp_path):
    metrics = metrics_of("gru_autoregression", out_dir=tmp_path)
    assert metrics["period_error"] <= 5e-4
    assert metrics["periods_in_phase"] >= 26
    assert metrics["periods_in_phase_min"] >= 25
    assert metrics["amplitude_error"] <= 5e-3
    assert metrics["w_r2"] >= 0.99
    assert (tmp_path / "autoGRU.gif").stat().st_size < 1_000_000


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_retrained_generator(seed, tmp_path):
    metrics = metrics_of("gru_autoregression", "--retrain", "--seed", seed, out_dir=tmp_path)
    assert metrics["period_error"] <= 2e-3
    assert metrics["periods_in_phase_min"] >= 20
