"""Task 2: a GRU generates a neuron's voltage for ever, from a short warm-up, fed with nothing but its own predictions.

    python gru_autoregression.py                         runs the trained network of checkpoints/
    python gru_autoregression.py --test_duration 12800   a hundred periods instead of 26
    python gru_autoregression.py --retrain               trains a new one, in some minutes
    python gru_autoregression.py --untrained --n_hidden 500   trains nothing but the readout, by least squares

You should see a table in which the network keeps the true period and phase; an untrained one of its size loses the beat
at once, and a polynomial after a noisy warm-up. And pictures of the cycle that the network has learnt.
"""

from argparse import BooleanOptionalAction
from pathlib import Path

import numpy as np
import torch
from numpy.polynomial.polynomial import polyval2d, polyvander2d
from sklearn.linear_model import LinearRegression

from datasets import FitzhughNagumo, period, upward_crossings
from models import GRU, load_checkpoint
from pictures import draw_gates, draw_phase_portrait, live_window, plot_free_run, plot_losses, plot_runs
from plumbing import FlagParser, count, follow, positive, run, save_figure, save_gif, set_up, write_metrics

STEM = "gru_autoregression"
SHIPPED = Path(__file__).with_name("checkpoints") / "autoregressiveGRU.pth"

parser = FlagParser(__doc__)
flag = parser.add_argument
new = parser.add_mutually_exclusive_group().add_argument
new("--retrain", action="store_true", help="train a new network instead of loading one")
new("--untrained", action="store_true", help="fit the readout alone of a new network: an echo state network")
new("--checkpoint", type=Path, default=SHIPPED, help="the network to load; the shipped one is never written to")
flag("--seed", type=int, default=0, help="fixes the data, the first weights and the batches")
flag("--device", type=str, choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU with Triton, or the CPU")
# data
flag("--num_test", type=count, default=64, help="new trajectories to generate")
flag("--num_train", type=count, default=1024, help="trajectories to train on, or to fit to")
flag("--anywhere", action=BooleanOptionalAction, default=True, help="train on neurons that start anywhere")
flag("--num_samples", type=count, default=512, help="samples per training trajectory")
flag("--duration", type=positive, default=400.0, help="its length in time units")
flag("--test_duration", type=positive, default=3200.0, help="time units to generate")
flag("--warm_up", type=count, default=50, help="true samples seen before the network runs freely")
# output
flag("--train_visualization", action=BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=Path, default="outputs", help="where pictures, model and metrics go")
# model and training: they have no effect on a network that is loaded
train_flag = parser.add_argument_group("for a new network, --retrain", "with --untrained only --n_hidden").add_argument
train_flag("--n_hidden", type=count, default=64, help="hidden units")
train_flag("--num_epochs_one_step", type=count, default=20, help="stage 1: epochs, next step")
train_flag("--num_epochs", type=int, default=60, help="stage 2: epochs, running freely")
train_flag("--updates_per_epoch", type=count, default=25, help="stage 2: gradient steps per epoch")
train_flag("--horizon", type=count, default=400, help="stage 2: free steps at the end of training")
train_flag("--first_horizon", type=count, default=100, help="stage 2: free steps at its beginning")
train_flag("--next_step_weight", type=float, default=30.0, help="stage 2: weight of next-step loss")
train_flag("--input_noise", type=float, default=0.25, help="largest standard deviation on the inputs")
train_flag("--batch_size", type=count, default=32, help="trajectories per gradient step")
train_flag("--window", type=count, default=128, help="stage 1: steps the gradient flows back")
train_flag("--init_lr", type=positive, default=1e-2, help="stage 1: learning rate of Adam, decays to 0")
train_flag("--free_lr", type=positive, default=5e-4, help="stage 2: learning rate of Adam, decays to 0")
train_flag("--max_grad_norm", type=positive, default=0.1, help="gradients are clipped to this norm")


def train_model(model, dataset, valid_set, args):
    """Train in two stages; after every epoch yield its mean loss, and how the network runs freely through `valid_set`.

    Stage 1 teaches the next step, from measured inputs. Its small errors do no harm there, because the next input
    corrects them. A network that is fed with itself corrects nothing: its errors are its next inputs. In stage 2 it
    runs freely and the gradient goes back through that closed loop, so the loss measures an error's consequences. The
    horizon grows on the way, and the learning rate is small: one step that is a little too large shifts every spike to
    come. In both stages the inputs are noisy and the targets are not, so that the network learns to filter.

    "score" marks what the best epoch is to be chosen by: the error of the period, once the horizon is full.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=args.init_lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_epochs_one_step)
    for _ in range(args.num_epochs_one_step):
        loss = next_step_epoch(model, dataset, optimizer, args)
        schedule.step()
        yield {"stage": "next step", "loss": loss} | validate(model, valid_set, args)

    optimizer = torch.optim.Adam(model.parameters(), lr=args.free_lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, args.num_epochs))
    for epoch in range(1, args.num_epochs + 1):
        growth = min(1, 2 * epoch / args.num_epochs)  # the second half of the stage is spent at the full horizon
        horizon = round(args.first_horizon * (args.horizon / args.first_horizon) ** growth)
        loss = free_running_epoch(model, dataset, optimizer, horizon, args)
        schedule.step()
        report = {"stage": "free running", "loss": loss} | validate(model, valid_set, args, horizon)
        if growth == 1:
            report["score"] = report["period_error"]
        yield report


def next_step_epoch(model, dataset, optimizer, args):
    """Stage 1: one pass over the training set by truncated backpropagation through time; return the mean loss."""
    x, y = (data.transpose(0, 1).to(model.device) for data in (dataset.data_x, dataset.data_y))  # (T, N, 1)
    losses = []
    for indices in torch.randperm(len(dataset), device=model.device).split(args.batch_size):
        noisy, H = add_noise(x[:, indices], args.input_noise), None
        for x_window, y_window in zip(noisy.split(args.window), y[:, indices].split(args.window)):
            states, predictions = model(x_window, H)
            losses.append(gradient_step(model, optimizer, distance(predictions, y_window), args.max_grad_norm))
            H = states[-1].detach()  # the state is carried on into the next window, the gradient is not
    return torch.stack(losses).mean().item()


def free_running_epoch(model, dataset, optimizer, horizon, args):
    """Stage 2: run freely from random moments, and learn from the distance to the true trace; return its mean."""
    x, y = (data.transpose(0, 1).to(model.device) for data in (dataset.data_x, dataset.data_y))  # (T, N, 1)
    if len(x) < args.warm_up + horizon:
        raise ValueError(f"{len(x)} steps a trace: expected at least warm_up + horizon = {args.warm_up + horizon}")
    each, steps = (torch.arange(size, device=model.device) for size in (args.batch_size, horizon))
    losses = []
    for _ in range(args.updates_per_epoch):
        indices = torch.randint(len(dataset), each.shape, device=model.device)
        noisy, true = add_noise(x[:, indices], args.input_noise), y[:, indices]
        states, next_steps = model(noisy)
        # each trajectory runs on from a moment of its own, with what the network remembers there
        start = torch.randint(args.warm_up, len(x) - horizon + 1, each.shape, device=model.device)
        _, generated = model(noisy[start, each][None], states[start - 1, each], future=horizon - 1)
        loss = distance(generated, true[start + steps[:, None], each])
        # spikes at a wrong time dominate this loss; their shape, such as an overshoot, is learnt from the next step
        gradient_step(model, optimizer, loss + args.next_step_weight * distance(next_steps, true), args.max_grad_norm)
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def add_noise(x, largest):
    """Add noise to traces x (T, B, 1), to each at a level of its own from 0 to `largest`, to three in ten none."""
    level = largest * torch.rand_like(x[:1]) * (torch.rand_like(x[:1]) > 0.3)
    return x + level * torch.randn_like(x)


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


def validate(model, valid_set, args, horizon=0):
    """How far off the period of a free run is, the stage's own loss without noise, and a trace to be seen."""
    x, y, warm_up = valid_set.data_x, valid_set.data_y, args.warm_up
    generated, _ = run_freely(model, x, warm_up)
    if horizon:
        predicted, true = generated[:, warm_up : warm_up + horizon], x[:, warm_up : warm_up + horizon]
    else:
        predicted, true = model.predict(x[:, :512]), y[:, :512]  # next steps
    return {
        "period_error": judge(valid_set, generated, warm_up)["period_error"],
        "view_loss": distance(predicted.transpose(0, 1), true.transpose(0, 1)).item(),
        "trace": generated[0].flatten().numpy(),
    }


@torch.no_grad()
def run_freely(model, x, warm_up):
    """See the first warm_up samples of traces x (N, T, 1), then generate the rest.

    Returns all samples (N, T, 1), the first ones as they were, on the CPU, and all states (T, N, num_hiddens).
    """
    init_x = x[:, :warm_up].transpose(0, 1).to(model.device)
    states, readouts = model(init_x, future=x.shape[1] - warm_up)
    generated = torch.cat([init_x, readouts[warm_up - 1 : -1]])
    return generated.transpose(0, 1).cpu(), states


def compare_spikes(true, generated, dt):
    """Compare the spikes of one generated trace (T,) with those of the true one; time is counted in true periods.

    Returns: relative period error; periods until a spike is missing or 5 % off; offset of the last spike (1.0 if
    missing). A true trace of less than two spikes has no period: then all is wrong.
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


def judge(dataset, generated, warm_up):
    """Judge what run_freely generated by its dynamics; medians over trajectories, but for min and max.

    period_error, amplitude_error: relative. periods_in_phase: until the phase is off by 5 %. share_in_phase: of
    trajectories whose last spike is in phase. phase_drift: of the last spike, in periods.
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
    }


