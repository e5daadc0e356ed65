"""The other cells: each is its equations, and ResetAfter is nn.GRU."""

import copy
import math

import numpy as np
import pytest
import torch
from test_models import assert_all_same, assert_same, sigmoid
from torch import nn

from cells import CELLS, FASTEST, SLOWEST, Leaky, ResetAfter


def plain_step(p, X, H):
    return np.tanh(X @ p["W_xh"] + H @ p["W_hh"] + p["b_h"])


def leaky_step(p, X, H):
    Z = sigmoid(p["b_z"])
    return Z * H + (1 - Z) * plain_step(p, X, H)


def update_gate_step(p, X, H):
    Z = sigmoid(X @ p["W_xz"] + H @ p["W_hz"] + p["b_z"])
    return Z * H + (1 - Z) * plain_step(p, X, H)


STEPS = {"plain": plain_step, "leaky": leaky_step, "update_gate": update_gate_step}


@pytest.mark.parametrize("name", STEPS)
def test_cell_is_its_equations_and_runs_on_from_its_readout(name):
    torch.manual_seed(0)
    model = CELLS[name](2, 6, 2, residual=True).double()
    inputs = torch.randn(12, 3, 2, dtype=torch.float64)
    H = torch.randn(3, 6, dtype=torch.float64)
    states, readouts = model(inputs, H, future=5)
    p = {key: weight.numpy() for key, weight in model.state_dict().items()}
    state = H.numpy()
    Y = None
    for t in range(17):
        X = inputs[t].numpy() if t < 12 else Y
        state = STEPS[name](p, X, state)
        Y = X + np.maximum(state, 0) @ p["fc.weight"].T + p["fc.bias"]
        assert_same(states[t], state)
        assert_same(readouts[t], Y)
    # every weight that it has is used
    readouts.square().sum().backward()
    for key, weight in model.named_parameters():
        assert weight.grad.abs().max() > 0, key


def test_leaky_units_begin_with_time_constants_from_fast_to_slow():
    torch.manual_seed(0)
    model = Leaky(1, 20, 1).double()
    with torch.no_grad():
        for name in ("W_xh", "W_hh", "b_h"):
            getattr(model, name).zero_()  # a candidate of 0: the state only fades
        states, _ = model(torch.zeros(2, 1, 1).double(), torch.ones(1, 20).double())
    time_constants = 1 / (1 - states[1] / states[0]).flatten()
    logarithms = time_constants.log()
    assert logarithms[0].item() == pytest.approx(math.log(FASTEST), abs=1e-6)
    assert logarithms[-1].item() == pytest.approx(math.log(SLOWEST), abs=1e-5)
    assert_same(logarithms.diff(), logarithms.diff().mean().expand(19), 1e-5)


@pytest.mark.parametrize("longest", [20.0, 1.0])
def test_memories_are_lengthened_if_there_are_any(longest):
    torch.manual_seed(0)
    leaky = Leaky(1, 5, 1)
    leaky.lengthen_memory(longest)
    tau = 1 / (1 - torch.sigmoid(leaky.b_z))
    assert tau[0].item() == pytest.approx(FASTEST, rel=1e-5)
    assert tau[-1].item() == pytest.approx(max(FASTEST, longest), rel=1e-4)
    plain = CELLS["plain"](1, 5, 1)
    before = copy.deepcopy(plain.state_dict())
    plain.lengthen_memory(longest)
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("bias", [True, False])
def test_reset_after_is_nn_gru(bias):
    sizes = np.random.default_rng(1).integers(1, (60, 8, 5, 20), (10, 4)).tolist()
    for T, B, num_inputs, num_hiddens in [*sizes, [1, 1, 1, 1]]:
        torch.manual_seed(T)
        rnn = nn.GRU(num_inputs, num_hiddens, bias=bias).double()
        model = ResetAfter.from_torch(rnn)
        inputs = torch.randn(T, B, num_inputs, dtype=torch.float64, requires_grad=True)
        H = torch.randn(B, num_hiddens, dtype=torch.float64, requires_grad=True)
        states, _ = model(inputs, H)
        expected, _ = rnn(inputs, H[None])
        assert_same(states, expected)
        weights = torch.randn_like(states)
        got = torch.autograd.grad((states * weights).sum(), [inputs, H])
        theirs = torch.autograd.grad((expected * weights).sum(), [inputs, H])
        assert_all_same(got, theirs)


@pytest.mark.parametrize(
    ("rnn", "error", "message"),
    [
        (nn.RNN(1, 3), TypeError, "RNN: expected nn.GRU"),
        (nn.LSTM(1, 3), TypeError, "LSTM: expected nn.GRU"),
        (nn.GRU(1, 3, num_layers=2), ValueError, "num_layers = 2"),
        (nn.GRU(1, 3, bidirectional=True), ValueError, "bidirectional = True"),
        (nn.GRU(1, 3, batch_first=True), ValueError, "batch_first = True"),
    ],
)
def test_what_is_not_an_nn_gru_of_one_layer_time_first_is_named(rnn, error, message):
    with pytest.raises(error, match=message):
        ResetAfter.from_torch(rnn)
