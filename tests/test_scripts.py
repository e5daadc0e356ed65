"""The scripts, as a student runs them, with tiny sizes; and who gets which error."""

import functools
import importlib
import io
import json
import os
import pickle
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import gru_autoregression as autoregression
import gru_autoregression_training as generation
import gru_classification_scratch as classification
import gru_driven_neuron as driven
import gru_regression_scratch as regression
import observers
import sample_and_hold
from backstage import pictures, plumbing
from backstage.checkpoints import load_checkpoint, save_checkpoint
from cells import CELLS
from models import GRU

TOP = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "gru_regression_scratch": regression,
    "gru_autoregression_training": generation,
    "gru_autoregression": autoregression,
    "gru_classification_scratch": classification,
    "gru_driven_neuron": driven,
    "sample_and_hold": sample_and_hold,
}
TINY = {
    "gru_regression_scratch": "--seed 5 --num_epochs 2 --num_train 4 --num_test 2 "
    "--n_hidden 4 --num_samples 60 --duration 24",
    "gru_autoregression_training": "--seed 5 --num_epochs_one_step 1 --num_epochs 2 "
    "--updates_per_epoch 1 --num_train 4 --n_hidden 4 --num_samples 64 --duration 320 "
    "--warm_up 10 --first_horizon 10 --horizon 20",
    "gru_autoregression": "--seed 5 --num_test 2 --test_duration 400 --dt 2 "
    "--warm_up 10",
    "gru_classification_scratch": "--seed 5 --num_epochs 2 --num_train 4 --num_test 8 "
    "--n_hidden 4 --duration 40 --dt 1",
    "gru_driven_neuron": "--seed 5 --num_epochs 2 --num_train 4 --n_hidden 4 "
    "--num_samples 60 --currents constant",
    "sample_and_hold": "--seed 5 --cell gru --num_epochs 2 --num_train 4 --num_test 2 "
    "--num_samples 60 --n_hidden 4",
}
MODELS = {stem: f"{stem}.pth" for stem in SCRIPTS}
MODELS["sample_and_hold"] = "sample_and_hold_gru.pth"  # one for each cell
TRAINING = [stem for stem in SCRIPTS if stem != "gru_autoregression"]
PICTURES = {
    "gru_regression_scratch": {
        "neuron.png",
        "fitzhugh_nagumo_regression.gif",
        "regression_losses.png",
        "regression_memory.png",
        "regression_reach.png",
    },
    "gru_autoregression_training": {"autoregression_losses.png"},
    "gru_autoregression": {"autoGRU.gif", "phase_portrait.png", "gates.png"},
    "gru_classification_scratch": {
        "classification.png",
        "classification_losses.png",
        "classification_accuracy.png",
        "classification.gif",
        "cfmat.png",
    },
    "gru_driven_neuron": {"driven_losses.png", "driven.png", "driven.gif"},
    "sample_and_hold": {"sample_and_hold.png", "sample_and_hold_gates.png"},
}
IN_THE_TABLE = {  # metrics, and how the table shows them
    "gru_regression_scratch": {"trained_early_mse": ".2e", "ideal_late_mse": ".2e"},
    "gru_autoregression_training": {},
    "gru_autoregression": {
        "trained_periods_in_phase": ".1f",
        "polynomial_period_error": ".0e",
    },
    "gru_classification_scratch": {"ideal_accuracy": ".4f", "features_accuracy": ".4f"},
    "gru_driven_neuron": {"neuron_fires_from": ".3f", "jumps_random_current": ".3f"},
    "sample_and_hold": {"gru_mse": ".2g", "constant_mse": ".2g", "Z_between": ".2f"},
}


def remembering(simulate):
    """Simulate every neuron once: the runs of these tests have many in common."""
    known = {}

    @functools.wraps(simulate)
    def remembered(*args, **parameters):
        key = pickle.dumps((args, parameters))
        if key not in known:
            known[key] = simulate(*args, **parameters)
        V, W = known[key]
        return V.copy(), W.copy()

    return remembered


simulate = remembering(datasets.simulate)


def save_short_gif(path, frames, *data, fps=8):
    pictures.save_gif(path, [frames[0], frames[-1]], *data, fps=1)


