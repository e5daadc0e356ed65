"""Task 1: a GRU learns to predict a neuron's next voltage from all it has seen so far.

    python gru_regression_scratch.py

You should see the loss fall several thousandfold, then a table of test errors. At the dt of training the GRU beats
copying the last value, a linear rule, a cubic polynomial and untrained networks like itself; a quintic polynomial is
about as good. At half that dt it beats copying only.
"""

import math
from argparse import BooleanOptionalAction
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from datasets import FitzhughNagumo
from models import GRU
from pictures import draw_gradients, draw_neuron, live_window, plot_fit
from plumbing import FlagParser, count, follow, positive, run, save_figure, save_gif, set_up, write_metrics

STEM = "gru_regression_scratch"

parser = FlagParser(__doc__)
flag = parser.add_argument
# data
flag("--num_train", type=count, default=256, help="trajectories to train on")
flag("--num_test", type=count, default=256, help="new trajectories, twice as long, to test on")
flag("--num_samples", type=count, default=1000, help="samples per trajectory")
flag("--duration", type=positive, default=400.0, help="length of a trajectory in time units")
flag("--anywhere", action=BooleanOptionalAction, default=True, help="neurons start anywhere, not at W(0) = 0")
# model
flag("--n_hidden", type=count, default=32, help="hidden units")
# training
flag("--num_epochs", type=count, default=54, help="passes over the training set")
flag("--batch_size", type=count, default=32, help="trajectories per gradient step")
flag("--window", type=count, default=50, help="steps the gradient flows back: truncated BPTT")
flag("--init_lr", type=positive, default=1e-2, help="learning rate of Adam; decays to 0 as a cosine")
flag("--max_grad_norm", type=positive, default=0.003, help="a longer gradient is clipped to this norm")
flag("--seed", type=int, default=0, help="fixes the data, the first weights and the batches")
flag("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if kernels.py runs there")
# output
flag("--train_visualization", action=BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=Path, default="outputs", help="where pictures, model and metrics go")

# A network starts from a state of zero, and one sample of V does not tell W: it needs a few to find out. So the first
# four samples of every trace are neither trained on nor scored, for the network and the baselines alike.
SKIP = 4
FREE_FROM = 100  # samples seen before the network runs freely, for the picture


def train_model(model, dataset, view, args):
    """Train by truncated backpropagation through time; after every epoch yield its mean loss, and the fit of `view`.

    view: a dataset of one trajectory that is not trained on. "trace" is the prediction of its next samples, "view_loss"
    their error; "free_run" goes on from the first FREE_FROM samples without seeing another.
    """
    batches = DataLoader(dataset, args.batch_size, shuffle=True)
    num_updates = args.num_epochs * len(batches) * math.ceil(dataset.data_x.shape[1] / args.window)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.init_lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    for _ in range(args.num_epochs):
        loss = train_epoch(model, batches, optimizer, schedule, args)
        trace = model.predict(view.data_x)
        view_loss = mse_loss(trace[:, SKIP:], view.data_y[:, SKIP:]).item()
        seen = view.data_x[:, :FREE_FROM]
        free_run = model.predict(seen, future=view.data_x.shape[1] - seen.shape[1])
        curves = {"trace": trace.flatten().numpy(), "free_run": free_run.flatten().numpy()}
        yield {"loss": loss, "view_loss": view_loss} | curves


def train_epoch(model, batches, optimizer, schedule, args):
    """One pass over the training set; return the mean loss."""
    losses = []
    for x, y in batches:  # (B, T, 1)
        x, y = x.transpose(0, 1).to(model.device), y.transpose(0, 1).to(model.device)  # (T, B, 1)
        H, skip = None, SKIP
        for x_window, y_window in zip(x.split(args.window), y.split(args.window)):
            states, predictions = model(x_window, H)
            loss = mse_loss(predictions[skip:], y_window[skip:])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            schedule.step()
            H, skip = states[-1].detach(), 0  # the state is carried on into the next window, the gradient is not
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def gradient_through_time(model, dataset, num_steps=200):
    """Measure how far back one prediction's error reaches: ‖dL/dH‖ at 0, 1, ... num_steps - 1 steps before it.

    Returns a list: the root mean square over trajectories, divided by its value at 0 steps. Each trajectory contributes
    one prediction, at a time of its own, because the reach depends on how long ago the last spike was.
    """
    x, y = (data.transpose(0, 1).to(model.device) for data in (dataset.data_x, dataset.data_y))  # (T, N, 1)
    num_steps, each = min(num_steps, len(x) - 1), torch.arange(x.shape[1])
    first = torch.linspace(1, len(x) - num_steps, x.shape[1]).long()  # where each trajectory's steps begin
    with torch.no_grad():
        H = model(x)[0][first - 1, each]  # of each trajectory, just before its own first step
    states = []
    for t in range(num_steps):
        H = model(x[None, first + t, each], H)[0][-1]
        states.append(H)
    last = first + num_steps - 1
    loss = mse_loss(model.readout(H, x[last, each]), y[last, each], reduction="sum")  # of these predictions alone
    gradients = torch.stack(torch.autograd.grad(loss, states))  # (num_steps, N, num_hiddens)
    sizes = gradients.double().square().sum(-1).mean(-1).sqrt().flip(0)
    return (sizes / sizes[0].clamp(min=1e-300)).tolist()


