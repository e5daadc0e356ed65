"""The gated recurrent unit (GRU) from scratch: one step, the loop over time, its gradient by hand, and its file.

Read `GRU.single_step` first: one line per equation. Source: Cho et al. (2014), https://arxiv.org/abs/1406.1078
"""

import importlib.util
import io
import math
import os
import zipfile
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn


class GRU(nn.Module):
    """A gated recurrent unit with a readout.

    num_inputs, num_hiddens, num_outputs: how many numbers enter, are remembered and leave at every time step.
    per_timestep_readout: read out at every step; if False, only at the last one.
    residual: add the input (its first num_outputs numbers) to the readout: the network learns how the input *changes*.

    Tensors are time first, as in nn.GRU: inputs (T, B, num_inputs), states (T, B, num_hiddens).
    """

    def __init__(self, num_inputs, num_hiddens, num_outputs, per_timestep_readout=True, residual=False):
        super().__init__()
        if residual and (num_inputs < num_outputs or not per_timestep_readout):
            raise ValueError("residual = True: expected num_inputs >= num_outputs and per_timestep_readout = True")
        self.num_inputs, self.num_hiddens, self.num_outputs = num_inputs, num_hiddens, num_outputs
        self.per_timestep_readout, self.residual = per_timestep_readout, residual
        self.info = {}  # what a checkpoint says beside the weights

        # uniform, as in nn.GRU: with this bound H @ W_hz is about as large for any number of units
        I, n, bound = num_inputs, num_hiddens, 1 / math.sqrt(num_hiddens)

        def weight(*shape):
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        self.W_xz, self.W_hz, self.b_z = weight(I, n), weight(n, n), weight(n)  # update gate
        self.W_xr, self.W_hr, self.b_r = weight(I, n), weight(n, n), weight(n)  # reset gate
        self.W_xh, self.W_hh, self.b_h = weight(I, n), weight(n, n), weight(n)  # candidate
        self.fc = nn.Linear(n, num_outputs)

    def single_step(self, X, H):
        """Take the input (B, num_inputs) and the state (B, num_hiddens); return the next state and its readout."""
        Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)  # update gate: how much of the old state stays
        R = torch.sigmoid(X @ self.W_xr + H @ self.W_hr + self.b_r)  # reset gate: how much of it the candidate sees
        H_tilde = torch.tanh(X @ self.W_xh + (R * H) @ self.W_hh + self.b_h)  # candidate state
        H_new = Z * H + (1 - Z) * H_tilde
        return H_new, self.readout(H_new, X)

    def readout(self, H, X):
        """Read the outputs (..., num_outputs) from states (..., num_hiddens); X are the inputs of the same steps."""
        Y = self.fc(torch.relu(H))
        return X[..., : self.num_outputs] + Y if self.residual else Y

    def forward(self, inputs, H=None, future=0):
        """Run over inputs (T, B, num_inputs) from the state H (B, num_hiddens), zero if not given.

        Then go on for `future` steps, each fed with the readout of the one before.
        Returns the states (T + future, B, num_hiddens) and the readouts (T + future, B, num_outputs), or, with
        per_timestep_readout=False, the last readout alone, (B, num_outputs). Raises ValueError for shapes that do not
        fit, and RuntimeError for second derivatives.
        """
        H = self._checked_state(inputs, H, future)
        weights = *self.parameters(recurse=False), *self.fc.parameters()  # in the order of __init__
        fits = self.num_hiddens <= 128 and self.num_inputs < 16 and inputs.dtype == H.dtype == self.b_z.dtype
        kernel = fits and H.itemsize > 2 and kernel_runs_on(H.device)  # of float32 or float64
        function = importlib.import_module("kernels").Recurrence if kernel else Recurrence  # Triton only if needed
        states, generated = function.apply(inputs, H, future, self.residual, torch.is_grad_enabled(), *weights)
        if not self.per_timestep_readout:
            return states, self.readout(states[-1], None)
        return states, self.readout(states, torch.cat([inputs, generated]) if future else inputs)

    def forward_by_steps(self, inputs, H=None, future=0):
        """Compute the same as `forward`, by `single_step` in a plain loop and autograd: slower, and the one to read."""
        H = self._checked_state(inputs, H, future)
        states, readouts = [], []
        for t in range(len(inputs) + future):
            X = inputs[t] if t < len(inputs) else readouts[-1]
            H, Y = self.single_step(X, H)
            states.append(H)
            readouts.append(Y)
        return torch.stack(states), torch.stack(readouts) if self.per_timestep_readout else Y

    def _checked_state(self, inputs, H, future):
        if inputs.dim() != 3 or inputs.shape[2] != self.num_inputs or len(inputs) == 0:
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}: expected (T, B, {self.num_inputs})")
        if future and (self.num_inputs != self.num_outputs or not self.per_timestep_readout or future < 0):
            raise ValueError(f"future = {future}: expected 0 or more, of a network whose readout can be its next input")
        H = inputs.new_zeros(inputs.shape[1], self.num_hiddens) if H is None else H
        if H.shape != (inputs.shape[1], self.num_hiddens):
            raise ValueError(f"H has shape {tuple(H.shape)}: expected {(inputs.shape[1], self.num_hiddens)}")
        return H

    @torch.no_grad()
    def predict(self, x, future=0):
        """Return the readouts, on the CPU, for sequences (N, T, num_inputs): batch first, as in a dataset."""
        readouts = self(x.transpose(0, 1).to(self.device), future=future)[1].cpu()
        return readouts.transpose(0, 1) if readouts.dim() == 3 else readouts

    @torch.no_grad()
    def fit_readout(self, x, y, skip, ridge=1e-8):
        """Fit the readout alone, by least squares; all other weights stay as they are: an echo state network.

        x, y: inputs and targets (N, T, ...), as in a dataset; the first `skip` steps of each sequence do not count.
        ridge: a small number on the diagonal of the normal equations, which makes them solvable.
        """
        gram, moment = ridge * torch.eye(self.num_hiddens + 1, dtype=torch.float64, device=self.device), 0
        parts = (data.transpose(0, 1).to(self.fc.weight).split(32, 1) for data in (x, y))  # 32 sequences at a time
        for x_part, y_part in zip(*parts, strict=True):
            features = nn.functional.pad(self(x_part)[0].relu(), (0, 1), value=1.0)  # the last column is the bias's
            target = y_part - x_part[..., : self.num_outputs] if self.residual else y_part
            features, target = (data[skip:].flatten(0, 1).double() for data in (features, target))
            gram, moment = gram + features.t() @ features, moment + features.t() @ target
        solution = torch.linalg.solve(gram, moment).t()
        self.fc.weight.copy_(solution[:, :-1])
        self.fc.bias.copy_(solution[:, -1])

    @property
    def device(self):
        return self.fc.weight.device


