"""Muon against torch's own, and both groups under one schedule."""

import copy

import pytest
import torch

from backstage.optimiser import MuonAndAdam, make_optimizer, orthogonalize
from cells import CELLS
from models import GRU


def test_orthogonalize_keeps_the_directions_and_evens_out_the_stretches():
    torch.manual_seed(0)
    G = torch.randn(3, 8, 8, dtype=torch.float64)
    G[1] *= 1e-3  # its size does not matter
    U, _, Vh = torch.linalg.svd(G)
    stretches = U.mT @ orthogonalize(G) @ Vh.mT
    diagonal = stretches.diagonal(dim1=1, dim2=2)
    assert (stretches - torch.diag_embed(diagonal)).abs().max() < 1e-9
    assert diagonal[G.norm(dim=(1, 2)) > 0].quantile(0.2) > 0.6
    assert diagonal.max() < 1.25
    assert torch.equal(orthogonalize(torch.zeros(1, 3, 3)), torch.zeros(1, 3, 3))


class Both(torch.optim.Optimizer):
    """torch's Muon, of one matrix after the other in bfloat16, and torch's Adam."""

    def __init__(self, model, lr):
        matrices = [w for name, w in model.named_parameters() if name[:3] == "W_h"]
        others = [w for name, w in model.named_parameters() if name[:3] != "W_h"]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=0.0),
            torch.optim.Adam(others, lr=lr, fused=True),
        ]
        super().__init__(list(model.parameters()), {"lr": lr})
        groups = [optimizer.param_groups[0] for optimizer in self.optimizers]
        self.param_groups = groups

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_trained_as_by_torchs_own_muon_and_adam(cell):
    torch.manual_seed(0)
    model = CELLS[cell](1, 16, 1)
    same = copy.deepcopy(model)
    before = copy.deepcopy(model)
    optimizers = [MuonAndAdam(model, lr=0.01), Both(same, lr=0.01)]
    for _ in range(20):
        for name, weight in model.named_parameters():
            weight.grad = torch.randn_like(weight)
            same.get_parameter(name).grad = weight.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for name, weight in model.named_parameters():
        expected = same.get_parameter(name)
        moved = (expected - before.get_parameter(name)).abs().max()
        assert moved > 1e-3, name
        assert (weight - expected).abs().max() < 2e-3, name  # bfloat16 has three digits


def test_both_have_a_learning_rate_of_their_own_under_one_schedule():
    model = GRU(1, 4, 1)
    optimizer = MuonAndAdam(model, lr=0.02, adam_lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    model(torch.randn(5, 2, 1))[1].sum().backward()
    optimizer.step()
    schedule.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.01, 0.005])
    assert optimizer.adam.param_groups[0]["lr"] == rates[1]
    num_weights = sum(len(group["params"]) for group in optimizer.param_groups)
    assert num_weights == len(list(model.parameters()))


def test_another_optimizer_is_an_error():
    with pytest.raises(ValueError, match="optimizer 'Muon': expected one of"):
        make_optimizer("Muon", GRU(1, 3, 1), 0.1)
