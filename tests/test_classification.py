"""The two neurons that are to be told apart, and how the telling is judged."""

import plumbing

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import gru_classification_scratch as task
from datasets import FitzhughNagumoClassification, period, simulate
from models import GRU

PERIOD_A, PERIOD_B = 165.57, 123.29  # ANCHORS of the simulator: a 0.95, b 0.2 and a 0.7, b 0.2


def test_periods_are_those_of_the_two_neurons():
    assert period(a=0.95, b=0.2) == pytest.approx(PERIOD_A, abs=0.02)
    assert period(a=0.7, b=0.2) == pytest.approx(PERIOD_B, abs=0.02)
    with pytest.raises(ValueError, match="a neuron that spikes"):
        period(I=0.0)


def test_shapes_types_and_labels():
    data = FitzhughNagumoClassification(5, 30, duration=12.0, seed=0)
    assert data.data.shape == (10, 30, 1)
    assert data.data.dtype == torch.float32
    assert data.labels.tolist() == [0] * 5 + [1] * 5
    assert data.labels.dtype == torch.int64
    assert data.dt == 0.4
    x, label = data[7]
    assert torch.equal(x, data.data[7])
    assert label == 1


def test_original_data_are_clean_trajectories_from_the_start():
    data = FitzhughNagumoClassification(3, 200, duration=80.0, seed=1)
    for label, a in enumerate((0.95, 0.7)):
        traces = data.data[data.labels == label, :, 0].double().numpy()
        V, _ = simulate(traces[:, 0], 0.0, np.arange(200) * 0.4, a=a, b=0.2)
        np.testing.assert_allclose(traces, V.T, atol=1e-4)


def test_noise_is_added_with_the_given_deviation():
    clean, noisy = (FitzhughNagumoClassification(50, 100, 40.0, noise_std=std, seed=2).data for std in (0.0, 0.2))
    difference = noisy - clean
    assert difference.std().item() == pytest.approx(0.2, rel=0.03)
    assert abs(difference.mean().item()) < 0.01


def test_with_a_random_phase_each_class_has_one_period_of_its_own_to_start_in():
    data = FitzhughNagumoClassification(2, 50, 20.0, random_phase=True, seed=3)
    for V, parameters in zip(data.traces, data.CLASSES.values()):
        assert len(V) - 50 == math.ceil(period(**parameters) / 0.4)
    data = FitzhughNagumoClassification(2, 50, 20.0, random_phase=True, match_period=True, seed=3)
    assert {len(V) - 50 for V in data.traces} == {math.ceil(period(**data.CLASSES["A"]) / 0.4)}


def test_random_phase_starts_anywhere_on_the_limit_cycle():
    data = FitzhughNagumoClassification(300, 50, 20.0, random_phase=True, seed=3)
    fixed = FitzhughNagumoClassification(300, 50, 20.0, seed=3)
    for label in (0, 1):
        start = data.data[data.labels == label, 0, 0].numpy()
        assert np.mean(start < -1) > 0.15  # on the lower branch
        assert np.mean(start > 1) > 0.15  # on the upper one
        assert abs(fixed.data[fixed.labels == label, 0, 0]).max() <= 1
    # the shares of time on either branch are those of the neuron itself
    long, _ = simulate(0.0, 0.0, np.arange(2000, 6000, 0.5) - 2000, a=0.7, b=0.2)
    shares = [np.mean(values > 0) for values in (long[800:], data.data[data.labels == 1].numpy())]
    assert shares[0] == pytest.approx(shares[1], abs=0.07)


def test_match_period_leaves_only_the_waveform():
    def measured(match_period, label):
        data = FitzhughNagumoClassification(2, 4000, 1600.0, match_period=match_period, seed=4)
        trace = data.data[data.labels == label][0].flatten().numpy()
        upward = np.flatnonzero((trace[:-1] < 0) & (trace[1:] >= 0)) * data.dt
        return np.diff(upward)[1:].mean()

    assert measured(False, 0) == pytest.approx(PERIOD_A, abs=0.2)
    assert measured(False, 1) == pytest.approx(PERIOD_B, abs=0.2)
    assert measured(True, 0) == pytest.approx(PERIOD_A, abs=0.2)
    assert measured(True, 1) == pytest.approx(PERIOD_A, abs=0.2)


