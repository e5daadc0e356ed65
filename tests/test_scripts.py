"""The scripts, run as a student runs them, with tiny sizes; and who gets which error."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import plumbing
from models import GRU, load_checkpoint, save_checkpoint

TOP = Path(__file__).resolve().parents[1]
TINY = {
    "gru_regression_scratch": "--num_epochs 2 --num_train 4 --num_test 2 --num_samples 100 --duration 40 --n_hidden 4",
    "gru_autoregression": "--retrain --num_epochs_one_step 1 --num_epochs 2 --updates_per_epoch 2 --num_train 4 "
    "--num_test 2 --num_samples 128 --duration 100 --first_horizon 10 --horizon 20 --test_duration 300 --n_hidden 4",
    "gru_classification_scratch": "--num_epochs 2 --num_train 4 --num_test 8 --n_hidden 4 --duration 40 --dt 1",
}
IN_THE_TABLE = {  # metrics, and how the table shows them
    "gru_regression_scratch": dict.fromkeys(["gru_early_mse", "gru_late_mse", "ideal_late_mse"], ".2e"),
    "gru_autoregression": {"period_error": ".0e", "amplitude_error": ".0e", "periods_in_phase": ".1f"},
    "gru_classification_scratch": dict.fromkeys(["accuracy", "ideal_accuracy", "features_accuracy"], ".4f"),
}
DATA = {  # the seed of each data set, of --seed 5, and whether its neurons start anywhere
    "gru_regression_scratch": {(20, True), (21, True), (22, True)},
    "gru_autoregression": {(20, True), (21, True), (22, True), (23, False)},
    "gru_classification_scratch": {(20, None), (21, None), (22, None)},
}
PICTURES = {
    "gru_regression_scratch": {"neuron.png", "fitzhugh_nagumo_regression.gif", "regression_losses.png"}
    | {"regression_memory.png", "regression_reach.png"},
    "gru_autoregression": {"autoGRU.gif", "phase_portrait.png", "gates.png", "autoregression_losses.png"},
    "gru_classification_scratch": {
        f"{name}.png" for name in ("classification", "classification_losses", "classification_accuracy")
    }
    | {"classification.gif", "cfmat.png"},
}


def save_short_gif(path, frames, *data, **options):
    plumbing.save_gif(path, [frames[0], frames[-1]], *data, **options | {"fps": 1})


@pytest.fixture
def shell(capsys, monkeypatch):
    """Run a script in this process; return its exit status and what it said."""

    def run_script(stem, flags):
        script = importlib.import_module(stem)
        monkeypatch.setattr(sys, "argv", [f"{stem}.py"])
        monkeypatch.setattr(script.parser, "prog", f"{stem}.py")
        monkeypatch.setattr(script, "save_gif", save_short_gif)
        with pytest.raises(SystemExit) as stopped:
            plumbing.run(lambda: script.main(flags.split()))
        return stopped.value.code, *capsys.readouterr()

    return run_script


@pytest.mark.parametrize("stem", TINY)
def test_run_writes_and_says_what_it_should_and_its_seed_gives_the_same_bits_again(stem, shell, tmp_path, monkeypatch):
    script, results, made = importlib.import_module(stem), [], set()
    (name,) = {"FitzhughNagumo", "FitzhughNagumoClassification"} & set(vars(script))
    dataset = getattr(script, name)

    def make(*sizes, **settings):
        made.add((settings["seed"], settings.get("anywhere")))
        return dataset(*sizes, **settings)

    monkeypatch.setattr(script, name, make)
    for out_dir, flags in ((tmp_path / "a" / "b", ""), (tmp_path / "c", "--no-train_visualization")):
        status, stdout, stderr = shell(stem, f"{TINY[stem]} --seed 5 {flags} --out_dir {out_dir}")
        assert (status, stderr) == (0, "")
        expected = {f"{stem}.pth", f"{stem}_metrics.json"} | (set() if flags else PICTURES[stem])
        assert {path.name for path in out_dir.iterdir()} == expected
        wrote = {line.removeprefix("wrote ") for line in stdout.splitlines() if line.startswith("wrote ")}
        assert wrote == {str(path) for path in out_dir.iterdir()}
        metrics = json.loads((out_dir / f"{stem}_metrics.json").read_text())
        assert metrics.pop("flags")["n_hidden"] == 4
        assert metrics.pop("train_seconds") > 0
        assert metrics["interrupted"] is False
        for name, form in IN_THE_TABLE[stem].items():
            assert f"{metrics[name]:{form}}" in stdout, name
        results.append((metrics, (out_dir / f"{stem}.pth").read_bytes()))
    assert results[0] == results[1]
    assert (made, torch.initial_seed()) == (DATA[stem], 5)
    assert load_checkpoint(out_dir / f"{stem}.pth").info["dt"] > 0
    for name in PICTURES[stem]:
        with Image.open(tmp_path / "a" / "b" / name) as picture:
            picture.load()
            assert (getattr(picture, "n_frames", 1) > 1) == name.endswith(".gif")
            assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 10  # something is drawn


EVERY_SCRIPT = {
    "--n_hidden 0": "--n_hidden: '0': expected a number above 0",
    "--n_hidden 1.5": "--n_hidden: invalid",
    "--init_lr nan": "--init_lr: 'nan': expected a number above 0",
    "--num_epochs many": "--num_epochs: invalid",
    "--num_epoch 3": "unrecognized arguments: --num_epoch 3",
    "--train_visualization False": "--no-flag",
    "--device tpu": "--device: invalid choice: 'tpu'",
    "--seed -1": "--seed",
    f"--out_dir {__file__}/below": f"--out_dir {__file__}/below: Not a directory",
}
ONE_SCRIPT = {
    "gru_regression_scratch --window 4": "--window",
    "gru_regression_scratch --num_train 100000 --num_samples 100000": "100,000 traces of 100,000 samples",
    "gru_classification_scratch --task easy": "--task: invalid choice: 'easy'",
    "gru_autoregression --n_hidden 16": "--n_hidden has no effect without --retrain",
    "gru_autoregression --untrained --horizon 5": "--horizon has no effect",
    "gru_autoregression --untrained --retrain": "not allowed with",
    "gru_autoregression --retrain --horizon 500": "--num_samples: expected at least --warm_up + --horizon",
}


@pytest.mark.parametrize("command", [f"{stem} {flags}" for stem in TINY for flags in EVERY_SCRIPT] + list(ONE_SCRIPT))
def test_wrong_flag_is_one_line_and_status_2(command, shell, tmp_path):
    stem, flags = command.split(maxsplit=1)
    out_dir = "" if "--out_dir" in flags else f"--out_dir {tmp_path / 'out'}"
    status, stdout, stderr = shell(stem, f"{flags} {out_dir}")
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith(f"{stem}.py: error: ")
    assert (ONE_SCRIPT[command] if command in ONE_SCRIPT else EVERY_SCRIPT[flags]) in stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("stem", TINY)
def test_script_runs_on_a_gpu(stem, shell, tmp_path):
    status, _, error = shell(stem, f"{TINY[stem]} --device cuda --no-train_visualization --out_dir {tmp_path}")
    assert (status, error) == (0, "")


@pytest.mark.parametrize("kind", ["missing", "damaged", "of another task"])
def test_checkpoint_that_is_none_is_one_line_and_status_2(kind, shell, tmp_path):
    path, model = tmp_path / "model.pth", GRU(1, 4, 2 if kind == "of another task" else 1)
    if kind != "missing":
        save_checkpoint(path, model)
    if kind == "damaged":
        content = bytearray(path.read_bytes())
        content[content.index(model.W_hh.detach().numpy().tobytes())] ^= 1
        path.write_bytes(content)
    status, stdout, stderr = shell("gru_autoregression", f"--checkpoint {path} --out_dir {tmp_path}")
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert f"checkpoint {path}" in stderr


def test_divergence_is_one_line_and_status_1_and_leaves_the_older_model(shell, tmp_path):
    stem = "gru_regression_scratch"
    (tmp_path / f"{stem}.pth").write_bytes(b"older")
    status, _, stderr = shell(stem, f"{TINY[stem]} --init_lr 1e9 --out_dir {tmp_path}")
    assert (status, stderr.count("\n")) == (1, 1)
    assert "diverged" in stderr
    assert "learning rate" in stderr
    assert (tmp_path / f"{stem}.pth").read_bytes() == b"older"
    assert not (tmp_path / f"{stem}_metrics.json").exists()


def test_error_in_code_that_a_student_edits_keeps_its_place(shell, tmp_path, monkeypatch):
    stem = "gru_regression_scratch"

    def planted(*args):
        return np.zeros((2, 199)) + np.zeros((2, 200))

    monkeypatch.setattr(importlib.import_module(stem), "evaluate_model", planted)
    with pytest.raises(ValueError, match=r"shapes \(2,199\) \(2,200\)") as error:  # Python shows it: status 1
        shell(stem, f"{TINY[stem]} --no-train_visualization --out_dir {tmp_path}")
    assert [entry.name for entry in error.traceback][-2:] == ["main", "planted"]


def start(stem, flags, cwd, **variables):
    """Start a script in a process of its own, from the folder `cwd`."""
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | variables
    command = [sys.executable, str(TOP / f"{stem}.py"), *TINY[stem].split(), *flags.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def wait_for(path, process):
    end = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


def test_ctrl_c_elsewhere_and_without_a_display_evaluates_draws_and_saves_the_best_model_so_far(tmp_path):
    stem, out_dir = "gru_regression_scratch", tmp_path / "outputs"
    process = start(stem, "--num_epochs 100000", tmp_path, DISPLAY=":987")  # set, but nobody is there
    wait_for(out_dir / f"{stem}_partial.pth", process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stderr == "\nstopping after this epoch; once more ends at once\n"
    assert "\r" not in stdout
    assert {path.name for path in out_dir.iterdir()} == {f"{stem}.pth", f"{stem}_metrics.json", *PICTURES[stem]}
    assert load_checkpoint(out_dir / f"{stem}.pth").num_hiddens == 4
    assert json.loads((out_dir / f"{stem}_metrics.json").read_text())["interrupted"] is True


def test_killed_run_leaves_a_partial_file_that_loads(tmp_path):
    stem = "gru_classification_scratch"
    process = start(stem, "--num_epochs 100000", tmp_path)
    wait_for(tmp_path / "outputs" / f"{stem}_partial.pth", process)
    process.kill()
    process.communicate(timeout=60)
    assert load_checkpoint(tmp_path / "outputs" / f"{stem}_partial.pth").num_hiddens == 4
    assert not (tmp_path / "outputs" / f"{stem}.pth").exists()


def test_reader_of_a_pipe_that_has_had_enough_sees_no_traceback(tmp_path):
    with start("gru_regression_scratch", "--num_epochs 1000 --no-train_visualization", tmp_path) as process:
        process.stdout.readline()
        process.stdout.close()  # as head -1 does
        assert process.stderr.read() == ""
    assert process.returncode == 1