def short_random_currents(random_currents, num=2, T=100, **parameters):
    return random_currents(num, min(T, 100), **parameters)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Make what has no flag for its size small: simulations, observers, experiments."""
    for module in (datasets, observers, pictures, driven):
        monkeypatch.setattr(module, "simulate", simulate)
    for script in SCRIPTS.values():
        if hasattr(script, "save_gif"):
            monkeypatch.setattr(script, "save_gif", save_short_gif)
    few = functools.partial(observers.ideal_prediction, num_starts=200)
    monkeypatch.setattr(regression, "ideal_prediction", few)
    few = functools.partial(observers.clean_windows, num_phases=10)
    monkeypatch.setattr(classification, "clean_windows", few)
    monkeypatch.setattr(autoregression, "NUM_FIT", 16)
    monkeypatch.setattr(autoregression, "FIT_SAMPLES", 64)

    few = functools.partial(short_random_currents, driven.random_currents)
    monkeypatch.setattr(driven, "random_currents", few)
    monkeypatch.setattr(driven, "LEVELS", np.array([0.0, 0.5]))
    monkeypatch.setattr(driven, "PULSES", np.array([0.1, 3.0]))
    monkeypatch.setattr(driven, "PHASES", np.array([0.0, 0.3, 0.5]))


class Ended(NamedTuple):
    """How a run ended, and what it said."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def shell(capsys, monkeypatch):
    """Run a script in this process, as if by a shell."""

    def run_script(stem, flags):
        script = SCRIPTS[stem]
        monkeypatch.setattr(sys, "argv", [f"{stem}.py"])
        monkeypatch.setattr(script.parser, "prog", f"{stem}.py")
        with pytest.raises(SystemExit) as stopped:
            plumbing.run(lambda: script.main(flags.split()))
        output = capsys.readouterr()
        return Ended(stopped.value.code, output.out, output.err)

    return run_script


def read_metrics(out_dir, stem):
    """What a run measured, as strict JSON."""
    text = (out_dir / f"{stem}_metrics.json").read_text()
    return json.loads(text, parse_constant=pytest.fail)


# ---- runs that go well ----


@pytest.mark.parametrize("stem", SCRIPTS)
def test_a_run_says_what_it_writes_and_its_seed_gives_the_same_bits_again(
    stem, shell, tmp_path
):
    first_dir = tmp_path / "a" / "b"  # made on the way
    second_dir = tmp_path / "c"
    runs = {first_dir: PICTURES[stem], second_dir: set()}
    flags = TINY[stem]
    written = {f"{stem}_metrics.json", MODELS[stem]}
    if stem == "gru_autoregression":
        torch.manual_seed(0)
        save_checkpoint(tmp_path / "model.pth", GRU(1, 4, 1, residual=True))
        flags += f" --checkpoint {tmp_path}/model.pth"
        written.remove(MODELS[stem])
    results = []
    for out_dir, drawn in runs.items():
        switch = "" if drawn else "--no-train_visualization"
        run = shell(stem, f"{flags} {switch} --out_dir {out_dir}")
        assert (run.status, run.stderr) == (0, "")
        assert torch.initial_seed() == 5
        assert {path.name for path in out_dir.iterdir()} == written | drawn
        for path in out_dir.iterdir():
            assert run.stdout.count(f"wrote {path}\n") == 1
        metrics = read_metrics(out_dir, stem)
        assert metrics.pop("flags")["seed"] == 5
        assert metrics["interrupted"] is False
        for name, form in IN_THE_TABLE[stem].items():
            assert f"{metrics[name]:{form}}" in run.stdout, name
        if stem in TRAINING:
            assert metrics.pop("train_seconds") > 0
            results.append((out_dir / MODELS[stem]).read_bytes())
        results.append(metrics)
    half = len(results) // 2
    assert results[:half] == results[half:]
    for name, value in metrics.items():
        is_number = value is None or isinstance(value, bool | int | float)
        assert is_number or name == "confusion_matrix", name
    for name in PICTURES[stem]:
        with Image.open(first_dir / name) as picture:
            picture.load()
            num_frames = getattr(picture, "n_frames", 1)
            assert (num_frames > 1) == name.endswith(".gif")
            colours = picture.convert("RGB").getcolors(maxcolors=2**24)
            assert len(colours) > 10  # something is drawn


