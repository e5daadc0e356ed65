"""fit_readout against NumPy's least squares, and what it refuses."""

import numpy as np
import pytest
import torch

from backstage.training import fit_readout
from cells import Leaky
from models import GRU

TOLERANCES = [(torch.float64, 1e-7), (torch.float32, 1e-4)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize(
    ("cell", "residual"), [(GRU, False), (GRU, True), (Leaky, True)]
)
def test_fit_readout_is_least_squares_and_leaves_the_rest_alone(
    cell, residual, dtype, tolerance
):
    torch.manual_seed(0)
    model = cell(2, 7, 2, residual=residual).to(dtype)
    x = torch.randn(60, 70, 2, dtype=dtype)  # 70 sequences: three parts
    y = torch.randn(60, 70, 2, dtype=dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    y[:7] = torch.nan  # what is skipped does not count
    fit_readout(model, x, y, skip=7, ridge=1e-10)

    states, _ = model(x)
    features = states[7:].detach().relu().double().reshape(-1, 7).numpy()
    features = np.column_stack([features, np.ones(len(features))])
    target = y[7:].double()
    if residual:
        target = target - x[7:].double()
    expected, *_ = np.linalg.lstsq(features, target.reshape(-1, 2).numpy())
    fitted = model.fc.weight.detach()
    np.testing.assert_allclose(fitted, expected[:-1].T, atol=tolerance)
    np.testing.assert_allclose(model.fc.bias.detach(), expected[-1], atol=tolerance)
    for name, weight in model.state_dict().items():
        if not name.startswith("fc"):
            assert torch.equal(before[name], weight)


def test_readout_that_cannot_be_fitted_is_left_alone_and_why_is_said():
    model = GRU(1, 4, 1)
    before = model.fc.weight.clone()
    x = torch.zeros(9, 2, 1)
    for skip in (9, 12, -1):
        with pytest.raises(ValueError, match=f"skip = {skip}: expected .* 9 steps"):
            fit_readout(model, x, x, skip=skip)
    for name in ("x", "y"):
        data = {"x": x, "y": x} | {name: torch.full((9, 2, 1), torch.nan)}
        with pytest.raises(ValueError, match="not finite"):
            fit_readout(model, data["x"], data["y"], skip=2)
    assert torch.equal(model.fc.weight, before)
