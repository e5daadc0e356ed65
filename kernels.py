"""The loop of models.py and the loop back, each as one GPU kernel, written in Triton. Read models.py first.

A GPU takes some five microseconds to start an operation, however small, and the loop of models.py has five at each time
step, the loop back ten. A kernel is a function that runs on the GPU itself: this one goes through all time steps, and
Python starts it only once.

Triton runs a kernel as many *programs* at a time, each of which knows its number, program_id. Here a program is one
sequence of the batch: sequences do not need each other, but a step needs the one before it. A program calculates with
whole vectors and matrices. Their lengths must be powers of two: N is n, the number of units, rounded up, and what lies
beyond n is filled with zeros, which add nothing to a sum.

Each step needs every recurrent weight, so a program keeps them in its *registers*, the only memory as fast as the
arithmetic. That is why 128 units are the end: three matrices of 128 x 128 numbers take 49,152 of the 65,536 registers
that a program can have, and for 256 units it would need four times as many.

A tensor comes as the address of its first number. tl.load and tl.store move the numbers at a vector or matrix of
addresses, only those whose mask is True; for the others a load gives 0. Every product is a plain sum in the numbers'
own precision: TF32, the GPU's short cut with ten bits, has no part in it.
"""

import torch
import triton
import triton.language as tl

MAX_HIDDENS = 128


@triton.jit
def dot(x, W):
    """The vector x (rows) times the matrix W (rows, cols)."""
    return tl.sum(x[:, None] * W, 0)


