"""Print how fast the GRU, the simulator and the generator are, each beside what it is
to be measured against.

    python extras/benchmark.py --threads 1
    python extras/benchmark.py --quick --device cuda

Candidates take turns in random order, so that a slow moment of the machine meets them
all, and so does the state in which the one before left its caches; every figure is a
median over rounds.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import nn
from torch.nn.functional import mse_loss

from backstage.fast import kernel_runs_on
from backstage.recurrence import Recurrence
from backstage.weights import Weights
from datasets import NEURON, simulate
from models import GRU

SECONDS = 6.0  # that the candidates of a row take together
SECONDS_IF_QUICK = 0.3
FEWEST_ROUNDS = 3

FREE_RUN_STEPS = 4000
WARM_UP = 50  # of these steps

NUM_NEURONS = 1024
NUM_SAMPLES = 2000
NUM_ONE_BY_ONE = 64  # neurons that the slow simulator is timed on
NUM_ONE_BY_ONE_IF_QUICK = 8


class Size(NamedTuple):
    """The size of a training batch, and of a network."""

    B: int
    T: int
    units: int


SIZES = (
    Size(32, 50, 32),
    Size(32, 100, 32),
    Size(32, 1000, 32),
    Size(128, 1000, 32),
    Size(64, 1000, 64),
    Size(128, 512, 128),
)
UPDATE = Size(32, 250, 32)  # of task 1

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--json", type=Path, help="write the figures there, too")
parser.add_argument(
    "--quick",
    action="store_true",
    help="few rounds: for a look, not for a figure to quote",
)
parser.add_argument(
    "--threads", type=int, default=torch.get_num_threads(), help="CPU threads for torch"
)
parser.add_argument(
    "--device", choices=["cpu", "cuda"], action="append", help="default: all there are"
)

# ---- candidates ----


def names_on(device):
    """What is measured on a device; the first is what all others are compared with."""
    if device == "cpu":
        return ["by hand", "nn.GRU", "plain loop"]
    if kernel_runs_on(torch.device(device)):
        return ["kernel", "by hand", "nn.GRU"]
    return ["by hand", "nn.GRU"]


def loop_of(name):
    """The loop over time that a name stands for; `GRU.forward` would choose itself."""
    if name == "by hand":
        return Recurrence
    from backstage.kernels import KernelRecurrence  # needs Triton

    return KernelRecurrence


def run_by_loop(loop, model, inputs, future=0):
    """What `GRU.forward_fast` does, by a loop of our choice: the readouts."""
    H = inputs.new_zeros(inputs.shape[1], model.num_hiddens)
    keep = torch.is_grad_enabled()
    weights = Weights.of(model)
    states, generated = loop.apply(inputs, H, future, model.residual, keep, *weights)
    if future:
        inputs = torch.cat([inputs, generated])
    return model.readout(states, inputs)


class Candidate(NamedTuple):
    """A network to be timed."""

    readouts: Callable  # a function of inputs (T, B, 1), which returns (T, B, 1)
    parameters: list


def build(name, units, device):
    """Make a Candidate with new weights."""
    torch.manual_seed(0)
    if name == "nn.GRU":
        rnn = nn.GRU(1, units).to(device)
        fc = nn.Linear(units, 1).to(device)

        def readouts(x):
            states, _ = rnn(x)
            return fc(states.relu())

        return Candidate(readouts, [*rnn.parameters(), *fc.parameters()])

    model = GRU(1, units, 1).to(device)

    def readouts(x):
        if name == "plain loop":
            _, Y = model.forward_by_steps(x)
            return Y
        return run_by_loop(loop_of(name), model, x)

    return Candidate(readouts, list(model.parameters()))


# ---- what is timed: functions without arguments ----


def train_step(name, size, device):
    """Forward and backward."""
    x = torch.randn(size.T, size.B, 1, device=device)
    y = torch.randn(size.T, size.B, 1, device=device)
    readouts, parameters = build(name, size.units, device)

    def run():
        torch.autograd.grad(mse_loss(readouts(x), y), parameters)

    return run


def prediction(name, size, device):
    x = torch.randn(size.T, size.B, 1, device=device)
    readouts, _ = build(name, size.units, device)

    @torch.no_grad()
    def run():
        readouts(x)

    return run


def update(name, size, device):
    """A whole update of a training, with clipping and optimiser."""
    x = torch.randn(size.T, size.B, 1, device=device)
    y = torch.randn(size.T, size.B, 1, device=device)
    readouts, parameters = build(name, size.units, device)
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def run():
        optimizer.zero_grad()
        mse_loss(readouts(x), y).backward()
        nn.utils.clip_grad_norm_(parameters, 0.2)
        optimizer.step()

    return run


def free_run(name, device):
    """One sequence that goes on freely, 64 units."""
    model = GRU(1, 64, 1, residual=True).to(device)
    warm_up = torch.randn(WARM_UP, 1, 1, device=device)
    loop = loop_of(name)

    @torch.no_grad()
    def run():
        run_by_loop(loop, model, warm_up, future=FREE_RUN_STEPS - WARM_UP)

    return run


def one_by_one(v0, t):
    """Simulate neurons as the original tutorial did: a call of solve_ivp for each."""

    def derivative(_, state):
        V, W = state
        dV = V - V**3 / 3 - W + NEURON.I
        dW = NEURON.eps * (V + NEURON.a - NEURON.b * W)
        return [dV, dW]

    for v in v0:
        solve_ivp(derivative, (t[0], t[-1]), [v, 0], t_eval=t)


# ---- measuring ----


def interleaved_medians(candidates, device, seconds):
    """The median duration in µs of each function of the dict, by name.

    They are called in turn, for about so many seconds in all.
    """
    times = {name: [] for name in candidates}
    for run in candidates.values():
        run()  # warm up
    begin = time.perf_counter()
    rounds = 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() - begin < seconds:
        # whom one comes after matters, too
        for name in random.sample(list(candidates), len(candidates)):
            times[name].append(duration(candidates[name], device))
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}


def duration(run, device):
    """The time in µs that a call of `run` takes."""
    wait_for(device)
    begin = time.perf_counter()
    run()
    wait_for(device)
    return (time.perf_counter() - begin) * 1e6


def wait_for(device):
    """Wait for a GPU, which is still at work when Python has gone on."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_device(device, seconds):
    """Measure and print a table; return its rows by label."""
    names = names_on(device)
    print(
        f"\n{device}: µs per time step, of (batch, T, units); right of the bar, "
        "each over the first"
    )
    print(f"{'':>28}" + "".join(f"{name:>12}" for name in names) + "  |")
    rows = {}

    def measure(label, candidates, num_steps):
        medians = interleaved_medians(candidates, device, seconds)
        rows[label] = {name: value / num_steps for name, value in medians.items()}
        print_row(label, rows[label])

    for kind, make in (("train", train_step), ("predict", prediction)):
        for size in SIZES:
            candidates = {name: make(name, size, device) for name in names}
            measure(f"{kind} {tuple(size)}", candidates, size.T)
    # the others cannot be fed with their own readout without a loop in Python
    loops = [name for name in names if name in ("kernel", "by hand")]
    candidates = {name: free_run(name, device) for name in loops}
    measure("free run, 64 units", candidates, FREE_RUN_STEPS)
    candidates = {name: update(name, UPDATE, device) for name in names}
    measure("an update of task 1: µs", candidates, 1)
    return rows


