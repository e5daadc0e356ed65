"""The benchmark and the search for rest points; and who may import whom."""

import ast
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from backstage.checkpoints import load_checkpoint, save_checkpoint
from backstage.recurrence import Recurrence
from cells import CELLS
from datasets import FitzhughNagumo, rest_point, simulate
from gru_regression_scratch import gradient_through_time, record
from models import GRU

TOP = Path(__file__).resolve().parents[1]


def load(name):
    """Import a file of extras/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, TOP / "extras" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load("benchmark")
rest_points = load("rest_points")
reach = load("reach")

# ---- the benchmark ----


@pytest.mark.parametrize("future", [0, 4])
def test_what_the_benchmark_times_is_what_the_network_computes(future):
    torch.manual_seed(0)
    model = GRU(1, 5, 1, residual=True)
    x = torch.randn(6, 3, 1)
    _, expected = model.forward_by_steps(x, future=future)
    readouts = benchmark.run_by_loop(Recurrence, model, x, future)
    torch.testing.assert_close(readouts, expected)


def test_benchmark_has_a_figure_for_every_candidate(tmp_path, monkeypatch):
    small = benchmark.Size(B=2, T=3, units=4)
    monkeypatch.setattr(benchmark, "SIZES", (small,))
    monkeypatch.setattr(benchmark, "UPDATE", small)
    monkeypatch.setattr(benchmark, "SECONDS_IF_QUICK", 0.0)
    monkeypatch.setattr(benchmark, "FREE_RUN_STEPS", benchmark.WARM_UP + 2)
    monkeypatch.setattr(benchmark, "NUM_SAMPLES", 10)
    flags = ["--quick", "--device", "cpu", "--threads", "1"]
    benchmark.main([*flags, "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {label: list(row) for label, row in figures["cpu"].items()} == {
        "train (2, 3, 4)": ["by hand", "nn.GRU", "plain loop"],
        "predict (2, 3, 4)": ["by hand", "nn.GRU", "plain loop"],
        "free run, 64 units": ["by hand"],
        "an update of task 1: µs": ["by hand", "nn.GRU", "plain loop"],
    }
    for row in (*figures["cpu"].values(), figures["simulator"]):
        assert min(row.values()) > 0


# ---- rest points and exponents ----


def test_rest_points_of_a_map_whose_rest_points_are_known():
    def step(s):  # rests at V = -1, 0 and 1, and at V = 3, out of range
        V, H = s
        return torch.stack([V + 0.05 * (V - V**3) * (3 - V), 0.9 * H])

    starts = torch.cartesian_prod(torch.linspace(-2, 4, 30), torch.tensor([-1.0, 2.0]))
    found = rest_points.find_rest_points(step, starts.double())
    expected = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]).double()
    torch.testing.assert_close(torch.stack(found), expected)
    multipliers = rest_points.multipliers_at(step, found[1])
    assert multipliers.real.tolist() == pytest.approx([1 + 0.05 * 3, 0.9])


def test_exponents_of_a_linear_map_are_those_of_its_eigenvalues():
    eigenvalues = torch.tensor([0.5, 1.02, 0.9]).double()
    P = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).double()
    A = P @ torch.diag(eigenvalues) @ torch.linalg.inv(P)
    exponents = rest_points.lyapunov_exponents(
        lambda s: A @ s, torch.ones(3).double(), num_samples=50
    )
    expected = np.log([1.02, 0.9, 0.5]) / rest_points.DT
    np.testing.assert_allclose(exponents, expected, rtol=1e-6)


def test_neuron_stays_at_its_rest_point_and_leaves_it_by_the_multipliers():
    V, W = rest_point()
    kick = 1e-4
    kicks = kick * np.array([[0, 0], [1, 0], [0, 1]])
    t = [0.0, rest_points.DT]
    V_after, W_after = simulate(V + kicks[:, 0], W + kicks[:, 1], t)
    after = np.stack([V_after[1], W_after[1]])  # a column for each kick
    np.testing.assert_allclose(after[:, 0], [V, W], atol=1e-9)
    jacobian = (after[:, 1:] - after[:, :1]) / kick
    multipliers = np.sort(np.linalg.eigvals(jacobian))
    found = np.sort(rest_points.neuron_multipliers(V))
    np.testing.assert_allclose(found, multipliers, rtol=1e-3)


@pytest.fixture
def generator():
    model = load_checkpoint(rest_points.SHIPPED / "autoregressiveGRU.pth")
    return model.double().requires_grad_(False)


@pytest.fixture
def row_of_the_page():
    page = (TOP / "docs" / "inside.md").read_text().replace("−", "-")
    (row,) = re.findall(r"^\| the shipped generator \|.*", page, re.M)
    return row


def test_shipped_generator_has_the_rest_point_of_the_page(generator, row_of_the_page):
    step = rest_points.close_loop(generator)
    starts = rest_points.held_states(generator, num_starts=5)
    (point,) = rest_points.find_rest_points(step, starts)
    first, second = rest_points.multipliers_at(step, point)[:2]
    assert first.conj() == second  # a spiral
    shown = f"{first.real:.2f} ± {abs(first.imag):.2f}i"
    assert f"| {point[0]:.3f}: {shown} |" in row_of_the_page


def test_shipped_generator_has_the_exponents_of_the_page(generator, row_of_the_page):
    step = rest_points.close_loop(generator)
    (start,) = rest_points.held_states(generator, num_starts=1)
    exponents = rest_points.lyapunov_exponents(step, start)
    shown = ", ".join(f"{exponent:z.3f}" for exponent in exponents)  # z: no -0.000
    assert f"| {shown} |" in row_of_the_page


# ---- how far back slopes reach ----


def test_reach_is_that_of_each_network_and_of_an_untrained_one(
    monkeypatch, tmp_path, capsys
):
    neurons = FitzhughNagumo(4, 400, duration=160.0, seed=0)
    monkeypatch.setattr(reach, "FitzhughNagumo", lambda *_, **__: neurons)
    drawn = []
    monkeypatch.setattr(reach, "save_figure", lambda *data: drawn.append(data))
    torch.manual_seed(1)
    networks = {}
    for name in ("plain", "leaky"):
        networks[name] = CELLS[name](1, 5, 1, residual=True)
        save_checkpoint(tmp_path / f"{name}.pth", networks[name])
    paths = [str(tmp_path / f"{name}.pth") for name in networks]
    reach.main([*paths, f"--out_dir={tmp_path}"])
    ((path, _, reaches),) = drawn
    assert path == tmp_path / "reach.png"
    torch.manual_seed(0)  # the script's
    samples = record(neurons, 0.1)
    said = capsys.readouterr().out
    for cell, network in networks.items():
        before, after = reaches[cell.title()]
        expected = gradient_through_time(network, samples)
        np.testing.assert_allclose(after, expected, rtol=1e-4)
        assert before != after
        for steps in (5, 50, 250):
            line = f"{cell.title():12}{steps:4} steps back: {before[steps]:.0e} before"
            assert line in said


# ---- arrows ----

# whom each file may import, of ours; a script all but other scripts
MAY_IMPORT = {
    "datasets": set(),
    "backstage.files": set(),
    "backstage.optimiser": set(),
    "backstage.weights": set(),
    "backstage.kernels": {"backstage.weights"},
    "backstage.recurrence": {"backstage.weights"},
    "backstage.fast": {
        "backstage.kernels",
        "backstage.recurrence",
        "backstage.weights",
    },
    "models": {"backstage.fast"},
    "cells": {"models"},
    "observers": {"datasets"},
    "free_running": {"datasets"},
    "recording": {"datasets"},
    "backstage.checkpoints": {"backstage.files", "cells"},
    "backstage.plumbing": {"backstage.fast", "backstage.files", "datasets"},
    "backstage.pictures": {"backstage.files", "datasets"},
    "backstage.training": {"backstage.checkpoints", "backstage.plumbing"},
}
MODULES = {path.stem: path for path in TOP.glob("*.py")}
for path in (TOP / "backstage").glob("[!_]*.py"):
    MODULES[f"backstage.{path.stem}"] = path


def imports(nodes):
    """The modules that are imported in parts of a file, wherever in them."""
    found = set()
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Import):
                found |= {alias.name for alias in part.names}
            if isinstance(part, ast.ImportFrom):
                found.add(part.module)
                found |= {f"{part.module}.{alias.name}" for alias in part.names}
    return found


def parts_of(name):
    return ast.parse(MODULES[name].read_text()).body


@pytest.mark.parametrize("name", MODULES)
def test_arrows_run_one_way(name):
    if name == "gru_autoregression":
        allowed = {*MAY_IMPORT, "gru_autoregression_training"}  # for --retrain
    elif name.startswith("gru_") or name == "sample_and_hold":
        allowed = set(MAY_IMPORT)
    else:
        allowed = MAY_IMPORT[name]
    assert imports(parts_of(name)) & MODULES.keys() <= allowed


def test_networks_know_tensors_alone():
    """No flag, plot, file or voltage."""
    for name in ("models", "cells", "backstage.weights", "backstage.recurrence"):
        others = imports(parts_of(name)) - MODULES.keys()
        packages = {other.split(".")[0] for other in others}
        assert packages <= {"backstage", "math", "models", "torch", "typing"}, name


def test_triton_is_asked_for_only_if_it_is_needed():
    at_once = []
    for part in parts_of("backstage.fast"):
        if not isinstance(part, ast.FunctionDef):
            at_once.append(part)
    assert "backstage.kernels" not in imports(at_once)
