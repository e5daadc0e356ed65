"""The gated recurrent unit (GRU) from scratch, and what the three scripts share: checkpoints, device, flags.

Read `GRU.single_step` first: four equations, four lines. Source: Cho et al. (2014), https://arxiv.org/abs/1406.1078
"""

import argparse
import io
import json
import math
import os
import sys
import zipfile
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import torch
from torch import nn

CONFIG_NAMES = ("num_inputs", "num_hiddens", "num_outputs", "per_timestep_readout", "residual", "reset_after")
MAX_SIZE = 10_000  # of inputs, hidden units and outputs: beyond it the weights alone take gigabytes
MAX_FUTURE = 10**7  # steps of one free run: beyond it the states alone do


class GRU(nn.Module):
    """A gated recurrent unit with a readout.

    num_inputs, num_hiddens, num_outputs: how many numbers enter, are remembered and leave at every time step.
    per_timestep_readout: read out at every step; if False, only at the last one.
    residual: add the input to the readout, so that the network learns the *change* of the signal
        (needs num_outputs == num_inputs and per_timestep_readout).
    reset_after: the other published form, which nn.GRU and cuDNN compute: the reset gate acts after the product with
        W_hh, which then has a bias b_hh of its own. Weights of one form are wrong in the other.

    Tensors are time first, as in nn.GRU: inputs (T, B, num_inputs), states (T, B, num_hiddens).
    """

    def __init__(
        self, num_inputs, num_hiddens, num_outputs, per_timestep_readout=True, residual=False, reset_after=False
    ):
        super().__init__()
        self.num_inputs, self.num_hiddens, self.num_outputs = num_inputs, num_hiddens, num_outputs
        self.per_timestep_readout, self.residual, self.reset_after = per_timestep_readout, residual, reset_after
        self._check_config()
        self.info = {}  # what a checkpoint says beside the weights

        # uniform, as in nn.GRU: the size of the recurrent products does not depend on num_hiddens then
        bound = 1 / math.sqrt(num_hiddens)

        def weight(*shape):
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        def gate():
            return weight(num_inputs, num_hiddens), weight(num_hiddens, num_hiddens), weight(num_hiddens)

        self.W_xz, self.W_hz, self.b_z = gate()  # update gate
        self.W_xr, self.W_hr, self.b_r = gate()  # reset gate
        self.W_xh, self.W_hh, self.b_h = gate()  # candidate
        self.b_hh = weight(num_hiddens) if reset_after else None
        self.fc = nn.Linear(num_hiddens, num_outputs)

    def single_step(self, X, H):
        """Take the input (B, num_inputs) and the state (B, num_hiddens); return the next state and its readout."""
        self._check("X", X, (None, self.num_inputs))
        self._check("H", H, (len(X), self.num_hiddens))
        Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)  # update gate: how much of the old state stays
        R = torch.sigmoid(X @ self.W_xr + H @ self.W_hr + self.b_r)  # reset gate: how much of it the candidate sees
        if self.reset_after:
            H_tilde = torch.tanh(X @ self.W_xh + self.b_h + R * (H @ self.W_hh + self.b_hh))
        else:
            H_tilde = torch.tanh(X @ self.W_xh + (R * H) @ self.W_hh + self.b_h)  # candidate state
        H = Z * H + (1 - Z) * H_tilde
        return H, self.readout(H, X)

    def readout(self, H, X):
        """Read the outputs (..., num_outputs) from states (..., num_hiddens); X are the inputs of the same steps."""
        Y = self.fc(torch.relu(H))
        return X + Y if self.residual else Y

    def forward(self, inputs, H=None, future=0):
        """Run over inputs (T, B, num_inputs) from the state H (B, num_hiddens), zero if not given.

        Then, where `future` is given, go on for that many steps, each fed with the readout of the one before.

        Returns the states (T + future, B, num_hiddens) and the readouts (T + future, B, num_outputs), or, with
        per_timestep_readout=False, the last readout alone, (B, num_outputs).
        Raises ValueError where a shape, type or device does not fit.
        """
        H = self._check_call(inputs, H, future)
        # where no gradient is asked for: the bare loop, which keeps no gates
        recurrence = Recurrence.apply if torch.is_grad_enabled() else Recurrence.run
        states, generated = recurrence(inputs, H, *self._stacked_weights(), future, self.residual)
        if not self.per_timestep_readout:
            return states, self.readout(states[-1], None)
        return states, self.readout(states, torch.cat([inputs, generated]) if future else inputs)

    def forward_by_steps(self, inputs, H=None, future=0):
        """Compute the same as `forward`, by `single_step` in a plain loop and autograd: slower, and the one to read."""
        H = self._check_call(inputs, H, future)
        states, readouts = [], []
        for t in range(len(inputs) + future):
            X = inputs[t] if t < len(inputs) else readouts[-1]
            H, Y = self.single_step(X, H)
            states.append(H)
            readouts.append(Y)
        return torch.stack(states), torch.stack(readouts) if self.per_timestep_readout else Y

    @classmethod
    def from_torch(cls, rnn, fc=None, **kwargs):
        """Build a GRU from an nn.GRU of one layer and one direction, with its weights, in the form reset_after=True.

        fc: an nn.Linear to read out with; if None, a new one with one output. kwargs: the switches of the constructor.
        Raises ValueError where the module computes something that this class does not.
        """
        if not isinstance(rnn, nn.GRU):
            raise ValueError(f"rnn is a {type(rnn).__name__}: expected an nn.GRU")
        for name, value, expected, why in (
            ("num_layers", rnn.num_layers, 1, "this class is a single layer"),
            ("bidirectional", rnn.bidirectional, False, "this class runs forward in time only"),
            ("batch_first", rnn.batch_first, False, "this class takes tensors time first"),
        ):
            if value != expected:
                raise ValueError(f"rnn.{name} = {value}: expected {expected}: {why}")
        if fc is not None and (not isinstance(fc, nn.Linear) or fc.in_features != rnn.hidden_size or fc.bias is None):
            raise ValueError(f"fc = {fc!r}: expected an nn.Linear with bias from {rnn.hidden_size} hidden units")
        model = cls(rnn.input_size, rnn.hidden_size, 1 if fc is None else fc.out_features, reset_after=True, **kwargs)
        model.to(rnn.weight_ih_l0)  # its type and device
        zeros = torch.zeros_like(rnn.weight_ih_l0[:, 0])
        b_x, b_h = (rnn.bias_ih_l0, rnn.bias_hh_l0) if rnn.bias else (zeros, zeros)
        with torch.no_grad():  # nn.GRU stacks its gates in the order r, z, candidate, each transposed
            for W, stacked in (("W_x", rnn.weight_ih_l0), ("W_h", rnn.weight_hh_l0)):
                for gate, rows in zip("rzh", stacked.chunk(3)):
                    getattr(model, W + gate).copy_(rows.t())
            model.b_r[:], model.b_z[:], _ = (b_x + b_h).chunk(3)  # outside the candidate only the sum counts
            model.b_h[:], model.b_hh[:] = b_x.chunk(3)[2], b_h.chunk(3)[2]
            if fc is not None:
                model.fc.load_state_dict(fc.state_dict())
        return model

    def to_torch(self):
        """Return an nn.GRU with these weights; the readout is `self.fc`. Raises ValueError without reset_after."""
        if not self.reset_after:
            raise ValueError(
                "reset_after = False, expected True: nn.GRU resets after the product with W_hh, this network before, "
                "so no weights make the two agree"
            )
        rnn = nn.GRU(self.num_inputs, self.num_hiddens).to(self.W_xz)
        zeros = torch.zeros_like(self.b_r)
        with torch.no_grad():
            rnn.weight_ih_l0.copy_(torch.hstack([self.W_xr, self.W_xz, self.W_xh]).t())
            rnn.weight_hh_l0.copy_(torch.hstack([self.W_hr, self.W_hz, self.W_hh]).t())
            rnn.bias_ih_l0.copy_(torch.hstack([self.b_r, self.b_z, self.b_h]))
            rnn.bias_hh_l0.copy_(torch.hstack([zeros, zeros, self.b_hh]))
        return rnn

    def _stacked_weights(self):
        """Gather the weights as `Recurrence` takes them: gates side by side, each bias as a last row."""
        W_xg = [torch.vstack([self.W_xz, self.b_z]), torch.vstack([self.W_xr, self.b_r])]
        W_hg, W_hh = [self.W_hz, self.W_hr], self.W_hh
        if self.reset_after:
            W_xg.append(torch.vstack([torch.zeros_like(self.W_xh), self.b_hh]))
            W_hg.append(self.W_hh)
            W_hh = None
        W_xh = torch.vstack([self.W_xh, self.b_h])
        return torch.hstack(W_xg), torch.hstack(W_hg), W_xh, W_hh, self.fc.weight, self.fc.bias

    def _check_config(self):
        for name in CONFIG_NAMES[:3]:
            size = getattr(self, name)
            if not isinstance(size, Integral) or isinstance(size, bool) or not 1 <= size <= MAX_SIZE:
                raise ValueError(f"{name} = {size!r}: expected an integer from 1 to {MAX_SIZE}")
        for name in CONFIG_NAMES[3:]:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected True or False")
        if self.residual and (self.num_inputs != self.num_outputs or not self.per_timestep_readout):
            raise ValueError(
                f"residual = True with num_inputs = {self.num_inputs}, num_outputs = {self.num_outputs}, "
                f"per_timestep_readout = {self.per_timestep_readout}: expected as many outputs as inputs, at every step"
            )

    def _check_call(self, inputs, H, future):
        """Check what `forward` is given; return the state to start from."""
        self._check("inputs", inputs, (None, None, self.num_inputs))
        if H is None:
            H = inputs.new_zeros(inputs.shape[1], self.num_hiddens)
        self._check("H", H, (inputs.shape[1], self.num_hiddens))
        if not isinstance(future, Integral) or isinstance(future, bool) or not 0 <= future <= MAX_FUTURE:
            raise ValueError(f"future = {future!r}: expected an integer from 0 to {MAX_FUTURE}")
        if future and (self.num_inputs != self.num_outputs or not self.per_timestep_readout):
            raise ValueError(f"future = {future}: expected a network whose readout can be its next input")
        return H

    def _check(self, name, tensor, shape):
        expected = tuple("any" if size is None else size for size in shape)
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}: expected a tensor of shape {expected}")
        fits = tensor.dim() == len(shape) and all(size in (None, got) for size, got in zip(shape, tensor.shape))
        if not fits or tensor.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {expected}, nothing empty")
        weight = self.fc.weight
        if (tensor.dtype, tensor.device) != (weight.dtype, weight.device):
            raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}: expected {weight.dtype} on {weight.device}")

    def config(self):
        """Return the arguments that build this network anew."""
        return {name: getattr(self, name) for name in CONFIG_NAMES}


