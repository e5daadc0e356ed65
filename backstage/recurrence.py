"""The loop of a GRU over time, as fast as PyTorch can do it, with its gradient.

The equations are those of `GRU.single_step`; docs/gradient.md derives the way back and
has its names, such as A_z and A for what is inside of a σ and of the tanh. docs/gpu.md
says what makes it fast. Three things are arranged for speed:
- both gates lie side by side: W_xg is [W_xz, W_xr], A_g is [A_z, A_r], and so on;
- each X ends in a 1, and each W_x* in the row of its bias;
- what does not wait for the state is done for a whole *block* of steps at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from backstage.weights import Weights

BLOCK_SIZE = 2**16  # numbers of one gate in a block: so that all of it fits the cache


class Stacked(NamedTuple):
    """The weights side by side, of n units; also their gradients."""

    W_xg: Tensor  # (num_inputs + 1, 2n): the last row is [b_z, b_r]
    W_hg: Tensor  # (n, 2n)
    W_xh: Tensor  # (num_inputs + 1, n): the last row is b_h
    W_hh: Tensor  # (n, n)


class Transposed(NamedTuple):
    """The weights for the way back, without the biases."""

    W_xgT: Tensor  # (2n, num_inputs)
    W_hgT: Tensor  # (2n, n)
    W_xhT: Tensor  # (n, num_inputs)
    W_hhT: Tensor  # (n, n)


class Readout(NamedTuple):
    """The weights through which the network speaks, and so feeds itself."""

    W_y: Tensor  # (num_outputs, n), as in nn.Linear
    b_y: Tensor  # (num_outputs,)
    residual: bool


class Run(NamedTuple):
    """What all blocks of steps share, on the way forward and on the way back."""

    X: Tensor  # (T + future, B, num_inputs + 1): the inputs, and a 1
    states: Tensor  # (T + future + 1, B, n): step t makes states[t + 1] from states[t]
    num_given: int  # T: from this step on the network is fed with its own readout
    readout: Readout


class Block(NamedTuple):
    """A block of steps, whose buffers loop_forward turns into what their names say.

    Before it they hold X's part of A_g and of A.
    """

    steps: range
    gates: Tensor  # (steps, B, 2n): Z and R side by side
    H_tilde: Tensor  # (steps, B, n)


class Recurrence(torch.autograd.Function):
    """The loop over time, block by block, and the way back."""

    @staticmethod
    def forward(ctx, inputs, H, future, residual, keep, *weights):
        """Run over inputs (T, B, num_inputs) from H (B, n), and `future` steps more.

        keep: whether a gradient will be asked for. weights: those of Weights, in order.
        Returns the states (T + future, B, n) and the inputs that the network made for
        itself (future, B, num_inputs).
        """
        named = Weights(*weights)
        stacked = stack(named)
        num_given, B, num_inputs = inputs.shape
        total = num_given + future
        # each X ends in a 1; the network will feed itself beyond the inputs
        X = inputs.new_ones(total, B, num_inputs + 1)
        X[:num_given, :, :-1] = inputs
        states = H.new_empty(total + 1, *H.shape)
        states[0] = H
        run = Run(X, states, num_given, Readout(named.W_y, named.b_y, residual))
        kept = []
        steps_per_block = max(1, BLOCK_SIZE // H.numel())
        for start in range(0, total, steps_per_block):
            steps = range(start, min(start + steps_per_block, total))
            X_block = X[start : steps.stop]
            # of generated steps there is no X yet: the loop computes theirs
            A_g = X_block @ stacked.W_xg
            A = X_block @ stacked.W_xh
            block = Block(steps, gates=A_g, H_tilde=A)
            loop_forward(run, block, stacked)
            if keep:
                kept.append(block)
        remember(ctx, run, stacked, kept)
        return states[1:], X[num_given:, :, :-1]

    @staticmethod
    def backward(ctx, dstates, dgenerated):
        """Return the gradient of each argument of forward.

        dstates: (T + future, B, n); dstates[t] belongs to states[t + 1].
        dgenerated: (future, B, num_inputs).
        """
        if torch.is_grad_enabled():  # create_graph=True: a gradient of this gradient
            raise RuntimeError(
                "GRU.forward has a first derivative only: use GRU.forward_by_steps"
            )
        run, stacked, blocks = recall(ctx)
        gradients = Stacked(*[torch.zeros_like(weight) for weight in stacked])
        transposed = transpose(stacked)
        dH = torch.zeros_like(run.states[0])  # no step comes after the last one
        total, B, _ = dstates.shape
        dX = dgenerated.new_zeros(total, B, dgenerated.shape[2])
        dX[run.num_given :] = dgenerated  # what the loss says of the generated inputs
        for block in reversed(blocks):
            # changes dH and dX, too
            dA_g, dA = loop_backward(run, block, transposed, dstates, dH, dX)
            add_gradients(gradients, run, block, dA_g, dA)
            if ctx.needs_input_grad[0]:  # else PyTorch ignores dX
                add_gradient_of_given(dX, run, block, transposed, dA_g, dA)
        of_weights = unstack(gradients, *readout_gradients(run, dX))
        of_others = (None, None, None)  # future, residual, keep
        return dX[: run.num_given], dH, *of_others, *of_weights


def remember(ctx, run, stacked, blocks):
    """Save for the way back; tensors by save_for_backward, so that they are freed.

    It takes one flat list: four shared ones, the weights, then the gates of all blocks
    and their candidates.
    """
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
    num_blocks = len(ctx.steps)
    stacked = Stacked(*rest[:num_weights])
    gates = rest[num_weights : num_weights + num_blocks]
    candidates = rest[num_weights + num_blocks :]
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
    """Transpose the weights, in memory too: so the products of the loop are faster."""
    return Transposed(
        W_xgT=stacked.W_xg[:-1].t().contiguous(),
        W_hgT=stacked.W_hg.t().contiguous(),
        W_xhT=stacked.W_xh[:-1].t().contiguous(),
        W_hhT=stacked.W_hh.t().contiguous(),
    )


# Inside of an autograd.Function gradients are off already. Here PyTorch keeps even less
# book, which makes small operations some 8 % faster.
@torch.inference_mode()
def loop_forward(run, block, stacked):
    """Go through the steps of a block, and fill in their states.

    The block comes with X's part of A_g and A, and is left with [Z, R] and H_tilde.
    """
    X, states, num_given, readout = run
    steps = block.steps
    H = states[steps.start]
    RH = torch.empty_like(H)
    # views of the halves of A_g: once it has been through its σ, they are Z and R
    all_Z, all_R = block.gates.chunk(2, dim=-1)
    all_H_new = states[steps.start + 1 : steps.stop + 1]
    columns = zip(steps, block.gates, all_Z, all_R, block.H_tilde, all_H_new)
    for t, A_g, Z, R, A, H_new in columns:
        if t >= num_given:
            # as GRU.readout
            Y = torch.addmm(readout.b_y, H.relu(), readout.W_y.t())
            if readout.residual:
                Y = X[t - 1, :, :-1] + Y
            X[t, :, :-1] = Y
            torch.mm(X[t], stacked.W_xg, out=A_g)
            torch.mm(X[t], stacked.W_xh, out=A)
        A_g.addmm_(H, stacked.W_hg).sigmoid_()  # Z and R at once
        torch.mul(R, H, out=RH)
        H_tilde = A.addmm_(RH, stacked.W_hh).tanh_()
        torch.lerp(H_tilde, H, Z, out=H_new)  # Z∘H + (1 - Z)∘H_tilde
        H = H_new


@torch.inference_mode()
def loop_backward(run, block, transposed, dstates, dH, dX):
    """Go back through the steps of a block.

    dH (B, n), the gradient of the state after the block, becomes that of the state
    before it. dX (T + future, B, num_inputs) is added to from step T on; with residual,
    from the step before.
    Returns dA_g (steps, B, 2n) and dA (steps, B, n).
    """
    _, states, num_given, readout = run
    W_xgT, W_hgT, W_xhT, W_hhT = transposed
    steps = block.steps
    here = slice(steps.start, steps.stop)
    # the factors F of docs/gradient.md, for all steps
    all_Z, all_R = block.gates.chunk(2, dim=-1)
    all_H = states[here]
    # F_z = (H - H_tilde)∘Z(1 - Z) and F_r = H∘R(1 - R), side by side
    beside_slope = torch.cat([all_H - block.H_tilde, all_H], dim=-1)
    F_g = beside_slope * block.gates * (1 - block.gates)
    F = (1 - all_Z) * (1 - block.H_tilde**2)
    # in the loop each becomes its dA: it is multiplied by the gradient that arrives
    all_dA_g = F_g
    all_dA = F
    dRH = torch.empty_like(dH)
    all_dA_z, all_dA_r = all_dA_g.chunk(2, dim=-1)  # views of its halves
    columns = zip(
        steps, dstates[here], all_Z, all_R, all_dA_z, all_dA_r, all_dA_g, all_dA
    )
    for t, dstate, Z, R, dA_z, dA_r, dA_g, dA in reversed(list(columns)):
        dH += dstate  # now it is dH_new: from later steps, and from the loss itself
        dA_z *= dH  # F_z ∘ dH_new
        dA *= dH  # F ∘ dH_new
        torch.mm(dA, W_hhT, out=dRH)
        dA_r *= dRH  # F_r ∘ dRH
        # dH = dH_new∘Z + dRH∘R + dA_z W_hzᵀ + dA_r W_hrᵀ
        dH.mul_(Z).addcmul_(dRH, R).addmm_(dA_g, W_hgT)
        if t >= num_given:
            # this step's input was the readout of the state before, which is states[t]
            # dX = dA_z W_xzᵀ + dA_r W_xrᵀ + dA W_xhᵀ, and what the loss says of it
            dX[t].addmm_(dA_g, W_xgT).addmm_(dA, W_xhT)
            dH += (dX[t] @ readout.W_y) * (states[t] > 0)  # where the relu was open
            if readout.residual:
                dX[t - 1] += dX[t]  # X[t] was X[t - 1] + Y
    return all_dA_g, all_dA


def add_gradients(gradients, run, block, dA_g, dA):
    """Add this block's part to the gradients of the weights.

    dA_g: (steps, B, 2n). dA: (steps, B, n). One product each for all steps.
    """
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
    """Add to dX of a block's given inputs, for all steps; the loop did the others.

    Add: with residual, the loop has a part in dX of the last given input.
    """
    stop = min(block.steps.stop, run.num_given)
    # a view: this changes dX; empty, if all of the block was generated
    dX_given = dX[block.steps.start : stop].flatten(0, 1)
    dA_g = dA_g.flatten(0, 1)[: len(dX_given)]
    dA = dA.flatten(0, 1)[: len(dX_given)]
    dX_given.addmm_(dA_g, transposed.W_xgT).addmm_(dA, transposed.W_xhT)


def readout_gradients(run, dX):
    """Return dW_y and db_y, if the readout was part of the loop; else None and None."""
    # each generated input was a readout, that of the state before
    dY = dX[run.num_given :].flatten(0, 1)
    if len(dY) == 0:
        return None, None
    H = run.states[run.num_given : -1].relu().flatten(0, 1)
    return dY.t() @ H, dY.sum(0)
