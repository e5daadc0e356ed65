"""What an epoch asks for: the right targets, noise where it belongs, every trace once.

The networks of these tests know what comes next, so that every loss and every gradient
can be told beforehand.
"""

import math
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from matplotlib.figure import Figure

import gru_autoregression_training as generation
import gru_classification_scratch as classification
import gru_driven_neuron as driven
import gru_regression_scratch as regression
from backstage.training import gradient_step
from models import GRU

BETWEEN = 100.0  # from the first sample of one ramp to that of the next one


class Ramps:
    """N traces that climb by one at every sample: a number says where it comes from.

    They can be asked about their class, too: every third one is of class 1.
    """

    dt = 1.0

    def __init__(self, N=6, T=60, with_current=False):
        traces = torch.arange(N)
        V = BETWEEN * traces + torch.arange(T)[:, None]
        self.data = self.data_x = V[..., None]  # (T, N, 1)
        self.data_y = self.data_x + 1
        self.labels = (traces % 3 == 0).long()
        self.current = (traces / 10).expand(T, N)
        if with_current:
            self.data_x = torch.stack([V, self.current], dim=-1)

    def __len__(self):
        return self.data_x.shape[1]


class Call(NamedTuple):
    """How a network was called in training."""

    inputs: torch.Tensor
    H: torch.Tensor | None
    future: int


class Climber(GRU):
    """Knows how a ramp goes on, by a bias of one; its state is the sample seen last."""

    def __init__(self, num_inputs=1, num_hiddens=1, num_outputs=1, *switches):
        super().__init__(num_inputs, num_hiddens, num_outputs, *switches)
        torch.nn.init.ones_(self.fc.bias)
        self.calls = []

    def forward(self, inputs, H=None, future=0):
        if torch.is_grad_enabled():
            self.calls.append(Call(inputs, H, future))
        V = list(inputs[..., :1])
        for _ in range(future):
            V.append(V[-1] + self.fc.bias)
        V = torch.stack(V)
        return V + 0 * self.b_h, V + self.fc.bias