@pytest.mark.parametrize(
    ("stem", "cell"),
    [
        ("gru_regression_scratch", "plain"),
        ("gru_regression_scratch", "leaky"),
        ("gru_regression_scratch", "update_gate"),
        ("gru_autoregression_training", "plain"),
        ("gru_classification_scratch", "update_gate"),
        ("gru_driven_neuron", "leaky"),
        ("sample_and_hold", "leaky"),
        ("sample_and_hold", "reset_after"),
    ],
)
def test_every_cell_is_trained_saved_and_judged(stem, cell, shell, tmp_path):
    flags = f"--no-train_visualization --out_dir {tmp_path}"
    run = shell(stem, f"{TINY[stem]} --cell {cell} {flags}")
    assert (run.status, run.stderr) == (0, "")
    model = load_checkpoint(tmp_path / MODELS[stem].replace("gru.pth", f"{cell}.pth"))
    assert type(model) is CELLS[cell]
    assert model.num_hiddens == 4
    assert model.info["dt"] > 0
    if stem == "gru_autoregression_training":
        flags += f" --checkpoint {tmp_path}/{stem}.pth"
        run = shell("gru_autoregression", f"{TINY['gru_autoregression']} {flags}")
        assert (run.status, run.stderr) == (0, "")


def test_retrain_judges_the_network_that_it_trains_by_its_own_flags(
    shell, tmp_path, monkeypatch
):
    trained = []

    def train(flags):
        args = generation.parse_flags(flags)
        trained.append(args)
        path = args.out_dir / "gru_autoregression_training.pth"
        save_checkpoint(path, CELLS[args.cell](1, 3, 1, residual=True))
        return {"best_period_error": 0.5, "interrupted": True}

    monkeypatch.setattr(generation, "main", train)
    flags = "--retrain --cell leaky --seed 7 --device cpu --no-train_visualization"
    flags += " --dt 0.78125 --warm_up 50"  # the training's own
    run = shell(
        "gru_autoregression",
        f"{TINY['gru_autoregression']} {flags} --out_dir {tmp_path}",
    )
    assert (run.status, run.stderr) == (130, "")
    assert "a trained network of 3 hidden units" in run.stdout
    metrics = read_metrics(tmp_path, "gru_autoregression")
    assert (metrics["best_period_error"], metrics["interrupted"]) == (0.5, True)
    (args,) = trained
    assert (args.seed, args.cell, args.device) == (7, "leaky", "cpu")
    assert (args.out_dir, args.train_visualization) == (tmp_path, False)


def test_gates_are_drawn_only_of_a_network_that_has_both(shell, tmp_path):
    stem = "gru_autoregression"
    path = tmp_path / "model.pth"
    save_checkpoint(path, CELLS["leaky"](1, 4, 1, residual=True))
    out_dir = tmp_path / "out"
    run = shell(stem, f"{TINY[stem]} --checkpoint {path} --out_dir {out_dir}")
    assert (run.status, run.stderr) == (0, "")
    drawn = {path.name for path in out_dir.iterdir()} - {f"{stem}_metrics.json"}
    assert drawn == PICTURES[stem] - {"gates.png"}


def test_five_thousand_short_traces_are_traces(shell, tmp_path):
    stem = "gru_regression_scratch"
    flags = "--num_train 5200 --num_samples 50 --duration 20 --num_epochs 1"
    flags += " --num_test 2 --n_hidden 2 --batch_size 5200 --no-train_visualization"
    run = shell(stem, f"{flags} --out_dir {tmp_path}")
    assert (run.status, run.stderr) == (0, "")


def test_time_between_samples_is_what_was_asked_for(shell, tmp_path):
    stem = "gru_classification_scratch"
    flags = f"{TINY[stem]} --dt 30 --duration 100 --no-train_visualization"
    run = shell(stem, f"{flags} --out_dir {tmp_path}")
    assert (run.status, run.stderr) == (0, "")
    assert "dt = 30" in run.stdout
    assert load_checkpoint(tmp_path / f"{stem}.pth").info["dt"] == 30


@pytest.mark.parametrize("stem", SCRIPTS)
def test_help_shows_what_the_script_says_of_itself_and_all_flags(stem, shell):
    run = shell(stem, "--help")
    assert (run.status, run.stderr) == (0, "")
    assert SCRIPTS[stem].__doc__.splitlines()[0] in run.stdout
    for action in SCRIPTS[stem].parser._actions:
        assert action.option_strings[0] in run.stdout
        assert action.help


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("stem", TRAINING)
def test_script_runs_on_a_gpu(stem, shell, tmp_path):
    flags = f"--device cuda --no-train_visualization --out_dir {tmp_path}"
    run = shell(stem, f"{TINY[stem]} {flags}")
    assert (run.status, run.stderr) == (0, "")


# ---- notebooks ----


