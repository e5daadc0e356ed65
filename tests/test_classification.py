"""Task 3: what is looked at, who judges it, and the ideal observer against brute force."""

import numpy as np
import pytest
import torch

import gru_classification_scratch as task
from datasets import FitzhughNagumoClassification, period, simulate
from models import GRU

HARD = {"noise_std": 0.2, "random_phase": True, "match_period": True}


def test_lengthened_memories_last_from_2_to_so_many_steps():
    torch.manual_seed(0)
    model = GRU(1, 1000, 2)
    task.lengthen_memory(model, 20)
    with torch.no_grad():
        for name in ("W_hz", "W_xz", "W_hh", "W_xh", "b_h"):
            getattr(model, name).zero_()  # a candidate of 0 and a gate that is constant: the state only fades
        states, _ = model(torch.zeros(3, 1, 1), torch.ones(1, 1000))
    memory = -1 / (states[2] / states[1] - 1)  # H' = (1 - 1/τ) H
    assert 1.999 < memory.min() < 2.5
    assert 19.5 < memory.max() < 20.001
    assert memory.mean().item() == pytest.approx(11, abs=0.5)


def test_class_probabilities_are_the_networks_own_in_pieces_too():
    torch.manual_seed(0)
    model, data = GRU(1, 5, 2), torch.randn(7, 12, 1)
    expected = model.forward_by_steps(data.transpose(0, 1))[1].softmax(-1).transpose(0, 1).detach()
    torch.testing.assert_close(task.class_probabilities(model, data, batch_size=3), expected)


def test_beliefs_of_known_accuracy_and_confidence():
    says_b = torch.tensor([[0.1, 0.6, 0.9, 0.8], [0.4, 0.3, 0.7, 1.0]])  # (N, T)
    probabilities = torch.stack([1 - says_b, says_b], -1)
    metrics = task.evaluate_beliefs(probabilities, torch.tensor([1, 0]), "some_")
    assert metrics["some_accuracy_along_the_way"] == [0.5, 1.0, 0.5, 0.5]
    assert metrics["some_confidence_along_the_way"] == pytest.approx([0.75, 0.65, 0.8, 0.9])
    for part, k in (("_at_quarter", 0), ("_at_half", 1), ("_at_three_quarters", 2), ("", 3)):
        assert metrics[f"some_accuracy{part}"] == metrics["some_accuracy_along_the_way"][k]
        assert metrics[f"some_confidence{part}"] == metrics["some_confidence_along_the_way"][k]


class SaysB:
    def predict(self, features):
        return np.ones(len(features))


def test_evaluation_counts_each_class_and_each_judge():
    data, labels = torch.randn(5, 2, 1), torch.tensor([0, 0, 0, 1, 1])
    says_b = torch.tensor([[0.1, 0.1], [0.2, 0.9], [0.2, 0.2], [0.7, 0.9], [0.6, 0.8]])
    probabilities = torch.stack([1 - says_b, says_b], -1)
    ideal = torch.nn.functional.one_hot(labels)[:, None].repeat(1, 2, 1).float()
    metrics = task.evaluate_model(probabilities, {"b": (task.summary_features, SaysB())}, data, labels, ideal)
    assert metrics["accuracy"] == pytest.approx(4 / 5)
    assert metrics["b_accuracy"] == pytest.approx(2 / 5)
    assert metrics["ideal_accuracy"] == metrics["ideal_confidence"] == 1
    assert metrics["confusion_matrix"] == [[2, 1], [0, 2]]
    one_class = task.evaluate_model(probabilities[3:], {}, data[3:], labels[3:])
    assert one_class["confusion_matrix"] == [[0, 0], [0, 2]]


def test_summary_features_of_a_known_trace():
    trace = torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0]).reshape(1, 8, 1)
    assert task.summary_features(trace)[0] == pytest.approx([-0.25, np.sqrt(1 - 0.25**2), 3 / 8, 2])