class Recorder(torch.optim.SGD):
    """Notes the gradient of every step, and moves nothing."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=1.0)
        self.gradients = []

    def step(self):
        weights = self.param_groups[0]["params"]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        self.gradients.append(torch.cat([gradient.flatten() for gradient in gradients]))

    def norms(self):
        return [gradient.norm().item() for gradient in self.gradients]


# ---- an epoch of each task ----

NO_SCHEDULE = SimpleNamespace(step=lambda: None)
WINDOW = 20


def task_1(model, dataset, optimizer, **settings):
    return regression.train_epoch(
        model, dataset, optimizer, NO_SCHEDULE, window=WINDOW, **settings
    )


def task_2(model, dataset, optimizer, **settings):
    return generation.next_step_epoch(
        model, dataset, optimizer, window=WINDOW, input_noise=0.0, **settings
    )


def task_3(model, dataset, optimizer, **settings):
    return classification.train_epoch(
        model, dataset, optimizer, NO_SCHEDULE, loss_from=0.0, **settings
    )


def task_4(model, dataset, optimizer, **settings):
    return driven.train_epoch(
        model, dataset, optimizer, window=WINDOW, noise_std=0.0, **settings
    )


def begin(epoch, N=6):
    """Make the ramps of a task, and a network for them."""
    if epoch is task_3:
        return Ramps(N), Climber(num_outputs=2)
    if epoch is task_4:
        return Ramps(N, with_current=True), Climber(num_inputs=2)
    return Ramps(N), Climber()


def voltages(call):
    """The first input of a call: (T, B)."""
    return call.inputs[..., 0]


@pytest.mark.parametrize("epoch", [task_1, task_2, task_4])
def test_who_knows_what_comes_next_has_no_loss_and_who_copies_the_input_has(epoch):
    dataset, model = begin(epoch)
    settings = {"batch_size": 2, "max_grad_norm": 1e6}
    loss = epoch(model, dataset, Recorder(model), **settings)
    assert loss <= 1.01e-5  # a root has a constant under it
    torch.nn.init.zeros_(model.fc.bias)
    loss = epoch(model, dataset, Recorder(model), **settings)
    assert loss == pytest.approx(1)


@pytest.mark.parametrize("epoch", [task_1, task_2, task_4])
def test_state_is_carried_from_window_to_window_and_its_gradient_is_not(epoch):
    dataset, model = begin(epoch)
    epoch(model, dataset, Recorder(model), batch_size=2, max_grad_norm=1e6)
    assert len(model.calls) == 9  # three batches of three windows
    for k, call in enumerate(model.calls):
        window = k % 3
        assert (voltages(call)[0] % BETWEEN == window * WINDOW).all()
        if window == 0:  # a trace begins
            assert call.H is None
        else:
            assert torch.equal(call.H, call.inputs[0, :, :1] - 1)
            assert not call.H.requires_grad


@pytest.mark.parametrize("epoch", [task_1, task_2, task_3, task_4])
def test_every_trace_is_seen_once_an_epoch_in_an_order_that_is_always_new(epoch):
    torch.manual_seed(0)
    dataset, model = begin(epoch, N=12)
    orders = []
    for _ in range(2):
        model.calls = []
        epoch(model, dataset, Recorder(model), batch_size=4, max_grad_norm=1e6)
        first_samples = [
            voltages(call)[0] for call in model.calls if voltages(call)[0, 0] % 100 == 0
        ]
        assert [len(samples) for samples in first_samples] == [4, 4, 4]
        orders.append((torch.cat(first_samples) / BETWEEN).tolist())
    for order in orders:
        assert sorted(order) == list(range(12))
        assert order != sorted(order)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("epoch", [task_1, task_2, task_3, task_4])
def test_every_step_has_a_gradient_of_its_own_no_longer_than_it_may_be(epoch):
    dataset, model = begin(epoch)
    torch.nn.init.zeros_(model.fc.bias)
    free = Recorder(model)
    clipped = Recorder(model)
    for _ in range(3):
        epoch(model, dataset, free, batch_size=6, max_grad_norm=1e6)
    norm = free.norms()[0]
    assert norm > 0.1
    # nothing is left of the step before: equal windows have equal gradients
    assert free.norms() == pytest.approx([norm] * len(free.norms()), rel=1e-3)
    epoch(model, dataset, clipped, batch_size=6, max_grad_norm=norm / 2)
    half = [norm / 2] * len(clipped.norms())
    assert clipped.norms() == pytest.approx(half, rel=1e-3)


def test_all_weights_are_clipped_together_whatever_their_group():
    one = torch.nn.Parameter(torch.tensor(0.0))
    other = torch.nn.Parameter(torch.tensor(0.0))
    groups = [{"params": [one], "lr": 1.0}, {"params": [other], "lr": 10.0}]
    optimizer = torch.optim.SGD(groups)
    gradient_step(3 * one + 4 * other, optimizer, max_grad_norm=1.0)
    assert (one.item(), other.item()) == pytest.approx((-0.6, -8.0))
    gradient_step(3 * one + 4 * other, optimizer, max_grad_norm=10.0)
    assert (one.item(), other.item()) == pytest.approx((-3.6, -48.0))


SAMPLES = [(0, False), (7, False), (8, True), (21, True), (28, True), (59, True)]


@pytest.mark.parametrize(("sample", "counts"), SAMPLES)
def test_first_nine_steps_of_a_trace_do_not_count_and_all_others_do(sample, counts):
    dataset, model = begin(task_1)
    dataset.data_x = dataset.data_x.clone()
    dataset.data_y = dataset.data_y.clone()
    # a sample that is wrong is that step's target, and the next step's input
    dataset.data_y[sample] = 1e3
    dataset.data_x[sample + 1 : sample + 2] = 1e3
    loss = task_1(model, dataset, Recorder(model), batch_size=2, max_grad_norm=1e6)
    assert (loss > 0) == counts


# ---- running freely, of task 2 ----


def run_freely(model, dataset, optimizer, **settings):
    defaults = {"horizon": 10, "warm_up": 10, "num_updates": 20, "batch_size": 6}
    defaults |= {"input_noise": 0.0, "next_step_weight": 1.0, "max_grad_norm": 1e6}
    return generation.free_running_epoch(
        model, dataset, optimizer, **(defaults | settings)
    )


def test_a_free_run_goes_on_from_any_moment_with_the_state_before_it():
    torch.manual_seed(0)
    dataset, model = Ramps(T=30), Climber()
    assert run_freely(model, dataset, Recorder(model)) <= 1.01e-5
    free = [call for call in model.calls if call.future]
    assert len(free) == 20
    for call in free:
        assert call.future == 9  # and one step from the sample itself
        assert torch.equal(call.H, call.inputs[0] - 1)
        assert call.H.requires_grad  # the gradient flows back into the warm-up
    starts = torch.cat([voltages(call) for call in free], dim=1)[0]
    # every moment after the warm-up from which there is a whole horizon to go
    assert set((starts % BETWEEN).tolist()) == set(range(10, 21))
    assert set((starts // BETWEEN).tolist()) == set(range(6))


@pytest.mark.parametrize("weight", [0.0, 30.0])
def test_next_step_counts_beside_the_free_run_by_its_weight(weight):
    dataset, model = Ramps(), Climber()
    # too small a bias: the error after k free steps is k times that of one
    torch.nn.init.constant_(model.fc.bias, 0.9)
    optimizer = Recorder(model)
    loss = run_freely(model, dataset, optimizer, next_step_weight=weight)
    of_run = math.sqrt(sum(k**2 for k in range(1, 11)) / 10)
    assert loss == pytest.approx(0.1 * of_run, rel=1e-3)
    # the loss, by the bias
    expected = [of_run + weight] * 20
    assert optimizer.norms() == pytest.approx(expected, rel=1e-3)


# ---- whole trainings ----


def train(script, model, dataset, flags, out_dir, visualization="no-"):
    """Train by a script's recipe; return the Training."""
    flags = [*flags.split(), f"--{visualization}train_visualization"]
    args = script.parse_flags([*flags, f"--out_dir={out_dir}"])
    return script.train_model(model, dataset, dataset, args)


