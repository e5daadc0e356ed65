"""Which loop over time a network takes; and that what is taught is what runs.

The fast loops repeat the equations of `GRU.single_step`. So whoever edits that step, or
a loop, would train the other one without knowing it. Therefore the two are compared
here, on a few steps of a small network, before a fast loop runs for the first time.
"""

import os
import sys
from importlib.util import find_spec

import torch

from backstage.recurrence import Recurrence
from backstage.weights import Weights

TRITON = find_spec("triton") is not None
LARGEST_KERNEL = 128  # units: the weights of more do not fit into a processor
MOST_INPUTS = 15

verdicts = {}  # (single_step, readout, loop, device): whether they agree


def computes(model, textbook):
    """Whether a fast loop computes the same as single_step of this network.

    textbook: the class whose step the loops repeat, GRU. A model with a step or a
    readout of its own, by a subclass or on the object itself, is not one of them.
    """
    for name in ("single_step", "readout"):
        own = getattr(model, name)
        if getattr(own, "__func__", own) is not getattr(textbook, name):
            return False
    if torch.compiler.is_compiling():
        return False  # torch.compile cannot look into a gradient by hand
    loop = loop_for(model, model.fc.weight, model.fc.weight)
    key = (textbook.single_step, textbook.readout, loop, model.device.type)
    if key not in verdicts:
        verdicts[key] = compare(textbook, loop, model.device)
    return verdicts[key]


def run(model, inputs, H, future):
    """Go through time from H (B, n), over inputs (T, B, num_inputs) and beyond.

    Returns the states (T + future, B, n) and the inputs that the network made for
    itself (future, B, num_inputs).
    """
    loop = loop_for(model, inputs, H)
    keep = torch.is_grad_enabled()
    return loop.apply(inputs, H, future, model.residual, keep, *Weights.of(model))


def loop_for(model, inputs, H):
    """Choose the loop in PyTorch, or the kernel if it runs on H's device and fits."""
    fits = model.num_hiddens <= LARGEST_KERNEL and model.num_inputs <= MOST_INPUTS
    one_dtype = inputs.dtype == H.dtype == model.b_z.dtype
    precise = H.dtype in (torch.float32, torch.float64)
    if fits and one_dtype and precise and kernel_runs_on(H.device):
        from backstage.kernels import KernelRecurrence  # Triton only if it is needed

        return KernelRecurrence
    return Recurrence


def kernel_runs_on(device):
    """Whether the loop can be one kernel: on a GPU with Triton, or in its interpreter.

    TRITON_INTERPRET=1 in the environment asks for the interpreter.
    """
    if not TRITON:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


@torch.inference_mode(False)
@torch.enable_grad()
def compare(textbook, loop, device):
    """Take a few steps both ways, with gradients; say in one line if they differ."""
    with torch.random.fork_rng(devices=[]):  # leave the run's own numbers as they are
        model = textbook(2, 5, 2, residual=True).double().to(device)
        inputs = torch.randn(4, 3, 2, dtype=torch.float64).to(device)
        H = torch.randn(3, 5, dtype=torch.float64).to(device)
    by_steps = with_gradients(model, *model.forward_by_steps(inputs, H, future=2))
    try:
        weights = Weights.of(model)
        states, generated = loop.apply(inputs, H, 2, model.residual, True, *weights)
        readouts = model.readout(states, torch.cat([inputs, generated]))
        difference = first_difference(by_steps, with_gradients(model, states, readouts))
    except Exception as error:  # of another shape, another name, ...
        difference = f"the fast loop raises {type(error).__name__}: {error}"
    if difference is not None:
        print(
            f"note: {difference}. GRU.single_step and the fast loop no longer agree: "
            "the plain loop over single_step is taken, which is slower",
            file=sys.stderr,
        )
    return difference is None


def with_gradients(model, states, readouts):
    """Name -> tensor: what a loop returned, and the gradients of a loss of it."""
    names = [name for name, _ in model.named_parameters()]
    loss = states.square().sum() + readouts.square().sum()
    gradients = torch.autograd.grad(
        loss, list(model.parameters()), materialize_grads=True
    )
    results = {"the states": states, "the readouts": readouts}
    for name, gradient in zip(names, gradients):
        results[f"the gradients of {name}"] = gradient
    return results


def first_difference(by_steps, fast):
    """Name the first of the results that differs by more than rounding, or None."""
    for name, expected in by_steps.items():
        if not torch.allclose(fast[name], expected, rtol=1e-9, atol=1e-9):
            largest = (fast[name] - expected).abs().max().item()
            return f"{name} differ by up to {largest:.1g}"
    return None
