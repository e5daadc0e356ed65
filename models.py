"""The gated recurrent unit (GRU) from scratch: a step, the loop over time, the readout.

Read `GRU.single_step` first: one line per equation.
Source: Cho et al. (2014), https://arxiv.org/abs/1406.1078
"""

import math

import torch
from torch import nn

from backstage import fast


class GRU(nn.Module):
    """A gated recurrent unit with a readout.

    num_inputs, num_hiddens, num_outputs: how many numbers enter, are remembered and
        leave at every time step.
    per_timestep_readout: read out at every step; if False, only at the last one.
    residual: add the input (its first num_outputs numbers) to the readout. Then the
        network learns how the input *changes*.

    Tensors are time first, as in nn.GRU: inputs (T, B, num_inputs), states
    (T, B, num_hiddens), for T steps of B sequences. The step is the textbook's; that of
    nn.GRU resets after the product (cells.ResetAfter).
    Raises ValueError if residual is asked of a network whose readout cannot be added
    to its input.
    """

    def __init__(
        self,
        num_inputs,
        num_hiddens,
        num_outputs,
        per_timestep_readout=True,
        residual=False,
    ):
        super().__init__()
        if residual and (num_inputs < num_outputs or not per_timestep_readout):
            raise ValueError(
                f"residual = True with num_inputs = {num_inputs}, num_outputs = "
                f"{num_outputs}, per_timestep_readout = {per_timestep_readout}: "
                "expected num_inputs >= num_outputs and per_timestep_readout = True"
            )
        self.num_inputs = num_inputs
        self.num_hiddens = num_hiddens
        self.num_outputs = num_outputs
        self.per_timestep_readout = per_timestep_readout
        self.residual = residual
        self.info = {}  # what load_checkpoint finds beside the weights, such as the dt

        # uniform, as in nn.GRU: with this bound H @ W_hz has about the same size
        # whatever the number of units
        bound = 1 / math.sqrt(num_hiddens)

        def weight(*shape):
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        # update gate
        self.W_xz = weight(num_inputs, num_hiddens)
        self.W_hz = weight(num_hiddens, num_hiddens)
        self.b_z = weight(num_hiddens)
        # reset gate
        self.W_xr = weight(num_inputs, num_hiddens)
        self.W_hr = weight(num_hiddens, num_hiddens)
        self.b_r = weight(num_hiddens)
        # candidate
        self.W_xh = weight(num_inputs, num_hiddens)
        self.W_hh = weight(num_hiddens, num_hiddens)
        self.b_h = weight(num_hiddens)
        # readout: a fully connected layer
        self.fc = nn.Linear(num_hiddens, num_outputs)

    @torch.no_grad()
    def lengthen_memory(self, longest):
        """Let the units begin with memories of 2 to `longest` steps, drawn evenly.

        A unit whose gate Z is constant forgets as Zᵗ does, with a time constant of
        about τ = 1 / (1 - Z) steps. In a new network Z is near 1/2, a memory of two
        steps: what was seen hundreds of steps ago is lost, and its gradient with it.
        Here Z begins as σ(b_z) with b_z = log(τ - 1); if `longest` is 2, it is 1/2.
        Source: Tallec and Ollivier (2018), https://arxiv.org/abs/1804.11188
        """
        tau_minus_1 = torch.empty_like(self.b_z).uniform_(1, max(1, longest - 1))
        self.b_z.copy_(tau_minus_1.log())

    def single_step(self, X, H):
        """Take the input X (B, num_inputs) and the state H (B, num_hiddens).

        Returns the next state (B, num_hiddens) and its readout (B, num_outputs).
        """
        # update gate: how much of the old state stays
        Z = torch.sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)
        # reset gate: how much of the old state the candidate sees
        R = torch.sigmoid(X @ self.W_xr + H @ self.W_hr + self.b_r)
        # candidate
        H_tilde = torch.tanh(X @ self.W_xh + (R * H) @ self.W_hh + self.b_h)
        # the new state: a mixture of the old one and the candidate
        H_new = Z * H + (1 - Z) * H_tilde
        return H_new, self.readout(H_new, X)

    def readout(self, H, X):
        """Read the outputs (..., num_outputs) from states H (..., num_hiddens).

        X: the inputs of the same steps (..., num_inputs), used if residual.
        """
        Y = self.fc(self.features(H))
        if self.residual:
            return X[..., : self.num_outputs] + Y
        return Y

    def features(self, H):
        """What the readout sees of states H: only the units above 0, as they are.

        Without this the readout would be linear in the state.
        """
        return torch.relu(H)

    def forward_by_steps(self, inputs, H=None, future=0):
        """Go through time by `single_step`: the loop to be read.

        Takes and returns what `forward` does. PyTorch's autograd records every step.
        """
        H = self._checked_state(inputs, H, future)
        states = []
        readouts = []
        for X in inputs:
            H, Y = self.single_step(X, H)
            states.append(H)
            readouts.append(Y)
        for _ in range(future):
            H, Y = self.single_step(Y, H)  # fed with the readout of the step before
            states.append(H)
            readouts.append(Y)
        if self.per_timestep_readout:
            return torch.stack(states), torch.stack(readouts)
        return torch.stack(states), Y

    def forward(self, inputs, H=None, future=0):
        """Run over inputs (T, B, num_inputs) from the state H (B, num_hiddens).

        H: zero if not given. future: that many further steps, each fed with the readout
        of the one before.
        Returns the states (T + future, B, num_hiddens) and the readouts
        (T + future, B, num_outputs); with per_timestep_readout=False the last readout
        alone, (B, num_outputs).

        The same numbers as those of `forward_by_steps`, but faster. A network with a
        step or a readout of its own goes by steps, and so does a GRU in which these
        were edited: backstage/fast.py sees to it. To look inside of a step, print there
        and call `forward_by_steps`.
        Raises ValueError for shapes that do not fit. Second derivatives raise
        RuntimeError; `forward_by_steps` has them.
        """
        if fast.may_run(self, textbook=GRU):
            return self.forward_fast(inputs, H, future)
        return self.forward_by_steps(inputs, H, future)

    def forward_fast(self, inputs, H=None, future=0):
        """Go through time by the loop of backstage/recurrence.py or one GPU kernel.

        Its equations are those of `GRU.single_step`, and its gradient is by hand.
        """
        H = self._checked_state(inputs, H, future)
        states, generated_inputs = fast.run(self, inputs, H, future)
        if not self.per_timestep_readout:
            # such a network is never residual: the readout needs no input
            return states, self.readout(states[-1], None)
        if future:
            inputs = torch.cat([inputs, generated_inputs])
        return states, self.readout(states, inputs)

    def _checked_state(self, inputs, H, future):
        """Check the arguments of forward; return H, zeros if it is not given."""
        shape = tuple(inputs.shape)
        if len(shape) != 3 or shape[2] != self.num_inputs or 0 in shape:
            raise ValueError(
                f"inputs have shape {shape}: expected (T, B, {self.num_inputs}), "
                "at least one step of one sequence"
            )
        if future < 0 or (future > 0 and not self.can_feed_itself):
            raise ValueError(
                f"future = {future}: expected 0 or more, of a network whose readout "
                "can be its next input"
            )
        expected = (shape[1], self.num_hiddens)
        if H is None:
            return inputs.new_zeros(expected)
        if H.shape != expected:
            raise ValueError(f"H has shape {tuple(H.shape)}: expected {expected}")
        return H

    @torch.no_grad()
    def predict(self, inputs, future=0):
        """Run as `forward` does, without a gradient; the readouts are moved to the CPU.

        Takes inputs (T, B, num_inputs).
        """
        _, readouts = self(inputs.to(self.device), future=future)
        return readouts.cpu()

    @property
    def can_feed_itself(self):
        """Whether the readout of a step can be the input of the next one."""
        return self.num_inputs == self.num_outputs and self.per_timestep_readout

    @property
    def device(self):
        """Where the weights are."""
        return self.W_hh.device
