"""Task 1: a GRU learns to predict a neuron's next voltage from all it has seen so far.

    python gru_regression_scratch.py
    python gru_regression_scratch.py --n_hidden 16 --num_epochs 10

You should see the loss fall a thousandfold, then a table of test errors. At the dt of the training the GRU is ahead of
copying the last value, of a linear autoregression and of a cubic polynomial. At half of it, only of copying.
"""

from plumbing import FlagParser, LiveWindow, device, finish, folder, follow, number, run, save_figure, save_gif, set_up

import argparse
import math

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from datasets import FitzhughNagumo
from models import GRU

STEM = "gru_regression_scratch"

parser = FlagParser(__doc__)
flag = parser.add_argument
# data
flag("--num_train", type=number(int, 1, 100_000), default=256, help="trajectories to train on")
flag("--num_test", type=number(int, 1, 100_000), default=256, help="new trajectories, twice as long, to test on")
flag("--num_samples", type=number(int, 10, 100_000), default=1000, help="samples per trajectory")
flag("--duration", type=number(float, 1, 10_000), default=400.0, help="length of a trajectory in time units")
# model
flag("--n_hidden", type=number(int, 1, 2048), default=32, help="hidden units")
# training
flag("--num_epochs", type=number(int, 1, 100_000), default=36, help="passes over the training set")
flag("--batch_size", type=number(int, 1, 100_000), default=32, help="trajectories per gradient step")
flag("--window", type=number(int, 1, 100_000), default=50, help="steps the gradient flows back: truncated BPTT")
flag("--init_lr", type=number(float, 1e-9, 1e9), default=1e-2, help="learning rate of Adam; decays to 0 as a cosine")
flag("--max_grad_norm", type=number(float, 1e-9, 1e9), default=0.05, help="a longer gradient is clipped to this norm")
flag("--seed", type=number(int, 0, 2**31 - 1), default=0, help="fixes the data, the first weights and the batches")
flag("--device", type=device, default="auto", help="auto, cpu or cuda")
# output
flag("--train_visualization", action=argparse.BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=folder, default="outputs", help="where pictures, model and metrics go")


def train_model(model, dataset, view, args):
    """Train by truncated backpropagation through time; after every epoch yield its mean loss, and the fit of `view`.

    view: a dataset of one trajectory that is not trained on. "view_loss" is the error there, "trace" the prediction.
    """
    batches = DataLoader(dataset, args.batch_size, shuffle=True)
    num_updates = args.num_epochs * len(batches) * math.ceil(dataset.data_x.shape[1] / args.window)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.init_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    for _ in range(args.num_epochs):
        loss = train_epoch(model, batches, optimizer, schedule, args)
        trace = model.predict(view.data_x)
        yield {
            "loss": loss,
            "view_loss": mse_loss(trace, view.data_y).item(),
            "trace": trace.double().flatten().numpy(),
        }


def train_epoch(model, batches, optimizer, schedule, args):
    """One pass over the training set; return the mean loss."""
    losses = []
    for x, y in batches:  # (B, T, 1)
        x, y = x.transpose(0, 1).to(model.device), y.transpose(0, 1).to(model.device)  # (T, B, 1)
        H = None
        for x_window, y_window in zip(x.split(args.window), y.split(args.window)):
            states, predictions = model(x_window, H)
            loss = mse_loss(predictions, y_window)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            schedule.step()
            H = states[-1].detach()  # the state is carried on into the next window, the gradient is not
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def gradient_through_time(model, dataset, num_steps=200):
    """Measure how far back one prediction's error reaches: ‖dL/dH‖ at 0, 1, ... num_steps - 1 steps before it.

    A list of root mean squares over up to 64 trajectories, relative to the first; num_steps is cut to what there is.
    """
    x = dataset.data_x[:64].transpose(0, 1).to(model.device)  # (T, B, 1)
    y = dataset.data_y[:64, -1].to(model.device)
    start = max(0, len(x) - num_steps)
    H = model(x[:start])[0][-1].detach() if start else None
    states = []
    for x_t in x[start:]:
        H = model(x_t[None], H)[0][-1]
        states.append(H)
    loss = mse_loss(model.readout(H, x[-1]), y, reduction="sum")  # of the last prediction alone
    gradients = torch.stack(torch.autograd.grad(loss, states))  # (num_steps, B, num_hiddens)
    sizes = gradients.double().square().sum(-1).mean(-1).sqrt().flip(0)
    return (sizes / sizes[0].clamp(min=1e-300)).tolist()