def last_four(x):
    """The last four samples at every step, zeros before the first: (N, T) to (N, T, 4)."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (3, 0))), 4, axis=1)


def voltage_and_change(x):
    """V and its last change ΔV at every step: (N, T) to (N, T, 2)."""
    return np.stack([x, np.diff(x, axis=1, prepend=0)], axis=-1)


def polynomial(degree):
    return make_pipeline(PolynomialFeatures(degree), LinearRegression())


def fit_baselines(dataset):
    """Fit by least squares what a network has to beat: name -> (features of x (N, T), a regression on them)."""
    x, y = (data.double().squeeze(-1).numpy() for data in (dataset.data_x, dataset.data_y))
    baselines = {
        "autoregression": (last_four, LinearRegression()),
        "cubic": (voltage_and_change, polynomial(3)),
        "quintic": (voltage_and_change, polynomial(5)),
    }
    for features, regression in baselines.values():
        regression.fit(np.concatenate(features(x)[:, SKIP:]), y[:, SKIP:].ravel())  # (N, T, k) to (N * T, k)
    return baselines


def fit_untrained(model, dataset, widths):
    """Build networks like `model` of other widths and fit nothing but their readouts: what did training buy?"""
    networks = {f"untrained_{width}": GRU(1, width, 1, residual=True).to(model.device) for width in widths}
    for network in networks.values():
        network.fit_readout(dataset.data_x, dataset.data_y, SKIP)
    return networks


def evaluate_model(networks, baselines, dataset):
    """Mean squared error of the next voltage, after the first SKIP samples and from the tenth on."""
    x, y = (data.double().squeeze(-1).numpy() for data in (dataset.data_x, dataset.data_y))
    predictions = {name: network.predict(dataset.data_x).squeeze(-1).double() for name, network in networks.items()}
    predictions["persistence"] = x
    for name, (features, regression) in baselines.items():
        predictions[name] = regression.predict(np.concatenate(features(x))).reshape(x.shape)
    metrics = {}
    for name, prediction in predictions.items():
        error = np.square(y - np.asarray(prediction))
        metrics[f"{name}_mse"] = float(error[:, SKIP:].mean())
        metrics[f"{name}_from_tenth_mse"] = float(error[:, 9:].mean())
    return metrics


def print_table(metrics, untrained, dt):
    labels = {"persistence": "copy the last value", "autoregression": "linear autoregression, 4 lags"}
    labels |= {name: f"{name} polynomial in (V, ΔV)" for name in ("cubic", "quintic")}
    labels |= {name: f"{name.replace('_', ', ')} units, readout fitted" for name in untrained}
    columns = {"": f"dt = {dt:g}", "_from_tenth": "from the tenth", "_half_dt": f"dt = {dt / 2:g}"}
    print(f"\n{'test MSE of the next V':36}" + "".join(f"{title:>16}" for title in columns.values()))
    for name, label in (labels | {"test": "GRU"}).items():
        errors = [metrics.get(f"{name}{part}_mse") for part in columns]
        print(f"{label:36}" + "".join(f"{'–' if error is None else f'{error:.2e}':>16}" for error in errors))


def make_data(args):
    """Traces to train on, one to look at, others to test on, and the same ones sampled twice as finely."""
    sizes = (0, args.num_train, 1, 1), (1, 1, 1, 1), (2, args.num_test, 2, 1), (2, args.num_test, 2, 2)
    for offset, num, factor, rate in sizes:  # no two offsets or seeds share a trajectory
        settings = {"duration": factor * args.duration, "seed": 4 * args.seed + offset, "anywhere": args.anywhere}
        yield FitzhughNagumo(num, factor * rate * args.num_samples, **settings)


def main(argv=None):
    args = parser.parse_args(argv)
    if min(args.window, args.num_samples) <= SKIP:
        parser.error(f"--window, --num_samples: expected more than the {SKIP} samples that do not count")
    set_up(args)
    train_set, view, test_set, finer_test_set = make_data(args)
    model = GRU(num_inputs=1, num_hiddens=args.n_hidden, num_outputs=1, residual=True).to(args.device)
    before = gradient_through_time(model, test_set)
    training = train_model(model, train_set, view, args)  # a generator: nothing has run yet
    live = live_window(plot_fit, view, FREE_FROM) if args.train_visualization else None
    path = args.out_dir / f"{STEM}.pth"
    history, interrupted = follow(training, args.num_epochs, model, path, live, task="regression", dt=train_set.dt)

    baselines, untrained = fit_baselines(train_set), fit_untrained(model, train_set, (args.n_hidden, 4 * args.n_hidden))
    metrics = evaluate_model({"test": model} | untrained, baselines, test_set)
    for name, mse in evaluate_model({"test": model}, baselines, finer_test_set).items():
        metrics[name.replace("_mse", "_half_dt_mse")] = mse
    print_table(metrics, untrained, train_set.dt)
    after = gradient_through_time(model, test_set)
    back = min(args.window, len(after) - 1)
    metrics |= {"gradient_before_training": before[back], "gradient_after_training": after[back]}
    print(f"\n|dL/dH|, {back} steps back over last: {before[back]:.0e} before training, {after[back]:.0e} after it")
    if args.train_visualization:
        frames = [history[:epoch] for epoch in np.unique(np.linspace(1, len(history), 45, dtype=int))]
        save_figure(args.out_dir / "neuron.png", draw_neuron, view)
        save_gif(args.out_dir / "fitzhugh_nagumo_regression.gif", frames, plot_fit, view, FREE_FROM)
        save_figure(args.out_dir / "gradient_through_time.png", draw_gradients, before, after, args.window)
    metrics |= {"train_seconds": history[-1]["seconds"], "interrupted": interrupted}
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
