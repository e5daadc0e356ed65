"""Print how fast the GRU, the simulator and the generator are, each beside what it is to be measured against.

    python tests/benchmark.py --threads 1
    python tests/benchmark.py --quick --device cuda

Candidates take turns in random order, so that a slow moment of the machine meets them all, and so does the state in
which the one before left its caches; every figure is a median over rounds.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import nn

import models
from datasets import simulate
from models import GRU, kernel_runs_on

SIZES = [(32, 50, 32), (32, 100, 32), (32, 1000, 32), (128, 1000, 32), (64, 1000, 64), (128, 512, 128)]  # B, T, units
NAMES = {"cpu": ["by hand", "nn.GRU", "plain loop"], "cuda": ["kernel", "by hand", "nn.GRU"]}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--json", type=Path, help="write the figures there, too")
parser.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a figure to quote")
parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads for torch")
parser.add_argument("--device", choices=["cpu", "cuda"], action="append", help="default: all there are")


def interleaved_medians(candidates, device, seconds):
    """Median duration in µs of each function in the dict, called in turn for about so many seconds."""
    times = {name: [] for name in candidates}
    for run in candidates.values():
        run()  # warm up
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[next(iter(times))]) < 3:
        for name in random.sample(list(candidates), len(candidates)):  # whom one comes after matters, too
            times[name].append(timed(candidates[name], device))
    return {name: statistics.median(values) for name, values in times.items()}


def timed(run, device):
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()  # a GPU is still at work when Python has gone on
    return (time.perf_counter() - start) * 1e6


def build(name, units, device):
    """A function from inputs (T, B, 1) to readouts (T, B, 1), and its parameters."""
    torch.manual_seed(0)
    if name == "nn.GRU":
        rnn, fc = nn.GRU(1, units).to(device), nn.Linear(units, 1).to(device)
        return lambda x: fc(rnn(x)[0].relu()), [*rnn.parameters(), *fc.parameters()]
    model = GRU(1, units, 1).to(device)
    run = model.forward_by_steps if name == "plain loop" else model

    def readouts(x):
        models.kernel_runs_on = kernel_runs_on if name == "kernel" else lambda device: False
        return run(x)[1]

    return readouts, list(model.parameters())


def step(name, size, device, train):
    """A function that trains (forward, backward) or predicts."""
    B, T, units = size
    x, y = torch.randn(T, B, 1, device=device), torch.randn(T, B, 1, device=device)
    run, parameters = build(name, units, device)

    def predict():
        with torch.no_grad():
            run(x)

    return (lambda: torch.autograd.grad(nn.functional.mse_loss(run(x), y), parameters)) if train else predict


def update(name, device):
    """A function that makes one whole update of task 1: 32 sequences, 250 steps, 32 units."""
    x, y = torch.randn(250, 32, 1, device=device), torch.randn(250, 32, 1, device=device)
    run, parameters = build(name, 32, device)
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def train():
        optimizer.zero_grad()
        nn.functional.mse_loss(run(x), y).backward()
        nn.utils.clip_grad_norm_(parameters, 0.2)
        optimizer.step()

    return train


def free_run(name, device, steps=4000):
    """A function that runs on freely, one sequence, 64 units."""
    model, warm_up = GRU(1, 64, 1, residual=True).to(device), torch.randn(50, 1, 1, device=device)

    def run():
        models.kernel_runs_on = kernel_runs_on if name == "kernel" else lambda device: False
        with torch.no_grad():
            model(warm_up, future=steps - 50)

    return run


def simulator(N, T, original_neurons):
    """Seconds for N neurons of T samples; one solve_ivp per neuron is timed on a few of them and scaled up."""
    v0, t = np.random.default_rng(0).uniform(-1, 1, N), np.linspace(0, 400, T)

    def derivative(_, state):
        V, W = state
        return [V - V**3 / 3 - W + 0.5, (V + 0.7 - 0.8 * W) / 50]

    def one_by_one():
        for v in v0[:original_neurons]:
            solve_ivp(derivative, (0, 400), [v, 0], t_eval=t)

    medians = interleaved_medians({"simulate": lambda: simulate(v0, 0.0, t), "one by one": one_by_one}, "cpu", 0)
    return {"simulate": medians["simulate"] / 1e6, "one by one": medians["one by one"] * N / original_neurons / 1e6}


def print_row(label, values):
    first, *others = values.values()
    ratios = "".join(f"{value / first:>12.2f}" for value in others)
    print(f"{label:>28}" + "".join(f"{value:>12.2f}" for value in values.values()) + "  |" + ratios, flush=True)


def measure_device(device, seconds):
    names, figures = NAMES[device], {}
    print(f"\n{device}: µs per time step, of (batch, T, units); right of the bar, each over the first")
    print(f"{'':>28}" + "".join(f"{name:>12}" for name in names) + "  |")
    rows = {f"{kind} {size}": size for kind in ("train", "predict") for size in SIZES}
    for label, (B, T, units) in rows.items():
        candidates = {name: step(name, (B, T, units), device, label.startswith("train")) for name in names}
        figures[label] = {k: v / T for k, v in interleaved_medians(candidates, device, seconds).items()}
        print_row(label, figures[label])
    free = interleaved_medians(
        {name: free_run(name, device) for name in names[: 1 + (device == "cuda")]}, device, seconds
    )
    figures["free run, 64 units"] = {name: value / 4000 for name, value in free.items()}
    print_row("free run, 64 units", figures["free run, 64 units"])
    figures["update"] = interleaved_medians({name: update(name, device) for name in names}, device, seconds)
    print_row("an update of task 1: µs", figures["update"])
    return figures


def main(argv=None):
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    seconds = 0.3 if args.quick else 6.0
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {args.threads} CPU threads, torch {torch.__version__}")
    figures = {"machine": machine, "threads": args.threads, "torch": torch.__version__}
    for device in args.device or ["cpu"] + ["cuda"] * torch.cuda.is_available():
        figures[device] = measure_device(device, seconds)
    if "cpu" in figures:
        figures["simulator"] = simulator(1024, 2000, 8 if args.quick else 64)
        print("\nsimulator, 1024 neurons of 2000 samples: s")
        print("".join(f"{name:>16} {value:8.2f}" for name, value in figures["simulator"].items()))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


if __name__ == "__main__":
    main()
