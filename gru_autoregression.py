"""Task 2: a GRU generates a neuron's voltage for ever, from a short warm-up, fed with nothing but its own predictions.

    python gru_autoregression.py                         runs the trained network of checkpoints/
    python gru_autoregression.py --test_duration 12800   a hundred periods instead of 26
    python gru_autoregression.py --retrain               trains a new one, in some minutes

You should see a table in which the generated spikes keep the true period, amplitude and phase, and pictures of the
limit cycle that the network has learnt, with the recovery variable W, which it was never shown, read out of its state.
"""

import argparse
import copy
import math
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch.nn.functional import mse_loss
from tqdm import tqdm

from datasets import STYLE, FitzhughNagumo, LiveWindow, period, upward_crossings, write_gif
from models import (
    GRU,
    FlagParser,
    check_loss,
    device_flag,
    folder,
    load_checkpoint,
    number,
    replacing,
    run,
    save_checkpoint,
    save_metrics,
)

STEM = "gru_autoregression"
SHIPPED = Path(__file__).with_name("checkpoints") / "autoregressiveGRU.pth"

parser = FlagParser(__doc__)
flag = parser.add_argument
flag("--retrain", action="store_true", help="train a new network instead of loading one")
flag("--checkpoint", type=Path, default=SHIPPED, help="the network to load; the shipped one is never written to")
flag("--seed", type=number(int, 0, 2**31 - 1), default=0, help="fixes the data, the first weights and the batches")
flag("--device", type=device_flag, default="auto", help="auto, cpu or cuda")
# data
flag("--num_test", type=number(int, 2, 10_000), default=64, help="new trajectories to generate")
flag("--num_samples", type=number(int, 10, 100_000), default=512, help="samples per training trajectory")
flag("--duration", type=number(float, 1, 10_000), default=400.0, help="its length in time units")
flag("--test_duration", type=number(float, 300, 20_000), default=3200.0, help="time units to generate")
flag("--warm_up", type=number(int, 1, 100_000), default=50, help="true samples seen before the network runs freely")
# model and training: a network that is loaded has all this behind it
flag = parser.add_argument_group("model and training, with --retrain").add_argument
flag("--n_hidden", type=number(int, 1, 2048), default=64, help="hidden units")
flag("--num_train", type=number(int, 1, 100_000), default=256, help="trajectories to train on")
flag("--num_epochs_one_step", type=number(int, 0, 100_000), default=80, help="stage 1: epochs of next-step prediction")
flag("--num_epochs", type=number(int, 0, 100_000), default=60, help="stage 2: epochs of running freely")
flag("--updates_per_epoch", type=number(int, 1, 100_000), default=25, help="gradient steps per epoch of stage 2")
flag("--horizon", type=number(int, 1, 100_000), default=400, help="stage 2: free steps at the end of training")
flag("--first_horizon", type=number(int, 1, 100_000), default=100, help="stage 2: free steps at its beginning")
flag("--next_step_weight", type=number(float, 0, 1e9), default=100.0, help="stage 2: weight of the next-step loss")
flag(
    "--input_noise", type=number(float, 0, 100), default=0.02, help="stage 1: standard deviation of noise on the input"
)
flag("--batch_size", type=number(int, 1, 100_000), default=32, help="trajectories per gradient step")
flag("--window", type=number(int, 1, 100_000), default=50, help="stage 1: steps the gradient flows back")
flag("--init_lr", type=number(float, 1e-9, 1e9), default=1e-2, help="stage 1: learning rate of Adam, decays to 0")
flag("--free_lr", type=number(float, 1e-9, 1e9), default=2e-4, help="stage 2: learning rate of Adam, decays to 0")
flag("--max_grad_norm", type=number(float, 1e-9, 1e9), default=0.1, help="a longer gradient is clipped to this norm")
# output
flag = parser.add_argument
flag("--train_visualization", action=argparse.BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=folder, default="outputs", help="where pictures, model and metrics go")


# ---- training ----