def test_redraw_gives_new_windows_and_noise_of_the_same_neurons():
    data = FitzhughNagumoClassification(4, 40, 16.0, noise_std=0.1, random_phase=True, seed=5)
    first = data.data.clone()
    data.redraw()
    assert data.data.shape == first.shape
    assert not torch.equal(data.data, first)
    again = FitzhughNagumoClassification(4, 40, 16.0, noise_std=0.1, random_phase=True, seed=5)
    assert torch.equal(again.data, first)


def test_samples_of_each_class_are_drawn():
    figure = Figure()
    task.draw_samples(figure, FitzhughNagumoClassification(4, 40, 16.0, seed=6))
    assert len(figure.axes) == 2
    assert figure.axes[1].get_xlabel() == "time"
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]


def test_class_probabilities_are_the_networks_own_in_pieces_too():
    torch.manual_seed(0)
    model, data = GRU(1, 5, 2), torch.randn(7, 12, 1)
    expected = model.forward_by_steps(data.transpose(0, 1))[1].softmax(-1).transpose(0, 1).detach()
    torch.testing.assert_close(task.class_probabilities(model, data, batch_size=3), expected)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"N": 0}, "N = 0"),
        ({"T": 2.5}, "T = 2.5"),
        ({"duration": -1}, "duration = -1"),
        ({"noise_std": -0.1}, "noise_std = -0.1"),
        ({"noise_std": float("nan")}, "noise_std = nan"),
        ({"random_phase": 1}, "random_phase = 1"),
        ({"match_period": "yes"}, "match_period = 'yes'"),
        ({"seed": 1.5}, "seed = 1.5"),
    ],
)
def test_wrong_argument_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        FitzhughNagumoClassification(**({"N": 1, "T": 10} | arguments))


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


def certain(data):
    """Probabilities of one who knows class B by a positive first sample, but says so only after half of the trace."""
    probabilities = torch.tensor([0.7, 0.3]).repeat(*data.shape[:2], 1)
    says_b = (data[:, :1, 0] > 0) & (torch.arange(data.shape[1]) >= data.shape[1] // 2)
    probabilities[says_b] = torch.tensor([0.2, 0.8])
    return probabilities


class Constant:
    def predict(self, features):
        return np.zeros(len(features))


CONSTANT = {"constant": (task.summary_features, Constant())}


def test_accuracy_on_the_way_and_confusion_matrix():
    data = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, -1.0]).reshape(6, 1, 1).repeat(1, 8, 1)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])  # the last one will be taken for A
    metrics = task.evaluate_model(certain(data), CONSTANT, data, labels)
    assert metrics["accuracy"] == pytest.approx(5 / 6)
    assert metrics["accuracy_at_quarter"] == pytest.approx(3 / 6)
    assert metrics["accuracy_at_half"] == pytest.approx(3 / 6)  # sample 4 of 8: one before it speaks
    assert metrics["accuracy_at_three_quarters"] == pytest.approx(5 / 6)
    assert metrics["constant_accuracy"] == pytest.approx(3 / 6)
    assert metrics["confusion_matrix"] == [[3, 0], [1, 2]]
    assert metrics["confidence_at_quarter"] == pytest.approx(0.7)
    assert metrics["confidence"] == pytest.approx((4 * 0.7 + 2 * 0.8) / 6)


def test_a_single_class_still_gives_two_by_two(tmp_path):
    data, labels = torch.ones(4, 8, 1), torch.ones(4, dtype=torch.int64)
    matrix = task.evaluate_model(certain(data), CONSTANT, data, labels)["confusion_matrix"]
    assert matrix == [[0, 0], [0, 4]]
    plumbing.save_figure(tmp_path / "cfmat.png", task.draw_confusion, matrix)
    assert (tmp_path / "cfmat.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (torch.zeros(0, 5, 1), torch.zeros(0), "0 traces"),
        (torch.zeros(2, 5, 1), torch.tensor([0, 2]), "labels from 0 to 2"),
        (torch.zeros(2, 5, 1), torch.tensor([0]), "1 labels"),
    ],
)
def test_nothing_to_score_or_labels_out_of_range(data, labels, message):
    with pytest.raises(ValueError, match=message):
        task.evaluate_model(torch.zeros(*data.shape[:2], 2), {}, data, labels)


def test_summary_features_of_a_known_trace():
    trace = torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0]).reshape(1, 8, 1)
    mean, std, above, crossings = task.summary_features(trace)[0]
    assert mean == pytest.approx(-0.25)
    assert std == pytest.approx(np.sqrt(1 - 0.25**2))
    assert above == 3 / 8
    assert crossings == 2