class ResetAfterGRU(GRU):
    """The other published form, that of nn.GRU and cuDNN: R acts after the product. It runs step by step."""

    def __init__(self, *sizes, **switches):
        super().__init__(*sizes, **switches)
        self.b_hh = nn.Parameter(torch.empty(self.num_hiddens).uniform_(-1, 1) / math.sqrt(self.num_hiddens))

    def single_step(self, X, H):
        Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)
        R = torch.sigmoid(X @ self.W_xr + H @ self.W_hr + self.b_r)
        H_tilde = torch.tanh(X @ self.W_xh + self.b_h + R * (H @ self.W_hh + self.b_hh))
        H_new = Z * H + (1 - Z) * H_tilde
        return H_new, self.readout(H_new, X)

    forward = GRU.forward_by_steps

    @classmethod
    @torch.no_grad()
    def from_torch(cls, rnn):
        """Copy an nn.GRU of one layer, which stacks its gates in the order r, z, candidate, each transposed."""
        model = cls(rnn.input_size, rnn.hidden_size, 1).to(rnn.weight_ih_l0)  # its readout, of one number, is new
        W_x, W_h, *biases = rnn.parameters()
        model.W_xr[:], model.W_xz[:], model.W_xh[:] = (W.t() for W in W_x.chunk(3))
        model.W_hr[:], model.W_hz[:], model.W_hh[:] = (W.t() for W in W_h.chunk(3))
        b_x, b_h = biases or W_x.new_zeros(2, len(W_x))  # bias=False
        model.b_r[:], model.b_z[:], _ = (b_x + b_h).chunk(3)  # in a gate only their sum counts
        model.b_h[:], model.b_hh[:] = b_x.chunk(3)[2], b_h.chunk(3)[2]
        return model


# ---- the recurrence over time, and its gradient by hand ----

BLOCK = 2**16  # about how many numbers one gate has in a block of time steps: all of a block then fits into the cache
TRITON = importlib.util.find_spec("triton") is not None


def kernel_runs_on(device):
    """Whether the loop can be one kernel there: on a GPU with Triton, or in its interpreter (TRITON_INTERPRET=1)."""
    return TRITON and (device.type == "cuda" or "TRITON_INTERPRET" in os.environ)


