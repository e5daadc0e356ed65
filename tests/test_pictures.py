"""The pictures: what their lines, images and words show; windows; how they are written.

Read from what is drawn, never from how it looks.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from backstage import pictures
from backstage.files import CannotWriteError

TOP = Path(__file__).resolve().parents[1]


def lines(axes):
    """What a reader can tell apart: label -> (x, y) of each line."""
    return {line.get_label(): np.array(line.get_data()) for line in axes.lines}


def words(axes):
    return [text.get_text() for text in axes.texts]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def title(axes):
    return axes.get_title(loc=plt.rcParams["axes.titlelocation"])


# ---- each line shows what its label says ----


def test_losses_are_drawn_by_epoch_and_a_single_one_can_be_seen():
    figure = Figure()
    update = pictures.plot_losses(figure)
    for num_epochs in (1, 3):
        history = [{"loss": 3.0 - k, "view_loss": 0.1 + k} for k in range(num_epochs)]
        update(history)
        (axes,) = figure.axes
        drawn = lines(axes)
        epochs = np.arange(1, num_epochs + 1)
        np.testing.assert_allclose(drawn["in training"], [epochs, 4.0 - epochs])
        view_losses = drawn["on traces not trained on"]
        np.testing.assert_allclose(view_losses, [epochs, epochs - 0.9])
        has_marks = axes.lines[0].get_marker() not in ("None", "", None)
        assert has_marks == (num_epochs == 1)


def test_filtering_shows_the_first_trace_and_the_last_epoch():
    V = torch.randn(40, 3, 1)
    first = V[:, 0, 0].numpy()
    figure = Figure()
    view = SimpleNamespace(data_y=V, dt=0.5)
    update = pictures.plot_filtering(figure, view)
    trace = np.linspace(-9, 2, 40)
    samples = np.linspace(0, 1, 20)
    update([{}, {"trace": trace, "samples": samples, "view_loss": 0.0123}])
    above, below = figure.axes
    t = 0.5 * np.arange(1, 41)
    np.testing.assert_allclose(lines(above)["neuron"], [t, first])
    np.testing.assert_allclose(lines(above)["noisy samples"], [t[:20], samples])
    np.testing.assert_allclose(lines(above)["network"], [t, np.maximum(trace, -5)])
    noise, distance = (line.get_ydata() for line in below.lines)
    np.testing.assert_allclose(noise, samples - first[:20])
    np.testing.assert_allclose(distance, np.maximum(trace, -5) - first)
    assert title(above).startswith("epoch 2")


@pytest.mark.parametrize("num_inputs", [1, 2])
def test_free_run_shows_the_first_voltage_never_a_current(num_inputs):
    x = torch.randn(30, 4, num_inputs)
    figure = Figure()
    update = pictures.plot_free_run(figure, SimpleNamespace(data_x=x, dt=0.5))
    generated = np.linspace(-1, 1, 30)
    update([{"trace": generated, "stage": "next step"}])
    drawn = lines(figure.axes[0])
    np.testing.assert_allclose(drawn["neuron"][1], x[:, 0, 0])
    np.testing.assert_allclose(drawn["network"], [0.5 * np.arange(30), generated])


def test_runs_begin_where_each_network_is_left_alone():
    neuron, first, second, current = np.random.default_rng(0).standard_normal((4, 50))
    voltages = {"a neuron": neuron, "one": first, "two": second}
    figure = Figure()
    update = pictures.plot_runs(figure, voltages, 2.0, 10, current)
    update(30)
    above, *panels = figure.axes
    np.testing.assert_allclose(
        above.lines[0].get_data(), [np.arange(0, 60, 2), current[:30]]
    )
    for panel, name in zip(panels, ("one", "two")):
        true, seen, run = panel.lines
        np.testing.assert_allclose(true.get_ydata(), neuron)
        np.testing.assert_allclose(seen.get_ydata(), voltages[name][:10])
        np.testing.assert_allclose(run.get_xdata(), np.arange(20, 60, 2))
        np.testing.assert_allclose(run.get_ydata(), voltages[name][10:30])
        assert title(panel) == name


def test_reach_is_drawn_before_and_after_training():
    figure = Figure()
    reaches = {"before": [1.0, 0.1, 0.01], "trained": [1.0, 0.9, 0.8]}
    labels = {"before": "at first", "trained": "in the end"}
    pictures.draw_reach(figure, reaches, labels, window=2)
    drawn = lines(figure.axes[0])
    np.testing.assert_allclose(drawn["at first"][1], [1.0, 0.1, 0.01])
    np.testing.assert_allclose(drawn["in the end"][1], [1.0, 0.9, 0.8])
    assert list(drawn["cut in training: 2 steps"][0]) == [2, 2]


def test_neuron_circles_where_its_equations_say():
    I, a, b = 0.8, 0.6, 0.7
    figure = Figure()
    pictures.draw_neuron(figure, SimpleNamespace(parameters={"I": I, "a": a, "b": b}))
    above, below = figure.axes
    V, W = (line.get_ydata() for line in above.lines)
    V_still, W_still, loop, point = (np.array(line.get_data()) for line in below.lines)
    np.testing.assert_allclose(loop, [V, W])
    assert abs(V[0] + 0.5) < 1e-9  # time first: it starts where it says, and spikes on
    assert np.sum((V[:-1] < 0) & (V[1:] >= 0)) >= 2
    for x, y in (V_still, point):
        np.testing.assert_allclose(x - x**3 / 3 - y + I, 0, atol=0.05)
    for x, y in (W_still, point):
        np.testing.assert_allclose(x + a - b * y, 0, atol=1e-9)


KEYS_AS_LABELS = {key: key for key in ("two_means", "persistence", "trained", "ideal")}


def test_memory_is_drawn_as_means_over_growing_spans():
    error = np.arange(1000.0)
    figure = Figure()
    pictures.draw_memory(
        figure, {"trained": error, "ideal": 2 * error}, KEYS_AS_LABELS, 0.1
    )
    drawn = lines(figure.axes[0])
    middles, means = drawn["trained"]
    assert (np.diff(middles) > 0).all()
    np.testing.assert_allclose(means, middles - 0.5)  # of all numbers i, ..., j - 1
    np.testing.assert_allclose(drawn["ideal"][1], 2 * means)
    seen, bound = drawn["0.01 / samples seen"]
    np.testing.assert_allclose(bound * seen, 0.01)


def test_without_noise_there_is_no_bound_that_noise_sets():
    figure = Figure()
    errors = {"persistence": np.ones(100), "trained": np.ones(100)}
    pictures.draw_memory(figure, errors, KEYS_AS_LABELS, noise_std=0.0)
    assert legend(figure.axes[0]) == ["persistence", "trained"]


def looks(axes):
    """What is drawn, and how, but for the labels."""
    return [
        (line.get_ydata().tolist(), line.get_color(), line.get_linestyle())
        for line in axes.lines
    ]


def test_labels_are_for_the_reader_alone():
    errors = {key: np.full(100, k + 1.0) for k, key in enumerate(KEYS_AS_LABELS)}
    renamed = {key: f"the {k}th" for k, key in enumerate(KEYS_AS_LABELS)}
    figures = Figure(), Figure()
    pictures.draw_memory(figures[0], errors, KEYS_AS_LABELS, 0.1)
    pictures.draw_memory(figures[1], errors, renamed, 0.1)
    assert looks(figures[0].axes[0]) == looks(figures[1].axes[0])
    assert legend(figures[1].axes[0])[:-1] == list(renamed.values())


def test_answers_are_each_its_own():
    keys = "neuron", "jumps", "constant"
    rng = np.random.default_rng(0)
    answers = pictures.Answers(
        dt=0.5,
        levels=np.linspace(0, 1, 7),
        frequency={key: rng.random(7) for key in keys},
        poke=np.repeat([0.0, 0.25, 0.0], [10, 5, 15]),
        poked={key: rng.random(30) for key in keys},
        phases=np.linspace(0, 1, 9),
        advance={key: rng.random(9) for key in keys},
    )
    labels = {key: f"who is {key}" for key in keys}
    figure = Figure()
    pictures.draw_answers(figure, answers, labels)
    f_i, pulse, response = figure.axes
    assert legend(f_i) == list(labels.values())
    for place, key in enumerate(keys):
        x, y = lines(f_i)[labels[key]]
        np.testing.assert_allclose(
            [x, y], [answers.levels, 1000 * answers.frequency[key]]
        )
        x, y = pulse.lines[place].get_data()
        np.testing.assert_allclose([x, y], [0.5 * np.arange(30), answers.poked[key]])
        x, y = response.lines[place].get_data()
        np.testing.assert_allclose([x, y], [answers.phases, answers.advance[key]])
    assert pulse.patches[0].get_bbox().intervalx.tolist() == [5.0, 7.5]
    assert words(pulse) == ["pulse of 0.25"]


def test_gains_are_drawn_by_lag_and_answers_by_time():
    by_lag = {"neuron": np.array([0.7]), "network": np.array([0.6, 0.4, 0.3])}
    answers = {label: np.random.default_rng(0).normal(size=20) for label in by_lag}
    current = np.repeat([0.0, 0.5], 10)
    figure = Figure()
    pictures.draw_gains(figure, by_lag, answers, 0.5, current)
    slopes, step = figure.axes
    assert legend(slopes) == list(by_lag)
    for place, label in enumerate(by_lag):
        _, drawn = lines(slopes)[label]
        np.testing.assert_array_equal(drawn, by_lag[label])
        t, drawn = step.lines[place].get_data()
        np.testing.assert_array_equal(drawn, answers[label])
        np.testing.assert_allclose(t, 0.5 * np.arange(20))
    _, drawn = step.lines[-1].get_data()
    np.testing.assert_allclose(np.ptp(drawn), 0.5)


def test_clamps_are_drawn_each_from_its_end():
    rng = np.random.default_rng(0)
    paths = {label: rng.normal(size=(2, 5, 3)) for label in ("a", "b", "c")}
    figure = Figure()
    pictures.draw_clamps(figure, paths)
    for axes, (label, (V, W)) in zip(figure.axes, paths.items()):
        assert axes.get_title() == label
        *_, first, _, third, dots = axes.lines
        np.testing.assert_array_equal(first.get_data(), [V[:, 0], W[:, 0]])
        np.testing.assert_array_equal(third.get_data(), [V[:, 2], W[:, 2]])
        np.testing.assert_array_equal(dots.get_data(), [V[0], W[0]])


def test_accuracy_of_the_ideal_observer_is_its_own():
    accuracy = np.linspace(0.5, 0.9, 20)
    confidence = np.linspace(0.6, 0.8, 20)
    ideal = np.linspace(0.7, 1.0, 20)
    levels = {"eight neighbours": 0.8, "four features": 0.7}
    figure = Figure()
    pictures.draw_accuracy(figure, accuracy, confidence, levels, 0.4, ideal)
    above, below = figure.axes
    t = 0.4 * np.arange(1, 21)
    np.testing.assert_allclose(lines(above)["ideal observer"], [t, ideal])
    np.testing.assert_allclose(lines(above)["network"], [t, accuracy])
    for label, level in levels.items():
        assert set(lines(above)[label][1]) == {level}
    np.testing.assert_allclose(lines(below)["how often it is right"], [t, accuracy])
    np.testing.assert_allclose(
        lines(below)["how sure it is, on average"], [t, confidence]
    )

    figure = Figure()
    pictures.draw_accuracy(figure, accuracy, confidence, levels, 0.4)
    assert legend(figure.axes[0]) == ["network", *levels]


def test_samples_are_windows_of_one_neuron_of_each_class():
    T = 20
    traces = [np.random.default_rng(k).standard_normal((50 + k, 3)) for k in (0, 1)]
    dataset = SimpleNamespace(
        CLASSES={"A": {"a": 0.95}, "B": {"a": 0.7}},
        traces=traces,
        T=T,
        dt=0.4,
        noise_std=0.25,
    )
    figure = Figure()
    pictures.draw_samples(figure, dataset, num=3)
    for axes, V in zip(figure.axes, traces):
        clean, seen = axes.lines[0::2], axes.lines[1::2]
        for start, line, noisy in zip((0, 10, 20), clean, seen, strict=True):
            np.testing.assert_allclose(line.get_ydata(), V[start : start + T, 0])
            noise = noisy.get_ydata() - line.get_ydata()
            assert 0.1 < noise.std() < 0.4


def test_confusions_have_the_truth_in_rows():
    figure = Figure()
    pictures.draw_confusion(figure, [[7, 1], [2, 9]], ["A", "B"])
    axes = figure.axes[0]
    at = {text.get_position(): text.get_text() for text in axes.texts}
    assert at == {(0, 0): "7", (1, 0): "1", (0, 1): "2", (1, 1): "9"}  # (column, row)
    assert title(axes) == "16 of 19 right"
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "the network says",
        "the neuron is",
    )


# ---- gates and states ----


def test_gates_are_each_in_an_image_of_its_own_with_units_in_the_same_order():
    V = np.sin(np.arange(600) / 10)
    low = 0.1 * np.random.default_rng(0).random((600, 4))
    Z = low.copy()
    Z[:, 0] += 0.8 * (V <= 0)  # holds while V < 0
    Z[:, 1] += 0.8  # always
    Z[:, 2] += 0.8 * (V > 0)  # while V > 0
    R = np.random.default_rng(1).random((600, 4))
    figure = Figure()
    pictures.draw_gates(figure, V, torch.tensor(Z), torch.tensor(R), dt=0.5)
    panels = {title(axes)[:6]: axes for axes in figure.axes if axes.images}
    num_shown = len(figure.axes[0].lines[0].get_ydata())
    assert 250 < num_shown < 350  # 1.2 periods of some 122 time units
    order = [2, 1, 0, 3]
    for name, gate in {"update": Z, "reset ": R}.items():
        image = panels[name].images[0].get_array()
        np.testing.assert_allclose(image, gate[-num_shown:, order].T)
        labels = [label.get_text() for label in panels[name].get_yticklabels()]
        groups = "hold\nwhile V > 0", "hold\nalways", "hold\nwhile V < 0", "never"
        assert labels == [f"1 {group}" for group in groups]


def test_gates_of_a_silent_network_are_in_two_groups():
    V = np.full(600, -1.0)
    Z = np.tile([0.9, 0.1, 0.8], (600, 1))
    figure = Figure()
    pictures.draw_gates(figure, V, Z, Z, dt=0.5)
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert labels == ["2 hold\nwhile V < 0", "1 never"]


def phase_portrait(V, num_hiddens):
    W = np.linspace(0, 1, len(V))
    states = np.linspace(0, 1, len(V))[:, None] * np.ones(num_hiddens)
    figure = Figure()
    pictures.draw_phase_portrait(figure, (V + 1, W + 1), (V, W), states)
    return figure.axes


def test_phase_portrait_is_one_period_from_upstroke_to_upstroke():
    V = np.sin(0.05 + 2 * np.pi * np.arange(240) / 50)
    left, right = phase_portrait(V, 8)
    W = np.linspace(0, 1, 240)
    last = slice(149, 200)  # V[149] < 0 <= V[150], and the same 50 samples later
    np.testing.assert_allclose(lines(left)["network"], [V[last], W[last]])
    np.testing.assert_allclose(lines(left)["neuron"], [V[last] + 1, W[last] + 1])
    first, second = lines(right)["network"]
    length = np.sqrt(8) * 50 / 239  # of the straight line that the states are on
    np.testing.assert_allclose(abs(first[-1] - first[0]), length)
    np.testing.assert_allclose(second, 0, atol=1e-9)
    assert words(left) == words(right) == ["0", "¼", "½", "¾"]


@pytest.mark.parametrize("num_hiddens", [1, 4])
def test_phase_portrait_of_a_silent_network_shows_all_of_it(num_hiddens):
    left, right = phase_portrait(np.full(30, -1.0), num_hiddens)
    assert lines(left)["network"].shape == lines(right)["network"].shape == (2, 30)


# ---- beliefs ----


def beliefs_of_three_classes(num_samples, sure_from):
    """P (T, 3, 3): trace k is of class k, which is sure from sample sure_from[k] on.

    Before, its own class and another share it, and for traces of A and C P(B) is 0.01,
    as if it were sure that they are not B.
    """
    P = np.empty((num_samples, 3, 3))
    P[:, 0] = [0.60, 0.01, 0.39]
    P[:, 1] = [0.45, 0.50, 0.05]
    P[:, 2] = [0.39, 0.01, 0.60]
    for k, first in enumerate(sure_from):
        P[first:, k] = 0.01
        P[first:, k, k] = 0.98
    return P


def test_mark_names_the_class_of_which_the_network_is_sure():
    data = np.random.default_rng(0).standard_normal((20, 3))
    P = beliefs_of_three_classes(20, sure_from=(4, 8, 15))
    ideal = beliefs_of_three_classes(20, sure_from=(1, 1, 1))
    figure = Figure()
    update = pictures.plot_arriving(
        figure, ["A", "B", "C"], data, {"ideal": ideal, "trained": P}, dt=0.5
    )
    marks = {"A": 4, "B": 8, "C": 15}
    update(20)
    for k, name in enumerate(marks):
        trace, probability = figure.axes[k], figure.axes[3 + k]
        np.testing.assert_allclose(trace.lines[0].get_ydata(), data[:, k])
        np.testing.assert_allclose(lines(probability)["network"][1], P[:, k, 1])
        np.testing.assert_allclose(
            lines(probability)["ideal observer"][1], ideal[:, k, 1]
        )
        (mark,) = probability.texts
        assert mark.get_text().split() == ["95", "%", "sure:", "class", name]
        moment = 0.5 * (marks[name] + 1)
        assert mark.get_position()[0] == moment
        dotted = trace.lines[-1]
        assert list(dotted.get_xdata()) == [moment, moment]
        for n in (marks[name], marks[name] + 1):
            update(n)
            assert mark.get_visible() == dotted.get_visible() == (n > marks[name])
        update(20)


def test_nothing_is_marked_for_a_network_that_is_never_sure():
    P = beliefs_of_three_classes(20, sure_from=(20, 20, 20))
    figure = Figure()
    update = pictures.plot_arriving(
        figure, "ABC", np.zeros((20, 3)), {"trained": P}, 0.5
    )
    update(7)
    assert sum(map(words, figure.axes), []) == []
    assert len(figure.axes[0].lines[0].get_xdata()) == 7


# ---- files ----


def test_gif_shows_every_frame_and_rests_on_the_last_one(tmp_path, capsys):
    shown = []

    def plot(figure, factor):
        (line,) = figure.subplots().plot([0, 1], [0, 0])

        def update(frame):
            shown.append(frame)
            line.set_ydata([0, factor * frame])

        return update

    path = tmp_path / "growing.gif"
    pictures.save_gif(path, range(1, 5), plot, 0.1, fps=3)
    assert shown == [1, 1, 2, 3, 4, 4, 4, 4]  # the first one is laid out before
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as image:
        assert image.format == "GIF"
    assert capsys.readouterr().out == f"wrote {path}\n"


def test_figure_is_written_whole_or_not_at_all(tmp_path, capsys):
    path = tmp_path / "confusion.png"
    pictures.save_figure(path, pictures.draw_confusion, [[1, 0], [0, 1]], classes="AB")
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as image:
        assert image.format == "PNG"
    assert capsys.readouterr().out == f"wrote {path}\n"
    missing = tmp_path / "missing" / "confusion.png"
    with pytest.raises(CannotWriteError, match="missing"):
        pictures.save_figure(missing, pictures.draw_confusion, [[1]], classes="A")


# ---- windows ----


def backend(name, manager):
    """Make a backend whose windows are managed by `manager`, for plt.switch_backend."""

    class Canvas(FigureCanvasAgg):
        manager_class = manager

    module = ModuleType(name)
    module.FigureCanvas = Canvas
    return module


class Window(FigureManagerBase):
    """A window without a screen."""

    def show(self):
        pass


@pytest.fixture
def _screen(monkeypatch):
    """As if there were a screen, where windows can be opened."""
    monkeypatch.setitem(sys.modules, "screen", backend("screen", Window))
    before = plt.get_backend()
    plt.switch_backend("module://screen")
    yield
    plt.close("all")
    plt.switch_backend(before)


@pytest.mark.usefixtures("_screen")
@pytest.mark.parametrize(("share", "drawn"), [(1e9, [0, 1, 2, 3]), (1e-9, [0])])
def test_window_takes_no_more_than_its_share_until_it_is_closed(share, drawn):
    shown = []
    redraw = pictures.live_window(lambda figure, to: to.append, shown, share=share)
    for frame in range(4):
        redraw(frame)
    assert shown == drawn
    plt.close("all")
    redraw(4)
    assert shown == drawn


@pytest.mark.usefixtures("_screen")
def test_window_is_opened_by_the_main_thread_alone():
    opened = []

    def open_one():
        opened.append(pictures.live_window(lambda figure: print))

    thread = threading.Thread(target=open_one)
    thread.start()
    thread.join()
    assert opened == [None]
    assert plt.get_fignums() == []


def test_where_figures_are_only_written_there_is_no_window():
    assert plt.get_backend().lower() == "agg"
    assert pictures.live_window(lambda figure: pytest.fail("nobody sees it")) is None
    assert plt.get_fignums() == []


def test_backend_that_cannot_be_had_leaves_the_run_without_a_window(tmp_path):
    """A script that is started from a notebook inherits the notebook's backend."""
    picture = tmp_path / "confusion.png"
    code = (
        "from backstage import pictures\n"
        "assert pictures.live_window(None) is None\n"
        f"pictures.save_figure({str(picture)!r}, pictures.draw_confusion, [[1]], 'A')\n"
    )
    environment = {**os.environ, "MPLBACKEND": "module://json.no_backend"}
    subprocess.run([sys.executable, "-c", code], cwd=TOP, env=environment, check=True)
    assert picture.exists()
