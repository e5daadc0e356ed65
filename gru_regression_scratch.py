"""Task 1: a GRU learns to predict a neuron's next voltage from all it has seen so far.

    python gru_regression_scratch.py
    python gru_regression_scratch.py --n_hidden 16 --num_epochs 10

You should see the loss fall a thousandfold, then a table of test errors. At the dt of the training the GRU is ahead of
copying the last value, of a linear autoregression and of a cubic polynomial. At half of it, only of copying.
"""

import argparse
import copy
import math
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import STYLE, FitzhughNagumo, LiveWindow, write_gif
from models import (
    GRU,
    FlagParser,
    check_loss,
    device_flag,
    folder,
    number,
    replacing,
    run,
    save_checkpoint,
    save_metrics,
)

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
flag("--device", type=device_flag, default="auto", help="auto, cpu or cuda")
# output
flag("--train_visualization", action=argparse.BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=folder, default="outputs", help="where pictures, model and metrics go")


def train_model(model, dataset, num_epochs, batch_size, window, init_lr, max_grad_norm, view=None, partial_path=None):
    """Train by truncated backpropagation through time; return the history as plain lists.

    view: a dataset of one trajectory, predicted after every epoch for the pictures; None draws nothing.
    partial_path: where the best model so far is kept while training runs.
    Ctrl-C ends training early, and is passed on before the first epoch is through: there is nothing to keep then.
    The model is left with the weights of its best epoch.
    Raises FloatingPointError after an epoch in which training has diverged.
    """
    batches = DataLoader(dataset, batch_size, shuffle=True)
    windows_per_batch = math.ceil(dataset.data_x.shape[1] / window)
    optimizer = torch.optim.Adam(model.parameters(), lr=init_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs * len(batches) * windows_per_batch)
    history = {"loss": [], "trace": [], "interrupted": False}
    best = copy.deepcopy(model.state_dict())
    live = None if view is None else LiveWindow()
    update = live and plot_fit(live.figure, view)
    # a progress bar in a terminal; where the output goes to a file, a line for every epoch instead
    progress = tqdm(range(1, num_epochs + 1), desc="training", unit="epoch", file=sys.stdout, disable=None)
    try:
        for epoch in progress:
            loss = train_epoch(model, batches, window, optimizer, schedule, max_grad_norm)
            check_loss(loss, epoch, init_lr)
            history["loss"].append(loss)
            if loss == min(history["loss"]):
                best = copy.deepcopy(model.state_dict())
                if partial_path:
                    save_checkpoint(partial_path, model, task="regression", dt=dataset.dt)
            progress.set_postfix(loss=f"{loss:.2e}")
            if progress.disable:
                print(f"epoch {epoch:3d}  loss {loss:.2e}", flush=True)
            if live:
                history["trace"].append(predict(model, view.data_x).flatten().tolist())
                live.redraw(update, history, epoch)
    except KeyboardInterrupt:
        if not history["loss"]:
            raise
        history["interrupted"] = True
    if live:
        live.close()
    model.load_state_dict(best)
    return history


def train_epoch(model, batches, window, optimizer, schedule, max_grad_norm):
    """One pass over the training set; return the mean loss."""
    device = next(model.parameters()).device
    losses = []
    for x, y in batches:  # (B, T, 1)
        x, y = x.to(device).transpose(0, 1), y.to(device).transpose(0, 1)  # (T, B, 1)
        H = None
        for x_window, y_window in zip(x.split(window), y.split(window)):
            states, predictions = model(x_window, H)
            loss = mse_loss(predictions, y_window)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            schedule.step()
            H = states[-1].detach()  # the state is carried on into the next window, the gradient is not
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


@torch.no_grad()
def predict(model, x):
    """The network's prediction of every next sample, for traces x (N, T, 1), on the CPU."""
    device = next(model.parameters()).device
    _, predictions = model(x.to(device).transpose(0, 1))
    return predictions.transpose(0, 1).cpu()