def test_main_runs_in_a_thread(tmp_path, monkeypatch):
    stem = "gru_regression_scratch"
    results = []

    def work():
        flags = [*TINY[stem].split(), f"--out_dir={tmp_path}"]
        results.append(regression.main(flags))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (metrics,) = results
    assert metrics["interrupted"] is False
    assert {path.name for path in tmp_path.iterdir()} >= PICTURES[stem]


def test_a_notebook_runs_a_script_by_its_name(tmp_path, monkeypatch):
    stem = "gru_regression_scratch"
    # so little noise that no ideal observer is asked: it would take a while
    flags = f"{TINY[stem]} --noise_std 0.005 --no-train_visualization"
    argv = [f"{stem}.py", *flags.split(), f"--out_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # no file, and no terminal
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOP / f"{stem}.py"), run_name="__main__")
    assert stopped.value.code == 0
    assert "epoch   2  loss=" in sys.stdout.getvalue()


# ---- what the user at the shell can mend: one line and status 2 ----

HINT = "a switch takes no value: --flag or --no-flag"
WRONG = [
    ("gru_autoregression", "--retrain --dt 1", "--dt, --warm_up: a network for others"),
    ("gru_regression_scratch", "--n_hidden 0", "--n_hidden: '0': expected a whole"),
    ("gru_classification_scratch", "--n_hidden 1.5", "--n_hidden: '1.5': expected a"),
    ("gru_driven_neuron", "--n_hidden 100000000", "--n_hidden: '100000000': expected"),
    ("gru_autoregression", "--untrained 100000000", "--untrained: '100000000': exp"),
    ("gru_regression_scratch", "--seed -1", "--seed: '-1': expected a whole number"),
    (
        "gru_autoregression",
        "--seed 99999999999999999999",
        "expected a whole number from 0 to 1073741823 (",
    ),
    ("gru_regression_scratch", "--noise_std nan", "--noise_std: 'nan': expected a"),
    ("gru_driven_neuron", "--noise_std -0.1", "--noise_std: '-0.1': expected a number"),
    ("gru_autoregression_training", "--num_epochs -5", "--num_epochs: '-5': expected"),
    ("gru_autoregression", "--warm_up 1", "--warm_up: expected at least 2 samples"),
    ("gru_regression_scratch", "--num_samples 8", "--num_samples: expected more than"),
    ("gru_autoregression_training", "--num_samples 8", "--num_samples: expected at"),
    ("gru_driven_neuron", "--num_samples 8", "--num_samples: expected more than 10"),
    ("gru_regression_scratch", "--window 9", "--window, --num_samples: expected more"),
    ("gru_classification_scratch", "--init_lr nan", "--init_lr: 'nan': expected a"),
    (
        "gru_classification_scratch",
        "--no-random_phase --pace_range 2",
        "--pace_range: ",
    ),
    ("gru_classification_scratch", "--duration 0.7", "--duration, --dt: expected at"),
    ("gru_autoregression", "--test_duration 299", "--test_duration: expected at least"),
    ("gru_regression_scratch", "--num_epoch 3", "unrecognized arguments: --num_epoch"),
    ("gru_regression_scratch", "--cell lstm", "--cell: invalid choice: 'lstm'"),
    ("gru_autoregression", "--cell leaky", "--cell has no effect without --retrain"),
    ("gru_autoregression", "--checkpoint x --retrain", "not allowed with argument"),
    ("gru_driven_neuron", "--train_visualization False", HINT),
    ("gru_driven_neuron", "--train_visualization=False", HINT),
    ("gru_regression_scratch", f"--out_dir {__file__}/x", "x: Not a directory"),
    (
        "gru_autoregression_training",
        "--num_epochs 0 --num_epochs_one_step 0",
        "expected at least one epoch",
    ),
    (
        "gru_regression_scratch",
        "--num_train 100000 --num_samples 100000",
        "100,000 traces of 100,000 samples",
    ),
    (
        "gru_classification_scratch",
        "--dt 1e-6",
        "2,048 traces of 100,000,000 samples",
    ),
    ("gru_autoregression", "--checkpoint none.pth", "none.pth: no such file"),
]


def says_what_is_wrong(run, stem, message):
    assert (run.status, run.stdout) == (2, "")
    assert run.stderr.startswith(f"{stem}.py: error: ")
    assert run.stderr.count("\n") == 1
    assert message in run.stderr


