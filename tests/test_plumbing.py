"""The back room: following a training, the window, how a run ends, and which module may know which."""

import itertools
import math
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pictures
import plumbing
from models import GRU, load_checkpoint, save_checkpoint

TOP = Path(__file__).resolve().parents[1]


def fake_training(model, reports, interrupts=()):
    """Train by writing the epoch's number into the readout's bias; press Ctrl-C in each epoch of `interrupts`."""
    for epoch, report in enumerate(reports, 1):
        model.fc.bias.data.fill_(epoch)
        for _ in range(list(interrupts).count(epoch)):
            signal.raise_signal(signal.SIGINT)
        yield report


@pytest.mark.parametrize(("best_by", "best"), [("loss", 2), ("other", 3), ("rare", 2), ("never", 4)])
def test_follow_leaves_the_model_and_its_file_with_the_best_weights(best_by, best, tmp_path, capsys):
    model, path = GRU(1, 3, 1), tmp_path / "model.pth"
    reports = [{"loss": loss, "other": other} for loss, other in ((4.0, 9.0), (1.0, 8.0), (2.0, 5.0), (3.0, 6.0))]
    reports[1]["rare"], reports[2]["rare"], reports[3]["trace"] = 1.0, 2.0, torch.zeros(2)
    history, interrupted = plumbing.follow(fake_training(model, reports), 4, model, path, best_by=best_by, dt=0.4)
    assert [{**report, "seconds": 0} for report in history] == [{**report, "seconds": 0} for report in reports]
    assert 0 <= history[0]["seconds"] <= history[3]["seconds"] < 60
    assert not interrupted
    for kept in (model, load_checkpoint(path)):
        assert kept.fc.bias.item() == best
    assert load_checkpoint(path).info == {"dt": 0.4}
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]
    lines = capsys.readouterr().out.splitlines()
    assert [f"epoch {epoch:3d}" in line and "loss=" in line for epoch, line in enumerate(lines[:-1], 1)] == [True] * 4
    assert "trace" not in "".join(lines)
    assert lines[-1] == f"wrote {path}"


def test_in_a_terminal_a_bar_takes_the_place_of_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    model = GRU(1, 3, 1)
    plumbing.follow(fake_training(model, [{"loss": 1.5}] * 4), 4, model, tmp_path / "model.pth")
    output = capsys.readouterr()
    assert output.err == ""
    assert all(part in output.out for part in ("100%", "4/4", "loss=1.5"))
    assert "epoch   4" not in output.out


def test_ctrl_c_ends_training_after_the_epoch_and_keeps_the_best(tmp_path):
    model, path, shown = GRU(1, 3, 1), tmp_path / "model.pth", []
    training = fake_training(model, [{"loss": loss} for loss in (3.0, 1.0, 2.0, 0.5)], interrupts=[3])
    history, interrupted = plumbing.follow(training, 4, model, path, lambda history: shown.append(len(history)))
    assert shown == [1, 2, 3]
    assert (len(history), interrupted) == (3, True)
    assert load_checkpoint(path).fc.bias.item() == model.fc.bias.item() == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # so that another one ends the evaluation


def test_second_ctrl_c_ends_the_run_at_once(tmp_path):
    model, path = GRU(1, 3, 1), tmp_path / "model.pth"
    path.write_bytes(b"older")
    training = fake_training(model, [{"loss": 3.0}, {"loss": 2.0}], interrupts=[2, 2])
    with pytest.raises(KeyboardInterrupt):
        plumbing.follow(training, 2, model, path)
    assert path.read_bytes() == b"older"
    assert load_checkpoint(tmp_path / "model_partial.pth").fc.bias.item() == 1


@pytest.mark.parametrize("report", [{"loss": math.nan}, {"loss": 1.0, "view_loss": 8e18}, {"loss": 100.0}])
def test_divergence_names_the_learning_rate_and_leaves_the_older_file(report, tmp_path):
    model, path = GRU(1, 3, 1), tmp_path / "model.pth"
    save_checkpoint(path, GRU(1, 5, 1))
    with pytest.raises(plumbing.ShellError, match="diverged in epoch 2.* learning rate") as error:
        plumbing.follow(fake_training(model, [{"loss": 1.0}, report]), 9, model, path)
    assert error.value.args[0] == 1
    assert load_checkpoint(path).num_hiddens == 5


def test_window_is_redrawn_within_its_share_of_the_time_until_it_is_closed(monkeypatch):
    assert pictures.live_window(lambda figure: pytest.fail("there is no display")) is None
    clock, shown = itertools.count(), []  # a second passes whenever somebody looks at it
    monkeypatch.setattr(pictures.plt, "get_backend", lambda: "TkAgg")
    monkeypatch.setattr(pictures.plt, "pause", lambda seconds: None)
    monkeypatch.setattr(pictures.time, "perf_counter", lambda: next(clock))
    redraw = pictures.live_window(lambda figure: shown.append, share=0.1)
    for second in range(30):
        redraw(second)
    assert shown[0] == 0
    assert len(shown) == 4  # of thirty seconds and those for drawing
    pictures.plt.close("all")
    for second in range(30):
        redraw(second)
    assert len(shown) == 4


def raising(error):
    raise error


@pytest.mark.parametrize(
    ("main", "status", "message"),
    [
        (lambda: {"interrupted": False}, 0, ""),
        (lambda: {"interrupted": True}, 130, ""),
        (lambda: raising(KeyboardInterrupt()), 130, ""),
        (lambda: raising(plumbing.ShellError(1, "cannot")), 1, "error: cannot\n"),
        (lambda: raising(plumbing.ShellError(2, "wrong")), 2, "error: wrong\n"),
        (lambda: raising(plumbing.TooLargeError("too large")), 2, "error: too large\n"),
    ],
)
def test_run_ends_with_a_status_and_at_most_one_line(main, status, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        plumbing.run(main)
    assert stopped.value.code == status
    output = capsys.readouterr().err
    assert output.endswith(message)
    assert output.count("\n") == bool(message)


WRITERS = {
    "model": lambda path: plumbing.follow(fake_training(model := GRU(1, 3, 1), [{"loss": 1.0}]), 1, model, path),
    "figure": lambda path: plumbing.save_figure(path.with_suffix(".png"), lambda figure: None),
    "metrics": lambda path: plumbing.write_metrics(path, {"mse": 0.5}, SimpleNamespace()),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_full_disk_is_told_in_one_line_and_leaves_the_older_file(kind, tmp_path, monkeypatch):
    WRITERS[kind](tmp_path / "result")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 1

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(plumbing.ShellError, match="cannot be written: No space left on device") as error:
        WRITERS[kind](tmp_path / "result")
    assert error.value.args[0] == 1
    assert "result" in error.value.args[1]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_arrows_run_one_way():
    allowed = {"kernels": set(), "models": {"kernels"}, "datasets": set(), "pictures": {"datasets"}}
    allowed |= {"plumbing": {"models", "datasets"}, "observers": {"datasets"}}
    files = {path.stem: path.read_text() for path in TOP.glob("*.py")}
    for name, text in files.items():
        found = set(re.findall(r"^ *(?:from|import) (\w+)", text, re.M)) & set(files)
        assert found <= allowed.get(name, {"models", "datasets", "observers", "pictures", "plumbing"}), name
