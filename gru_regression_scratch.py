"""Task 1: a GRU learns to predict a neuron's next voltage from all it has seen so far.

    python gru_regression_scratch.py
    python gru_regression_scratch.py --n_hidden 16 --num_epochs 10

You should see the loss fall several thousandfold, then a table of test errors. At the dt of training the GRU beats
copying the last value, a linear rule, a cubic polynomial and untrained networks like itself; a quintic polynomial is
about as good. At half that dt it beats copying only.
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

from datasets import FitzhughNagumo, simulate
from models import GRU

STEM = "gru_regression_scratch"

parser = FlagParser(__doc__)
flag = parser.add_argument
# data
flag("--num_train", type=number(int, 1, 100_000), default=256, help="trajectories to train on")
flag("--num_test", type=number(int, 1, 100_000), default=256, help="new trajectories, twice as long, to test on")
flag("--num_samples", type=number(int, 10, 100_000), default=1000, help="samples per trajectory")
flag("--duration", type=number(float, 1, 10_000), default=400.0, help="length of a trajectory in time units")
flag("--anywhere", action=argparse.BooleanOptionalAction, default=True, help="neurons start anywhere, not at W(0) = 0")
# model
flag("--n_hidden", type=number(int, 1, 2048), default=32, help="hidden units")
# training
flag("--num_epochs", type=number(int, 1, 100_000), default=54, help="passes over the training set")
flag("--batch_size", type=number(int, 1, 100_000), default=32, help="trajectories per gradient step")
flag("--window", type=number(int, 5, 100_000), default=50, help="steps the gradient flows back: truncated BPTT")
flag("--init_lr", type=number(float, 1e-9, 1e9), default=1e-2, help="learning rate of Adam; decays to 0 as a cosine")
flag("--max_grad_norm", type=number(float, 1e-9, 1e9), default=0.003, help="a longer gradient is clipped to this norm")
flag("--seed", type=number(int, 0, 2**31 - 1), default=0, help="fixes the data, the first weights and the batches")
flag("--device", type=device, default="auto", help="auto, cpu or cuda")
# output
flag("--train_visualization", action=argparse.BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=folder, default="outputs", help="where pictures, model and metrics go")

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
    optimizer = torch.optim.Adam(model.parameters(), lr=args.init_lr)
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
    one prediction, at a time of its own, because the reach depends on how long ago the last spike was. Where the traces
    are shorter than num_steps, so is the list.
    """
    x, y = (data.transpose(0, 1).to(model.device) for data in (dataset.data_x, dataset.data_y))  # (T, N, 1)
    num_steps, each = min(num_steps, len(x) - 1), torch.arange(x.shape[1])
    first = torch.linspace(1, len(x) - num_steps, x.shape[1]).long()  # where each trajectory's steps begin
    with torch.no_grad():
        H = model(x)[0][first - 1, each]
    states = []
    for t in range(num_steps):
        H = model(x[None, first + t, each], H)[0][-1]
        states.append(H)
    last = first + num_steps - 1
    loss = mse_loss(model.readout(H, x[last, each]), y[last, each], reduction="sum")  # of these predictions alone
    gradients = torch.stack(torch.autograd.grad(loss, states))  # (num_steps, N, num_hiddens)
    sizes = gradients.double().square().sum(-1).mean(-1).sqrt().flip(0)
    return (sizes / sizes[0].clamp(min=1e-300)).tolist()


# ---- what the GRU is measured against ----


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
        regression.fit(np.concatenate(features(x)[:, SKIP:]), y[:, SKIP:].ravel())
    return baselines


def fit_untrained(model, dataset, widths):
    """Build networks like `model` of other widths and fit nothing but their readouts: what did training buy?"""
    networks = {f"untrained_{width}": GRU(1, width, 1, residual=True).to(model.device) for width in widths}
    for network in networks.values():
        network.fit_readout(dataset.data_x, dataset.data_y, SKIP)
    return networks


