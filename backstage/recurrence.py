"""The loop of a GRU over time, as fast as PyTorch can do it, with its gradient.

The equations are those of `GRU.single_step`; docs/gradient.md derives the way back, and
docs/gpu.md says what makes it fast. Three things are arranged for speed:
- both gates lie side by side: W_xg is [W_xz, W_xr], A_g is [A_z, A_r], and so on;
- each X ends in a 1, and each W_x* in the row of its bias;
- what does not wait for the state is done for a whole *block* of steps at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from backstage.weights import Weights

BLOCK = 2**16  # about so many numbers has a gate in a block: all of it fits the cache


class Stacked(NamedTuple):
    """The weights side by side, n units; also their gradients."""

    W_xg: Tensor  # (num_inputs + 1, 2n): the last row is [b_z, b_r]
    W_hg: Tensor  # (n, 2n)
    W_xh: Tensor  # (num_inputs + 1, n): the last row is b_h
    W_hh: Tensor  # (n, n)


class Readout(NamedTuple):
    """The weights through which the network speaks, and so feeds itself."""

    W_y: Tensor  # (num_outputs, n)
    b_y: Tensor  # (num_outputs,)
    residual: bool


class Run(NamedTuple):
    """What all blocks of steps share, on the way forward and on the way back."""

    X: Tensor  # (T + future, B, num_inputs + 1): the inputs, and a 1
    states: Tensor  # (T + future + 1, B, n): step t makes states[t + 1] of states[t]
    num_given: int  # T: from this step on the network is fed with its own readout
    readout: Readout


class Block(NamedTuple):
    """What a block of steps computes, and leaves for the way back."""

    steps: range
    gates: Tensor  # (steps, B, 2n): Z and R side by side
    H_tilde: Tensor  # (steps, B, n)


class Recurrence(torch.autograd.Function):
    """The loop over time, block by block, and the way back."""

    @staticmethod
    def forward(ctx, inputs, H, future, residual, keep, *weights):
        """Run over inputs (T, B, num_inputs) from H (B, n), and `future` steps more.

        keep: whether a gradient may be asked for. weights: those of Weights, in order.
        Returns the states (T + future, B, n) and the inputs that the network made for
        itself (future, B, num_inputs).
        """
        weights = Weights(*weights)
        stacked = stack(weights)
        total = len(inputs) + future
        # with a 1 for the bias, and with room for what the network feeds itself
        X = nn.functional.pad(inputs, (0, 1, 0, 0, 0, future), value=1.0)
        states = H.new_empty(total + 1, *H.shape)
        states[0] = H
        readout = Readout(weights.W_y, weights.b_y, residual)
        run = Run(X, states, len(inputs), readout)
        kept = []
        length = max(1, BLOCK // H.numel())
        for start in range(0, total, length):
            steps = range(start, min(start + length, total))
            here = X[start : steps.stop]
            # X's part of A_g and A, for all steps of the block
            block = Block(steps, here @ stacked.W_xg, here @ stacked.W_xh)
            loop_forward(run, block, stacked)
            if keep:
                kept.append(block)
        remember(ctx, run, stacked, kept)
        return states[1:], X[len(inputs) :, :, :-1]

    @staticmethod
    def backward(ctx, dstates, dgenerated):
        """Return the gradient of each argument of forward, None for the switches.

        dstates: (T + future, B, n); dstates[t] belongs to states[t + 1].
        dgenerated: (future, B, num_inputs).
        """
        if torch.is_grad_enabled():  # create_graph=True: a gradient of this gradient
            raise RuntimeError(
                "GRU.forward has a first derivative only: use GRU.forward_by_steps"
            )
        run, stacked, blocks = recall(ctx)
        gradients = Stacked(*(torch.zeros_like(weight) for weight in stacked))
        transposed = transpose(stacked)
        dH = torch.zeros_like(run.states[0])
        # of the given inputs 0 as yet; of the generated ones what the loss says
        dX = nn.functional.pad(dgenerated, (0, 0, 0, 0, run.num_given, 0))
        for block in reversed(blocks):
            dA_g, dA = loop_backward(run, block, transposed, dstates, dH, dX)
            add_gradients(gradients, run, block, dA_g, dA)
            if ctx.needs_input_grad[0]:
                add_gradient_of_given(dX, run, block, transposed, dA_g, dA)
        weights = unstack(gradients, *readout_gradients(run, dX))
        return dX[: run.num_given], dH, None, None, None, *weights


def remember(ctx, run, stacked, blocks):
    """Keep for the way back; tensors where PyTorch can see and free them."""
    ctx.num_given = run.num_given
    ctx.residual = run.readout.residual
    ctx.steps = [block.steps for block in blocks]
    gates = [block.gates for block in blocks]
    candidates = [block.H_tilde for block in blocks]
    shared = [run.X, run.states, run.readout.W_y, run.readout.b_y]
    ctx.save_for_backward(*shared, *stacked, *gates, *candidates)


def recall(ctx):
    """Return the run, the stacked weights and the blocks as `remember` took them."""
    X, states, W_y, b_y, *rest = ctx.saved_tensors
    run = Run(X, states, ctx.num_given, Readout(W_y, b_y, ctx.residual))
    num_weights = len(Stacked._fields)
    stacked = Stacked(*rest[:num_weights])
    gates = rest[num_weights : num_weights + len(ctx.steps)]
    candidates = rest[num_weights + len(ctx.steps) :]
    blocks = [Block(*parts) for parts in zip(ctx.steps, gates, candidates)]
    return run, stacked, blocks


def stack(weights):
    """Put the weights side by side, and each bias below its W_x."""
    W_xg = torch.hstack([weights.W_xz, weights.W_xr])
    W_hg = torch.hstack([weights.W_hz, weights.W_hr])
    b_g = torch.hstack([weights.b_z, weights.b_r])
    return Stacked(
        W_xg=torch.vstack([W_xg, b_g]),
        W_hg=W_hg,
        W_xh=torch.vstack([weights.W_xh, weights.b_h]),
        W_hh=weights.W_hh,
    )


def unstack(gradients, dW_y, db_y):
    """Take the gradients of the stacked weights apart, in the order of Weights."""
    dW_xz, dW_xr = gradients.W_xg.chunk(2, dim=1)
    dW_hz, dW_hr = gradients.W_hg.chunk(2, dim=1)
    dW_xh = gradients.W_xh
    return Weights(
        W_xz=dW_xz[:-1],
        W_hz=dW_hz,
        b_z=dW_xz[-1],
        W_xr=dW_xr[:-1],
        W_hr=dW_hr,
        b_r=dW_xr[-1],
        W_xh=dW_xh[:-1],
        W_hh=gradients.W_hh,
        b_h=dW_xh[-1],
        W_y=dW_y,
        b_y=db_y,
    )


def transpose(stacked):
    """Transpose the weights for the way back, in memory; nobody asks for the 1's dX."""
    return Stacked(
        W_xg=stacked.W_xg[:-1].t().contiguous(),
        W_hg=stacked.W_hg.t().contiguous(),
        W_xh=stacked.W_xh[:-1].t().contiguous(),
        W_hh=stacked.W_hh.t().contiguous(),
    )