def train_model(model, dataset, valid_set, args, live=None, partial_path=None):
    """Train in two stages; return the history as plain lists.

    Stage 1 teaches the next step, from true inputs. Its small errors do no harm there, because the next true input
    corrects them. A network that is fed with itself corrects nothing: its errors are its next inputs, and one that
    was only trained like this is out of phase after a few periods. Noise on the inputs is a first remedy: it asks the
    network to come back from beside the truth. Stage 2 is the cure: the network runs freely and the gradient goes back
    through that closed loop, so that what counts is where an error leads to. The horizon grows on the way, and the
    learning rate is small: one step that is a little too large shifts every spike to come.

    After every epoch the network runs freely through `valid_set`; it is left with the weights that did best there.
    live: a LiveWindow, where that run is drawn. partial_path: where the best model so far is kept while training runs.
    Ctrl-C ends training early, and is passed on before the first epoch is through: there is nothing to keep then.
    Raises FloatingPointError after an epoch in which training has diverged.
    """
    history = {"loss": [], "valid_mse": [], "interrupted": False}
    best = copy.deepcopy(model.state_dict())
    update = live and plot_free_run(live.figure, valid_set)
    stages = (
        ("next step", next_step_epoch, args.num_epochs_one_step, args.init_lr, "--init_lr"),
        ("free running", free_running_epoch, args.num_epochs, args.free_lr, "--free_lr"),
    )
    try:
        for name, train_epoch, num_epochs, lr, lr_flag in stages:
            optimizer = torch.optim.Adam(model.parameters(), lr=lr)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, num_epochs))
            # a progress bar in a terminal; where the output goes to a file, a line for every tenth epoch instead
            progress = tqdm(range(1, num_epochs + 1), desc=name, unit="epoch", file=sys.stdout, disable=None)
            for epoch in progress:
                loss = train_epoch(model, dataset, optimizer, epoch / num_epochs, args)
                schedule.step()
                check_loss(loss, f"{epoch} of {name}", lr, lr_flag)
                generated, _ = run_freely(model, valid_set.data_x, args.warm_up)
                valid_mse = mse_loss(generated, valid_set.data_x).item()
                history["loss"].append(loss)
                history["valid_mse"].append(valid_mse)
                if valid_mse == min(history["valid_mse"]):
                    best = copy.deepcopy(model.state_dict())
                    if partial_path:
                        save_checkpoint(partial_path, model, task="autoregression", dt=dataset.dt)
                progress.set_postfix(loss=f"{loss:.1e}", free_running_mse=f"{valid_mse:.1e}")
                if progress.disable and (epoch % 10 == 0 or epoch == num_epochs):
                    print(f"{name}: epoch {epoch:3d}  loss {loss:.1e}  free running {valid_mse:.1e}", flush=True)
                if live:
                    live.redraw(update, f"{name}, epoch {epoch}", generated[0])
    except KeyboardInterrupt:
        if not history["loss"]:
            raise
        history["interrupted"] = True
    model.load_state_dict(best)
    return history


def next_step_epoch(model, dataset, optimizer, progress, args):
    """Stage 1: one pass over the training set by truncated backpropagation through time; return the mean loss."""
    device = next(model.parameters()).device
    losses = []
    for chosen in torch.randperm(len(dataset)).split(args.batch_size):
        x = dataset.data_x[chosen].transpose(0, 1).to(device)  # (T, B, 1)
        y = dataset.data_y[chosen].transpose(0, 1).to(device)
        x = x + args.input_noise * torch.randn_like(x)
        H = None
        for x_window, y_window in zip(x.split(args.window), y.split(args.window)):
            states, predictions = model(x_window, H)
            losses.append(gradient_step(model, optimizer, mse_loss(predictions, y_window), args.max_grad_norm))
            H = states[-1].detach()  # the state is carried on into the next window, the gradient is not
    return torch.stack(losses).mean().item()


def free_running_epoch(model, dataset, optimizer, progress, args):
    """Stage 2: run freely from random moments and learn from where that leads; return the mean loss of that."""
    device = next(model.parameters()).device
    growth = min(1, 2 * progress)  # the second half of the stage is spent at the full horizon
    horizon = round(args.first_horizon * (args.horizon / args.first_horizon) ** growth)
    each = torch.arange(args.batch_size)
    losses = []
    for _ in range(args.updates_per_epoch):
        chosen = torch.randint(len(dataset), (args.batch_size,))
        x = dataset.data_x[chosen].transpose(0, 1).to(device)  # (T, B, 1)
        y = dataset.data_y[chosen].transpose(0, 1).to(device)
        states, next_steps = model(x)
        # each trajectory runs on from a moment of its own, with what the network remembers there
        start = torch.randint(args.warm_up, len(x) - horizon + 1, (args.batch_size,))
        _, generated = model(x[start, each][None], states[start - 1, each], future=horizon - 1)
        loss = mse_loss(generated, y[start + torch.arange(horizon)[:, None], each])
        # errors in time outweigh those in shape, such as an overshoot, by far; the next step is where shape is learnt
        gradient_step(model, optimizer, loss + args.next_step_weight * mse_loss(next_steps, y), args.max_grad_norm)
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def gradient_step(model, optimizer, loss, max_grad_norm):
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return loss.detach()


