"""Task 1: a GRU learns to predict a neuron's next voltage from the noisy samples it has seen so far.

    python gru_regression_scratch.py

You should see the GRU far ahead of simple filters and of untrained networks like itself, and for the first two hundred
samples not far behind an ideal observer, which knows the neuron. Then the observer goes on learning; the GRU does not.
"""

import math
from argparse import BooleanOptionalAction, Namespace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from torch.nn.functional import mse_loss

from datasets import FitzhughNagumo, Traces
from models import GRU
from observers import ideal_prediction
from pictures import draw_memory, draw_neuron, draw_reach, live_window, plot_filtering, plot_losses
from plumbing import FlagParser, count, follow, positive, run, save_figure, save_gif, set_up, write_metrics

STEM = "gru_regression_scratch"
CLEAN = {"num_epochs": 54, "window": 50, "init_lr": 1e-2, "max_grad_norm": 0.003}  # other defaults, for --noise_std 0

parser = FlagParser(__doc__)
flag = parser.add_argument
# data
flag("--num_train", type=count, default=256, help="trajectories to train on")
flag("--num_test", type=count, default=128, help="new trajectories to test on")
flag("--num_samples", type=count, default=1000, help="samples per trajectory")
flag("--duration", type=positive, default=400.0, help="length of a trajectory in time units")
flag("--anywhere", action=BooleanOptionalAction, default=True, help="neurons start anywhere, not at W(0) = 0")
flag("--noise_std", type=float, default=0.1, help="standard deviation of the noise on every sample of V")
# model
flag("--n_hidden", type=count, default=32, help="hidden units")
# training
flag("--num_epochs", type=count, default=40, help="passes over the training set, each with new noise")
flag("--batch_size", type=count, default=32, help="trajectories per gradient step")
flag("--window", type=count, default=250, help="steps the gradient flows back: truncated BPTT")
flag("--init_lr", type=positive, default=2e-2, help="learning rate of Adam; decays to 0 as a cosine")
flag("--max_grad_norm", type=positive, default=0.2, help="a longer gradient is clipped to this norm")
flag("--seed", type=int, default=0, help="fixes the data, the first weights and the batches")
flag("--device", type=str, choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU with Triton, or the CPU")
# output
flag("--train_visualization", action=BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=Path, default="outputs", help="where pictures, model and metrics go")

LABELS = {"persistence": "copy the last value", "linear": "linear rule, 20 lags", "quintic": "quintic in (V, ΔV)"}
LABELS |= {"two_means": "best filter by hand", "gru": "GRU", "ideal": "ideal observer"}

SKIP = 9  # samples of every trace that are neither trained on nor scored: so soon no predictor can know W


def record(neurons, noise_std):
    """What an electrode hands out: the traces of a dataset with noise on every sample, inputs and targets alike."""
    V = torch.cat([neurons.data_x[:, :1], neurons.data_y], dim=1)[..., 0].t()  # (T + 1, N)
    return Traces(V + noise_std * torch.randn_like(V), neurons.dt)


def train_model(model, dataset, view, args):
    """Train by truncated backpropagation through time; after every epoch yield its mean loss, and the fit of `view`.

    dataset: traces without noise; every epoch gets noise of its own. view: a few neurons that are not trained on.
    "view_loss" is the error of what is predicted from their noisy samples, scored without noise; "trace" shows it for
    the first, and runs freely from half-way on.
    """
    updates_per_epoch = math.ceil(len(dataset) / args.batch_size) * math.ceil(dataset.data_x.shape[1] / args.window)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.init_lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_epochs * updates_per_epoch)
    noisy = record(view, args.noise_std)
    half = view.data_x.shape[1] // 2
    for _ in range(args.num_epochs):
        loss = train_epoch(model, record(dataset, args.noise_std), optimizer, schedule, args)
        view_loss = mse_loss(model.predict(noisy.data_x)[:, SKIP:], view.data_y[:, SKIP:]).item()
        trace = model.predict(noisy.data_x[:1, :half], future=view.data_x.shape[1] - half).flatten().numpy()
        yield {"loss": loss, "view_loss": view_loss, "trace": trace, "samples": noisy.data_y[0, :half, 0].numpy()}


def train_epoch(model, dataset, optimizer, schedule, args):
    """One pass over the training set; return the mean loss."""
    x, y = (data.transpose(0, 1).to(model.device) for data in (dataset.data_x, dataset.data_y))  # (T, N, 1)
    losses = []
    for indices in torch.randperm(len(dataset), device=model.device).split(args.batch_size):
        H, skip = None, SKIP
        for x_window, y_window in zip(x[:, indices].split(args.window), y[:, indices].split(args.window)):
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


def gradient_through_time(model, dataset, num_steps=300):
    """Measure how far back one prediction's error reaches: ‖dL/dH‖ at 0, 1, ... num_steps - 1 steps before it.

    A list of root mean squares over trajectories, relative to 0 steps. Each trajectory contributes one prediction, at a
    time of its own, because the reach depends on how long ago the last spike was.
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


def lags(x, num):
    """The last `num` samples at every step, the first one repeated before it: (N, T) to (N, T, num)."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (num - 1, 0)), "edge"), num, axis=1)


def voltage_and_change(x):
    """V and its last change ΔV at every step: (N, T) to (N, T, 2)."""
    before, now = np.moveaxis(lags(x, 2), -1, 0)
    return np.stack([now, now - before], axis=-1)


def two_means(x):
    """A filter made by hand: the means of the last five samples and of the five before, (N, T) to (N, T, 2)."""
    return lags(x, 10).reshape(*x.shape, 2, 5).mean(axis=-1)


