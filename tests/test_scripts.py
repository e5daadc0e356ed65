"""The scripts, run as a student runs them: from the shell, with tiny sizes, without a display."""

import importlib
import json
import math
import os
import tempfile

import pytest
import torch
from PIL import Image
from running import SCRIPTS, run_forked, run_script

from models import load_checkpoint

NO_DISPLAY = {
    "gru_regression_scratch": {"DISPLAY": ":987"},  # set, but nobody is there
    "gru_autoregression": {"MPLBACKEND": "TkAgg"},
    "gru_classification_scratch": {"DISPLAY": ":987", "MPLBACKEND": "TkAgg"},
}
IN_THE_TABLE = {  # metrics, and how the table shows them
    "gru_regression_scratch": {
        f"{name}{column}_mse": ".2e"
        for name in ("test", "persistence", "autoregression", "cubic", "quintic")
        for column in ("", "_half_dt")
    },
    "gru_autoregression": {"period_error": ".1e", "original_amplitude_error": ".1e", "w_r2": ".5f", "test_mse": ".1e"},
    "gru_classification_scratch": {"accuracy": ".4f", "ideal_accuracy": ".4f", "features_accuracy": ".4f"},
}


@pytest.fixture(scope="module", params=SCRIPTS)
def finished(request, tmp_path_factory):
    """Every script once, with its pictures, where it looks for a display in vain."""
    stem, out_dir = request.param, tmp_path_factory.mktemp(request.param)
    return stem, out_dir, run_script(stem, "--seed 5", out_dir, env=os.environ | NO_DISPLAY[stem])


@pytest.fixture(scope="module")
def finished_again(finished, tmp_path_factory):
    """The same run once more, without pictures."""
    stem, _, _ = finished
    out_dir = tmp_path_factory.mktemp(f"{stem}_again")
    return stem, out_dir, run_forked(stem, "--seed 5 --no-train_visualization", out_dir)


def test_runs_quietly_and_names_what_it_wrote(finished):
    stem, out_dir, result = finished
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "\r" not in result.stdout
    assert len(result.stdout) < 5000
    named = {line.removeprefix("wrote ") for line in result.stdout.splitlines() if line.startswith("wrote ")}
    assert named == {str(path) for path in out_dir.iterdir()}


def test_metrics_and_model_are_written(finished):
    stem, out_dir, _ = finished
    metrics = json.loads((out_dir / f"{stem}_metrics.json").read_text())
    assert metrics["seconds"] >= metrics["train_seconds"] > 0
    assert metrics["flags"]["num_epochs"] == 2
    assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))
    assert load_checkpoint(out_dir / f"{stem}.pth").num_hiddens == 4


def test_the_same_seed_gives_the_same_bits(finished, finished_again):
    results = []
    for stem, out_dir, result in (finished, finished_again):
        metrics = json.loads((out_dir / f"{stem}_metrics.json").read_text())
        losses = [line for line in result.stdout.splitlines() if "loss" in line]
        kept = {name: value for name, value in metrics.items() if "seconds" not in name and name != "flags"}
        results.append((losses, kept, (out_dir / f"{stem}.pth").read_bytes()))
    assert len(results[0][0]) >= 2
    assert results[0] == results[1]


def test_without_pictures_there_are_none(finished_again):
    stem, out_dir, result = finished_again
    assert (result.returncode, result.stderr) == (0, "")
    assert {path.name for path in out_dir.iterdir()} == {f"{stem}.pth", f"{stem}_metrics.json"}


def test_the_metrics_hold_what_the_table_says(finished):
    stem, out_dir, result = finished
    metrics = json.loads((out_dir / f"{stem}_metrics.json").read_text())
    for name, form in IN_THE_TABLE[stem].items():
        assert f"{metrics[name]:{form}}" in result.stdout, name


def test_gif_has_its_frames(finished):
    _, out_dir, _ = finished
    (path,) = out_dir.glob("*.gif")
    with Image.open(path) as gif:
        assert gif.n_frames >= 2
        assert gif.size == ((1000, 450) if path.name == "autoGRU.gif" else (800, 400))


