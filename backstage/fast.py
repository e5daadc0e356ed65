"""What is taught is what runs: when may a fast loop take the place of `single_step`?

The fast loops repeat the equations of `GRU.single_step`. Whoever edits that step, or a
loop, would train the other one without knowing it. Therefore the two are compared, on a
few steps of the network itself, before a fast loop runs for the first time.

The steps have random inputs of the order 1. What shows only elsewhere, such as a clamp
at 5, is not noticed: write it in a subclass, which always goes by steps.
"""

import copy
import os
import sys
from importlib.util import find_spec
from operator import attrgetter
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch

from backstage import recurrence
from backstage.weights import Weights

TRITON = find_spec("triton") is not None
MOST_KERNEL_UNITS = 128  # of a kernel: the weights of more do not fit into registers
MOST_KERNEL_INPUTS = 15


class Verdict(NamedTuple):
    """Whether both loops agreed, and of which code and device that was found."""

    agree: bool
    code: tuple


# takes all functions and classes of a module like recurrence, quickly
of_recurrence = attrgetter(
    *[name for name, value in vars(recurrence).items() if callable(value)]
)
verdicts = WeakKeyDictionary()  # network -> Verdict
reported = set()  # the code of which a difference has been reported


def may_run(model, textbook):
    """Whether the fast loop computes what single_step of this network says.

    textbook: the class whose step the loops repeat, GRU. A network with a step or a
    readout of its own, by a subclass or on the object itself, goes by steps.
    """
    # torch.compile cannot look into a gradient by hand
    if has_own_step(model, textbook) or torch.compiler.is_compiling():
        return False
    code = all_code(model, textbook)
    verdict = verdicts.get(model)
    if verdict is None or verdict.code != code:
        difference = compare(model)
        if difference is not None:
            report_once(difference, code)
        verdict = Verdict(difference is None, code)
        verdicts[model] = verdict
    return verdict.agree


def has_own_step(model, textbook):
    for name in ("single_step", "readout", "features"):
        method = getattr(model, name)
        function = getattr(method, "__func__", method)  # behind a bound method
        if function is not getattr(textbook, name):
            return True
    return False


def all_code(model, textbook):
    """The textbook, the loop in PyTorch, and which loop, device and mode is taken.

    In a notebook the functions may be defined again after a verdict.
    """
    of_textbook = (
        textbook.single_step,
        textbook.readout,
        textbook.features,
        textbook.forward_by_steps,
        textbook.forward_fast,
    )
    of_loop = of_recurrence(recurrence)
    # a weight stands for inputs and state: only their dtype and device count
    loop = loop_for(model, model.W_hh, model.W_hh)
    # `training` decides about a dropout
    return *of_textbook, *of_loop, loop, model.device.type, model.training


def report_once(difference, code):
    if code in reported:
        return
    reported.add(code)
    print(
        "note: the fast loop no longer computes what GRU.single_step says: "
        f"{difference}. The plain loop over single_step is taken",
        file=sys.stderr,
    )


# the first run may be a prediction: gradients are compared all the same
@torch.inference_mode(False)
@torch.enable_grad()
def compare(model):
    """Take a few steps of a network both ways, in float64; say how they differ.

    Returns None if values and gradients agree. An error of single_step is raised.
    """
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # it keeps a tensor of an earlier step, for example
        return f"the network cannot be copied ({type(error).__name__})"
    # twin.double() would change it in place, which torch.func forbids
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    twin.load_state_dict(weights, assign=True)
    twin.requires_grad_()
    # leave the run's own random numbers as they are
    with torch.random.fork_rng(devices=[]):
        inputs = torch.randn(4, 3, model.num_inputs).to(twin.W_hh).requires_grad_()
        H = torch.randn(3, model.num_hiddens).to(twin.W_hh).requires_grad_()
    by_steps = with_gradients(twin, twin.forward_by_steps, inputs, H)
    try:
        by_hand = with_gradients(twin, twin.forward_fast, inputs, H)
    except Exception as error:  # a weight of another shape or name, ...
        return f"the fast loop raises {type(error).__name__}: {error}"
    return first_difference(by_steps, by_hand)


def with_gradients(model, loop, inputs, H):
    """What a loop returns, and the gradients of a loss of it: name -> tensor."""
    future = 2 if model.can_feed_itself else 0
    states, readouts = loop(inputs, H, future)
    loss = states.square().sum() + readouts.square().sum()
    leaves = {
        "the inputs": inputs,
        "the first state": H,
        **dict(model.named_parameters()),
    }
    # zeros, not None, for a weight that an edited step does not use
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    results = {"the states": states, "the readouts": readouts}
    for name, gradient in zip(leaves, gradients):
        results[f"the gradients of {name}"] = gradient
    return results


def first_difference(expected, got):
    """Name the first of the results that differs by more than rounding, or None."""
    for name in expected:
        # weights that are not numbers give the same in both
        agree = torch.allclose(
            got[name], expected[name], rtol=1e-9, atol=1e-9, equal_nan=True
        )
        if not agree:
            largest = (got[name] - expected[name]).abs().max().item()
            return f"{name} differ by up to {largest:.1g}"
    return None


def run(model, inputs, H, future):
    """Go through time from H (B, n), over inputs (T, B, num_inputs) and beyond.

    Returns the states (T + future, B, n) and the inputs that the network made for
    itself (future, B, num_inputs).
    """
    loop = loop_for(model, inputs, H)
    # inside of a Function gradients are always off: so it is told whether one is wanted
    keep = torch.is_grad_enabled()
    return loop.apply(inputs, H, future, model.residual, keep, *Weights.of(model))


def loop_for(model, inputs, H):
    """Choose the loop in PyTorch, or the kernel if it runs on H's device and fits."""
    fits = (
        model.num_hiddens <= MOST_KERNEL_UNITS
        and model.num_inputs <= MOST_KERNEL_INPUTS
    )
    one_dtype = inputs.dtype == H.dtype == model.W_hh.dtype
    precise = H.dtype in (torch.float32, torch.float64)
    if fits and one_dtype and precise and kernel_runs_on(H.device):
        from backstage.kernels import KernelRecurrence  # Triton only if it is needed

        return KernelRecurrence
    return recurrence.Recurrence


def kernel_runs_on(device):
    """Whether the loop can be one kernel: on a GPU with Triton, or in its interpreter.

    TRITON_INTERPRET=1 in the environment asks for the interpreter.
    """
    if not TRITON:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