# ---- generation and its evaluation ----


@torch.no_grad()
def generate(model, init_x, future_T, block=1000):
    """Generate the future_T samples (future_T, B, 1) that follow init_x (T, B, 1).

    The state is carried, so that n steps cost n steps; states are kept for one block at a time. (The pictures and the
    evaluation need them all: see `run_freely`.) Raises ValueError for a future_T below 1.
    """
    if not isinstance(future_T, int) or future_T < 1:
        raise ValueError(f"future_T = {future_T!r}: expected an integer of at least 1")
    states, readouts = model(init_x)
    generated = [readouts[-1:]]
    for start in range(1, future_T, block):
        # one step from the last sample, then on by itself
        states, readouts = model(generated[-1][-1:], states[-1], future=min(block, future_T - start) - 1)
        generated.append(readouts)
    return torch.cat(generated)


@torch.no_grad()
def run_freely(model, x, warm_up):
    """See the first samples of traces x (N, T, 1), then generate the rest; return all samples, and all states.

    Returns (N, T, 1), of which the first warm_up samples are the true ones, and (T, N, num_hiddens), on the CPU.
    """
    device = next(model.parameters()).device
    init_x = x[:, :warm_up].transpose(0, 1).to(device)
    states, readouts = model(init_x, future=x.shape[1] - warm_up)
    generated = torch.cat([init_x, readouts[warm_up - 1 : -1]])
    return generated.transpose(0, 1).cpu(), states.cpu()


def compare_spikes(true, generated, dt):
    """Period and phase of one generated trace (T,) against the true one; time is counted in true periods.

    Returns the relative error of the period between those spikes that came, how many periods it takes until the spikes
    are off by 5 % of a period or missing (the whole run if they never are), and how far the last one is off, which is
    1.0 where it is missing.
    """
    true_times, times = upward_crossings(true, dt), upward_crossings(generated, dt)
    period = np.diff(true_times).mean()
    period_error = abs(np.diff(times).mean() / period - 1) if len(times) > 1 else 1.0
    shared = min(len(times), len(true_times))
    missing = shared < len(true_times) - 1  # one may fall just outside the run
    drift = (times[:shared] - true_times[:shared]) / period
    out_of_phase = np.flatnonzero(abs(drift) > 0.05)
    if len(out_of_phase):
        end = true_times[out_of_phase[0]]
    elif missing:
        end = true_times[shared]
    else:
        end = len(true) * dt
    return period_error, end / period, 1.0 if missing else abs(drift[-1])


def spectrum_distance(true, generated):
    """Hellinger distance, 0 to 1, between the normalised power spectra of two traces (T,)."""
    p, q = (np.abs(np.fft.rfft(V - V.mean())) ** 2 for V in (true, generated))
    overlap = np.sum(np.sqrt(p * q)) / np.sqrt(max(p.sum() * q.sum(), 1e-300))
    return math.sqrt(max(0.0, 1 - overlap))


