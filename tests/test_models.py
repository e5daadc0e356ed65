"""The GRU against its equations in NumPy, and its gradient by hand against autograd."""

import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, functional

from backstage import recurrence
from models import GRU


def sigmoid(A):
    return 1 / (1 + np.exp(-A))


def numpy_gru(model, inputs, H, future=0):
    """The equations of Cho et al. in NumPy: states (T, B, n), readouts (T, B, out)."""
    p = {name: weight.numpy() for name, weight in model.state_dict().items()}
    states = []
    readouts = []
    for t in range(len(inputs) + future):
        X = inputs[t] if t < len(inputs) else readouts[-1]
        Z = sigmoid(X @ p["W_xz"] + H @ p["W_hz"] + p["b_z"])
        R = sigmoid(X @ p["W_xr"] + H @ p["W_hr"] + p["b_r"])
        H_tilde = np.tanh(X @ p["W_xh"] + (R * H) @ p["W_hh"] + p["b_h"])
        H = Z * H + (1 - Z) * H_tilde
        Y = np.maximum(H, 0) @ p["fc.weight"].T + p["fc.bias"]
        if model.residual:
            Y = X[:, : Y.shape[1]] + Y
        states.append(H)
        readouts.append(Y)
    return np.stack(states), np.stack(readouts)


def example(T=40, B=3, num_inputs=2, num_hiddens=7, num_outputs=2, residual=False):
    """A network in float64, inputs, and a state that is not zero; with gradients."""
    torch.manual_seed(0)
    model = GRU(num_inputs, num_hiddens, num_outputs, residual=residual).double()
    inputs = torch.randn(T, B, num_inputs, dtype=torch.float64, requires_grad=True)
    H = torch.randn(B, num_hiddens, dtype=torch.float64, requires_grad=True)
    return model, inputs, H


def assert_same(got, expected, tolerance=1e-12):
    got = torch.as_tensor(got).detach()
    expected = torch.as_tensor(expected).detach()
    assert got.shape == expected.shape
    largest = 1 + expected.abs().max()
    assert (got - expected).abs().max() <= tolerance * largest


def assert_all_same(got, expected, tolerance=1e-12):
    for one, other in zip(got, expected, strict=True):
        assert_same(one, other, tolerance)


def test_parameters_are_the_textbooks_and_as_large_as_those_of_nn_gru():
    torch.manual_seed(0)
    model = GRU(3, 100, 2)
    largest = nn.GRU(3, 100).weight_hh_l0.abs().max().item()
    shapes = {name: tuple(w.shape) for name, w in model.state_dict().items()}
    expected = {"fc.weight": (2, 100), "fc.bias": (2,)}
    for gate in "zrh":
        expected |= {f"W_x{gate}": (3, 100), f"W_h{gate}": (100, 100)}
        expected[f"b_{gate}"] = (100,)
    assert shapes == expected
    for name, weight in model.named_parameters():
        if not name.startswith("fc."):
            span = [weight.min().item(), weight.max().item()]
            assert span == pytest.approx([-largest, largest], rel=0.1), name


@pytest.mark.parametrize("future", [0, 30])
@pytest.mark.parametrize("residual", [False, True])
def test_all_three_loops_are_the_equations(residual, future):
    model, inputs, H = example(residual=residual)
    x = inputs.detach().numpy()
    states, readouts = numpy_gru(model, x, H.detach().numpy(), future)
    from_zero, _ = numpy_gru(model, x, np.zeros((3, 7)))
    for loop in (model.forward, model.forward_fast, model.forward_by_steps):
        got = loop(inputs, H, future)
        assert_same(got[0], states)
        assert_same(got[1], readouts)
        assert_same(loop(inputs)[0], from_zero)


def gradients(model, loop, inputs, H, future=0):
    """The outputs, and the gradients of a random weighting of them.

    Of the inputs, H and every parameter.
    """
    outputs = loop(inputs, H, future)
    torch.manual_seed(1)
    weighted = sum((output * torch.randn_like(output)).sum() for output in outputs)
    leaves = [inputs, H, *model.parameters()]
    return [*outputs, *torch.autograd.grad(weighted, leaves)]


@pytest.mark.parametrize("residual", [False, True])
def test_hand_gradient_matches_autograd(residual, monkeypatch):
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, (60, 8, 5, 20), (25, 4)).tolist()
    for T, B, num_inputs, num_hiddens in [*sizes, [1, 1, 1, 1]]:
        # blocks of every length
        size = int(rng.choice([1, 50, 300, 2**16]))
        monkeypatch.setattr(recurrence, "BLOCK_SIZE", size)
        future = int(rng.choice([0, 0, 1, 9]))
        num_outputs = num_inputs
        if future == 0:
            num_outputs = int(rng.integers(1, num_inputs + 1)) if residual else 3
        model, inputs, H = example(
            T, B, num_inputs, num_hiddens, num_outputs, residual=residual
        )
        by_hand = gradients(model, model.forward_fast, inputs, H, future)
        by_steps = gradients(model, model.forward_by_steps, inputs, H, future)
        assert_all_same(by_hand, by_steps)


@pytest.mark.parametrize("future", [0, 3])
def test_hand_gradient_passes_gradcheck(future):
    model, inputs, H = example(T=4, B=2, num_hiddens=3, residual=True)
    names, weights = zip(*model.named_parameters())

    def run(inputs, H, *weights):
        parameters = dict(zip(names, weights))
        return torch.func.functional_call(model, parameters, (inputs, H, future))

    assert torch.autograd.gradcheck(run, (inputs, H, *weights))


