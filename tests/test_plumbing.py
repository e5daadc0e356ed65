"""What surrounds a training and a script: progress, Ctrl-C, exit status, metrics."""

import io
import json
import math
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backstage import plumbing
from backstage.checkpoints import load_checkpoint, save_checkpoint
from backstage.files import CannotWriteError
from backstage.training import Training
from datasets import TooLargeError
from models import GRU

TOP = Path(__file__).resolve().parents[1]


# ---- what surrounds the loop of a training ----


def losses(*values):
    return [{"loss": value} for value in values]


def train(training, reports, interrupts=()):
    """Write each epoch's number into the readout's bias, and report it.

    interrupts: the epochs in which Ctrl-C is pressed.
    """
    for epoch in training:
        torch.nn.init.constant_(training.model.fc.bias, epoch)
        for pressed_in in interrupts:
            if pressed_in == epoch:
                signal.raise_signal(signal.SIGINT)
        training.report(**reports[epoch - 1])


def epoch_of(network):
    return network.fc.bias.item()


@pytest.mark.parametrize(
    ("best_by", "best"), [("loss", 2), ("other", 3), ("rare", 2), ("never", 4)]
)
def test_the_model_and_its_file_end_with_the_best_weights(
    best_by, best, tmp_path, capsys
):
    model = GRU(1, 3, 1)
    path = tmp_path / "new" / "model.pth"
    trace = torch.zeros(2)
    reports = [
        {"loss": 4.0, "other": 9.0, "trace": trace},
        {"loss": 1.0, "other": 8.0, "trace": trace, "rare": 1.0},
        {"loss": 2.0, "other": 5.0, "trace": trace, "rare": 2.0},
        {"loss": 3.0, "other": 6.0, "trace": trace},
    ]
    training = Training(model, 4, path, best_by=best_by, info={"dt": 0.4})
    train(training, reports)
    assert epoch_of(model) == 4
    assert epoch_of(load_checkpoint(path.with_name("model_partial.pth"))) == best
    assert training.finish() is training.history
    for kept in (model, load_checkpoint(path)):
        assert epoch_of(kept) == best
    assert load_checkpoint(path).info == {"dt": 0.4}
    assert list(path.parent.iterdir()) == [path]
    seconds = [report.pop("seconds") for report in training.history]
    assert 0 <= seconds[0] <= seconds[3] < 60
    assert training.history == reports
    assert not training.interrupted

    said = capsys.readouterr().out
    lines = said.splitlines()
    for epoch, line in enumerate(lines[:4], 1):
        assert line.startswith(f"epoch {epoch:3d}  loss=")
        assert "trace" not in line
        assert "seconds" not in line
    assert ("note: no epoch has reported 'never'" in said) == (best_by == "never")
    assert lines[-1] == f"wrote {path}"


def test_whole_numbers_and_those_of_other_libraries_are_shown_too(tmp_path, capsys):
    training = Training(GRU(1, 3, 1), 1, tmp_path / "model.pth")
    values = {"loss": torch.tensor(1.5), "spikes": 12, "share": np.float32(0.25)}
    train(training, [values | {"stage": "warm"}])
    line = capsys.readouterr().out
    for shown in ("loss=1.5", "spikes=12", "share=0.25", "stage=warm"):
        assert shown in line


def test_in_a_terminal_a_bar_takes_the_place_of_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    train(Training(GRU(1, 3, 1), 4, tmp_path / "model.pth"), losses(1.5, 1.5, 1.5, 1.5))
    output = capsys.readouterr()
    assert output.err == ""
    for part in ("100%", "4/4", "loss=1.5"):
        assert part in output.out
    assert "epoch   4" not in output.out


