r"""Task 1: a GRU predicts a neuron's next voltage from the noisy samples so far.

    python gru_regression_scratch.py

You should see the GRU far ahead of simple filters and of untrained networks like
itself, and for the first two hundred samples not far behind an ideal observer, which
knows the neuron. Then the observer goes on learning; the GRU of this half minute does
not. One that does takes five minutes:

    python gru_regression_scratch.py --window 1000 --memory 300 --batch_size 8 \
        --num_epochs 300
"""

import copy
import math
from argparse import BooleanOptionalAction, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from torch.nn.functional import mse_loss

from backstage.checkpoints import load_checkpoint
from backstage.optimiser import OPTIMIZERS, make_optimizer
from backstage.pictures import (
    draw_losses,
    draw_memory,
    draw_neuron,
    draw_reach,
    live_window,
    plot_filtering,
    save_figure,
    save_gif,
)
from backstage.plumbing import (
    FlagParser,
    count,
    memory,
    not_negative,
    positive,
    run,
    seed,
    set_up,
    units,
    write_metrics,
)
from backstage.training import Training, fit_readout, gradient_step
from cells import CELLS
from datasets import FitzhughNagumo
from observers import SMALLEST_NOISE, ideal_prediction

STEM = "gru_regression_scratch"
# a network of the five minutes' training, to compare with
LONGER = Path(__file__).with_name("checkpoints") / "regressionGRU.pth"

parser = FlagParser(__doc__)
flag = parser.add_argument
# data
flag("--num_train", type=count, default=256, help="trajectories to train on")
flag("--num_test", type=count, default=128, help="new trajectories to test on")
flag("--num_samples", type=count, default=1000, help="samples per trajectory")
flag("--duration", type=positive, default=400.0, help="its length in time units")
flag(
    "--anywhere",
    action=BooleanOptionalAction,
    default=True,
    help="neurons start anywhere, not at W(0) = 0",
)
flag("--noise_std", type=not_negative, default=0.1, help="of the noise on every sample")
# model
flag("--cell", type=str, choices=CELLS, default="gru", help="the network's step")
flag("--n_hidden", type=units, default=32, help="hidden units")
flag(
    "--memory",
    type=memory,
    default=30.0,
    help="units that can keep begin with memories of up to so many steps",
)
# training
flag("--num_epochs", type=count, default=40, help="passes, each with new noise")
flag("--batch_size", type=count, default=16, help="trajectories per gradient step")
flag("--window", type=count, default=250, help="steps back: truncated BPTT")
flag("--optimizer", type=str, choices=OPTIMIZERS, default="muon", help="or adam")
flag("--init_lr", type=positive, default=3e-2, help="learning rate; falls to 0")
flag("--max_grad_norm", type=positive, default=1.0, help="longer gradients are clipped")
flag("--seed", type=seed, default=0, help="fixes data, first weights and batches")
flag(
    "--device",
    type=str,
    choices=["auto", "cpu", "cuda"],
    default="auto",
    help="auto: a GPU with Triton, or the CPU",
)
# output
flag(
    "--train_visualization",
    action=BooleanOptionalAction,
    default=True,
    help="draw the pictures",
)
flag("--out_dir", type=Path, default="outputs", help="for pictures, model and metrics")

# other defaults of --noise_std 0: errors and gradients are a thousand times smaller
CLEAN_DEFAULTS = {
    "num_epochs": 30,
    "window": 50,
    "init_lr": 1e-2,
    "max_grad_norm": 0.003,
}

SKIP = 9  # first samples, neither trained on nor scored: so soon nobody can know W

# how a table and a picture call each predictor
LABELS = {
    "persistence": "copy the last value",
    "linear": "linear rule, 20 lags",
    "quintic": "quintic in (V, ΔV)",
    "two_means": "best filter by hand",
    "trained": "GRU",
    "longer": "GRU, trained for five minutes",
    "ideal": "ideal observer",
}
REACH_LABELS = {
    "before": "before training",
    "trained": "after training",
    "longer": "after five minutes' training",
}


def record(neurons, noise_std):
    """What an electrode hands out: noise on every sample, inputs and targets alike."""
    T, N, _ = neurons.data_x.shape
    noise = noise_std * torch.randn(T + 1, N, 1)
    noisy = copy.copy(neurons)
    noisy.data_x = neurons.data_x + noise[:-1]
    noisy.data_y = neurons.data_y + noise[1:]  # the same sample, one step later
    return noisy