def polynomial(degree):
    return make_pipeline(PolynomialFeatures(degree), LinearRegression())


def fit_baselines(dataset):
    """Fit by least squares what a network has to beat: name -> (features of x (N, T), a regression on them)."""
    x, y = (data.double().squeeze(-1).numpy() for data in (dataset.data_x, dataset.data_y))
    baselines = {
        "linear": (lambda x: lags(x, 20), LinearRegression()),
        "quintic": (voltage_and_change, polynomial(5)),
        "two_means": (two_means, polynomial(5)),
    }
    for features, regression in baselines.values():
        regression.fit(np.concatenate(features(x)[:, SKIP:]), y[:, SKIP:].ravel())  # (N, T, k) to (N * T, k)
    return baselines


def predict_all(networks, baselines, x):
    """What each predicts to come next at every step of traces x (N, T, 1): name -> (N, T)."""
    V = x.double().squeeze(-1).numpy()
    predictions = {"persistence": V}
    for name, (features, regression) in baselines.items():
        predictions[name] = regression.predict(np.concatenate(features(V))).reshape(V.shape)
    for name, network in networks.items():
        predictions[name] = network.predict(x).squeeze(-1).double().numpy()
    return predictions


def evaluate_model(predictions, true):
    """Mean squared error of predictions (N, T), scored against the next V without noise, which only a simulator has."""
    T, metrics = true.shape[1], {}
    for name, prediction in predictions.items():
        error = np.square(prediction - true)
        parts = {"mse": error[:, SKIP:], "early_mse": error[:, T // 10 : T // 5], "late_mse": error[:, T // 2 :]}
        metrics |= {f"{name}_{part}": float(values.mean()) for part, values in parts.items()}
    return metrics


def label(name):
    return LABELS.get(name, f"{name.replace('_', ', ')} units")


def print_table(metrics, names, num_samples):
    early = f"samples {num_samples // 10} to {num_samples // 5}"
    print(f"\n{'test MSE of the next V':36}{early:>20}{'last half':>13}")
    for name in names:
        print(f"{label(name):36}{metrics[f'{name}_early_mse']:20.2e}{metrics[f'{name}_late_mse']:13.2e}")


def draw_pictures(args, history, view, errors, before, after):
    """Write the neuron, the training as an animation and its losses, what a memory is worth and how far it reaches."""
    frames = [history[:epoch] for epoch in np.unique(np.linspace(1, len(history), 20, dtype=int))]
    save_figure(args.out_dir / "neuron.png", draw_neuron, view)
    save_gif(args.out_dir / "fitzhugh_nagumo_regression.gif", frames, plot_filtering, view)
    save_figure(args.out_dir / "regression_losses.png", lambda figure: plot_losses(figure)(history))
    errors = {name: error for name, error in errors.items() if name not in (LABELS["linear"], LABELS["quintic"])}
    save_figure(args.out_dir / "regression_memory.png", draw_memory, errors, args.noise_std)
    save_figure(args.out_dir / "regression_reach.png", draw_reach, before, after, args.window)


def main(argv=None):
    args = parser.parse_args(argv)
    if args.noise_std == 0:
        args = parser.parse_args(argv, Namespace(**CLEAN))  # its defaults, and what was given
    if min(args.window, args.num_samples) <= SKIP:
        parser.error(f"--window, --num_samples: expected more than the {SKIP} samples that do not count")
    set_up(args)

    def dataset(offset, num):  # no two offsets or seeds share a trajectory
        settings = {"duration": args.duration, "seed": 4 * args.seed + offset, "anywhere": args.anywhere}
        return FitzhughNagumo(num, args.num_samples, **settings)

    train_set, view, test_set = dataset(0, args.num_train), dataset(1, 8), dataset(2, args.num_test)
    model, *untrained = (GRU(1, k * args.n_hidden, 1, residual=True).to(args.device) for k in (1, 1, 4))
    noisy_train, noisy_test = (record(neurons, args.noise_std) for neurons in (train_set, test_set))
    before = gradient_through_time(model, noisy_test)
    training = train_model(model, train_set, view, args)  # a generator: nothing has run yet
    live = live_window(plot_filtering, view) if args.train_visualization else None
    path, info = args.out_dir / f"{STEM}.pth", {"best_by": "view_loss", "task": "regression", "dt": train_set.dt}
    history, interrupted = follow(training, args.num_epochs, model, path, live, **info)

    for network in untrained:  # nothing is fitted but the readout: what does training buy?
        network.fit_readout(noisy_train.data_x, noisy_train.data_y, SKIP)
    networks = {f"untrained_{network.num_hiddens}": network for network in untrained} | {"gru": model}
    predictions = predict_all(networks, fit_baselines(noisy_train), noisy_test.data_x)
    if args.noise_std >= 0.01:  # without noise no match is exact
        predictions["ideal"] = ideal_prediction(noisy_test.data_x[..., 0], test_set, args.noise_std).numpy()
    true = test_set.data_y[..., 0].double().numpy()
    metrics = evaluate_model(predictions, true)
    print_table(metrics, predictions, args.num_samples)
    after = gradient_through_time(model, noisy_test)
    back = min(args.window, len(after) - 1)
    metrics |= {"gradient_before_training": before[back], "gradient_after_training": after[back]}
    print(f"\n|dL/dH|, {back} steps back over last: {before[back]:.0e} before training, {after[back]:.0e} after it")
    if args.train_visualization:
        errors = {label(name): np.square(prediction - true).mean(axis=0) for name, prediction in predictions.items()}
        draw_pictures(args, history, view, errors, before, after)
    metrics |= {"train_seconds": history[-1]["seconds"], "interrupted": interrupted}
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
