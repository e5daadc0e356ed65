"""The back room: following a training, the live window, files; and which module may know which."""

import plumbing

import ast
import json
import math
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from running import SCRIPTS, TOP

import gru_autoregression
import gru_classification_scratch
import gru_regression_scratch
from datasets import FitzhughNagumo, FitzhughNagumoClassification
from models import GRU, load_checkpoint, save_checkpoint

# ---- following a training ----


def fake_training(model, reports, end=None):
    """Train by writing the epoch's number into the readout's bias; at the end raise, where that is asked for."""
    for epoch, report in enumerate(reports, 1):
        model.fc.bias.data.fill_(epoch)
        yield report
    if end:
        raise end


@pytest.mark.parametrize(("best_by", "best"), [("loss", 2), ("other", 3), ("rare", 2), ("never", 4)])
def test_follow_leaves_the_model_and_its_file_with_the_best_weights(best_by, best, tmp_path, capsys):
    model, path = GRU(1, 3, 1), tmp_path / "model.pth"
    reports = [{"loss": loss, "other": other} for loss, other in ((4.0, 9.0), (1.0, 8.0), (2.0, 5.0), (3.0, 6.0))]
    reports[1]["rare"], reports[2]["rare"] = 1.0, 2.0
    history, interrupted = plumbing.follow(fake_training(model, reports), 4, model, path, best_by=best_by, dt=0.4)
    assert [report | {"seconds": 0} for report in history] == [report | {"seconds": 0} for report in reports]
    assert not interrupted
    assert model.fc.bias.item() == best
    assert load_checkpoint(path).fc.bias.item() == best
    assert load_checkpoint(path).info == {"dt": 0.4}
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]
    lines = capsys.readouterr().out.splitlines()
    assert sum("epoch" in line and "loss" in line for line in lines) == 4
    assert lines[-1] == f"wrote {path}"


def test_in_a_terminal_a_bar_takes_the_place_of_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    model = GRU(1, 3, 1)
    plumbing.follow(fake_training(model, [{"loss": 1.5}] * 4), 4, model, tmp_path / "model.pth")
    output = capsys.readouterr()
    assert output.err == ""
    assert "100%" in output.out
    assert "4/4" in output.out
    assert "loss=1.5" in output.out
    assert "epoch   4" not in output.out


def test_no_more_than_fifty_lines(tmp_path, capsys):
    model = GRU(1, 3, 1)
    plumbing.follow(fake_training(model, [{"loss": 1.0}] * 175), 175, model, tmp_path / "model.pth")
    lines = [line for line in capsys.readouterr().out.splitlines() if "epoch" in line]
    assert 25 < len(lines) <= 50
    assert "epoch 175" in lines[-1]


def test_interrupted_after_two_epochs(tmp_path):
    model = GRU(1, 3, 1)
    training = fake_training(model, [{"loss": 1.0}, {"loss": 2.0}], KeyboardInterrupt())
    history, interrupted = plumbing.follow(training, 9, model, tmp_path / "model.pth")
    assert len(history) == 2
    assert interrupted
    assert load_checkpoint(tmp_path / "model.pth").fc.bias.item() == 1


def test_interrupted_before_the_first_epoch_is_through(tmp_path):
    model, path = GRU(1, 3, 1), tmp_path / "model.pth"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        plumbing.follow(fake_training(model, [], KeyboardInterrupt()), 9, model, path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"older"]


def test_interrupted_while_the_first_report_is_kept(tmp_path, monkeypatch):
    model, path = GRU(1, 3, 1), tmp_path / "model.pth"

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(plumbing, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plumbing.follow(fake_training(model, [{"loss": 1.0}]), 9, model, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"loss": math.nan}, "epoch 2: the loss is nan: training diverged; try a smaller --init_lr"),
        ({"loss": 1.0, "view_loss": 8e18}, r"epoch 2: the view_loss is 8e\+18: training diverged"),
        ({"loss": 100.0, "stage": "free running", "lr_flag": "--free_lr"}, "free running diverged.*smaller --free_lr"),
    ],
)
def test_divergence_names_the_flag_and_leaves_the_older_file(report, message, tmp_path):
    model, path = GRU(1, 3, 1), tmp_path / "model.pth"
    save_checkpoint(path, GRU(1, 5, 1))
    with pytest.raises(FloatingPointError, match=message):
        plumbing.follow(fake_training(model, [{"loss": 1.0}, report]), 9, model, path)
    assert load_checkpoint(path).num_hiddens == 5


# ---- a notebook's loop ----