def evaluate_model(model, dataset, warm_up, seed=0):
    """Judge the free run through `dataset`, after clean and after noisy warm-ups."""
    metrics = judge(dataset, run_freely(model, dataset.data_x, warm_up)[0], warm_up)
    torch.manual_seed(seed)  # the same noise for every model
    for noise in (0.1, 0.2, 0.4):  # standard deviations
        noisy, _ = run_freely(model, dataset.data_x + noise * torch.randn_like(dataset.data_x), warm_up)
        metrics[f"share_in_phase_noise_{noise}"] = judge(dataset, noisy, warm_up)["share_in_phase"]
    return metrics


def fit_untrained(dataset, num_hiddens, args):
    """Make a network with random weights and fit its readout alone, by least squares."""
    torch.manual_seed(args.seed)  # the same, whatever went before
    model = GRU(num_inputs=1, num_hiddens=num_hiddens, num_outputs=1, residual=True).to(args.device)
    model.fit_readout(dataset.data_x, dataset.data_y, skip=10)
    return model


class Polynomial:
    """Predicts from two samples, by a polynomial of degree 7 in V and 7 in its last change; called as a network is."""

    device = "cpu"

    def __init__(self, dataset):
        x, y = (data[:256, 9:, 0].double().numpy() for data in (dataset.data_x, dataset.data_y))
        powers = polyvander2d(x[:, 1:].ravel(), np.diff(x).ravel(), [7, 7])  # a column for each of 64 products
        self.factors = np.linalg.lstsq(powers, y[:, 1:].ravel())[0].reshape(8, 8)

    def __call__(self, inputs, future):
        V = [*inputs[..., 0].double().numpy()]
        for _ in range(future + 1):
            V.append(polyval2d(V[-1], V[-1] - V[-2], self.factors).clip(-5, 5))  # it may run away
        return None, torch.tensor(np.stack(V[1:]))[..., None]  # it has no state