def test_a_threshold_solves_the_original_task_but_not_the_hard_one():
    settings = {"noise_std": 0.2, "random_phase": True, "match_period": True}
    for expected, train, test in (
        ((0.999, 1.0), *(FitzhughNagumoClassification(100, 500, 400.0, seed=seed) for seed in (0, 1))),
        ((0.5, 0.75), *(FitzhughNagumoClassification(200, 250, 100.0, seed=seed, **settings) for seed in (0, 1))),
    ):
        features, baseline = task.fit_baselines(train)["features"]
        accuracy = np.mean(baseline.predict(features(test.data)) == test.labels.numpy())
        assert expected[0] <= accuracy <= expected[1]


def test_nearest_neighbours_see_as_much_as_they_were_trained_on():
    train, test = (FitzhughNagumoClassification(30, n, 0.4 * n, noise_std=0.1, seed=n) for n in (50, 100))
    features, neighbours = task.fit_baselines(train)["neighbours"]
    assert features(test.data).shape == (60, 50)
    assert set(neighbours.predict(features(test.data))) <= {0, 1}


# ---- the ideal observer ----


def test_ideal_observer_of_one_phase_per_class_by_hand():
    rng = np.random.default_rng(0)
    x, V, noise = rng.standard_normal((5, 7)), rng.standard_normal((2, 7)), 0.7
    ratio = np.cumsum((x - V[0]) ** 2 - (x - V[1]) ** 2, axis=1) / (2 * noise**2)  # log P(x | B) - log P(x | A)
    windows = torch.tensor(V, dtype=torch.float32).unsqueeze(-1)
    belief = task.ideal_observer(torch.tensor(x, dtype=torch.float32).unsqueeze(-1), windows, noise, batch_size=2)
    np.testing.assert_allclose(belief[..., 1], 1 / (1 + np.exp(-ratio)), atol=1e-5)


def test_ideal_observer_against_brute_force():
    data = FitzhughNagumoClassification(3, 40, 16.0, noise_std=0.2, random_phase=True, match_period=True, seed=1)
    windows = task.clean_windows(data, num_phases=60)
    x = data.data.double().numpy()
    likelihood = np.exp(-((x[:, None] - windows.double().numpy()) ** 2) / (2 * 0.2**2)).cumprod(axis=2).sum(axis=3)
    expected = (likelihood / likelihood.sum(axis=1, keepdims=True)).transpose(0, 2, 1)  # (N, T, classes)
    np.testing.assert_allclose(task.ideal_observer(data.data, windows, 0.2), expected, atol=1e-4)


def test_clean_windows_are_those_of_the_dataset():
    data = FitzhughNagumoClassification(6, 60, 24.0, random_phase=True, match_period=True, seed=2)
    windows = task.clean_windows(data, num_phases=1000)
    for trace, label in zip(data.data[..., 0], data.labels):
        distance = (windows[label] - trace[:, None]).abs().amax(0)  # of each phase
        assert distance.min() < 0.1  # a thousandth of a period, in a jump


def test_ideal_observer_is_as_sure_as_it_is_right():
    data = FitzhughNagumoClassification(400, 120, 48.0, noise_std=0.3, random_phase=True, match_period=True, seed=3)
    metrics = task.evaluate_beliefs(task.ideal_observer(data.data, task.clean_windows(data, 300), 0.3), data.labels)
    for part in ("_at_quarter", "_at_half", "_at_three_quarters", ""):
        accuracy, confidence = metrics[f"accuracy{part}"], metrics[f"confidence{part}"]
        assert accuracy == pytest.approx(confidence, abs=4 * np.sqrt(accuracy * (1 - accuracy) / 800))


def long_way(parameters, begins, t):
    """V at begin + t (T,) for each begin, every one simulated in one go from the neuron's start: (phases, T)."""
    return np.array([simulate(0.0, 0.0, np.append(0.0, begin + t), **parameters)[0][1:, 0] for begin in begins])


