"""The gated recurrent unit (GRU) from scratch: one step, the loop over time, its gradient by hand, and its file.

Read `GRU.single_step` first: one line per equation. Source: Cho et al. (2014), https://arxiv.org/abs/1406.1078
"""

import errno
import io
import math
import os
import uuid
import zipfile
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import torch
from torch import nn
from torch.autograd.forward_ad import unpack_dual

CONFIG_NAMES = ("num_inputs", "num_hiddens", "num_outputs", "per_timestep_readout", "residual", "reset_after")
MAX_SIZE, MAX_FUTURE = 10_000, 10**7  # sizes and steps of one free run: more would take gigabytes, silently


class GRU(nn.Module):
    """A gated recurrent unit with a readout.

    num_inputs, num_hiddens, num_outputs: how many numbers enter, are remembered and leave at every time step.
    per_timestep_readout: read out at every step; if False, only at the last one.
    residual: add the input to the readout, so that the network learns the *change* of the signal
        (needs num_outputs == num_inputs and per_timestep_readout).
    reset_after: the other published form, that of nn.GRU and cuDNN, to compare with: it runs step by step, and
        `to_torch` is its fast version. Weights of one form are wrong in the other.

    Tensors are time first, as in nn.GRU: inputs (T, B, num_inputs), states (T, B, num_hiddens).
    Do not change the returned states in place through NumPy: the backward pass reads them, and nothing would notice.
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
        I, n, bound = num_inputs, num_hiddens, 1 / math.sqrt(num_hiddens)

        def weight(*shape):
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        self.W_xz, self.W_hz, self.b_z = weight(I, n), weight(n, n), weight(n)  # update gate
        self.W_xr, self.W_hr, self.b_r = weight(I, n), weight(n, n), weight(n)  # reset gate
        self.W_xh, self.W_hh, self.b_h = weight(I, n), weight(n, n), weight(n)  # candidate
        self.b_hh = weight(n) if reset_after else None
        self.fc = nn.Linear(n, num_outputs)

    def single_step(self, X, H):
        """Take the input (B, num_inputs) and the state (B, num_hiddens); return the next state and its readout."""
        self._check("X", X, ("any", self.num_inputs))
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

    @torch.compiler.disable  # compiled, the loop over time would be unrolled
    def forward(self, inputs, H=None, future=0):
        """Run over inputs (T, B, num_inputs) from the state H (B, num_hiddens), zero if not given.

        Then, where `future` is given, go on for that many steps, each fed with the readout of the one before.

        Returns the states (T + future, B, num_hiddens) and the readouts (T + future, B, num_outputs), or, with
        per_timestep_readout=False, the last readout alone, (B, num_outputs).
        Raises ValueError where a shape, type or device does not fit, and, in the textbook form, RuntimeError for second
        derivatives or autocast.
        """
        if self.reset_after:
            return self.forward_by_steps(inputs, H, future)
        H = self._check_call(inputs, H, future)
        # where no gradient is asked for: the bare loop, which keeps no gates
        recurrence = Recurrence.apply if torch.is_grad_enabled() else Recurrence.run
        weights = self._stacked_weights()
        refuse(torch.is_autocast_enabled(H.device.type), inputs, H, *weights)
        states, generated = recurrence(inputs, H, *weights, future, self.residual)
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

    @torch.no_grad()
    def predict(self, x, future=0):
        """Return the readouts for sequences (N, T, num_inputs), as in a dataset, on the CPU.

        They are (N, T + future, num_outputs), or, with per_timestep_readout=False, the last alone, (N, num_outputs).
        """
        readouts = self(x.transpose(0, 1).to(self.device), future=future)[1].cpu()
        return readouts.transpose(0, 1) if readouts.dim() == 3 else readouts

    @torch.no_grad()
    def fit_readout(self, x, y, skip, ridge=1e-8):
        """Fit the readout alone, by least squares; all other weights stay as they are: an echo state network.

        x, y: inputs and targets (N, T, ...), as in a dataset; the first `skip` steps of each sequence do not count.
        ridge: a small number on the diagonal of the normal equations, which makes them solvable. They are in float64.
        """
        if x.shape[:2] != y.shape[:2] or not 0 <= skip < x.shape[1]:
            shapes = f"{tuple(x.shape)}, y {tuple(y.shape)}"
            raise ValueError(f"x has shape {shapes}, skip = {skip}: expected the same (N, T, ...), and skip below T")
        gram, moment = ridge * torch.eye(self.num_hiddens + 1, dtype=torch.float64, device=self.device), 0
        # 32 sequences at a time: the states of all of them would fill the memory
        for x_part, y_part in zip(x.transpose(0, 1).split(32, dim=1), y.transpose(0, 1).split(32, dim=1)):
            states = self(x_part.to(self.fc.weight))[0][skip:].relu().double().flatten(0, 1)
            features = nn.functional.pad(states, (0, 1), value=1.0)  # the last column is the bias's
            target = (y_part - x_part if self.residual else y_part)[skip:].to(features).flatten(0, 1)
            gram, moment = gram + features.t() @ features, moment + features.t() @ target
        solution = torch.linalg.solve(gram, moment).t()
        if not solution.isfinite().all():
            raise ValueError("x and y: expected finite numbers")
        self.fc.weight.copy_(solution[:, :-1])
        self.fc.bias.copy_(solution[:, -1])

    @property
    def device(self):
        return self.fc.weight.device

    @classmethod
    def from_torch(cls, rnn, fc=None, **kwargs):
        """Build a GRU from an nn.GRU of one layer and one direction, with its weights, in the form reset_after=True.

        fc: an nn.Linear to read out with; if None, a new one with one output. kwargs: the switches of the constructor.
        Raises ValueError where the module computes something that this class does not.
        """
        if not isinstance(rnn, nn.GRU):
            raise ValueError(f"rnn is a {type(rnn).__name__}: expected an nn.GRU")
        for name, expected in (("num_layers", 1), ("bidirectional", False), ("batch_first", False)):
            if getattr(rnn, name) != expected:
                raise ValueError(f"rnn has {name} = {getattr(rnn, name)}: expected {expected}")
        if fc is not None and (not isinstance(fc, nn.Linear) or fc.in_features != rnn.hidden_size or fc.bias is None):
            raise ValueError(f"fc = {fc!r}: expected an nn.Linear with bias from {rnn.hidden_size} hidden units")
        model = cls(rnn.input_size, rnn.hidden_size, 1 if fc is None else fc.out_features, reset_after=True, **kwargs)
        model.to(rnn.weight_ih_l0)  # its type and device
        b_x, b_h = (rnn.bias_ih_l0, rnn.bias_hh_l0) if rnn.bias else [torch.zeros_like(rnn.weight_ih_l0[:, 0])] * 2
        with torch.no_grad():  # nn.GRU stacks its gates in the order r, z, candidate, each transposed
            model.W_xr[:], model.W_xz[:], model.W_xh[:] = (W.t() for W in rnn.weight_ih_l0.chunk(3))
            model.W_hr[:], model.W_hz[:], model.W_hh[:] = (W.t() for W in rnn.weight_hh_l0.chunk(3))
            model.b_r[:], model.b_z[:], _ = (b_x + b_h).chunk(3)  # in a gate only their sum counts
            model.b_h[:], model.b_hh[:] = b_x.chunk(3)[2], b_h.chunk(3)[2]
            if fc is not None:
                model.fc.load_state_dict(fc.state_dict())
        return model

    def to_torch(self):
        """Return an nn.GRU with these weights; the readout is `self.fc`. Raises ValueError without reset_after."""
        if not self.reset_after:
            raise ValueError("reset_after = False: expected True, the form of nn.GRU; no weights make the two agree")
        rnn = nn.GRU(self.num_inputs, self.num_hiddens).to(self.W_xz)
        zeros = torch.zeros_like(self.b_r)
        with torch.no_grad():
            rnn.weight_ih_l0.copy_(torch.hstack([self.W_xr, self.W_xz, self.W_xh]).t())
            rnn.weight_hh_l0.copy_(torch.hstack([self.W_hr, self.W_hz, self.W_hh]).t())
            rnn.bias_ih_l0.copy_(torch.hstack([self.b_r, self.b_z, self.b_h]))
            rnn.bias_hh_l0.copy_(torch.hstack([zeros, zeros, self.b_hh]))
        return rnn

    def _stacked_weights(self):
        """Gather the weights as `Recurrence` takes them: gates side by side, each bias as the last row of its W_x."""
        W_xg = torch.vstack([torch.hstack([self.W_xz, self.W_xr]), torch.hstack([self.b_z, self.b_r])])
        W_hg = torch.hstack([self.W_hz, self.W_hr])
        W_xh = torch.vstack([self.W_xh, self.b_h])
        return W_xg, W_hg, W_xh, self.W_hh, self.fc.weight, self.fc.bias

    def _check_config(self):
        for name in CONFIG_NAMES[:3]:
            size = getattr(self, name)
            if not isinstance(size, Integral) or isinstance(size, bool) or not 1 <= size <= MAX_SIZE:
                raise ValueError(f"{name} = {size!r}: expected an integer from 1 to {MAX_SIZE}")
            setattr(self, name, int(size))  # a checkpoint can hold no np.int64
        for name in CONFIG_NAMES[3:]:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected True or False")
        if self.residual and (self.num_inputs != self.num_outputs or not self.per_timestep_readout):
            raise ValueError("residual = True: expected num_outputs == num_inputs and per_timestep_readout = True")

    def _check_call(self, inputs, H, future):
        """Check what `forward` is given; return the state to start from."""
        self._check("inputs", inputs, ("any", "any", self.num_inputs))
        if H is None:
            H = inputs.new_zeros(inputs.shape[1], self.num_hiddens)
        self._check("H", H, (inputs.shape[1], self.num_hiddens))
        if not isinstance(future, Integral) or isinstance(future, bool) or not 0 <= future <= MAX_FUTURE:
            raise ValueError(f"future = {future!r}: expected an integer from 0 to {MAX_FUTURE}")
        if future and (self.num_inputs != self.num_outputs or not self.per_timestep_readout):
            raise ValueError(f"future = {future}: expected a network whose readout can be its next input")
        return H

    def _check(self, name, tensor, shape):
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}: expected a tensor of shape {shape}")
        fits = tensor.dim() == len(shape) and all(size in ("any", got) for size, got in zip(shape, tensor.shape))
        if not fits or tensor.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {shape}, nothing empty")
        weight = self.fc.weight
        if (tensor.dtype, tensor.device) != (weight.dtype, weight.device):
            raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}: expected {weight.dtype} on {weight.device}")

    def config(self):
        """Return the arguments that build this network anew."""
        return {name: getattr(self, name) for name in CONFIG_NAMES}


# ---- the recurrence over time, and its gradient by hand ----

BLOCK = 2**16  # about how many numbers one gate has in a block of time steps: all of a block then fits into the cache


def blocks(num_steps, size):
    """Cut the time steps into slices; `size` is how many numbers a gate has at one step."""
    length = max(1, BLOCK // size)
    return [slice(start, min(start + length, num_steps)) for start in range(0, num_steps, length)]


def each_step(start, *tensors):
    """List (t, one slice of every tensor) for each time step; splitting them at once is cheaper than indexing."""
    return list(enumerate(zip(*(tensor.unbind() for tensor in tensors)), start))


def refuse(is_wrong, *tensors):
    """Raise RuntimeError where the loop by hand would be wrong in silence: if told so, in torch.func, with tangents."""
    is_wrong = is_wrong or torch._C._functorch.peek_interpreter_stack() is not None  # within vmap, jvp, jacfwd, ...
    if is_wrong or any(unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError("GRU.forward has a first derivative only, and no autocast: use GRU.forward_by_steps instead")


class Recurrence(torch.autograd.Function):
    """The loop of a GRU over time, with its gradient by hand. Forward:

        Z = σ(A_z)         A_z = X W_xz + H W_hz            (the biases are the last rows of the W_x*,
        R = σ(A_r)         A_r = X W_xr + H W_hr             and each X ends in a 1)
        H_tilde = tanh(A)  A = X W_xh + (R∘H) W_hh
        H_new = Z∘H + (1 - Z)∘H_tilde

    Backward, from dH_new, by the chain rule, with σ' = σ (1 - σ) and tanh' = 1 - tanh²:

        dA_z = dH_new ∘ F_z     F_z = (H - H_tilde) ∘ Z (1 - Z)
        dA = dH_new ∘ F         F = (1 - Z) ∘ (1 - H_tilde²)
        dRH = dA W_hhᵀ          the gradient of the product R∘H
        dA_r = dRH ∘ F_r        F_r = H ∘ R (1 - R)
        dH = dH_new∘Z + dRH∘R + dA_z W_hzᵀ + dA_r W_hrᵀ

    and for the weights, summed over all steps: dW_x* = Xᵀ dA_*, dW_h* = Hᵀ dA_*, dW_hh = (R∘H)ᵀ dA.

    Where the network runs on by itself (`future`), a step's input is the readout of the step before:
    X_new = relu(H_new) W_yᵀ + b_y, and with `residual` + X. Then a step's dX = dA_z W_xzᵀ + dA_r W_xrᵀ + dA W_xhᵀ flows
    back into the step before: into its state, dH_new += (dX_new W_y) ∘ [H_new > 0], and with `residual` into its input,
    dX += dX_new.

    The two gates are stacked: A_g is [A_z, A_r], and so are W_xg, W_hg, F_g and dA_g.
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
            # the inputs' part of A_g and A, one product each for the whole block; the loop makes Z, R and H_tilde of it
            gates, candidates = X[now] @ W_xg, X[now] @ W_xh
            steps = each_step(now.start, gates, *gates.split(n, -1), candidates, states[1:][now])
            with torch.inference_mode():  # the gradient is ours to compute: autograd need not look at each operation
                for t, (ZR, Z, R, H_tilde, H_new) in steps:
                    if t >= T:  # from here on the network is fed with its own readout
                        Y = torch.addmm(b_y, H.relu(), W_y.t())
                        X[t, :, :-1] = X[t - 1, :, :-1] + Y if residual else Y
                        torch.mm(X[t], W_xg, out=ZR)
                        torch.mm(X[t], W_xh, out=H_tilde)
                    ZR.addmm_(H, W_hg).sigmoid_()  # both gates, Z and R, at once
                    H_tilde.addmm_(torch.mul(R, H, out=RH), W_hh).tanh_()
                    H = torch.lerp(H_tilde, H, Z, out=H_new)  # Z∘H + (1 - Z)∘H_tilde
            if saved is not None:
                saved += [gates, candidates]
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
    def backward(ctx, dstates, dgenerated):
        # with create_graph=True somebody wants to differentiate this pass itself: only then gradients are enabled here
        refuse(torch.is_grad_enabled() or torch.is_autocast_enabled(dstates.device.type))
        W_xg, W_hg, W_xh, W_hh, W_y, *saved, X, states = ctx.saved_tensors
        T, (total, B, n) = ctx.T, dstates.shape
        dX = nn.functional.pad(dgenerated, (0, 0, 0, 0, T, 0))  # (total, B, I)
        dW_xg, dW_hg, dW_xh, dW_hh = (torch.zeros_like(W) for W in (W_xg, W_hg, W_xh, W_hh))
        # without the biases' rows: nobody asks for the gradient of the 1 at the end of each X
        W_xgT, W_hgT, W_xhT, W_hhT = (W.t().contiguous() for W in (W_xg[:-1], W_hg, W_xh[:-1], W_hh))
        dH, dRH = dstates.new_zeros(B, n), dstates.new_empty(B, n)
        for now in reversed(blocks(total, B * n)):
            candidates, gates = saved.pop(), saved.pop()
            # the loop overwrites each factor with its gradient (F_z with dA_z); dA_g is dA_z and dA_r, side by side
            all_dA_g, all_dA = factors(states[now], gates, candidates)
            steps = each_step(now.start, dstates[now], *gates.split(n, -1), *all_dA_g.split(n, -1), all_dA, all_dA_g)
            for t, (dstate, Z, R, F_z, F_r, F, dA_g) in reversed(steps):
                dH_new = dH.add_(dstate)  # the part from later steps, and the part from this state's own readout
                dA_z = F_z.mul_(dH_new)
                dA = F.mul_(dH_new)
                torch.mm(dA, W_hhT, out=dRH)
                dA_r = F_r.mul_(dRH)
                dH = dH_new.mul_(Z).addcmul_(dRH, R).addmm_(dA_g, W_hgT)
                if t >= T:  # the input of this step was the readout of the step before, whose state is states[t]
                    dX[t].addmm_(dA_g, W_xgT).addmm_(dA, W_xhT)
                    dH.add_(torch.ops.aten.threshold_backward(dX[t] @ W_y, states[t], 0))  # (dX W_y) ∘ [H > 0]
                    if ctx.residual:
                        dX[t - 1].add_(dX[t])
            # the weights: one product each for all steps of the block
            RH = (gates[..., n:] * states[now]).flatten(0, 1)
            x, H, dA_g, dA = (tensor.flatten(0, 1) for tensor in (X[now], states[now], all_dA_g, all_dA))
            dW_xg.addmm_(x.t(), dA_g)
            dW_hg.addmm_(H.t(), dA_g)
            dW_xh.addmm_(x.t(), dA)
            dW_hh.addmm_(RH.t(), dA)
            if ctx.needs_input_grad[0]:  # of the inputs that were given; the loop has done those that were generated
                known = dX[now.start : min(now.stop, T)].flatten(0, 1)
                known.addmm_(dA_g[: len(known)], W_xgT).addmm_(dA[: len(known)], W_xhT)
        dW_y = db_y = None
        if total > T:  # the readout was part of the loop
            dY = dX[T:].flatten(0, 1)
            dW_y, db_y = dY.t() @ states[T:total].relu().flatten(0, 1), dY.sum(0)
        return dX[:T], dH, dW_xg, dW_hg, dW_xh, dW_hh, dW_y, db_y, None, None


