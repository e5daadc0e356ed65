"""The loop over time of models.py, and the loop back, each as one GPU kernel, written in Triton. Read models.py first.

A *kernel* runs on the GPU itself, started once for all steps, in many *programs* at once: one for each sequence of the
batch, as no sequence waits for another. Every step needs all the weights, so a program loads them once, into
*registers*, the only memory as fast as the arithmetic. Lengths are powers of two: N is n, the number of units, rounded
up, IN is I + 1; weights and H are 0 beyond. Three matrices of 128 x 128 take 49,152 of a processor's 65,536 registers;
of 256 x 256 they do not fit. A tensor comes as its first number's address; tl.load(addresses, mask, other) is `other`
where mask is False. It does not wait for memory, the first use does: so each step asks for the next. See docs/gpu.md.
"""

import torch
import triton
import triton.language as tl
from triton.language import constexpr


@triton.jit
def dot(x, W):  # a vector times a matrix: a plain sum, so that TF32, the GPU's coarse short cut, has no part in it
    return tl.sum(x[:, None] * W, 0)


@triton.jit
def matrix(W, rows, cols, down, right, ROWS: constexpr, COLS: constexpr):  # steps of `down`, `right`; swapped: W.t()
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    return tl.load(W + i * down + j * right, (i < rows) & (j < cols), 0.0)


@triton.jit(do_not_specialize=["X", "H_0", "T", "total", "B", "n", "I"])  # not compiled again for other values
def forward_kernel(X, H_0, W_xz, W_hz, b_z, W_xr, W_hr, b_r, W_xh, W_hh, b_h, W_y, b_y, states, generated, kept, T,
                   total, B, n, I, RESIDUAL: constexpr, FUTURE: constexpr, N: constexpr, IN: constexpr):  # fmt: skip
    b, B, j, c = tl.program_id(0).to(tl.int64), B.to(tl.int64), tl.arange(0, N), tl.arange(0, IN)
    unit, given, length = j < n, c < I, I + 1 + 5 * n  # b: this program's sequence; j: units; c: inputs
    W_xz, W_xr, W_xh = matrix(W_xz, I, n, n, 1, IN, N), matrix(W_xr, I, n, n, 1, IN, N), matrix(W_xh, I, n, n, 1, IN, N)
    W_hz, W_hr, W_hh = matrix(W_hz, n, n, n, 1, N, N), matrix(W_hr, n, n, n, 1, N, N), matrix(W_hh, n, n, n, 1, N, N)
    b_z, b_r, b_h = tl.load(b_z + j, unit, 0.0), tl.load(b_r + j, unit, 0.0), tl.load(b_h + j, unit, 0.0)
    if FUTURE:  # the network is going to feed itself
        W_out, b_out = matrix(W_y, n, I, 1, n, N, IN), tl.load(b_y + c, given, 0.0)
    H, X_t = tl.load(H_0 + b * n + j, unit, 0.0), tl.load(X + b * I + c, given, 1.0)
    for t in range(total):
        here = t * B + b  # the row of this step and sequence, in any tensor (T, B, ...)
        X_next = tl.load(X + (tl.minimum(t + 1, T - 1) * B + b) * I + c, given, 1.0)  # for the next step
        if FUTURE and t >= T:  # from here on the network is fed with its own readout
            Y = dot(tl.maximum(H, 0.0), W_out) + b_out
            X_t = tl.where(given, X_t + Y if RESIDUAL else Y, 1.0)
            tl.store(generated + (here - T * B) * I + c, X_t, given)
        Z = tl.sigmoid(dot(X_t, W_xz) + b_z + dot(H, W_hz))
        R = tl.sigmoid(dot(X_t, W_xr) + b_r + dot(H, W_hr))
        H_tilde = 2 * tl.sigmoid(2 * (dot(X_t, W_xh) + b_h + dot(R * H, W_hh))) - 1  # tanh
        if kept is not None:  # for the way back: X and a 1 (for db alone; above, it meets a row of zeros), H, ...
            tl.store(kept + here * length + c, X_t, c <= I)
            for k in tl.static_range(5):
                tl.store(kept + here * length + I + 1 + k * n + j, (H, R * H, Z, R, H_tilde)[k], unit)
        H = Z * H + (1 - Z) * H_tilde
        tl.store(states + here * n + j, H, unit)
        X_t = tl.where(t + 1 < T, X_next, X_t)


@triton.jit
def fetch(kept, dstates, place, n, I, j):  # what the loop back needs of one step; a row: X 1 H R∘H Z R H_tilde
    row, unit = kept + place * (I + 1 + 5 * n) + I + 1 + j, j < n
    H, Z, R = tl.load(row, unit, 0.0), tl.load(row + 2 * n, unit, 0.0), tl.load(row + 3 * n, unit, 0.0)
    return H, Z, R, tl.load(row + 4 * n, unit, 0.0), tl.load(dstates + place * n + j, unit, 0.0)


