"""The weights of a GRU travel together, by their names in the textbook."""

from typing import NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """The eleven tensors of a GRU, with shapes as in models.py; also their gradients.

    W_y and b_y are the weight and the bias of `fc`.
    """

    W_xz: Tensor
    W_hz: Tensor
    b_z: Tensor
    W_xr: Tensor
    W_hr: Tensor
    b_r: Tensor
    W_xh: Tensor
    W_hh: Tensor
    b_h: Tensor
    W_y: Tensor | None  # None, as a gradient: the readout was no part of the loop
    b_y: Tensor | None

    @classmethod
    def of(cls, gru):
        """Take the weights of a network as they are, without a copy."""
        recurrent = [getattr(gru, name) for name in cls._fields[:-2]]  # not W_y, b_y
        return cls(*recurrent, gru.fc.weight, gru.fc.bias)
