"""Compare a step of a GRU that you have written with the textbook's: values first, then
gradients.

    python extras/check_step.py my_step.py

my_step.py holds single_step(X, H, W), which returns Z, R, H_tilde and H_new; W is a
dict of the weights by name. One line says what is found. Exit status: 0 if the step is
right, 1 if it is wrong, 2 if there is no such file.
"""

import inspect
import runpy
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

VALUES = ("Z", "R", "H_tilde", "H_new")
ALL_AGREE = "all four agree, and so do the gradients"

# (B, num_inputs, num_hiddens) of each step. The three differ, so that a mistake of
# shape shows; they change, so that a size written as a number shows; some are 1, so
# that a lost axis shows.
SIZES = ((3, 2, 5), (3, 2, 5), (4, 6, 2), (4, 6, 2), (1, 1, 3), (2, 3, 1))

# everything is in float64, whose rounding is far below this; that of float32 is above
TOLERANCE = 1e-9
FLOAT32_ROUNDING = 1e-6


class Mistake(Exception):  # noqa: N818 (it is the student's, not the program's)
    """What is wrong with a step, in one line."""


def textbook_step(X, H, W):
    """Return Z, R, H_tilde and H_new, each (B, num_hiddens).

    X: the inputs (B, num_inputs). H: the states (B, num_hiddens). W: the weights by
    name. These are the equations of GRU.single_step, and tests hold the two together.
    """
    Z = torch.sigmoid(X @ W["W_xz"] + H @ W["W_hz"] + W["b_z"])
    R = torch.sigmoid(X @ W["W_xr"] + H @ W["W_hr"] + W["b_r"])
    H_tilde = torch.tanh(X @ W["W_xh"] + (R * H) @ W["W_hh"] + W["b_h"])
    H_new = Z * H + (1 - Z) * H_tilde
    return Z, R, H_tilde, H_new


def draw_inputs(generator, B, num_inputs, num_hiddens):
    """Draw everything that enters a step, by name: X, H, then the nine weights.

    As normal numbers: gates come close to 0 and 1, states go beyond -1 and 1.
    """
    shapes = {"X": (B, num_inputs), "H": (B, num_hiddens)}
    for part in ("z", "r", "h"):
        shapes[f"W_x{part}"] = (num_inputs, num_hiddens)
        shapes[f"W_h{part}"] = (num_hiddens, num_hiddens)
        shapes[f"b_{part}"] = (num_hiddens,)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


@dataclass
class Call:
    """One call of a step, with copies of its own of everything."""

    leaves: dict  # what gradients are taken for, by name
    handed: dict  # copies of the leaves, which the step gets
    W: dict  # the handed weights
    returned: dict  # what the step returns, by name
    copies: dict  # the same, as it was when it was returned


def call_step(single_step, given):
    """Call a step with copies of the inputs `given`; return the Call.

    Raises Mistake if it does not return four values.
    """
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
    # copied once more: torch forbids changing a leaf in place, without saying which
    handed = {name: leaf.clone() for name, leaf in leaves.items()}
    W = {name: handed[name] for name in given if name not in ("X", "H")}
    values = single_step(handed["X"], handed["H"], W)
    check_number(values)
    returned = dict(zip(VALUES, values))
    copies = {name: copy_of(value) for name, value in returned.items()}
    return Call(leaves, handed, W, returned, copies)


def check_number(values):
    """Raise Mistake if the step does not return four values."""
    expected = ", ".join(VALUES)
    if values is None:
        raise Mistake(f"single_step returns nothing: expected {expected}")
    if not isinstance(values, (tuple, list)):
        kind = type(values).__name__
        raise Mistake(f"single_step returns one {kind}: expected {expected}")
    if len(values) != len(VALUES):
        number = len(values)
        raise Mistake(f"single_step returns {number} values: expected 4, {expected}")