def evaluate_model(model, dataset, warm_up):
    """Judge free running by its dynamics, and by what the hidden state knows; medians over trajectories.

    period_error, amplitude_error: relative. periods_in_phase: until the phase is off by 5 %, median and minimum.
    phase_drift: at the end, in periods. spectrum_distance: 0 to 1. w_r2: R² of the recovery variable W, read out of
    the hidden state by a linear regression on half of the trajectories, on the other half. test_mse, persistence_mse:
    of the next sample, from true inputs.
    """
    generated, states = run_freely(model, dataset.data_x, warm_up)
    true_V, V = (x[:, warm_up:, 0].double().numpy() for x in (dataset.data_x, generated))  # (N, T)
    period_error, in_phase, drift = zip(*(compare_spikes(*pair, dataset.dt) for pair in zip(true_V, V)))
    amplitude_error = abs(np.ptp(V, axis=1) / np.ptp(true_V, axis=1) - 1)
    readout, W_states, W = fit_recovery(states, dataset.data_w, warm_up)
    half = len(W) // 2
    predictions = next_step(model, dataset.data_x)
    return {
        "period_error": float(np.median(period_error)),
        "amplitude_error": float(np.median(amplitude_error)),
        "periods_in_phase": float(np.median(in_phase)),
        "periods_in_phase_min": float(min(in_phase)),
        "phase_drift": float(np.median(drift)),
        "spectrum_distance": float(np.median([spectrum_distance(*pair) for pair in zip(true_V, V)])),
        "w_r2": readout.score(np.concatenate(W_states[half:]), np.concatenate(W[half:])),
        "test_mse": mse_loss(predictions, dataset.data_y).item(),
        "persistence_mse": mse_loss(dataset.data_x, dataset.data_y).item(),
    }


@torch.no_grad()
def next_step(model, x):
    """The network's prediction of every next sample, for traces x (N, T, 1), on the CPU."""
    device = next(model.parameters()).device
    return model(x.transpose(0, 1).to(device))[1].transpose(0, 1).cpu()


def fit_recovery(states, w, warm_up):
    """Regress W on the hidden state while the network runs freely, on the first half of the trajectories.

    Returns the fitted regression, the states (N, T, num_hiddens) and W (N, T) after the warm-up.
    """
    states, W = states[warm_up:].transpose(0, 1).numpy(), w[:, warm_up:, 0].numpy()
    half = len(W) // 2
    return LinearRegression().fit(np.concatenate(states[:half]), np.concatenate(W[:half])), states, W


# ---- pictures ----


def plot_free_run(figure, dataset):
    """Plot the first true trace of `dataset`; return update(title, generated), which draws a generated one over it."""
    true = dataset.data_x[0].flatten().numpy()
    t = dataset.dt * np.arange(len(true))
    axes = figure.subplots()
    axes.plot(t, true, color="0.6", linewidth=3, label="true")
    (line,) = axes.plot([], [], "--", color="tab:red", label="free running")
    axes.set(xlabel="time", ylabel="V", xlim=(0, t[-1]), ylim=(-2.4, 3.2))
    axes.legend(loc="upper right", ncols=2)

    def update(title, generated):
        line.set_data(t, np.ravel(generated))
        axes.set_title(title, loc="left")

    return update


def plot_growing_trace(figure, true, generated, dt, warm_up):
    """Set up the animation of one generated trace; return update(n), which shows its first n samples."""
    t = dt * np.arange(len(true))
    axes = figure.subplots()
    axes.plot(t, true, color="black", linewidth=0.8, label="true")
    (seen,) = axes.plot([], [], color="0.6", linewidth=4, label="warm-up")
    (line,) = axes.plot([], [], color="tab:red", label="generated")
    axes.set(xlabel="time", ylabel="V", xlim=(0, t[-1]), ylim=(-2.4, 3.2))
    axes.legend(loc="upper right", ncols=3)

    def update(n):
        shown = slice(0, min(n, warm_up))
        seen.set_data(t[shown], true[shown])
        shown = slice(warm_up - 1, max(n, warm_up - 1))
        line.set_data(t[shown], generated[shown])

    return update


def animate(path, true, generated, dt, warm_up, periods=8, num_frames=60):
    """Write autoGRU.gif: the warm-up, then the generated trace growing over the true one; in a window, too."""
    shown = min(len(true), warm_up + round(periods * period() / dt))
    true, generated = true[:shown], generated[:shown]
    ends = np.linspace(1, shown, num_frames, dtype=int)
    live = LiveWindow(share=1.0)
    update = plot_growing_trace(live.figure, true, generated, dt, warm_up)
    for end in ends:
        live.redraw(update, end)
    live.close()
    figure = Figure()
    update = plot_growing_trace(figure, true, generated, dt, warm_up)
    with replacing(path) as temporary:
        write_gif(temporary, figure, update, ends, fps=12, hold=12)