@torch.no_grad()
def gates(model, x, states):
    """Both gates, Z and R (T - 1, n), along a trace x (T, 1) and the states (T, n): each sees the state before."""
    X, H = x[1:].to(model.device), states[:-1].to(model.device)
    Z = torch.sigmoid(X @ model.W_xz + H @ model.W_hz + model.b_z)
    R = torch.sigmoid(X @ model.W_xr + H @ model.W_hr + model.b_r)
    return Z.cpu(), R.cpu()


def draw_pictures(args, models, dataset):
    """Write free runs of the first two models as an animation, and a period of the first as limit cycles and gates."""
    true = dataset.data_x[1:2, : args.warm_up + round(8 * period() / dataset.dt)]
    noisy = true + 0.1 * torch.randn_like(true)
    runs = {name: run_freely(model, noisy, args.warm_up)[0].flatten() for name, model in list(models.items())[:2]}
    frames = np.linspace(args.warm_up + 1, true.shape[1], 75, dtype=int)
    shown = ({"neuron": true.flatten()} | runs, dataset.dt, args.warm_up)
    save_gif(args.out_dir / "autoGRU.gif", frames, plot_runs, *shown, fps=12)
    model, x, w = next(iter(models.values())), dataset.data_x[-16:], dataset.data_w[-16:, args.warm_up :, 0]
    generated, states = run_freely(model, x, args.warm_up)
    generated, states = generated[-1, args.warm_up :], states[args.warm_up :].cpu()
    recovery = LinearRegression().fit(states[:, :-1].flatten(0, 1), w[:-1].t().flatten())  # W, by other neurons' states
    true = np.stack([x[-1, args.warm_up :, 0], w[-1]])
    V_and_W, states = np.stack([generated[:, 0], recovery.predict(states[:, -1])]), states[:, -1]
    save_figure(args.out_dir / "phase_portrait.png", draw_phase_portrait, true, V_and_W, states)
    save_figure(args.out_dir / "gates.png", draw_gates, V_and_W[0, 1:], *gates(model, generated, states), dataset.dt)


