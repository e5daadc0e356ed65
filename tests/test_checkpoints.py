"""A network's file: what is saved can be loaded, and what is none is named."""

import argparse
import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from backstage.checkpoints import load_checkpoint, save_checkpoint
from backstage.files import CannotWriteError, write
from cells import CELLS
from models import GRU


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_checkpoint_rebuilds_every_cell(cell, dtype, tmp_path):
    model = CELLS[cell](np.int64(1), 6, 1, residual=True).to(dtype)
    save_checkpoint(tmp_path / "model.pth", model)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    again = load_checkpoint(tmp_path / "model.pth")
    assert torch.equal(torch.rand(3), expected)  # of the run's own numbers
    assert type(again) is CELLS[cell]
    inputs = torch.randn(9, 2, 1).to(dtype)
    assert torch.equal(again(inputs, future=3)[1], model(inputs, future=3)[1])
    assert again.W_hh.requires_grad
    # over the first one
    save_checkpoint(tmp_path / "model.pth", GRU(2, 3, 4, per_timestep_readout=False))
    again = load_checkpoint(tmp_path / "model.pth")
    assert again.predict(torch.zeros(5, 2, 2)).shape == (2, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_info_comes_back_as_plain_numbers_and_strings(tmp_path):
    info = {
        "task": "regression",
        "dt": np.float64(0.4),
        "epochs": np.int64(3),
        "scales": [np.float32(0.5), (1, np.bool_(True))],
        "where": Path("outputs") / "cell.pth",
        "units": {"V": np.arange(3)},
        "none": None,
    }
    save_checkpoint(tmp_path / "model.pth", GRU(1, 3, 1), **info)
    assert load_checkpoint(tmp_path / "model.pth").info == {
        "task": "regression",
        "dt": 0.4,
        "epochs": 3,
        "scales": [0.5, [1, True]],
        "where": str(Path("outputs") / "cell.pth"),
        "units": {"V": [0, 1, 2]},
        "none": None,
    }


@pytest.mark.parametrize("thing", [argparse.Namespace(a=1), object(), {1, 2}])
def test_info_that_could_not_be_read_again_is_refused_and_no_file_is_left(
    thing, tmp_path
):
    with pytest.raises(TypeError, match=r"info\.flags\[0\] is a \w+: a checkpoint"):
        save_checkpoint(tmp_path / "model.pth", GRU(1, 3, 1), flags=[thing])
    assert not list(tmp_path.iterdir())


def test_compiled_network_is_saved_as_the_network_that_it_is(tmp_path):
    model = GRU(1, 4, 1)
    save_checkpoint(tmp_path / "model.pth", torch.compile(model, backend="eager"))
    assert torch.equal(load_checkpoint(tmp_path / "model.pth").W_hh, model.W_hh)


class Own(GRU):
    """A cell of a student's own."""

    def single_step(self, X, H):
        return H + X.sum(-1, keepdim=True), self.readout(H, X)


class OwnSizes(GRU):
    """One that cannot be made again by a GRU's sizes."""

    def __init__(self, num_hiddens):
        super().__init__(1, num_hiddens, 1)


def test_cell_of_your_own_is_saved_and_loaded_by_its_class(tmp_path):
    model = Own(1, 3, 1)
    save_checkpoint(tmp_path / "own.pth", model)
    again = load_checkpoint(tmp_path / "own.pth", cell=Own)
    assert torch.equal(again.fc.weight, model.fc.weight)
    with pytest.raises(ValueError, match=r"of a cell 'Own' .* cell=Own"):
        load_checkpoint(tmp_path / "own.pth")
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "other.pth", OwnSizes(3))
    assert not (tmp_path / "other.pth").exists()


@pytest.mark.parametrize("residual", [False, True])
def test_bare_state_dict_of_the_textbook_loads_and_says_what_it_does_not_hold(
    residual, tmp_path
):
    model = GRU(2, 5, 2, residual=residual)
    inputs = torch.randn(9, 2, 2)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    with pytest.warns(UserWarning, match=f"residual = {residual} is taken"):
        again = load_checkpoint(tmp_path / "bare.pth", residual=residual)
    assert torch.equal(again(inputs)[1], model(inputs)[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_missing_is_not_called_a_damaged_file(tmp_path):
    save_checkpoint(tmp_path / "model.pth", GRU(1, 3, 1))
    with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|cuda|NVIDIA"):
        load_checkpoint(tmp_path / "model.pth", "cuda")


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Malicious:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def no_checkpoints(folder):
    weights = GRU(1, 5, 1).state_dict()
    without_b_r = {name: weight for name, weight in weights.items() if name != "b_r"}
    sizes = [1, 5, 1, True, False]
    flipped = bytearray(saved({"sizes": sizes, "info": {}, "state_dict": weights}))
    place = flipped.index(weights["W_hh"].numpy().tobytes())
    flipped[place] ^= 1
    evil = Malicious(folder / "executed")
    return {
        "empty": b"",
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "wrong shape": saved(weights | {"W_hh": torch.zeros(5, 6)}),
        "a missing key": saved(without_b_r),
        "another network": saved(nn.Linear(2, 3).state_dict()),
        "a list": saved([1, 2]),
        "a flipped bit": bytes(flipped),
        "malicious": pickle.dumps(evil),
        "malicious in a checkpoint": saved({"sizes": sizes, "state_dict": evil}),
    }


@pytest.mark.filterwarnings("ignore:checkpoint .* holds weights alone")
@pytest.mark.parametrize("kind", no_checkpoints(Path()))
def test_what_is_no_checkpoint_is_named_and_never_executed(kind, tmp_path):
    (tmp_path / "model.pth").write_bytes(no_checkpoints(tmp_path)[kind])
    message = r"^checkpoint .*model\.pth: damaged, or not the checkpoint of a GRU$"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "model.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_checkpoint_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^checkpoint .*none\.pth: no such file$"):
        load_checkpoint(tmp_path / "none.pth")


def test_file_is_written_whole_or_not_at_all_under_a_name_of_its_own(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("older")
    seen = []

    def half(temporary):
        temporary.write_text("half")
        seen.append(temporary)
        write(path, lambda other: other.write_text("another run's"))
        raise OSError(28, "No space left on device")

    with pytest.raises(CannotWriteError, match=r"result\.txt cannot be written: No sp"):
        write(path, half)
    assert path.read_text() == "another run's"
    assert not seen[0].exists()
    assert seen[0].suffix == ".txt"  # by which matplotlib knows the format


@pytest.mark.skipif(sys.platform == "win32", reason="folders that cannot be written")
def test_folder_that_is_missing_is_told_in_one_line(tmp_path):
    with pytest.raises(
        CannotWriteError, match=r"model\.pth cannot be written: No such"
    ):
        save_checkpoint(tmp_path / "none" / "model.pth", GRU(1, 3, 1))
