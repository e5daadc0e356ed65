"""The gated recurrent unit (GRU) from scratch, and what the three scripts share: checkpoints, device, flags.

Read `GRU.single_step` first: four equations, four lines. Source: Cho et al. (2014), https://arxiv.org/abs/1406.1078
"""

import argparse
import io
import json
import math
import os
import sys
import zipfile
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import torch
from torch import nn

CONFIG_NAMES = ("num_inputs", "num_hiddens", "num_outputs", "per_timestep_readout", "residual")
MAX_SIZE = 10_000  # of inputs, hidden units and outputs: beyond it the weights alone take gigabytes


class GRU(nn.Module):
    """A gated recurrent unit with a readout.

    num_inputs, num_hiddens, num_outputs: how many numbers enter, are remembered and leave at every time step.
    per_timestep_readout: read out at every step; if False, only at the last one.
    residual: add the input to the readout, so that the network learns the *change* of the signal
        (needs num_outputs == num_inputs and per_timestep_readout).

    Tensors are time first, as in nn.GRU: inputs (T, B, num_inputs), states (T, B, num_hiddens).
    """

    def __init__(self, num_inputs, num_hiddens, num_outputs, per_timestep_readout=True, residual=False):
        super().__init__()
        for name, size in (("num_inputs", num_inputs), ("num_hiddens", num_hiddens), ("num_outputs", num_outputs)):
            if not isinstance(size, Integral) or isinstance(size, bool) or not 1 <= size <= MAX_SIZE:
                raise ValueError(f"{name} = {size!r}: expected an integer from 1 to {MAX_SIZE}")
        for name, switch in (("per_timestep_readout", per_timestep_readout), ("residual", residual)):
            if not isinstance(switch, bool):
                raise ValueError(f"{name} = {switch!r}: expected True or False")
        if residual and (num_inputs != num_outputs or not per_timestep_readout):
            raise ValueError(
                f"residual = True with num_inputs = {num_inputs}, num_outputs = {num_outputs}, per_timestep_readout = "
                f"{per_timestep_readout}: expected as many outputs as inputs, and a readout at every step"
            )
        self.num_inputs, self.num_hiddens, self.num_outputs = num_inputs, num_hiddens, num_outputs
        self.per_timestep_readout, self.residual = per_timestep_readout, residual
        self.info = {}  # what a checkpoint says beside the weights

        # uniform with variance 1 / (3 num_hiddens), as in nn.GRU: the recurrent products keep the size of the state
        bound = 1 / math.sqrt(num_hiddens)

        def weight(*shape):
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        def gate():
            return weight(num_inputs, num_hiddens), weight(num_hiddens, num_hiddens), weight(num_hiddens)

        self.W_xz, self.W_hz, self.b_z = gate()  # update gate
        self.W_xr, self.W_hr, self.b_r = gate()  # reset gate
        self.W_xh, self.W_hh, self.b_h = gate()  # candidate
        self.fc = nn.Linear(num_hiddens, num_outputs)

    def single_step(self, X, H):
        """Take the input (B, num_inputs) and the state (B, num_hiddens); return the next state and its readout."""
        self._check("X", X, (None, self.num_inputs))
        self._check("H", H, (len(X), self.num_hiddens))
        Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)  # update gate: how much of the old state stays
        R = torch.sigmoid(X @ self.W_xr + H @ self.W_hr + self.b_r)  # reset gate: how much of it the candidate sees
        H_tilde = torch.tanh(X @ self.W_xh + (R * H) @ self.W_hh + self.b_h)  # candidate state
        H = Z * H + (1 - Z) * H_tilde
        return H, self.readout(H, X)

    def readout(self, H, X):
        """Read the outputs (..., num_outputs) from states (..., num_hiddens); X are the inputs of the same steps."""
        Y = self.fc(torch.relu(H))
        return X + Y if self.residual else Y

    def forward(self, inputs, H=None, future=0):
        """Run over inputs (T, B, num_inputs) from the state H (B, num_hiddens), zero if not given.

        Then, where `future` is given, go on for that many steps, each fed with the readout of the one before.

        Returns the states (T + future, B, num_hiddens) and the readouts (T + future, B, num_outputs), or, with
        per_timestep_readout=False, the last readout alone, (B, num_outputs).
        Raises ValueError where a shape, type or device does not fit.
        """
        self._check("inputs", inputs, (None, None, self.num_inputs))
        if H is None:
            H = inputs.new_zeros(inputs.shape[1], self.num_hiddens)
        self._check("H", H, (inputs.shape[1], self.num_hiddens))
        if not isinstance(future, Integral) or future < 0:
            raise ValueError(f"future = {future!r}: expected an integer, 0 or more")
        if future and (self.num_inputs != self.num_outputs or not self.per_timestep_readout):
            raise ValueError(f"future = {future}: a network whose readout is not its next input cannot run on")

        states, readouts = [], []
        for X in inputs:
            H, Y = self.single_step(X, H)
            states.append(H)
            readouts.append(Y)
        for _ in range(future):
            H, Y = self.single_step(Y, H)
            states.append(H)
            readouts.append(Y)
        return torch.stack(states), torch.stack(readouts) if self.per_timestep_readout else Y

    def _check(self, name, tensor, shape):
        expected = tuple("any" if size is None else size for size in shape)
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}: expected a tensor of shape {expected}")
        fits = tensor.dim() == len(shape) and all(size in (None, got) for size, got in zip(shape, tensor.shape))
        if not fits or tensor.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {expected}, nothing empty")
        if tensor.dtype != self.W_xz.dtype or tensor.device != self.W_xz.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}: expected {self.W_xz.dtype} on {self.W_xz.device}"
            )

    def config(self):
        """The arguments that build this network anew."""
        return {name: getattr(self, name) for name in CONFIG_NAMES}