def test_four_features_do_not_solve_the_hard_task():
    train, test = (FitzhughNagumoClassification(200, 125, 100.0, seed=seed, **HARD) for seed in (0, 1))
    accuracy = {
        name: np.mean(classifier.predict(features(test.data)) == test.labels.numpy())
        for name, (features, classifier) in task.fit_baselines(train).items()
    }
    assert 0.5 < accuracy["features"] < 0.75 < accuracy["neighbours"] < 1


def test_nearest_neighbours_see_as_much_as_they_were_trained_on():
    train, test = (FitzhughNagumoClassification(30, n, 0.4 * n, noise_std=0.1, seed=n) for n in (50, 100))
    features, neighbours = task.fit_baselines(train)["neighbours"]
    assert neighbours.n_neighbors == 15
    assert (features(test.data) == test.data[:, :50, 0].numpy()).all()
    few = FitzhughNagumoClassification(3, 50, 20.0, seed=0)  # fewer traces than neighbours
    assert task.fit_baselines(few)["neighbours"][1].n_neighbors == 6


@pytest.mark.parametrize("match_period", [True, False])
def test_ideal_observer_is_brute_force_over_what_the_simulator_gives(match_period):
    settings = {"noise_std": 0.3, "random_phase": True, "match_period": match_period}
    data = FitzhughNagumoClassification(2, 30, 30.0, **settings, seed=8)
    periods = [period(**parameters) for parameters in data.CLASSES.values()]
    V = []  # of each class and phase, from the neuron's start
    for parameters, own in zip(data.CLASSES.values(), periods):
        t = np.arange(30) * (own / max(periods) if match_period else 1.0)
        times = own * (2 + np.arange(4)[:, None] / 4) + t  # (phases, T)
        t, back = np.unique(np.append(0.0, times), return_inverse=True)
        V.append(simulate(0.0, 0.0, t, **parameters)[0][back[1:], 0].reshape(times.shape))
    observed = task.ideal_observer(data.data, task.clean_windows(data, num_phases=4), 0.3, batch_size=3)
    assert observed.shape == (4, 30, 2)
    for x, belief in zip(data.data[..., 0].double().numpy(), observed):
        log_likelihood = -((x - np.array(V)) ** 2).cumsum(axis=-1) / (2 * 0.3**2)  # (classes, phases, T)
        joint = np.exp(log_likelihood - log_likelihood.max(axis=(0, 1)))
        np.testing.assert_allclose(belief, (joint.sum(1) / joint.sum((0, 1))).T, atol=2e-4)


@pytest.mark.parametrize("match_period", [True, False])
def test_clean_windows_cover_the_windows_of_a_dataset_and_of_its_own_class_alone(match_period):
    settings = {"random_phase": True, "match_period": match_period}
    data = FitzhughNagumoClassification(6, 60, 60.0, **settings, seed=9)
    windows = task.clean_windows(data, num_phases=1000)
    assert windows.shape == (2, 60, 1000)
    for trace, label in zip(data.data[..., 0], data.labels):
        own, other = ((windows[k] - trace[:, None]).abs().mean(0).min() for k in (label, 1 - label))
        assert own < 0.01  # a thousandth of a period
        assert other > 3 * own


def test_ideal_observer_is_as_sure_as_it_is_right():
    data = FitzhughNagumoClassification(400, 120, 48.0, **HARD, seed=3)
    metrics = task.evaluate_beliefs(task.ideal_observer(data.data, task.clean_windows(data, 300), 0.2), data.labels)
    for part in ("_at_quarter", "_at_half", "_at_three_quarters", ""):
        accuracy, confidence = metrics[f"accuracy{part}"], metrics[f"confidence{part}"]
        assert accuracy == pytest.approx(confidence, abs=4 * np.sqrt(accuracy * (1 - accuracy) / 800))
    assert metrics["accuracy"] > metrics["accuracy_at_quarter"]