FREE = (
    "--num_epochs_one_step=0 --num_epochs=4 --updates_per_epoch=2 --warm_up=10 "
    "--first_horizon=5 --horizon=20 --num_samples=60"
)
# how often the learning rate changes: with every update, or with every epoch of them
RECIPES = {
    "1": (regression, "--num_epochs=4 --window=30 --init_lr=0.02", 1),
    "2": (
        generation,
        "--num_epochs_one_step=4 --num_epochs=0 --window=30 --init_lr=0.02",
        4,
    ),
    "2, running freely": (generation, f"{FREE} --free_lr=0.02", 2),
    "3": (classification, "--num_epochs=4 --init_lr=0.02", 1),
    "4": (driven, "--num_epochs=4 --window=30 --init_lr=0.02", 4),
}


class Redrawn(Ramps):
    """Counts how often it is drawn again."""

    redrawn = 0

    def redraw(self):
        self.redrawn += 1


def begin_training(script):
    if script is classification:
        return Redrawn(), Climber(num_outputs=2)
    if script is driven:
        return Ramps(with_current=True), Climber(num_inputs=2)
    return Ramps(), Climber()


@pytest.mark.parametrize("task", RECIPES)
def test_steps_become_smaller_as_a_cosine_and_gradients_are_clipped(
    task, monkeypatch, tmp_path
):
    script, flags, updates_per_rate = RECIPES[task]
    rates = []
    limits = set()

    def noted(loss, optimizer, max_grad_norm):
        rates.append(optimizer.param_groups[-1]["lr"])
        limits.add(max_grad_norm)
        gradient_step(loss, optimizer, max_grad_norm)

    monkeypatch.setattr(script, "gradient_step", noted)
    dataset, model = begin_training(script)
    flags += " --batch_size=3 --max_grad_norm=0.125"
    train(script, model, dataset, flags, tmp_path)
    assert limits == {0.125}
    assert len(rates) == 4 * (4 if "window" in flags else 2)
    num_rates = len(rates) // updates_per_rate
    expected = []
    for k in range(num_rates):
        rate = 0.02 * (1 + math.cos(math.pi * k / num_rates)) / 2
        expected += [rate] * updates_per_rate
    assert rates == pytest.approx(expected)


