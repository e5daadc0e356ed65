"""Task 2: a GRU generates a neuron's voltage for ever, from a short warm-up, fed with nothing but its own predictions.

    python gru_autoregression.py                         runs the trained network of checkpoints/
    python gru_autoregression.py --test_duration 12800   a hundred periods instead of 26
    python gru_autoregression.py --retrain               trains a new one, in some minutes
    python gru_autoregression.py --untrained --n_hidden 500   trains nothing but the readout, by least squares

You should see a table in which the generated spikes keep the true period, amplitude and phase, and pictures of the
limit cycle that the network has learnt, with the recovery variable W, which it was never shown, read out of its state.
"""

from plumbing import FlagParser, LiveWindow, device, finish, folder, follow, number, run, save_figure, save_gif, set_up

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.collections import LineCollection
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch.nn.functional import mse_loss

from datasets import FitzhughNagumo, crosses_upwards, period, upward_crossings
from models import GRU, load_checkpoint

STEM = "gru_autoregression"
SHIPPED = Path(__file__).with_name("checkpoints") / "autoregressiveGRU.pth"

parser = FlagParser(__doc__)
flag = parser.add_argument
flag("--retrain", action="store_true", help="train a new network instead of loading one")
flag("--untrained", action="store_true", help="fit the readout alone of a new network: an echo state network")
flag("--checkpoint", type=Path, default=SHIPPED, help="the network to load; the shipped one is never written to")
flag("--seed", type=number(int, 0, 2**31 - 1), default=0, help="fixes the data, the first weights and the batches")
flag("--device", type=device, default="auto", help="auto, cpu or cuda")
# data
flag("--num_test", type=number(int, 2, 10_000), default=64, help="new trajectories to generate")
flag("--num_samples", type=number(int, 20, 100_000), default=512, help="samples per training trajectory")
flag("--duration", type=number(float, 1, 10_000), default=400.0, help="its length in time units")
flag("--anywhere", action=argparse.BooleanOptionalAction, default=True, help="train on neurons that start anywhere")
flag("--test_duration", type=number(float, 300, 20_000), default=3200.0, help="time units to generate")
flag("--warm_up", type=number(int, 1, 100_000), default=50, help="true samples seen before the network runs freely")
# model and training: refused where a network is loaded, because they would have no effect
train_flags = parser.add_argument_group(
    "model and training, with --retrain; --n_hidden and --num_train with --untrained, too"
)
train_flag = train_flags.add_argument
train_flag("--n_hidden", type=number(int, 1, 2048), default=64, help="hidden units")
train_flag("--num_train", type=number(int, 1, 100_000), default=1024, help="trajectories to train on")
train_flag("--num_epochs_one_step", type=number(int, 0, 100_000), default=20, help="stage 1: epochs, next step")
train_flag("--num_epochs", type=number(int, 0, 100_000), default=60, help="stage 2: epochs, running freely")
train_flag("--updates_per_epoch", type=number(int, 1, 100_000), default=25, help="stage 2: gradient steps per epoch")
train_flag("--horizon", type=number(int, 1, 100_000), default=400, help="stage 2: free steps at the end of training")
train_flag("--first_horizon", type=number(int, 1, 100_000), default=100, help="stage 2: free steps at its beginning")
train_flag("--next_step_weight", type=number(float, 0, 1e9), default=30.0, help="stage 2: weight of next-step loss")
train_flag("--input_noise", type=number(float, 0, 10), default=0.25, help="largest standard deviation on the inputs")
train_flag("--batch_size", type=number(int, 1, 100_000), default=32, help="trajectories per gradient step")
train_flag("--window", type=number(int, 1, 100_000), default=50, help="stage 1: steps the gradient flows back")
train_flag("--init_lr", type=number(float, 1e-9, 1e9), default=1e-2, help="stage 1: learning rate of Adam, decays to 0")
train_flag("--free_lr", type=number(float, 1e-9, 1e9), default=5e-4, help="stage 2: learning rate of Adam, decays to 0")
train_flag("--max_grad_norm", type=number(float, 1e-9, 1e9), default=0.1, help="gradients are clipped to this norm")
# output
flag("--train_visualization", action=argparse.BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=folder, default="outputs", help="where pictures, model and metrics go")


# ---- training ----


