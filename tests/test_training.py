"""What a training asks for: the right targets, from the state that belongs there, and every step's own gradient."""

from types import SimpleNamespace

import pytest
import torch

import gru_autoregression
import gru_classification_scratch
import gru_regression_scratch
from models import GRU

FLAGS = {"num_epochs": 4, "batch_size": 2, "window": 20, "init_lr": 0.1, "max_grad_norm": 1e6, "loss_from": 0.5}
FLAGS |= {"num_epochs_one_step": 3, "updates_per_epoch": 2, "warm_up": 10, "first_horizon": 5, "horizon": 20}
FLAGS |= {"free_lr": 0.05, "next_step_weight": 1.0, "input_noise": 0.0, "noise_std": 0.0}


class Ramps(list):
    """Traces that climb by one at every sample: it can be seen from a number which trace and which sample it is."""

    def __init__(self, N=6, T=60):
        self.data_x, self.dt = 100.0 * torch.arange(N)[:, None, None] + torch.arange(T)[:, None], 1.0
        self.data_y = self.data_x + 1
        super().__init__(zip(self.data_x, self.data_y))


class Climber(GRU):
    """Knows how a ramp goes on, by a bias of one; its state is the sample that it saw last. Notes how it is called."""

    def __init__(self):
        super().__init__(1, 1, 1, residual=True)
        self.fc.bias.data.fill_(1.0)
        self.calls = []

    def forward(self, inputs, H=None, future=0):
        if torch.is_grad_enabled():
            self.calls.append(SimpleNamespace(inputs=inputs, H=H, future=future))
        X = list(inputs)
        while len(X) < len(inputs) + future:
            X.append(X[-1] + self.fc.bias)
        X = torch.stack(X)
        return X + 0 * self.b_h, X + self.fc.bias


def train(task, model, dataset, **flags):
    return list(task.train_model(model, dataset, dataset, SimpleNamespace(**(FLAGS | flags))))


@pytest.mark.parametrize("task", [gru_regression_scratch, gru_autoregression])
def test_a_network_that_knows_the_answer_has_no_loss(task):
    model = Climber()
    reports = train(task, model, Ramps())
    for report in reports:
        assert report["loss"] <= 1.01e-5  # task 2 has a constant under a root
        assert report["view_loss"] <= (1.01e-5 if task is gru_autoregression else 0)
    one_step = [call for call in model.calls if len(call.inputs) == FLAGS["window"]]
    assert len(one_step) == (4 if task is gru_regression_scratch else 3) * 3 * 3  # epochs, batches, windows
    for k, call in enumerate(one_step):
        if k % 3 == 0:
            assert call.H is None  # the first window of a trace
        else:
            assert torch.equal(call.H, call.inputs[0] - 1)  # carried on
            assert not call.H.requires_grad  # without its gradient


@pytest.mark.parametrize(("sample", "counts"), [(0, False), (7, False), (8, True), (21, True), (59, True)])
def test_first_nine_steps_of_a_trace_do_not_count_and_all_others_do(sample, counts):
    dataset = Ramps()
    dataset.data_y[:, sample] = 1e3  # that step's target, and the next one's input
    assert (train(gru_regression_scratch, Climber(), dataset)[0]["loss"] > 0) == counts


def test_task_1_has_noise_on_inputs_and_targets_alike_and_another_for_every_epoch():
    model = Climber()
    reports = train(gru_regression_scratch, model, Ramps(50, 100), init_lr=1e-9, noise_std=0.5, window=100)
    for report in reports:  # the error of a step is the difference of two samples' noise
        assert report["loss"] == pytest.approx(2 * 0.5**2, rel=0.1)
        assert report["view_loss"] == pytest.approx(0.5**2, rel=0.1)  # scored without noise
    first, *_, last = (call.inputs for call in model.calls if len(call.inputs) == 100)
    assert (first % 1 != 0).all()
    assert not torch.isin(first, last).any()


def test_free_running_starts_from_the_state_before_and_goes_further_and_further():
    model = Climber()
    reports = train(gru_autoregression, model, Ramps(T=30), num_epochs_one_step=0)
    assert [report.get("score") for report in reports] == [None, *(report["period_error"] for report in reports[1:])]
    free = [call for call in model.calls if call.future]
    assert [call.future for call in free] == [9] * 2 + [19] * 6  # and one step from the sample itself
    for call in free:
        assert torch.equal(call.H, call.inputs[0] - 1)
        assert call.H.requires_grad  # the gradient flows back into the warm-up
        assert (call.inputs % 100 >= FLAGS["warm_up"]).all()
    assert len({call.inputs.flatten()[0].item() % 100 for call in free[:2]} | {10.0}) > 1  # not always at the same one