@pytest.mark.parametrize("wanted", ["inputs", "H", "weights"])
def test_hand_gradient_if_nothing_else_is_wanted(wanted):
    model, inputs, H = example(residual=True)
    leaves = {"inputs": [inputs], "H": [H], "weights": list(model.parameters())}
    for name, tensors in leaves.items():
        for tensor in tensors:
            tensor.requires_grad_(name == wanted)

    def last_gradient(loop, output):
        last = loop(inputs, H, 4)[output][-1].sum()
        return torch.autograd.grad(last, leaves[wanted], materialize_grads=True)

    for output in (0, 1):
        got = last_gradient(model.forward_fast, output)
        assert_all_same(got, last_gradient(model.forward_by_steps, output))


def test_graph_is_freed_as_soon_as_nobody_holds_it():
    model, inputs, H = example()
    states, readouts = model.forward_fast(inputs, H, future=3)
    node = weakref.ref(states.grad_fn)
    readouts.sum().backward()
    del states, readouts
    # without the garbage collector: a cycle would fill the memory
    assert node() is None


def penalty(loop, x):
    (gradient,) = torch.autograd.grad(loop(x)[0].sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), x)[0]


def dual_numbers(loop, x):
    with torch.no_grad(), forward_ad.dual_level():
        _, readouts = loop(forward_ad.make_dual(x, torch.ones_like(x)))
        return forward_ad.unpack_dual(readouts).tangent


def autocast(function, *arguments):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function(*arguments)


def loss_of(loop):
    return lambda x: loop(x)[1].square().sum()


def vmap(loop, x):
    def of_one(sequence):
        return loop(sequence[:, None])[1]

    return torch.func.vmap(of_one, in_dims=1)(x)


def jvp(loop, x):
    return torch.func.jvp(loss_of(loop), (x,), (torch.ones_like(x),))[1]


def hessian(loop, x):
    return functional.hessian(loss_of(loop), x)


def under_autocast(loop, x):
    return autocast(loop, x.float())[1]


# what goes beyond a first derivative, and what is said of it
BEYOND = {
    penalty: r"use GRU\.forward_by_steps",
    hessian: r"use GRU\.forward_by_steps",
    jvp: "functorch transforms",
    vmap: "functorch transforms",
    dual_numbers: "jvp function",
    under_autocast: "must have the same dtype",
}


# torch's own forward mode uses what it deprecates
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("use", BEYOND)
def test_what_the_fast_loop_cannot_do_raises_and_the_plain_loop_does_it(use):
    model, x, _ = example(T=5)
    if use is under_autocast:
        model = model.float()
    with pytest.raises(RuntimeError, match=BEYOND[use]):
        use(model.forward, x)
    assert use(model.forward_by_steps, x).isfinite().all()


def test_backward_under_autocast_is_in_full_precision():
    model, x, _ = example(T=5)
    loss = loss_of(model.forward)(x)
    (got,) = autocast(torch.autograd.grad, loss, x)
    (expected,) = torch.autograd.grad(loss_of(model.forward_by_steps)(x), x)
    assert_same(got, expected, tolerance=1e-6)


def test_torch_compile_gives_the_same_and_leaves_pytorch_intact():
    model, x, H = example(T=3)
    compiled = torch.compile(model, backend="eager")
    got = gradients(model, compiled, x, H)
    assert_all_same(got, gradients(model, model.forward, x, H))
    assert (torch.zeros(3) + 1).sum() == 3


def test_predict_is_forward_without_a_gradient():
    model, inputs, _ = example()
    predicted = model.predict(inputs, future=3)
    assert not predicted.requires_grad
    assert_same(predicted, model(inputs, future=3)[1])


def test_the_last_readout_alone():
    torch.manual_seed(0)
    model = GRU(3, 5, 2, per_timestep_readout=False).double()
    inputs = torch.randn(40, 7, 3, dtype=torch.float64)
    states, last = model(inputs)
    assert_same(last, model.readout(states[-1], None))
    assert_all_same((states, last), model.forward_by_steps(inputs))


@pytest.mark.parametrize(
    ("sizes", "shape", "H", "future", "message"),
    [
        ((1, 4, 1), (5, 2), None, 0, r"inputs have shape \(5, 2\): .* \(T, B, 1\)"),
        ((1, 4, 1), (0, 2, 1), None, 0, r"inputs have shape \(0, 2, 1\)"),
        ((1, 4, 1), (5, 0, 1), None, 0, r"\(5, 0, 1\): .*at least .* one sequence"),
        ((1, 4, 1), (5, 2, 1), torch.zeros(1, 4), 0, r"\(1, 4\): expected \(2, 4\)"),
        ((1, 4, 1), (5, 2, 1), None, -1, "future = -1"),
        ((1, 4, 2), (5, 2, 1), None, 2, "future = 2: .* can be its next input"),
    ],
)
def test_shapes_that_do_not_fit_are_named(sizes, shape, H, future, message):
    model = GRU(*sizes)
    for loop in (model.forward, model.forward_fast, model.forward_by_steps):
        with pytest.raises(ValueError, match=message):
            loop(torch.zeros(shape), H, future)


def test_residual_needs_an_input_that_can_be_added_to_the_readout():
    for sizes, per_timestep_readout in (((1, 4, 2), True), ((1, 4, 1), False)):
        with pytest.raises(ValueError, match="expected num_inputs >= num_outputs"):
            GRU(*sizes, per_timestep_readout, residual=True)
