"""What is taught is what runs: an edited step is the one that is trained."""

import pytest
import torch

from backstage import fast, recurrence
from models import GRU


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch):
    monkeypatch.setattr(fast, "reported", set())


def no_reset_gate(self, X, H):
    Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)
    H_tilde = torch.tanh(X @ self.W_xh + H @ self.W_hh + self.b_h)
    H_new = Z * H + (1 - Z) * H_tilde
    return H_new, self.readout(H_new, X)


def exchanged(self, X, H):
    Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)
    R = torch.sigmoid(X @ self.W_xr + H @ self.W_hr + self.b_r)
    H_tilde = torch.tanh(X @ self.W_xh + (R * H) @ self.W_hh + self.b_h)
    H_new = (1 - Z) * H + Z * H_tilde
    return H_new, self.readout(H_new, X)


def detached(self, X, H):
    """Right numbers, another gradient."""
    Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)
    R = torch.sigmoid(X @ self.W_xr + H @ self.W_hr + self.b_r)
    H_tilde = torch.tanh(X @ self.W_xh + (R * H) @ self.W_hh + self.b_h)
    H_new = Z * H.detach() + (1 - Z) * H_tilde
    return H_new, self.readout(H_new, X)


def squared_readout(self, H, X):
    return self.fc(torch.relu(H) ** 2)


def squared_features(self, H):
    return torch.relu(H) ** 2


EDITS = {
    "no reset gate": ("single_step", no_reset_gate),
    "Z and 1 - Z exchanged": ("single_step", exchanged),
    "another gradient": ("single_step", detached),
    "another readout": ("readout", squared_readout),
    "other features": ("features", squared_features),
}