# the gradient is ours to compute: autograd need not look at each operation
@torch.inference_mode()
def loop_forward(run, block, weights):
    """Go through the steps of a block, and fill in their states.

    The block comes with X's part of A_g and A, and is left with [Z, R] and H_tilde.
    """
    X, states, num_given, readout = run
    steps = block.steps
    H = states[steps.start]
    RH = torch.empty_like(H)
    columns = zip(
        steps,
        block.gates,  # A_g, becomes [Z, R]
        *block.gates.chunk(2, dim=-1),  # Z and R: views of its halves
        block.H_tilde,  # A, becomes H_tilde
        states[steps.start + 1 : steps.stop + 1],  # H_new
    )
    for t, A_g, Z, R, A, H_new in columns:
        if t >= num_given:
            Y = torch.addmm(readout.b_y, H.relu(), readout.W_y.t())
            if readout.residual:
                Y = X[t - 1, :, :-1] + Y
            X[t, :, :-1] = Y
            torch.mm(X[t], weights.W_xg, out=A_g)
            torch.mm(X[t], weights.W_xh, out=A)
        A_g.addmm_(H, weights.W_hg).sigmoid_()  # Z and R at once
        torch.mul(R, H, out=RH)
        H_tilde = A.addmm_(RH, weights.W_hh).tanh_()
        H = torch.lerp(H_tilde, H, Z, out=H_new)  # Z∘H + (1 - Z)∘H_tilde