# what an epoch takes, if it is not called like its flag
FLAG_OF = {"num_updates": "updates_per_epoch"}
EPOCHS = {
    "1": (regression, "train_epoch", "--window=17 --num_epochs=2"),
    "2": (
        generation,
        "next_step_epoch",
        "--num_epochs_one_step=2 --num_epochs=0 --window=17 --input_noise=0.1",
    ),
    "2, running freely": (
        generation,
        "free_running_epoch",
        f"{FREE} --input_noise=0.1 --next_step_weight=7",
    ),
    "3": (classification, "train_epoch", "--num_epochs=2 --loss_from=0.7"),
    "4": (driven, "train_epoch", "--num_epochs=2 --window=17 --noise_std=0.3"),
}


@pytest.mark.parametrize("task", EPOCHS)
def test_flags_reach_the_epochs(task, monkeypatch, tmp_path):
    script, name, flags = EPOCHS[task]
    calls = []

    def epoch(model, dataset, optimizer, *schedule, **settings):
        optimizer.step()  # without a gradient: nothing changes
        calls.append(settings)
        return 0.5

    monkeypatch.setattr(script, name, epoch)
    flags += " --batch_size=3 --max_grad_norm=0.125"
    args = script.parse_flags(flags.split())
    dataset, model = begin_training(script)
    train(script, model, dataset, flags, tmp_path)
    assert len(calls) >= 2
    for settings in calls:
        settings.pop("horizon", None)  # which grows
        for setting, value in settings.items():
            assert value == getattr(args, FLAG_OF.get(setting, setting)), setting


def shared(one, other):
    """The share of the numbers of one tensor that are in another one, too."""
    return torch.isin(one, other).double().mean().item()


def test_task_1_has_noise_on_inputs_and_targets_another_one_in_every_epoch(tmp_path):
    torch.manual_seed(0)
    dataset, model = Ramps(50, 100), Climber()
    flags = "--num_epochs=3 --init_lr=1e-9 --noise_std=0.5 --window=100 --batch_size=50"
    training = train(regression, model, dataset, flags, tmp_path)
    for report in training.history:
        # the error of a step is the difference of two samples' noise
        assert report["loss"] == pytest.approx(2 * 0.5**2, rel=0.1)
        # which is scored without noise
        assert report["view_loss"] == pytest.approx(0.5**2, rel=0.1)
    first, second, third = model.calls
    for one, other in ((first, second), (second, third)):
        assert shared(one.inputs, dataset.data_x) < 0.01
        assert shared(one.inputs, other.inputs) < 0.01


# the mean level of the noise, of 0.5 at most: in task 2 three traces in ten have none
# and the others 0 to 0.5, in task 4 they have 0.005 to 0.5, evenly on a log scale
NOISES = {
    "2": (
        generation,
        "--num_epochs_one_step=4 --num_epochs=0 --input_noise=0.5",
        0.175,
    ),
    "4": (driven, "--num_epochs=4 --noise_std=0.5", 0.99 / math.log(100) * 0.5),
}


