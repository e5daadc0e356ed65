"""The back room of the three scripts: what every run needs and nobody has to read to learn about networks or neurons.

Flags, the start and the end of a run, following a training, the live window, and files.
"""

import os
import signal
import sys
from pathlib import Path

HAS_SIGINT = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # in the background, it may be ignored
if HAS_SIGINT and Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback while a script's imports run; `run` undoes it

import argparse
import copy
import json
import math
import tempfile
import threading
import time
from contextlib import contextmanager

try:
    import matplotlib.pyplot as plt
except ValueError as error:  # MPLBACKEND names a backend that matplotlib does not know
    print(f"MPLBACKEND={os.environ.get('MPLBACKEND')}: {error}", file=sys.stderr)
    sys.exit(2)
import torch
from matplotlib.animation import FuncAnimation
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.figure import Figure
from tqdm import tqdm

from models import replacing, save_checkpoint

STYLE = Path(__file__).with_name("tutorial.mplstyle")  # one look for every figure
DIVERGED = 100  # a loss beyond this means that training has diverged, not that it is slow: targets are of the order 1


# ---- flags ----


class FlagParser(argparse.ArgumentParser):
    """argparse with a script's docstring as its help; a wrong flag is answered by one line, without the usage text."""

    class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False, formatter_class=self._Formatter)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")

    def forget(self, args, names, mode):
        """Take flags that have no effect out of args; raise ValueError where one was given a value all the same."""
        for name in sorted(names):
            if getattr(args, name) != self.get_default(name):
                raise ValueError(f"--{name}: has no effect {mode}")
            delattr(args, name)

    @contextmanager
    def blaming(self, flags):
        """Add to a ValueError from within, which speaks of a function's arguments, by which flags they are set."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{error} (set by {flags})") from None


def number(kind, low, high):
    """An argparse type: an int or a float from low to high, so neither NaN nor infinity."""
    expected = f"a whole number from {low} to {high}" if kind is int else f"a number from {low:g} to {high:g}"

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
        return value

    return parse


def device(name):
    """An argparse type: cpu, cuda, or auto, which is cuda where there is one."""
    has_cuda = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not has_cuda:
        raise argparse.ArgumentTypeError("'cuda': expected a machine with a CUDA device; use auto or cpu")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def folder(text):
    """An argparse type: a folder, which need not exist yet."""
    path = Path(text)
    in_the_way = [part for part in (path, *path.parents) if os.path.lexists(part) and not part.is_dir()]
    if not text or in_the_way:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a folder, or a path where one can be made")
    return path


# ---- the start and the end of a run ----


def set_up(args):
    """Begin a run: seed, style, and a folder that can be written to; return the time, for `finish`."""
    start = time.perf_counter()
    torch.set_num_threads(1)  # products this small lose more to a second thread than they win
    torch.manual_seed(args.seed)
    plt.style.use(STYLE)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=args.out_dir).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(args.out_dir)) from None
    return start


def finish(path, metrics, args, start):
    """Write the metrics, with the run's seconds and flags, as JSON; return them."""
    metrics |= {"seconds": time.perf_counter() - start, "flags": vars(args)}
    # JSON knows neither NaN nor infinity; what else it does not know, such as a path among the flags, becomes a string
    known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(known, indent=2, default=str, allow_nan=False) + "\n")
    print(f"wrote {path}")
    return metrics


def run(main):
    """Run a script's main and end the process: no traceback for what a user can mend.

    Exit status 0, 2 for bad input (ValueError), 1 for a file that cannot be written (OSError), a training that
    diverged (FloatingPointError) or too little memory, 130 after Ctrl-C, also where training was stopped by it and all
    else was done.
    """
    if HAS_SIGINT:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.stdout is None:  # closed, as by >&-
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stdout.reconfigure(errors="replace")  # for a stdout that knows no Δ
    try:
        status = 130 if main()["interrupted"] else 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        status = 1
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        status = 2 if isinstance(error, ValueError) else 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        hint = "not enough memory: try fewer or shorter traces, a smaller --batch_size or --n_hidden"
        print(f"{Path(sys.argv[0]).name}: error: {hint}", file=sys.stderr)
        status = 1
    try:
        sys.stdout.flush()
    except OSError:  # what is left in it has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