# ---- the recurrence over time, and its gradient by hand ----

BLOCK = 2**16  # numbers of one gate in a block of time steps: few enough that the backward pass works in the cache


def blocks(num_steps, size):
    """Cut the time steps into slices; `size` is how many numbers a gate has at one step."""
    length = max(1, BLOCK // size)
    return [slice(start, min(start + length, num_steps)) for start in range(0, num_steps, length)]


def each_step(start, *tensors):
    """List (t, one slice of every tensor) for each time step; splitting them at once is cheaper than indexing."""
    return list(enumerate(zip(*(tensor.unbind() for tensor in tensors)), start))


class Recurrence(torch.autograd.Function):
    """The loop of a GRU over time, with its gradient by hand. Forward:

        Z = σ(A_z)         A_z = X W_xz + H W_hz            (the biases are the last rows of the W_x*)
        R = σ(A_r)         A_r = X W_xr + H W_hr
        H_tilde = tanh(A)  A = X W_xh + (R∘H) W_hh          with reset_after: A = X W_xh + R∘U, U = H W_hh + b_hh
        H_new = Z∘H + (1 - Z)∘H_tilde

    Backward, from dH_new, by the chain rule, with σ' = σ (1 - σ) and tanh' = 1 - tanh²:

        dA_z = dH_new ∘ (H - H_tilde) ∘ Z (1 - Z)
        dA   = dH_new ∘ (1 - Z) ∘ (1 - H_tilde²)
        dRH  = dA W_hhᵀ                                     with reset_after: dU = dA∘R
        dA_r = dRH ∘ H ∘ R (1 - R)                                            dA_r = dA ∘ U ∘ R (1 - R)
        dH   = dH_new∘Z + dA_z W_hzᵀ + dA_r W_hrᵀ + dRH∘R                     ... + dU W_hhᵀ instead of dRH∘R

    and for the weights, summed over all steps: dW_x* = Xᵀ dA_*, dW_h* = Hᵀ dA_*, dW_hh = (R∘H)ᵀ dA, or Hᵀ dU.

    Where the network runs on by itself (`future`), a step's input is the readout of the step before, in the residual
    form X_new = X + relu(H_new) W_yᵀ + b_y. Then each step's dX = dA_z W_xzᵀ + dA_r W_xrᵀ + dA W_xhᵀ flows back into
    the step before: dH_new += (dX_new W_y) ∘ [H_new > 0] and dX += dX_new.

    The gates are stacked: A_g is [A_z, A_r], with reset_after [A_z, A_r, U], and so are W_xg, W_hg and dA_g.
    A fused kernel for CUDA would stand in for this class, behind the same call.
    """

    @staticmethod
    def run(inputs, H, W_xg, W_hg, W_xh, W_hh, W_y, b_y, future, residual, saved=None):
        """Return the states (T + future, B, n) and the inputs that the network made for itself (future, B, I).

        saved: a list to which all that a backward pass needs is added.
        """
        (T, B, _), n = inputs.shape, H.shape[1]
        X = nn.functional.pad(inputs, (0, 1, 0, 0, 0, future), value=1.0)  # (T + future, B, I + 1)
        states, RH = H.new_empty(T + future + 1, B, n), torch.empty_like(H)
        states[0] = H
        for now in blocks(T + future, H.numel()):
            A_g, H_tilde = X[now] @ W_xg, X[now] @ W_xh  # the inputs' part of all these steps in one product each
            Z, R = A_g[..., :n], A_g[..., n : 2 * n]  # these will be the gates, once the loop has been there
            with torch.inference_mode():  # the gradient is ours to compute: autograd need not look at each operation
                for t, (a_g, z, r, h_tilde, H_new) in each_step(now.start, A_g, Z, R, H_tilde, states[1:][now]):
                    if t >= T:  # from here on the network is fed with its own readout
                        y = torch.addmm(b_y, H.relu(), W_y.t())
                        X[t, :, :-1] = X[t - 1, :, :-1] + y if residual else y
                        torch.mm(X[t], W_xg, out=a_g)
                        torch.mm(X[t], W_xh, out=h_tilde)
                    a_g.addmm_(H, W_hg)
                    if W_hh is None:  # reset_after: a third part of a_g is U
                        a_g[:, : 2 * n].sigmoid_()
                        h_tilde.addcmul_(r, a_g[:, 2 * n :]).tanh_()
                    else:
                        a_g.sigmoid_()
                        h_tilde.addmm_(torch.mul(r, H, out=RH), W_hh).tanh_()
                    H = torch.lerp(h_tilde, H, z, out=H_new)  # Z∘H + (1 - Z)∘H_tilde
            if saved is not None:
                saved += [A_g, H_tilde]
        if saved is not None:
            saved += [X, states]
        return states[1:], X[T:, :, :-1]

    @staticmethod
    def forward(ctx, inputs, H, W_xg, W_hg, W_xh, W_hh, W_y, b_y, future, residual):
        saved = []
        outputs = Recurrence.run(inputs, H, W_xg, W_hg, W_xh, W_hh, W_y, b_y, future, residual, saved)
        ctx.save_for_backward(W_xg, W_hg, W_xh, W_hh, W_y, *saved)
        ctx.T, ctx.residual = len(inputs), residual
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dstates, dgenerated):
        W_xg, W_hg, W_xh, W_hh, W_y, *gates, X, states = ctx.saved_tensors
        T, (total, B, n) = ctx.T, dstates.shape
        dX = torch.cat([dgenerated.new_zeros(T, B, X.shape[2] - 1), dgenerated])  # (total, B, I)
        dW_xg, dW_hg, dW_xh = torch.zeros_like(W_xg), torch.zeros_like(W_hg), torch.zeros_like(W_xh)
        dW_hh = None if W_hh is None else torch.zeros_like(W_hh)
        W_xgT, W_hgT, W_xhT, W_hhT = (
            W if W is None else W.t().contiguous() for W in (W_xg[:-1], W_hg, W_xh[:-1], W_hh)
        )
        dH, dRH = dstates.new_zeros(B, n), dstates.new_empty(B, n)
        for now in reversed(blocks(total, B * n)):
            H, H_tilde, A_g = states[now], gates.pop(), gates.pop()
            Z, R, U = A_g[..., :n], A_g[..., n : 2 * n], A_g[..., 2 * n :]
            dA_g, dA = factors(H, Z, R, U, H_tilde, W_hh is None)
            steps = each_step(now.start, dstates[now], Z, R, dA_g, dA_g[..., :n], dA_g[..., n : 2 * n], dA)
            for t, (dstate, z, r, da_g, da_z, da_r, da) in reversed(steps):
                dH.add_(dstate)  # now dH_new: the part from later steps, and the part from this state's own readout
                da.mul_(dH)
                if W_hh is None:
                    da_g.unflatten(-1, (3, n)).mul_(dH.unsqueeze(1))
                    dH.mul_(z)
                else:
                    da_z.mul_(dH)
                    da_r.mul_(torch.mm(da, W_hhT, out=dRH))
                    dH.mul_(z).addcmul_(dRH, r)
                dH.addmm_(da_g, W_hgT)  # now dH of the step before
                if t >= T:  # this step was fed with the readout of the step before
                    dX[t].addmm_(da_g, W_xgT).addmm_(da, W_xhT)
                    dH.add_(torch.ops.aten.threshold_backward(dX[t] @ W_y, states[t], 0))
                    if ctx.residual:
                        dX[t - 1].add_(dX[t])
            # the weights: one product each for all steps of the block
            x, h, dA_g, dA = (tensor.flatten(0, 1) for tensor in (X[now], H, dA_g, dA))
            dW_xg.addmm_(x.t(), dA_g)
            dW_hg.addmm_(h.t(), dA_g)
            dW_xh.addmm_(x.t(), dA)
            if W_hh is not None:
                dW_hh.addmm_((R * H).flatten(0, 1).t(), dA)
            if ctx.needs_input_grad[0]:
                known = dX[now.start : min(now.stop, T)].flatten(0, 1)
                known.addmm_(dA_g[: len(known)], W_xgT).addmm_(dA[: len(known)], W_xhT)
        grads = [dX[:T], dH, dW_xg, dW_hg, dW_xh, dW_hh, None, None, None, None]
        if total > T:  # the readout was part of the loop
            dY = dX[T:].flatten(0, 1)
            grads[6:8] = dY.t() @ states[T:-1].relu().flatten(0, 1), dY.sum(0)
        return tuple(grads)