def train_model(model, dataset, valid_set, args):
    """Train in two stages; after every epoch yield its mean loss, and how the network runs freely through `valid_set`.

    Stage 1 teaches the next step, from measured inputs. Its small errors do no harm there, because the next input
    corrects them. A network that is fed with itself corrects nothing: its errors are its next inputs. In stage 2 it
    runs freely and the gradient goes back through that closed loop, so that what counts is where an error leads to.
    The horizon grows on the way, and the learning rate is small: one step that is a little too large shifts every
    spike to come. In both stages the inputs are noisy and the targets are not, so that the network learns to filter.

    "score" marks what the best epoch is to be chosen by: the error of the period, once the horizon is full.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=args.init_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, args.num_epochs_one_step))
    for _ in range(args.num_epochs_one_step):
        loss = next_step_epoch(model, dataset, optimizer, args)
        schedule.step()
        yield {"stage": "next step", "lr_flag": "--init_lr", "loss": loss} | validate(model, valid_set, args)

    optimizer = torch.optim.Adam(model.parameters(), lr=args.free_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, args.num_epochs))
    for epoch in range(1, args.num_epochs + 1):
        growth = min(1, 2 * epoch / args.num_epochs)  # the second half of the stage is spent at the full horizon
        horizon = round(args.first_horizon * (args.horizon / args.first_horizon) ** growth)
        loss = free_running_epoch(model, dataset, optimizer, horizon, args)
        schedule.step()
        report = {"stage": "free running", "lr_flag": "--free_lr", "loss": loss} | validate(model, valid_set, args)
        if growth == 1:
            report["score"] = report["period_error"]
        yield report


def next_step_epoch(model, dataset, optimizer, args):
    """Stage 1: one pass over the training set by truncated backpropagation through time; return the mean loss."""
    losses = []
    for chosen in torch.randperm(len(dataset)).split(args.batch_size):
        x, y = trajectories(dataset, chosen, model.device)
        x = add_noise(x, args.input_noise)
        H = None
        for x_window, y_window in zip(x.split(args.window), y.split(args.window)):
            states, predictions = model(x_window, H)
            losses.append(gradient_step(model, optimizer, distance(predictions, y_window), args.max_grad_norm))
            H = states[-1].detach()  # the state is carried on into the next window, the gradient is not
    return torch.stack(losses).mean().item()


def free_running_epoch(model, dataset, optimizer, horizon, args):
    """Stage 2: run freely from random moments, and learn from the distance to the true trace; return its mean."""
    each = torch.arange(args.batch_size)
    losses = []
    for _ in range(args.updates_per_epoch):
        x, y = trajectories(dataset, torch.randint(len(dataset), (args.batch_size,)), model.device)
        x = add_noise(x, args.input_noise)
        states, next_steps = model(x)
        # each trajectory runs on from a moment of its own, with what the network remembers there
        start = torch.randint(args.warm_up, len(x) - horizon + 1, (args.batch_size,))
        _, generated = model(x[start, each][None], states[start - 1, each], future=horizon - 1)
        loss = distance(generated, y[start + torch.arange(horizon)[:, None], each])
        # spikes at a wrong time dominate this loss; their shape, such as an overshoot, is learnt from the next step
        gradient_step(model, optimizer, loss + args.next_step_weight * distance(next_steps, y), args.max_grad_norm)
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def trajectories(dataset, chosen, where):
    """Some trajectories of the dataset and what is to be predicted, each (T, B, 1), on the device `where`."""
    return (data[chosen].transpose(0, 1).to(where) for data in (dataset.data_x, dataset.data_y))


def add_noise(x, largest):
    """Add noise to traces x (T, B, 1), to each at a level of its own from 0 to `largest`, to three in ten none."""
    level = largest * torch.rand(x.shape[1], 1) * (torch.rand(x.shape[1], 1) > 0.3)
    return x + level.to(x.device) * torch.randn_like(x)


def distance(predicted, true):
    """Root of the mean squared error of each trajectory of (T, B, 1), on average over trajectories.

    The noisier a trace, the less can be known of it. Squared, its error would drown what the clean ones have to teach.
    """
    return ((predicted - true).square().mean((0, 2)) + 1e-10).sqrt().mean()  # the slope of √ is infinite at 0


def gradient_step(model, optimizer, loss, max_grad_norm):
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return loss.detach()


def validate(model, valid_set, args):
    """How far off the period of a free run is, the next step's error during the warm-up, and a trace to be seen."""
    generated, _ = run_freely(model, valid_set.data_x, args.warm_up)
    next_steps = model.predict(valid_set.data_x[:, : args.warm_up])
    return {
        "period_error": judge(valid_set, generated, args.warm_up)["period_error"],
        "view_loss": mse_loss(next_steps, valid_set.data_y[:, : args.warm_up]).item(),
        "trace": generated[0].flatten().numpy(),
    }


