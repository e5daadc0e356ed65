"""The ideal observers: against Bayes' rule by hand, brute force, and what is known."""

import numpy as np
import pytest
import torch

import datasets
import observers
from datasets import FitzhughNagumo, FitzhughNagumoClassification, period, simulate
from observers import (
    clean_windows,
    follow_starts,
    hand_over,
    ideal_beliefs,
    ideal_prediction,
    moments_of_two_paths,
    predict_next,
    weigh,
)

HARD = {"noise_std": 0.2, "random_phase": True, "match_period": True}


def noisy_samples(neurons, noise_std, seed=0):
    """What an electrode hands out of a FitzhughNagumo dataset: V with noise, (T, N)."""
    V = neurons.data_x[..., 0]
    generator = torch.Generator().manual_seed(seed)
    return V + noise_std * torch.randn(V.shape, generator=generator)


def true_next(neurons):
    return neurons.data_y[..., 0]


# ---- weighing ----


def test_bayes_rule_by_hand():
    # two hypotheses, at four times
    V = torch.tensor([[0.0, 1.0], [2.0, 2.0], [0.0, -1.0], [5.0, 9.0]])
    # says nothing, twice; then it is 0.3 from the second, 0.7 from the first
    x = torch.tensor([[0.5], [7.0], [-0.7]])
    P = torch.stack(list(weigh(x, V[:-1], noise_std=0.5)))[:, 0]
    odds = np.exp((0.7**2 - 0.3**2) / (2 * 0.5**2))
    last = [1 / (1 + odds), odds / (1 + odds)]
    np.testing.assert_allclose(P, [[0.5, 0.5], [0.5, 0.5], last], rtol=1e-6)
    prediction, last_P = predict_next(x, V, noise_std=0.5)
    expected = [2.0, -0.5, 5 + 4 * odds / (1 + odds)]
    np.testing.assert_allclose(prediction[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(last_P, [last], rtol=1e-6)


def test_prior_is_weighed_as_what_was_seen_before():
    generator = torch.Generator().manual_seed(0)
    V = torch.randn(21, 6, generator=generator)
    x = torch.randn(20, 5, generator=generator)
    whole, whole_P = predict_next(x, V, noise_std=2.0)
    early, P = predict_next(x[:8], V[:9], noise_std=2.0, batch_size=2)
    late, late_P = predict_next(x[8:], V[8:], noise_std=2.0, prior=P, batch_size=2)
    torch.testing.assert_close(torch.cat([early, late]), whole)
    torch.testing.assert_close(late_P, whole_P)


def test_hypotheses_may_be_numbered_twice():
    generator = torch.Generator().manual_seed(0)
    V = torch.randn(9, 2, 3, generator=generator)
    x = torch.randn(8, 4, generator=generator)
    for result, expected in zip(
        predict_next(x, V, noise_std=1.0),
        predict_next(x, V.flatten(1), noise_std=1.0),
    ):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("noise_std", [0, -0.1, np.nan, np.inf])
def test_without_noise_nothing_can_be_weighed(noise_std):
    x = torch.zeros(3, 1)
    with pytest.raises(ValueError, match=f"noise_std = {noise_std}: expected a finite"):
        predict_next(x, torch.zeros(4, 2), noise_std)
    with pytest.raises(ValueError, match=f"noise_std = {noise_std}: expected a finite"):
        ideal_beliefs(x[..., None], torch.zeros(3, 2, 5), noise_std)


@pytest.mark.parametrize("length", [29, 31])
def test_samples_and_hypotheses_are_as_many(length):
    message = f"x has {length} samples, hypotheses 30: expected as many"
    with pytest.raises(ValueError, match=message):
        predict_next(torch.zeros(length, 1), torch.zeros(31, 2), 0.1)
    with pytest.raises(ValueError, match=message):
        ideal_beliefs(torch.zeros(length, 1, 1), torch.zeros(30, 2, 5), 0.1)


# ---- task 1: the next voltage ----


def test_starts_are_followed_in_pieces_as_in_one(monkeypatch):
    neurons = FitzhughNagumo(3, 60, duration=24.0, seed=1)
    x = noisy_samples(neurons, 0.5)
    prediction, P, ends = follow_starts(x, neurons, 0.5, num_starts=50)
    lengths = []

    def simulate_and_count(v0, w0, t, **parameters):
        lengths.append(len(t))
        return simulate(v0, w0, t, **parameters)

    monkeypatch.setattr(observers, "MAX_VALUES", 1250)  # 25 samples at a time
    monkeypatch.setattr(observers, "simulate", simulate_and_count)
    pieces, pieces_P, pieces_ends = follow_starts(x, neurons, 0.5, num_starts=50)
    assert lengths == [26, 26, 11]
    torch.testing.assert_close(pieces, prediction, rtol=0, atol=1e-4)
    torch.testing.assert_close(pieces_P, P, rtol=0, atol=1e-4)
    torch.testing.assert_close(pieces_ends, ends, rtol=0, atol=1e-5)


@pytest.mark.parametrize("anywhere", [True, False])
def test_no_sampling_is_too_fine(anywhere, monkeypatch):
    neurons = FitzhughNagumo(1, 300, duration=3.0, seed=1, anywhere=anywhere)
    x = noisy_samples(neurons, 0.1)
    monkeypatch.setattr(datasets, "MAX_SAMPLES", 20_000)
    monkeypatch.setattr(observers, "MAX_VALUES", 10_000)
    prediction = ideal_prediction(x, neurons, 0.1, num_starts=1000)
    error = prediction[-50:] - true_next(neurons)[-50:]
    assert error.square().mean() < 0.01


@pytest.mark.parametrize("dt", [0.4, 0.12, 0.03])
def test_hypotheses_are_neurons_at_moments_of_the_two_paths(dt):
    neurons = FitzhughNagumo(1, 10, I=0.6, duration=10 * dt, seed=0)
    V, moments = moments_of_two_paths(neurons, num_samples=7)
    num_moments = V.shape[2]
    assert V.shape == (7, 2, num_moments)
    assert moments.shape == (2 * num_moments, 2)
    some = torch.arange(0, 2 * num_moments, 101)
    v0, w0 = moments[some].double().numpy().T
    expected, _ = simulate(v0, w0, np.arange(7) * dt, **neurons.parameters)
    np.testing.assert_allclose(V.flatten(1)[:, some], expected, atol=1e-5)
    # the paths begin in two corners of the box, ten time units before the first moment
    V_corners, W_corners = simulate([-3, 3], [2.5, -1.5], [0, 10], **neurons.parameters)
    first = moments[[0, num_moments]]
    np.testing.assert_allclose(first.T, [V_corners[1], W_corners[1]], atol=1e-5)
    # a moment is no more than 0.05 time units from the next: V changes by 2 per unit
    for path in moments.unflatten(0, (2, -1)):
        steps = path.diff(dim=0).abs().amax(dim=0)
        assert steps[0] < 0.05 * 2
        assert steps[1] < 0.05 * 0.1
    # both are on the cycle in the end, and each has been all around it
    for path in moments.unflatten(0, (2, -1)):
        assert path[-round(num_moments * 0.6) :, 0].min() < -1.8
        assert path[-round(num_moments * 0.6) :, 0].max() > 1.8


def test_starts_hand_their_probability_to_the_nearest_moments():
    # two paths of 100 moments that run side by side, at W = 0 and at W = 1
    t = torch.arange(100) / 10
    moments = torch.cat(
        [
            torch.stack([t, torch.zeros(100)], dim=-1),
            torch.stack([t, torch.ones(100)], dim=-1),
        ]
    )
    # the last one has come to the end of the lower path
    ends = torch.tensor([[2.01, 0.3], [7.01, 0.9], [3.02, 0.51], [9.88, 0.0]])
    P = torch.tensor([[0.6, 0.1, 0.2, 0.1], [0.0, 1.0, 0.0, 0.0]])
    prior = hand_over(P, ends, moments)
    lower, upper = prior.unflatten(1, (2, 100)).unbind(1)
    expected = torch.zeros(2, 2, 100)
    expected[0, 0, 10:31] += 0.6 / 21
    expected[0, 0, 89:] += 0.1 / 21
    expected[0, 1, 60:81] += 0.1 / 21
    expected[0, 1, 20:41] += 0.2 / 21
    expected[1, 1, 60:81] += 1 / 21
    expected += 1e-6  # none is ruled out
    torch.testing.assert_close(lower, expected[:, 0], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(upper, expected[:, 1], rtol=1e-5, atol=1e-8)


def test_w_counts_five_times_when_starts_look_for_the_nearest_moment():
    moments = torch.zeros(200, 2)
    moments[:100, 0] = 100.0  # far away
    moments[100:, 0] = 10.0 + torch.arange(100)
    moments[30] = torch.tensor([1.0, 0.0])
    moments[170] = torch.tensor([0.0, 0.3])  # nearer, but in W
    prior = hand_over(torch.ones(1, 1), torch.zeros(1, 2), moments)
    assert prior[0, :100].sum() == pytest.approx(1, abs=1e-3)


def test_ideal_observer_goes_over_to_the_paths_with_all_that_it_knew():
    neurons = FitzhughNagumo(8, 70, duration=28.0, seed=5)
    x = noisy_samples(neurons, 1.0)  # so much noise that new samples say little
    ideal = ideal_prediction(x, neurons, 1.0, num_starts=5000)
    to_the_end, _, _ = follow_starts(x, neurons, 1.0, num_starts=5000)
    assert torch.equal(ideal[:50], to_the_end[:50])
    assert (ideal - to_the_end)[52:].abs().max() < 0.015


@pytest.mark.parametrize("anywhere", [True, False])
def test_ideal_observer_is_as_good_as_all_the_neurons_that_there_could_be(anywhere):
    settings = {"duration": 60.0, "anywhere": anywhere, "I": 0.7, "a": 0.6, "b": 0.9}
    neurons = FitzhughNagumo(16, 150, **settings, seed=2)
    many = FitzhughNagumo(20_000, 150, **settings, seed=3)
    V = torch.cat([many.data_x[:1], many.data_y])[..., 0]  # (T + 1, 20_000)
    x = noisy_samples(neurons, 0.1)
    brute_force, _ = predict_next(x, V, 0.1)
    ideal = ideal_prediction(x, neurons, 0.1)
    brute_error = (brute_force - true_next(neurons)).square()
    ideal_error = (ideal - true_next(neurons)).square()
    for part in (slice(0, 50), slice(50, 60), slice(60, 150)):
        assert ideal_error[part].mean() < 1.2 * brute_error[part].mean() + 2e-5


def test_ideal_observer_never_forgets():
    """It looks for one number, the phase: n samples leave an error of about σ² / n."""
    neurons = FitzhughNagumo(32, 1000, seed=4)
    ideal = ideal_prediction(noisy_samples(neurons, 0.1), neurons, 0.1)
    error = (ideal - true_next(neurons)).square()
    mean_square = error[500:].mean()
    assert 0.5 * 0.1**2 / 750 < mean_square < 2.5 * 0.1**2 / 750


# ---- task 3: the class ----


@pytest.mark.parametrize("match_period", [True, False])
def test_beliefs_are_brute_force_over_what_the_simulator_gives(match_period):
    settings = {"noise_std": 0.3, "random_phase": True, "match_period": match_period}
    data = FitzhughNagumoClassification(2, 30, 30.0, **settings, seed=8)
    periods = [period(**parameters) for parameters in data.CLASSES.values()]
    V = []  # of each class and phase, from the neuron's start: (classes, phases, T)
    for parameters, own_period in zip(data.CLASSES.values(), periods):
        pace = 1.0
        if match_period:
            pace = own_period / max(periods)
        begins = own_period * (2 + np.arange(4) / 4)
        times = begins[:, None] + pace * np.arange(30)  # (phases, T)
        t, place = np.unique(np.append(0.0, times), return_inverse=True)
        all_V, _ = simulate(0.0, 0.0, t, **parameters)
        V.append(all_V[place[1:], 0].reshape(times.shape))

    windows = clean_windows(data, num_phases=4)
    beliefs = ideal_beliefs(data.data, windows, 0.3, batch_size=3)
    assert beliefs.shape == (30, 4, 2)
    for k in range(4):
        x = data.data[:, k, 0].double().numpy()
        log_likelihood = -((x - np.array(V)) ** 2).cumsum(axis=-1) / (2 * 0.3**2)
        joint = np.exp(log_likelihood - log_likelihood.max(axis=(0, 1)))
        expected = joint.sum(axis=1) / joint.sum(axis=(0, 1))  # (classes, T)
        np.testing.assert_allclose(beliefs[:, k], expected.T, atol=2e-4)


@pytest.mark.parametrize("match_period", [True, False])
def test_clean_windows_cover_those_of_their_own_class_alone(match_period):
    settings = {"random_phase": True, "match_period": match_period}
    data = FitzhughNagumoClassification(6, 60, 60.0, **settings, seed=9)
    windows = clean_windows(data, num_phases=1000)
    assert windows.shape == (60, 2, 1000)
    for k, label in enumerate(data.labels):
        distances = (windows - data.data[:, k, :, None]).abs().mean(dim=0)
        nearest = distances.amin(dim=-1)  # of each class
        assert nearest[label] < 0.01  # a thousandth of a period
        assert nearest[1 - label] > 3 * nearest[label]


def test_ideal_observer_is_as_sure_as_it_is_right():
    data = FitzhughNagumoClassification(400, 120, 48.0, **HARD, seed=3)
    beliefs = ideal_beliefs(data.data, clean_windows(data, 300), 0.2)  # (T, N, classes)
    confidence, predicted = beliefs.max(dim=-1)
    right = (predicted == data.labels).double()
    for t in (29, 59, 89, 119):
        accuracy = right[t].mean().item()
        standard_error = np.sqrt(accuracy * (1 - accuracy) / 800)
        assert confidence[t].mean().item() == pytest.approx(
            accuracy, abs=4 * standard_error
        )
    assert right[119].mean() > right[29].mean()