ROWS = (
    ("period_error", "period, relative error", ".0e"),
    ("amplitude_error", "amplitude, relative error", ".0e"),
    ("periods_in_phase", "periods in phase, median", ".1f"),
    ("periods_in_phase_min", "                  worst trajectory", ".1f"),
    ("share_in_phase", "share of trajectories in phase to the end", ".2f"),
    ("share_in_phase_noise_0.2", "    after a warm-up with noise of 0.2", ".2f"),
)


def print_table(scores, periods):
    print(f"\n{f'on its own for {periods:.1f} periods':42}" + "".join(f"{name:>12}" for name in scores))
    for key, label, form in ROWS:
        print(f"{label:42}" + "".join(f"{metrics[key]:>12{form}}" for metrics in scores.values()))


def load_model(args, dt):
    """Load a GRU that takes and predicts one voltage."""
    try:
        model = load_checkpoint(args.checkpoint, args.device).float()
    except ValueError as error:
        parser.error(f"{error}; give another --checkpoint, or train one with --retrain")
    if (model.num_inputs, model.num_outputs, model.per_timestep_readout) != (1, 1, True):
        parser.error(f"checkpoint {args.checkpoint}: expected a network that predicts the next voltage")
    print(f"{args.checkpoint.name}: a trained network of {model.num_hiddens} hidden units")
    if model.info.get("dt", dt) != dt:
        print(f"note: the network was trained at dt = {model.info['dt']}, the data has dt = {dt:g}")
    return model, {"interrupted": False}


def check_flags(args):
    train_flags = list(vars(args))[list(vars(args)).index("n_hidden") :]  # all that are defined from there on
    used = len(train_flags) if args.retrain else 1 if args.untrained else 0  # the first is --n_hidden
    for name in train_flags[used:]:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} has no effect without --retrain")
    if args.num_test < 2 or args.test_duration < 300:
        parser.error("--num_test, --test_duration: expected at least 2 neurons and 300 time units, some two periods")
    if args.retrain and args.warm_up + max(args.first_horizon, args.horizon) > args.num_samples:
        parser.error("--num_samples: expected at least --warm_up + --horizon and --warm_up + --first_horizon")


def make_model(args, train_set, dataset):
    """Train a network, or fit the readout of one; return it, and what there is to say of its training."""
    if args.untrained:
        return fit_untrained(train_set, args.n_hidden, args), {"interrupted": False}
    model = GRU(num_inputs=1, num_hiddens=args.n_hidden, num_outputs=1, residual=True).to(args.device)
    valid_set = dataset(1, 16, args.warm_up + round(1600 / train_set.dt))
    training = train_model(model, train_set, valid_set, args)  # nothing has run yet
    live = live_window(plot_free_run, valid_set) if args.train_visualization else None
    path = args.out_dir / f"{STEM}.pth"
    info = {"best_by": "score", "task": "autoregression", "dt": train_set.dt}
    history, interrupted = follow(training, args.num_epochs_one_step + args.num_epochs, model, path, live, **info)
    if args.train_visualization:
        save_figure(args.out_dir / "autoregression_losses.png", lambda figure: plot_losses(figure)(history))
    return model, {"train_seconds": history[-1]["seconds"], "interrupted": interrupted}


def main(argv=None):
    args = parser.parse_args(argv)
    check_flags(args)
    set_up(args)
    dt = args.duration / args.num_samples

    def dataset(offset, num, num_samples, anywhere=True):  # no two offsets or seeds share a trajectory
        settings = {"duration": num_samples * dt, "seed": 4 * args.seed + offset, "anywhere": anywhere}
        return FitzhughNagumo(num, num_samples, **settings)

    train_set = dataset(0, args.num_train, args.num_samples, args.anywhere)
    model, metrics = make_model(args, train_set, dataset) if args.retrain or args.untrained else load_model(args, dt)
    num_samples = args.warm_up + round(args.test_duration / dt)
    test_set, original = dataset(2, args.num_test, num_samples), dataset(3, args.num_test, num_samples, anywhere=False)
    from_original, _ = run_freely(model, original.data_x, args.warm_up)
    metrics |= {f"original_{name}": value for name, value in judge(original, from_original, args.warm_up).items()}
    control = {} if args.untrained else {"untrained": fit_untrained(train_set, model.num_hiddens, args)}
    models = {"untrained" if args.untrained else "trained": model} | control | {"polynomial": Polynomial(train_set)}
    scores = {name: evaluate_model(model, test_set, args.warm_up, args.seed) for name, model in models.items()}
    print_table(scores, args.test_duration / period())
    metrics |= scores.pop(next(iter(scores))) | scores
    if args.train_visualization:
        draw_pictures(args, models, test_set)
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
