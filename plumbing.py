"""The back room of the scripts: what every run needs and nobody has to read to learn about networks or neurons."""

import argparse
import copy
import json
import math
import os
import signal
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, MetavarTypeHelpFormatter, RawDescriptionHelpFormatter
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.animation import FuncAnimation
from matplotlib.figure import Figure
from tqdm import tqdm

from datasets import TooLargeError
from models import kernel_runs_on, replacing, save_checkpoint


class ShellError(Exception):
    """An exit status (2 for what the user can mend, 1 for what the machine does) and the one line to be printed."""


class Help(ArgumentDefaultsHelpFormatter, MetavarTypeHelpFormatter, RawDescriptionHelpFormatter):
    """A script's docstring as it stands, and every flag's type and default."""


class FlagParser(argparse.ArgumentParser):
    """argparse with a script's docstring as its help; a wrong flag is answered by one line, without the usage text."""

    def __init__(self, description):
        super().__init__(usage="%(prog)s [flags]", description=description, allow_abbrev=False, formatter_class=Help)

    def error(self, message):
        hint = "a switch takes no value: --flag or --no-flag" if "False" in message else "--help lists the flags"
        self.exit(2, f"{self.prog}: error: {message} ({hint})\n")


def positive(text, kind=float):
    if not 0 < kind(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return kind(text)


def count(text):
    return positive(text, int)


def set_up(args):
    """Begin a run: device, seed, style, and a folder for what it writes."""
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() and kernel_runs_on(torch.device("cuda")) else "cpu"
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ShellError(2, "--device cuda: expected a machine with a CUDA device")
    torch.set_num_threads(1)  # products this small lose more to a second thread than they win
    if args.seed < 0:
        raise ShellError(2, "--seed: expected a whole number from 0")
    torch.manual_seed(args.seed)
    plt.style.use(Path(__file__).with_name("tutorial.mplstyle"))  # one look for every figure
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShellError(2, f"--out_dir {args.out_dir}: {error.strerror}") from None


def run(main):
    """Run a script's main and end with an exit status; a bug keeps its traceback."""
    sys.stdout.reconfigure(errors="replace")  # for a stdout that knows no Δ
    try:
        status = 130 if main()["interrupted"] else 0
        sys.stdout.flush()  # a broken pipe shows here at the latest
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (ShellError, TooLargeError) as error:
        status, message = error.args if isinstance(error, ShellError) else (2, error)
        print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    sys.exit(status)


def follow(training, num_epochs, model, path, window=None, best_by="loss", **info):
    """Go through a training, epoch by epoch; leave the model with its best weights, and its file at `path`.

    training: a generator that yields a report (a dict) after every epoch; its numbers and strings are shown.
    best_by: the entry whose smallest value marks the best epoch; until a report has it, the latest epoch is the best.
    Ctrl-C ends the training after the epoch, a second one the run. A run that is killed leaves its `*_partial.pth`.
    Returns the reports, and whether there was a Ctrl-C. Raises ShellError if training diverges; `path` stays as it was.
    """
    partial = path.with_name(f"{path.stem}_partial.pth")
    history, stop, lowest, start = [], [], math.inf, time.perf_counter()

    def stop_after_epoch(*_):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.append("Ctrl-C")
        print("\nstopping after this epoch; once more ends at once", file=sys.stderr)

    signal.signal(signal.SIGINT, stop_after_epoch)
    with tqdm(total=num_epochs, unit="epoch", file=sys.stdout, disable=None) as bar:
        for report in training:
            if not all(value < 100 for value in report.values() if isinstance(value, float)):  # or NaN
                raise ShellError(1, f"training diverged in epoch {len(history) + 1}: try a smaller learning rate")
            history.append(report | {"seconds": time.perf_counter() - start})
            if report.get(best_by, math.inf) <= lowest:
                lowest, best = report.get(best_by, math.inf), copy.deepcopy(model.state_dict())
                write(partial, lambda temporary: save_checkpoint(temporary, model, **info))
            bar.set_postfix({name: value for name, value in report.items() if isinstance(value, float | str)})
            bar.update()
            if bar.disable:  # no terminal: lines instead of a bar
                print(f"epoch {len(history):3d}  {bar.postfix}", flush=True)
            if window:
                window(history)
            if stop:
                break
    signal.signal(signal.SIGINT, signal.default_int_handler)
    model.load_state_dict(best)
    partial.replace(path)
    print(f"wrote {path}")
    return history, bool(stop)


def write(path, save):
    """Write `path` by save(temporary path), whole or not at all; raise ShellError if it cannot be written."""
    try:
        with replacing(path) as temporary:
            save(temporary)
    except OSError as error:
        raise ShellError(1, f"{path} cannot be written: {error.strerror}") from None


def write_metrics(path, metrics, args):
    """Write what a run measured, with its flags, as JSON."""
    content = json.dumps(metrics | {"flags": vars(args)}, indent=2, default=str) + "\n"
    write(path, lambda temporary: temporary.write_text(content))
    print(f"wrote {path}")


def save_figure(path, draw, *data, **parameters):
    """Write what draw(figure, *data, **parameters) draws."""
    figure = Figure()
    draw(figure, *data, **parameters)
    write(path, figure.savefig)
    print(f"wrote {path}")


def save_gif(path, frames, plot, *data, fps=8):
    """Write what update(frame) of plot(figure, *data) shows, frame by frame, as an endless GIF."""
    figure = Figure()
    update = plot(figure, *data)
    update(frames[0])  # its title takes part in the layout
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout stays as it is now: to compute it again would take half the time
    frames = [*frames] + [frames[-1]] * fps  # it rests on the last one for a second
    animation = FuncAnimation(figure, update, frames, init_func=lambda: None)
    write(path, lambda temporary: animation.save(temporary, writer="pillow", fps=fps))
    print(f"wrote {path}")
