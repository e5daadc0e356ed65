"""Print how fast the GRU, the simulator and the generator are, each beside what it is to be measured against.

    python tests/benchmark.py
    python tests/benchmark.py --quick --json speed.json

Candidates take turns in random order, so that a slow moment of the machine meets them all, and so does the state in
which the one before left its caches and threads; every figure is a median over rounds.
"""

import argparse
import functools
import json
import multiprocessing
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

from datasets import simulate
from models import GRU

SIZES = [(32, 100, 32), (64, 50, 32), (32, 1000, 32), (128, 1000, 32), (64, 1000, 64), (128, 512, 128)]  # B, T, H
LENGTHS = [100, 1000, 4000]  # T at B = 32, H = 32: is the cost of a step the same?
NAMES = ["by hand", "reset after", "loop", "nn.GRU", "products"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--json", type=Path, help="write the figures there, too")
parser.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a figure to quote")
parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads for torch")


def interleaved_medians(candidates, device, seconds):
    """Median duration in seconds of each function in the dict, called in turn for about so many seconds."""
    times = {name: [] for name in candidates}
    for run in candidates.values():
        run()  # warm up
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[next(iter(times))]) < 3:
        for name in random.sample(list(candidates), len(candidates)):  # whom one comes after matters, too
            times[name].append(timed(candidates[name], device))
    return {name: statistics.median(values) for name, values in times.items()}


def timed(run, device):
    if device == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def build(name, B, T, H, device):
    """A function from inputs (T, B, 1) to readouts (T, B, 1), and its parameters."""
    torch.manual_seed(0)
    if name == "nn.GRU":
        rnn, fc = nn.GRU(1, H).to(device), nn.Linear(H, 1).to(device)
        return lambda x: fc(rnn(x)[0].relu()), [*rnn.parameters(), *fc.parameters()]
    model = GRU(1, H, 1, reset_after=name == "reset after").to(device)
    run = model.forward_by_steps if name == "loop" else model
    return lambda x: run(x)[1], list(model.parameters())


def products_alone(B, T, H, device, train):
    """The matrix products that no implementation can do without: 3 per step forward, 6 more backward."""
    state, weight = torch.randn(B, H, device=device), torch.randn(H, H, device=device)
    states, weights = torch.randn(T * B, H, device=device), torch.randn(H, H, device=device)
    out = torch.empty_like(state)

    def run():
        for _ in range(T * (6 if train else 3)):
            torch.mm(state, weight, out=out)
        if train:  # the weights' gradients need no loop
            for _ in range(3):
                torch.mm(states.t(), states, out=weights)

    return run


def recurrence(B, T, H, device, train, seconds, names=NAMES):
    """Microseconds per time step of a train step (forward, backward) or of inference, for every implementation."""
    x, y = torch.randn(T, B, 1, device=device), torch.randn(T, B, 1, device=device)
    candidates = {}
    for name in names[:4]:
        run, parameters = build(name, B, T, H, device)

        def step(run=run, parameters=parameters):
            with torch.set_grad_enabled(train):
                loss = nn.functional.mse_loss(run(x), y)
            if train:
                torch.autograd.grad(loss, parameters)

        candidates[name] = step
    if "products" in names:
        candidates["products"] = products_alone(B, T, H, device, train)
    return {name: value / T * 1e6 for name, value in interleaved_medians(candidates, device, seconds).items()}


def peak_rss():
    """Megabytes that this process has held at most; the usual ru_maxrss would begin at its parent's peak."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) / 1024


def peak_memory(name, B, T, H, device, queue):
    """Put the megabytes that train steps add to a fresh process (or take on the GPU) into the queue."""
    x = torch.randn(T, B, 1, device=device)
    run, parameters = build(name, B, T, H, device)
    torch.autograd.grad(run(x[:2]).sum(), parameters)  # what libraries load only once is not counted
    before = peak_rss()
    for _ in range(3):
        torch.autograd.grad(run(x).square().mean(), parameters)
    if device == "cuda":
        queue.put(torch.cuda.max_memory_allocated() / 2**20)
    else:
        queue.put(peak_rss() - before)


def in_fresh_process(target, *args):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=target, args=(*args, queue))
    process.start()
    value = queue.get()
    process.join()
    return value


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
    return {"simulate": medians["simulate"], "one by one": medians["one by one"] * N / original_neurons}


def generation(device, seconds, H=64):
    """Microseconds per step of running on freely, at batch 1."""
    model, warm_up = GRU(1, H, 1, residual=True).to(device), torch.randn(50, 1, 1, device=device)

    def run(steps):
        with torch.no_grad():
            model(warm_up, future=steps)

    lengths = (250, 1000, 4000)
    medians = interleaved_medians({steps: functools.partial(run, steps) for steps in lengths}, device, seconds)
    return {steps: medians[steps] / (50 + steps) * 1e6 for steps in lengths}


def print_header(title):
    names = "".join(f"{name:>12}" for name in NAMES)
    print(f"\n{title}; right of the bar, each one's figure over that of the GRU by hand\n{'(B, T, H)':>16}{names}  |")


def print_row(label, values, reference="by hand"):
    others = [name for name in values if name != reference and values[reference]]
    ratios = "".join(f"{values[name] / values[reference]:>12.2f}" for name in others)
    print(f"{label:>16}" + "".join(f"{value:>12.1f}" for value in values.values()) + "  |" + ratios)


def measure_device(device, seconds):
    results = {}
    for kind in ("train step", "inference"):
        print_header(f"{kind}, {device}: µs per time step")
        for size in SIZES:
            results[f"{kind} {size}"] = recurrence(*size, device, kind == "train step", seconds)
            print_row(str(size), results[f"{kind} {size}"])
    print(f"\ntrain step, {device}, by the number of time steps: µs per time step, by hand and nn.GRU")
    for T in LENGTHS:
        results[f"length {T}"] = recurrence(32, T, 32, device, True, seconds, names=["by hand", "nn.GRU"])
        print_row(f"T = {T}", results[f"length {T}"])
    print_header(f"train step, {device}: peak memory in MB")
    for size in SIZES:
        results[f"memory {size}"] = {name: in_fresh_process(peak_memory, name, *size, device) for name in NAMES[:4]}
        print_row(str(size), results[f"memory {size}"])
    results["generation"] = generation(device, seconds)
    print(f"\nfree running, {device}, batch 1, 64 hidden units: µs per step")
    print("".join(f"{steps:>8} steps {value:8.1f}" for steps, value in results["generation"].items()))
    return results


def main(argv=None):
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    seconds = 0.3 if args.quick else 6.0
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {args.threads} CPU threads, torch {torch.__version__}")
    figures = {"machine": machine, "threads": args.threads, "torch": torch.__version__}
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        figures[device] = measure_device(device, seconds)
    figures["simulator"] = simulator(1024, 2000, 8 if args.quick else 64)
    print("\nsimulator, 1024 neurons of 2000 samples: s")
    print("".join(f"{name:>16} {value:8.2f}" for name, value in figures["simulator"].items()))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


if __name__ == "__main__":
    main()