def factors(H, Z, R, U, H_tilde, reset_after):
    """Return what the arriving gradients are multiplied with in dA_g and dA, for many steps at once.

    All of it is known before the way back begins; only dH_new (for dA_r: dRH) is missing, step by step.
    """
    dA_z = torch.ops.aten.sigmoid_backward(H - H_tilde, Z)  # (H - H_tilde) Z (1 - Z)
    dA = torch.ops.aten.tanh_backward(1 - Z, H_tilde)  # (1 - Z) (1 - H_tilde²)
    if reset_after:
        dA_r = torch.ops.aten.sigmoid_backward(dA * U, R)  # dA U R (1 - R)
        return torch.cat([dA_z, dA_r, dA * R], -1), dA
    dA_r = torch.ops.aten.sigmoid_backward(H, R)  # H R (1 - R)
    return torch.cat([dA_z, dA_r], -1), dA


# ---- what the three scripts share: checkpoints, device, flags, the end of a run ----


@contextmanager
def replacing(path):
    """Give a temporary path beside `path`, renamed to `path` once the block has succeeded: no file is ever half."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:  # say which file was to be written; a full disk does not
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path, model, **info):
    """Write the model's configuration and weights to `path`, with `info` (numbers and strings) beside them.

    An older file is replaced whole or not at all. Raises OSError where `path` cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"config": model.config(), "info": info, "state_dict": model.state_dict()}, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path, device="cpu"):
    """Rebuild a GRU from a file of `save_checkpoint`, or from a bare state dict of the textbook's eleven tensors.

    What was saved as `info` is found in `model.info`. A bare state dict does not tell the switches: it is taken as
    residual=False, and as reset_after=True where it has b_hh.
    Nothing but tensors, numbers and strings is ever unpickled.
    Raises ValueError, naming the path and the cause, for a file that is missing, damaged or not a GRU's.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not notice a flipped byte
            if archive.testzip() is not None:
                raise ValueError("the file is damaged: a checksum does not match")
        content = torch.load(path, map_location=device, weights_only=True)
        model = _rebuild(content)
    except OSError as error:
        raise ValueError(f"checkpoint {path}: {error.strerror}") from None
    except Exception as error:  # damaged bytes can fail anywhere in zipfile, pickle or torch, in any way
        cause = (
            str(error).splitlines()[0] if isinstance(error, ValueError) else "damaged, or not the checkpoint of a GRU"
        )
        raise ValueError(f"checkpoint {path}: {cause}") from None
    return model.to(device)


def _rebuild(content):
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, not a GRU's weights")
    bare = "state_dict" not in content
    weights = content if bare else content["state_dict"]
    if bare:
        num_inputs, num_hiddens = weights["W_xz"].shape
        config = {"num_inputs": num_inputs, "num_hiddens": num_hiddens, "num_outputs": len(weights["fc.bias"])}
        config["reset_after"] = "b_hh" in weights
    else:
        config = content["config"]
    model = GRU(**config)
    model.load_state_dict(weights)
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise ValueError("has weights that are not finite")
    model.info = {} if bare else dict(content["info"])
    return model


def save_metrics(path, metrics):
    """Write a dict of metrics as JSON; what JSON does not know, such as a path among the flags, becomes a string."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, default=str) + "\n")