@triton.jit(do_not_specialize=["T", "total", "B", "n", "I"])
def backward_kernel(kept, dstates, dgenerated, dX, dH_0, all_dA, W_xz, W_xr, W_xh, W_hT, W_y, T, total, B, n, I,
                    RESIDUAL: constexpr, FUTURE: constexpr, N: constexpr, IN: constexpr):  # fmt: skip
    b, B, j, c = tl.program_id(0).to(tl.int64), B.to(tl.int64), tl.arange(0, N), tl.arange(0, IN)
    W_hzT, W_hrT = matrix(W_hT, n, n, n, 1, N, N), matrix(W_hT + n * n, n, n, n, 1, N, N)
    W_hhT, dH = matrix(W_hT + 2 * n * n, n, n, n, 1, N, N), tl.zeros([N], W_hT.dtype.element_ty)
    if dX is not None:  # somebody wants it, or the network has fed itself
        W_xzT, W_xrT = matrix(W_xz, n, I, 1, n, N, IN), matrix(W_xr, n, I, 1, n, N, IN)
        W_xhT, W_out = matrix(W_xh, n, I, 1, n, N, IN), matrix(W_y, I if FUTURE else 0, n, n, 1, IN, N)  # or none
        dX_t = tl.zeros([IN], W_hT.dtype.element_ty)
    H, Z, R, H_tilde, dstate = fetch(kept, dstates, (total - 1) * B + b, n, I, j)
    for t in range(total - 1, -1, -1):
        here, ahead = t * B + b, tl.maximum(t - 1, 0) * B + b  # ahead is where the loop goes next: back
        next_H, next_Z, next_R, next_H_tilde, next_dstate = fetch(kept, dstates, ahead, n, I, j)
        dH += dstate  # now it is dH_new: from later steps, and from this state's own readout
        dA_z = dH * (H - H_tilde) * Z * (1 - Z)
        dA = dH * (1 - Z) * (1 - H_tilde * H_tilde)
        dRH = dot(dA, W_hhT)
        dA_r = dRH * H * R * (1 - R)
        dH = dH * Z + dRH * R + dot(dA_z, W_hzT) + dot(dA_r, W_hrT)
        for k in tl.static_range(3):
            tl.store(all_dA + (here * 3 + k) * n + j, (dA_z, dA_r, dA)[k], j < n)
        if dX is not None:  # if RESIDUAL, X[t + 1] was X[t] + Y: its gradient, still in dX_t, is a part of X[t]'s
            dX_t = tl.where((t + 1 >= T) & RESIDUAL, dX_t, 0.0) + dot(dA_z, W_xzT) + dot(dA_r, W_xrT) + dot(dA, W_xhT)
            if FUTURE and t >= T:  # the input of this step was the readout of the step before, whose state is H
                dX_t += tl.load(dgenerated + (here - T * B) * I + c, c < I, 0.0)
                dH += tl.where(H > 0, dot(dX_t, W_out), 0.0)  # where the relu was open
            tl.store(dX + here * I + c, dX_t, c < I)
        H, Z, R, H_tilde, dstate = next_H, next_Z, next_R, next_H_tilde, next_dstate
    tl.store(dH_0 + b * n + j, dH, j < n)


def launch(kernel, tensors, T, total, B, n, I, residual):  # starts a program for every sequence, on the tensors' GPU
    N, IN = max(16, triton.next_power_of_2(n)), triton.next_power_of_2(I + 1)
    warps = {16: 1, 32: 1, 64: 2, 128: 8}[N]  # groups of 32 threads that share a program's work; the fastest, by trial
    with torch.cuda.device_of(tensors[0]):
        kernel[(B,)](*tensors, T, total, B, n, I, residual, total > T, N, IN, num_warps=warps)


class Recurrence(torch.autograd.Function):  # called as that of models.py is, with the same results
    @staticmethod
    def forward(ctx, inputs, H, future, residual, keep, *weights):
        (T, B, I), n, total, ctx.residual = inputs.shape, H.shape[1], len(inputs) + future, residual
        states, generated = H.new_empty(total, B, n), H.new_empty(future, B, I)
        kept = H.new_empty(total * B, I + 1 + 5 * n) if keep else None  # for each step X, 1, H, R∘H, Z, R, H_tilde
        tensors = [Q.contiguous() for Q in (inputs, H, *weights)]
        launch(forward_kernel, (*tensors, states, generated, kept), T, total, B, n, I, residual)
        ctx.save_for_backward(states, kept, *tensors[2:])
        return states, generated

    @staticmethod
    def backward(ctx, dstates, dgenerated):
        if torch.is_grad_enabled():  # create_graph=True: somebody wants the gradient of this gradient
            raise RuntimeError("GRU.forward has a first derivative only: use GRU.forward_by_steps")
        states, kept, W_xz, W_hz, _, W_xr, W_hr, _, W_xh, W_hh, _, W_y, _ = ctx.saved_tensors
        (total, B, n), T, I = dstates.shape, len(dstates) - len(dgenerated), len(W_xz)
        dX = states.new_empty(total, B, I) if total > T or ctx.needs_input_grad[0] else None
        dH, dA = torch.empty_like(states[0]), states.new_empty(total * B, 3 * n)  # dA_z, dA_r, dA
        W_hT = torch.cat([W_hz.t(), W_hr.t(), W_hh.t()])  # transposed in memory: threads get columns, and sum alone
        tensors = kept, dstates.contiguous(), dgenerated.contiguous(), dX, dH, dA, W_xz, W_xr, W_xh, W_hT, W_y
        launch(backward_kernel, tensors, T, total, B, n, I, ctx.residual)
        X, one, H, RH = (kept[:, : -3 * n].t() @ dA).view(-1, 3, n).transpose(0, 1).contiguous().split([I, 1, n, n], 1)
        of_weights = X[0], H[0], one[0, 0], X[1], H[1], one[1, 0], X[2], RH[2], one[2, 0]  # dW_xz = Xᵀ dA_z, ...
        dY = dX[T:].flatten(0, 1) if total > T else None  # the readout was part of the loop
        of_readout = (dY.t() @ states[T - 1 : -1].relu().flatten(0, 1), dY.sum(0)) if total > T else (None, None)
        return None if dX is None else dX[:T], dH, None, None, None, *of_weights, *of_readout
