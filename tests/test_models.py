"""The GRU against an independent float64 NumPy loop, and its checkpoints."""

import numpy as np
import pytest
import torch

from models import GRU, load_checkpoint, save_checkpoint

TEXTBOOK = {"W_xz", "W_hz", "b_z", "W_xr", "W_hr", "b_r", "W_xh", "W_hh", "b_h", "fc.weight", "fc.bias"}


def numpy_gru(model, inputs, H, future=0):
    """The equations of Cho et al. in NumPy: states (T, B, num_hiddens) and readouts (T, B, num_outputs)."""
    p = {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
    states, readouts = [], []
    for t in range(len(inputs) + future):
        X = inputs[t] if t < len(inputs) else readouts[-1]
        Z = 1 / (1 + np.exp(-(X @ p["W_xz"] + H @ p["W_hz"] + p["b_z"])))
        R = 1 / (1 + np.exp(-(X @ p["W_xr"] + H @ p["W_hr"] + p["b_r"])))
        H_tilde = np.tanh(X @ p["W_xh"] + (R * H) @ p["W_hh"] + p["b_h"])
        H = Z * H + (1 - Z) * H_tilde
        Y = np.maximum(H, 0) @ p["fc.weight"].T + p["fc.bias"]
        states.append(H)
        readouts.append(X + Y if model.residual else Y)
    return np.stack(states), np.stack(readouts)


def example(T=40, B=3, num_inputs=2, num_hiddens=7, num_outputs=2, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = GRU(num_inputs, num_hiddens, num_outputs, **kwargs).double()
    inputs, H = torch.randn(T, B, num_inputs).double(), torch.randn(B, num_hiddens).double()
    return model, inputs, H


def assert_same(got, expected):
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_textbook_parameters():
    model = GRU(3, 5, 2)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert set(shapes) == TEXTBOOK
    assert all(shapes[f"W_x{gate}"] == (3, 5) and shapes[f"W_h{gate}"] == (5, 5) for gate in "zrh")
    assert all(shapes[f"b_{gate}"] == (5,) for gate in "zrh")
    assert shapes["fc.weight"] == (2, 5)


@pytest.mark.parametrize("residual", [False, True])
def test_forward_and_single_step_equal_the_numpy_loop(residual):
    model, inputs, H = example(residual=residual)
    states_expected, readouts_expected = numpy_gru(model, inputs.numpy(), H.numpy())
    states, readouts = model(inputs, H)
    assert_same(states, states_expected)
    assert_same(readouts, readouts_expected)
    for t, X in enumerate(inputs):
        H, Y = model.single_step(X, H)
        assert_same(H, states_expected[t])
        assert_same(Y, readouts_expected[t])


def test_state_is_zero_where_none_is_given():
    model, inputs, H = example()
    assert_same(model(inputs)[0], numpy_gru(model, inputs.numpy(), np.zeros((3, 7)))[0])


def test_last_readout_alone():
    model, inputs, H = example(num_outputs=4, per_timestep_readout=False)
    states, readout = model(inputs, H)
    assert states.shape == (40, 3, 7)
    assert readout.shape == (3, 4)
    assert_same(readout, numpy_gru(model, inputs.numpy(), H.numpy())[1][-1])


def test_chunks_with_the_state_carried_equal_one_long_pass():
    model, inputs, H = example(T=50)
    states, readouts = model(inputs, H)
    for start, stop in ((0, 1), (1, 17), (17, 50)):
        chunk_states, chunk_readouts = model(inputs[start:stop], H)
        assert_same(chunk_states, states[start:stop].detach().numpy())
        assert_same(chunk_readouts, readouts[start:stop].detach().numpy())
        H = chunk_states[-1]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("warm_up", [1, 12])
def test_future_equals_single_steps_fed_with_their_own_output(residual, warm_up):
    model, inputs, H0 = example(T=warm_up, residual=residual)
    states, readouts = model(inputs, H0, future=30)
    assert_same(states, numpy_gru(model, inputs.numpy(), H0.numpy(), future=30)[0])
    assert_same(readouts, numpy_gru(model, inputs.numpy(), H0.numpy(), future=30)[1])
    states, readouts = model(inputs, H0)
    H, Y = states[-1], readouts[-1]
    expected = model(inputs, H0, future=30)
    for t in range(warm_up, warm_up + 30):
        H, Y = model.single_step(Y, H)
        assert_same(H, expected[0][t].detach().numpy())
        assert_same(Y, expected[1][t].detach().numpy())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 4, 1), "num_inputs = 0"),
        ((1, -4, 1), "num_hiddens = -4"),
        ((1, 4, 1.5), "num_outputs = 1.5"),
        ((1, 4, 1, 3), "per_timestep_readout = 3"),
        ((1, 4, 2, True, True), "residual = True"),
        ((1, 4, 1, False, True), "residual = True"),
    ],
)
def test_wrong_constructor_argument_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        GRU(*arguments)


@pytest.mark.parametrize(
    ("inputs", "H", "future", "message"),
    [
        (torch.zeros(5, 2), None, 0, r"inputs has shape \(5, 2\): expected \('any', 'any', 1\)"),
        (torch.zeros(5, 2, 3), None, 0, r"inputs has shape \(5, 2, 3\)"),
        (torch.zeros(0, 2, 1), None, 0, r"inputs has shape \(0, 2, 1\)"),
        (torch.zeros(5, 2, 1).double(), None, 0, "inputs is torch.float64"),
        (torch.zeros(5, 2, 1), torch.zeros(3, 4), 0, r"H has shape \(3, 4\): expected \(2, 4\)"),
        ([0.0], None, 0, "inputs is a list"),
        (torch.zeros(5, 2, 1), None, -1, "future = -1"),
        (torch.zeros(5, 2, 1), None, 1.5, "future = 1.5"),
    ],
)
def test_wrong_input_is_named(inputs, H, future, message):
    with pytest.raises(ValueError, match=message):
        GRU(1, 4, 1)(inputs, H, future)


def test_future_needs_a_readout_that_is_the_next_input():
    for model in (GRU(1, 4, 2), GRU(1, 4, 1, per_timestep_readout=False)):
        with pytest.raises(ValueError, match="future = 2"):
            model(torch.zeros(5, 2, 1), future=2)


def test_checkpoint_rebuilds_the_model(tmp_path):
    model = GRU(1, 6, 1, residual=True)
    save_checkpoint(tmp_path / "model.pth", model, task="regression", dt=0.4)
    again = load_checkpoint(tmp_path / "model.pth")
    assert again.info == {"task": "regression", "dt": 0.4}
    assert again.config() == model.config()
    inputs = torch.randn(9, 2, 1)
    assert torch.equal(again(inputs)[1], model(inputs)[1])
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_bare_state_dict_of_the_textbook_loads(tmp_path):
    model = GRU(2, 5, 3)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    again = load_checkpoint(tmp_path / "bare.pth")
    inputs = torch.randn(9, 2, 2)
    assert torch.equal(again(inputs)[1], model(inputs)[1])