# ---- generation and its evaluation ----

NOISES = (0.1, 0.2, 0.4)  # standard deviations on the warm-up


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
    """See the first warm_up samples of traces x (N, T, 1), then generate the rest.

    Returns all samples (N, T, 1), the first ones as they were, and all states (T, N, num_hiddens), both on the CPU.
    """
    init_x = x[:, :warm_up].transpose(0, 1).to(model.device)
    states, readouts = model(init_x, future=x.shape[1] - warm_up)
    generated = torch.cat([init_x, readouts[warm_up - 1 : -1]])
    return generated.transpose(0, 1).cpu(), states.cpu()


def compare_spikes(true, generated, dt):
    """Period and phase of one generated trace (T,) against the true one; time is counted in true periods.

    Returns the relative error of the period between those spikes that came, how many periods it takes until the spikes
    are off by 5 % of a period or missing (the whole run if they never are), and how far the last one is off, which is
    1.0 where it is missing. A true trace of less than two spikes has no period: all is wrong then.
    """
    true_times, times = upward_crossings(true, dt), upward_crossings(generated, dt)
    if len(true_times) < 2:
        return 1.0, 0.0, 1.0
    true_period = np.diff(true_times).mean()
    if len(times) and abs(times[0] - true_times[0]) > true_period / 2:
        # a spike at the very beginning of one trace may have come just before the beginning of the other
        true_times, times = (spikes[int(spikes[0] < 0.05 * true_period) :] for spikes in (true_times, times))
    period_error = abs(np.diff(times).mean() / true_period - 1) if len(times) > 1 else 1.0
    shared = min(len(times), len(true_times))
    drift = (times[:shared] - true_times[:shared]) / true_period
    # a true spike without its like is missing, unless this may be late enough to come after the end of the run
    latest = len(true) * dt - (0.05 + max([0, *drift[-1:]])) * true_period
    missing = shared < len(true_times) and true_times[shared] < latest
    is_off = np.append(abs(drift) > 0.05, missing)
    end = true_times[is_off.argmax()] if is_off.any() else len(true) * dt
    return period_error, end / true_period, 1.0 if missing else abs(drift[-1])


def spectrum_distance(true, generated):
    """Hellinger distance, 0 to 1, between the normalised power spectra of two traces (T,)."""
    p, q = (np.abs(np.fft.rfft(V - V.mean())) ** 2 for V in (true, generated))
    overlap = np.sum(np.sqrt(p * q)) / np.sqrt(max(p.sum() * q.sum(), 1e-300))  # 0 for a trace without any power
    return math.sqrt(max(0.0, 1 - overlap)) if math.isfinite(overlap) else 1.0


def judge(dataset, generated, warm_up):
    """Judge what run_freely generated by its dynamics; medians over trajectories, but for min and max.

    period_error, amplitude_error: relative. periods_in_phase: until the phase is off by 5 %. share_in_phase: of
    trajectories whose last spike is in phase. phase_drift: of the last spike, in periods. spectrum_distance: 0 to 1.
    """
    true_V, V = (x[:, warm_up:, 0].double().numpy() for x in (dataset.data_x, generated))  # (N, T)
    period_error, in_phase, drift = np.array([compare_spikes(*pair, dataset.dt) for pair in zip(true_V, V)]).T
    return {
        "period_error": float(np.median(period_error)),
        "amplitude_error": float(np.median(abs(np.ptp(V, axis=1) / np.ptp(true_V, axis=1) - 1))),
        "periods_in_phase": float(np.median(in_phase)),
        "periods_in_phase_min": float(min(in_phase)),
        "share_in_phase": float(np.mean(drift <= 0.05)),
        "phase_drift": float(np.median(drift)),
        "phase_drift_max": float(max(drift)),
        "spectrum_distance": float(np.median([spectrum_distance(*pair) for pair in zip(true_V, V)])),
    }


