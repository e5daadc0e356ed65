"""The loop of models.py and the loop back, each as one GPU kernel, written in Triton. Read models.py first.

A GPU takes some five microseconds to start an operation, however small, and the loop of models.py starts six at each
step, the loop back eight. A kernel is a function that runs on the GPU itself: here it goes through all steps by itself.

Triton runs many *programs* of a kernel at once; each knows its number, program_id. Here a program is one sequence of
the batch: sequences do not need each other, but a step needs the one before it. A program computes with whole vectors
and matrices, whose lengths must be powers of two: N is n, the number of units, rounded up; what lies beyond n is zero
and adds nothing to a sum. Each step needs every recurrent weight, so a program keeps them in its *registers*, the only
memory as fast as the arithmetic. That is why 128 units are the end: three matrices of 128 x 128 numbers take 49,152 of
the 65,536 registers that a program can have; those of 256 units would take four times as many.

A tensor comes as the address of its first number; tl.load and tl.store move the numbers at a vector or matrix of
addresses, only those whose mask is True. The others are loaded as 0.
"""

import torch
import triton
import triton.language as tl
from triton.language import constexpr


@triton.jit
def dot(x, W):  # a vector times a matrix: a plain sum, so that TF32, the GPU's coarse short cut, has no part in it
    return tl.sum(x[:, None] * W, 0)


@triton.jit
def matrix(W, rows, cols, length, ROWS: constexpr, COLS: constexpr):  # a row begins `length` numbers after the other
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    return tl.load(W + i * length + j, (i < rows) & (j < cols), 0.0)


@triton.jit
def load(gates, all_H_tilde, place, n, j, unit):  # what Z, R and H_tilde are, or will be, at one step of one sequence
    gates, all_H_tilde = gates + place * 2 * n + j, all_H_tilde + place * n + j
    return tl.load(gates, unit, 0.0), tl.load(gates + n, unit, 0.0), tl.load(all_H_tilde, unit, 0.0)


@triton.jit(do_not_specialize=["T", "total", "B", "n", "I"])  # compiled once for all of these
def forward_kernel(X, states, gates, all_H_tilde, W_g, W_h, W_yT, b_y, T, total, B, n, I,
                   RESIDUAL: constexpr, FUTURE: constexpr, N: constexpr, IN: constexpr):  # fmt: skip
    b, B = tl.program_id(0).to(tl.int64), B.to(tl.int64)  # 64 bits: a tensor may have more than 2^31 numbers
    j, c = tl.arange(0, N), tl.arange(0, IN)  # the units; the inputs, and the 1 at their end
    unit, given = j < n, c <= I
    W_hg, W_hh = W_g + (I + 1) * 2 * n, matrix(W_h + (I + 1) * n, n, n, n, N, N)
    # n + n: of 2 * n Triton sees that it is even; then it shares columns among threads, and sums go across them
    W_hz, W_hr = matrix(W_hg, n, n, n + n, N, N), matrix(W_hg + n, n, n, n + n, N, N)
    if FUTURE:  # the network is going to feed itself
        W_xz, W_xr = matrix(W_g, I + 1, n, n + n, IN, N), matrix(W_g + n, I + 1, n, n + n, IN, N)
        W_xh, W_out = matrix(W_h, I + 1, n, n, IN, N), matrix(W_yT, n, I, I, N, IN)
        bias, X_t = tl.load(b_y + c, c < I, 0.0), tl.load(X + ((T - 1) * B + b) * (I + 1) + c, given, 0.0)
    H = tl.load(states + b * n + j, unit, 0.0)
    A_z, A_r, A = load(gates, all_H_tilde, b, n, j, unit)  # the inputs' part
    for t in range(total):
        here, ahead = t * B + b, tl.minimum(t + 1, total - 1) * B + b
        next_z, next_r, next_h = load(gates, all_H_tilde, ahead, n, j, unit)  # asked for now, as it takes about a step
        if FUTURE and t >= T:  # from here on the network is fed with its own readout
            Y = dot(tl.maximum(H, 0.0), W_out) + bias
            X_t = tl.where(c < I, X_t + Y if RESIDUAL else Y, X_t)
            tl.store(X + here * (I + 1) + c, X_t, given)
            A_z, A_r, A = dot(X_t, W_xz), dot(X_t, W_xr), dot(X_t, W_xh)
        Z = tl.sigmoid(A_z + dot(H, W_hz))
        R = tl.sigmoid(A_r + dot(H, W_hr))
        H_tilde = 2 * tl.sigmoid(2 * (A + dot(R * H, W_hh))) - 1  # tanh
        H = Z * H + (1 - Z) * H_tilde
        tl.store(gates + here * 2 * n + j, Z, unit)
        tl.store(gates + here * 2 * n + n + j, R, unit)
        tl.store(all_H_tilde + here * n + j, H_tilde, unit)
        tl.store(states + (here + B) * n + j, H, unit)
        A_z, A_r, A = next_z, next_r, next_h