def draw_pictures(out_dir, model, dataset, warm_up):
    """Draw the run of the last trajectory, as an animation and as a limit cycle; return the paths."""
    generated, states = run_freely(model, dataset.data_x, warm_up)
    paths = [out_dir / name for name in ("autoGRU.gif", "phase_portrait.png", "gates.png")]
    animate(paths[0], dataset.data_x[-1].flatten().numpy(), generated[-1].flatten().numpy(), dataset.dt, warm_up)
    draw_phase_portrait(paths[1], dataset, generated, states, warm_up)
    draw_gates(paths[2], model, generated[-1], states[:, -1], dataset.dt)
    return paths


def draw_phase_portrait(path, dataset, generated, states, warm_up):
    """Draw the limit cycle, true and generated, and the hidden state's own: one period from the end of the run.

    W of the generated cycle is read out of the hidden state by a regression on other trajectories.
    """
    regression, states, W = fit_recovery(states, dataset.data_w, warm_up)
    true_V, V = dataset.data_x[-1, warm_up:, 0].numpy(), generated[-1, warm_up:, 0].numpy()
    spikes = np.flatnonzero((true_V[:-1] < 0) & (true_V[1:] >= 0))
    last = slice(spikes[-2], spikes[-1] + 2) if len(spikes) > 1 else slice(None)
    phase = np.linspace(0, 1, len(true_V[last]))
    W_read = regression.predict(states[-1])

    figure = Figure(figsize=(11, 4.5))
    left, right = figure.subplots(1, 2)
    v, w = np.linspace(-2.1, 2.2, 200), np.linspace(-0.7, 1.7, 2)
    left.plot(v, v - v**3 / 3 + dataset.parameters["I"], ":", color="0.4", label="dV/dt = 0")
    left.plot(w * dataset.parameters["b"] - dataset.parameters["a"], w, "-.", color="0.4", label="dW/dt = 0")
    left.plot(true_V[last], W[-1][last], color="0.6", linewidth=5, label="neuron")
    left.plot(V[last], W_read[last], "--", color="tab:red", label="GRU, W read out of its state")
    left.set(xlabel="V", ylabel="W", xlim=(-2.4, 2.4), ylim=(-0.7, 2.3), title="the limit cycle")
    left.legend(loc="upper center", ncols=2, fontsize=10)
    with np.errstate(invalid="ignore"):  # a network that has fallen silent has no variance to explain
        # the column of zeros: even a network of one unit has two components then
        components = PCA(2).fit_transform(np.pad(states[-1][last], ((0, 0), (0, 1))))
    points = right.scatter(*components.T, c=phase, cmap="twilight", s=14)
    right.set(xlabel="first principal component", ylabel="second", title="the same cycle in the hidden state")
    figure.colorbar(points, ax=right, label="phase")
    with replacing(path) as temporary:
        figure.savefig(temporary)


@torch.no_grad()
def draw_gates(path, model, x, states, dt, num_units=4):
    """Draw V and the two gates of a few units along the last period of a generated trace x (T, 1), states (T, n)."""
    x, H = x[1:].to(model.W_xz.device), states[:-1].to(model.W_xz.device)  # a gate sees the input and the state before
    Z = torch.sigmoid(x @ model.W_xz + H @ model.W_hz + model.b_z).cpu()
    R = torch.sigmoid(x @ model.W_xr + H @ model.W_hr + model.b_r).cpu()
    last = slice(-round(1.2 * period() / dt), None)
    Z, R, V = Z[last], R[last], x[last].cpu()
    units = Z.std(dim=0).argsort(descending=True)[:num_units]  # those whose update gate moves most
    t = dt * np.arange(len(V))

    figure = Figure(figsize=(8, 6))
    axes = figure.subplots(3, sharex=True)
    axes[0].plot(t, V, color="black")
    for k, unit in enumerate(units):
        axes[1].plot(t, Z[:, unit], color=f"C{k}", label=f"unit {unit}")
        axes[2].plot(t, R[:, unit], color=f"C{k}")
    for ax, label in zip(axes, ("V", "update gate Z", "reset gate R")):
        ax.set_ylabel(label)
    axes[1].set_ylim(-0.05, 1.05)
    axes[2].set(ylim=(-0.05, 1.05), xlabel="time", xlim=(0, t[-1]))
    figure.legend(loc="outside upper center", ncols=num_units)
    with replacing(path) as temporary:
        figure.savefig(temporary)


# ---- the script ----