def gradient_through_time(model, dataset, num_steps=200):
    """Measure how far back one prediction's error reaches: ‖dL/dH‖ at 0, 1, ... num_steps - 1 steps before it.

    A list of root mean squares over up to 64 trajectories, relative to the first; num_steps is cut to what there is.
    """
    x, y = (data[:64].transpose(0, 1).to(model.W_hh.device) for data in (dataset.data_x, dataset.data_y))  # (T, B, 1)
    num_steps = min(num_steps, len(x))
    start = len(x) - num_steps
    H = model(x[:start])[0][-1].detach() if start else None
    states = []
    for x_t in x[start:]:
        H = model(x_t[None], H)[0][-1]
        states.append(H)
    loss = mse_loss(model.readout(H, x[-1]), y[-1], reduction="sum")  # of the last prediction alone
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
    x, y = dataset.data_x.double().squeeze(-1).numpy(), dataset.data_y.double().squeeze(-1).numpy()
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
    x, y = dataset.data_x.double().squeeze(-1).numpy(), dataset.data_y.double().squeeze(-1).numpy()

    def mse(prediction):
        return float(np.mean((prediction - y[:, -prediction.shape[1] :]) ** 2))

    metrics = {
        "test_mse": mse(predict(model, dataset.data_x).squeeze(-1).double().numpy()),
        "persistence_mse": mse(x),
    }
    for name, (features, regression) in baselines.items():
        metrics[f"{name}_mse"] = mse(regression.predict(np.concatenate(features(x))).reshape(len(x), -1))
    return metrics


def plot_fit(figure, view):
    """Plot the true trace of `view`; return update(history, epoch), which draws that epoch's prediction over it."""
    t = view.dt * np.arange(1, view.data_y.shape[1] + 1)
    true = view.data_y.flatten().numpy()
    trace, error = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    trace.plot(t, true, color="0.6", linewidth=4, label="true")
    (predicted,) = trace.plot([], [], "--", color="tab:red", label="predicted")
    (distance,) = error.semilogy([], [], color="tab:red", linewidth=1)
    error.axhline(copying := np.abs(np.diff(true)).mean(), color="0.4", linestyle=":", linewidth=1)
    error.text(t[-1], copying, "copying the last value, mean", ha="right", va="bottom", fontsize=11, color="0.4")
    trace.set(ylabel="V", ylim=(-2.4, 2.4))
    trace.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)  # beside the title, clear of the spikes
    error.set(xlabel="time", ylabel="|error|", xlim=(0, t[-1]), ylim=(1e-6, 10), yticks=[1e-6, 1e-4, 1e-2, 1])

    def update(history, epoch):
        predicted.set_data(t, history["trace"][epoch - 1])
        distance.set_data(t, np.abs(predicted.get_ydata() - true) + 1e-12)
        trace.set_title(f"epoch {epoch}   loss {history['loss'][epoch - 1]:.1e}", loc="left")

    return update


def animate(path, view, history, max_frames=50):
    """Write the fit, epoch by epoch, as a GIF."""
    epochs = np.unique(np.linspace(1, len(history["trace"]), max_frames, dtype=int))
    figure = Figure()
    update = plot_fit(figure, view)
    update(history, epochs[0])  # its title takes part in the layout
    with replacing(path) as temporary:
        write_gif(temporary, figure, lambda epoch: update(history, epoch), epochs)


def draw_gradients(path, before, after, window):
    """Draw the size of dL/dH at each step back in time, for the network before and after training."""
    figure = Figure()
    axes = figure.subplots()
    for gradients, label in ((before, "before training"), (after, "after training")):
        axes.semilogy(gradients, label=label)
    axes.axvline(window, color="0.6", linestyle=":", label=f"truncated here in training: {window} steps")
    axes.set(
        xlabel="steps back in time", ylabel="size of dL/dH (last step: 1)", xlim=(0, len(before) - 1), ylim=(1e-12, 10)
    )
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary)


