"""The benchmark and the search for rest points; and who may import whom."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import expm

import gru_driven_neuron
from backstage.checkpoints import load_checkpoint, save_checkpoint
from backstage.recurrence import Recurrence
from cells import CELLS
from datasets import NEURON, DrivenNeurons, FitzhughNagumo, rest_point, simulate
from gru_driven_neuron import DT, REST, WARM_UP, random_currents
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
gains = load("gains")
sys.path.insert(0, str(TOP / "extras"))
latent_ode = load("latent_ode")

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
    voltages = torch.linspace(-2, 2, 5, dtype=torch.float64)
    starts = rest_points.held_states(generator, voltages)
    (point,) = rest_points.find_rest_points(step, starts)
    first, second = rest_points.multipliers_at(step, point)[:2]
    assert first.conj() == second  # a spiral
    shown = f"{first.real:.2f} ± {abs(first.imag):.2f}i"
    assert f"| {point[0]:.3f}: {shown} |" in row_of_the_page


def test_shipped_generator_has_the_exponents_of_the_page(generator, row_of_the_page):
    step = rest_points.close_loop(generator)
    voltage = torch.tensor([-2.0], dtype=torch.float64)
    (start,) = rest_points.held_states(generator, voltage)
    exponents = rest_points.lyapunov_exponents(step, start)
    shown = ", ".join(f"{exponent:z.3f}" for exponent in exponents)  # z: no -0.000
    assert f"| {shown} |" in row_of_the_page


def test_clamped_neuron_is_let_go_from_the_green_line():
    V, W = rest_points.follow_neuron()
    np.testing.assert_allclose(W[0], (V[0] + NEURON.a) / NEURON.b)
    slow = NEURON.eps * (V + NEURON.a - NEURON.b * W)
    change = np.diff(W, axis=0) / DT
    np.testing.assert_allclose(change, (slow[1:] + slow[:-1]) / 2, atol=5e-3)


@pytest.mark.parametrize("num_inputs", [1, 2])
def test_clamped_network_goes_on_as_its_free_run(num_inputs):
    torch.manual_seed(0)
    model = GRU(num_inputs, 6, 1, residual=True).double().requires_grad_(False)
    V, W = rest_points.follow_network(model)
    x = torch.full((rest_points.HELD, 1, num_inputs), NEURON.I, dtype=torch.float64)
    x[..., 0] = rest_points.DRAWN_CLAMPS[2]
    states, readouts = model.forward_by_steps(x)
    H = states[-1]
    expected_states = [H]
    expected = [x[-1, 0, 0], readouts[-1, 0, 0]]
    for _ in range(5):
        following = x[-1].clone()
        following[0, 0] = expected[-1]
        H, Y = model.single_step(following, H)
        expected_states.append(H)
        expected.append(Y[0, 0])
    np.testing.assert_allclose(V[:7, 2], torch.stack(expected), atol=1e-12)
    read = rest_points.fit_line(model).predict(torch.cat(expected_states))
    np.testing.assert_allclose(W[:6, 2], read, atol=1e-9)


# ---- a model of the system ----


class TrueField(torch.nn.Module):
    """The neuron's own equations."""

    def forward(self, s, I):
        V, W = s.split(1, dim=-1)
        dV = V - V**3 / 3 - W + I
        dW = NEURON.eps * (V + NEURON.a - NEURON.b * W)
        return torch.cat([dV, dW], dim=-1)


@pytest.fixture
def true_ode():
    """A latent ODE with the neuron's equations, told where the neuron is."""
    torch.manual_seed(0)
    model = latent_ode.LatentODE("free", 4)
    model.field = TrueField()
    return model


@pytest.mark.parametrize(("steps_per_sample", "tolerance"), [(1, 2e-2), (2, 2e-3)])
def test_ode_with_the_neurons_equations_runs_as_the_neuron(
    true_ode, monkeypatch, steps_per_sample, tolerance
):
    I = random_currents(num=2, T=300)
    V, W = simulate(*REST, DT * np.arange(len(I)), I)
    last = np.stack([V, W], axis=-1)[WARM_UP - 1]
    start = torch.tensor(last, dtype=torch.float32)
    monkeypatch.setattr(true_ode, "encode", lambda warm_up: start)
    answered = latent_ode.answer(true_ode, I, steps_per_sample)
    for values, true in zip(answered, (V, W)):
        np.testing.assert_allclose(values, true[WARM_UP:], atol=tolerance)


def test_inside_of_the_neurons_equations_is_the_neurons(true_ode):
    rounds = 313  # samples: two
    found, exponents, spike = latent_ode.look_inside(true_ode, num_samples=rounds)
    ((V, multipliers),) = found.items()
    V_rest, _ = rest_point()
    assert pytest.approx(V_rest, abs=1e-3) == V
    expected = rest_points.neuron_multipliers(V)
    torch.testing.assert_close(multipliers.real, expected, atol=1e-3, rtol=0)
    expected = rest_points.neuron_exponents()
    torch.testing.assert_close(exponents, expected, atol=2e-2, rtol=0)
    clamped_at = latent_ode.CLAMPED_AT
    assert abs(spike - rest_points.neuron_spike_after_clamp(clamped_at)) <= 1


@pytest.mark.parametrize("form", ["free", "structured"])
def test_ode_learns(form, monkeypatch):
    monkeypatch.setattr(latent_ode, "HORIZON", latent_ode.FIRST_HORIZON)
    args = latent_ode.parser.parse_args(["--num_updates=40", "--batch_size=16"])
    x = DrivenNeurons(16, 200, "jumps", duration=200 * DT, seed=0).data_x

    def train():
        torch.manual_seed(0)
        model = latent_ode.LatentODE(form, 8)
        return latent_ode.train_model(model, x, args)

    losses = train()
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert train() == losses  # the seed fixes all