@triton.jit
def load_weights(W_g, W_h, rows, n, ROWS: tl.constexpr, N: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Load the weights (rows, n) of update gate, reset gate and candidate; the gates' lie side by side in W_g."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, N)[None, :]
    if TRANSPOSED:
        i, j = tl.arange(0, ROWS)[None, :], tl.arange(0, N)[:, None]
    W_g, W_h, mask = W_g + i * 2 * n + j, W_h + i * n + j, (i < rows) & (j < n)
    return tl.load(W_g, mask, 0.0), tl.load(W_g + n, mask, 0.0), tl.load(W_h, mask, 0.0)


@triton.jit
def load(gates, candidates, place, n, j, mask):
    """Load what update gate, reset gate and candidate have at one step of one sequence."""
    gates, candidates = gates + place * 2 * n + j, candidates + place * n + j
    return tl.load(gates, mask, 0.0), tl.load(gates + n, mask, 0.0), tl.load(candidates, mask, 0.0)


@triton.jit
def store(gates, candidates, place, n, j, mask, of_z, of_r, of_h):
    """Store what belongs to update gate, reset gate and candidate at one step of one sequence."""
    gates, candidates = gates + place * 2 * n + j, candidates + place * n + j
    tl.store(gates, of_z, mask)
    tl.store(gates + n, of_r, mask)
    tl.store(candidates, of_h, mask)


@triton.jit(do_not_specialize=["T", "total", "B"])  # compiled once for all lengths and batches
def forward_kernel(
    X, states, gates, candidates, W_xg, W_hg, W_xh, W_hh, W_y, b_y, T, total, B, n, I,
    N: tl.constexpr, IN: tl.constexpr, RESIDUAL: tl.constexpr, FUTURE: tl.constexpr,
):  # fmt: skip
    b, B = tl.program_id(0).to(tl.int64), B.to(tl.int64)  # 64 bits: a tensor may have more than 2^31 numbers
    j, c = tl.arange(0, N), tl.arange(0, IN)  # the units; the inputs, and the 1 after them
    unit, given = j < n, c <= I
    W_hz, W_hr, W_h = load_weights(W_hg, W_hh, n, n, N, N, False)
    if FUTURE:  # the network is going to feed itself
        W_xz, W_xr, W_x = load_weights(W_xg, W_xh, I + 1, n, IN, N, False)
        W_out, b_out = (
            tl.load(W_y + c[None, :] * n + j[:, None], unit[:, None] & (c < I)[None, :], 0.0),
            tl.load(b_y + c, c < I, 0.0),
        )
        X_t = tl.load(X + ((T - 1) * B + b) * (I + 1) + c, given, 0.0)
    H = tl.load(states + b * n + j, unit, 0.0)
    A_z, A_r, A = load(gates, candidates, b, n, j, unit)  # the inputs' part, of the first step
    for t in range(total):
        here = t * B + b
        # of the next step: memory needs about as long as a step, so ask for it now
        next_z, next_r, next_h = load(gates, candidates, tl.minimum(t + 1, total - 1) * B + b, n, j, unit)
        if FUTURE:
            if t >= T:
                Y = dot(tl.maximum(H, 0.0), W_out) + b_out
                X_t = tl.where(c < I, X_t + Y if RESIDUAL else Y, X_t)
                tl.store(X + here * (I + 1) + c, X_t, given)
                A_z, A_r, A = dot(X_t, W_xz), dot(X_t, W_xr), dot(X_t, W_x)
        Z = tl.sigmoid(A_z + dot(H, W_hz))
        R = tl.sigmoid(A_r + dot(H, W_hr))
        H_tilde = 2 * tl.sigmoid(2 * (A + dot(R * H, W_h))) - 1  # tanh
        H = Z * H + (1 - Z) * H_tilde
        store(gates, candidates, here, n, j, unit, Z, R, H_tilde)
        tl.store(states + (here + B) * n + j, H, unit)
        A_z, A_r, A = next_z, next_r, next_h


@triton.jit(do_not_specialize=["T", "total", "B"])
def backward_kernel(
    dX, dH_0, dstates, states, gates, candidates, dA_g, dA_h, W_xg, W_hg, W_xh, W_hh, W_y, T, total, B, n, I,
    N: tl.constexpr, IN: tl.constexpr, RESIDUAL: tl.constexpr, FUTURE: tl.constexpr,
):  # fmt: skip
    b, B = tl.program_id(0).to(tl.int64), B.to(tl.int64)
    j, c = tl.arange(0, N), tl.arange(0, IN)
    unit, given = j < n, c < I
    W_hzT, W_hrT, W_hT = load_weights(W_hg, W_hh, n, n, N, N, True)
    if FUTURE:
        W_xzT, W_xrT, W_xT = load_weights(W_xg, W_xh, I, n, IN, N, True)
        W_outT = tl.load(W_y + c[:, None] * n + j[None, :], given[:, None] & unit[None, :], 0.0)
        dX_t = tl.zeros([IN], W_hT.dtype)
    dH = tl.zeros([N], W_hT.dtype)
    last = (total - 1) * B + b
    Z, R, H_tilde = load(gates, candidates, last, n, j, unit)
    H, dstate = tl.load(states + last * n + j, unit, 0.0), tl.load(dstates + last * n + j, unit, 0.0)
    for t in range(total - 1, -1, -1):
        here, before = t * B + b, tl.maximum(t - 1, 0) * B + b
        next_Z, next_R, next_H_tilde = load(gates, candidates, before, n, j, unit)
        next_H, next_dstate = tl.load(states + before * n + j, unit, 0.0), tl.load(dstates + before * n + j, unit, 0.0)
        dH += dstate  # now it is dH_new: from later steps, and from this state's own readout
        dA_z = dH * (H - H_tilde) * Z * (1 - Z)
        dA = dH * (1 - Z) * (1 - H_tilde * H_tilde)
        dRH = dot(dA, W_hT)
        dA_r = dRH * H * R * (1 - R)
        dH = dH * Z + dRH * R + dot(dA_z, W_hzT) + dot(dA_r, W_hrT)
        store(dA_g, dA_h, here, n, j, unit, dA_z, dA_r, dA)
        if FUTURE:
            if t >= T:  # the input of this step was the readout of the step before, whose state is H
                own = tl.load(dX + here * I + c, given, 0.0) + dot(dA_z, W_xzT) + dot(dA_r, W_xrT) + dot(dA, W_xT)
                dX_t = dX_t + own if RESIDUAL else own
                tl.store(dX + here * I + c, dX_t, given)
                dH += tl.where(H > 0, dot(dX_t, W_outT), 0.0)
        Z, R, H_tilde, H, dstate = next_Z, next_R, next_H_tilde, next_H, next_dstate
    tl.store(dH_0 + b * n + j, dH, unit)
    if FUTURE and RESIDUAL:  # the last input that was given was part of the first that was generated
        tl.store(dX + ((T - 1) * B + b) * I + c, dX_t, given)


def sizes(n, I):
    """The powers of two, and how many warps (groups of 32 threads) share a program's work: the fastest, as measured."""
    N = max(16, triton.next_power_of_2(n))
    return {"N": N, "IN": triton.next_power_of_2(I + 1), "num_warps": {16: 1, 32: 1, 64: 2, 128: 8}[N]}


def loop_forward(block, T, residual, X, states, gates, candidates, W_xg, W_hg, W_xh, W_hh, W_y, b_y):
    """As in models.py, for all steps at once."""
    (total, B, n), I = candidates.shape, X.shape[2] - 1
    tensors = X, states, gates, candidates, W_xg, W_hg, W_xh, W_hh, W_y, b_y
    with torch.cuda.device_of(states):
        forward_kernel[(B,)](*tensors, T, total, B, n, I, RESIDUAL=residual, FUTURE=total > T, **sizes(n, I))


def loop_backward(block, T, residual, dX, dH, dstates, states, gates, candidates, W_xg, W_hg, W_xh, W_hh, W_y):
    (total, B, n), I = candidates.shape, dX.shape[2]
    dA_g, dA = torch.empty_like(gates), torch.empty_like(candidates)
    tensors = dX, dH, dstates.contiguous(), states, gates, candidates, dA_g, dA, W_xg, W_hg, W_xh, W_hh, W_y
    with torch.cuda.device_of(states):
        backward_kernel[(B,)](*tensors, T, total, B, n, I, RESIDUAL=residual, FUTURE=total > T, **sizes(n, I))
    return dA_g, dA
