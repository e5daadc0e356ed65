"""Task 3: what is looked at, who judges it, and how all are scored."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

import gru_classification_scratch as task
from datasets import FitzhughNagumoClassification
from models import GRU
from observers import clean_windows, ideal_beliefs

HARD = {"noise_std": 0.2, "random_phase": True, "match_period": True}

# ---- the training ----


def test_lengthened_memories_last_from_2_to_so_many_steps():
    torch.manual_seed(0)
    model = GRU(1, 1000, 2)
    model.lengthen_memory(20)
    with torch.no_grad():
        # a candidate of 0, and a gate that is constant: the state only fades
        for weight in (model.W_hz, model.W_xz, model.W_hh, model.W_xh, model.b_h):
            weight.zero_()
        states, _ = model(torch.zeros(3, 1, 1), torch.ones(1, 1000))
    memory = -1 / (states[2] / states[1] - 1)  # H_new = (1 - 1 / τ) H
    assert 1.999 < memory.min() < 2.5
    assert 19.5 < memory.max() < 20.001
    assert memory.mean().item() == pytest.approx(11, abs=0.5)


# ---- the judges ----


def test_class_probabilities_are_the_networks_own_in_pieces_too():
    torch.manual_seed(0)
    model = GRU(1, 5, 2)
    data = torch.randn(12, 7, 1)
    _, logits = model.forward_by_steps(data)
    probabilities = task.class_probabilities(model, data, batch_size=3)
    torch.testing.assert_close(probabilities, logits.softmax(-1).detach())


def test_summary_features_of_known_traces():
    V = [[-1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0], [0.0] * 8]
    features = task.summary_features(torch.tensor(V).t()[..., None])
    assert features[0] == pytest.approx([-0.25, np.sqrt(1 - 0.25**2), 3 / 8, 2])
    assert features[1] == pytest.approx([0, 0, 1, 0])


def test_four_features_do_not_solve_the_hard_task_and_all_samples_do_better():
    train_set = FitzhughNagumoClassification(200, 125, 100.0, seed=0, **HARD)
    test_set = FitzhughNagumoClassification(200, 125, 100.0, seed=1, **HARD)
    accuracy = {
        key: baseline.accuracy(test_set.data, test_set.labels)
        for key, baseline in task.fit_baselines(train_set).items()
    }
    assert 0.5 < accuracy["features"] < 0.75 < accuracy["neighbours"] < 1


@pytest.mark.parametrize(("N", "k"), [(30, 15), (3, 6)])
def test_nearest_neighbours_are_as_many_as_their_label_says(N, k):
    """And they see as much of a longer trace as they were fitted to."""
    train_set = FitzhughNagumoClassification(N, 50, 20.0, noise_std=0.1, seed=0)
    longer = FitzhughNagumoClassification(N, 100, 40.0, noise_std=0.1, seed=1)
    neighbours = task.fit_baselines(train_set)["neighbours"]
    assert neighbours.label == f"{k} nearest neighbours"
    assert neighbours.classifier.n_neighbors == k
    seen = torch.tensor(neighbours.features(longer.data))
    assert torch.equal(seen, longer.data[:50, :, 0].t())


# ---- the scores ----


def beliefs_in_b(P):
    """Beliefs (T, N, 2) of P (N, T), the probability of the second class."""
    P = torch.tensor(P).t()
    return torch.stack([1 - P, P], dim=-1)


def test_beliefs_of_known_accuracy_and_confidence():
    beliefs = beliefs_in_b([[0.1, 0.6, 0.9, 0.8], [0.4, 0.3, 0.7, 1.0]])
    accuracy, confidence = task.along_the_way(beliefs, torch.tensor([1, 0]))
    assert accuracy.tolist() == [0.5, 1.0, 0.5, 0.5]
    assert confidence == pytest.approx([0.75, 0.65, 0.8, 0.9])


# the steps at which a quarter, half, three quarters and all of T samples are seen
@pytest.mark.parametrize(
    ("T", "steps"), [(4, (0, 1, 2, 3)), (10, (2, 4, 7, 9)), (1, (0, 0, 0, 0))]
)
def test_the_way_has_quarters(T, steps):
    P = np.linspace(0.6, 0.9, T).tolist()
    metrics = task.evaluate_beliefs(beliefs_in_b([P]), torch.tensor([1]), "some_")
    parts = ["_at_quarter", "_at_half", "_at_three_quarters", ""]
    for part, step in zip(parts, steps, strict=True):
        assert metrics.pop(f"some_confidence{part}") == pytest.approx(P[step])
        assert metrics.pop(f"some_accuracy{part}") == 1
    assert metrics == {}


class AlwaysSays:
    """Stands in for a fitted classifier."""

    def __init__(self, label):
        self.label = label

    def predict(self, features):
        return np.full(len(features), self.label)


def some_test_set(labels):
    labels = torch.tensor(labels)
    return SimpleNamespace(data=torch.randn(2, len(labels), 1), labels=labels)


def test_evaluation_counts_each_class_and_each_judge():
    test_set = some_test_set([0, 0, 0, 1, 1])
    beliefs = beliefs_in_b([[0.1, 0.1], [0.2, 0.9], [0.2, 0.2], [0.7, 0.9], [0.6, 0.8]])
    ideal = one_hot(test_set.labels).float().repeat(2, 1, 1)
    baselines = {"b": task.Baseline("b", task.summary_features, AlwaysSays(1))}
    metrics = task.evaluate_model(beliefs, baselines, test_set, ideal)
    assert metrics["accuracy"] == pytest.approx(4 / 5)
    assert metrics["b_accuracy"] == pytest.approx(2 / 5)
    assert metrics["ideal_accuracy"] == metrics["ideal_confidence"] == 1
    # rows: the true class; columns: what the network says in the end
    assert metrics["confusion_matrix"] == [[2, 1], [0, 2]]


def test_a_class_that_does_not_occur_has_its_row_and_no_ideal_is_needed():
    beliefs = beliefs_in_b([[0.7, 0.9], [0.6, 0.8]])
    metrics = task.evaluate_model(beliefs, {}, some_test_set([1, 1]))
    assert metrics["confusion_matrix"] == [[0, 0], [0, 2]]
    assert not any(key.startswith("ideal") for key in metrics)


def test_three_classes_are_judged_like_two(monkeypatch):
    neurons = FitzhughNagumoClassification.CLASSES | {"C": {"I": 0.5, "a": 0.3, "b": 0}}
    monkeypatch.setattr(FitzhughNagumoClassification, "CLASSES", neurons)
    monkeypatch.setattr(task, "CLASSES", list(neurons))
    data = FitzhughNagumoClassification(20, 100, 100.0, seed=1, **HARD)
    baselines = task.fit_baselines(data)
    ideal = ideal_beliefs(data.data, clean_windows(data, num_phases=100), 0.2)
    beliefs = one_hot(torch.tensor([0, 1, 2, 2]).repeat_interleave(15)).float()
    metrics = task.evaluate_model(beliefs.repeat(100, 1, 1), baselines, data, ideal)
    matrix = [[15, 5, 0], [0, 10, 10], [0, 0, 20]]
    assert metrics["confusion_matrix"] == matrix
    assert metrics["accuracy"] == pytest.approx(45 / 60)
    assert metrics["ideal_accuracy"] > 0.9
    for key in baselines:
        assert metrics[f"{key}_accuracy"] > 1 / 3


# ---- the script ----


def small_run(tmp_path, *more):
    sizes = ["--num_train=3", "--num_test=4", "--n_hidden=3", "--num_epochs=1"]
    sizes += ["--duration=40", "--dt=1"]
    rest = ["--device=cpu", "--no-train_visualization", f"--out_dir={tmp_path}"]
    return [*sizes, *rest, *more]


@pytest.fixture
def asked(monkeypatch):
    """What the ideal observer was asked, if it was."""
    asked = SimpleNamespace(arguments=None)

    def ideal(data, windows, noise_std):
        asked.arguments = (data, windows, noise_std)
        return torch.full((*data.shape[:2], 2), 0.5)

    monkeypatch.setattr(task, "clean_windows", lambda dataset: dataset)
    monkeypatch.setattr(task, "ideal_beliefs", ideal)
    return asked


def test_the_ideal_observer_is_asked_about_the_test_traces(
    asked, monkeypatch, tmp_path
):
    made = {}

    def make_dataset(args, num, offset, factor=1):
        T = 20 * factor
        dataset = FitzhughNagumoClassification(3, T, float(T), seed=offset)
        made[offset] = SimpleNamespace(dataset=dataset, num=num, factor=factor)
        return dataset

    monkeypatch.setattr(task, "make_dataset", make_dataset)
    flags = small_run(tmp_path, "--noise_std=0.3", "--num_test=5", "--test_factor=2")
    metrics = task.main(flags)
    assert {offset: (one.num, one.factor) for offset, one in made.items()} == {
        0: (3, 1),  # to train on
        1: (5, 2),  # to test on
        2: (128, 1),  # to look at while it is trained
    }
    data, dataset, noise_std = asked.arguments
    assert dataset is made[1].dataset
    assert data is dataset.data
    assert noise_std == 0.3
    assert (metrics["ideal_accuracy"], metrics["ideal_confidence"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("flag", "is_asked"),
    [
        ("--noise_std=0", False),
        ("--noise_std=0.009", False),
        ("--noise_std=0.01", True),
        ("--no-random_phase", False),
        ("--no-match_period", True),
    ],
)
def test_an_ideal_observer_needs_noise_and_phases_that_are_equally_likely(
    flag, is_asked, asked, monkeypatch, tmp_path
):
    dataset = FitzhughNagumoClassification(3, 20, 20.0, seed=0)
    monkeypatch.setattr(task, "make_dataset", lambda *_, **settings: dataset)
    metrics = task.main(small_run(tmp_path, flag))
    assert (asked.arguments is not None) == is_asked
    assert ("ideal_accuracy" in metrics) == is_asked


def test_the_original_task_has_other_defaults_but_what_is_given_holds_first():
    args = task.parse_flags(["--task=original", "--noise_std=0.1"])
    assert (args.noise_std, args.duration, args.random_phase) == (0.1, 400, False)
    args = task.parse_flags([])
    assert (args.noise_std, args.duration, args.random_phase) == (0.2, 100, True)


def test_traces_have_whole_samples_of_the_dt_that_was_asked_for():
    args = task.parse_flags(["--duration=10", "--dt=0.3"])
    dataset = task.make_dataset(args, 2, offset=0, factor=2)
    assert (dataset.T, dataset.dt) == (66, pytest.approx(0.3))


@pytest.mark.parametrize("switch", ["", "no-"])
def test_phases_and_periods_are_those_that_were_asked_for(switch):
    flags = [f"--{switch}random_phase", f"--{switch}match_period"]
    args = task.parse_flags([*flags, "--duration=10", "--dt=1"])
    dataset = task.make_dataset(args, 2, offset=0)
    has_spare = len(dataset.traces[0]) > dataset.T  # to cut a window from
    assert has_spare == (switch == "")
    assert (dataset.paces == [1, 1]) == (switch == "no-")