class FlagParser(argparse.ArgumentParser):
    """argparse with a script's docstring as its help; a wrong flag is answered by one line, without the usage text."""

    class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False, formatter_class=self._Formatter)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def number(kind, low, high):
    """An argparse type: an int or a float from low to high, so neither NaN nor infinity."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            noun = "a whole number" if kind is int else "a number"
            top = high if kind is int else f"{high:g}"
            raise argparse.ArgumentTypeError(f"{text!r}: expected {noun} from {low:g} to {top}")
        return value

    return parse


def device_flag(name):
    """An argparse type: cpu, cuda, or auto, which is cuda where there is one."""
    if name not in ("auto", "cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("'cuda': expected a machine with a CUDA device; use auto or cpu")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def folder(text):
    """An argparse type: a folder, which need not exist yet."""
    path = Path(text)
    if not text or any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a folder, or a path where one can be made")
    return path


def check_loss(loss, epoch, lr, flag="--init_lr"):
    """Raise FloatingPointError where training has diverged: a loss of NaN, or far beyond what any voltage can cause."""
    if not loss < 1e4:
        raise FloatingPointError(f"epoch {epoch}: the loss is {loss:g}: training diverged; try {flag} below {lr:g}")


def run(main):
    """Run a script's main and end the process: no traceback for what a user can mend.

    Exit status 0, 2 for bad input (ValueError), 1 for a file that cannot be written (OSError) or a training that
    diverged (FloatingPointError), 130 after Ctrl-C, also where training was stopped by it and all else was done.
    """
    sys.stdout.reconfigure(errors="replace")  # for a stdout that knows no Δ
    try:
        sys.exit(130 if main()["interrupted"] else 0)
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