def factors(H, gates, H_tilde):
    """Compute F_g = [F_z, F_r] and F, by which the way back multiplies gradients, for many steps at once."""
    (Z, R), F_g = gates.chunk(2, -1), torch.empty_like(gates)
    F_z, F_r = F_g.chunk(2, -1)
    torch.ops.aten.sigmoid_backward(H - H_tilde, Z, grad_input=F_z)  # (H - H_tilde) ∘ Z (1 - Z)
    torch.ops.aten.sigmoid_backward(H, R, grad_input=F_r)  # H ∘ R (1 - R)
    F = torch.ops.aten.tanh_backward(1 - Z, H_tilde)  # (1 - Z) ∘ (1 - H_tilde²)
    return F_g, F


# ---- the file of a trained network ----


@contextmanager
def replacing(path):
    """Give a new empty file beside `path`, renamed to `path` when the block has succeeded: no file is half-written."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "not a regular file", str(path))  # a device, say, would be replaced, too
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:  # name the file: the error of a full disk does not
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path, model, **info):
    """Write the model's configuration and weights to `path`, with `info` (numbers and strings) beside them.

    An older file is replaced whole or not at all. Raises OSError where `path` cannot be written, and ValueError for
    what `load_checkpoint` would refuse.
    """
    buffer = io.BytesIO()
    try:
        if type(model) is not GRU or type(model.fc) is not nn.Linear:  # a subclass may compute something else
            raise ValueError
        torch.save({"config": model.config(), "info": info, "state_dict": model.state_dict()}, buffer)
        buffer.seek(0)
        _rebuild(torch.load(buffer, weights_only=True))
    except Exception:
        raise ValueError(f"checkpoint {path}: would not load again: not a plain GRU, finite, with plain info") from None
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path, device="cpu"):
    """Rebuild a GRU from a file of `save_checkpoint`, or from a bare state dict of the textbook's eleven tensors.

    What was saved as `info` is in `model.info`. A bare state dict does not say how the switches stood: the defaults are
    assumed, and reset_after=True if it has b_hh. Nothing but tensors, numbers and strings is ever unpickled.
    Raises ValueError, naming the path and the cause, for a file that is missing, damaged or not a GRU's.
    """
    try:
        if not Path(path).resolve(strict=True).is_file():  # to open a pipe would take for ever
            raise ValueError("not a regular file")
        with zipfile.ZipFile(path) as archive:  # torch itself does not notice a flipped byte
            if archive.testzip() is not None:
                raise ValueError("the file is damaged: a checksum does not match")
        model = _rebuild(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise ValueError(f"checkpoint {path}: {error.strerror}") from None
    except Exception as error:  # damaged bytes can fail anywhere in zipfile, pickle or torch, in any way
        cause = error if isinstance(error, ValueError) else "damaged, or not the checkpoint of a GRU"
        raise ValueError(f"checkpoint {path}: {cause}") from None
    return model.to(device)


def _rebuild(content):
    if "state_dict" not in content:  # a bare one: the sizes stand in the shapes
        sizes = (*content["W_xz"].shape, len(content["fc.bias"]))
        config = dict(zip(CONFIG_NAMES, sizes)) | {"reset_after": "b_hh" in content}
        content = {"config": config, "info": {}, "state_dict": content}
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = GRU(**content["config"])
    model.load_state_dict(content["state_dict"], assign=True)  # of any type, float64 or bfloat16 too
    weights = list(model.parameters())
    dtype = weights[0].dtype
    if not dtype.is_floating_point or any(w.dtype != dtype or not w.isfinite().all() for w in weights):
        raise ValueError("has weights that are not finite, or not all of one real type")
    model.info = dict(content["info"])
    if not all(isinstance(value, str | int | float | None) for value in model.info.values()):
        raise ValueError("has info that is neither a number nor a string")
    return model
