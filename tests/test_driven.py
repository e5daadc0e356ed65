"""Task 4: a current that changes, and experiments whose outcome is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gru_driven_neuron as task
from backstage.checkpoints import load_checkpoint
from backstage.training import distance, fit_readout
from datasets import DrivenNeurons, Traces, period
from models import GRU

# ---- the neuron ----


def test_the_neuron_answers_as_it_is_known_to(monkeypatch):
    monkeypatch.setattr(task, "LEVELS", np.array([0.295, 0.3, 0.5, 1.45, 1.455]))
    monkeypatch.setattr(task, "PULSES", np.geomspace(0.05, 0.5, 47))  # 5 % apart
    frequencies = task.f_i_curve(task.neuron)
    assert frequencies == pytest.approx(
        [0, 1 / 160, 1 / period(), 1 / 160, 0], rel=0.005
    )
    known = {2: 0.33, 5: 0.16, 15: 0.09}
    for width, strength in known.items():
        assert task.threshold(task.neuron, width) == pytest.approx(strength, rel=0.08)
    assert task.rebound(task.neuron) == pytest.approx(0.14, rel=0.08)


def test_phase_response_is_the_shift_of_later_spikes(monkeypatch):
    monkeypatch.setattr(task, "PHASES", np.array([0.1, 0.35, 0.8]))
    known = [-0.004, 0.094, -0.032]  # from LSODA at 1e-12, sample by sample
    assert task.phase_response(task.neuron) == pytest.approx(known, abs=1e-3)


def test_the_neuron_rests_before_a_pulse():
    V = task.neuron(np.zeros((300, 2)))
    assert abs(V - task.REST[0]).max() < 1e-3


# ---- a network that is asked ----


class Driven(GRU):
    """A network whose readout sees the current, too."""

    def __init__(self):
        super().__init__(2, 5, 1, residual=True)

    def readout(self, H, X):
        return 0.9 * X[..., :1] + 0.3 * X[..., 1:] + self.fc(torch.relu(H))


def test_a_network_runs_freely_after_its_warm_up_and_sees_each_current_in_time():
    torch.manual_seed(0)
    model = Driven()
    I = task.random_currents(3, 80)
    V = task.network(model)(I)
    shown = task.WARM_UP
    assert V.shape == (80, 3)
    np.testing.assert_allclose(V[:shown], task.neuron(I)[:shown], atol=1e-6)
    # what it says is what it is fed with
    inputs = torch.tensor(np.stack([V, I], axis=-1)).float()
    _, readouts = model.forward_by_steps(inputs)
    expected = readouts[shown - 1 : -1, :, 0].detach()
    np.testing.assert_allclose(V[shown:], expected, atol=1e-5)


def network_that_adds(change):
    model = GRU(2, 3, 1, residual=True)
    torch.nn.init.zeros_(model.fc.weight)
    torch.nn.init.constant_(model.fc.bias, change)
    return task.network(model)


# ---- the currents ----


def autocorrelation(I, lag):
    return np.corrcoef(I[:-lag].ravel(), I[lag:].ravel())[0, 1]


def test_random_currents_have_their_spread_and_forget_within_their_time_constant():
    I = task.random_currents()
    assert (I.mean(), I.std()) == pytest.approx((0.5, 0.4), abs=0.03)
    assert I[0].std() == pytest.approx(0.4, abs=0.15)  # from the first sample on
    for lag in (1, 26, 51):
        expected = np.exp(-lag * task.DT / 20)
        assert autocorrelation(I, lag) == pytest.approx(expected, abs=0.05)
    white = task.white_noise()
    assert white.shape == I.shape
    assert (white.mean(), white.std()) == pytest.approx((0.5, 0.5), abs=0.01)
    assert autocorrelation(white, 1) == pytest.approx(0, abs=0.01)
    assert abs(np.corrcoef(white.ravel(), I.ravel())[0, 1]) < 0.01


# ---- the experiments ----


def spikes_at(*samples, num_samples=600):
    """A trace (num_samples, 1) that spikes at these samples."""
    V = np.full((num_samples, 1), -1.0)
    V[list(samples)] = 1.0
    return V


def test_frequency_is_that_of_three_spikes_at_least_once_a_neuron_has_settled(
    monkeypatch,
):
    traces = [(600, 700), (600, 700, 900), (410, 450, 490), (600,)]
    monkeypatch.setattr(task, "LEVELS", np.arange(4.0))

    def respond(I):
        np.testing.assert_array_equal(I[0], task.LEVELS)
        return np.hstack([spikes_at(*at, num_samples=len(I)) for at in traces])

    mean_interval = 150 * task.DT
    expected = [0, 1 / mean_interval, 0, 0]
    assert task.f_i_curve(respond) == pytest.approx(expected)


def spikes_if(at_once, later):
    """A neuron that is known: so strong a pulse makes it spike at once, or later.

    Weaker ones than both, from 0.5 on, make it jump up, and it does not come back.
    """

    def respond(I):
        V = np.full(I.shape, -1.2)
        pulses = I != 0
        assert (pulses.sum(axis=0)[:-1] == pulses.sum(axis=0)[0]).all()
        assert not pulses[:, -1].any()  # the last one is left alone
        (rows,) = np.nonzero(pulses.any(axis=1))
        begin, end = rows[0], rows[-1] + 1
        assert begin > task.WARM_UP  # it is left to itself before
        strength = abs(I[begin])
        V[begin:, strength > 0.5] = 1.5
        V[begin:, strength > min(at_once, later)] = -1.2
        V[begin + 1 : begin + 4, strength > at_once] = 1.5
        V[end + 2 : end + 6, strength > later] = 1.5
        return V

    return respond


def test_the_weakest_pulse_is_the_first_after_which_there_is_a_spike():
    def first_beyond(strength):
        pulses = task.PULSES
        return pulses[pulses > strength][0]

    for width in task.WIDTHS:
        assert task.threshold(spikes_if(1, 2), width) == first_beyond(1)
        assert task.threshold(spikes_if(2, 1), width) == first_beyond(1)
        assert np.isnan(task.threshold(spikes_if(9, 9), width))
        # whoever spikes without a pulse has no threshold
        assert np.isnan(task.threshold(spikes_if(-1, 9), width))
    # a spike while it is inhibited is none of a rebound
    assert task.rebound(spikes_if(1, 2)) == first_beyond(2)
    assert np.isnan(task.rebound(spikes_if(1, 9)))


def test_a_threshold_pushes_and_a_rebound_pulls_for_so_many_samples():
    currents = []

    def respond(I):
        currents.append(I)
        return np.zeros(I.shape)

    task.threshold(respond, 5)
    task.rebound(respond, 100)
    for I, sign, width in zip(currents, (1, -1), (5, 100), strict=True):
        strengths = np.append(task.PULSES, 0.0)
        np.testing.assert_allclose(I.sum(axis=0), sign * width * strengths)


@pytest.mark.parametrize(
    ("spikes", "expected"),
    [
        ((100, 200, 300, 400, 500), 1),
        ((107, 207, 307, 407, 507), 1),  # later by 5.5 time units
        ((92, 192, 292, 392, 492), 0),  # earlier by 6.3
        ((100, 200), 2 * 2 / (5 + 2)),
        ((97, 100, 103, 500), 2 * 2 / (5 + 4)),  # three for one count as one
        ((10, 100, 200, 300, 400, 500), 1),  # of the warm-up: it was shown
        ((), 0),
    ],
)
def test_coincidence_counts_a_spike_once_if_it_comes_in_time(spikes, expected):
    true = spikes_at(100, 200, 300, 400, 500)
    V = spikes_at(*spikes)
    assert task.coincidence(true, V) == pytest.approx(expected)
    assert task.coincidence(V, true) == pytest.approx(expected)
    # the mean over traces
    both = task.coincidence(np.hstack([true, true]), np.hstack([true, V]))
    assert both == pytest.approx((1 + expected) / 2)


# ---- asking and comparing ----


def test_ask_puts_every_answer_at_its_name():
    answer = task.ask(lambda I: I)  # says its current
    assert (answer["random_current"] == task.random_currents()).all()
    assert (answer["white_noise"] == task.white_noise()).all()
    pulses = task.PULSES
    assert answer["threshold"] == [pulses[pulses > 1][0]] * 3
    assert np.isnan(answer["rebound"])
    assert answer["f_i"].tolist() == [0.0] * len(task.LEVELS)


def test_f_i_curves_are_compared_where_both_fire(monkeypatch):
    monkeypatch.setattr(task, "LEVELS", np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    true = np.array([0.0, 0.0, 2.0, 2.0, 2.0, 0.0])
    scores = task.compare_f_i(np.array([0.0, 5.0, 2.5, 1.0, 2.0, 0.0]), true)
    # periods of 0.4, 1 and 0.5 instead of 0.5
    expected = {"fires_from": 0.2, "fires_to": 0.5, "period_error": 0.2}
    assert scores == pytest.approx(expected)
    elsewhere = task.compare_f_i(np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), true)
    expected = {"fires_from": 0.1, "fires_to": 0.1, "period_error": np.nan}
    assert elsewhere == pytest.approx(expected, nan_ok=True)


def test_phase_responses_are_compared_round_the_circle_but_for_the_jump():
    true = np.array([0.1, 0.2, 0.3, 0.48, -0.4, 0.0, 0.1])
    answer = np.array([0.11, 0.22, 0.33, -0.48, 0.1, 0.0, 0.1])
    scores = task.compare_phase_response(answer, true)
    assert scores["phase_response_error"] == pytest.approx(0.02)
    kept = [0, 1, 2, 3, 5, 6]
    correlation = np.corrcoef(answer[kept], true[kept])[0, 1]
    assert scores["phase_response_correlation"] == pytest.approx(correlation)


def test_every_answer_is_scored_in_its_own_row():
    true = {
        "f_i": np.where(task.LEVELS > 0.3, 0.01, 0.0),
        "phase_response": np.sin(2 * np.pi * task.PHASES) / 10,
        "random_current": np.hstack([spikes_at(100, 200), spikes_at(100)]),
        "white_noise": spikes_at(100, 200, 300),
    }
    answer = {
        "f_i": np.where(task.LEVELS > 0.3, 0.008, 0.0),
        "threshold": [0.1, 0.2, 0.3],
        "rebound": 0.4,
        "phase_response": true["phase_response"] + 0.05,
        "random_current": np.hstack([spikes_at(100, 200), spikes_at(300)]),
        "white_noise": spikes_at(100),
    }
    scores = task.compare(answer, true)
    expected = {
        "fires_from": 0.305,
        "fires_to": 1.75,
        "period_error": 0.25,
        "threshold_2": 0.1,
        "threshold_5": 0.2,
        "threshold_15": 0.3,
        "rebound": 0.4,
        "phase_response_correlation": 1,
        "phase_response_error": 0.05,
        "random_current": 0.5,
        "white_noise": 0.5,
    }
    assert scores == pytest.approx(expected)
    assert list(scores) == list(task.ROWS)


@pytest.fixture
def small(monkeypatch):
    random_currents = task.random_currents

    def few(num=2, T=250, **more):
        return random_currents(num, T, **more)

    monkeypatch.setattr(task, "random_currents", few)
    monkeypatch.setattr(task, "LEVELS", np.array([0.0, 0.5]))
    monkeypatch.setattr(task, "PULSES", np.array([0.1, 3.0]))
    monkeypatch.setattr(task, "PHASES", np.array([0.0, 0.3, 0.5]))


def test_a_silent_network_answers_nothing_and_the_neuron_all(small):
    true = task.ask(task.neuron)
    own = task.compare(true, true)
    assert (own["fires_from"], own["fires_to"]) == (0.5, 0.5)
    assert own["period_error"] == own["phase_response_error"] == 0
    assert own["phase_response_correlation"] == pytest.approx(1)
    assert own["random_current"] == own["white_noise"] == 1
    silent = task.compare(task.ask(network_that_adds(0)), true)
    assert silent.pop("random_current") == silent.pop("white_noise") == 0
    assert np.isnan(list(silent.values())).all()


# ---- the training ----


def test_noise_is_on_the_voltage_alone_at_a_level_of_each_trace():
    torch.manual_seed(0)
    x = torch.randn(400, 1000, 2)
    before = x.clone()
    noise = task.add_noise(x, 0.4) - x
    assert torch.equal(x, before)
    assert (noise[..., 1] == 0).all()
    levels = noise[..., 0].std(dim=0).log10() - np.log10(0.4)
    # uniform on a logarithmic scale, from a hundredth on
    in_each_quarter, _ = np.histogram(levels, bins=4, range=(-2.1, 0.1))
    assert in_each_quarter.sum() == 1000
    assert in_each_quarter.min() > 180
    assert torch.equal(task.add_noise(x, 0.0), x)


def small_run(tmp_path, *more):
    sizes = ["--num_train=4", "--num_samples=120", "--n_hidden=3", "--num_epochs=1"]
    rest = ["--device=cpu", "--no-train_visualization", f"--out_dir={tmp_path}"]
    return [*sizes, *rest, *more]


def test_a_training_shows_next_steps_of_new_neurons_and_a_free_run(
    monkeypatch, tmp_path
):
    torch.manual_seed(0)
    monkeypatch.setattr(task, "network", lambda model: lambda I: 9 * I)  # runs away
    args = task.parse_flags(small_run(tmp_path))
    model = task.make_network(args, args.n_hidden)
    train_set = DrivenNeurons(4, 120, duration=120 * task.DT, seed=0)
    valid_set = DrivenNeurons(3, 80, duration=80 * task.DT, seed=1)
    training = task.train_model(model, train_set, valid_set, args)
    (report,) = training.history
    predicted = model.predict(valid_set.data_x)
    expected = distance(predicted, valid_set.data_y).item()
    assert report["view_loss"] == pytest.approx(expected)
    run = 9 * valid_set.data_x[:-1, 0, 1].double()
    assert run.max() > 5
    np.testing.assert_array_equal(report["trace"], run.clip(-5, 5))


# ---- the script ----


@pytest.mark.parametrize("currents", ["constant", "jumps"])
def test_each_is_asked_by_its_own_name(currents, monkeypatch, tmp_path):
    I = np.linspace(0, 1, 60)[:, None]
    asked = []

    def ask(respond):
        asked.append(respond(I))
        return len(asked) - 1

    def compare(answer, true):
        assert true == 0  # the neuron's, which is asked first
        return dict.fromkeys(task.ROWS, float(answer))

    monkeypatch.setattr(task, "ask", ask)
    monkeypatch.setattr(task, "compare", compare)
    flags = small_run(tmp_path, f"--currents={currents}", "--seed=1")
    metrics = task.main(flags)
    answers = {}
    for name, value in metrics.items():
        if name.endswith("_rebound"):
            answers[name.removesuffix("_rebound")] = asked[int(value)]
    assert len(answers) == len(asked)

    new = load_checkpoint(tmp_path / "gru_driven_neuron.pth")
    assert new.info == {"task": "driven neuron", "currents": currents, "dt": task.DT}
    networks = {
        name: load_checkpoint(task.SHIPPED / f"driven_{name}.pth")
        for name in ("jumps", "constant")
    }
    networks[currents] = new
    for name, network in networks.items():
        expected = task.network(network)(I)
        np.testing.assert_allclose(answers[name], expected, atol=1e-6)
    np.testing.assert_array_equal(answers["neuron"], task.neuron(I))
    np.testing.assert_array_equal(answers["neuron_off"], task.neuron(I + 0.01))
    # nothing of the untrained one is fitted but its readout
    torch.manual_seed(1)
    args = task.parse_flags(flags)
    task.make_network(args, args.n_hidden)
    untrained = task.make_network(args, args.n_hidden)
    neurons = DrivenNeurons(4, 120, currents, duration=120 * task.DT, seed=4)
    fit_readout(untrained, neurons.data_x, neurons.data_y, skip=10)
    expected = task.network(untrained)(I)
    np.testing.assert_allclose(answers["untrained"], expected, atol=1e-5)
    expected = task.Polynomial(neurons).respond(I)
    np.testing.assert_allclose(answers["polynomial"], expected, atol=1e-5)


def test_a_polynomial_predicts_from_two_samples_and_then_from_itself():
    # a rule of degree 2, which it should find
    def following(V, V_before, I, I_before):
        return 0.5 * V - 0.2 * V_before + 0.3 * I * V + 0.1 * I_before

    rng = np.random.default_rng(0)
    V = list(rng.uniform(-1, 1, (2, 30)))
    I = rng.uniform(-1, 1, (80, 30))
    for t in range(1, 79):
        V.append(following(V[t], V[t - 1], I[t], I[t - 1]))
    rule = task.Polynomial(Traces(np.stack(V), task.DT, I))
    I = rng.uniform(-1, 1, (task.WARM_UP + 20, 3))
    expected = task.neuron(I)
    for t in range(task.WARM_UP - 1, len(I) - 1):
        now, before = expected[t], expected[t - 1]
        expected[t + 1] = following(now, before, I[t], I[t - 1])
    np.testing.assert_allclose(rule.respond(I), expected, atol=1e-3)


def test_a_polynomial_that_runs_away_is_held():
    I = np.zeros((60, 2))
    rule = task.Polynomial(DrivenNeurons(4, 60, duration=60 * task.DT, seed=0))
    rule.regression = SimpleNamespace(predict=lambda pairs: np.array([1e9, -1e9]))
    assert rule.respond(I)[-1].tolist() == [5, -5]