def print_row(label, values):
    first, *others = values.values()
    absolute = "".join(f"{value:>12.2f}" for value in values.values())
    ratios = "".join(f"{value / first:>12.2f}" for value in others)
    print(f"{label:>28}{absolute}  |{ratios}", flush=True)


def measure_simulator(num_one_by_one):
    """Seconds for all neurons; the slow simulator's are scaled up from a few."""
    v0 = np.random.default_rng(0).uniform(-1, 1, NUM_NEURONS)
    t = np.linspace(0, 400, NUM_SAMPLES)
    candidates = {
        "simulate": lambda: simulate(v0, 0.0, t),
        "one by one": lambda: one_by_one(v0[:num_one_by_one], t),
    }
    medians = interleaved_medians(candidates, "cpu", seconds=0)
    return {
        "simulate": medians["simulate"] / 1e6,
        "one by one": medians["one by one"] / 1e6 * NUM_NEURONS / num_one_by_one,
    }


def all_devices():
    if torch.cuda.is_available():
        return ["cpu", "cuda"]
    return ["cpu"]


def main(argv=None):
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    seconds = SECONDS
    num_one_by_one = NUM_ONE_BY_ONE
    if args.quick:
        seconds = SECONDS_IF_QUICK
        num_one_by_one = NUM_ONE_BY_ONE_IF_QUICK
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {args.threads} CPU threads, torch {torch.__version__}")
    figures = {"machine": machine, "threads": args.threads, "torch": torch.__version__}
    for device in args.device or all_devices():
        figures[device] = measure_device(device, seconds)
    if "cpu" in figures:
        figures["simulator"] = measure_simulator(num_one_by_one)
        print(f"\nsimulator, {NUM_NEURONS} neurons of {NUM_SAMPLES} samples: s")
        cells = [f"{name:>16} {s:8.2f}" for name, s in figures["simulator"].items()]
        print("".join(cells))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


if __name__ == "__main__":
    main()