def test_ctrl_c_ends_a_training_after_the_epoch_and_keeps_the_best(tmp_path, capsys):
    model = GRU(1, 3, 1)
    shown = []
    training = Training(
        model,
        4,
        tmp_path / "model.pth",
        window=lambda history: shown.append(len(history)),
    )
    try:
        train(training, losses(3.0, 1.0, 2.0, 0.5), interrupts=[3])
    except KeyboardInterrupt:
        pytest.fail("the epoch did not come to its end")
    training.finish()
    assert shown == [1, 2, 3]
    assert training.interrupted
    assert epoch_of(model) == epoch_of(load_checkpoint(tmp_path / "model.pth")) == 2
    said = capsys.readouterr().err
    assert said == "\nstopping after this epoch; once more ends at once\n"


def test_second_ctrl_c_ends_a_run_at_once_and_leaves_the_best_and_the_older(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        train(Training(GRU(1, 3, 1), 2, path), losses(3.0, 2.0), interrupts=[2, 2])
    assert path.read_bytes() == b"older"
    assert epoch_of(load_checkpoint(tmp_path / "model_partial.pth")) == 1


def finish(training):
    train(training, losses(3.0, 2.0))


def interrupt(training):
    train(training, losses(3.0, 2.0), interrupts=[1])


def diverge(training):
    with pytest.raises(plumbing.ShellError):
        train(training, losses(math.nan))


def fail(training):
    with pytest.raises(IndexError):
        train(training, reports=[])


def leave(training):
    for _ in training:
        break


def go_on_beside_another(training):
    other = Training(training.model, 2, training.path)
    for _ in zip(training, other):
        training.report(loss=1.0)
        other.report(loss=1.0)


@pytest.mark.parametrize(
    "end", [finish, interrupt, diverge, fail, leave, go_on_beside_another]
)
def test_ctrl_c_is_pythons_again_however_a_training_ends(end, tmp_path):
    end(Training(GRU(1, 3, 1), 2, tmp_path / "model.pth"))
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_job_in_the_background_goes_on_ignoring_ctrl_c_afterwards(tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does before it
    training = Training(GRU(1, 3, 1), 2, tmp_path / "model.pth")
    train(training, losses(3.0, 2.0), interrupts=[1, 1])
    assert training.interrupted
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_training_in_a_thread_leaves_ctrl_c_to_the_main_one(tmp_path):
    model = GRU(1, 3, 1)
    training = Training(model, 3, tmp_path / "model.pth")
    handlers = []
    errors = []

    def work():
        try:
            for epoch in training:
                handlers.append(signal.getsignal(signal.SIGINT))
                torch.nn.init.constant_(model.fc.bias, epoch)
                training.report(loss=float(epoch))
            training.finish()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert handlers == [signal.default_int_handler] * 3
    assert epoch_of(load_checkpoint(tmp_path / "model.pth")) == 1


def test_two_trainings_in_one_folder_keep_each_its_own_best(tmp_path):
    one = Training(GRU(1, 3, 1), 2, tmp_path / "model.pth")
    other = Training(GRU(1, 5, 1), 3, tmp_path / "model.pth")
    train(one, losses(2.0, 1.0))
    train(other, losses(1.0, 3.0, 2.0))
    one.finish()
    assert load_checkpoint(one.path).num_hiddens == 3
    other.finish()
    assert load_checkpoint(one.path).num_hiddens == 5
    assert (epoch_of(one.model), epoch_of(other.model)) == (2, 1)


@pytest.mark.parametrize(
    ("loss_limit", "report"),
    [
        (math.inf, {"loss": math.nan}),
        (math.inf, {"loss": math.inf}),
        (math.inf, {"loss": torch.tensor(math.nan)}),
        (math.inf, {"loss": np.float32(math.nan)}),
        (100.0, {"loss": 1.0, "view_loss": 8e18}),
        (100.0, {"loss": 101.0}),
    ],
)
def test_divergence_names_the_learning_rate_and_leaves_the_older_file(
    loss_limit, report, tmp_path
):
    path = tmp_path / "model.pth"
    save_checkpoint(path, GRU(1, 5, 1))
    training = Training(GRU(1, 3, 1), 9, path, loss_limit=loss_limit)
    message = "diverged in epoch 2.* learning rate"
    with pytest.raises(plumbing.ShellError, match=message) as error:
        train(training, [{"loss": 1.0}, report])
    assert error.value.status == 1
    assert load_checkpoint(path).num_hiddens == 5


def test_a_loss_in_units_of_its_own_has_not_diverged(tmp_path):
    training = Training(GRU(1, 3, 1), 2, tmp_path / "model.pth")
    train(training, losses(1e4, -1e6))
    assert training.best_score == -1e6


def test_a_training_of_which_nothing_is_known_cannot_be_finished(tmp_path):
    training = Training(GRU(1, 3, 1), 2, tmp_path / "model.pth")
    leave(training)
    with pytest.raises(ValueError, match="no epoch has reported"):
        training.finish()
    assert list(tmp_path.iterdir()) == []


# ---- how a run ends ----


def end_of(main):
    with pytest.raises((SystemExit, KeyboardInterrupt)) as stopped:
        plumbing.run(main)
    assert stopped.type is SystemExit
    return stopped.value.code


def raising(error):
    def main():
        raise error

    return main


ENDS = [
    (lambda: {"interrupted": False}, 0, ""),
    (lambda: {"interrupted": True}, 130, ""),
    (raising(KeyboardInterrupt()), 130, ""),
    (raising(plumbing.ShellError(1, "cannot")), 1, "error: cannot\n"),
    (raising(plumbing.ShellError(2, "wrong")), 2, "error: wrong\n"),
    (raising(TooLargeError("too large")), 2, "error: too large\n"),
    (raising(CannotWriteError("disk full")), 1, "error: disk full\n"),
]


@pytest.mark.parametrize(("main", "status", "message"), ENDS)
def test_run_ends_with_a_status_and_at_most_one_line(
    main, status, message, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["folder/script.py"])
    assert end_of(main) == status
    assert capsys.readouterr().err == (f"script.py: {message}" if message else "")


@pytest.mark.parametrize("error", [ValueError("bug"), OSError("bug"), KeyError("bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match="bug") as raised:
        plumbing.run(raising(error))
    assert [entry.name for entry in raised.traceback][-2:] == ["run", "main"]


class NotebookStream:
    """What a notebook puts in the place of stdout: it can be written to."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_in_a_notebook_stdout_is_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", NotebookStream())
    training = Training(GRU(1, 3, 1), 1, tmp_path / "model.pth")

    def main():
        train(training, losses(1.5))
        return {"interrupted": training.interrupted}

    assert end_of(main) == 0
    assert "loss=1.5" in sys.stdout.text


def test_a_terminal_without_greek_letters_shows_something_else(monkeypatch):
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii"))

    def main():
        print("ΔV")
        return {"interrupted": False}

    assert end_of(main) == 0
    assert screen.getvalue() == b"?V\n"


def test_reader_of_a_pipe_that_has_had_enough_sees_no_traceback(monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)  # as head does
    with open(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)

        def main():
            print("a line")
            return {"interrupted": False}

        assert end_of(main) == 1
        print("what comes while Python ends")
    assert capsys.readouterr().err == ""


def test_metrics_are_strict_json_with_the_flags(tmp_path, capsys):
    metrics = {"mse": 0.5, "threshold": math.nan, "best": np.float64(np.inf), "n": 3}
    flags = SimpleNamespace(seed=1, out_dir=Path("out"), cell="gru")
    path = tmp_path / "metrics.json"
    plumbing.write_metrics(path, metrics, flags)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "mse": 0.5,
        "threshold": None,
        "best": None,
        "n": 3,
        "flags": {"seed": 1, "out_dir": "out", "cell": "gru"},
    }
    assert capsys.readouterr().out == f"wrote {path}\n"


def test_a_gpu_that_is_not_there_is_a_wrong_flag(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(plumbing.ShellError, match="--device cuda") as error:
        plumbing.set_up(0, "cuda", tmp_path)
    assert error.value.status == 2
    assert plumbing.set_up(0, "auto", tmp_path) == "cpu"