def notebooks():
    common = {"num_epochs": 2, "batch_size": 4, "init_lr": 1e-2, "max_grad_norm": 0.1, "window": 20}
    generator = {"num_epochs_one_step": 1, "updates_per_epoch": 1, "warm_up": 10, "horizon": 20, "first_horizon": 10}
    generator |= {"free_lr": 1e-3, "next_step_weight": 1.0, "input_noise": 0.1}
    neurons = FitzhughNagumo(4, 60, duration=40.0, seed=0)
    classes = FitzhughNagumoClassification(4, 40, 16.0, noise_std=0.1, seed=0)
    return {
        gru_regression_scratch: (GRU(1, 4, 1, residual=True), neurons, neurons, common),
        gru_autoregression: (GRU(1, 4, 1, residual=True), neurons, neurons, common | generator),
        gru_classification_scratch: (GRU(1, 4, 2), classes, classes, common | {"loss_from": 0.0}),
    }


@pytest.mark.parametrize("task", notebooks())
def test_a_plain_loop_over_train_model(task):
    model, train_set, view, flags = notebooks()[task]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    training = task.train_model(model, train_set, view, SimpleNamespace(**flags))
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    reports = list(training)
    assert len(reports) == flags["num_epochs"] + flags.get("num_epochs_one_step", 0)
    assert all(0 < report["loss"] < 100 and 0 < report["view_loss"] < 100 for report in reports)
    assert not torch.equal(before["W_hh"], model.W_hh)


# ---- the live window ----


def test_a_window_is_redrawn_within_its_share_of_the_time_only():
    drawn = []
    window = plumbing.LiveWindow(lambda figure: drawn.append, share=0.1)
    window.redraw("without a display")
    assert not drawn
    window.has_window = True  # Agg can be redrawn, too; nobody sees it
    window.redraw("at once")
    window.redraw("too early")
    assert drawn == ["at once"]
    assert window.spent > 0
    window.start -= 100 * window.spent
    window.redraw("later")
    assert drawn == ["at once", "later"]
    window.close()
    window.redraw("closed")
    assert drawn == ["at once", "later"]


@pytest.fixture
def _sigint():
    """Handle Ctrl-C as a script does: a worker of pytest-xdist has a handler of its own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint")
def test_ctrl_c_while_a_window_redraws_is_not_lost():
    def swallow(shown):
        try:  # as a toolkit does with what its callbacks raise
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("the toolkit saw it")
        drawn.append(shown)

    drawn = []
    window = plumbing.LiveWindow(lambda figure: swallow)
    window.has_window = True
    with pytest.raises(KeyboardInterrupt):
        window.redraw("epoch 1")
    assert drawn == ["epoch 1"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    window.close()


# ---- the end of a run ----


def raising(error):
    raise error


@pytest.mark.parametrize(
    ("main", "status", "message"),
    [
        (lambda: {"interrupted": False}, 0, ""),
        (lambda: {"interrupted": True}, 130, ""),
        (lambda: raising(ValueError("--window = 3: expected 2")), 2, "--window = 3: expected 2"),
        (lambda: raising(OSError(28, "No space left on device", "x")), 1, "No space left on device: 'x'"),
        (lambda: raising(FloatingPointError("diverged")), 1, "diverged"),
        (lambda: torch.empty(10**15), 1, "not enough memory"),
        (lambda: np.empty(10**16), 1, "not enough memory"),
        (lambda: raising(KeyboardInterrupt()), 130, ""),
    ],
)
@pytest.mark.usefixtures("_sigint")
def test_how_a_run_ends(main, status, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        plumbing.run(main)
    assert stopped.value.code == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == bool(message)


@pytest.mark.usefixtures("_sigint")
def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="shapes"):
        plumbing.run(lambda: raising(RuntimeError("shapes")))


# ---- files ----


def test_metrics_are_json_even_where_they_are_no_numbers(tmp_path):
    args = SimpleNamespace(out_dir=tmp_path)
    plumbing.finish(tmp_path / "metrics.json", {"mse": math.inf, "r2": math.nan, "n": 3, "x": 0.5}, args, start=0.0)
    text = (tmp_path / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert (metrics["mse"], metrics["r2"], metrics["n"], metrics["x"]) == (None, None, 3, 0.5)


# ---- which module knows which ----


def imports(name):
    """The modules that a module of ours imports anywhere, and whether it imports a name `*`."""
    nodes = list(ast.walk(ast.parse((TOP / f"{name}.py").read_text())))
    found = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    return found


def test_arrows_run_one_way():
    ours, standard = {"models", "datasets", "plumbing", *SCRIPTS}, sys.stdlib_module_names
    assert imports("models") - standard == {"torch"}
    assert imports("datasets") - standard == {"numpy", "scipy", "torch"}
    assert not (imports("models") | imports("datasets")) & {"argparse", "sys", "signal"}
    assert imports("plumbing") & ours == {"models"}
    for script in SCRIPTS:
        assert imports(script) & ours == {"models", "datasets", "plumbing"}


def test_no_function_is_longer_than_a_screen():
    for path in [*TOP.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 45, f"{path.name}: {node.name}"


def test_models_speaks_of_no_neuron_and_no_flag():
    text = Path(TOP / "models.py").read_text()
    assert "voltage" not in text.lower()
    assert not re.search(r"--[a-z]", text)