@triton.jit(do_not_specialize=["T", "total", "B", "n", "I"])
def backward_kernel(dX, states, gates, all_H_tilde, dstates, dH_0, all_dA_g, all_dA, W_gT, W_hT, W_y, T,
                    total, B, n, I, RESIDUAL: constexpr, FUTURE: constexpr, N: constexpr, IN: constexpr):  # fmt: skip
    b, B, j, c = tl.program_id(0).to(tl.int64), B.to(tl.int64), tl.arange(0, N), tl.arange(0, IN)
    unit, given = j < n, c < I
    length = I + 1 + n  # of a row of W_gT and W_hT
    W_hzT, W_hrT = matrix(W_gT + I + 1, n, n, length, N, N), matrix(W_gT + n * length + I + 1, n, n, length, N, N)
    W_hhT, dH = matrix(W_hT + I + 1, n, n, length, N, N), tl.zeros([N], W_hT.dtype.element_ty)
    if FUTURE:
        W_xzT, W_xrT = matrix(W_gT, n, I, length, N, IN), matrix(W_gT + n * length, n, I, length, N, IN)
        W_xhT, W_out = matrix(W_hT, n, I, length, N, IN), matrix(W_y, I, n, n, IN, N)
        dX_t = tl.zeros([IN], W_y.dtype.element_ty)
    last = (total - 1) * B + b
    Z, R, H_tilde = load(gates, all_H_tilde, last, n, j, unit)
    H, dstate = tl.load(states + last * n + j, unit, 0.0), tl.load(dstates + last * n + j, unit, 0.0)
    for t in range(total - 1, -1, -1):
        here, ahead = t * B + b, tl.maximum(t - 1, 0) * B + b  # ahead is where the loop goes next: back
        next_Z, next_R, next_H_tilde = load(gates, all_H_tilde, ahead, n, j, unit)
        next_H, next_dstate = tl.load(states + ahead * n + j, unit, 0.0), tl.load(dstates + ahead * n + j, unit, 0.0)
        dH += dstate  # now it is dH_new: from later steps, and from this state's own readout
        dA_z = dH * (H - H_tilde) * Z * (1 - Z)
        dA = dH * (1 - Z) * (1 - H_tilde * H_tilde)
        dRH = dot(dA, W_hhT)
        dA_r = dRH * H * R * (1 - R)
        dH = dH * Z + dRH * R + dot(dA_z, W_hzT) + dot(dA_r, W_hrT)
        tl.store(all_dA_g + here * 2 * n + j, dA_z, unit)
        tl.store(all_dA_g + here * 2 * n + n + j, dA_r, unit)
        tl.store(all_dA + here * n + j, dA, unit)
        if FUTURE and t >= T:  # the input of this step was the readout of the step before, whose state is H
            dX_own = tl.load(dX + here * I + c, given, 0.0) + dot(dA_z, W_xzT) + dot(dA_r, W_xrT) + dot(dA, W_xhT)
            dX_t = dX_own + dX_t if RESIDUAL else dX_own
            tl.store(dX + here * I + c, dX_t, given)
            dH += tl.where(H > 0, dot(dX_t, W_out), 0.0)
        Z, R, H_tilde, H, dstate = next_Z, next_R, next_H_tilde, next_H, next_dstate
    tl.store(dH_0 + b * n + j, dH, unit)
    if FUTURE and RESIDUAL:  # the last input that was given went into the first that was generated
        tl.store(dX + ((T - 1) * B + b) * I + c, dX_t, given)


def launch(kernel, T, residual, I, *tensors):  # starts a program for every sequence, on the GPU that has the tensors
    total, B, n = tensors[3].shape
    N, IN = max(16, triton.next_power_of_2(n)), triton.next_power_of_2(I + 1)
    warps = {16: 1, 32: 1, 64: 2, 128: 8}[N]  # groups of 32 threads that share a program's work; the fastest, by trial
    with torch.cuda.device_of(tensors[0]):
        kernel[(B,)](*tensors, T, total, B, n, I, residual, total > T, N, IN, num_warps=warps)


def loop_forward(_, T, residual, X, states, gates, all_H_tilde, W_g, W_h, W_y, b_y):  # for all steps at once
    I, W_yT = X.shape[2] - 1, W_y.t().contiguous()
    launch(forward_kernel, T, residual, I, X, states, gates, all_H_tilde, W_g, W_h, W_yT, b_y)


def loop_backward(_, T, residual, dX, dH, dstates, states, gates, all_H_tilde, W_g, W_h, W_y):
    dA_g, dA, I = torch.empty_like(gates), torch.empty_like(all_H_tilde), dX.shape[2]
    W_gT, W_hT, dstates = W_g.t().contiguous(), W_h.t().contiguous(), dstates.contiguous()
    launch(backward_kernel, T, residual, I, dX, states, gates, all_H_tilde, dstates, dH, dA_g, dA, W_gT, W_hT, W_y)
    return dA_g, dA
