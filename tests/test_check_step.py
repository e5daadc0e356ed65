"""The checker of the first exercise, held against right steps and wrong ones."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from extras.check_step import (
    ALL_AGREE,
    VALUES,
    check,
    draw_inputs,
    main,
    textbook_step,
)
from models import GRU

TOP = Path(__file__).resolve().parents[1]
CHECKER = TOP / "extras" / "check_step.py"
SECTION = (TOP / "docs" / "exercises.md").read_text().split("\n## ")[1]
SKELETON, ANSWER = re.findall(r"^```py\n(.*?)^```$", SECTION, re.M | re.S)
BLANKS = "    R = ...\n    H_tilde = ...\n    H_new = ...\n"
STEP = SKELETON.replace(BLANKS, textwrap.indent(textwrap.dedent(ANSWER), "    "))

DEF = "def single_step(X, H, W):\n"
RETURN = "    return Z, R, H_tilde, H_new\n"
Z_LINE = '    Z = torch.sigmoid(X @ W["W_xz"] + H @ W["W_hz"] + W["b_z"])\n'
R_LINE = '    R = torch.sigmoid(X @ W["W_xr"] + H @ W["W_hr"] + W["b_r"])\n'
H_TILDE_LINE = (
    '    H_tilde = torch.tanh(X @ W["W_xh"] + (R * H) @ W["W_hh"] + W["b_h"])\n'
)
H_NEW_LINE = "    H_new = Z * H + (1 - Z) * H_tilde\n"
NO_GRADIENT = "step 0: no gradient flows back from"

# what is wrong -> (what is replaced in the right step, by what, what the line says)
WRONG = {
    # the equations
    "other roles of Z": (
        "Z * H + (1 - Z) * H_tilde",
        "(1 - Z) * H + Z * H_tilde",
        "step 0: H_new is the first to differ, by up to",
    ),
    "R after the product": (
        '(R * H) @ W["W_hh"]',
        'R * (H @ W["W_hh"])',
        "step 0: H_tilde is the first to differ, by up to",
    ),
    "no b_z": (' + W["b_z"]', "", "step 0: Z is the first to differ, by up to"),
    "no b_r": (' + W["b_r"]', "", "step 0: R is the first to differ, by up to"),
    "no b_h": (' + W["b_h"]', "", "step 0: H_tilde is the first to differ"),
    "b_z twice": ('W["b_z"]', '2 * W["b_z"]', "step 0: Z is the first to differ"),
    "minus b_z": ('+ W["b_z"]', '- W["b_z"]', "step 0: Z is the first to differ"),
    "no reset": ("(R * H)", "H", "step 0: H_tilde is the first to differ"),
    "reset by Z": ("(R * H)", "(Z * H)", "step 0: H_tilde is the first to differ"),
    "reset of X": (
        'X @ W["W_xh"] + (R * H)',
        '(R[:, :2] * X) @ W["W_xh"] + H',
        "step 0: H_tilde is the first to differ",
    ),
    "no input in Z": ('X @ W["W_xz"] + ', "", "step 0: Z is the first to differ"),
    "no state in Z": (' + H @ W["W_hz"]', "", "step 0: Z is the first to differ"),
    "tanh for Z": (
        'torch.sigmoid(X @ W["W_xz"]',
        'torch.tanh(X @ W["W_xz"]',
        "step 0: Z is the first to differ",
    ),
    "sigmoid for H_tilde": (
        "torch.tanh",
        "torch.sigmoid",
        "step 0: H_tilde is the first to differ",
    ),
    "no tanh": ("torch.tanh", "", "step 0: H_tilde is the first to differ"),
    "hard sigmoid": (
        'torch.sigmoid(X @ W["W_xr"]',
        'torch.nn.functional.hardsigmoid(X @ W["W_xr"]',
        "step 0: R is the first to differ",
    ),
    "W_hz transposed": ('W["W_hz"]', 'W["W_hz"].t()', "step 0: Z is the first to"),
    "W_hz and W_hr exchanged": ('W["W_hz"]', 'W["W_hr"]', "step 0: Z is the first"),
    "R from the weights of Z": (
        R_LINE,
        Z_LINE.replace("Z =", "R ="),
        "step 0: what you return as R is Z",
    ),
    "elementwise product": (
        'H @ W["W_hz"]',
        'H * W["W_hz"].diagonal()',
        "step 0: Z is the first to differ",
    ),
    "no old state": ("Z * H + (1", "(1", "step 0: H_new is the first to differ"),
    "R for Z": ("Z * H +", "R * H +", "step 0: H_new is the first to differ"),
    "1 + Z": ("(1 - Z)", "(1 + Z)", "step 0: H_new is the first to differ"),
    "state clamped": (
        "H_new = Z * H",
        "H_new = Z * H.clamp(-1, 1)",
        "step 0: H_new is the first to differ",
    ),
    "gates clamped": (
        RETURN,
        "    Z = Z.clamp(0.01, 0.99)\n" + RETURN,
        "Z is the first to differ",
    ),
    "not a number": (RETURN, "    R = R / 0 * 0\n" + RETURN, "step 0: R is the first"),
    # what is returned
    "Z and R exchanged": (
        "return Z, R,",
        "return R, Z,",
        "step 0: what you return as Z is R",
    ),
    "H_tilde and H_new exchanged": (
        "H_tilde, H_new\n",
        "H_new, H_tilde\n",
        "step 0: what you return as H_tilde is H_new",
    ),
    "H_new first": (
        "return Z, R, H_tilde, H_new",
        "return H_new, Z, R, H_tilde",
        "step 0: what you return as Z is H_new",
    ),
    "the old state": (
        "H_tilde, H_new\n",
        "H_tilde, H\n",
        "step 0: what you return as H_new is H",
    ),
    "H_tilde made into H_new in place": (
        H_NEW_LINE,
        "    H_new = H_tilde.mul_(1 - Z).add_(Z * H)\n",
        "step 0: what you return as H_tilde is H_new",
    ),
    "H_new alone": (
        RETURN,
        "    return H_new\n",
        "step 0: single_step returns one Tensor: expected Z, R, H_tilde, H_new",
    ),
    "two values": (
        RETURN,
        "    return H_tilde, H_new\n",
        "step 0: single_step returns 2 values: expected 4, Z, R, H_tilde, H_new",
    ),
    "five values": (
        RETURN,
        "    return Z, R, H_tilde, H_new, H\n",
        "step 0: single_step returns 5 values: expected 4, Z, R, H_tilde, H_new",
    ),
    "no return": (
        RETURN,
        "",
        "step 0: single_step returns nothing: expected Z, R, H_tilde, H_new",
    ),
    "a dict": (
        RETURN,
        "    return dict(Z=Z, R=R, H_tilde=H_tilde, H_new=H_new)\n",
        "step 0: single_step returns one dict: expected Z, R, H_tilde, H_new",
    ),
    "a generator": ("return", "yield", "step 0: single_step returns one generator"),
    "one row": (
        "return Z,",
        "return Z[:1],",
        "step 0: Z has shape (1, 5): expected (3, 5)",
    ),
    "transposed": (
        "return Z,",
        "return Z.t(),",
        "step 0: Z has shape (5, 3): expected (3, 5)",
    ),
    "one axis more": (
        "H_tilde, H_new\n",
        "H_tilde, H_new[None]\n",
        "step 0: H_new has shape (1, 3, 5): expected (3, 5)",
    ),
    "a number": ("return Z,", "return 0.5,", "step 0: Z is float: expected a tensor"),
    "None": ("return Z, R,", "return Z, None,", "step 0: R is NoneType: expected a t"),
    "NumPy": (
        "return Z,",
        "return Z.detach().numpy(),",
        "step 0: Z is ndarray: expected a tensor",
    ),
    "float32": (
        "return Z,",
        "return Z.float(),",
        "step 0: Z is torch.float32: expected torch.float64, as X, H and W are",
    ),
    "float32 inside": (
        'torch.tanh(X @ W["W_xh"]',
        'torch.tanh((X @ W["W_xh"]).float()',
        ": is something computed in float32?",
    ),
    # what is not written yet, and what Python or torch refuses
    "R not written": (R_LINE, "    R = ...\n", "my_step.py, line 7: TypeError: "),
    "H_tilde not written": (
        H_TILDE_LINE,
        "    H_tilde = ...\n",
        "my_step.py, line 8: TypeError: unsupported operand type(s) for *: 'Tensor' "
        "and 'ellipsis' (a ... is still to be written)",
    ),
    "H_new not written": (
        H_NEW_LINE,
        "    H_new = ...\n",
        "step 0: H_new is still to be written",
    ),
    "a term not written": (
        'H @ W["W_hz"]',
        "H @ ...",
        "step 0: my_step.py, line 5: TypeError: ",
    ),
    "a weight that is not there": (
        'W["W_xz"]',
        'W["W_zx"]',
        "step 0: my_step.py, line 5: KeyError: 'W_zx'",
    ),
    "a weight as an attribute": (
        'W["b_h"]',
        "W.b_h",
        "step 0: my_step.py, line 7: AttributeError: 'dict' object has no attribute",
    ),
    "a name that is not there": (
        "torch.tanh",
        "tanh",
        "step 0: my_step.py, line 7: NameError: name 'tanh' is not defined",
    ),
    "weights on the left": (
        'X @ W["W_xr"]',
        'W["W_xr"] @ X',
        "step 0: my_step.py, line 6: RuntimeError: mat1 and mat2 shapes",
    ),
    "two types in a product": (
        'X @ W["W_xz"]',
        'X.float() @ W["W_xz"]',
        "step 0: my_step.py, line 5: RuntimeError: expected ",
    ),
    "a parenthesis missing": (
        'W["b_r"])',
        'W["b_r"]',
        "my_step.py, line 6: SyntaxError: ",
    ),
    "a line not indented": (H_NEW_LINE, H_NEW_LINE[4:], "my_step.py, line 9: Indent"),
    "a line indented too far": (R_LINE, "  " + R_LINE, "my_step.py, line 6: Indenta"),
    "torch not imported": (
        "import torch\n",
        "\n",
        "step 0: my_step.py, line 5: NameError: name 'torch' is not defined",
    ),
    "a module that is not there": (
        "import torch\n",
        "import torch, torhc\n",
        "my_step.py, line 1: ModuleNotFoundError: No module named 'torhc'",
    ),
    "a file that ends the run": (DEF, "exit()\n" + DEF, "my_step.py, line 4: SystemEx"),
    "another name": (
        "single_step",
        "gru_step",
        "my_step.py defines gru_step: expected single_step(X, H, W)",
    ),
    "an empty file": (
        STEP,
        "",
        "my_step.py defines no function: expected single_step(X, H, W)",
    ),
    "no function": (
        STEP,
        "single_step = 4\n",
        "my_step.py: single_step is int: expected a function",
    ),
    "two arguments": (
        "(X, H, W)",
        "(X, H)",
        "single_step(X, H): expected single_step(X, H, W)",
    ),
    "four arguments": (
        "(X, H, W)",
        "(self, X, H, W)",
        "single_step(self, X, H, W): expected single_step(X, H, W)",
    ),
    "arguments exchanged": (
        "(X, H, W)",
        "(H, X, W)",
        "single_step(H, X, W): expected single_step(X, H, W)",
    ),
    # what it does to what it is given
    "H changed in place": (
        "H_new = Z * H + (1 - Z) * H_tilde",
        "H_new = H.mul_(Z).add_((1 - Z) * H_tilde)",
        "step 0: H is changed in place: leave it as it is",
    ),
    "H changed before anything": (
        Z_LINE,
        "    H *= 0.5\n" + Z_LINE,
        "step 0: H is changed in place: leave it as it is",
    ),
    "H changed behind autograd": (
        RETURN,
        "    H.data.copy_(H_new)\n" + RETURN,
        "step 0: H is changed in place: leave it as it is",
    ),
    "H turned in place": (
        RETURN,
        "    H.t_()\n" + RETURN,
        "step 0: H is changed in place: leave it as it is",
    ),
    "X changed in place": (
        RETURN,
        "    X.zero_()\n" + RETURN,
        "step 0: X is changed in place: leave it as it is",
    ),
    "a weight changed in place": (
        RETURN,
        '    W["b_z"].data += 1\n' + RETURN,
        "step 0: b_z is changed in place: leave it as it is",
    ),
    "a weight changed first": (
        Z_LINE,
        '    W["W_hh"].data *= 2\n' + Z_LINE,
        "step 0: W_hh is changed in place: leave it as it is",
    ),
    "another weight put into W": (
        RETURN,
        '    W["b_z"] = W["b_z"] + 1\n' + RETURN,
        "step 0: W is changed: b_z is another tensor now",
    ),
    "a weight taken out of W": (
        'W["b_h"]',
        'W.pop("b_h")',
        "step 0: W is changed: it now holds W_xz, W_hz, b_z, W_xr, W_hr, b_r, W_xh, W",
    ),
    # what depends on more than X, H and W
    "a state of its own": (
        DEF,
        "kept = []\n"
        + DEF
        + "    H = kept[-1] if kept and kept[-1].shape == H.shape else H\n"
        + "    kept.append(textbook(X, H, W)[-1].detach())\n"
        + "    return textbook(X, H, W)\n\n\n"
        + DEF.replace("single_step", "textbook"),
        "step 0: Z changes although X, H and W are the same",
    ),
    "dropout": (
        "    H_tilde = torch.tanh(",
        "    H_tilde = torch.nn.functional.dropout(",
        "step 0: H_tilde changes although X, H and W are the same: is it random",
    ),
    "a count of calls": (
        DEF,
        "count = []\n" + DEF + "    count.append(1)\n    H = H * (len(count) < 8)\n",
        "step 2, (B, num_inputs, num_hiddens) = (4, 6, 2): Z changes although X,",
    ),
    "one buffer for every H_new": (
        RETURN,
        "    buffer.resize_(H.shape).copy_(H_new.detach())\n"
        "    return Z, R, H_tilde, buffer\n\n\n"
        "buffer = torch.empty(0).double()\n",
        "step 0: H_new changes with the next call: return a new tensor",
    ),
    "weights of the first call": (
        DEF,
        "first = {}\n" + DEF + "    W = first.setdefault(W['b_z'].shape, dict(W))\n",
        "step 1: Z is the first to differ",
    ),
    "five units": (
        "H_new = Z * H + (1 - Z) * H_tilde",
        "H_new = torch.zeros(len(X), 5).double() + Z * H + (1 - Z) * H_tilde",
        "step 2, (B, num_inputs, num_hiddens) = (4, 6, 2): my_step.py, line 8: Runtim",
    ),
    "three sequences": (
        "    H_new",
        "    H = H[:3]\n    H_new",
        "step 2, (B, num_inputs, num_hiddens) = (4, 6, 2): my_step.py, line 9: Runtim",
    ),
    "axes of one lost": (
        RETURN,
        "    return Z.squeeze(), R, H_tilde, H_new\n",
        "step 4, (B, num_inputs, num_hiddens) = (1, 1, 3): Z has shape (3,): expected",
    ),
    # gradients
    "X detached": (
        Z_LINE,
        "    X = X.detach()\n" + Z_LINE,
        "step 0: no gradient of Z reaches X",
    ),
    "X detached in H_tilde": (
        'X @ W["W_xh"]',
        'X.detach() @ W["W_xh"]',
        "step 0: the gradient of H_tilde differs for X, by up to",
    ),
    "H detached": (
        Z_LINE,
        "    H = H.detach()\n" + Z_LINE,
        "step 0: no gradient of Z reaches H",
    ),
    "H detached in H_new": (
        "Z * H ",
        "Z * H.detach() ",
        "step 0: the gradient of H_new differs for H, by up to",
    ),
    "H detached in the reset": (
        "(R * H)",
        "(R * H.detach())",
        "step 0: the gradient of H_tilde differs for H, by up to",
    ),
    "Z detached in H_new": (
        "H_new = Z * H ",
        "H_new = Z.detach() * H ",
        "step 0: the gradient of H_new differs for X, H, W_xz, W_hz, b_z, by up to",
    ),
    "R detached in the reset": (
        "(R * H)",
        "(R.detach() * H)",
        "step 0: no gradient of H_tilde reaches W_xr, W_hr, b_r",
    ),
    "a weight detached": (
        'W["W_hz"]',
        'W["W_hz"].detach()',
        "step 0: no gradient of Z reaches W_hz",
    ),
    "all weights detached": (
        Z_LINE,
        "    W = {name: weight.data for name, weight in W.items()}\n" + Z_LINE,
        "step 0: no gradient of Z reaches W_xz, W_hz, b_z",
    ),
    "no_grad": (DEF, "@torch.no_grad()\n" + DEF, f"{NO_GRADIENT} Z"),
    "inference_mode": (DEF, "@torch.inference_mode()\n" + DEF, f"{NO_GRADIENT} Z"),
    "gradients switched off": (
        "import torch\n",
        "import torch\ntorch.set_grad_enabled(False)\n",
        f"{NO_GRADIENT} Z",
    ),
    "H_new detached": ("H_tilde, H_new\n", "H_tilde, H_new.data\n", "back from H_new"),
    "H_new made anew": (
        "H_tilde, H_new\n",
        "H_tilde, torch.tensor(H_new.tolist()).double()\n",
        "H_new",
    ),
    "a factor of the gradient": (
        H_NEW_LINE,
        H_NEW_LINE + "    H_new = 2 * H_new - H_new.detach()\n",
        "step 0: the gradient of H_new differs for X, H, W_xz",
    ),
    "its own Z changed in place": (
        "H_new = Z * H + (1 - Z) * H_tilde",
        "H_new = H_tilde + Z * (H - H_tilde)\n    Z += 0",
        "step 0: there is no gradient of Z: one of the variables needed for gradient "
        "computation has been modified by an inplace operation",
    ),
}

# how it is written -> what replaces which part of the right step
RIGHT = {
    "as on the page": {},
    "torch.matmul and Tensor.mm": {
        'X @ W["W_xz"]': 'torch.matmul(X, W["W_xz"])',
        'H @ W["W_hz"]': 'H.mm(W["W_hz"])',
    },
    "addmm": {
        Z_LINE: "    A = torch.addmm(W['b_z'], X, W['W_xz'])\n"
        "    Z = torch.addmm(input=A, mat1=H, mat2=W['W_hz']).sigmoid()\n"
    },
    "einsum": {'X @ W["W_xr"]': 'torch.einsum("bi,ih->bh", X, W["W_xr"])'},
    "nn.functional": {
        Z_LINE: "    from torch.nn import functional as F\n"
        "    Z = F.sigmoid(F.linear(X, W['W_xz'].t(), W['b_z']) + H @ W['W_hz'])\n"
    },
    "sigmoid and tanh written out": {
        'torch.sigmoid(X @ W["W_xr"] + H @ W["W_hr"] + W["b_r"])': (
            '1 / (1 + torch.exp(-(X @ W["W_xr"] + H @ W["W_hr"] + W["b_r"])))'
        ),
        "torch.tanh(": "2 * torch.sigmoid(2 * (",
        'W["b_h"])\n': 'W["b_h"])) - 1\n',
    },
    "another order of terms": {
        'X @ W["W_xz"] + H @ W["W_hz"] + W["b_z"]': (
            'W["b_z"] + H @ W["W_hz"] + X @ W["W_xz"]'
        ),
        "Z * H + (1 - Z) * H_tilde": "H_tilde * (1 - Z) + H * Z",
    },
    "lerp": {"Z * H + (1 - Z) * H_tilde": "torch.lerp(H_tilde, H, Z)"},
    "the difference": {"Z * H + (1 - Z) * H_tilde": "H_tilde + Z * (H - H_tilde)"},
    "both gates at once": {
        Z_LINE + R_LINE: '    W_x = torch.cat([W["W_xz"], W["W_xr"]], 1)\n'
        '    W_h = torch.cat([W["W_hz"], W["W_hr"]], 1)\n'
        '    b = torch.cat([W["b_z"], W["b_r"]])\n'
        "    Z, R = torch.sigmoid(X @ W_x + H @ W_h + b).chunk(2, 1)\n"
    },
    "in place on temporaries": {
        Z_LINE: '    Z = X @ W["W_xz"]\n    Z += H @ W["W_hz"]\n    Z += W["b_z"]\n'
        "    Z = Z.sigmoid_()\n"
    },
    "in place on a copy": {
        H_NEW_LINE: "    H_new = H.clone()\n    H_new *= Z\n"
        "    H_new += (1 - Z) * H_tilde\n"
    },
    "other names of the arguments": {
        DEF: "def single_step(x, h, weights, verbose=False):\n"
        "    X, H, W = x, h, weights\n"
    },
    "annotated": {
        DEF: "def single_step(X: torch.Tensor, H: torch.Tensor, W: dict) -> tuple:\n"
    },
    "a function of its own": {
        DEF: "def gate(X, H, W, g):\n"
        '    return torch.sigmoid(X @ W[f"W_x{g}"] + H @ W[f"W_h{g}"] + W[f"b_{g}"])\n'
        "\n\n" + DEF,
        Z_LINE: '    Z = gate(X, H, W, g="z")\n',
        R_LINE: '    R = gate(X=X, H=H, W=W, g="r")\n',
    },
    "names of its own for the weights": {
        Z_LINE: "    W_xz, W_hz, b_z, *_ = W.values()\n"
        "    Z = torch.sigmoid(X @ W_xz + H @ W_hz + b_z)\n"
    },
    "a list": {RETURN: "    return [Z, R, H_tilde, H_new]\n"},
    "a lambda": {
        STEP: STEP.replace("single_step", "f") + "single_step = lambda *a: f(*a)"
    },
    "a callable object": {
        DEF: "class Step:\n  def __call__(self, X, H, W):\n",
        RETURN: RETURN + "\n\nsingle_step = Step()\n",
    },
}


def edited(edits):
    code = STEP
    for old, new in edits.items():
        assert old in code
        code = code.replace(old, new)
    return code


def said_of(code, folder):
    path = folder / "my_step.py"
    path.write_text(code)
    return check(path)


@pytest.fixture(autouse=True)
def _gradients_stay_on():
    """One of the wrong steps switches them off."""
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_step_is_found_and_told_what_is_wrong(what, tmp_path):
    old, new, expected = WRONG[what]
    said = said_of(edited({old: new}), tmp_path)
    assert expected in said
    assert "\n" not in said
    assert len(said) < 300


@pytest.mark.parametrize("how", RIGHT)
def test_a_right_step_agrees_however_it_is_written(how, tmp_path):
    assert said_of(edited(RIGHT[how]), tmp_path) == ALL_AGREE


def test_the_checkers_step_is_that_of_the_network():
    B, num_inputs, num_hiddens = 3, 2, 5
    gru = GRU(num_inputs, num_hiddens, num_outputs=1).double()
    given = draw_inputs(torch.Generator(), B, num_inputs, num_hiddens)
    X = given.pop("X")
    H = given.pop("H")
    weights = {name: W for name, W in gru.state_dict().items() if "fc" not in name}
    assert {name: W.shape for name, W in weights.items()} == {
        name: W.shape for name, W in given.items()
    }
    gru.load_state_dict(given, strict=False)
    expected, _ = gru.single_step(X, H)
    values = dict(zip(VALUES, textbook_step(X, H, given)))
    torch.testing.assert_close(values["H_new"], expected)


def test_the_page_shows_what_the_check_prints(tmp_path):
    assert STEP != SKELETON
    assert said_of(SKELETON, tmp_path) == "step 0: R is still to be written"
    assert f"`{said_of(STEP, tmp_path)}`" in SECTION
    shown = re.findall(r"^\| .* \| `(.*)` \|$", SECTION, re.M)
    mistakes = (
        "other roles of Z",
        "R after the product",
        "no b_r",
        "H detached in H_new",
    )
    printed = []
    for what in mistakes:
        old, new, _ = WRONG[what]
        printed.append(said_of(edited({old: new}), tmp_path))
    assert shown == printed


@pytest.mark.parametrize(
    ("code", "arguments", "status", "printed", "complaint"),
    [
        (STEP, ["my_step.py"], 0, ALL_AGREE, ""),
        (SKELETON, ["my_step.py"], 1, "step 0: R is still to be written", ""),
        ("def single_step(", ["my_step.py"], 1, "my_step.py, line 1: SyntaxErr", ""),
        ("", ["my_step.py"], 1, "my_step.py defines no function", ""),
        (STEP, [], 2, "", "usage: python extras/check_step.py my_step.py"),
        (STEP, ["my_step.py", "my_step.py"], 2, "", "usage: "),
        (STEP, ["--help"], 2, "", "usage: "),
        (STEP, ["mine.py"], 2, "", "mine.py: no such file"),
        (STEP, ["."], 2, "", ". is a folder: expected a file"),
    ],
)
def test_the_shell_gets_one_line_and_a_status_to_grade_by(
    code, arguments, status, printed, complaint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    Path("my_step.py").write_text(code)
    assert main(arguments) == status
    stdout, stderr = capsys.readouterr()
    assert stdout.startswith(printed)
    assert stderr.startswith(complaint)
    assert (stdout + stderr).count("\n") == 1


def test_the_command_of_the_page_runs_with_modules_beside_the_file(tmp_path):
    (tmp_path / "helper.py").write_text("from torch import sigmoid, tanh\n")
    code = STEP.replace("import torch", "import helper").replace("torch.", "helper.")
    (tmp_path / "my_step.py").write_text(code)
    command = [sys.executable, str(CHECKER), str(tmp_path / "my_step.py")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, ALL_AGREE + "\n", "")
    assert "\npython extras/check_step.py my_step.py\n" in SECTION