def evaluate_model(model, dataset, original, generated, warm_up):
    """Judge the free run through `dataset`, from the original's starts, after noisy warm-ups; and the next step."""
    metrics = judge(dataset, generated, warm_up)
    from_original, _ = run_freely(model, original.data_x, warm_up)
    metrics |= {f"original_{name}": value for name, value in judge(original, from_original, warm_up).items()}
    for noise in NOISES:
        noisy, _ = run_freely(model, dataset.data_x + noise * torch.randn_like(dataset.data_x), warm_up)
        metrics[f"share_in_phase_noise_{noise}"] = judge(dataset, noisy, warm_up)["share_in_phase"]
    metrics["test_mse"] = mse_loss(model.predict(dataset.data_x), dataset.data_y).item()
    return metrics | {"persistence_mse": mse_loss(dataset.data_x, dataset.data_y).item()}


def fit_recovery(states, w, warm_up):
    """Read the recovery variable w (N, T, 1) out of states (T, N, ...), linearly, after the warm-up.

    Returns the regression, fitted to the first half of the trajectories, and its R² on the second half.
    """
    states, W = states[warm_up:].transpose(0, 1).numpy(), w[:, warm_up:, 0].numpy()  # (N, T, num_hiddens), (N, T)
    half = len(W) // 2
    regression = LinearRegression().fit(np.concatenate(states[:half]), np.concatenate(W[:half]))
    return regression, regression.score(np.concatenate(states[half:]), np.concatenate(W[half:]))


@torch.no_grad()
def recovery_controls(model, dataset, warm_up):
    """R² of W read out of an untrained network of the same size, driven by the true V, and of V's last two samples."""
    x = dataset.data_x.transpose(0, 1)  # (T, N, 1)
    untrained = GRU(num_inputs=1, num_hiddens=model.num_hiddens, num_outputs=1)
    states = {"untrained": untrained(x)[0], "two_samples": torch.cat([x, x.roll(1, 0)], -1)}
    return {f"w_r2_{name}": fit_recovery(state.double(), dataset.data_w, warm_up)[1] for name, state in states.items()}


# ---- pictures ----


def plot_free_run(figure, dataset):
    """Plot the first true trace of `dataset`; return update(history), which draws the last epoch's free run over it."""
    true = dataset.data_x[0].flatten().numpy()
    t = dataset.dt * np.arange(len(true))
    axes = figure.subplots()
    axes.plot(t, true, color="0.6", linewidth=3, label="true")
    (line,) = axes.plot([], [], "--", color="tab:red", label="free running")
    axes.set(xlabel="time", ylabel="V", xlim=(0, t[-1]), ylim=(-2.4, 3.2))
    axes.legend(loc="upper right", ncols=2)

    def update(history):
        line.set_data(t, history[-1]["trace"])
        axes.set_title(f"epoch {len(history)}, {history[-1]['stage']}", loc="left")

    return update


def plot_growing_trace(figure, true, generated, dt, warm_up):
    """Set up the animation of one run; return update(n), which shows its first n samples.

    true, generated: V and W, (2, T); the network's W is read out of its state.
    """
    t = dt * np.arange(true.shape[1])
    figure.set_size_inches(10, 4.5)
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2), height_ratios=(3, 2))
    trace, difference, plane = (figure.add_subplot(place) for place in (grid[0, 0], grid[1, 0], grid[:, 1]))
    (neuron,) = trace.plot([], [], color="0.6", linewidth=4)
    (gru,) = trace.plot([], [], color="tab:red", linewidth=1.5)
    (orbit,) = plane.plot([], [], color="0.6", linewidth=4, label="neuron")
    (path,) = plane.plot([], [], color="tab:red", linewidth=1.5, label="GRU, W read out of its state")
    dots = [plane.plot([], [], "o", color=c, markersize=m)[0] for c, m in (("0.35", 13), ("tab:red", 7))]
    (error,) = difference.plot([], [], color="tab:red", linewidth=1)
    trace.axvspan(0, warm_up * dt, color="0.92")
    trace.text(0, -2.95, " seen", fontsize=11, color="0.3")
    trace.set(ylabel="V", xlim=(0, t[-1]), ylim=(-3.2, 2.6), xticklabels=[])
    difference.set(xlabel="time", ylabel="GRU − neuron", xlim=(0, t[-1]), ylim=(-0.4, 0.4))
    plane.set(xlabel="V", ylabel="W", xlim=(-2.6, 2.6), ylim=(-0.9, 2.4), title="in the plane")
    plane.legend(loc="upper center", fontsize=10)

    def update(n):
        free = slice(min(warm_up, n) - 1, n)
        neuron.set_data(t[:n], true[0, :n])
        gru.set_data(t[free], generated[0, free])
        error.set_data(t[free], generated[0, free] - true[0, free])
        recent = slice(max(0, n - round(period() / dt)), n)  # the last period
        orbit.set_data(*true[:, recent])
        path.set_data(*generated[:, max(recent.start, free.start) : n])
        for dot, values in zip(dots, (true, generated)):
            dot.set_data(*values[:, n - 1 : n])

    return update