LAGS = 4  # samples that the linear autoregression sees


def lagged(x):
    """Every LAGS samples in a row: (N, T) to (N, T - LAGS + 1, LAGS)."""
    return np.lib.stride_tricks.sliding_window_view(x, LAGS, axis=1)


def voltage_and_change(x):
    """V and ΔV at every sample that has LAGS samples up to it: (N, T) to (N, T - LAGS + 1, 2)."""
    return np.stack([x, np.diff(x, axis=1, prepend=0)], axis=-1)[:, LAGS - 1 :]


def fit_baselines(dataset):
    """Fit by least squares what a network has to beat: name -> (features of x (N, T), a regression on them)."""
    x, y = (data.double().squeeze(-1).numpy() for data in (dataset.data_x, dataset.data_y))
    baselines = {
        "autoregression": (lagged, LinearRegression()),
        "polynomial": (voltage_and_change, make_pipeline(PolynomialFeatures(3), LinearRegression())),
    }
    for features, regression in baselines.values():
        regression.fit(np.concatenate(features(x)), y[:, LAGS - 1 :].ravel())
    return baselines


def evaluate_model(model, baselines, dataset):
    """Mean squared error of the next voltage, for the GRU and for each predictor it is measured against.

    Each is scored wherever it has the samples it needs: the GRU and copying from the first one on, which is the
    hardest, the others from the fourth.
    """
    x, y = (data.double().squeeze(-1).numpy() for data in (dataset.data_x, dataset.data_y))
    predictions = {"test": model.predict(dataset.data_x).squeeze(-1).double().numpy(), "persistence": x}
    for name, (features, regression) in baselines.items():
        predictions[name] = regression.predict(np.concatenate(features(x))).reshape(len(x), -1)
    return {f"{name}_mse": float(np.mean((p - y[:, -p.shape[1] :]) ** 2)) for name, p in predictions.items()}


def plot_fit(figure, view):
    """Plot the true trace of `view`; return update(history), which draws the last epoch's prediction over it."""
    t = view.dt * np.arange(1, view.data_y.shape[1] + 1)
    true = view.data_y.flatten().numpy()
    trace, error = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    trace.plot(t, true, color="0.6", linewidth=4, label="true")
    (predicted,) = trace.plot([], [], "--", color="tab:red", label="predicted")
    (distance,) = error.semilogy([], [], color="tab:red", linewidth=1)
    copying = np.abs(np.diff(true)).mean()
    error.axhline(copying, color="0.4", linestyle=":", linewidth=1)
    error.text(t[-1], copying, "copying the last value, mean", ha="right", va="bottom", fontsize=11, color="0.4")
    trace.set(ylabel="V", ylim=(-2.4, 2.4))
    trace.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)  # beside the title, clear of the spikes
    error.set(xlabel="time", ylabel="|error|", xlim=(0, t[-1]), ylim=(1e-6, 10), yticks=[1e-6, 1e-4, 1e-2, 1])

    def update(history):
        predicted.set_data(t, history[-1]["trace"])
        distance.set_data(t, np.abs(history[-1]["trace"] - true) + 1e-12)
        trace.set_title(f"epoch {len(history)}   loss {history[-1]['loss']:.1e}", loc="left")

    return update


