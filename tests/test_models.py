"""The GRU against its equations in NumPy, nn.GRU, and autograd over single steps; and its file."""

import io
import os
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, functional

import models
from models import GRU, ResetAfterGRU, load_checkpoint, save_checkpoint


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
        readouts.append(X[:, : Y.shape[1]] + Y if model.residual else Y)
    return np.stack(states), np.stack(readouts)


def example(T=40, B=3, num_inputs=2, num_hiddens=7, num_outputs=2, seed=0, **switches):
    """A network in float64, inputs, and a state that is not zero; all but the weights are leaves with a gradient."""
    torch.manual_seed(seed)
    model = GRU(num_inputs, num_hiddens, num_outputs, **switches).double()
    inputs, H = torch.randn(T, B, num_inputs).double(), torch.randn(B, num_hiddens).double()
    return model, inputs.requires_grad_(), H.requires_grad_()


def assert_same(got, expected, tolerance=1e-12):
    got, expected = (Q.detach().numpy() if torch.is_tensor(Q) else Q for Q in (got, expected))
    assert got.shape == expected.shape
    assert abs(got - expected).max() <= tolerance * (1 + abs(expected).max())


def test_parameters_are_the_textbooks_and_as_large_as_those_of_nn_gru():
    torch.manual_seed(0)
    model, largest = GRU(3, 100, 2), nn.GRU(3, 100).weight_hh_l0.abs().max().item()
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    expected = {f"W_x{gate}": (3, 100) for gate in "zrh"} | {f"W_h{gate}": (100, 100) for gate in "zrh"}
    expected |= {f"b_{gate}": (100,) for gate in "zrh"} | {"fc.weight": (2, 100), "fc.bias": (2,)}
    assert shapes == expected
    for name, weight in model.named_parameters():
        if not name.startswith("fc."):
            assert [weight.min().item(), weight.max().item()] == pytest.approx([-largest, largest], rel=0.1), name


@pytest.mark.parametrize("future", [0, 30])
@pytest.mark.parametrize("switches", [{}, {"residual": True}])
def test_forward_and_forward_by_steps_are_the_equations(switches, future):
    model, inputs, H = example(**switches)
    expected = numpy_gru(model, inputs.detach().numpy(), H.detach().numpy(), future)
    for run in (model.forward, model.forward_by_steps):
        states, readouts = run(inputs, H, future)
        assert_same(states, expected[0])
        assert_same(readouts, expected[1])
        assert_same(run(inputs)[0], numpy_gru(model, inputs.detach().numpy(), np.zeros((3, 7)))[0])


def gradients(model, run, inputs, H, future=0):
    """Return the outputs, and the gradients of a random weighting of them: of the inputs, H and every parameter."""
    outputs = run(inputs, H, future)
    torch.manual_seed(1)
    weighted = sum((output * torch.randn_like(output)).sum() for output in outputs)
    return [*outputs, *torch.autograd.grad(weighted, [inputs, H, *model.parameters()])]


def assert_all_same(got, expected, tolerance=1e-12):
    for one, other in zip(got, expected, strict=True):
        assert_same(one, other, tolerance)


def random_sizes(count, seed=0):
    """T, B, num_inputs, num_hiddens, all from 1 up."""
    rng = np.random.default_rng(seed)
    return [tuple(int(size) for size in rng.integers(1, (60, 8, 5, 20))) for _ in range(count)] + [(1, 1, 1, 1)]


@pytest.mark.parametrize("residual", [False, True])
def test_hand_gradient_matches_autograd(residual, monkeypatch):
    rng = np.random.default_rng(2)
    for T, B, num_inputs, num_hiddens in random_sizes(25):
        monkeypatch.setattr(models, "BLOCK", int(rng.choice([1, 50, 300, 2**16])))  # blocks of every length
        future, num_outputs = int(rng.choice([0, 0, 1, 9])), num_inputs
        if future == 0:
            num_outputs = int(rng.integers(1, num_inputs + 1)) if residual else 3
        model, inputs, H = example(T, B, num_inputs, num_hiddens, num_outputs, residual=residual)
        by_hand = gradients(model, model.forward, inputs, H, future)
        assert_all_same(by_hand, gradients(model, model.forward_by_steps, inputs, H, future))


@pytest.mark.parametrize("future", [0, 3])
def test_hand_gradient_passes_gradcheck(future):
    model, inputs, H = example(T=4, B=2, num_hiddens=3, residual=True)
    names, weights = zip(*model.named_parameters())

    def run(inputs, H, *weights):
        return torch.func.functional_call(model, dict(zip(names, weights)), (inputs, H, future))

    assert torch.autograd.gradcheck(run, (inputs, H, *weights))