def trained(model, loop):
    """The weights after three updates through `loop`."""
    torch.manual_seed(1)
    x = torch.randn(30, 4, 1, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        _, readouts = loop(x)
        loss = (readouts[:-1] - x[1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: weight.detach() for name, weight in model.named_parameters()}


def assert_what_is_written_is_what_is_trained(cell):
    networks = []
    for _ in range(3):
        torch.manual_seed(0)
        networks.append(cell(1, 6, 1).double())
    one, same, other = networks
    got = trained(one, one.forward)
    expected = trained(same, same.forward_by_steps)
    of_the_textbook = trained(other, other.forward_fast)
    assert all(torch.equal(got[name], expected[name]) for name in got)
    # a free run, too
    x = torch.randn(5, 2, 1, dtype=torch.float64)
    _, free_run = one(x, future=4)
    assert torch.equal(free_run, one.forward_by_steps(x, future=4)[1])
    # the loop that is not taken would have done something else
    differs = not torch.allclose(got["W_hh"], of_the_textbook["W_hh"], rtol=1e-3)
    assert differs or not torch.allclose(free_run, one.forward_fast(x, future=4)[1])


@pytest.mark.parametrize("edit", EDITS)
def test_a_step_of_a_subclass_is_what_is_trained_and_nothing_is_said(edit, capsys):
    name, function = EDITS[edit]
    assert_what_is_written_is_what_is_trained(type("Own", (GRU,), {name: function}))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_in_place_is_what_is_trained_and_it_is_said_once(
    edit, capsys, monkeypatch
):
    monkeypatch.setattr(GRU, *EDITS[edit])
    assert_what_is_written_is_what_is_trained(GRU)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no longer computes what GRU.single_step says" in said


def test_a_step_of_an_object_of_its_own_is_what_runs():
    torch.manual_seed(0)
    model = GRU(1, 6, 1)
    model.single_step = lambda X, H: no_reset_gate(model, X, H)
    x = torch.randn(9, 2, 1)
    states, _ = model(x)
    assert torch.equal(states, model.forward_by_steps(x)[0])
    assert not torch.allclose(states, model.forward_fast(x)[0])


def test_an_edit_that_only_this_network_shows_is_noticed(capsys, monkeypatch):
    """By its size, or by an attribute that is zero in others."""

    def of_six_units(self, X, H):
        if self.num_hiddens == 6:
            return no_reset_gate(self, X, H)
        return STEP(self, X, H)

    monkeypatch.setattr(GRU, "single_step", of_six_units)
    assert_what_is_written_is_what_is_trained(GRU)
    assert "no longer computes" in capsys.readouterr().err


STEP = GRU.single_step


def test_an_edit_of_forward_fast_is_noticed(capsys, monkeypatch):
    def halved(self, inputs, H=None, future=0):
        states, readouts = FORWARD_FAST(self, inputs, H, future)
        return states, readouts / 2

    monkeypatch.setattr(GRU, "forward_fast", halved)
    assert_what_is_written_is_what_is_trained(GRU)
    assert "the readouts differ" in capsys.readouterr().err


FORWARD_FAST = GRU.forward_fast


def test_a_step_that_is_another_one_in_training_is_noticed_there(monkeypatch):
    def drops_half_in_training(self, X, H):
        return STEP(self, X, H / 2 if self.training else H)

    monkeypatch.setattr(GRU, "single_step", drops_half_in_training)
    model = GRU(1, 6, 1).eval()
    x = torch.randn(9, 2, 1)
    model(x)
    model.train()
    assert torch.equal(model(x)[0], model.forward_by_steps(x)[0])


def test_an_edit_after_the_first_run_is_noticed(capsys, monkeypatch):
    model = GRU(1, 6, 1)
    x = torch.randn(9, 2, 1)
    model(x)
    monkeypatch.setattr(GRU, "single_step", no_reset_gate)
    assert torch.equal(model(x)[0], model.forward_by_steps(x)[0])
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.undo()
    states, _ = model(x)
    assert type(states.grad_fn)._forward_cls is recurrence.Recurrence


def forget_the_reset_path(run, block, transposed, dstates, dH, dX):
    """The loop back with a term of dH left out: right numbers, a wrong gradient."""
    without = transposed._replace(W_hgT=torch.zeros_like(transposed.W_hgT))
    return LOOP_BACKWARD(run, block, without, dstates, dH, dX)


LOOP_BACKWARD = recurrence.loop_backward


@pytest.mark.parametrize("name", ["loop_forward", "loop_backward"])
def test_an_edit_of_the_fast_loop_is_noticed(name, capsys, monkeypatch):
    if name == "loop_backward":
        monkeypatch.setattr(recurrence, name, forget_the_reset_path)
    else:
        monkeypatch.setattr(recurrence, name, lambda run, block, stacked: None)
    torch.manual_seed(0)
    one = GRU(1, 6, 1).double()
    torch.manual_seed(0)
    same = GRU(1, 6, 1).double()
    got = trained(one, one.forward)
    expected = trained(same, same.forward_by_steps)
    assert all(torch.equal(got[name], expected[name]) for name in got)
    assert "no longer computes" in capsys.readouterr().err


def test_a_weight_of_another_shape_goes_by_steps(capsys, monkeypatch):
    def diagonal(self, X, H):
        H_new = torch.tanh(X @ self.W_xh + H * self.W_hh[0] + self.b_h)
        return H_new, self.readout(H_new, X)

    init = GRU.__init__

    def smaller(self, *sizes, **switches):
        init(self, *sizes, **switches)
        self.W_hh = torch.nn.Parameter(self.W_hh[:1].detach())

    monkeypatch.setattr(GRU, "__init__", smaller)
    monkeypatch.setattr(GRU, "single_step", diagonal)
    model = GRU(1, 6, 1)
    x = torch.randn(9, 2, 1)
    assert torch.equal(model(x)[0], model.forward_by_steps(x)[0])
    assert "the fast loop raises RuntimeError" in capsys.readouterr().err


def test_an_error_in_an_edited_step_keeps_its_traceback(monkeypatch):
    def mistaken(self, X, H):
        return H @ self.W_xz, self.readout(H, X)

    monkeypatch.setattr(GRU, "single_step", mistaken)
    with pytest.raises(RuntimeError) as error:
        GRU(1, 6, 1)(torch.randn(9, 2, 1))
    assert error.traceback[-1].name == "mistaken"


def test_the_textbook_takes_the_fast_loop_and_leaves_the_random_numbers(capsys):
    model = GRU(1, 6, 1)
    x = torch.randn(9, 2, 1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.inference_mode():
        model(x)  # compared even if the first run is a prediction
    states, _ = model(x)
    assert torch.equal(torch.rand(3), expected)
    assert type(states.grad_fn)._forward_cls is recurrence.Recurrence
    assert capsys.readouterr().err == ""
