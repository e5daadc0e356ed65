"""Whatever is thrown at the public constructors and functions, they work or raise ValueError; nothing ends in NaN."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import FitzhughNagumo, FitzhughNagumoClassification, simulate
from models import GRU

odd = st.one_of(
    st.none(), st.text(max_size=3), st.booleans(), st.lists(st.integers(), max_size=2), st.complex_numbers()
)
numbers = st.one_of(st.floats(), st.integers(-(10**30), 10**30), st.floats(-5, 5), st.integers(-3, 12))
anything = st.one_of(numbers, odd)
few = settings(max_examples=60, deadline=None, derandomize=True)


def works_or_raises_value_error(build):
    """Return what it builds, or None where it raises ValueError with a message of one line."""
    try:
        return build()
    except ValueError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


@few
@given(st.tuples(anything, anything, anything), st.tuples(anything, anything, anything))
def test_gru(sizes, switches):
    sizes = [min(size, 40) if isinstance(size, int) else size for size in sizes]  # a large one would only be slow
    model = works_or_raises_value_error(lambda: GRU(*sizes, *switches))
    if model is not None:
        states, readouts = model(torch.randn(4, 2, model.num_inputs))
        assert torch.isfinite(states).all()
        assert torch.isfinite(readouts).all()


shapes = st.lists(st.integers(0, 4), max_size=4)
tensors = st.one_of(shapes.map(torch.zeros), shapes.map(lambda s: torch.zeros(s, dtype=torch.int64)), anything)


@few
@given(tensors, st.one_of(st.none(), tensors), anything)
def test_forward(inputs, H, future):
    model = GRU(2, 3, 2)
    for run in (model, model.forward_by_steps):
        if not isinstance(future, int) or future < 100:
            outputs = works_or_raises_value_error(lambda run=run: run(inputs, H, future))
            assert outputs is None or all(torch.isfinite(output).all() for output in outputs)
    works_or_raises_value_error(lambda: model.single_step(inputs, H))


@few
@given(anything, anything, st.one_of(anything, st.lists(st.floats(), max_size=4)), *[anything] * 4)
def test_simulate_with_anything(v0, w0, t, I, a, b, eps):
    traces = works_or_raises_value_error(lambda: simulate(v0, w0, t, I, a, b, eps))
    assert traces is None or np.isfinite(traces).all()


@few
@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=3),
    st.floats(-100, 100),
    st.floats(-5, 5),
    st.floats(-5, 5),
    st.floats(0, 10),
    st.floats(1e-6, 1),
)
def test_simulate_stays_finite_in_its_range(v0, w0, I, a, b, eps):
    V, W = simulate(v0, w0, np.linspace(0, 20, 11), I, a, b, eps)
    assert V.shape == W.shape == (11, len(v0))
    assert np.isfinite(V).all()
    assert np.isfinite(W).all()
    np.testing.assert_allclose(V[0], v0)


@few
@given(*[anything] * 7)
def test_regression_dataset(N, T, I, a, b, duration, seed):
    data = works_or_raises_value_error(lambda: FitzhughNagumo(N, T, I, a, b, duration, seed))
    if data is not None:
        assert len(data) == N
        assert torch.isfinite(torch.stack([data.data_x, data.data_y, data.data_w])).all()
        assert len(works_or_raises_value_error(lambda: data.get_init(T))) == T


@few
@given(anything)
def test_get_init(n):
    init = works_or_raises_value_error(lambda: FitzhughNagumo(1, 5, duration=2.0, seed=0).get_init(n))
    assert init is None or (init.shape == (n, 1, 1) and torch.isfinite(init).all())


@few
@given(*[anything] * 7)
def test_classification_dataset(N, T, duration, noise_std, random_phase, match_period, seed):
    arguments = (N, T, duration, noise_std, random_phase, match_period, seed)
    data = works_or_raises_value_error(lambda: FitzhughNagumoClassification(*arguments))
    if data is not None:
        assert data.data.shape == (2 * N, T, 1)
        assert torch.isfinite(data.data).all()
        plt.close(data.visualize_samples())
