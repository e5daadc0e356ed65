"""The kernels against the plain loop under autograd: on a GPU, or without one in Triton's interpreter."""

import importlib.util

import pytest
import torch

import models
from models import GRU

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # to be said before Triton is imported, and the first optimizer of any test imports it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton  # noqa: F401


@pytest.fixture
def interpreter(monkeypatch):
    """Let a CPU take the kernels; in all other tests it takes the loop in PyTorch."""
    if DEVICE.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.mark.parametrize(
    ("num_inputs", "num_hiddens", "num_outputs", "B", "T", "future", "residual"),
    [
        (1, 1, 1, 1, 1, 0, False),
        (1, 5, 1, 1, 4, 3, True),
        (2, 7, 2, 3, 2, 3, False),
        (3, 16, 2, 3, 1, 0, True),  # more inputs than outputs
        (3, 33, 3, 2, 1, 2, True),
        (2, 128, 1, 1, 3, 0, False),
        (15, 4, 15, 2, 2, 2, True),
    ],
)
def test_kernels_match_forward_by_steps(num_inputs, num_hiddens, num_outputs, B, T, future, residual, interpreter):
    torch.manual_seed(0)
    model = GRU(num_inputs, num_hiddens, num_outputs, residual=residual).to(DEVICE, torch.float64)
    inputs = torch.randn(B, T, num_inputs).to(model.fc.weight).transpose(0, 1).requires_grad_()  # not contiguous
    H = torch.randn(num_hiddens).to(model.fc.weight).expand(B, -1).requires_grad_()
    results = []
    for run in (model, model.forward_by_steps):
        states, readouts = run(inputs, H, future)
        loss = states.square().sum() + states[::2].mean() + readouts.square().sum()
        results.append([states, readouts, *torch.autograd.grad(loss, [inputs, H, *model.parameters()])])
    for result, expected in zip(*results):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("num_inputs", "num_hiddens", "dtype", "module"),
    [
        (15, 128, torch.float32, "kernels"),
        (16, 128, torch.float32, "models"),
        (15, 129, torch.float32, "models"),
        (1, 8, torch.bfloat16, "models"),
    ],
)
def test_kernels_take_up_to_15_inputs_and_128_units(num_inputs, num_hiddens, dtype, module, interpreter):
    model = GRU(num_inputs, num_hiddens, 1).to(DEVICE, dtype)
    states, _ = model(torch.zeros(1, 1, num_inputs, dtype=dtype, device=DEVICE))
    assert type(states.grad_fn)._forward_cls.__module__ == module


def test_cpu_takes_the_loop_in_pytorch():
    states, _ = GRU(1, 8, 1)(torch.zeros(1, 1, 1))
    assert type(states.grad_fn)._forward_cls is models.Recurrence