class Recurrence(torch.autograd.Function):
    """The loop of a GRU over time, with its gradient by hand: docs/gradient.md derives it. Each X ends in a 1 and each
    W_x* in its bias, a row. `_g` is both gates, side by side: W_xg is [W_xz, W_xr].
    """

    @staticmethod
    def forward(ctx, inputs, H, future, residual, keep, *weights):
        """Return the states (T + future, B, n) and the inputs that the network made for itself (future, B, I)."""
        W_xz, W_hz, b_z, W_xr, W_hr, b_r, W_xh, W_hh, b_h, W_y, b_y = weights  # in the order of GRU.__init__
        W_xg, W_xh = torch.vstack([torch.hstack([W_xz, W_xr]), torch.hstack([b_z, b_r])]), torch.vstack([W_xh, b_h])
        stacked = W_xg, torch.hstack([W_hz, W_hr]), W_xh, W_hh, W_y, b_y
        T, total, length, kept = len(inputs), len(inputs) + future, max(1, BLOCK // H.numel()), []
        X = nn.functional.pad(inputs, (0, 1, 0, 0, 0, future), value=1.0)  # (T + future, B, I + 1)
        states = H.new_empty(total + 1, *H.shape)  # step t makes states[t + 1] of states[t]
        states[0] = H
        blocks = [slice(t, min(t + length, total)) for t in range(0, total, length)]
        for block in blocks:
            # X's part of A_g and A, for all steps of the block; the loop turns it, in place, into [Z, R] and H_tilde
            gates, all_H_tilde = X[block] @ W_xg, X[block] @ W_xh
            loop_forward(block, T, residual, X, states, gates, all_H_tilde, *stacked)
            kept += [all_H_tilde, gates] if keep else []
        ctx.save_for_backward(*stacked, X, states, *kept)
        ctx.T, ctx.residual, ctx.blocks = T, residual, blocks
        return states[1:], X[T:, :, :-1]

    @staticmethod
    def backward(ctx, dstates, dgenerated):  # of the states returned: dstates[t] belongs to states[t + 1]
        if torch.is_grad_enabled():  # create_graph=True: somebody wants the gradient of this gradient
            raise RuntimeError("GRU.forward has a first derivative only: use GRU.forward_by_steps")
        W_xg, W_hg, W_xh, W_hh, W_y, _, X, states, *kept = ctx.saved_tensors
        T, residual, (total, _, n) = ctx.T, ctx.residual, dstates.shape
        dX = nn.functional.pad(dgenerated, (0, 0, 0, 0, T, 0))  # (T + future, B, I)
        dW_xg, dW_hg, dW_xh, dW_hh, dH = (torch.zeros_like(Q) for Q in (W_xg, W_hg, W_xh, W_hh, states[0]))
        W_xgT, W_hgT, W_xhT, W_hhT = WT = [W.t().contiguous() for W in (W_xg[:-1], W_hg, W_xh[:-1], W_hh)]
        for block in reversed(ctx.blocks):
            gates, all_H_tilde, H = kept.pop(), kept.pop(), states[block]
            dA_g, dA = loop_backward(block, T, residual, dX, dH, dstates, states, gates, all_H_tilde, *WT, W_y)
            # the weights: one product each for all steps of the block
            x, H, RH, dA_g, dA = (Q.flatten(0, 1) for Q in (X[block], H, gates[..., n:] * H, dA_g, dA))
            dW_xg.addmm_(x.t(), dA_g)
            dW_hg.addmm_(H.t(), dA_g)
            dW_xh.addmm_(x.t(), dA)
            dW_hh.addmm_(RH.t(), dA)
            if ctx.needs_input_grad[0]:  # dX of the given inputs; the loop has done that of the generated ones
                given = dX[block.start : min(block.stop, T)].flatten(0, 1)  # a view: this fills in dX
                given.addmm_(dA_g[: len(given)], W_xgT).addmm_(dA[: len(given)], W_xhT)
        dY = dX[T:].flatten(0, 1)  # empty, unless the readout was part of the loop
        dW_y, db_y = (dY.t() @ states[T:total].relu().flatten(0, 1), dY.sum(0)) if len(dY) else (None, None)
        of_Z, of_R = ((dW_xg[:-1, g], dW_hg[:, g], dW_xg[-1, g]) for g in (slice(n), slice(n, None)))  # (W_x, W_h, b)
        return dX[:T], dH, None, None, None, *of_Z, *of_R, dW_xh[:-1], dW_hh, dW_xh[-1], dW_y, db_y


@torch.inference_mode()  # the gradient is ours to compute: autograd need not look at each operation
def loop_forward(block, T, residual, X, states, gates, all_H_tilde, W_xg, W_hg, W_xh, W_hh, W_y, b_y):
    """Go through the steps of `block`: fill in their states, and turn X's part of A_g and A into Z, R and H_tilde."""
    H, RH = states[block.start], torch.empty_like(states[0])
    steps = zip(range(block.start, block.stop), gates, *gates.chunk(2, -1), all_H_tilde, states[1:][block])
    for t, A_g, Z, R, H_tilde, H_new in steps:  # views: Z and R are the halves of A_g, and H_tilde begins as A
        if t >= T:  # from here on the network is fed with its own readout
            Y = torch.addmm(b_y, H.relu(), W_y.t())
            X[t, :, :-1] = X[t - 1, :, :-1] + Y if residual else Y
            torch.mm(X[t], W_xg, out=A_g)
            torch.mm(X[t], W_xh, out=H_tilde)
        A_g.addmm_(H, W_hg).sigmoid_()  # Z and R at once
        H_tilde.addmm_(torch.mul(R, H, out=RH), W_hh).tanh_()
        H = torch.lerp(H_tilde, H, Z, out=H_new)  # Z∘H + (1 - Z)∘H_tilde


@torch.inference_mode()
def loop_backward(block, T, residual, dX, dH, dstates, states, gates, all_H_tilde, W_xgT, W_hgT, W_xhT, W_hhT, W_y):
    """Go back through the steps of `block`; update dH, and dX from step T on, in place; return all dA_g and dA."""
    # every dA begins as its factor F of docs/gradient.md; the loop multiplies it by the gradient that arrives
    (all_Z, all_R), all_H = gates.chunk(2, -1), states[block]
    all_dA_g = torch.cat([all_H - all_H_tilde, all_H], -1) * gates * (1 - gates)  # F_z and F_r
    all_dA = (1 - all_Z) * (1 - all_H_tilde**2)  # F
    dRH = torch.empty_like(dH)
    steps = zip(range(block.start, block.stop), dstates[block], all_Z, all_R, *all_dA_g.chunk(2, -1), all_dA_g, all_dA)
    for t, dstate, Z, R, dA_z, dA_r, dA_g, dA in reversed(list(steps)):
        dH += dstate  # now it is dH_new: from later steps, and from this state's own readout
        dA_z *= dH
        dA *= dH
        torch.mm(dA, W_hhT, out=dRH)
        dA_r *= dRH
        dH.mul_(Z).addcmul_(dRH, R).addmm_(dA_g, W_hgT)  # dH_new∘Z + dRH∘R + dA_z W_hzᵀ + dA_r W_hrᵀ
        if t >= T:  # the input of this step was the readout of the step before, whose state is states[t]
            dX[t].addmm_(dA_g, W_xgT).addmm_(dA, W_xhT)
            dH += (dX[t] @ W_y) * (states[t] > 0)
            if residual:
                dX[t - 1] += dX[t]  # X[t] was X[t - 1] + Y
    return all_dA_g, all_dA


@contextmanager
def replacing(path):
    """Write to a temporary file, then rename it, so that `path` is never half-written."""
    temporary = Path(path).with_name(f".{Path(path).name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path, model, **info):
    """Write a GRU's sizes and weights to `path`, with `info` (numbers, strings, arrays as lists) beside them."""
    sizes = (model.num_inputs, model.num_hiddens, model.num_outputs, model.per_timestep_readout, model.residual)
    info = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in info.items()}  # of NumPy
    content = io.BytesIO()  # torch.save itself does not say why a file cannot be written
    torch.save({"sizes": [int(size) for size in sizes], "info": info, "state_dict": model.state_dict()}, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_checkpoint(path, device="cpu"):
    """Rebuild a GRU, with its `info`, from a file of `save_checkpoint` or a bare state dict of the textbook's tensors.

    Raises ValueError, naming the path and the cause, for a file that is missing, damaged or not a GRU's.
    """
    try:
        if zipfile.ZipFile(path).testzip() is not None:  # torch itself does not notice a flipped byte
            raise ValueError
        content = torch.load(path, map_location=device, weights_only=True)
        if "state_dict" not in content:  # a bare one: the sizes stand in the shapes
            sizes = (*content["W_xz"].shape, len(content["fc.bias"]))
            content = {"sizes": sizes, "info": {}, "state_dict": content}
        model = GRU(*content["sizes"])
        model.load_state_dict(content["state_dict"], assign=True)  # assign: the file's dtype stays, float64 too
        model.info = content["info"]
    except Exception:  # damaged bytes can fail anywhere in zipfile, pickle or torch, in any way
        cause = "damaged, or not the checkpoint of a GRU" if Path(path).is_file() else "no such file"
        raise ValueError(f"checkpoint {path}: {cause}") from None
    return model
