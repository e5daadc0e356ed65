"""Sample and hold: what is asked for, and what is said of the gates."""

import torch
from matplotlib.figure import Figure

import sample_and_hold as task
from models import GRU


def test_held_is_the_voltage_of_the_last_trigger():
    V = torch.tensor([[1.0, 7.0], [2.0, 8.0], [3.0, 9.0], [4.0, 10.0]])[..., None]
    trigger = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0]], dtype=torch.bool)[
        ..., None
    ]
    held = task.hold(V, trigger)
    assert held[..., 0].tolist() == [[1, 7], [1, 8], [3, 8], [3, 8]]


def test_traces_begin_with_a_trigger_and_others_come_as_often_as_asked():
    x, y = task.make_traces(40, 500, 0.02, seed=3)
    V, trigger = x[..., :1], x[..., 1:] > 0
    assert trigger[0].all()
    assert abs(trigger[1:].float().mean().item() - 0.02) < 0.002
    torch.testing.assert_close(y[trigger], V[trigger])
    assert (y[1:] != y[:-1])[~trigger[1:]].sum() == 0
    other, _ = task.make_traces(40, 500, 0.02, seed=4)
    assert not torch.equal(other, x)


def test_gates_are_those_of_the_step():
    torch.manual_seed(0)
    model = GRU(2, 5, 1)
    x, _ = task.make_traces(3, 7, 0.3, seed=0)
    Z, R = task.gates(model, x)
    H = torch.zeros(3, 5)
    for t, X in enumerate(x):
        before = H
        with torch.no_grad():
            H, _ = model.single_step(X, H)
            H_tilde = torch.tanh(
                X @ model.W_xh + (R[t] * before) @ model.W_hh + model.b_h
            )
        torch.testing.assert_close(Z[t] * before + (1 - Z[t]) * H_tilde, H)


def test_the_losses_are_drawn_while_it_trains(monkeypatch, tmp_path):
    shown = []

    def open_window(plot):
        update = plot(Figure())

        def redraw(history):
            update(history)
            shown.append(len(history))

        return redraw

    monkeypatch.setattr(task, "live_window", open_window)
    flags = ["--num_epochs=2", "--num_train=4", "--num_test=2", "--num_samples=30"]
    flags += ["--n_hidden=3", "--trigger_share=0", "--device=cpu"]
    flags += ["--cell", "plain", "gru", "plain", f"--out_dir={tmp_path}"]
    metrics = task.main(flags)
    assert shown == [1, 2, 1, 2]  # each cell once
    assert "Z_between" not in metrics  # without a trigger there is no "at a trigger"


def test_gates_are_averaged_at_triggers_and_between():
    x = torch.zeros(4, 1, 2)
    x[[0, 2], 0, 1] = 1.0  # the first one does not count
    Z = torch.tensor([[0.6, 0.1], [0.9, 0.3], [0.2, 0.7], [0.9, 0.2]])[:, None]
    metrics = task.measure_gates(x, Z, 1 - Z)
    expected = {
        "Z_at_trigger": 0.45,
        "Z_between": 0.575,
        "Z_lower_at_trigger": 1,
        "R_at_trigger": 0.55,
        "R_between": 0.425,
        "R_lower_at_trigger": 1,
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(metrics[name] - value) < 1e-6, name