# ---- what the three scripts share: checkpoints, device, flags, the end of a run ----


@contextmanager
def replacing(path):
    """Give a temporary path beside `path`, renamed to `path` once the block has succeeded: no file is ever half."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path, model, **info):
    """Write the model's configuration and weights to `path`, with `info` (numbers and strings) beside them.

    An older file is replaced whole or not at all. Raises OSError where `path` cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"config": model.config(), "info": info, "state_dict": model.state_dict()}, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path, device="cpu"):
    """Rebuild a GRU from a file of `save_checkpoint`, or from a bare state dict of the textbook's eleven tensors.

    What was saved as `info` is found in `model.info`. Nothing but tensors, numbers and strings is ever unpickled.
    Raises ValueError, naming the path and the cause, for a file that is missing, damaged or not a GRU's.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not notice a flipped byte
            if archive.testzip() is not None:
                raise ValueError("the file is damaged: a checksum does not match")
        content = torch.load(path, map_location=device, weights_only=True)
        model = _rebuild(content)
    except OSError as error:
        raise ValueError(f"checkpoint {path}: {error.strerror}") from None
    except Exception as error:  # damaged bytes can fail anywhere in zipfile, pickle or torch, in any way
        cause = str(error).splitlines()[0] if isinstance(error, ValueError) else "damaged, or not a checkpoint at all"
        raise ValueError(f"checkpoint {path}: {cause}") from None
    return model.to(device)


def _rebuild(content):
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, not a GRU's weights")
    bare = "state_dict" not in content
    weights = content if bare else content["state_dict"]
    if bare:
        num_inputs, num_hiddens = weights["W_xz"].shape
        config = {"num_inputs": num_inputs, "num_hiddens": num_hiddens, "num_outputs": len(weights["fc.bias"])}
    else:
        config = content["config"]
    model = GRU(**config)
    model.load_state_dict(weights)
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise ValueError("has weights that are not finite")
    model.info = {} if bare else content["info"]
    return model


def save_metrics(path, metrics):
    """Write a dict of metrics as JSON; what JSON does not know, such as a path among the flags, becomes a string."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, default=str) + "\n")


class FlagParser(argparse.ArgumentParser):
    """argparse with a script's docstring as its help; a wrong flag is answered by one line, without the usage text."""

    class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False, formatter_class=self._Formatter)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def number(kind, low, high):
    """An argparse type: an int or a float from low to high, so neither NaN nor infinity."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}: expected {noun} from {low:g} to {high:g}")
        return value

    return parse


def device(name):
    """An argparse type: cpu, cuda, or auto, which is cuda where there is one."""
    if name not in ("auto", "cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("'cuda': expected a machine with a CUDA device; use auto or cpu")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def folder(text):
    """An argparse type: a folder, which need not exist yet."""
    path = Path(text)
    if not text or any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a folder, or a path where one can be made")
    return path


def check_loss(loss, epoch, init_lr):
    """Raise FloatingPointError where training has diverged: a loss of NaN, or far beyond what any voltage can cause."""
    if not loss < 1e4:
        raise FloatingPointError(
            f"epoch {epoch}: the loss is {loss:g}: training diverged; try --init_lr below {init_lr:g}"
        )


def run(main):
    """Run a script's main and end the process: no traceback for what a user can mend.

    Exit status 0, 2 for bad input (ValueError), 1 for a file that cannot be written (OSError) or a training that
    diverged (FloatingPointError), 130 after Ctrl-C, also where training was stopped by it and all else was done.
    """
    try:
        sys.exit(130 if main()["interrupted"] else 0)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
