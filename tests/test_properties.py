"""Whatever is thrown at the public constructors and functions, they work or raise ValueError; nothing ends in NaN."""

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


@st.composite
def arguments(draw, *valid, instead=anything):
    """Arguments from their valid ranges, and whether all of them are: in some draws one is replaced."""
    chosen = [draw(strategy) for strategy in valid]
    odd_one = draw(st.none() | st.integers(0, len(valid) - 1))
    if odd_one is not None:
        chosen[odd_one] = draw(instead)
    return chosen, odd_one is None


def works_or_raises_value_error(build, must_work=False):
    """Return what it builds, or None where it raises ValueError with a message of one line."""
    try:
        return build()
    except ValueError as error:
        message = str(error)
    assert not must_work, message
    assert len(message.splitlines()) == 1
    return None


@few
@given(arguments(*[st.integers(1, 4)] * 3, *[st.booleans()] * 3))
def test_gru(chosen):
    *sizes, per_timestep_readout, residual, reset_after = chosen[0]
    sizes = [min(size, 40) if isinstance(size, int) else size for size in sizes]  # a large one would only be slow
    must_work = chosen[1] and not residual  # which has its own conditions
    model = works_or_raises_value_error(lambda: GRU(*sizes, per_timestep_readout, residual, reset_after), must_work)
    if model is not None:
        states, readouts = model(torch.randn(4, 2, model.num_inputs))
        assert torch.isfinite(states).all()
        assert torch.isfinite(readouts).all()


shapes = st.lists(st.integers(0, 4), max_size=4)
tensors = shapes.map(torch.zeros) | shapes.map(lambda shape: torch.zeros(shape, dtype=torch.int64))
inputs_of_two = st.tuples(st.integers(1, 4), st.just(2), st.just(2)).map(torch.ones)  # (T, B, num_inputs)
states_of_two = st.none() | st.just(torch.ones(2, 3))  # (B, num_hiddens)


@few
@given(arguments(inputs_of_two, states_of_two, st.integers(0, 9), instead=tensors | anything))
def test_forward(chosen):
    model = GRU(2, 3, 2)
    (inputs, H, future), must_work = chosen
    future = min(future, 100) if isinstance(future, int) else future  # more would only be slow
    for run in (model, model.forward_by_steps):
        outputs = works_or_raises_value_error(lambda run=run: run(inputs, H, future), must_work)
        if outputs is not None:
            assert len(outputs[0]) == len(outputs[1]) == len(inputs) + future
            assert all(torch.isfinite(output).all() for output in outputs)
    works_or_raises_value_error(lambda: model.single_step(inputs, H))


increasing = st.lists(st.floats(0, 50), min_size=1, max_size=4, unique=True).map(sorted)
in_range = (st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 10))  # I, a, b


@few
@given(arguments(st.floats(-100, 100), st.floats(-100, 100), increasing, *in_range, st.floats(1e-3, 1)))
def test_simulate_with_anything(chosen):
    traces = works_or_raises_value_error(lambda: simulate(*chosen[0]), must_work=chosen[1])
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


num, duration, seed = st.integers(1, 5), st.floats(1, 500), st.one_of(st.none(), st.integers(0, 9))


@few
@given(arguments(num, num, *in_range, duration, seed))
def test_regression_dataset(chosen):
    data = works_or_raises_value_error(lambda: FitzhughNagumo(*chosen[0]), must_work=chosen[1])
    if data is not None:
        N, T, *_ = chosen[0]
        assert len(data) == N
        assert torch.isfinite(torch.stack([data.data_x, data.data_y, data.data_w])).all()
        assert len(data.get_init(T)) == T


@few
@given(anything)
def test_get_init(n):
    init = works_or_raises_value_error(lambda: FitzhughNagumo(1, 5, duration=2.0, seed=0).get_init(n))
    assert init is None or (init.shape == (n, 1, 1) and torch.isfinite(init).all())


@settings(few, max_examples=30)
@given(arguments(num, num, duration, st.floats(0, 1), st.booleans(), st.booleans(), seed))
def test_classification_dataset(chosen):
    data = works_or_raises_value_error(lambda: FitzhughNagumoClassification(*chosen[0]), must_work=chosen[1])
    if data is not None:
        N, T, *_ = chosen[0]
        assert data.data.shape == (2 * N, T, 1)
        assert torch.isfinite(data.data).all()
