"""A network's file: its cell, its sizes, its weights, and what they are of."""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from backstage.files import write
from cells import CELLS


def save_checkpoint(path, model, **info):
    """Write a network to `path`, with `info` beside it.

    info: numbers, strings, paths, arrays, and lists, tuples and dicts of those.
    Raises TypeError for what `load_checkpoint` could not read again, CannotWriteError
    if the file cannot be written.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    sizes = [model.num_inputs, model.num_hiddens, model.num_outputs]
    switches = [model.per_timestep_readout, model.residual]
    content = {
        "cell": name_of(type(model)),
        "sizes": [int(value) for value in sizes + switches],
        "info": plain(info, "info"),
        "state_dict": model.state_dict(),
    }
    rebuild(content, type(model))  # raises now what would be raised when it is loaded
    file = io.BytesIO()  # torch.save itself does not say why a file cannot be written
    torch.save(content, file)
    write(path, lambda temporary: temporary.write_bytes(file.getbuffer()))


def name_of(cell):
    """The name of a cell among CELLS, or that of a class of your own."""
    for name, known in CELLS.items():
        if cell is known:
            return name
    return cell.__name__


def plain(value, name):
    """Return `value` made of Python's own numbers, strings, lists and dicts."""
    if isinstance(value, dict):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{k}]") for k, item in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}: a checkpoint holds numbers, strings, "
        "arrays, and lists and dicts of them"
    )


def load_checkpoint(path, device="cpu", cell=None, residual=False):
    """Rebuild a network, with its `info`, from a file of `save_checkpoint`.

    cell: the class, if it is one of your own.
    residual: of a bare state dict, the eleven tensors of a GRU, which does not say it.
    Raises ValueError, naming the path and the cause, for a file that is missing,
    damaged or no network's.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    content = read(path)
    if "state_dict" not in content:
        warnings.warn(
            f"checkpoint {path} holds weights alone: residual = {residual} is taken",
            stacklevel=2,
        )
        content = of_bare_weights(content, residual, path)
    own_name = content.get("cell", "gru")
    if cell is None and own_name not in CELLS:
        raise ValueError(
            f"checkpoint {path}: of a cell {own_name!r} that cells.py does not know; "
            f"give its class, load_checkpoint(path, cell={own_name})"
        )
    try:
        model = rebuild(content, CELLS[own_name] if cell is None else cell)
    except Exception:  # other keys, other shapes, other types
        raise not_a_network(path) from None
    return model.to(device)


def read(path):
    """Return the dict in a file; raise ValueError for a damaged one."""
    try:
        if zipfile.ZipFile(path).testzip() is not None:  # torch misses a flipped byte
            raise ValueError
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content)
    except Exception:  # damaged bytes can fail anywhere in zipfile, pickle or torch
        raise not_a_network(path) from None


def not_a_network(path):
    return ValueError(f"checkpoint {path}: damaged, or not the checkpoint of a GRU")


def of_bare_weights(weights, residual, path):
    """The content of a checkpoint of a GRU's weights; the sizes stand in the shapes."""
    try:
        num_inputs, num_hiddens = weights["W_xz"].shape
        num_outputs = len(weights["fc.bias"])
    except Exception:  # another network's, or no tensors at all
        raise not_a_network(path) from None
    return {
        "sizes": [num_inputs, num_hiddens, num_outputs, True, residual],
        "info": {},
        "state_dict": weights,
    }


def rebuild(content, cell):
    """Make a network of a checkpoint's content; its dtype is that of the weights."""
    with torch.random.fork_rng(devices=[]):  # its first weights are replaced at once
        model = cell(*content["sizes"])
    model.load_state_dict(content["state_dict"], assign=True)
    model.info = dict(content["info"])
    return model
