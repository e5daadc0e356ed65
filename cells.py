"""The same network with other steps: what does each part of the GRU do?

Each is a GRU without some of its parts, or with one in another place. It runs step by
step, under PyTorch's own gradient. `--cell` of every script takes those of CELLS.
"""

import math

import torch
from torch import nn

from models import GRU

FASTEST = 1.5  # steps: time constants of the units of a new Leaky network
SLOWEST = 60.0  # unless lengthen_memory says otherwise


class Plain(GRU):
    """No gates: at every step the whole state is multiplied by a matrix and squashed.

    Source: Elman (1990), https://doi.org/10.1016/0364-0213(90)90002-E
    """

    def __init__(self, *sizes, **switches):
        super().__init__(*sizes, **switches)
        del self.W_xz, self.W_hz, self.b_z
        del self.W_xr, self.W_hr, self.b_r

    def lengthen_memory(self, longest):
        """Do nothing: no unit of this network keeps its number."""

    def single_step(self, X, H):
        H_new = torch.tanh(X @ self.W_xh + H @ self.W_hh + self.b_h)
        return H_new, self.readout(H_new, X)


class Leaky(GRU):
    """Each unit mixes old and new in a constant proportion Z of its own, learnt.

    In neuroscience: a rate network. A unit forgets as Zᵗ does, with a time constant
    of about 1 / (1 - Z) steps.
    Source: Quax et al. (2020), https://doi.org/10.1038/s41598-020-68169-x
    """

    def __init__(self, *sizes, **switches):
        super().__init__(*sizes, **switches)
        del self.W_xz, self.W_hz
        del self.W_xr, self.W_hr, self.b_r
        self.lengthen_memory(SLOWEST)

    @torch.no_grad()
    def lengthen_memory(self, longest):
        """Spread the time constants from FASTEST to `longest`, on a log scale."""
        slowest = max(FASTEST, longest)
        log_tau = torch.linspace(
            math.log(FASTEST), math.log(slowest), self.num_hiddens, dtype=torch.float64
        )
        self.b_z.copy_(torch.log(log_tau.exp() - 1))  # σ(b_z) = 1 - 1 / τ

    def single_step(self, X, H):
        Z = torch.sigmoid(self.b_z)
        H_tilde = torch.tanh(X @ self.W_xh + H @ self.W_hh + self.b_h)
        H_new = Z * H + (1 - Z) * H_tilde
        return H_new, self.readout(H_new, X)


class UpdateGate(GRU):
    """A GRU without its reset gate: the candidate sees the whole old state."""

    def __init__(self, *sizes, **switches):
        super().__init__(*sizes, **switches)
        del self.W_xr, self.W_hr, self.b_r

    def single_step(self, X, H):
        Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)
        H_tilde = torch.tanh(X @ self.W_xh + H @ self.W_hh + self.b_h)
        H_new = Z * H + (1 - Z) * H_tilde
        return H_new, self.readout(H_new, X)


class ResetAfter(GRU):
    """The other published form, that of nn.GRU and cuDNN: R acts after the product.

    Source: Cho et al. (2014), version 1, https://arxiv.org/abs/1406.1078v1
    """

    def __init__(self, *sizes, **switches):
        super().__init__(*sizes, **switches)
        bound = 1 / math.sqrt(self.num_hiddens)
        self.b_hh = nn.Parameter(torch.empty(self.num_hiddens).uniform_(-bound, bound))

    def single_step(self, X, H):
        Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)
        R = torch.sigmoid(X @ self.W_xr + H @ self.W_hr + self.b_r)
        H_tilde = torch.tanh(X @ self.W_xh + self.b_h + R * (H @ self.W_hh + self.b_hh))
        H_new = Z * H + (1 - Z) * H_tilde
        return H_new, self.readout(H_new, X)

    @classmethod
    @torch.no_grad()
    def from_torch(cls, rnn):
        """Copy an nn.GRU of one layer; the readout, of one number, is new.

        Raises TypeError if it is no nn.GRU, ValueError for two layers, two directions
        or batch_first=True.
        """
        if type(rnn) is not nn.GRU:
            raise TypeError(
                f"from_torch was given {type(rnn).__name__}: expected nn.GRU"
            )
        if rnn.num_layers != 1 or rnn.bidirectional or rnn.batch_first:
            raise ValueError(
                f"num_layers = {rnn.num_layers}, bidirectional = {rnn.bidirectional}, "
                f"batch_first = {rnn.batch_first}: expected one layer, one direction, "
                "and time first"
            )
        model = cls(rnn.input_size, rnn.hidden_size, 1).to(rnn.weight_ih_l0)
        # nn.GRU stacks its gates in the order r, z, candidate, each transposed
        W_xr, W_xz, W_xh = rnn.weight_ih_l0.chunk(3)
        W_hr, W_hz, W_hh = rnn.weight_hh_l0.chunk(3)
        model.W_xr.copy_(W_xr.t())
        model.W_xz.copy_(W_xz.t())
        model.W_xh.copy_(W_xh.t())
        model.W_hr.copy_(W_hr.t())
        model.W_hz.copy_(W_hz.t())
        model.W_hh.copy_(W_hh.t())
        if not rnn.bias:
            for bias in (model.b_r, model.b_z, model.b_h, model.b_hh):
                bias.zero_()
            return model
        b_xr, b_xz, b_xh = rnn.bias_ih_l0.chunk(3)
        b_hr, b_hz, b_hh = rnn.bias_hh_l0.chunk(3)
        model.b_r.copy_(b_xr + b_hr)  # in a gate only their sum counts
        model.b_z.copy_(b_xz + b_hz)
        model.b_h.copy_(b_xh)
        model.b_hh.copy_(b_hh)
        return model


CELLS = {
    "gru": GRU,
    "plain": Plain,
    "leaky": Leaky,
    "update_gate": UpdateGate,
    "reset_after": ResetAfter,
}