def train_model(model, train_set, view, args):
    """Train by truncated backpropagation through time; return the Training.

    train_set: traces without noise; every epoch gets noise of its own.
    view: a few neurons that are not trained on. What is predicted from their noisy
    samples is scored without noise: view_loss.
    """
    updates_per_epoch = count_updates(train_set, args.batch_size, args.window)
    optimizer = make_optimizer(args.optimizer, model, args.init_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, args.num_epochs * updates_per_epoch
    )
    window = None
    if args.train_visualization:
        window = live_window(plot_filtering, view)
    training = Training(
        model,
        args.num_epochs,
        args.out_dir / f"{STEM}.pth",
        best_by="view_loss",
        loss_limit=100.0,  # voltages are of the order 1
        window=window,
        info={"task": "regression", "dt": train_set.dt, "noise_std": args.noise_std},
    )
    noisy_view = record(view, args.noise_std)
    for _ in training:
        loss = train_epoch(
            model,
            record(train_set, args.noise_std),
            optimizer,
            schedule,
            batch_size=args.batch_size,
            window=args.window,
            max_grad_norm=args.max_grad_norm,
        )
        predictions = model.predict(noisy_view.data_x)
        view_loss = mse_loss(predictions[SKIP:], view.data_y[SKIP:])
        training.report(
            loss=loss,
            view_loss=view_loss,
            trace=half_on_its_own(model, noisy_view.data_x[:, :1]),
            samples=noisy_view.data_y[: len(noisy_view.data_y) // 2, 0, 0].numpy(),
        )
    training.finish()
    return training


def count_updates(dataset, batch_size, window):
    """The number of updates in an epoch: one for each window of each batch."""
    T, N, _ = dataset.data_x.shape
    return math.ceil(N / batch_size) * math.ceil(T / window)


def train_epoch(
    model, dataset, optimizer, schedule, *, batch_size, window, max_grad_norm
):
    """Make one pass over the training set; return the mean loss."""
    x = dataset.data_x.to(model.device)  # (T, N, 1)
    y = dataset.data_y.to(model.device)
    losses = []
    order = torch.randperm(len(dataset), device=model.device)
    for batch in order.split(batch_size):
        H = None  # a trace begins
        skip = SKIP
        x_windows = x[:, batch].split(window)
        y_windows = y[:, batch].split(window)
        for x_window, y_window in zip(x_windows, y_windows):
            states, predictions = model(x_window, H)
            loss = mse_loss(predictions[skip:], y_window[skip:])
            gradient_step(loss, optimizer, max_grad_norm)
            schedule.step()
            losses.append(loss.detach())
            # the state is carried on into the next window, the gradient is not
            H = states[-1].detach()
            skip = 0
    return torch.stack(losses).mean().item()


def half_on_its_own(model, x):
    """Predict a trace x (T, 1, 1): from its samples, and from half-way on from itself.

    Returns the predictions (T,), each for one sample later.
    """
    half = len(x) // 2
    return model.predict(x[:half], future=len(x) - half).flatten().numpy()


def gradient_through_time(model, dataset, num_steps=600):
    """Measure how far back one prediction's error reaches: ‖dL/dH‖ by steps back.

    Returns a list for 0, 1, ... num_steps - 1 steps: root mean squares over traces,
    relative to 0 steps. Each trace contributes one prediction, at a time of its own,
    because the reach depends on how long ago the last spike was.
    """
    x = dataset.data_x.to(model.device)  # (T, N, 1)
    y = dataset.data_y.to(model.device)
    T, N, _ = x.shape
    num_steps = min(num_steps, T - 1)
    first = torch.linspace(1, T - num_steps, N).long()  # where a trace's steps begin
    each = torch.arange(N)
    with torch.no_grad():
        all_states, _ = model(x)
    H = all_states[first - 1, each]  # of each trace, just before its own first step
    states = []
    for t in range(num_steps):
        H, prediction = model.single_step(x[first + t, each], H)
        states.append(H)
    last = first + num_steps - 1
    # a sum: each trace's gradient is that of its own error alone
    loss = mse_loss(prediction, y[last, each], reduction="sum")
    gradients = torch.stack(torch.autograd.grad(loss, states))  # (num_steps, N, n)
    squares = gradients.double().square().sum(dim=-1)
    sizes = squares.mean(dim=-1).sqrt().flip(0)  # the last step first
    at_0_steps = sizes[0].clamp(min=1e-300)  # 0 if no unit that is read out is above 0
    return (sizes / at_0_steps).tolist()


def lags(V, num):
    """The last `num` samples at every step of V (T, N), oldest first: (T, N, num).

    In place of samples before the first one, the first one is repeated.
    """
    padded = np.pad(V, ((num - 1, 0), (0, 0)), "edge")
    return np.lib.stride_tricks.sliding_window_view(padded, num, axis=0)


def twenty_lags(V):
    return lags(V, 20)


def voltage_and_change(V):
    """V and its last change ΔV at every step: (T, N) to (T, N, 2)."""
    pairs = lags(V, 2)
    now = pairs[..., 1]
    return np.stack([now, now - pairs[..., 0]], axis=-1)


def two_means(V):
    """The means of the last five samples and of the five before: (T, N) to (T, N, 2).

    A filter made by hand.
    """
    return lags(V, 10).reshape(*V.shape, 2, 5).mean(axis=-1)


@dataclass
class Baseline:
    """A rule for the next voltage that is fitted by least squares."""

    features: Any  # a function of V (T, N): what the rule looks at, (T, N, k)
    regression: Any  # of scikit-learn

    def fit(self, x, y):
        """Fit to samples x (T, N) and what came next, y (T, N)."""
        rows = self.features(x)[SKIP:]
        self.regression.fit(rows.reshape(-1, rows.shape[-1]), y[SKIP:].ravel())

    def predict(self, x):
        rows = self.features(x)
        predicted = self.regression.predict(rows.reshape(-1, rows.shape[-1]))
        return predicted.reshape(x.shape)


def polynomial(degree):
    return make_pipeline(PolynomialFeatures(degree), LinearRegression())


def fit_baselines(dataset):
    """Fit what a network has to beat: key -> Baseline."""
    baselines = {
        "linear": Baseline(twenty_lags, LinearRegression()),
        "quintic": Baseline(voltage_and_change, polynomial(5)),
        "two_means": Baseline(two_means, polynomial(5)),
    }
    x = dataset.data_x[..., 0].double().numpy()
    y = dataset.data_y[..., 0].double().numpy()
    for baseline in baselines.values():
        baseline.fit(x, y)
    return baselines


def predict_all(networks, baselines, x):
    """What each predicts to come next at every step of x: key -> (T, N).

    x: (T, N, 1), or (T, N, 2) for networks that are told a current.
    """
    V = x[..., 0].double().numpy()
    predictions = {"persistence": V}
    for key, baseline in baselines.items():
        predictions[key] = baseline.predict(V)
    for key, network in networks.items():
        predictions[key] = network.predict(x)[..., 0].double().numpy()
    return predictions


def scored_parts(T):
    """The steps of T that are scored, never the first SKIP: part of a metric -> slice.

    All of them; the second tenth, when little has been seen; the last half.
    """
    early = max(SKIP, T // 10)
    return {
        "mse": slice(SKIP, T),
        "early_mse": slice(early, max(early + 1, T // 5)),
        "late_mse": slice(max(SKIP, T // 2), T),
    }


def evaluate_model(predictions, true):
    """Mean squared errors of predictions, key -> (T, N): flat metrics.

    true: the next V without noise (T, N), which only a simulator has.
    """
    metrics = {}
    for key, prediction in predictions.items():
        error = np.square(prediction - true)
        for part, steps in scored_parts(len(true)).items():
            metrics[f"{key}_{part}"] = float(error[steps].mean())
    return metrics


def label(key, cell):
    """What a reader sees instead of a predictor's key."""
    if key == "trained" and cell != "gru":
        return f"{cell} network"
    if key in LABELS:
        return LABELS[key]
    if key.startswith("untrained_"):
        return f"{key.replace('_', ', ')} units"
    return key  # a predictor that a reader added


def print_table(metrics, keys, cell, num_samples):
    early = scored_parts(num_samples)["early_mse"]
    title = f"samples {early.start} to {early.stop}"
    print(f"\n{'test MSE of the next V':36}{title:>20}{'last half':>13}")
    for key in keys:
        early_mse = metrics[f"{key}_early_mse"]
        late_mse = metrics[f"{key}_late_mse"]
        print(f"{label(key, cell):36}{early_mse:20.2e}{late_mse:13.2e}")


def draw_pictures(out_dir, history, view):
    """Write the neuron, and the training with its losses."""
    epochs = np.unique(np.linspace(1, len(history), 20, dtype=int))
    frames = [history[:epoch] for epoch in epochs]
    save_figure(out_dir / "neuron.png", draw_neuron, view)
    save_gif(out_dir / "fitzhugh_nagumo_regression.gif", frames, plot_filtering, view)
    save_figure(out_dir / "regression_losses.png", draw_losses, history)


def draw_errors(out_dir, predictions, true, cell, noise_std):
    """Write what a memory is worth: errors against samples seen."""
    errors = {}
    for key, prediction in predictions.items():
        if key not in ("linear", "quintic"):  # two curves less: they stand in the table
            errors[key] = np.square(prediction - true).mean(axis=1)
    labels = {key: label(key, cell) for key in errors}
    path = out_dir / "regression_memory.png"
    save_figure(path, draw_memory, errors, labels, noise_std)


def parse_flags(argv):
    args = parser.parse_args(argv)
    if args.noise_std == 0:
        # again: what is in the namespace already takes the place of a default
        args = parser.parse_args(argv, Namespace(**CLEAN_DEFAULTS))
    if min(args.window, args.num_samples) <= SKIP:
        parser.error(
            f"--window, --num_samples: expected more than the {SKIP} samples that "
            "do not count"
        )
    return args


def make_neurons(args, num, offset):
    """Simulate `num` neurons; no two offsets or seeds share a trajectory."""
    return FitzhughNagumo(
        num,
        args.num_samples,
        duration=args.duration,
        seed=4 * args.seed + offset,
        anywhere=args.anywhere,
    )


def make_network(args, num_hiddens):
    return CELLS[args.cell](1, num_hiddens, 1, residual=True).to(args.device)


def main(argv=None):
    args = parse_flags(argv)
    args.device = set_up(args.seed, args.device, args.out_dir)
    try:
        longer = load_checkpoint(LONGER, args.device)
    except ValueError as error:
        parser.error(error)
    train_set = make_neurons(args, args.num_train, offset=0)
    view = make_neurons(args, 8, offset=1)
    test_set = make_neurons(args, args.num_test, offset=2)
    # before any weights are drawn: the same samples for every network of a seed
    noisy_train = record(train_set, args.noise_std)
    noisy_test = record(test_set, args.noise_std)
    model = make_network(args, args.n_hidden)
    model.lengthen_memory(args.memory)
    # controls: random networks, of which only the readout will be fitted
    untrained = [make_network(args, factor * args.n_hidden) for factor in (1, 4)]

    reaches = {"before": gradient_through_time(model, noisy_test)}
    training = train_model(model, train_set, view, args)
    reaches["trained"] = gradient_through_time(model, noisy_test)

    networks = {}
    for network in untrained:
        fit_readout(network, noisy_train.data_x, noisy_train.data_y, SKIP)
        networks[f"untrained_{network.num_hiddens}"] = network
    networks["trained"] = model
    if (longer.info["dt"], longer.info["noise_std"]) == (test_set.dt, args.noise_std):
        networks["longer"] = longer
        reaches["longer"] = gradient_through_time(longer, noisy_test)
    predictions = predict_all(networks, fit_baselines(noisy_train), noisy_test.data_x)
    if args.noise_std >= SMALLEST_NOISE:
        x = noisy_test.data_x[..., 0]
        predictions["ideal"] = ideal_prediction(x, test_set, args.noise_std).numpy()
    true = test_set.data_y[..., 0].double().numpy()
    metrics = evaluate_model(predictions, true)
    print_table(metrics, predictions, args.cell, args.num_samples)
    steps_back = min(args.window, len(reaches["trained"]) - 1)
    before = reaches["before"][steps_back]
    after = reaches["trained"][steps_back]
    metrics["gradient_before_training"] = before
    metrics["gradient_after_training"] = after
    print(
        f"\n|dL/dH|, {steps_back} steps back over last: "
        f"{before:.0e} before training, {after:.0e} after it"
    )
    if args.train_visualization:
        draw_pictures(args.out_dir, training.history, view)
        path = args.out_dir / "regression_reach.png"
        save_figure(path, draw_reach, reaches, REACH_LABELS, args.window)
        draw_errors(args.out_dir, predictions, true, args.cell, args.noise_std)
    metrics["train_seconds"] = training.history[-1]["seconds"]
    metrics["interrupted"] = training.interrupted
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