@pytest.mark.parametrize("match_period", [True, False])
def test_ideal_observer_against_brute_force_from_the_simulator(match_period):
    settings = {"noise_std": 0.3, "random_phase": True, "match_period": match_period}
    data = FitzhughNagumoClassification(2, 30, 30.0, **settings, seed=8)
    periods = [period(**parameters) for parameters in data.CLASSES.values()]
    t, V = data.dt * np.arange(30), []
    for parameters, own in zip(data.CLASSES.values(), periods):
        pace = own / max(periods) if match_period else 1.0
        V.append(long_way(parameters, own * (2 + np.arange(8) / 8), pace * t))
    observed = task.ideal_observer(data.data, task.clean_windows(data, num_phases=8), 0.3, batch_size=3)
    assert observed.shape == (4, 30, 2)
    for x, belief in zip(data.data[..., 0].double().numpy(), observed):
        log_likelihood = -((x - np.array(V)) ** 2).cumsum(axis=-1) / (2 * 0.3**2)  # (classes, phases, T)
        joint = np.exp(log_likelihood - log_likelihood.max(axis=(0, 1)))
        np.testing.assert_allclose(belief, (joint.sum(1) / joint.sum((0, 1))).T, atol=2e-4)


def test_clean_windows_cover_the_windows_of_a_dataset_at_each_neurons_own_pace():
    data = FitzhughNagumoClassification(6, 40, 40.0, random_phase=True, seed=9)  # periods that differ
    windows = task.clean_windows(data, num_phases=1000)
    assert windows.shape == (2, 40, 1000)
    for trace, label in zip(data.data[..., 0], data.labels):
        own, other = ((windows[k] - trace[:, None]).abs().mean(0).min() for k in (label, 1 - label))
        assert own < 0.01
        assert other > 5 * own  # and are no windows of the other class


def test_more_phases_than_the_default_change_nothing_for_the_observer():
    settings = {"noise_std": 0.2, "random_phase": True, "match_period": True}
    data = FitzhughNagumoClassification(20, 250, 100.0, **settings, seed=10)
    coarse, fine = (
        task.ideal_observer(data.data, windows, 0.2)
        for windows in (task.clean_windows(data), task.clean_windows(data, 3000))
    )
    assert (coarse - fine).abs().mean() < 0.005


def test_beliefs_of_known_accuracy_and_confidence():
    says_b = torch.tensor([[0.1, 0.6, 0.9, 0.8], [0.4, 0.3, 0.7, 1.0]])  # (N, T)
    probabilities = torch.stack([1 - says_b, says_b], -1)
    metrics = task.evaluate_beliefs(probabilities, torch.tensor([1, 0]), "some_")
    assert metrics["some_accuracy_along_the_way"] == [0.5, 1.0, 0.5, 0.5]
    assert metrics["some_confidence_along_the_way"] == pytest.approx([0.75, 0.65, 0.8, 0.9])
    for part, k in (("_at_quarter", 0), ("_at_half", 1), ("_at_three_quarters", 2), ("", 3)):
        assert metrics[f"some_accuracy{part}"] == metrics["some_accuracy_along_the_way"][k]
        assert metrics[f"some_confidence{part}"] == metrics["some_confidence_along_the_way"][k]


def test_nearest_neighbours_are_blind_to_what_comes_after_the_training_length():
    train, test = (FitzhughNagumoClassification(30, n, 0.4 * n, noise_std=0.1, seed=n) for n in (50, 100))
    features, neighbours = task.fit_baselines(train)["neighbours"]
    before = neighbours.predict(features(test.data))
    spoilt = test.data.clone()
    spoilt[:, 50:] = 1e6
    assert (neighbours.predict(features(spoilt)) == before).all()
    spoilt[:, 49] = 1e6
    assert (features(spoilt)[:, 49] == 1e6).all()


def test_loss_is_asked_from_the_share_of_the_trace_that_each_task_names():
    for name, first in (("hard", 0), ("original", 4)):
        data = FitzhughNagumoClassification(4, 8, 8.0, seed=11)
        torch.manual_seed(0)
        model = GRU(1, 3, 2)
        logits = model.forward_by_steps(data.data.transpose(0, 1))[1][first:]
        picked = logits.log_softmax(-1)[:, torch.arange(8), data.labels]
        loss_from = {"hard": task.parser.get_default("loss_from"), "original": task.ORIGINAL["loss_from"]}[name]
        args = plumbing.argparse.Namespace(loss_from=loss_from, max_grad_norm=1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        loss, _ = task.train_epoch(model, [(data.data, data.labels)], optimizer, schedule, args)
        assert loss == pytest.approx(-picked.mean().item(), rel=1e-5)