@pytest.mark.parametrize("task", NOISES)
def test_noise_is_on_the_voltage_and_not_on_what_is_to_be_predicted(task, tmp_path):
    torch.manual_seed(0)
    script, flags, mean_level = NOISES[task]
    with_current = script is driven
    dataset = Ramps(50, 100, with_current)
    model = Climber(num_inputs=1 + with_current)
    flags += " --init_lr=1e-9 --window=100 --batch_size=50"
    training = train(script, model, dataset, flags, tmp_path)
    losses = [report["loss"] for report in training.history]
    assert sum(losses) / 4 == pytest.approx(mean_level, rel=0.15)
    for report in training.history:
        assert report["view_loss"] <= 1.01e-5  # without noise
    for one, other in zip(model.calls, model.calls[1:]):
        assert shared(voltages(one), voltages(other)) < 0.3  # new in every epoch
        if with_current:
            trace = (voltages(one)[0] / BETWEEN).round().long()
            assert torch.equal(one.inputs[..., 1], dataset.current[:, trace])


def test_horizon_grows_and_only_whole_free_runs_are_scored(tmp_path):
    dataset, model = Ramps(), Climber()
    training = train(generation, model, dataset, FREE, tmp_path)
    futures = [call.future for call in model.calls if call.future]
    assert futures == [9] * 2 + [19] * 6
    scores = [report.get("score") for report in training.history]
    assert scores[0] is None
    for score, report in zip(scores[1:], training.history[1:]):
        assert score == report["period_error"]


def test_a_free_run_begins_with_noise_and_is_compared_with_what_has_none(tmp_path):
    torch.manual_seed(0)
    dataset, model = Ramps(50, 100), Climber()
    flags = f"{FREE} --num_samples=100 --batch_size=500 --free_lr=1e-9"
    training = train(generation, model, dataset, f"{flags} --input_noise=0.5", tmp_path)
    for report in training.history:
        # a free run keeps the error of the sample from which it starts
        mean_size = 0.175 * math.sqrt(2 / math.pi)
        assert report["loss"] == pytest.approx(mean_size, rel=0.1)
        assert report["view_loss"] <= 1.01e-5


class TwoClasses(Redrawn):
    """Traces of -1 and of 1, which tell their class at once."""

    def __init__(self):
        self.labels = torch.tensor([0, 1, 1, 0, 1, 1])
        self.data = (2.0 * self.labels - 1).repeat(8, 1)[..., None]

    def __len__(self):
        return 6


class LateAnswer(GRU):
    """Is wrong about the class in the first half of a trace, right in the second."""

    def forward(self, inputs, H=None, future=0):
        first_half = torch.arange(len(inputs)) < len(inputs) // 2
        sign = torch.where(first_half, -1.0, 1.0)[:, None, None]
        logits = 50 * sign * torch.cat([-inputs, inputs], dim=-1)
        return None, logits + 0 * self.fc.bias


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0), (0.25, 100 / 3), (0, 50)])
def test_class_is_asked_for_after_a_share_of_a_trace_that_is_new_in_every_epoch(
    share, expected, tmp_path
):
    dataset, model = TwoClasses(), LateAnswer(1, 1, 2)
    flags = f"--num_epochs=3 --batch_size=4 --loss_from={share}"
    training = train(classification, model, dataset, flags, tmp_path)
    assert dataset.redrawn == 3
    for report in training.history:
        # an answer that is wrong costs 100
        assert report["loss"] == pytest.approx(expected, abs=1e-4)
        assert report["view_loss"] == pytest.approx(0, abs=1e-6)  # at the last step
        assert report["accuracy"] == 1


@pytest.mark.parametrize("task", RECIPES)
def test_what_a_training_reports_its_window_can_draw(task, monkeypatch, tmp_path):
    script, flags, _ = RECIPES[task]
    drawn = []

    def window(plot, *data):
        figure = Figure()
        update = plot(figure, *data)

        def redraw(history):
            update(history)
            figure.draw_without_rendering()
            drawn.append(len(history))

        return redraw

    monkeypatch.setattr(script, "live_window", window)
    dataset, model = begin_training(script)
    train(script, model, dataset, flags, tmp_path, visualization="")
    assert drawn == [1, 2, 3, 4]
    train(script, model, dataset, flags, tmp_path)
    assert drawn == [1, 2, 3, 4]