def draw_gradients(figure, before, after, window):
    """Draw the size of dL/dH at each step back in time, for the network before and after training."""
    axes = figure.subplots()
    axes.semilogy(before, label="before training")
    axes.semilogy(after, label="after training")
    axes.axvline(window, color="0.6", linestyle=":", label=f"truncated here in training: {window} steps")
    axes.set(xlabel="steps back in time", ylabel="size of dL/dH (last step: 1)")
    axes.set(xlim=(0, len(before) - 1), ylim=(1e-12, 10))
    axes.legend()


def print_table(metrics, dt):
    rows = {
        "persistence": "copy the last value",
        "autoregression": f"linear autoregression, {LAGS} lags",
        "polynomial": "cubic polynomial in (V, ΔV)",
        "test": "GRU",
    }
    print(f"\n{'test MSE of the next V':32}{f'dt = {dt:g}':>14}{'/ GRU':>9}{f'dt = {dt / 2:g}':>14}{'/ GRU':>9}")
    for name, label in rows.items():
        mse, half_dt = metrics[f"{name}_mse"], metrics[f"{name}_mse_half_dt"]
        ratio, ratio_half_dt = mse / metrics["test_mse"], half_dt / metrics["test_mse_half_dt"]
        print(f"{label:32}{mse:14.2e}{ratio:9.3g}{half_dt:14.2e}{ratio_half_dt:9.3g}")


def main(argv=None):
    args = parser.parse_args(argv)
    if args.window > args.num_samples:
        raise ValueError(f"--window = {args.window}: expected at most --num_samples = {args.num_samples}")
    start = set_up(args)

    def dataset(offset, num, factor=1, rate=1):  # no two offsets or seeds share a trajectory
        num_samples, duration = factor * rate * args.num_samples, factor * args.duration
        with parser.blaming("--num_train, --num_test, --num_samples, --duration"):
            return FitzhughNagumo(num, num_samples, duration=duration, seed=4 * args.seed + offset)

    train_set, view, test_set = dataset(0, args.num_train), dataset(1, 1), dataset(2, args.num_test, factor=2)
    # the original tutorial's harder question: the same trajectories, sampled twice as finely as in training
    finer_test_set = dataset(2, args.num_test, factor=2, rate=2)
    model = GRU(num_inputs=1, num_hiddens=args.n_hidden, num_outputs=1, residual=True).to(args.device)
    gradients_before = gradient_through_time(model, test_set)
    training = train_model(model, train_set, view, args)  # nothing has run yet
    window = LiveWindow(plot_fit, view) if args.train_visualization else None
    path = args.out_dir / f"{STEM}.pth"
    history, interrupted = follow(training, args.num_epochs, model, path, window, task="regression", dt=train_set.dt)

    baselines = fit_baselines(train_set)
    metrics = evaluate_model(model, baselines, test_set)
    for name, mse in evaluate_model(model, baselines, finer_test_set).items():
        metrics[f"{name}_half_dt"] = mse
    print_table(metrics, train_set.dt)
    gradients = gradient_through_time(model, test_set)
    back = min(args.window, len(gradients) - 1)
    metrics |= {"gradient_before_training": gradients_before[back], "gradient_after_training": gradients[back]}
    print(f"\ndL/dH {back} steps back, relative to the last step: ", end="")
    print(f"{gradients_before[back]:.0e} before training, {gradients[back]:.0e} after")
    if args.train_visualization:
        epochs = np.unique(np.linspace(1, len(history), 50, dtype=int))
        frames = [history[:epoch] for epoch in epochs]
        save_gif(args.out_dir / "fitzhugh_nagumo_regression.gif", frames, plot_fit, view, play=False)
        save_figure(
            args.out_dir / "gradient_through_time.png", draw_gradients, gradients_before, gradients, args.window
        )
    metrics |= {"train_seconds": history[-1]["seconds"], "interrupted": interrupted}
    return finish(args.out_dir / f"{STEM}_metrics.json", metrics, args, start)


if __name__ == "__main__":
    run(main)