@pytest.mark.parametrize(("stem", "flags", "message"), WRONG)
def test_wrong_flag_is_one_line_and_status_2(stem, flags, message, shell, tmp_path):
    if "--out_dir" not in flags:
        flags += f" --out_dir {tmp_path}"
    says_what_is_wrong(shell(stem, flags), stem, message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--out_dir False --num_epochs x", "--num_epochs: 'x': expected a whole"),
        ("--train_visualisation False", "unrecognized arguments: --train_visualis"),
    ],
)
def test_hint_about_switches_is_for_switches_alone(flags, message, shell):
    run = shell("gru_driven_neuron", flags)
    says_what_is_wrong(run, "gru_driven_neuron", message)
    assert HINT not in run.stderr


NUMBERS = {
    plumbing.positive: "1e-320",  # its inverse is infinite
    plumbing.not_negative: "1e300",  # float32 cannot hold it
    plumbing.share: "1.1",
    plumbing.count: "0",
    plumbing.count_from_0: "0.5",
    plumbing.units: "0",
    plumbing.memory: "1.9",
    plumbing.at_least_1: "0.99",
    plumbing.seed: "0.5",
}


@pytest.mark.parametrize("stem", SCRIPTS)
def test_no_flag_takes_for_a_number_what_cannot_be_one(stem, shell):
    for action in SCRIPTS[stem].parser._actions:
        if action.type not in NUMBERS:
            continue
        (flag,) = action.option_strings
        wrong = ["many", "nan", "-1", "1e300", 10**20, NUMBERS[action.type]]
        for value in wrong:
            run = shell(stem, f"{flag} {value}")
            says_what_is_wrong(run, stem, f"{flag}: '{value}': expected a")


@pytest.mark.parametrize("sizes", [(1, 4, 2), (2, 4, 1)])
def test_checkpoint_of_another_task_is_a_wrong_flag(sizes, shell, tmp_path):
    path = tmp_path / "model.pth"
    save_checkpoint(path, GRU(*sizes))
    run = shell("gru_autoregression", f"--checkpoint {path} --out_dir {tmp_path}")
    message = f"checkpoint {path}: expected a network that predicts the next voltage"
    says_what_is_wrong(run, "gru_autoregression", message)


# ---- what the machine does ----


@pytest.mark.parametrize("stem", TRAINING)
def test_divergence_is_one_line_and_status_1_and_leaves_the_older_model(
    stem, shell, tmp_path
):
    (tmp_path / MODELS[stem]).write_bytes(b"older")
    flags = f"{TINY[stem]} --init_lr 1e8 --no-train_visualization"
    run = shell(stem, f"{flags} --out_dir {tmp_path}")
    assert (run.status, run.stderr.count("\n")) == (1, 1)
    assert "diverged in epoch" in run.stderr
    assert "learning rate" in run.stderr
    assert (tmp_path / MODELS[stem]).read_bytes() == b"older"
    assert not (tmp_path / f"{stem}_metrics.json").exists()


def start(stem, flags, cwd, **variables):
    """Start a script in a process of its own, from the folder `cwd`."""
    environment = {**os.environ, **variables}
    if "MPLBACKEND" not in variables:
        del environment["MPLBACKEND"]
    command = [sys.executable, str(TOP / f"{stem}.py"), *flags.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def wait_for(path, process):
    end = time.monotonic() + 100
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


def test_ctrl_c_beside_a_notebook_evaluates_draws_and_saves_the_best_so_far(tmp_path):
    stem = "gru_regression_scratch"
    out_dir = tmp_path / "outputs"
    flags = f"{TINY[stem]} --num_epochs 100000 --noise_std 0.005"
    # a notebook's, which need not be installed beside the script
    backend = "module://matplotlib_inline.backend_inline"
    process = start(stem, flags, tmp_path, MPLBACKEND=backend)
    partial = out_dir / f"{stem}_partial.pth"
    wait_for(partial, process)
    assert load_checkpoint(partial).num_hiddens == 4  # if it were killed now
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=200)
    assert stderr == "\nstopping after this epoch; once more ends at once\n"
    assert process.returncode == 130
    assert "\r" not in stdout  # no bar without a terminal
    files = {f"{stem}.pth", f"{stem}_metrics.json", *PICTURES[stem]}
    assert {path.name for path in out_dir.iterdir()} == files
    assert load_checkpoint(out_dir / f"{stem}.pth").num_hiddens == 4
    assert read_metrics(out_dir, stem)["interrupted"] is True


def test_every_script_is_in_these_tests():
    for path in (*TOP.glob("gru_*.py"), TOP / "sample_and_hold.py"):
        assert importlib.import_module(path.stem) is SCRIPTS[path.stem]
