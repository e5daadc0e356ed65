"""The weights of a GRU travel together, by their names in the textbook."""

from typing import NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """The eleven tensors of a GRU; also their gradients. Shapes: see models.py."""

    W_xz: Tensor
    W_hz: Tensor
    b_z: Tensor
    W_xr: Tensor
    W_hr: Tensor
    b_r: Tensor
    W_xh: Tensor
    W_hh: Tensor
    b_h: Tensor
    W_y: Tensor | None  # of the readout: None as a gradient that was not asked for
    b_y: Tensor | None

    @classmethod
    def of(cls, gru):
        """Take the weights of a network as they are, without a copy."""
        gates = [getattr(gru, name) for name in cls._fields[:-2]]
        return cls(*gates, gru.fc.weight, gru.fc.bias)
