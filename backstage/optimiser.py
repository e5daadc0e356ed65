"""Muon for the recurrent matrices and Adam for all else, as one optimizer."""

import torch

# Newton-Schulz: five steps of X <- A X + B (X Xᵀ) X + C (X Xᵀ)² X
A, B, C = 3.4445, -4.7750, 2.0315
NUM_ITERATIONS = 5
MOMENTUM = 0.95


def orthogonalize(G):
    """Make the matrices G (k, n, n) about equally long in their directions.

    A matrix turns space, stretches it along n axes, and turns it again. The iteration
    leaves the turns as they are, and brings the stretches to about 1 (0.7 to 1.2).
    Those below some 0.002 of the matrix's norm grow several hundredfold, and stay
    small.
    """
    X = G / G.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no stretch is above 1
    for _ in range(NUM_ITERATIONS):
        square = X @ X.mT
        X = A * X + (B * square + C * square @ square) @ X
    return X


class MuonAndAdam(torch.optim.Optimizer):
    """Trains a network's square recurrent matrices by Muon, and all else by Adam.

    The gradient of a recurrent matrix is dominated by a few directions. Muon's step is
    about as long in the others, if they are not too small.
    Source: Keller Jordan et al. (2024), https://kellerjordan.github.io/posts/muon

    lr: of both, unless adam_lr says otherwise. One schedule serves both. A training
    with it cannot be saved half-way and resumed: state_dict holds no momentum.
    """

    def __init__(self, model, lr, adam_lr=None):
        matrices = []
        others = []
        for name, weight in model.named_parameters():
            is_square = weight.dim() == 2 and weight.shape[0] == weight.shape[1]
            if name.startswith("W_h") and is_square:
                matrices.append(weight)
            else:
                others.append(weight)
        super().__init__([{"params": matrices, "lr": lr}], {})
        self.momentum = torch.zeros_like(torch.stack(matrices))
        adam_lr = lr if adam_lr is None else adam_lr
        self.adam = torch.optim.Adam(others, lr=adam_lr, fused=True)
        # the very groups that Adam looks at: a schedule changes their learning rate
        self.param_groups += self.adam.param_groups

    @torch.no_grad()
    def step(self):
        """Take one step of both, all recurrent matrices at once."""
        self.adam.step()
        matrices = self.param_groups[0]["params"]
        gradients = torch.zeros_like(self.momentum)
        for gradient, matrix in zip(gradients, matrices):
            if matrix.grad is not None:  # the loss depends on it
                gradient.copy_(matrix.grad)
        self.momentum.lerp_(gradients, 1 - MOMENTUM)
        ahead = gradients.lerp(self.momentum, MOMENTUM)  # as Nesterov does
        for matrix, step in zip(matrices, orthogonalize(ahead)):
            matrix.sub_(step, alpha=self.param_groups[0]["lr"])


OPTIMIZERS = ("muon", "adam")


def make_optimizer(name, model, lr):
    """Adam for all weights of a network, or Muon for its recurrent matrices.

    Raises ValueError for another name.
    """
    if name == "muon":
        return MuonAndAdam(model, lr)
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    raise ValueError(f"optimizer {name!r}: expected one of {OPTIMIZERS}")