def evaluate_model(networks, baselines, dataset):
    """Mean squared error of the next voltage for networks and baselines, all scored on the very same samples.

    "..._mse" is over all samples after the first SKIP, "..._from_tenth_mse" begins with the tenth.
    """
    x, y = (data.double().squeeze(-1).numpy() for data in (dataset.data_x, dataset.data_y))
    predictions = {name: network.predict(dataset.data_x).squeeze(-1).double() for name, network in networks.items()}
    predictions["persistence"] = x
    for name, (features, regression) in baselines.items():
        predictions[name] = regression.predict(np.concatenate(features(x))).reshape(x.shape)
    metrics = {}
    for name, prediction in predictions.items():
        error = np.square(y - np.asarray(prediction))
        metrics[f"{name}_mse"] = float(error[:, SKIP:].mean())
        if error.shape[1] > 9:
            metrics[f"{name}_from_tenth_mse"] = float(error[:, 9:].mean())
    return metrics


# ---- pictures ----


def plot_fit(figure, view):
    """Plot the true trace of `view`; return update(history), which adds the last epoch's free run and errors."""
    t = view.dt * np.arange(1, view.data_y.shape[1] + 1)
    true = view.data_y.flatten().numpy()
    start = min(FREE_FROM, len(t)) - 1
    free, error = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    free.plot(t, true, color="0.6", linewidth=4, label="neuron")
    (generated,) = free.plot([], [], color="tab:red", linewidth=1.5, label="GRU, running freely")
    free.axvspan(0, t[start], color="0.92")
    free.text(t[start // 2], -2.9, "seen", ha="center", fontsize=11, color="0.3")
    free.set(ylabel="V", xlim=(0, t[-1]), ylim=(-3.2, 2.8))
    free.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)  # beside the title, clear of the spikes
    (distance,) = error.semilogy([], [], color="tab:red", linewidth=1)
    error.axhline(np.abs(np.diff(true)).mean(), color="0.3", linestyle=":", label="copying the last value, on average")
    error.set(xlabel="time", ylabel="next step:\n|error|", ylim=(1e-6, 10), yticks=[1e-6, 1e-4, 1e-2, 1])
    error.legend(loc="upper right", fontsize=11)

    def update(history):
        generated.set_data(t[start:], np.clip(history[-1]["free_run"][start:], -5, 5))  # it may run away
        distance.set_data(t, np.abs(history[-1]["trace"] - true) + 1e-12)
        free.set_title(f"epoch {len(history)}   loss {history[-1]['loss']:.1e}", loc="left")

    return update


def draw_neuron(figure, view):
    """Draw the neuron before any network: V and W against time, and in their plane with nullclines and flow."""
    I, a, b, eps = *view.parameters.values(), 1 / 50
    t = np.arange(0, 320, 0.25)
    V, W = (traces[:, 0] for traces in simulate(-0.5, 1.9, t, I, a, b, eps))
    figure.set_size_inches(11, 4.6)
    left, plane = figure.subplots(1, 2)
    left.plot(t, V, color="black", label="V, membrane voltage")
    left.plot(t, W, color="C1", linestyle="--", label="W, recovery variable")
    left.set(xlabel="time", xlim=(0, t[-1]), ylim=(-2.3, 3.0))
    left.legend(loc="upper right", fontsize=11)

    v, w = np.linspace(-2.5, 2.5, 201), np.linspace(-1, 2.2, 201)
    flow = v - v**3 / 3 - w[:, None] + I, eps * (v + a - b * w[:, None])  # dV/dt and dW/dt all over the plane
    plane.streamplot(v, w, *flow, color="0.8", linewidth=0.8, arrowsize=0.9, density=1.1)
    plane.plot(v, v - v**3 / 3 + I, ":", color="C0", label="cubic: dV/dt = 0")
    plane.plot(b * w - a, w, "-.", color="C2", label="line: dW/dt = 0")
    plane.plot(V, W, color="black", linewidth=2.2, label="the trace on the left")
    arrow = {"arrowstyle": "-|>", "mutation_scale": 22, "color": "black"}
    for k in np.searchsorted(t, (30, 88, 110, 133.5)):  # which way round: on both branches, and while V jumps
        plane.annotate("", (V[k + 2], W[k + 2]), (V[k], W[k]), arrowprops=arrow)
    plane.plot(V[0], W[0], "o", color="black")
    rest = v[np.argmin(np.abs(v - v**3 / 3 + I - (v + a) / b))]  # where the two nullclines cross
    plane.plot(rest, (rest + a) / b, "o", markersize=9, markerfacecolor="white", color="C3", label="unstable point")
    plane.set(xlabel="V", ylabel="W", xlim=(-2.5, 2.5), ylim=(-1, 3.0))
    plane.legend(loc="upper center", ncols=2, fontsize=10)


def draw_gradients(figure, before, after, window):
    """Draw the size of dL/dH at each step back in time, for the network before and after training."""
    axes = figure.subplots()
    axes.semilogy(before, label="before training")
    axes.semilogy(after, label="after training")
    axes.axvline(window, color="0.6", linestyle=":", label=f"truncated here in training: {window} steps")
    axes.set(xlabel="steps back in time", ylabel="relative size of dL/dH", xlim=(0, len(before) - 1), ylim=(1e-12, 10))
    axes.legend()


# ---- the script ----


def print_table(metrics, untrained, dt):
    labels = {
        "persistence": "copy the last value",
        "autoregression": "linear autoregression, 4 lags",
        "cubic": "cubic polynomial in (V, ΔV)",
        "quintic": "quintic polynomial in (V, ΔV)",
    }
    labels |= {name: f"{name.replace('_', ', ')} units, readout fitted" for name in untrained}
    columns = {"": f"dt = {dt:g}", "_from_tenth": "from the tenth", "_half_dt": f"dt = {dt / 2:g}"}
    print(f"\n{'test MSE of the next V':36}" + "".join(f"{title:>16}" for title in columns.values()))
    for name, label in (labels | {"test": "GRU"}).items():
        errors = [metrics.get(f"{name}{part}_mse") for part in columns]
        print(f"{label:36}" + "".join(f"{'–' if error is None else f'{error:.2e}':>16}" for error in errors))


def main(argv=None):
    args = parser.parse_args(argv)
    if args.window > args.num_samples:
        raise ValueError(f"--window = {args.window}: expected at most --num_samples = {args.num_samples}")
    start = set_up(args)

    def dataset(offset, num, factor=1, rate=1):  # no two offsets or seeds share a trajectory
        settings = {"duration": factor * args.duration, "seed": 4 * args.seed + offset, "anywhere": args.anywhere}
        with parser.blaming("--num_train, --num_test, --num_samples, --duration"):
            return FitzhughNagumo(num, factor * rate * args.num_samples, **settings)

    train_set, view, test_set = dataset(0, args.num_train), dataset(1, 1), dataset(2, args.num_test, factor=2)
    # the original tutorial's harder question: the same trajectories, sampled twice as finely as in training
    finer_test_set = dataset(2, args.num_test, factor=2, rate=2)
    model = GRU(num_inputs=1, num_hiddens=args.n_hidden, num_outputs=1, residual=True).to(args.device)
    before = gradient_through_time(model, test_set)
    training = train_model(model, train_set, view, args)  # nothing has run yet
    window = LiveWindow(plot_fit, view) if args.train_visualization else None
    path = args.out_dir / f"{STEM}.pth"
    history, interrupted = follow(training, args.num_epochs, model, path, window, task="regression", dt=train_set.dt)

    baselines, untrained = fit_baselines(train_set), fit_untrained(model, train_set, (args.n_hidden, 4 * args.n_hidden))
    metrics = evaluate_model({"test": model} | untrained, baselines, test_set)
    for name, mse in evaluate_model({"test": model}, baselines, finer_test_set).items():
        metrics[name.replace("_mse", "_half_dt_mse")] = mse
    print_table(metrics, untrained, train_set.dt)
    after = gradient_through_time(model, test_set)
    back = min(args.window, len(after) - 1)
    metrics |= {"gradient_before_training": before[back], "gradient_after_training": after[back]}
    print(f"\ndL/dH {back} steps back, relative to the last step: ", end="")
    print(f"{before[back]:.0e} before training, {after[back]:.0e} after")
    if args.train_visualization:
        frames = [history[:epoch] for epoch in np.unique(np.linspace(1, len(history), 45, dtype=int))]
        save_figure(args.out_dir / "neuron.png", draw_neuron, view)
        save_gif(args.out_dir / "fitzhugh_nagumo_regression.gif", frames, plot_fit, view, play=False)
        save_figure(args.out_dir / "gradient_through_time.png", draw_gradients, before, after, args.window)
    metrics |= {"train_seconds": history[-1]["seconds"], "interrupted": interrupted}
    return finish(args.out_dir / f"{STEM}_metrics.json", metrics, args, start)


if __name__ == "__main__":
    run(main)