def test_free_runs_grow_from_the_first_horizon_to_the_last(monkeypatch):
    args = latent_ode.parser.parse_args(["--num_updates=20", "--batch_size=2"])
    x = DrivenNeurons(4, 200, "jumps", duration=200 * DT, seed=0).data_x
    model = latent_ode.LatentODE("free", 4)
    horizons = []
    run = model.run

    def noted(s, currents):
        horizons.append(len(currents))
        return run(s, currents)

    monkeypatch.setattr(model, "run", noted)
    latent_ode.train_model(model, x, args)
    assert horizons == sorted(horizons)
    assert horizons[0] == latent_ode.FIRST_HORIZON
    assert 0.7 * latent_ode.HORIZON < horizons[-1] <= latent_ode.HORIZON


def test_encoder_corrects_the_last_sample():
    model = latent_ode.LatentODE("free", 4)
    torch.nn.init.zeros_(model.encoder.fc.weight)
    model.encoder.fc.bias.data = torch.tensor([0.25, -1.0])
    x = torch.randn(5, 3, 2)
    V, w = model.encode(x).unbind(dim=-1)
    torch.testing.assert_close(V, x[-1, :, 0] + 0.25)
    torch.testing.assert_close(w, torch.full((3,), -1.0))


def test_ode_is_asked_all_that_the_pages_say(tmp_path, monkeypatch):
    monkeypatch.setattr(gru_driven_neuron, "LEVELS", np.array([0.0, 0.5]))
    monkeypatch.setattr(gru_driven_neuron, "PULSES", np.array([0.1, 3.0]))
    monkeypatch.setattr(gru_driven_neuron, "PHASES", np.array([0.0, 0.3, 0.5]))
    few = random_currents(num=2, T=250)
    monkeypatch.setattr(gru_driven_neuron, "random_currents", lambda **_: few)
    monkeypatch.setattr(latent_ode, "random_currents", lambda: few)
    monkeypatch.setattr(
        latent_ode, "look_inside", lambda model: ({}, torch.zeros(2), 1)
    )
    flags = ["--num_updates=1", "--batch_size=4", f"--out_dir={tmp_path}"]
    latent_ode.main(flags)
    metrics = json.loads((tmp_path / "latent_ode_metrics.json").read_text())
    for name in ("ode_random_current", "half_step_period_error", "r2_of_W_from_w"):
        assert name in metrics


@pytest.mark.parametrize("extra", [gains, rest_points, reach])
def test_a_file_that_is_no_network_is_one_line_and_status_2(extra, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        extra.main([str(tmp_path / "none.pth"), f"--out_dir={tmp_path}"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none.pth" in line


# ---- the gain of a current ----


def test_gains_of_the_neuron_are_those_of_its_linear_equations():
    """At rest: a push over one sample, and what is left of it k samples later."""
    V, _ = REST
    jacobian = np.array([[1 - V**2, -1], [NEURON.eps, -NEURON.eps * NEURON.b]])
    over_a_sample = expm(DT * jacobian)
    push = np.linalg.solve(jacobian, over_a_sample - np.eye(2))[:, 0]
    expected = []
    for _ in range(gains.NUM_LAGS):
        expected.append(push[0])
        push = over_a_sample @ push
    np.testing.assert_allclose(gains.neuron_gains(), expected, atol=1e-4)


def test_gains_of_a_network_are_differences_of_its_predictions():
    torch.manual_seed(0)
    model = GRU(2, 8, 1, residual=True)
    of_V, of_I = gains.gains(model)
    x = torch.zeros(gains.SETTLING, 1, 2)
    x[..., 0] = REST[0]
    for column, by_lag in enumerate((of_V, of_I)):
        for lag in (0, 1, 4):
            pushed = x.clone()
            pushed[-1 - lag, 0, column] += 1e-2
            change = (model.predict(pushed)[-1] - model.predict(x)[-1]).item()
            assert by_lag[lag] == pytest.approx(change / 1e-2, abs=2e-3)


def test_steps_of_the_current_make_the_neuron_fire_from_where_its_equations_say():
    """Beyond the Hopf bifurcation it cannot rest; a little below it, it can."""
    I = gains.step_of_current([0.0, 0.5], 300)
    assert I.shape == (gains.STEP_AT + 300, 2)
    np.testing.assert_array_equal(I[gains.STEP_AT - 1 : gains.STEP_AT + 1, 1], [0, 0.5])
    V_hopf = -np.sqrt(1 - NEURON.b * NEURON.eps)  # the trace of the Jacobian is 0
    I_hopf = (V_hopf + NEURON.a) / NEURON.b - V_hopf + V_hopf**3 / 3
    level = gains.fires_from(gains.neuron)
    assert I_hopf - 0.05 < level < I_hopf
    assert np.isnan(gains.fires_from(np.zeros_like))


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
    "backstage.sweeps": {"datasets"},
    "backstage.integrate_and_fire": {"backstage.sweeps"},
    "recording": {"backstage.integrate_and_fire", "backstage.sweeps", "datasets"},
    "backstage.checkpoints": {"backstage.files", "cells"},
    "backstage.plumbing": {"backstage.fast", "backstage.files", "datasets"},
    "backstage.pictures": {"backstage.files", "datasets"},
    "backstage.training": {"backstage.checkpoints", "backstage.plumbing"},
    "backstage.play": {"backstage.pictures", "backstage.training", "datasets"},
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