def copy_of(value):
    """Copy a tensor; what is no tensor is judged in check_value."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value


def same(one, other):
    """Whether two tensors hold the same numbers; what is no tensor does not count."""
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return True
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one, other, rtol=0, atol=TOLERANCE, equal_nan=True)


def check_step(single_step, ours, given, others):
    """Raise Mistake if `single_step` differs from `ours`, the Call with inputs `given`.

    others: inputs for a call in between, after which nothing may have changed.
    """
    yours = call_step(single_step, given)
    call_step(single_step, others)
    check_unchanged(yours, given)
    check_repeatable(yours, again=call_step(single_step, given))
    for name in VALUES:
        check_value(name, yours.returned[name], ours)
    for name in VALUES:
        check_gradients(name, yours, ours)


def check_unchanged(yours, given):
    """Raise Mistake if what the step was handed, or what it returned, has changed."""
    for name in given:
        if not same(yours.handed[name], given[name]):
            raise Mistake(f"{name} is changed in place: leave it as it is")
    entries = list(yours.W)
    if entries != [name for name in given if name not in ("X", "H")]:
        raise Mistake(f"W is changed: it now holds {', '.join(map(str, entries))}")
    for name in entries:
        if yours.W[name] is not yours.handed[name]:
            raise Mistake(f"W is changed: {name} is another tensor now")
    for name in VALUES:
        if not same(yours.returned[name], yours.copies[name]):
            raise Mistake(f"{name} changes with the next call: return a new tensor")


def check_repeatable(yours, again):
    """Raise Mistake if the step depends on more than X, H and W."""
    for name in VALUES:
        if not same(yours.copies[name], again.copies[name]):
            raise Mistake(
                f"{name} changes although X, H and W are the same: "
                "is it random, or is something kept from call to call?"
            )


def check_value(name, value, ours):
    """Raise Mistake if `value`, returned as `name`, is not ours."""
    expected = ours.returned[name]
    if value is ...:
        raise Mistake(f"{name} is still to be written")
    if not isinstance(value, torch.Tensor):
        raise Mistake(f"{name} is {type(value).__name__}: expected a tensor")
    if value.shape != expected.shape:
        shapes = f"{tuple(value.shape)}: expected {tuple(expected.shape)}"
        raise Mistake(f"{name} has shape {shapes}")
    if value.dtype != expected.dtype:
        dtypes = f"{value.dtype}: expected {expected.dtype}"
        raise Mistake(f"{name} is {dtypes}, as X, H and W are")
    if same(value, expected):
        return
    known = ours.returned | {"H": ours.handed["H"]}
    for other in known:
        if same(value, known[other]):
            raise Mistake(f"what you return as {name} is {other}")
    difference = (value - expected).abs().max().item()
    what = f"{name} is the first to differ, by up to {difference:.2g}"
    if difference < FLOAT32_ROUNDING:
        what += ": is something computed in float32?"
    raise Mistake(what)


def check_gradients(name, yours, ours):
    """Raise Mistake if the gradients of the returned value `name` are not ours."""
    if not yours.returned[name].requires_grad:
        raise Mistake(f"no gradient flows back from {name}: is something detached?")
    weighting = ours.copies[name]  # the gradient of half the sum of the squares
    expected = gradients(ours, name, weighting)
    try:
        found = gradients(yours, name, weighting)
    except RuntimeError as error:  # torch adds a paragraph on how to find the place
        reason = str(error).split(":")[0]
        raise Mistake(f"there is no gradient of {name}: {reason}") from None
    missing = []
    wrong = []
    largest = 0.0
    for leaf in expected:
        if same(found[leaf], expected[leaf]):
            continue
        if not found[leaf].any():
            missing.append(leaf)
        wrong.append(leaf)
        largest = max(largest, (found[leaf] - expected[leaf]).abs().max().item())
    if missing:
        raise Mistake(f"no gradient of {name} reaches {', '.join(missing)}")
    if wrong:
        where = ", ".join(wrong)
        raise Mistake(
            f"the gradient of {name} differs for {where}, by up to {largest:.2g}"
        )


def gradients(one_call, name, weighting):
    """Return the gradients of the returned value `name`, by the names of the leaves."""
    found = torch.autograd.grad(
        one_call.returned[name],
        list(one_call.leaves.values()),
        weighting,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(one_call.leaves, found))


def load_step(path):
    """Run the file `path` and return its single_step; raises Mistake without one."""
    scope = runpy.run_path(str(path))
    if "single_step" not in scope:
        functions = [name for name in scope if inspect.isfunction(scope[name])]
        found = ", ".join(functions) or "no function"
        raise Mistake(f"{path.name} defines {found}: expected single_step(X, H, W)")
    single_step = scope["single_step"]
    if not callable(single_step):
        kind = type(single_step).__name__
        raise Mistake(f"{path.name}: single_step is {kind}: expected a function")
    check_signature(single_step)
    return single_step


def check_signature(single_step):
    """Raise Mistake if `single_step` cannot be called as single_step(X, H, W)."""
    signature = inspect.signature(single_step)
    unfit = Mistake(f"single_step{signature}: expected single_step(X, H, W)")
    try:
        arguments = signature.bind("X", "H", "W").arguments
    except TypeError:
        raise unfit from None
    for name, argument in arguments.items():
        if name in ("X", "H", "W") and name != argument:
            raise unfit


def describe(error, path):
    """Say in one line what was raised, and in which line of the file `path`."""
    numbers = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    place = path.name
    if isinstance(error, SyntaxError) and error.lineno:
        place = f"{Path(error.filename).name}, line {error.lineno}"
    elif numbers:
        place = f"{path.name}, line {numbers[-1]}"
    what = traceback.format_exception_only(error)[-1].splitlines()[0]
    if "ellipsis" in what:
        what += " (a ... is still to be written)"
    return f"{place}: {what}"


def check(path):
    """Return, in one line, what is to be said of the step in the file `path`."""
    path = Path(path)
    generator = torch.Generator().manual_seed(0)
    all_given = [draw_inputs(generator, *sizes) for sizes in SIZES]
    all_others = [draw_inputs(generator, *sizes) for sizes in SIZES]
    # ours come first: what the student's file does to torch is not to reach them
    all_ours = [call_step(textbook_step, given) for given in all_given]
    place = ""
    try:
        single_step = load_step(path)
        for t, sizes in enumerate(SIZES):
            place = f"step {t}: "
            if sizes != SIZES[0]:
                place = f"step {t}, (B, num_inputs, num_hiddens) = {sizes}: "
            check_step(single_step, all_ours[t], all_given[t], all_others[t])
    except Mistake as mistake:
        return f"{place}{mistake}"
    except (Exception, SystemExit) as error:  # the student's code can raise anything
        return f"{place}{describe(error, path)}"
    return ALL_AGREE


def main(arguments):
    """Check the file that the shell names; return the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python extras/check_step.py my_step.py", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    if path.is_dir():
        print(f"{path} is a folder: expected a file like my_step.py", file=sys.stderr)
        return 2
    if not path.is_file():
        print(f"{path}: no such file", file=sys.stderr)
        return 2
    sys.path.insert(0, str(path.parent))  # where the student's own modules lie
    said = check(path)
    print(said)
    if said == ALL_AGREE:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
