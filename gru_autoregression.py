"""Task 2: a GRU generates a neuron's voltage for ever, from a short warm-up.

    python gru_autoregression.py                         runs the shipped network
    python gru_autoregression.py --test_duration 12800   a hundred periods, not 26
    python gru_autoregression.py --untrained 500         beside 500 untrained units
    python gru_autoregression.py --retrain               trains a new one, in minutes
    python gru_autoregression.py --play                  a window: who loses the beat?

You should see a table in which the network, fed with nothing but its own predictions,
keeps the true period and phase; an untrained one of its size loses the beat at once,
and a polynomial after a noisy warm-up. And pictures of the cycle that it has learnt.
"""

from argparse import BooleanOptionalAction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.polynomial.polynomial import polyval2d, polyvander2d
from sklearn.linear_model import LinearRegression

import gru_autoregression_training
from backstage import fast
from backstage.checkpoints import load_checkpoint
from backstage.pictures import (
    draw_gates,
    draw_phase_portrait,
    plot_runs,
    save_figure,
    save_gif,
)
from backstage.play import (
    AloneWindow,
    NetworkPlayer,
    NoWindowError,
    refuse_other_flags,
)
from backstage.plumbing import (
    FlagParser,
    count,
    positive,
    run,
    seed,
    set_up,
    units,
    write_metrics,
)
from backstage.training import fit_readout
from cells import CELLS
from datasets import NEURON, FitzhughNagumo, period
from free_running import judge, run_freely
from models import GRU

STEM = "gru_autoregression"
SHIPPED = Path(__file__).with_name("checkpoints") / "autoregressiveGRU.pth"
DT = 400 / 512  # of the shipped network's training, in time units

parser = FlagParser(__doc__)
flag = parser.add_argument
# the network
which = parser.add_mutually_exclusive_group()
which.add_argument(
    "--checkpoint",
    type=Path,
    default=SHIPPED,
    help="the network to load; the shipped one is never written to",
)
which.add_argument(
    "--retrain",
    action="store_true",
    help="train a new one, by gru_autoregression_training.py, which has flags for it",
)
flag("--play", action="store_true", help="watch who loses the beat, in a window")
flag("--cell", type=str, choices=CELLS, default="gru", help="of a new network")
flag("--untrained", type=units, help="units of the untrained network beside it")
# data
flag("--num_test", type=count, default=64, help="new trajectories to generate")
flag("--test_duration", type=positive, default=3200.0, help="time units to generate")
flag("--dt", type=positive, default=DT, help="time between samples")
flag("--warm_up", type=count, default=50, help="true samples that are seen before")
flag("--seed", type=seed, default=0, help="fixes the data and the untrained network")
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

NUM_FIT = 1024  # trajectories to which the controls are fitted
FIT_SAMPLES = 512
NOISES = (0.1, 0.2, 0.4)  # standard deviations, on the warm-up

# the rows of the table: metric, what a reader sees, format
ROWS = (
    ("period_error", "period, relative error", ".0e"),
    ("amplitude_error", "amplitude, relative error", ".0e"),
    ("periods_in_phase", "periods in phase, median", ".1f"),
    ("periods_in_phase_min", "                  worst trajectory", ".1f"),
    ("share_in_phase", "share whose last spike is in phase", ".2f"),
    ("share_in_phase_noise_0.2", "    after a warm-up with noise of 0.2", ".2f"),
)


class Polynomial:
    """Predicts from two samples: of degree 7 in V, and of 7 in its last change."""

    DEGREES = (7, 7)
    FARTHEST = 5.0  # it may run away: V is held within this

    def __init__(self, dataset, skip=9, num_traces=256):
        """Fit it by least squares to the first traces of a dataset."""
        V = dataset.data_x[skip:, :num_traces, 0].double().numpy()
        change = np.diff(V, axis=0)
        targets = dataset.data_y[skip + 1 :, :num_traces, 0].double().numpy()
        # a column for each product of powers
        products = polyvander2d(V[1:].ravel(), change.ravel(), self.DEGREES)
        factors, *_ = np.linalg.lstsq(products, targets.ravel())
        rows, columns = self.DEGREES
        self.factors = factors.reshape(rows + 1, columns + 1)

    def generate(self, first, num):
        """Go on alone from the last two of the samples `first` (warm_up, N, 1)."""
        before, now = first[-2:, :, 0].double().numpy()
        generated = []
        for _ in range(num):
            following = polyval2d(now, now - before, self.factors)
            before = now
            now = following.clip(-self.FARTHEST, self.FARTHEST)
            generated.append(now)
        return torch.tensor(np.stack(generated))[..., None]


