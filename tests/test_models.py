"""The GRU against a float64 NumPy loop, nn.GRU and autograd over single steps; and its checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import models
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
        if model.reset_after:
            H_tilde = np.tanh(X @ p["W_xh"] + p["b_h"] + R * (H @ p["W_hh"] + p["b_hh"]))
        else:
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


def test_first_weights_are_as_large_as_those_of_nn_gru():
    torch.manual_seed(0)
    model, rnn = GRU(3, 100, 1), nn.GRU(3, 100)
    largest = rnn.weight_hh_l0.abs().max().item()
    recurrent = [weight for name, weight in model.named_parameters() if not name.startswith("fc.")]
    assert len(recurrent) == 9
    for weight in recurrent:
        assert weight.min().item() == pytest.approx(-largest, rel=0.1)
        assert weight.max().item() == pytest.approx(largest, rel=0.1)


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_forward_and_single_step_equal_the_numpy_loop(residual, reset_after):
    model, inputs, H = example(residual=residual, reset_after=reset_after)
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


# ---- the gradient by hand ----


def gradients(model, run, inputs, H, seed=1, future=0):
    """Return the outputs, and the gradients of a random weighting of them: of the inputs, H and every parameter."""
    outputs = run(inputs, H, future)
    torch.manual_seed(seed)
    weighted = sum((output * torch.randn_like(output)).sum() for output in outputs)
    return [*outputs, *torch.autograd.grad(weighted, [inputs, H, *model.parameters()])]


def assert_all_close(got, expected, tolerance=1e-12):
    assert len(got) == len(expected)
    for one, other in zip(got, expected):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= tolerance * (1 + other.abs().max())


def random_sizes(count, seed=0):
    """T, B, num_inputs, num_hiddens, all from 1 up; and how many steps to run on."""
    rng = np.random.default_rng(seed)
    return [tuple(int(size) for size in rng.integers(1, (60, 8, 5, 20))) for _ in range(count)] + [(1, 1, 1, 1)]


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_gradient_by_hand_equals_autograd_over_single_steps(reset_after, residual, monkeypatch):
    rng = np.random.default_rng(2)
    for T, B, num_inputs, num_hiddens in random_sizes(25):
        monkeypatch.setattr(models, "BLOCK", int(rng.choice([1, 50, 300, 2**16])))  # blocks of every length
        future = int(rng.choice([0, 0, 1, 9]))
        model, inputs, H = example(
            T, B, num_inputs, num_hiddens, num_inputs, residual=residual, reset_after=reset_after
        )
        inputs.requires_grad_(), H.requires_grad_()
        by_hand = gradients(model, model.forward, inputs, H, future=future)
        assert_all_close(by_hand, gradients(model, model.forward_by_steps, inputs, H, future=future))


def test_values_and_gradients_equal_nn_gru():
    for T, B, num_inputs, num_hiddens in random_sizes(50, seed=1):
        torch.manual_seed(T)
        rnn, fc = nn.GRU(num_inputs, num_hiddens).double(), nn.Linear(num_hiddens, 2).double()
        model = GRU.from_torch(rnn, fc)
        inputs = torch.randn(T, B, num_inputs).double().requires_grad_()
        H = torch.randn(B, num_hiddens).double().requires_grad_()

        def run(inputs, H, future, rnn=rnn, fc=fc):
            states, _ = rnn(inputs, H[None])
            return states, fc(states.relu())

        theirs = nn.ModuleList([rnn, fc])
        expected = gradients(theirs, run, inputs, H)
        states, readouts, d_inputs, d_H, dW_xz, dW_hz, db_z, dW_xr, dW_hr, db_r, dW_xh, dW_hh, db_h, db_hh, *d_fc = (
            gradients(model, model.forward, inputs, H)
        )
        in_their_order = [
            *(states, readouts, d_inputs, d_H),
            *(torch.hstack(gates).t() for gates in ([dW_xr, dW_xz, dW_xh], [dW_hr, dW_hz, dW_hh])),
            *(torch.hstack(gates) for gates in ([db_r, db_z, db_h], [db_r, db_z, db_hh])),
            *d_fc,
        ]
        assert_all_close(in_their_order, expected)


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("future", [0, 3])
def test_gradcheck(reset_after, future):
    model, inputs, H = example(T=4, B=2, num_hiddens=3, residual=True, reset_after=reset_after)
    inputs.requires_grad_(), H.requires_grad_()
    names, weights = zip(*model.named_parameters())

    def run(inputs, H, *weights):
        return torch.func.functional_call(model, dict(zip(names, weights)), (inputs, H, future))

    assert torch.autograd.gradcheck(run, (inputs, H, *weights))


@pytest.mark.parametrize("output", [0, 1])
def test_gradient_where_one_output_is_not_used(output):
    model, inputs, H = example()
    inputs.requires_grad_(), H.requires_grad_()
    wanted = [inputs, H, model.W_xz, model.W_hr, model.W_hh, model.b_h]
    by_hand = torch.autograd.grad(model(inputs, H)[output][-1].sum(), wanted)
    assert_all_close(by_hand, torch.autograd.grad(model.forward_by_steps(inputs, H)[output][-1].sum(), wanted))


def test_non_contiguous_tensors():
    model, inputs, H = example()
    inputs, H = inputs.transpose(0, 1).contiguous().transpose(0, 1), H.t().contiguous().t()
    assert not inputs.is_contiguous()
    inputs.requires_grad_(), H.requires_grad_()
    assert_all_close(gradients(model, model, inputs, H), gradients(model, model.forward_by_steps, inputs, H))


def test_no_grad_gives_the_same_values():
    model, inputs, H = example()
    states, readouts = model(inputs, H, future=5)
    with torch.no_grad():
        quiet_states, quiet_readouts = model(inputs, H, future=5)
    assert torch.equal(states, quiet_states)
    assert torch.equal(readouts, quiet_readouts)
    assert not quiet_states.requires_grad


def test_weights_get_their_gradient_where_the_input_needs_none():
    model, inputs, H = example()
    model(inputs, H)[1].sum().backward()
    expected = torch.autograd.grad(model.forward_by_steps(inputs, H)[1].sum(), list(model.parameters()))
    assert_all_close([weight.grad for weight in model.parameters()], expected)


def test_float32_agrees_with_float64_over_a_thousand_steps():
    model, inputs, H = example(T=1000, B=4, num_hiddens=32)
    inputs.requires_grad_(), H.requires_grad_()
    expected = gradients(model, model, inputs, H)
    narrow = GRU(**model.config())
    narrow.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    outputs = narrow(inputs.float(), H.float())
    weighted = sum((output * torch.randn_like(output.double()).float()).sum() for output in outputs)
    got = [*outputs, *torch.autograd.grad(weighted, [inputs, H, *narrow.parameters()])]
    assert_all_close([tensor.double() for tensor in got], expected, tolerance=1e-4)


def test_second_backward_through_the_same_graph():
    model, inputs, H = example()
    loss = model(inputs, H, future=4)[1].square().sum()
    first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(first, second))


def second_derivatives():
    """What asks for more than a first derivative: name -> function of a model and its inputs."""
    functional = torch.autograd.functional

    def loss(model, x):
        return model(x)[1].square().sum()

    def penalty(model, x):
        (gradient,) = torch.autograd.grad(model(x)[0].sum(), x, create_graph=True)
        gradient.square().sum().backward()

    def forward_mode(model, x, tangents="inputs"):
        with torch.no_grad(), forward_ad.dual_level():
            if tangents == "inputs":
                return model(forward_ad.make_dual(x, torch.ones_like(x)))
            duals = {n: forward_ad.make_dual(w, torch.ones_like(w)) for n, w in model.named_parameters()}
            return torch.func.functional_call(model, duals, (x,))

    def nested_forward_mode(model, x):
        one = torch.ones((), dtype=x.dtype)

        def tangent(x):
            with torch.no_grad():  # where the outer tangent would be lost in silence
                return torch.func.jvp(lambda factor: factor * loss(model, x), (one,), (one,))[1]

        return torch.func.jvp(tangent, (x,), (torch.ones_like(x),))

    return {
        "nested forward mode": nested_forward_mode,
        "jacfwd": lambda model, x: torch.func.jacfwd(lambda x: loss(model, x))(x.detach()),
        "gradient penalty": penalty,
        "hessian": lambda model, x: functional.hessian(lambda x: loss(model, x), x),
        "hvp": lambda model, x: functional.hvp(lambda x: loss(model, x), x, torch.ones_like(x)),
        "jvp": lambda model, x: functional.jvp(lambda x: loss(model, x), x, torch.ones_like(x)),
        "dual inputs": forward_mode,
        "dual weights": lambda model, x: forward_mode(model, x, "weights"),
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own forward mode uses it
@pytest.mark.parametrize("kind", second_derivatives())
def test_more_than_a_first_derivative_is_refused(kind):
    model, inputs, _ = example(T=5)
    with pytest.raises(RuntimeError, match="forward_by_steps"):
        second_derivatives()[kind](model, inputs.requires_grad_())


def test_forward_by_steps_has_second_derivatives():
    model, inputs, _ = example(T=5)
    states, _ = model.forward_by_steps(inputs.requires_grad_())
    (gradient,) = torch.autograd.grad(states.sum(), inputs, create_graph=True)
    gradient.square().sum().backward()
    assert model.W_hz.grad.norm() > 1e-3


@pytest.mark.parametrize("part", ["forward", "backward"])
def test_autocast_is_refused(part):
    model, inputs = GRU(1, 4, 1, residual=True), torch.randn(5, 2, 1)
    loss = model(inputs, future=3)[1].sum()
    with pytest.raises(RuntimeError, match="autocast"), torch.autocast("cpu", dtype=torch.bfloat16):
        model(inputs) if part == "forward" else loss.backward()


def test_a_compiled_network_runs_uncompiled_and_leaves_the_compiler_as_it_is():
    model, inputs = GRU(1, 4, 1, residual=True), torch.randn(6, 2, 1)
    states, readouts = torch.compile(model, backend="eager")(inputs, future=3)
    torch.testing.assert_close(readouts, model(inputs, future=3)[1])
    states.sum().backward()
    torch.testing.assert_close(model.W_hh.grad, torch.autograd.grad(model(inputs, future=3)[0].sum(), model.W_hh)[0])
    torch.compile(nn.Linear(1, 1), backend="eager")(inputs).sum().backward()


def test_predict_takes_sequences_as_a_dataset_has_them():
    model, inputs, _ = example()
    predicted = model.predict(inputs.transpose(0, 1))
    assert predicted.shape == (3, 40, 2)
    assert not predicted.requires_grad
    assert_same(predicted.transpose(0, 1), model(inputs)[1].detach().numpy())
    last = GRU(3, 5, 2, per_timestep_readout=False)
    x = torch.randn(7, 40, 3)
    assert_same(last.predict(x), last(x.transpose(0, 1))[1].detach().numpy())


def test_to_torch_gives_back_what_from_torch_took():
    torch.manual_seed(0)
    rnn = nn.GRU(3, 5).double()
    back = GRU.from_torch(rnn).to_torch()
    inputs, H = torch.randn(30, 2, 3).double(), torch.randn(1, 2, 5).double()
    torch.testing.assert_close(back(inputs, H), rnn(inputs, H), rtol=1e-12, atol=1e-12)


def test_from_torch_without_biases():
    rnn = nn.GRU(2, 4, bias=False)
    inputs = torch.randn(20, 3, 2)
    torch.testing.assert_close(GRU.from_torch(rnn)(inputs)[0], rnn(inputs)[0])


@pytest.mark.parametrize(
    ("rnn", "fc", "why"),
    [
        (nn.LSTM(1, 4), None, "LSTM"),
        (nn.GRU(1, 4, num_layers=2), None, "num_layers = 2"),
        (nn.GRU(1, 4, bidirectional=True), None, "bidirectional = True"),
        (nn.GRU(1, 4, batch_first=True), None, "batch_first = True"),
        (nn.GRU(1, 4), nn.Linear(5, 1), "4 hidden units"),
    ],
)
def test_what_cannot_be_converted_is_refused(rnn, fc, why):
    with pytest.raises(ValueError, match=why):
        GRU.from_torch(rnn, fc)


def test_textbook_form_cannot_become_nn_gru():
    with pytest.raises(ValueError, match="reset_after = False"):
        GRU(1, 4, 1).to_torch()


@pytest.mark.parametrize("residual", [False, True])
def test_fit_readout_is_least_squares_and_leaves_the_rest_alone(residual):
    model, inputs, _ = example(T=60, B=40, residual=residual)
    x, y = inputs.transpose(0, 1), torch.randn(40, 60, 2).double()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.fit_readout(x, y, skip=7, ridge=1e-10)
    states = numpy_gru(model, inputs.numpy(), np.zeros((40, 7)))[0]
    features = np.maximum(states[7:], 0).reshape(-1, 7)
    features = np.column_stack([features, np.ones(len(features))])
    target = (y - x if residual else y).transpose(0, 1)[7:].reshape(-1, 2).numpy()
    expected = np.linalg.lstsq(features, target, rcond=None)[0]
    np.testing.assert_allclose(model.fc.weight.detach(), expected[:-1].T, atol=1e-7)
    np.testing.assert_allclose(model.fc.bias.detach(), expected[-1], atol=1e-7)
    assert all(torch.equal(before[n], w) for n, w in model.state_dict().items() if not n.startswith("fc"))


@pytest.mark.parametrize("residual", [False, True])
def test_fit_readout_in_float32_never_sees_the_skipped_targets(residual):
    torch.manual_seed(2)
    model, x, y = GRU(1, 6, 1, residual=residual), torch.randn(70, 30, 1), torch.randn(70, 30, 1)  # three parts
    fitted = []
    for spoil in (False, True):
        if spoil:
            y[:, :5] = torch.nan
        model.fit_readout(x, y, skip=5)
        fitted.append(model.fc.weight.detach().clone())
    assert torch.equal(*fitted)
    states = model(x.transpose(0, 1))[0][5:].detach().relu().double().reshape(-1, 6).numpy()
    target = (y - x if residual else y)[:, 5:].transpose(0, 1).reshape(-1).double().numpy()
    expected = np.linalg.lstsq(np.column_stack([states, np.ones(len(states))]), target, rcond=None)[0]
    np.testing.assert_allclose(fitted[0][0], expected[:-1], rtol=1e-4, atol=1e-5)
    y[:, 5] += 1.0
    model.fit_readout(x, y, skip=5)
    assert not torch.equal(model.fc.weight, fitted[0])


@pytest.mark.parametrize(
    ("x", "y", "skip"),
    [
        (torch.zeros(4, 20, 1), torch.zeros(3, 20, 1), 5),
        (torch.zeros(4, 20, 1), torch.zeros(4, 1, 1), 0),
        (torch.zeros(4, 20, 1), torch.zeros(4, 20, 1), 20),
        (torch.zeros(4, 20, 1), torch.zeros(4, 20, 1), -3),
        (torch.zeros(4, 20, 1), torch.full((4, 20, 1), torch.nan), 5),
    ],
)
def test_fit_readout_refuses_what_does_not_fit_together(x, y, skip):
    model = GRU(1, 4, 1)
    before = model.fc.weight.clone()
    with pytest.raises(ValueError, match="^x "):
        model.fit_readout(x, y, skip)
    assert torch.equal(model.fc.weight, before)


# ---- bad input ----


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_checkpoint_keeps_the_type(dtype, tmp_path):
    model = GRU(1, 6, 1).to(dtype)
    torch.manual_seed(3)
    save_checkpoint(tmp_path / "model.pth", model)
    again = load_checkpoint(tmp_path / "model.pth")
    assert torch.initial_seed() == 3
    assert torch.equal(torch.rand(3), torch.manual_seed(3) and torch.rand(3))  # no random number was drawn
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in again.state_dict().items())
    assert again.W_hh.dtype == dtype
    assert again.W_hh.requires_grad


def unloadable():
    normed = GRU(1, 4, 1)
    nn.utils.parametrizations.weight_norm(normed, "W_hh")
    broken = GRU(1, 4, 1)
    broken.b_h.data[0] = torch.nan
    mixed, complex_numbers = GRU(1, 4, 1), GRU(1, 4, 1)
    mixed.fc.double()
    for weight in complex_numbers.parameters():
        weight.data = weight.data.to(torch.complex64)

    class Doubled(GRU):
        def readout(self, H, X):
            return 2 * super().readout(H, X)

    return {
        "a subclass": (Doubled(1, 4, 1), {}),
        "of another kind": (nn.GRU(1, 4), {}),
        "of mixed types": (mixed, {}),
        "of complex numbers": (complex_numbers, {}),
        "a tensor": (GRU(1, 4, 1), {"dt": torch.ones(2)}),
        "a list": (GRU(1, 4, 1), {"dt": [0.4]}),
        "np.float64": (GRU(1, 4, 1), {"dt": np.float64(0.4)}),
        "Path": (GRU(1, 4, 1), {"origin": Path("here")}),
        "parametrized": (normed, {}),
        "compiled": (torch.compile(GRU(1, 4, 1), backend="eager"), {}),
        "not finite": (broken, {}),
    }


@pytest.mark.parametrize("kind", unloadable())
def test_what_would_not_load_again_is_not_saved(kind, tmp_path):
    model, info = unloadable()[kind]
    with pytest.raises(ValueError, match=r"checkpoint .*model\.pth: would not load again"):
        save_checkpoint(tmp_path / "model.pth", model, **info)
    assert not list(tmp_path.iterdir())


def test_sizes_of_numpy_are_numbers_like_others(tmp_path):
    save_checkpoint(tmp_path / "model.pth", GRU(np.int64(1), np.int32(4), 1))
    assert load_checkpoint(tmp_path / "model.pth").num_hiddens == 4
