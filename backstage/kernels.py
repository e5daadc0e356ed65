"""The loop over time, and the loop back, each as one GPU kernel, written in Triton.

`KernelRecurrence` computes what `Recurrence` of recurrence.py does. Read the kernels
beside `GRU.single_step` and docs/gradient.md: a line is an equation. docs/gpu.md says
what makes them fast. What you need to know of Triton:

- A *kernel* is a function that runs on the GPU. Here it is started once for all time
  steps, in many *programs* at once: one for each sequence of the batch, as no sequence
  waits for another. `tl.program_id(0)` says which one this is.
- A tensor comes as a *pointer*, the address of its first number; the numbers follow row
  by row. `tl.load(addresses, mask, other)` reads the number at each address. Where mask
  is False it reads nothing, and gives `other`. `tl.store(addresses, values, mask)`.
- A load does not wait for the memory, only the first use of what it loads does. So each
  step asks for what the next one needs.
- Vectors and matrices have lengths that are powers of two. UNITS is n, the number of
  units, rounded up; INPUTS is the number of inputs and a 1, rounded up. Beyond, all
  weights and states are 0.
- A parameter in capitals, or that is None, is known when the kernel is compiled, and an
  `if` of it is decided then.
- Every step needs all weights. A program loads them once, into *registers*, the only
  memory as fast as the arithmetic. Three matrices of 128 x 128 take 49,152 of a
  processor's 65,536 registers; of 256 x 256 they do not fit.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language import constexpr

from backstage.weights import Weights

# how many groups of 32 threads share a program's work, for each UNITS: the fastest, by
# trial on an H200
NUM_WARPS = {16: 1, 32: 1, 64: 2, 128: 8}


class Sizes(NamedTuple):
    """The sizes that both kernels take, in this order."""

    num_given: int  # T: from this step on the network is fed with its own readout
    total: int  # all steps, T + future
    B: int
    num_inputs: int
    n: int  # units


@triton.jit
def product(x, W):
    """Multiply a vector by a matrix, x W.

    A plain sum: tl.dot would round to TF32, which keeps three digits.
    """
    return tl.sum(x[:, None] * W, 0)


@triton.jit
def tanh(A):
    """Compute the hyperbolic tangent, right to a few roundings for A of any size.

    It is 2 σ(2A) - 1, but if A is near 0, that difference leaves only rounding errors.
    There it is Lambert's continued fraction, A/(1 + A²/(3 + A²/(5 + ... A²/11))), here
    as one fraction. Below 1/4 what is left out is less than float64 can hold.
    """
    A2 = A * A
    numerator = 10395 + A2 * (1260 + A2 * 21)
    denominator = 10395 + A2 * (4725 + A2 * (210 + A2))
    near_0 = A * (numerator / denominator)
    return tl.where(tl.abs(A) < 0.25, near_0, 2 * tl.sigmoid(2 * A) - 1)


@triton.jit
def load_matrix(pointer, rows, columns, ROWS: constexpr, COLUMNS: constexpr):
    """Load a matrix (rows, columns)."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    mask = (row < rows) & (column < columns)
    return tl.load(pointer + row * columns + column, mask, 0.0)