COMMON = "seed device num_epochs batch_size init_lr n_hidden train_visualization out_dir"


@pytest.mark.parametrize("stem", SCRIPTS)
def test_help_lists_the_flags(stem, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser_of(stem).parse_args(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in COMMON.split())


def parser_of(stem):
    return importlib.import_module(stem).parser


def number_flags(stem):
    """The names of the flags that take a number."""
    return [action.dest for action in parser_of(stem)._actions if getattr(action.type, "__name__", "") == "parse"]


@pytest.mark.parametrize("stem", SCRIPTS)
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "1e999", "many", "", "9" * 30, "1,5"])
def test_every_number_refuses_what_is_none(stem, value, capsys):
    assert len(number_flags(stem)) >= 9
    for name in number_flags(stem):
        refused(stem, [f"--{name}={value}"], f"--{name}: {value!r}: expected a", capsys)


@pytest.mark.parametrize("stem", SCRIPTS)
def test_zero_is_refused_where_it_means_nothing(stem, capsys):
    may_be_zero = {"seed", "noise_std", "input_noise", "loss_from", "num_epochs_one_step", "next_step_weight"}
    for name in set(number_flags(stem)) - may_be_zero:
        if (stem, name) != ("gru_autoregression", "num_epochs"):
            refused(stem, [f"--{name}", "0"], f"--{name}: '0': expected a", capsys)


@pytest.mark.parametrize("stem", SCRIPTS)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "tpu"], "--device: 'tpu': expected auto, cpu or cuda"),
        (["--num_epoch", "3"], "unrecognized arguments: --num_epoch"),
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--n_hidden", "1.5"], "--n_hidden: '1.5': expected a whole number"),
        (["--n_hidden"], "--n_hidden: expected one argument"),
        (["--out_dir", __file__], f"--out_dir: '{__file__}': expected a folder"),
        (["--out_dir", f"{__file__}/below"], "expected a folder"),
        (["--out_dir", ""], "--out_dir: '': expected a folder"),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(stem, flags, message, capsys):
    refused(stem, flags, message, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
@pytest.mark.parametrize("stem", SCRIPTS)
def test_cuda_is_refused_where_there_is_none(stem, capsys):
    refused(stem, ["--device", "cuda"], "--device: 'cuda': expected a machine with a CUDA device", capsys)


def test_sizes_out_of_range_name_their_flags(tmp_path):
    flags = ["--num_train", "100000", "--num_samples", "100000", "--out_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="N = 100000, T = 100000: expected.*set by --num_train, "):
        importlib.import_module("gru_regression_scratch").main(flags)


@pytest.mark.parametrize("stem", SCRIPTS)
def test_a_link_to_nowhere_is_no_folder(stem, tmp_path, capsys):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused(stem, ["--out_dir", str(tmp_path / "link")], "expected a folder", capsys)


@pytest.mark.parametrize("flag", ["--n_hidden 16", "--num_epochs 500", "--init_lr 0.5"])
def test_flags_of_a_training_that_does_not_take_place_are_refused(flag):
    with pytest.raises(ValueError, match=f"{flag.split()[0]}: has no effect.*--retrain"):
        importlib.import_module("gru_autoregression").main(flag.split())


def test_a_folder_without_the_right_to_write_is_noticed_before_any_work(tmp_path, monkeypatch, capsys):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", f"{dir}/tmpabc")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=rf"Permission denied: '{tmp_path}'"):
        importlib.import_module("gru_regression_scratch").main(["--out_dir", str(tmp_path)])
    assert capsys.readouterr().out == ""


def refused(stem, flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser_of(stem).parse_args(flags)
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert message in output.err


@pytest.mark.parametrize(
    ("stem", "flags"),
    [
        ("gru_regression_scratch", "--window 101"),
        ("gru_autoregression", "--warm_up 120"),
        ("gru_autoregression", "--horizon 200"),
        ("gru_classification_scratch", "--task easy"),
    ],
)
def test_bad_input_stops_a_script_before_any_work(stem, flags, tmp_path):
    result = run_forked(stem, flags, tmp_path / "out")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert flags.split()[0] in result.stderr
    assert not (tmp_path / "out").exists()