@torch.inference_mode()
def loop_backward(run, block, transposed, dstates, dH, dX):
    """Go back through the steps of a block.

    dH (B, n), the gradient of the state after the block, becomes that of the state
    before it; dX (T + future, B, num_inputs) is filled in from step T on.
    Returns dA_g (steps, B, 2n) and dA (steps, B, n).
    """
    _, states, num_given, readout = run
    W_xgT, W_hgT, W_xhT, W_hhT = transposed
    steps = block.steps
    here = slice(steps.start, steps.stop)
    # each begins as its factor F of docs/gradient.md; the loop multiplies it by the
    # gradient that arrives
    Z, R = block.gates.chunk(2, dim=-1)
    H = states[here]
    from_state = torch.cat([H - block.H_tilde, H], dim=-1)
    all_dA_g = from_state * block.gates * (1 - block.gates)  # F_z and F_r
    all_dA = (1 - Z) * (1 - block.H_tilde**2)  # F
    dRH = torch.empty_like(dH)
    columns = zip(
        steps,
        dstates[here],
        Z,
        R,
        *all_dA_g.chunk(2, dim=-1),  # dA_z and dA_r: views of the halves of dA_g
        all_dA_g,
        all_dA,
    )
    for t, dstate, Z, R, dA_z, dA_r, dA_g, dA in reversed(list(columns)):
        dH += dstate  # now it is dH_new: from later steps, and from its own readout
        dA_z *= dH
        dA *= dH
        torch.mm(dA, W_hhT, out=dRH)
        dA_r *= dRH
        # dH = dH_new∘Z + dRH∘R + dA_z W_hzᵀ + dA_r W_hrᵀ
        dH.mul_(Z).addcmul_(dRH, R).addmm_(dA_g, W_hgT)
        if t >= num_given:
            # this step's input was the readout of the state before, which is states[t]
            dX[t].addmm_(dA_g, W_xgT).addmm_(dA, W_xhT)
            dH += (dX[t] @ readout.W_y) * (states[t] > 0)  # where the relu was open
            if readout.residual:
                dX[t - 1] += dX[t]  # X[t] was X[t - 1] + Y
    return all_dA_g, all_dA


def add_gradients(gradients, run, block, dA_g, dA):
    """Add a block's part of the weights' gradients: one product each for its steps."""
    here = slice(block.steps.start, block.steps.stop)
    _, R = block.gates.chunk(2, dim=-1)
    H = run.states[here]
    X = run.X[here].flatten(0, 1)
    RH = (R * H).flatten(0, 1)
    H = H.flatten(0, 1)
    dA_g = dA_g.flatten(0, 1)
    dA = dA.flatten(0, 1)
    gradients.W_xg.addmm_(X.t(), dA_g)
    gradients.W_hg.addmm_(H.t(), dA_g)
    gradients.W_xh.addmm_(X.t(), dA)
    gradients.W_hh.addmm_(RH.t(), dA)


def add_gradient_of_given(dX, run, block, transposed, dA_g, dA):
    """Fill in dX of a block's given inputs; the loop did the generated ones."""
    stop = min(block.steps.stop, run.num_given)
    given = dX[block.steps.start : stop].flatten(0, 1)  # a view: this fills in dX
    dA_g = dA_g.flatten(0, 1)[: len(given)]
    dA = dA.flatten(0, 1)[: len(given)]
    given.addmm_(dA_g, transposed.W_xg).addmm_(dA, transposed.W_xh)


def readout_gradients(run, dX):
    """dW_y and db_y, if the readout was part of the loop; else None and None."""
    dY = dX[run.num_given :].flatten(0, 1)
    if len(dY) == 0:
        return None, None
    H = run.states[run.num_given : -1].relu().flatten(0, 1)
    return dY.t() @ H, dY.sum(0)