@triton.jit
def load_transposed(pointer, rows, columns, ROWS: constexpr, COLUMNS: constexpr):
    """Load a matrix (rows, columns) of which the memory holds the transpose."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    mask = (row < rows) & (column < columns)
    return tl.load(pointer + column * rows + row, mask, 0.0)


@triton.jit
def load_with_bias(
    W_pointer, b_pointer, rows, columns, ROWS: constexpr, COLUMNS: constexpr
):
    """Load a matrix (rows, columns), and below it, as one more row, its bias."""
    W = load_matrix(W_pointer, rows, columns, ROWS, COLUMNS)
    column = tl.arange(0, COLUMNS)
    b = tl.load(b_pointer + column, column < columns, 0.0)
    is_bias = tl.arange(0, ROWS) == rows
    return tl.where(is_bias[:, None], b[None, :], W)


# Triton compiles a kernel again for arguments that are 1 or multiples of 16, unless it
# is told not to
@triton.jit(do_not_specialize=["inputs_pointer", "H_0_pointer", *Sizes._fields])
def forward_kernel(
    # read
    inputs_pointer,
    H_0_pointer,
    W_xz_pointer,
    W_hz_pointer,
    b_z_pointer,
    W_xr_pointer,
    W_hr_pointer,
    b_r_pointer,
    W_xh_pointer,
    W_hh_pointer,
    b_h_pointer,
    W_y_pointer,
    b_y_pointer,
    # written
    states_pointer,
    generated_pointer,
    kept_pointer,
    # Sizes
    num_given,
    total,
    B,
    num_inputs,
    n,
    RESIDUAL: constexpr,
    FUTURE: constexpr,
    UNITS: constexpr,
    INPUTS: constexpr,
):
    """Go through all steps of one sequence."""
    b = tl.program_id(0).to(tl.int64)  # the sequence; 64 bits: row * n can be large
    B = B.to(tl.int64)
    unit = tl.arange(0, UNITS)
    column = tl.arange(0, INPUTS)
    is_unit = unit < n
    is_input = column < num_inputs

    W_xz = load_with_bias(W_xz_pointer, b_z_pointer, num_inputs, n, INPUTS, UNITS)
    W_xr = load_with_bias(W_xr_pointer, b_r_pointer, num_inputs, n, INPUTS, UNITS)
    W_xh = load_with_bias(W_xh_pointer, b_h_pointer, num_inputs, n, INPUTS, UNITS)
    W_hz = load_matrix(W_hz_pointer, n, n, UNITS, UNITS)
    W_hr = load_matrix(W_hr_pointer, n, n, UNITS, UNITS)
    W_hh = load_matrix(W_hh_pointer, n, n, UNITS, UNITS)
    if FUTURE:  # the network is going to feed itself
        W_yT = load_transposed(W_y_pointer, n, num_inputs, UNITS, INPUTS)
        b_y = tl.load(b_y_pointer + column, is_input, 0.0)

    H = tl.load(H_0_pointer + b * n + unit, is_unit, 0.0)
    # X ends in a 1, for the bias; 1s beyond it meet rows of 0
    X = tl.load(inputs_pointer + b * num_inputs + column, is_input, 1.0)
    for t in range(total):
        row = t * B + b  # of this step and sequence, in each tensor (total, B, ...)
        # asked for now, needed in the next step
        next_row = tl.minimum(t + 1, num_given - 1) * B + b
        X_next = tl.load(inputs_pointer + next_row * num_inputs + column, is_input, 1.0)
        if FUTURE and t >= num_given:
            Y = product(tl.maximum(H, 0.0), W_yT) + b_y
            if RESIDUAL:
                Y += X
            X = tl.where(is_input, Y, 1.0)
            generated_row = generated_pointer + (row - num_given * B) * num_inputs
            tl.store(generated_row + column, X, is_input)

        Z = tl.sigmoid(product(X, W_xz) + product(H, W_hz))
        R = tl.sigmoid(product(X, W_xr) + product(H, W_hr))
        RH = R * H
        H_tilde = tanh(product(X, W_xh) + product(RH, W_hh))

        if kept_pointer is not None:  # somebody may want a gradient
            kept_row = kept_pointer + row * (num_inputs + 1 + 5 * n)
            kept_units = kept_row + num_inputs + 1 + unit
            tl.store(kept_row + column, X, column <= num_inputs)  # X and the 1
            tl.store(kept_units, H, is_unit)
            tl.store(kept_units + n, RH, is_unit)
            tl.store(kept_units + 2 * n, Z, is_unit)
            tl.store(kept_units + 3 * n, R, is_unit)
            tl.store(kept_units + 4 * n, H_tilde, is_unit)

        H = Z * H + (1 - Z) * H_tilde
        tl.store(states_pointer + row * n + unit, H, is_unit)
        X = tl.where(t + 1 < num_given, X_next, X)


@triton.jit
def load_step(kept_pointer, dstates_pointer, row, num_inputs, n, UNITS: constexpr):
    """Load what the way back needs of one step and sequence, each a vector of units.

    Returns H, Z, R, H_tilde and dstate, the gradient that autograd hands over.
    """
    unit = tl.arange(0, UNITS)
    is_unit = unit < n
    kept_row = kept_pointer + row * (num_inputs + 1 + 5 * n)
    kept_units = kept_row + num_inputs + 1 + unit
    H = tl.load(kept_units, is_unit, 0.0)
    Z = tl.load(kept_units + 2 * n, is_unit, 0.0)
    R = tl.load(kept_units + 3 * n, is_unit, 0.0)
    H_tilde = tl.load(kept_units + 4 * n, is_unit, 0.0)
    dstate = tl.load(dstates_pointer + row * n + unit, is_unit, 0.0)
    return H, Z, R, H_tilde, dstate


@triton.jit(do_not_specialize=Sizes._fields)
def backward_kernel(
    # read
    kept_pointer,
    dstates_pointer,
    dgenerated_pointer,
    W_xz_pointer,
    W_xr_pointer,
    W_xh_pointer,
    W_hT_pointer,
    W_y_pointer,
    # written
    dX_pointer,
    dH_0_pointer,
    dA_pointer,
    # Sizes
    num_given,
    total,
    B,
    num_inputs,
    n,
    RESIDUAL: constexpr,
    FUTURE: constexpr,
    UNITS: constexpr,
    INPUTS: constexpr,
):
    """Go back through all steps of one sequence."""
    b = tl.program_id(0).to(tl.int64)
    B = B.to(tl.int64)
    unit = tl.arange(0, UNITS)
    column = tl.arange(0, INPUTS)
    is_unit = unit < n
    is_input = column < num_inputs

    W_hzT = load_matrix(W_hT_pointer, n, n, UNITS, UNITS)
    W_hrT = load_matrix(W_hT_pointer + n * n, n, n, UNITS, UNITS)
    W_hhT = load_matrix(W_hT_pointer + 2 * n * n, n, n, UNITS, UNITS)
    if dX_pointer is not None:
        W_xzT = load_transposed(W_xz_pointer, n, num_inputs, UNITS, INPUTS)
        W_xrT = load_transposed(W_xr_pointer, n, num_inputs, UNITS, INPUTS)
        W_xhT = load_transposed(W_xh_pointer, n, num_inputs, UNITS, INPUTS)
        dX = tl.zeros([INPUTS], W_hzT.dtype)
        if FUTURE:
            W_y = load_matrix(W_y_pointer, num_inputs, n, INPUTS, UNITS)

    dH = tl.zeros([UNITS], W_hzT.dtype)
    last_row = (total - 1) * B + b
    H, Z, R, H_tilde, dstate = load_step(
        kept_pointer, dstates_pointer, last_row, num_inputs, n, UNITS
    )
    for t in range(total - 1, -1, -1):
        row = t * B + b
        next_row = tl.maximum(t - 1, 0) * B + b  # where the loop goes next: back
        next_H, next_Z, next_R, next_H_tilde, next_dstate = load_step(
            kept_pointer, dstates_pointer, next_row, num_inputs, n, UNITS
        )

        dH += dstate  # now it is dH_new: from later steps, and from its own readout
        dA_z = dH * (H - H_tilde) * Z * (1 - Z)
        dA = dH * (1 - Z) * (1 - H_tilde * H_tilde)
        dRH = product(dA, W_hhT)
        dA_r = dRH * H * R * (1 - R)
        dH = dH * Z + dRH * R + product(dA_z, W_hzT) + product(dA_r, W_hrT)

        dA_row = dA_pointer + row * 3 * n
        tl.store(dA_row + unit, dA_z, is_unit)
        tl.store(dA_row + n + unit, dA_r, is_unit)
        tl.store(dA_row + 2 * n + unit, dA, is_unit)

        if dX_pointer is not None:
            dX_new = dX  # of the step after, which comes first on the way back
            dX = product(dA_z, W_xzT) + product(dA_r, W_xrT) + product(dA, W_xhT)
            if FUTURE and RESIDUAL:  # from step T on, X_new was X + Y
                dX += tl.where(t + 1 >= num_given, dX_new, 0.0)
            if FUTURE and t >= num_given:
                # this step's input was the readout of the step before, whose state is H
                dgenerated_row = dgenerated_pointer + (row - num_given * B) * num_inputs
                dX += tl.load(dgenerated_row + column, is_input, 0.0)
                dH += tl.where(H > 0, product(dX, W_y), 0.0)  # where the relu was open
            tl.store(dX_pointer + row * num_inputs + column, dX, is_input)

        H = next_H
        Z = next_Z
        R = next_R
        H_tilde = next_H_tilde
        dstate = next_dstate
    tl.store(dH_0_pointer + b * n + unit, dH, is_unit)


def launch(kernel, tensors, sizes, residual):
    """Start a program of `kernel` for every sequence, on the GPU of its tensors.

    tensors: contiguous, in the kernel's order.
    """
    units = max(16, triton.next_power_of_2(sizes.n))
    with torch.cuda.device_of(tensors[0]):
        kernel[(sizes.B,)](
            *tensors,
            *sizes,
            RESIDUAL=residual,
            FUTURE=sizes.total > sizes.num_given,
            UNITS=units,
            INPUTS=triton.next_power_of_2(sizes.num_inputs + 1),
            num_warps=NUM_WARPS[units],
            enable_fp_fusion=True,  # a product and a sum are one instruction
        )


class KernelRecurrence(torch.autograd.Function):
    """The loop over time as one kernel, and the way back as another."""

    @staticmethod
    def forward(ctx, inputs, H, future, residual, keep, *weights):
        """Take and return what `Recurrence.forward` of recurrence.py does."""
        num_given, B, num_inputs = inputs.shape
        n = H.shape[1]
        total = num_given + future
        sizes = Sizes(num_given, total, B, num_inputs, n)
        inputs = inputs.contiguous()
        H = H.contiguous()
        weights = Weights(*(weight.contiguous() for weight in weights))
        states = H.new_empty(total, B, n)
        generated = H.new_empty(future, B, num_inputs)
        kept = None
        if keep:  # a row for each step and sequence: X, 1, H, R∘H, Z, R, H_tilde
            kept = H.new_empty(total * B, num_inputs + 1 + 5 * n)
        tensors = [inputs, H, *weights, states, generated, kept]
        launch(forward_kernel, tensors, sizes, residual)
        ctx.save_for_backward(states, kept, *weights)
        ctx.sizes = sizes
        ctx.residual = residual
        return states, generated

    @staticmethod
    def backward(ctx, dstates, dgenerated):
        """Take and return what `Recurrence.backward` of recurrence.py does."""
        if torch.is_grad_enabled():  # create_graph=True: a gradient of this gradient
            raise RuntimeError(
                "GRU.forward has a first derivative only: use GRU.forward_by_steps"
            )
        states, kept, *weights = ctx.saved_tensors
        weights = Weights(*weights)
        num_given, total, B, num_inputs, n = ctx.sizes
        dH = states.new_empty(B, n)
        dA = states.new_empty(total * B, 3 * n)  # dA_z, dA_r, dA
        dX = None
        if total > num_given or ctx.needs_input_grad[0]:
            dX = states.new_empty(total, B, num_inputs)
        # transposed in memory: so a thread gets whole columns, and adds them up alone
        W_hT = torch.cat([weights.W_hz.t(), weights.W_hr.t(), weights.W_hh.t()])
        W_x = [weights.W_xz, weights.W_xr, weights.W_xh]
        read = [kept, dstates.contiguous(), dgenerated.contiguous()]
        tensors = [*read, *W_x, W_hT, weights.W_y, dX, dH, dA]
        launch(backward_kernel, tensors, ctx.sizes, ctx.residual)
        gradients = weight_gradients(kept, dA, num_inputs, n)
        if total > num_given:  # the readout was part of the loop
            dY = dX[num_given:].flatten(0, 1)
            H = states[num_given - 1 : -1].flatten(0, 1)
            gradients = gradients._replace(W_y=dY.t() @ H.relu(), b_y=dY.sum(0))
        if dX is not None:
            dX = dX[:num_given]
        return dX, dH, None, None, None, *gradients


def weight_gradients(kept, dA, num_inputs, n):
    """Compute the gradients of all weights of the loop, in one product.

    kept: a row for each step and sequence, X, 1, H, R∘H, Z, R, H_tilde.
    dA: likewise, dA_z, dA_r, dA.
    """
    multiplied = kept[:, : -3 * n]  # what the weights were multiplied by: X, 1, H, R∘H
    # half of the products are of no use, but two more operations would take longer
    products = (multiplied.t() @ dA).view(-1, 3, n)
    # each gate's in one piece: so PyTorch need not copy the gradients one by one
    products = products.transpose(0, 1).contiguous()
    # each three matrices: with dA_z, dA_r and dA
    X_dA, ones_dA, H_dA, RH_dA = products.split([num_inputs, 1, n, n], dim=1)
    return Weights(
        W_xz=X_dA[0],
        W_hz=H_dA[0],
        b_z=ones_dA[0, 0],
        W_xr=X_dA[1],
        W_hr=H_dA[1],
        b_r=ones_dA[1, 0],
        W_xh=X_dA[2],
        W_hh=RH_dA[2],
        b_h=ones_dA[2, 0],
        W_y=None,
        b_y=None,
    )
