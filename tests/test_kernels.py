"""The kernels against the plain loop under autograd: on a GPU, or interpreted.

Without a GPU Triton's interpreter does, in NumPy, what the GPU would do.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backstage import fast
from backstage.recurrence import Recurrence
from models import GRU

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
TOP = Path(__file__).resolve().parents[1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
with pytest.MonkeyPatch.context() as patch:
    # to be said before Triton is imported, which the first optimizer of any test does
    if DEVICE.type == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")
    import triton
    import triton.language as tl

    from backstage.kernels import KernelRecurrence, tanh

    @triton.jit
    def tanh_kernel(A_pointer, result_pointer, LENGTH: tl.constexpr):
        place = tl.arange(0, LENGTH)
        tl.store(result_pointer + place, tanh(tl.load(A_pointer + place)))


@pytest.fixture
def interpreter(monkeypatch):
    """Let a CPU take the kernels; in all other tests it takes the loop in PyTorch."""
    if DEVICE.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def test_the_short_kernel_of_the_page_computes_the_states(tmp_path):
    """docs/gpu.md: saved as a file, as Triton reads the source, and run as it says."""
    page = (TOP / "docs" / "gpu.md").read_text()
    block = re.search(r"^```py\n(.*?)^```$", page, re.M | re.S)
    path = tmp_path / "kernel.py"
    path.write_text(block[1])
    env = os.environ | {"PYTHONPATH": str(TOP)}
    if DEVICE.type == "cpu":
        env["TRITON_INTERPRET"] = "1"
    command = [sys.executable, str(path)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert float(run.stdout.rpartition(" ")[2]) < 1e-6


def results_and_gradients(loop, model, inputs, H, future):
    """Run a loop; return all that it computes, and the gradients of a loss of it."""
    states, readouts = loop(inputs, H, future)
    loss = states.square().sum() + states[::2].mean() + readouts.square().sum()
    sources = [inputs, H, *model.parameters()]
    return [states, readouts, *torch.autograd.grad(loss, sources)]


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
def test_kernels_match_forward_by_steps(
    num_inputs, num_hiddens, num_outputs, B, T, future, residual, interpreter
):
    torch.manual_seed(0)
    model = GRU(num_inputs, num_hiddens, num_outputs, residual=residual)
    model.to(DEVICE, torch.float64)
    inputs = torch.randn(B, T, num_inputs).to(model.fc.weight)
    inputs = inputs.transpose(0, 1).requires_grad_()  # not contiguous
    H = torch.randn(num_hiddens).to(model.fc.weight)
    H = H.expand(B, -1).requires_grad_()  # one row in memory, if B > 1
    assert fast.loop_for(model, inputs, H) is KernelRecurrence
    results = results_and_gradients(model.forward_fast, model, inputs, H, future)
    expected = results_and_gradients(model.forward_by_steps, model, inputs, H, future)
    torch.testing.assert_close(results, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 0.1, 1e-2, 1e-4])
def test_gradients_are_right_to_rounding_for_weights_of_any_size(
    scale, dtype, interpreter
):
    torch.manual_seed(0)
    model = GRU(2, 33, 2, residual=True).to(DEVICE)
    inputs = scale * torch.randn(3, 2, 2, device=DEVICE)
    H = scale * torch.randn(2, 33, device=DEVICE)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= scale

    def run(loop, dtype):
        model.to(dtype)
        start = [inputs.to(dtype).requires_grad_(), H.to(dtype).requires_grad_()]
        states, readouts = loop(*start, 2)
        loss = states.sum() + readouts.sum()
        return torch.autograd.grad(loss, [*start, *model.parameters()])

    gradients = run(model.forward_fast, dtype)
    expected = run(model.forward_by_steps, torch.float64)
    for gradient, true in zip(gradients, expected):
        error = (gradient - true).norm() / true.norm()
        assert error < 30 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_is_right_to_rounding_for_numbers_of_any_size(dtype):
    A = torch.logspace(-30, 1.5, 1024, dtype=torch.float64)
    A = torch.cat([A, -A, torch.linspace(-1, 1, 2048, dtype=torch.float64)])
    A = A.to(DEVICE, dtype)
    result = torch.empty_like(A)
    tanh_kernel[(1,)](A, result, len(A))
    expected = A.double().tanh()
    error = (result.double() - expected).abs() / expected.abs()
    assert error.max() < 16 * torch.finfo(dtype).eps


def test_results_do_not_depend_on_whose_gradient_is_asked_for(interpreter):
    torch.manual_seed(0)
    model = GRU(2, 5, 2, residual=True).to(DEVICE)
    inputs = torch.randn(3, 2, 2, device=DEVICE)
    for future in (0, 2):
        states, _ = model.forward_fast(inputs, future=future)
        gradients = torch.autograd.grad(states.sum(), [model.W_xz, model.W_hh])
        of_inputs = inputs.clone().requires_grad_()
        same, _ = model.forward_fast(of_inputs, future=future)
        expected = torch.autograd.grad(same.sum(), [model.W_xz, model.W_hh, of_inputs])
        torch.testing.assert_close(gradients, expected[:2], rtol=0, atol=0)
        with torch.no_grad():
            predicted, _ = model.forward_fast(inputs, future=future)
        torch.testing.assert_close([predicted, same], [states, states], rtol=0, atol=0)


def test_second_derivatives_are_refused(interpreter):
    model = GRU(1, 2, 1).to(DEVICE)
    inputs = torch.zeros(2, 1, 1, device=DEVICE, requires_grad=True)
    states, _ = model.forward_fast(inputs)
    with pytest.raises(RuntimeError, match="first derivative only"):
        torch.autograd.grad(states.sum(), inputs, create_graph=True)


@pytest.mark.parametrize(
    ("num_inputs", "num_hiddens", "dtype", "loop"),
    [
        (15, 128, torch.float32, KernelRecurrence),
        (16, 128, torch.float32, Recurrence),
        (15, 129, torch.float32, Recurrence),
        (1, 8, torch.bfloat16, Recurrence),
    ],
)
def test_kernels_take_up_to_15_inputs_and_128_units(
    num_inputs, num_hiddens, dtype, loop, interpreter
):
    model = GRU(num_inputs, num_hiddens, 1).to(DEVICE, dtype)
    inputs = torch.zeros(1, 1, num_inputs, dtype=dtype, device=DEVICE)
    states, _ = model.forward_fast(inputs)
    assert type(states.grad_fn)._forward_cls is loop


@pytest.mark.parametrize(
    ("value", "runs"), [(None, False), ("0", False), ("", False), ("1", True)]
)
def test_cpu_takes_kernels_only_if_the_interpreter_is_asked_for(
    value, runs, monkeypatch
):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if value is not None:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    assert fast.kernel_runs_on(torch.device("cpu")) is runs


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from backstage import kernels

CONSTANTS = {"RESIDUAL": True, "FUTURE": True, "UNITS": 32, "INPUTS": 2}
for kernel in (kernels.forward_kernel, kernels.backward_kernel):
    signature = {}
    for name in kernel.arg_names:
        if name in CONSTANTS:
            signature[name] = "constexpr"
        elif name in kernels.Sizes._fields:
            signature[name] = "i32"
        else:
            signature[name] = "*fp32"
    source = ASTSource(kernel, signature, CONSTANTS)
    options = {"num_warps": kernels.NUM_WARPS[32], "enable_fp_fusion": True}
    compile(source, target=GPUTarget("cuda", 90, 32), options=options)
"""


@pytest.mark.skipif(DEVICE.type == "cuda", reason="all other tests compile them")
def test_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter takes more than the compiler, which needs no GPU."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, cwd=TOP, check=True
    )