def print_table(metrics, dt):
    rows = (
        ("period_error", "period, relative error", ".1e"),
        ("amplitude_error", "amplitude, relative error", ".1e"),
        ("periods_in_phase", "periods in phase within 5 %, median", ".1f"),
        ("periods_in_phase_min", "periods in phase, worst trajectory", ".1f"),
        ("phase_drift", "phase at the end off by, in periods", ".4f"),
        ("spectrum_distance", "power spectrum, Hellinger distance", ".4f"),
        ("w_r2", "R² of W read out of the hidden state", ".5f"),
        ("test_mse", "next step: MSE of the GRU", ".1e"),
        ("persistence_mse", "next step: MSE of copying the last value", ".1e"),
    )
    print(f"\nfree running at dt = {dt:g}")
    for name, label, form in rows:
        print(f"{label:42}{metrics[name]:>10{form}}")


def load_model(path, device):
    """Load a GRU that takes and predicts one voltage; raise ValueError, with what to do, for any other file."""
    try:
        model = load_checkpoint(path, device)
        if (model.num_inputs, model.num_outputs, model.per_timestep_readout) != (1, 1, True):
            task = model.info.get("task", "no task named")  # a bare state dict names none
            found = f"{task}, {model.num_inputs} inputs and {model.num_outputs} outputs"
            raise ValueError(f"checkpoint {path}: {found}: expected a network that predicts the next voltage")
    except ValueError as error:
        raise ValueError(f"{error}; give another --checkpoint, or train one with --retrain") from None
    return model


def main(argv=None):
    args = parser.parse_args(argv)
    start = time.perf_counter()
    dt = args.duration / args.num_samples
    if dt > 20:
        raise ValueError(f"--duration / --num_samples = {dt:g}: expected at most 20, several samples per spike")
    for name, horizon in (("--first_horizon", args.first_horizon), ("--horizon", args.horizon)):
        longest = args.warm_up + horizon
        if args.retrain and longest > args.num_samples:
            raise ValueError(f"--warm_up + {name} = {longest}: expected at most --num_samples = {args.num_samples}")
    torch.set_num_threads(1)  # products this small lose more to a second thread than they win
    torch.manual_seed(args.seed)
    plt.style.use(STYLE)

    def dataset(offset, num, num_samples):  # no two offsets or seeds share a trajectory
        return FitzhughNagumo(num, num_samples, duration=num_samples * dt, seed=4 * args.seed + offset)

    test_set = dataset(2, args.num_test, args.warm_up + round(args.test_duration / dt))
    metrics, written, interrupted = {"train_seconds": 0.0}, [], False
    if args.retrain:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        model = GRU(num_inputs=1, num_hiddens=args.n_hidden, num_outputs=1, residual=True).to(args.device)
        train_set = dataset(0, args.num_train, args.num_samples)
        valid_set = dataset(1, 16, args.warm_up + round(1600 / dt))
        live = LiveWindow() if args.train_visualization else None
        partial = args.out_dir / f"{STEM}_partial.pth"
        print(f"while training runs, its best model is in {partial}", flush=True)
        start_training = time.perf_counter()
        history = train_model(model, train_set, valid_set, args, live, partial)
        metrics["train_seconds"], interrupted = time.perf_counter() - start_training, history["interrupted"]
        if live:
            live.close()
        written.append(args.out_dir / f"{STEM}.pth")
        save_checkpoint(written[-1], model, task="autoregression", dt=dt)
        partial.unlink(missing_ok=True)
    else:
        model = load_model(args.checkpoint, args.device)
        print(f"{args.checkpoint.name}: a trained network of {model.num_hiddens} hidden units")
        if model.info.get("dt", dt) != dt:
            print(f"note: the network was trained at dt = {model.info['dt']:g}, the data has dt = {dt:g}")
        args.out_dir.mkdir(parents=True, exist_ok=True)

    metrics |= evaluate_model(model, test_set, args.warm_up)
    print_table(metrics, dt)
    if args.train_visualization:
        written += draw_pictures(args.out_dir, model, test_set, args.warm_up)
    written.append(args.out_dir / f"{STEM}_metrics.json")
    metrics |= {"seconds": time.perf_counter() - start, "interrupted": interrupted, "flags": vars(args)}
    save_metrics(written[-1], metrics)
    for path in written:
        print(f"wrote {path}")
    return metrics


if __name__ == "__main__":
    run(main)