@pytest.mark.parametrize("wanted", ["inputs", "H", "weights"])
def test_hand_gradient_if_nothing_else_is_wanted(wanted):
    model, inputs, H = example(residual=True)
    leaves = {"inputs": [inputs], "H": [H], "weights": list(model.parameters())}
    for name, tensors in leaves.items():
        for tensor in tensors:
            tensor.requires_grad_(name == wanted)
    for output in (0, 1):
        got, expected = (
            torch.autograd.grad(run(inputs, H, 4)[output][-1].sum(), leaves[wanted], materialize_grads=True)
            for run in (model.forward, model.forward_by_steps)
        )
        assert_all_same(got, expected)


def test_graph_is_freed_as_soon_as_nobody_holds_it():
    model, inputs, H = example()
    states, readouts = model(inputs, H, future=3)
    node = weakref.ref(states.grad_fn)
    readouts.sum().backward()
    del states, readouts
    assert node() is None  # without the garbage collector: a cycle would fill the memory


def penalty(run, x):
    (gradient,) = torch.autograd.grad(run(x)[0].sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), x)[0]


def dual_numbers(run, x):
    with torch.no_grad(), forward_ad.dual_level():
        return forward_ad.unpack_dual(run(forward_ad.make_dual(x, torch.ones_like(x)))[1]).tangent


def autocast(function, *arguments):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function(*arguments)


def loss_of(run):
    return lambda x: run(x)[1].square().sum()


BEYOND = {
    "second derivative": penalty,
    "hessian": lambda run, x: functional.hessian(loss_of(run), x),
    "jvp": lambda run, x: torch.func.jvp(loss_of(run), (x,), (torch.ones_like(x),))[1],
    "vmap": lambda run, x: torch.func.vmap(lambda sequence: run(sequence[:, None])[1], in_dims=1)(x),
    "dual numbers": dual_numbers,
    "autocast": lambda run, x: autocast(run, x)[1],
    "autocast, backward": lambda run, x: autocast(torch.autograd.grad, loss_of(run)(x), x)[0],
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own forward mode uses what it deprecates
@pytest.mark.parametrize("kind", BEYOND)
def test_beyond_a_first_derivative_forward_is_right_or_raises(kind):
    model, x, _ = example(T=5)
    if kind == "autocast":
        model, x = model.float(), x.float()
    reference = BEYOND[kind](model.forward_by_steps, x)  # which can do all of this
    try:
        got = BEYOND[kind](model.forward, x)
    except RuntimeError as error:
        message = str(error)
    else:
        assert_same(got.float(), reference.float(), tolerance=0.02 if "autocast" in kind else 1e-6)
        return
    assert kind not in ("second derivative", "hessian") or "use GRU.forward_by_steps" in message


@pytest.mark.parametrize("bias", [True, False])
def test_reset_after_form_is_nn_gru(bias):
    for T, B, num_inputs, num_hiddens in random_sizes(10, seed=1):
        torch.manual_seed(T)
        rnn = nn.GRU(num_inputs, num_hiddens, bias=bias).double()
        model = ResetAfterGRU.from_torch(rnn)
        inputs, H = torch.randn(T, B, num_inputs).double(), torch.randn(B, num_hiddens).double()
        inputs.requires_grad_(), H.requires_grad_()
        states, expected = model(inputs, H)[0], rnn(inputs, H[None])[0]
        assert_same(states, expected)
        weights = torch.randn_like(states)
        got, of_theirs = (torch.autograd.grad((Q * weights).sum(), [inputs, H]) for Q in (states, expected))
        assert_all_same(got, of_theirs)


def test_predict_takes_sequences_as_a_dataset_has_them():
    model, inputs, _ = example()
    predicted = model.predict(inputs.transpose(0, 1), future=3)
    assert not predicted.requires_grad
    assert_same(predicted.transpose(0, 1), model(inputs, future=3)[1])
    last = GRU(3, 5, 2, per_timestep_readout=False)
    x = torch.randn(7, 40, 3)
    assert_same(last.predict(x), last.forward_by_steps(x.transpose(0, 1))[1], tolerance=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4)])