def print_table(metrics, dt):
    names = {
        "persistence": "copy the last value",
        "autoregression": f"linear autoregression, {LAGS} lags",
        "polynomial": "cubic polynomial in (V, ΔV)",
        "test": "GRU",
    }
    print(f"\n{'test MSE of the next V':32}{f'dt = {dt:g}':>14}{'/ GRU':>9}{f'dt = {dt / 2:g}':>14}{'/ GRU':>9}")
    for name, label in names.items():
        row = f"{label:32}"
        for column in ("{}_mse", "{}_mse_half_dt"):
            value = metrics[column.format(name)]
            row += f"{value:14.2e}{value / metrics[column.format('test')]:9.3g}"
        print(row)


def main(argv=None):
    args = parser.parse_args(argv)
    start = time.perf_counter()
    if args.window > args.num_samples:
        raise ValueError(f"--window = {args.window}: expected at most --num_samples = {args.num_samples}")
    torch.set_num_threads(1)  # products this small lose more to a second thread than they win
    torch.manual_seed(args.seed)
    plt.style.use(STYLE)
    args.out_dir.mkdir(parents=True, exist_ok=True)

    # no two offsets or seeds share a trajectory
    def dataset(offset, num, factor=1, rate=1):
        sizes = {"N": num, "T": factor * rate * args.num_samples, "duration": factor * args.duration}
        return FitzhughNagumo(**sizes, seed=4 * args.seed + offset)

    train_set = dataset(0, args.num_train)
    model = GRU(num_inputs=1, num_hiddens=args.n_hidden, num_outputs=1, residual=True).to(args.device)
    view = dataset(1, 1) if args.train_visualization else None
    test_set = dataset(2, args.num_test, factor=2)
    # the original tutorial's harder question: the same trajectories, sampled twice as finely as in training
    finer_test_set = dataset(2, args.num_test, factor=2, rate=2)
    gradients_before = gradient_through_time(model, test_set)
    partial = args.out_dir / f"{STEM}_partial.pth"
    print(f"while training runs, its best model is in {partial}", flush=True)
    start_training = time.perf_counter()
    history = train_model(
        model, train_set, args.num_epochs, args.batch_size, args.window, args.init_lr, args.max_grad_norm, view, partial
    )
    train_seconds = time.perf_counter() - start_training

    baselines = fit_baselines(train_set)
    metrics = evaluate_model(model, baselines, test_set)
    half_dt = evaluate_model(model, baselines, finer_test_set)
    metrics |= {f"{name}_half_dt": value for name, value in half_dt.items()}
    print_table(metrics, train_set.dt)
    gradients_after = gradient_through_time(model, test_set)
    back = min(args.window, len(gradients_before) - 1)
    before, after = gradients_before[back], gradients_after[back]
    print(f"\ndL/dH {back} steps back, relative to the last step: {before:.0e} before training, {after:.0e} after")
    metrics |= {"gradient_before_training": before, "gradient_after_training": after}

    written = [args.out_dir / f"{STEM}.pth"]
    save_checkpoint(written[0], model, task="regression", dt=train_set.dt)
    partial.unlink(missing_ok=True)
    if history["trace"]:
        written += [args.out_dir / "fitzhugh_nagumo_regression.gif", args.out_dir / "gradient_through_time.png"]
        animate(written[-2], view, history)
        draw_gradients(written[-1], gradients_before, gradients_after, args.window)
    written.append(args.out_dir / f"{STEM}_metrics.json")
    metrics |= {"train_seconds": train_seconds, "seconds": time.perf_counter() - start}
    metrics |= {"interrupted": history["interrupted"], "flags": vars(args)}
    save_metrics(written[-1], metrics)
    for path in written:
        print(f"wrote {path}")
    return metrics


if __name__ == "__main__":
    run(main)
