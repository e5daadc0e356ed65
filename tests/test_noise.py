"""Noise on every sample: how it is recorded, and the ideal observer, which knows how to see through it."""

import numpy as np
import pytest
import torch

import gru_regression_scratch as task
from datasets import FitzhughNagumo
from observers import ideal_prediction, predict_next, weigh


def test_a_recording_has_the_same_noise_on_a_sample_as_an_input_and_as_a_target():
    torch.manual_seed(0)
    neurons = FitzhughNagumo(20, 500, duration=200.0, seed=1)
    noisy = task.record(neurons, 0.1)
    assert torch.equal(noisy.data_x[:, 1:], noisy.data_y[:, :-1])
    assert (noisy.data_x - neurons.data_x).std().item() == pytest.approx(0.1, rel=0.03)
    assert torch.equal(task.record(neurons, 0.0).data_y, neurons.data_y)


def test_bayes_rule_by_hand():
    V = torch.tensor(
        [[0.0, 1.0], [2.0, 2.0], [0.0, -1.0], [5.0, 9.0]]
    )  # of two hypotheses, at four times
    x = torch.tensor(
        [[0.5, 7.0, -0.7]]
    )  # says nothing, twice; then it is 0.2 nearer to the second one
    P = torch.stack(list(weigh(x, V, noise_std=0.5)))[:, 0]
    odds = np.exp((0.7**2 - 0.3**2) / (2 * 0.5**2))
    np.testing.assert_allclose(
        P, [[0.5, 0.5], [0.5, 0.5], [1 / (1 + odds), odds / (1 + odds)]], rtol=1e-6
    )
    np.testing.assert_allclose(
        predict_next(x, V, 0.5)[0][0], [2.0, -0.5, 5 + 4 * odds / (1 + odds)], rtol=1e-6
    )


@pytest.mark.parametrize("anywhere", [True, False])
def test_ideal_observer_is_as_good_as_all_the_neurons_that_there_could_be(anywhere):
    torch.manual_seed(0)
    test = FitzhughNagumo(16, 150, duration=60.0, seed=2, anywhere=anywhere)
    x, true = task.record(test, 0.1).data_x[..., 0], test.data_y[..., 0]
    many = FitzhughNagumo(20_000, 150, duration=60.0, seed=3, anywhere=anywhere)
    V = torch.cat([many.data_x[:, :1], many.data_y], 1)[..., 0].t()
    brute_force, ideal = (
        p.sub(true).square()
        for p in (predict_next(x, V, 0.1)[0], ideal_prediction(x, test, 0.1))
    )
    for part in (slice(0, 60), slice(60, 150)):
        assert ideal[:, part].mean() < 1.2 * brute_force[:, part].mean() + 1e-4


def test_ideal_observer_never_forgets():
    """It looks for one number, the phase: n samples with noise of variance σ² leave an error of about σ² / n."""
    torch.manual_seed(0)
    test = FitzhughNagumo(32, 1000, seed=4)
    error = (
        ideal_prediction(task.record(test, 0.1).data_x[..., 0], test, 0.1)
        .sub(test.data_y[..., 0])
        .square()
    )
    assert 0.5 * 0.1**2 / 750 < error[:, 500:].mean() < 2.5 * 0.1**2 / 750


def test_nothing_but_the_network_depends_on_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "ideal_prediction", lambda x, *_: x)
    flags = "--num_train 4 --num_test 2 --num_samples 100 --duration 40 --n_hidden 4 --no-train_visualization --out_dir"
    one, two = (
        task.main([*flags.split(), str(tmp_path), "--num_epochs", epochs])
        for epochs in "12"
    )
    different = {name for name in one if "mse" in name and one[name] != two[name]}
    assert different == {"gru_mse", "gru_early_mse", "gru_late_mse"}
