"""Compare a step of a GRU that you have written with GRU.single_step: values first, then gradients.

    python tests/check_step.py my_step.py

my_step.py holds single_step(X, H, W), which returns Z, R, H_tilde and H_new; W is a dict of the weights, by name.
"""

import runpy
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from models import GRU


def gates_and_state(gru, X, H):
    """What GRU.single_step computes on the way: all that passes through σ, σ and tanh, which are Z, R and H_tilde."""
    seen = []

    def noting(function):
        return lambda A: seen.append(function(A)) or seen[-1]

    with patch("torch.sigmoid", noting(torch.sigmoid)), patch("torch.tanh", noting(torch.tanh)):
        H_new, _ = gru.single_step(X, H)
    return *seen, H_new


def check(single_step):
    """Return what is to be said of `single_step`: the first value that differs, or the gradients, or nothing wrong."""
    torch.manual_seed(0)
    gru = GRU(2, 5, 1).double()  # in float64: what differs is a mistake, not rounding
    W = {name: weight for name, weight in gru.named_parameters() if not name.startswith("fc")}
    H = H_ours = torch.randn(3, 5).double()
    for t, X in enumerate(torch.randn(6, 3, 2).double()):
        yours, ours = single_step(X, H, W), gates_and_state(gru, X, H_ours)
        for name, one, other in zip(("Z", "R", "H_tilde", "H_new"), yours, ours, strict=True):
            if not isinstance(one, torch.Tensor):
                return f"step {t}: {name} is still to be written"
            if one.shape != other.shape:
                return f"step {t}: {name} has shape {tuple(one.shape)}: expected {tuple(other.shape)}"
            if not torch.allclose(one, other):
                return f"step {t}: {name} is the first to differ, by up to {(one - other).abs().max():.2g}"
        H, H_ours = yours[-1], ours[-1]
    gradients = [torch.autograd.grad(state.square().sum(), W.values(), materialize_grads=True) for state in (H, H_ours)]
    wrong = [name for name, one, other in zip(W, *gradients) if not torch.allclose(one, other)]
    return f"the gradients differ: {', '.join(wrong)}" if wrong else "all four agree, and so do the gradients"


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit("usage: python tests/check_step.py FILE, a file that holds single_step(X, H, W)")
    print(check(runpy.run_path(sys.argv[1])["single_step"]))