def test_noise_is_on_the_inputs_and_not_on_what_is_to_be_predicted():
    model = Climber()
    reports = train(gru_autoregression, model, Ramps(50, 100), init_lr=1e-9, free_lr=1e-9, input_noise=0.5)
    expected = 0.7 * 0.5 / 2  # three in ten have none, the others a level from 0 to 0.5
    assert sum(report["loss"] for report in reports[:3]) / 3 == pytest.approx(expected, rel=0.3)
    assert all(report["view_loss"] < 2e-5 for report in reports)
    for stage in (model.calls[:75], model.calls[75:]):  # the next step, running freely
        assert any((call.inputs % 1 != 0).any() for call in stage)
    clean = train(gru_autoregression, Climber(), Ramps(50, 100), input_noise=0.0)
    assert reports[-1]["loss"] > 10 * clean[-1]["loss"]


class TwoClasses(list):
    """Traces of -1 and of 1, which tell their class at once; counts how often they are drawn anew."""

    def __init__(self):
        self.labels = torch.tensor([0, 1, 1, 0, 1, 0])
        self.data = (2.0 * self.labels - 1)[:, None, None].repeat(1, 8, 1)
        self.redrawn = 0
        super().__init__(zip(self.data, self.labels))

    def redraw(self):
        self.redrawn += 1


class LateAnswer(GRU):
    """Is wrong about the class in the first half of a trace and right in the second."""

    def forward(self, inputs, H=None, future=0):
        sign = torch.where(torch.arange(len(inputs)) < len(inputs) // 2, -1.0, 1.0)[:, None, None]
        return None, 50 * sign * torch.cat([-inputs, inputs], -1) + 0 * self.fc.bias


def test_the_class_is_asked_for_after_a_share_of_the_trace():
    dataset = TwoClasses()
    for report in train(gru_classification_scratch, LateAnswer(1, 1, 2), dataset):
        assert report["loss"] == report["view_loss"] == pytest.approx(0, abs=1e-6)
        assert report["accuracy"] == 1
    assert dataset.redrawn == FLAGS["num_epochs"]
    assert train(gru_classification_scratch, LateAnswer(1, 1, 2), dataset, loss_from=0.0)[0]["loss"] > 40


@pytest.fixture
def steps(monkeypatch):
    """The learning rate and the gradient of each step, in the order taken; no weight is moved."""
    taken = []

    class Recorder(torch.optim.SGD):
        def step(self):
            gradient = torch.cat([weight.grad.flatten() for weight in self.param_groups[0]["params"]])
            taken.append((self.param_groups[0]["lr"], gradient.clone()))

    monkeypatch.setattr(torch.optim, "Adam", Recorder)
    return taken


def one_batch(task):
    """A network and a data set of one batch, so that every epoch of one-step training takes the same step."""
    torch.manual_seed(0)
    if task is gru_classification_scratch:
        return GRU(1, 4, 2), TwoClasses(), {"batch_size": 6}
    dataset = Ramps(1)
    for data in (dataset.data_x, dataset.data_y):
        data.sin_()
    return GRU(1, 4, 1, residual=True), dataset, {"window": 60, "batch_size": 1}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")  # the recorder hides its step from it
@pytest.mark.parametrize("task", [gru_regression_scratch, gru_autoregression, gru_classification_scratch])
def test_every_step_has_its_own_gradient_clipped_and_a_smaller_learning_rate(task, steps):
    model, dataset, flags = one_batch(task)
    stages = {"num_epochs": 0, "num_epochs_one_step": 4} if task is gru_autoregression else {}
    train(task, model, dataset, **flags, **stages)
    rates, gradients = zip(*steps)
    assert len(rates) == 4
    assert rates[0] == FLAGS["init_lr"]
    assert all(later < earlier for earlier, later in zip(rates, rates[1:]))
    for gradient in gradients[1:]:  # the same weights, the same traces
        torch.testing.assert_close(gradient, gradients[0])
    norm = gradients[0].norm().item()
    train(task, model, dataset, **flags, **stages, max_grad_norm=norm / 2)
    assert [gradient.norm().item() for _, gradient in steps[4:]] == pytest.approx([norm / 2] * 4, rel=1e-3)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_steps_of_the_free_running_stage(steps):
    model, dataset, flags = one_batch(gru_autoregression)
    for weight in (0.0, 1e5):
        train(gru_autoregression, model, dataset, **flags, num_epochs_one_step=0, next_step_weight=weight)
    rates, gradients = zip(*steps)
    assert rates[:2] == (FLAGS["free_lr"],) * 2
    assert rates[0] > rates[2] > rates[4] > rates[6]  # two steps per epoch
    assert min(g.norm() for g in gradients[8:]) > 10 * max(g.norm() for g in gradients[:8])  # the next step counts
    train(gru_autoregression, model, dataset, **flags, num_epochs_one_step=0, max_grad_norm=1e-6)
    assert all(gradient.norm() <= 1.01e-6 for _, gradient in steps[16:])