@pytest.mark.parametrize("residual", [False, True])
def test_fit_readout_is_least_squares_and_leaves_the_rest_alone(residual, dtype, tolerance):
    model, inputs, _ = example(T=60, B=70, residual=residual)  # 70 sequences: three parts
    model, x, y = model.to(dtype), inputs.detach().transpose(0, 1).to(dtype), torch.randn(70, 60, 2).to(dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    y[:, :7] = torch.nan  # what is skipped does not count
    model.fit_readout(x, y, skip=7, ridge=1e-10)
    states = model(x.transpose(0, 1))[0].detach().relu().double().transpose(0, 1)[:, 7:].reshape(-1, 7).numpy()
    target = (y - x if residual else y)[:, 7:].reshape(-1, 2).double().numpy()
    expected = np.linalg.lstsq(np.column_stack([states, np.ones(len(states))]), target, rcond=None)[0]
    np.testing.assert_allclose(model.fc.weight.detach(), expected[:-1].T, atol=tolerance)
    np.testing.assert_allclose(model.fc.bias.detach(), expected[-1], atol=tolerance)
    assert all(torch.equal(before[n], w) for n, w in model.state_dict().items() if not n.startswith("fc"))


@pytest.mark.parametrize(
    ("sizes", "shape", "H", "future", "message"),
    [
        ((1, 4, 1), (5, 2), None, 0, r"inputs have shape \(5, 2\): expected \(T, B, 1\)"),
        ((1, 4, 1), (0, 2, 1), None, 0, r"inputs have shape \(0, 2, 1\)"),
        ((1, 4, 1), (5, 2, 1), torch.zeros(1, 4), 0, r"H has shape \(1, 4\): expected \(2, 4\)"),
        ((1, 4, 1), (5, 2, 1), None, -1, "future = -1"),
        ((1, 4, 2), (5, 2, 1), None, 2, "future = 2: .* a network whose readout can be its next input"),
    ],
)
def test_shapes_that_do_not_fit_are_named(sizes, shape, H, future, message):
    model = GRU(*sizes)
    for run in (model.forward, model.forward_by_steps):
        with pytest.raises(ValueError, match=message):
            run(torch.zeros(shape), H, future)


def test_residual_needs_an_input_that_can_be_added_to_the_readout():
    for sizes, per_timestep_readout in (((1, 4, 2), True), ((1, 4, 1), False)):
        with pytest.raises(ValueError, match="residual = True: expected num_inputs >= num_outputs"):
            GRU(*sizes, per_timestep_readout, residual=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_checkpoint_rebuilds_the_network_and_its_info(dtype, tmp_path):
    model = GRU(np.int64(1), 6, 1, residual=True).to(dtype)
    save_checkpoint(tmp_path / "model.pth", model, task="regression", dt=np.float64(0.4), epochs=np.int64(3))
    again = load_checkpoint(tmp_path / "model.pth")
    assert again.info == {"task": "regression", "dt": 0.4, "epochs": 3}
    assert [type(value) for value in again.info.values()] == [str, float, int]
    inputs = torch.randn(9, 2, 1).to(dtype)
    assert torch.equal(again(inputs, future=3)[1], model(inputs, future=3)[1])
    assert again.W_hh.requires_grad
    save_checkpoint(tmp_path / "model.pth", GRU(2, 3, 4, per_timestep_readout=False))  # over the first
    assert load_checkpoint(tmp_path / "model.pth").predict(torch.zeros(5, 2, 2)).shape == (5, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_bare_state_dict_of_the_textbook_loads(tmp_path):
    model, inputs = GRU(2, 5, 3), torch.randn(9, 2, 2)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    assert torch.equal(load_checkpoint(tmp_path / "bare.pth")(inputs)[1], model(inputs)[1])


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
    return {
        "empty": b"",
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "wrong shape": saved(weights | {"W_hh": torch.zeros(5, 6)}),
        "a missing key": saved({name: weight for name, weight in weights.items() if name != "b_r"}),
        "another network": saved(nn.Linear(2, 3).state_dict()),
        "malicious": pickle.dumps(Malicious(folder / "executed")),
        "malicious in a checkpoint": saved({"sizes": [1, 5, 1], "state_dict": Malicious(folder / "executed")}),
    }


@pytest.mark.parametrize("kind", no_checkpoints(Path()))
def test_what_is_no_checkpoint_is_named_and_never_executed(kind, tmp_path):
    (tmp_path / "model.pth").write_bytes(no_checkpoints(tmp_path)[kind])
    with pytest.raises(ValueError, match=r"^checkpoint .*model\.pth: damaged, or not the checkpoint of a GRU$"):
        load_checkpoint(tmp_path / "model.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]
    with pytest.raises(ValueError, match=r"^checkpoint .*none\.pth: no such file$"):
        load_checkpoint(tmp_path / "none.pth")