class PolynomialPlayer:
    """A Polynomial that goes on sample by sample."""

    def __init__(self, polynomial):
        self.polynomial = polynomial
        self.before = None  # the last sample

    def step(self, V, _):
        """Take a sample of V; return the next one. The current is not told."""
        if self.before is None:
            following = V  # one sample has no change
        else:
            first = torch.tensor([self.before, V], dtype=torch.float64)
            following = self.polynomial.generate(first[:, None, None], 1).item()
        self.before = V
        return following


def generate(network, first, num):
    """Let a network go on alone after the samples `first` (warm_up, N, 1)."""
    generated, _ = run_freely(network, first, num)
    return generated


def fit_untrained(cell, num_hiddens, dataset, seed):
    """Make a network of random weights, and fit its readout alone."""
    torch.manual_seed(seed)  # the same, whatever went before
    network = cell(1, num_hiddens, 1, residual=True)
    fit_readout(network, dataset.data_x, dataset.data_y, skip=10)
    return network


def evaluate_model(generator, dataset, warm_up, seed=0):
    """Judge a generator, after clean and after noisy warm-ups: flat metrics.

    generator: a function of the first samples (warm_up, N, 1) and of how many are to
    follow, which returns those.
    """
    first = dataset.data_x[:warm_up]
    true = dataset.data_x[warm_up:]
    metrics = judge(true, generator(first, len(true)), dataset.dt)
    torch.manual_seed(seed)  # the same noise for every generator
    for noise_std in NOISES:
        noisy = first + noise_std * torch.randn_like(first)
        judged = judge(true, generator(noisy, len(true)), dataset.dt)
        metrics[f"share_in_phase_noise_{noise_std}"] = judged["share_in_phase"]
    return metrics


def print_table(metrics, names, num_periods):
    title = f"on its own for {num_periods:.1f} periods"
    print(f"\n{title:42}" + "".join(f"{name:>12}" for name in names))
    for key, label, form in ROWS:
        values = [metrics[f"{name}_{key}"] for name in names]
        print(f"{label:42}" + "".join(f"{value:>12{form}}" for value in values))


def draw_runs(path, generators, dataset, warm_up):
    """Write free runs after a noisy warm-up, each on the neuron, as an animation."""
    num = round(8 * period() / dataset.dt)
    true = dataset.data_x[: warm_up + num, 1:2]
    noisy = (true + 0.1 * torch.randn_like(true))[:warm_up]
    voltages = {"neuron": true.flatten()}
    for name, generator in generators.items():
        voltages[name] = torch.cat([noisy, generator(noisy, num)]).flatten()
    frames = np.linspace(warm_up + 1, len(true), 75, dtype=int)
    save_gif(path, frames, plot_runs, voltages, dataset.dt, warm_up, fps=12)


def draw_insides(out_dir, network, dataset, warm_up):
    """Write the last period of a free run: V and W, the state, the gates."""
    x = dataset.data_x[:, -16:]  # some neurons; the last one is shown
    W = dataset.data_w[warm_up:, -16:, 0].numpy()
    generated, states = run_freely(network, x[:warm_up], len(W))
    states = states[warm_up:].cpu().numpy()  # (T, neurons, n)
    V = generated[:, -1, 0].numpy()
    # W is read out of the state by a rule that is fitted to the other neurons
    others = states[:, :-1].reshape(-1, states.shape[-1])
    recovery = LinearRegression().fit(others, W[:, :-1].ravel())
    shown = states[:, -1]
    true = np.stack([x[warm_up:, -1, 0].numpy(), W[:, -1]])
    V_and_W = np.stack([V, recovery.predict(shown)])
    path = out_dir / "phase_portrait.png"
    save_figure(path, draw_phase_portrait, true, V_and_W, shown)
    if fast.may_run(network, textbook=GRU):  # else `gates` is not what it computes
        Z, R = gates(network, generated[:, -1], torch.tensor(shown))
        save_figure(out_dir / "gates.png", draw_gates, V[1:], Z, R, dataset.dt)


@torch.no_grad()
def gates(model, x, states):
    """Both gates, Z and R (T - 1, n), along a trace x (T, 1) and the states (T, n).

    A step sees its own input and the state before.
    """
    X = x[1:].to(model.device)
    H = states[:-1].to(model.device)
    Z = torch.sigmoid(X @ model.W_xz + H @ model.W_hz + model.b_z)
    R = torch.sigmoid(X @ model.W_xr + H @ model.W_hr + model.b_r)
    return Z.cpu(), R.cpu()


def retrain(args):
    """Train a new network by the other script's defaults; return its path, metrics."""
    flags = [f"--seed={args.seed}", f"--device={args.device}", f"--cell={args.cell}"]
    flags.append(f"--out_dir={args.out_dir}")
    if not args.train_visualization:
        flags.append("--no-train_visualization")
    metrics = gru_autoregression_training.main(flags)
    return args.out_dir / f"{gru_autoregression_training.STEM}.pth", metrics


