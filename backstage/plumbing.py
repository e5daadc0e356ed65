"""What a script needs around its task: flags, device and seed, exit status, metrics."""

import argparse
import json
import math
import os
import sys
from argparse import ArgumentDefaultsHelpFormatter, MetavarTypeHelpFormatter
from pathlib import Path

import torch

from backstage.fast import kernel_runs_on
from backstage.files import CannotWriteError, write
from datasets import TooLargeError

LARGEST = 10**9  # number that a flag takes
SMALLEST = 1e-9  # number above 0
MOST_UNITS = 4096  # of a network: more would fill the memory
LARGEST_SEED = 2**30 - 1  # the data sets of a run have seeds of their own, below 2**32


class ShellError(Exception):
    """What ends a run: an exit status, and one line that says why.

    Status 2 is for what the user can mend, 1 for what the machine does.
    """

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Help(
    ArgumentDefaultsHelpFormatter,
    MetavarTypeHelpFormatter,
    argparse.RawDescriptionHelpFormatter,
):
    """A script's docstring as it stands, and every flag's type and default."""


class FlagParser(argparse.ArgumentParser):
    """argparse with a script's docstring as its help, and errors of one line."""

    def __init__(self, description):
        super().__init__(
            usage="%(prog)s [flags]",
            description=description,
            allow_abbrev=False,
            formatter_class=Help,
        )

    def error(self, message):
        message = str(message)  # an exception serves as well
        hint = "--help lists the flags"
        unrecognized = message.removeprefix("unrecognized arguments: ").split()
        is_value = set(unrecognized) <= {"True", "False"}
        if is_value or "ignored explicit argument" in message:
            hint = "a switch takes no value: --flag or --no-flag"
        self.exit(2, f"{self.prog}: error: {message} ({hint})\n")


def number(text, kind, accepts, expected):
    """Read a flag's value; raise what argparse shows if `accepts` does not take it."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not accepts(value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
    return value


def positive(text):
    expected = f"a number above 0, at most {LARGEST:,}"
    return number(text, float, lambda value: SMALLEST <= value <= LARGEST, expected)


def not_negative(text):
    expected = f"a number from 0 to {LARGEST:,}"
    return number(text, float, lambda value: 0 <= value <= LARGEST, expected)


def share(text):
    expected = "a number from 0 up to 1"
    return number(text, float, lambda value: 0 <= value <= 1, expected)


def at_least_1(text):
    expected = f"a number from 1 to {LARGEST:,}"
    return number(text, float, lambda value: 1 <= value <= LARGEST, expected)


def count(text):
    expected = f"a whole number from 1 to {LARGEST:,}"
    return number(text, int, lambda value: 1 <= value <= LARGEST, expected)


def count_from_0(text):
    expected = f"a whole number from 0 to {LARGEST:,}"
    return number(text, int, lambda value: 0 <= value <= LARGEST, expected)


def memory(text):
    expected = f"a number of steps from 2 to {LARGEST:,}"
    return number(text, float, lambda value: 2 <= value <= LARGEST, expected)


def units(text):
    expected = f"a whole number from 1 to {MOST_UNITS:,}"
    return number(text, int, lambda value: 1 <= value <= MOST_UNITS, expected)


def seed(text):
    expected = f"a whole number from 0 to {LARGEST_SEED}"
    return number(text, int, lambda value: 0 <= value <= LARGEST_SEED, expected)


def set_up(seed, device, out_dir):
    """Begin a run: seed, threads, a folder for what it writes.

    Returns the device, "cpu" or "cuda", if "auto" was asked for. Raises ShellError for
    a GPU that is not there, and for a folder that cannot be made.
    """
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        faster = has_gpu and kernel_runs_on(torch.device("cuda"))
        device = "cuda" if faster else "cpu"
    if device == "cuda" and not has_gpu:
        raise ShellError(2, "--device cuda: expected a machine with a CUDA device")
    torch.set_num_threads(1)  # products this small lose more to a second thread
    torch.manual_seed(seed)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShellError(2, f"--out_dir {out_dir}: {error.strerror}") from None
    return device


def run(main):
    """Run a script's main and end with an exit status; a bug keeps its traceback."""
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="replace")  # for a terminal that knows no Δ
    try:
        metrics = main()
        status = 130 if metrics["interrupted"] else 0
        sys.stdout.flush()  # a broken pipe shows here at the latest
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except ShellError as error:
        status = complain(error, error.status)
    except TooLargeError as error:
        status = complain(error, 2)
    except CannotWriteError as error:
        status = complain(error, 1)
    sys.exit(status)


def complain(error, status):
    print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
    return status


def write_metrics(path, metrics, args):
    """Write what a run measured, flat, and its flags, as strict JSON: NaN is null."""
    content = {name: finite_or_none(value) for name, value in metrics.items()}
    content["flags"] = vars(args)
    text = json.dumps(content, indent=2, default=str, allow_nan=False) + "\n"
    write(path, lambda temporary: temporary.write_text(text))
    print(f"wrote {path}")


def finite_or_none(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