@contextmanager
def interrupts_wait():
    """Hold a Ctrl-C back until the block is through: a window's toolkit would print it as an error, and lose it."""
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived = []
    signal.signal(signal.SIGINT, lambda *_: arrived.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if arrived:
        raise KeyboardInterrupt


# ---- following a training ----


def follow(training, num_epochs, model, path, window=None, best_by="loss", **info):
    """Go through a training, epoch by epoch; leave the model with its best weights, and its file at `path`.

    training: a generator that yields a report (a dict) after every epoch. Its floats are shown: in a terminal as a bar,
        elsewhere as lines. "loss" must be among them; "lr_flag" names the flag to blame where it diverges, and "stage"
        the part of the training.
    best_by: the entry whose smallest value marks the best epoch; an epoch without it is only the best so far where no
        other has it. The best weights are kept in memory and in a partial file.
    window: a LiveWindow, which is shown the reports so far. info: what the file says beside the weights.

    Returns the reports, each with its "seconds" since the start, and whether Ctrl-C ended the training early. Before
    the first epoch is through there is nothing to keep: then Ctrl-C is passed on.
    Raises FloatingPointError where training has diverged; `path` is left as it was.
    """
    partial = path.with_name(f"{path.stem}_partial.pth")
    print(f"while training runs, its best model is in {partial}", flush=True)
    history, interrupted, start = [], False, time.perf_counter()
    lowest, best = math.inf, model.state_dict()
    with tqdm(total=num_epochs, unit="epoch", file=sys.stdout, disable=None) as bar:
        try:
            for epoch, report in enumerate(training, 1):
                check_report(report, epoch)
                value = report.get(best_by, math.inf)
                if value <= lowest:
                    lowest, best = value, copy.deepcopy(model.state_dict())
                    save_checkpoint(partial, model, **info)
                history.append(report | {"seconds": time.perf_counter() - start})
                show(bar, report, epoch)
                if window:
                    window.redraw(history)
        except KeyboardInterrupt:
            if not history:
                raise
            interrupted = True
    if window:
        window.close()
    model.load_state_dict(best)
    with interrupts_wait():
        save_checkpoint(path, model, **info)
        partial.unlink(missing_ok=True)
    print(f"wrote {path}")
    return history, interrupted


def check_report(report, epoch):
    """Raise FloatingPointError where training has diverged: a loss of NaN, or far beyond any that is merely bad.

    "loss" is the mean over the epoch's steps, each before it was taken; "view_loss" judges the weights as they are now.
    """
    for name in ("loss", "view_loss"):
        if not report.get(name, 0) < DIVERGED:
            stage, lr_flag = report.get("stage", "training"), report.get("lr_flag", "--init_lr")
            value = f"the {name} is {report[name]:g}"
            raise FloatingPointError(f"epoch {epoch}: {value}: {stage} diverged; try a smaller {lr_flag}")


def show(bar, report, epoch):
    """Show a report in the bar, or, where the output goes to a file, as a line; no more than fifty in all."""
    values = {name: f"{value:.3g}" for name, value in report.items() if isinstance(value, float)}
    stage = report.get("stage", "training")
    bar.set_description(stage, refresh=False)
    bar.set_postfix(values, refresh=False)
    bar.update()
    if bar.disable and (epoch % math.ceil(bar.total / 50) == 0 or epoch == bar.total):
        print(f"{stage}  epoch {epoch:3d}  " + "  ".join(f"{name} {values[name]}" for name in values), flush=True)


# ---- pictures ----


class LiveWindow:
    """A figure in a window that is redrawn while a script works. Where there is no display it is never drawn.

    plot(figure, *data) sets the figure up and returns update(shown), which brings it to what is to be shown.
    Drawing gets at most `share` of the time that has passed: a redraw that comes too early is left out.
    A window that the user closes stays closed.
    """

    def __init__(self, plot, *data, share=0.1):
        try:
            self.figure = plt.figure()
        except (ImportError, RuntimeError):  # MPLBACKEND asks for windows where there is no display, or no toolkit
            plt.switch_backend("agg")
            self.figure = plt.figure()
        self.has_window = plt.get_backend().lower() in backend_registry.list_builtin(BackendFilter.INTERACTIVE)
        self.update = plot(self.figure, *data)
        self.share, self.start, self.spent = share, time.perf_counter(), 0.0

    def redraw(self, shown):
        """Show the outcome of update(shown), if there is a window and it is time."""
        begin = time.perf_counter()
        is_open = self.has_window and plt.fignum_exists(self.figure.number)
        if not is_open or self.spent > self.share * (begin - self.start):
            return
        with interrupts_wait():
            self.update(shown)
            plt.show(block=False)
            self.figure.canvas.flush_events()  # lets a new window find its size
            self.figure.canvas.draw()
            self.figure.canvas.flush_events()
        self.spent += time.perf_counter() - begin

    def close(self):
        plt.close(self.figure)


def save_figure(path, draw, *data):
    """Write what draw(figure, *data) draws."""
    figure = Figure()
    draw(figure, *data)
    with replacing(path) as temporary:
        figure.savefig(temporary)
    print(f"wrote {path}")


def save_gif(path, frames, plot, *data, fps=8, play=True):
    """Write what update(frame) of plot(figure, *data) shows, frame by frame, as an endless GIF; play it in a window."""
    if play:
        window = LiveWindow(plot, *data, share=1.0)
        for frame in frames:
            window.redraw(frame)
        window.close()
    figure = Figure()
    update = plot(figure, *data)
    update(frames[0])  # its title takes part in the layout
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout stays as it is now: to compute it anew would take half the time
    frames = [*frames] + [frames[-1]] * fps  # it rests on the last one for a second
    animation = FuncAnimation(figure, update, frames, init_func=lambda: None)
    with replacing(path) as temporary:
        animation.save(temporary, writer="pillow", fps=fps)
    print(f"wrote {path}")