def load_network(path, device, dt):
    """Load a network that takes and predicts one voltage."""
    try:
        network = load_checkpoint(path, device).float()
    except ValueError as error:
        parser.error(f"{error}; give another --checkpoint, or --retrain")
    sizes = (network.num_inputs, network.num_outputs)
    if sizes != (1, 1) or not network.per_timestep_readout:
        parser.error(
            f"checkpoint {path}: expected a network that predicts the next voltage"
        )
    print(f"{path.name}: a trained network of {network.num_hiddens} hidden units")
    own_dt = network.info.get("dt", dt)
    if own_dt != dt:
        print(f"note: it was trained at dt = {own_dt}, the data has dt = {dt:g}")
    return network


def parse_flags(argv):
    args = parser.parse_args(argv)
    if args.play:
        used = ("play", "checkpoint", "untrained", "dt", "warm_up", "seed")
        refuse_other_flags(parser, args, used)
    if args.retrain and (
        args.dt != DT or args.warm_up != parser.get_default("warm_up")
    ):
        parser.error(
            "--dt, --warm_up: a network for others is trained by the other script"
        )
    if args.cell != "gru" and not args.retrain:
        parser.error("--cell has no effect without --retrain")
    if args.num_test < 2 or args.test_duration < 300:
        parser.error(
            "--num_test, --test_duration: expected at least 2 neurons and 300 time "
            "units, some two periods"
        )
    if args.warm_up < 2:
        parser.error("--warm_up: expected at least 2 samples, a voltage and its change")
    if not 0.01 <= args.dt <= 5:
        parser.error(f"--dt: {args.dt:g}, expected 0.01 to 5 time units")
    return args


def make_neurons(args, num, num_samples, offset):
    """Simulate `num` neurons; no two offsets or seeds share a trajectory."""
    duration = num_samples * args.dt
    return FitzhughNagumo(
        num, num_samples, duration=duration, seed=4 * args.seed + offset
    )


def play(args):
    """Open a window in which all go on after a warm-up; return how it ended."""
    torch.set_num_threads(1)
    trained = load_network(args.checkpoint, "cpu", args.dt)
    fit_set = make_neurons(args, NUM_FIT, FIT_SAMPLES, offset=0)
    num_untrained = args.untrained or trained.num_hiddens
    untrained = fit_untrained(type(trained), num_untrained, fit_set, args.seed)
    polynomial = Polynomial(fit_set)

    def make_others():
        return {
            "trained": NetworkPlayer(trained),
            "untrained": NetworkPlayer(untrained),
            "polynomial": PolynomialPlayer(polynomial),
        }

    titles = {
        "trained": "trained network",
        "untrained": "untrained network",
        "polynomial": "polynomial",
    }
    try:
        window = AloneWindow(
            make_others, titles, args.dt, args.warm_up, NEURON.I, args.seed
        )
    except NoWindowError as error:
        parser.exit(2, f"{parser.prog}: error: --play: {error}\n")
    return {"interrupted": window.show()}


def main(argv=None):
    args = parse_flags(argv)
    if args.play:
        return play(args)
    training = {"interrupted": False}
    path = args.checkpoint
    if args.retrain:
        path, training = retrain(args)
    args.device = set_up(args.seed, args.device, args.out_dir)
    trained = load_network(path, args.device, args.dt)
    fit_set = make_neurons(args, NUM_FIT, FIT_SAMPLES, offset=0)
    num_samples = args.warm_up + round(args.test_duration / args.dt)
    test_set = make_neurons(args, args.num_test, num_samples, offset=2)
    num_untrained = args.untrained
    if num_untrained is None:
        num_untrained = trained.num_hiddens
    untrained = fit_untrained(type(trained), num_untrained, fit_set, args.seed)

    generators = {
        "trained": partial(generate, trained),
        "untrained": partial(generate, untrained.to(args.device)),
        "polynomial": Polynomial(fit_set).generate,
    }
    metrics = {}
    for name, generator in generators.items():
        scores = evaluate_model(generator, test_set, args.warm_up, args.seed)
        metrics |= {f"{name}_{key}": value for key, value in scores.items()}
    print_table(metrics, generators, args.test_duration / period())
    if args.train_visualization:
        del generators["polynomial"]  # the picture shows the networks
        draw_runs(args.out_dir / "autoGRU.gif", generators, test_set, args.warm_up)
        draw_insides(args.out_dir, trained, test_set, args.warm_up)
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics | training, args)
    return metrics | training


if __name__ == "__main__":
    run(main)