def draw_phase_portrait(figure, dataset, generated, states, recovery, warm_up):
    """Draw the limit cycle, true and generated, and the hidden state's own: one period from the end of the run.

    W of the generated cycle is read out of the hidden state by `recovery`, a regression on other trajectories.
    """
    true_V, true_W = (data[-1, warm_up:, 0].numpy() for data in (dataset.data_x, dataset.data_w))
    V, states = generated[-1, warm_up:, 0].numpy(), states[warm_up:, -1].numpy()
    # the last period, from shortly before a spike to shortly before the next: there all is slow, and the ends meet
    begins = np.flatnonzero(crosses_upwards(true_V)) - round(0.2 * period() / dataset.dt)
    last = slice(max(0, begins[-2]), begins[-1] + 2) if len(begins) > 1 else slice(None)

    figure.set_size_inches(11, 4.5)
    left, right = figure.subplots(1, 2)
    v, w = np.linspace(-2.1, 2.2, 200), np.linspace(-0.7, 1.7, 2)
    left.plot(v, v - v**3 / 3 + dataset.parameters["I"], ":", color="0.4", label="dV/dt = 0")
    left.plot(w * dataset.parameters["b"] - dataset.parameters["a"], w, "-.", color="0.4", label="dW/dt = 0")
    left.plot(true_V[last], true_W[last], color="0.6", linewidth=5, label="neuron")
    left.plot(V[last], recovery.predict(states)[last], "--", color="tab:red", label="GRU, W read out of its state")
    left.set(xlabel="V", ylabel="W", xlim=(-2.4, 2.4), ylim=(-0.7, 2.3), title="the limit cycle")
    left.legend(loc="upper center", ncols=2, fontsize=10)
    states = np.pad(states[last], ((0, 0), (0, 1)))  # one more unit, always 0: even one alone has two components then
    with np.errstate(invalid="ignore"):  # a network that has fallen silent has no variance to explain
        points = PCA(2, svd_solver="full").fit_transform(states)  # what it would choose for many units is random
    right.plot(*points.T, color="black", linewidth=6)  # an edge for the line's pale middle
    pieces = np.stack([points[:-1], points[1:]], axis=1)  # from each sample to the next
    phase = np.linspace(0, 1, len(points))[:-1]
    lines = right.add_collection(LineCollection(pieces, cmap="twilight_shifted", array=phase, linewidth=4))
    arrow = {"arrowstyle": "-|>", "mutation_scale": 22, "color": "black"}
    for k in range(0, len(pieces), max(1, len(points) // 12)):  # which way it goes
        right.annotate("", points[k + 1], points[k], arrowprops=arrow)
    right.margins(0.08)
    right.set(xlabel="first principal component", ylabel="second", title="the same cycle in the hidden state")
    figure.colorbar(lines, ax=right, label="phase")


@torch.no_grad()
def draw_gates(figure, model, x, states, dt):
    """Draw V and both gates of all units along the last 1.2 periods of a generated trace x (T, 1), states (T, n).

    The units are sorted by how much further their update gate is open while V > 0 than while V < 0.
    """
    x, H = x[1:].to(model.device), states[:-1].to(model.device)  # a gate sees the input and the state before
    last = slice(-round(1.2 * period() / dt), None)
    Z = torch.sigmoid(x @ model.W_xz + H @ model.W_hz + model.b_z)[last].cpu()
    R = torch.sigmoid(x @ model.W_xr + H @ model.W_hr + model.b_r)[last].cpu()
    V = x[last, 0].cpu()
    order = (Z[V > 0].mean(0) - Z[V <= 0].mean(0)).nan_to_num().argsort(descending=True)
    t = dt * np.arange(len(V))

    figure.set_size_inches(8, 7)
    trace, *maps = figure.subplots(3, sharex=True, height_ratios=(2, 3, 3))
    trace.plot(t, V, color="black")
    trace.set(ylabel="V", xlim=(0, t[-1]))
    for axes, gate, name in zip(maps, (Z, R), ("update gate Z", "reset gate R")):
        box = {"extent": (0, t[-1], model.num_hiddens, 0), "aspect": "auto", "interpolation": "nearest"}
        image = axes.imshow(gate[:, order].t().numpy(), cmap="cividis", vmin=0, vmax=1, **box)
        axes.set_ylabel("unit, sorted")
        figure.colorbar(image, ax=axes, label=name)
    maps[-1].set_xlabel("time")


def draw_pictures(out_dir, model, dataset, generated, states, recovery, warm_up):
    """Write the run of the last trajectory as an animation, as a limit cycle and as gates."""
    shown = slice(warm_up + round(5 * period() / dataset.dt))
    true = np.stack([data[-1, shown, 0].numpy() for data in (dataset.data_x, dataset.data_w)])
    V_and_W = np.stack([generated[-1, shown, 0].numpy(), recovery.predict(states[shown, -1].numpy())])
    frames = np.linspace(2, true.shape[1], 75, dtype=int)
    save_gif(out_dir / "autoGRU.gif", frames, plot_growing_trace, true, V_and_W, dataset.dt, warm_up, fps=12)
    save_figure(out_dir / "phase_portrait.png", draw_phase_portrait, dataset, generated, states, recovery, warm_up)
    save_figure(out_dir / "gates.png", draw_gates, model, generated[-1], states[:, -1], dataset.dt)


# ---- the script ----


def print_table(metrics, dt):
    rows = (
        ("period_error", "period, relative error", ".1e"),
        ("amplitude_error", "amplitude, relative error", ".1e"),
        ("periods_in_phase", "periods in phase within 5 %, median", ".1f"),
        ("periods_in_phase_min", "periods in phase, worst trajectory", ".1f"),
        ("phase_drift", "phase at the end off by, in periods", ".4f"),
        ("phase_drift_max", "the same, worst trajectory", ".4f"),
        ("spectrum_distance", "power spectrum, Hellinger distance", ".4f"),
        ("share_in_phase", "trajectories in phase to the end", ".2f"),
    )
    print(f"\n{f'free running at dt = {dt:g}':42}{'from anywhere':>16}{'from W(0) = 0':>16}")
    for name, label, form in rows:
        print(f"{label:42}{metrics[name]:>16{form}}{metrics[f'original_{name}']:>16{form}}")
    for noise in NOISES:
        print(f"{f'the same, noise of {noise} on the warm-up':42}{metrics[f'share_in_phase_noise_{noise}']:16.2f}")
    print("\nW read out linearly, R²: of the state", f"{metrics['w_r2']:.5f}", end="")
    print(f", untrained {metrics['w_r2_untrained']:.5f}, of two samples of V {metrics['w_r2_two_samples']:.5f}")
    print(f"next step: MSE of the network {metrics['test_mse']:.1e}, of copying {metrics['persistence_mse']:.1e}")


def load_model(path, device, dt):
    """Load a GRU that takes and predicts one voltage; raise ValueError, with what to do, for any other file."""
    try:
        model = load_checkpoint(path, device).float()
        if (model.num_inputs, model.num_outputs, model.per_timestep_readout) != (1, 1, True):
            task = model.info.get("task", "no task named")  # a bare state dict names none
            found = f"{task}, {model.num_inputs} inputs and {model.num_outputs} outputs"
            raise ValueError(f"checkpoint {path}: {found}: expected a network that predicts the next voltage")
    except ValueError as error:
        raise ValueError(f"{error}; give another --checkpoint, or train one with --retrain") from None
    print(f"{path.name}: a trained network of {model.num_hiddens} hidden units")
    if model.info.get("dt", dt) != dt:
        print(f"note: the network was trained at dt = {model.info['dt']}, the data has dt = {dt:g}")
    return model


def check_flags(args):
    """Raise ValueError where flags do not fit together or have no effect; forget those that have none."""
    if args.untrained and args.retrain:
        raise ValueError("--untrained: expected no --retrain beside it")
    if args.duration / args.num_samples > 20:
        raise ValueError(f"--duration / --num_samples = {args.duration / args.num_samples:g}: expected at most 20")
    training = {action.dest for action in train_flags._group_actions}
    if args.retrain:
        if args.num_epochs_one_step + args.num_epochs == 0:
            raise ValueError("--num_epochs_one_step, --num_epochs = 0: expected at least one epoch")
        longest = max(args.window, args.warm_up + max(args.first_horizon, args.horizon))
        if longest > args.num_samples:
            flags = "--window, --warm_up + --first_horizon and --warm_up + --horizon"
            raise ValueError(f"--num_samples = {args.num_samples}: expected at least {flags}, here {longest}")
        parser.forget(args, {"checkpoint"}, "with --retrain")
    elif args.untrained:
        parser.forget(args, training - {"n_hidden", "num_train"} | {"checkpoint"}, "with --untrained")
    else:
        parser.forget(args, training | {"anywhere"}, "on a network that is loaded; add --retrain")


def make_model(args, dataset, dt):
    """Train a network, or fit the readout of one; return it, and what there is to say of its training."""
    model = GRU(num_inputs=1, num_hiddens=args.n_hidden, num_outputs=1, residual=True).to(args.device)
    train_set = dataset(0, args.num_train, args.num_samples, args.anywhere)
    if args.untrained:
        model.fit_readout(train_set.data_x, train_set.data_y, skip=10)
        return model, {}
    valid_set = dataset(1, 16, args.warm_up + round(1600 / dt))
    training = train_model(model, train_set, valid_set, args)  # nothing has run yet
    window = LiveWindow(plot_free_run, valid_set) if args.train_visualization else None
    path = args.out_dir / f"{STEM}.pth"
    info = {"best_by": "score", "task": "autoregression", "dt": dt}
    history, interrupted = follow(training, args.num_epochs_one_step + args.num_epochs, model, path, window, **info)
    return model, {"train_seconds": history[-1]["seconds"], "interrupted": interrupted}


def main(argv=None):
    args = parser.parse_args(argv)
    check_flags(args)
    dt = args.duration / args.num_samples

    def dataset(offset, num, num_samples, anywhere=True):  # no two offsets or seeds share a trajectory
        with parser.blaming("--num_train, --num_test, --num_samples, --duration, --test_duration, --warm_up"):
            duration, seed = num_samples * dt, 4 * args.seed + offset
            return FitzhughNagumo(num, num_samples, duration=duration, seed=seed, anywhere=anywhere)

    is_new = args.retrain or args.untrained
    model = None if is_new else load_model(args.checkpoint, args.device, dt)  # a bad file is told before any work
    start = set_up(args)
    metrics = {"train_seconds": 0.0, "interrupted": False}
    if is_new:
        model, training = make_model(args, dataset, dt)
        metrics |= training
    num_samples = args.warm_up + round(args.test_duration / dt)
    test_set, original = dataset(2, args.num_test, num_samples), dataset(3, args.num_test, num_samples, anywhere=False)
    generated, states = run_freely(model, test_set.data_x, args.warm_up)
    recovery, w_r2 = fit_recovery(states, test_set.data_w, args.warm_up)
    torch.manual_seed(args.seed)  # the noise on the warm-up, whatever went before
    metrics |= evaluate_model(model, test_set, original, generated, args.warm_up)
    metrics |= {"w_r2": w_r2} | recovery_controls(model, test_set, args.warm_up)
    print_table(metrics, dt)
    if args.train_visualization:
        draw_pictures(args.out_dir, model, test_set, generated, states, recovery, args.warm_up)
    return finish(args.out_dir / f"{STEM}_metrics.json", metrics, args, start)


if __name__ == "__main__":
    run(main)
