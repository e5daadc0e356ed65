"""Every figure, animation and window of the scripts, and how they are written.

draw_...(figure, ...) draws once; plot_...(figure, ...) sets up and returns
update(shown), which draws the next frame. The functions that take axes are their
parts. All data are time first, dt is the time between two samples.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA
from sklearn.metrics import ConfusionMatrixDisplay

from backstage.files import write
from datasets import NEURON as EQUATIONS
from datasets import crosses_upwards, period, rest_point, simulate

# who is who, the same in every picture
NEURON = {"color": "0.7", "linewidth": 6}
IDEAL = {"color": "0.7", "linewidth": 6}
NETWORK = {"color": "tab:red"}
OTHER = {"color": "C0", "linestyle": "--"}  # another network
LONGER = {"color": "tab:red", "linestyle": "--"}  # the same network, trained longer
STYLES = {"neuron": NEURON, "ideal": IDEAL, "trained": NETWORK, "longer": LONGER}
DASHES = "--", "-.", ":"

LOOK = plt.style.context(Path(__file__).with_name("tutorial.mplstyle"))
SURE = 0.95  # from this probability on, somebody counts as sure


# ---- files and windows ----


@LOOK
def save_figure(path, draw, *data, **parameters):
    """Write what draw(figure, *data, **parameters) draws.

    Raises CannotWriteError.
    """
    figure = Figure()
    draw(figure, *data, **parameters)
    write(path, figure.savefig)
    print(f"wrote {path}")


@LOOK
def save_gif(path, frames, plot, *data, fps=8):
    """Write what update(frame) of plot(figure, *data) shows, as an endless GIF.

    frames: a sequence of what `update` takes. Raises CannotWriteError.
    """
    figure = Figure()
    update = plot(figure, *data)
    update(frames[0])  # its title takes part in the layout
    figure.draw_without_rendering()
    # the layout stays as it is now: to compute it again would take half the time
    figure.set_layout_engine("none")
    rest = [frames[-1]] * fps  # the last frame stays for a second
    animation = FuncAnimation(figure, update, [*frames, *rest], init_func=lambda: None)
    write(path, lambda temporary: animation.save(temporary, writer="pillow", fps=fps))
    print(f"wrote {path}")


@LOOK
def live_window(plot, *data, share=0.1):
    """Open a window for plot(figure, *data), which returns update(shown).

    Returns redraw(shown), or None if no window can be open during a run. A redraw is
    left out once the window is closed, and while drawing has taken more than `share`
    of the time: over `ssh -X` it may be slower than a training.
    """
    figure = open_window()
    if figure is None:
        return None
    update = plot(figure, *data)
    plt.show(block=False)
    start = time.perf_counter()
    spent = 0.0

    @LOOK
    def redraw(shown):
        nonlocal spent
        begin = time.perf_counter()
        is_closed = not plt.fignum_exists(figure.number)
        if is_closed or spent > share * (begin - start):
            return
        update(shown)
        figure.canvas.draw()
        figure.canvas.flush_events()
        spent += time.perf_counter() - begin

    return redraw


def open_window():
    """Return a figure that is shown while the run goes on, or None.

    Windows, `%matplotlib widget` and `%matplotlib notebook` can do that. A backend that
    writes files (agg, where there is no display) cannot, nor one that shows what a
    notebook's cell has drawn once it has ended (inline).
    """
    if threading.current_thread() is not threading.main_thread():
        return None  # most windows belong to the main thread
    try:
        figure = plt.figure()
    except ImportError:
        return None  # MPLBACKEND names one that is not installed here
    if type(figure.canvas.manager).show is FigureManagerBase.show:  # it shows nothing
        plt.close(figure)
        return None
    return figure


# ---- every task ----


class Growing(NamedTuple):
    """A line that grows with time, from its first sample on."""

    line: Line2D
    values: np.ndarray  # (T,)
    first: int = 0

    def show(self, t, n):
        """Show as much of it as there is among the first n samples."""
        self.line.set_data(t[self.first : n], self.values[self.first : n])


def plot_losses(figure):
    """Return update(history), which draws the losses so far."""

    def update(history):
        figure.clear()
        draw_losses(figure, history)

    return update


def draw_losses(figure, history):
    """Draw the losses, epoch by epoch.

    history: a dict for each epoch, with "loss" and "view_loss".
    """
    axes = figure.subplots()
    epochs = range(1, len(history) + 1)
    marker = "o" if len(history) == 1 else None  # one point makes no line
    losses = [report["loss"] for report in history]
    axes.semilogy(epochs, losses, marker=marker, label="in training")
    losses = [report["view_loss"] for report in history]
    axes.semilogy(epochs, losses, marker=marker, label="on traces not trained on")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend()


# ---- task 1 ----


def plot_filtering(figure, view):
    """Plot the first trace of `view`, and return update(history).

    It adds what the last epoch's network makes of noisy samples: "trace" (T,), of which
    the second half runs freely, "samples" (T // 2,) and "view_loss".
    """
    V = view.data_y[:, 0, 0].numpy()
    t = view.dt * np.arange(1, len(V) + 1)
    half = len(V) // 2
    figure.set_size_inches(8, 5)
    trace, error = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    trace.plot(t, V, **NEURON, label="neuron")
    (samples,) = trace.plot([], [], "k.", markersize=2, label="noisy samples")
    (predicted,) = trace.plot([], [], **NETWORK, label="network")
    (noise,) = error.plot([], [], "k.", markersize=2)
    (distance,) = error.plot([], [], **NETWORK)
    for axes in (trace, error):
        axes.axvspan(0, t[half - 1], color="0.95")
    trace.text(0.5 * t[half - 1], -3.3, "sees the dots", ha="center", color="0.3")
    trace.text(1.5 * t[half - 1], -3.3, "runs freely", ha="center", color="0.3")
    trace.set(ylabel="V", xlim=(0, t[-1]), ylim=(-3.6, 4.2))
    trace.legend(loc="upper right", ncols=3)
    error.set(xlabel="time", ylabel="minus the\nneuron", ylim=(-0.45, 0.45))

    def update(history):
        report = history[-1]
        prediction = np.clip(report["trace"], -5, 5)  # it may run away
        predicted.set_data(t, prediction)
        distance.set_data(t, prediction - V)
        samples.set_data(t[:half], report["samples"])
        noise.set_data(t[:half], report["samples"] - V[:half])
        loss = report["view_loss"]
        trace.set_title(f"epoch {len(history)}: the error is {loss:.1e}")

    return update


PLANE_V = -2.6, 2.6  # the part of the plane that is drawn
PLANE_W = -0.9, 2.2


def draw_neuron(figure, view):
    """Draw the neuron before any network: V and W against time, and in their plane.

    view: a FitzhughNagumo, for its parameters.
    """
    t = np.arange(0, 320, 0.1)
    V, W = simulate(-0.5, 1.9, t, **view.parameters)
    V = V[:, 0]
    W = W[:, 0]
    figure.set_size_inches(8, 8)
    above, below = figure.subplots(2, height_ratios=(2, 3))
    draw_voltage_and_recovery(above, t, V, W)
    draw_flow(below, **view.parameters)
    draw_loop(below, t, V, W)
    V_still = mark_rest_point(below, **view.parameters)
    below.text(V_still, -0.45, "unstable point")
    below.set(title="... because in the plane of V and W all paths lead to one loop.")
    below.set(xlabel="V", ylabel="W", xlim=PLANE_V, ylim=PLANE_W)


def draw_voltage_and_recovery(axes, t, V, W):
    """Draw V and W against time, and name the parts of a period."""
    axes.plot(t, V, **NEURON, label="V, membrane voltage")
    axes.plot(t, W, color="C1", linestyle="--", label="W, recovery variable")
    axes.text(60, 0.6, "jump")
    axes.text(97, 2.2, "plateau")
    axes.text(139, -1, "jump")
    axes.text(153, -2.6, "recovery")
    axes.set(title="The neuron spikes again and again ...", xlabel="time")
    axes.set(xlim=(0, t[-1]), ylim=(-2.9, 4.2))
    axes.legend(loc="upper right", ncols=2)


def draw_flow(axes, I, a, b):
    """Draw where the plane of V and W flows, and where V or W stands still."""
    V = np.linspace(*PLANE_V, 201)
    W = np.linspace(*PLANE_W, 201)
    V_grid, W_grid = np.meshgrid(V, W)
    dV_dt = V_grid - V_grid**3 / 3 - W_grid + I
    dW_dt = EQUATIONS.eps * (V_grid + a - b * W_grid)
    faint = {"color": "0.9", "linewidth": 0.8, "arrowsize": 0.8}
    axes.streamplot(V, W, dV_dt, dW_dt, density=0.5, **faint)
    axes.plot(V, V - V**3 / 3 + I, ":", color="C0")
    axes.text(-2.1, 2.03, "dV/dt = 0", color="C0")
    axes.plot(b * W - a, W, "-.", color="C2")
    axes.text(1.1, 2.03, "dW/dt = 0", color="C2")


def draw_loop(axes, t, V, W):
    """Draw one path through the plane, which way round it goes, and name its parts."""
    axes.plot(V, W, **NEURON)
    arrow = {"arrowstyle": "-|>", "mutation_scale": 25, "color": "black"}
    moments = 30, 88.5, 110, 134  # on both branches, and in both jumps
    for k in np.searchsorted(t, moments):
        axes.annotate("", (V[k + 1], W[k + 1]), (V[k], W[k]), arrowprops=arrow)
    axes.text(-0.4, 1.87, "start")
    axes.text(-1.2, 1.34, "jump")
    axes.text(1, -0.35, "jump")
    axes.text(-1.55, 0.55, "left branch:\nrecovery")
    axes.text(0.65, 0.1, "right branch:\nplateau")


def mark_rest_point(axes, I, a, b):
    """Mark where neither V nor W changes; return its V."""
    V_still, W_still = rest_point(I, a, b)
    ring = {"markersize": 10, "markerfacecolor": "white", "color": "black"}
    axes.plot(V_still, W_still, "o", **ring)
    return V_still


def draw_memory(figure, errors, labels, noise_std):
    """Draw errors against samples seen, as means over growing spans.

    errors: key -> (T,). labels: key -> what the reader is told. The keys of STYLES have
    looks of their own.
    """
    figure.set_size_inches(8, 6)
    axes = figure.subplots()
    num_samples = max(len(error) for error in errors.values())
    # evenly spread on a logarithmic axis; of the first samples nobody can know much
    edges = np.unique(np.geomspace(6, num_samples, 14).astype(int))
    middles = (edges[:-1] + edges[1:]) / 2
    others = [key for key in errors if key not in STYLES]
    for key, error in errors.items():
        if key in STYLES:
            style = STYLES[key]
        else:
            place = others.index(key)
            style = {"color": f"C{place}", "linestyle": DASHES[place % len(DASHES)]}
        means = [error[i:j].mean() for i, j in zip(edges[:-1], edges[1:])]
        axes.loglog(middles, means, **style, label=labels[key])
    if noise_std > 0:
        thin = {"color": "black", "linewidth": 0.8}
        label = f"{noise_std**2:g} / samples seen"
        axes.loglog(edges, noise_std**2 / edges, **thin, label=label)
    axes.set(xlabel="samples seen", ylabel="mean squared error of the next V")
    axes.set(ylim=(None, 0.1))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def draw_reach(figure, reaches, labels, window):
    """Draw the size of dL/dH against steps back in time, of several networks.

    reaches: key -> (steps,). labels: key -> what the reader is told.
    """
    axes = figure.subplots()
    for key, reach in reaches.items():
        style = STYLES.get(key, {"color": "black", "linestyle": "--"})
        axes.semilogy(reach, **style, label=labels[key])
    label = f"cut in training: {window} steps"
    axes.axvline(window, color="0.6", linestyle=":", label=label)
    axes.set(xlabel="steps back in time", ylabel="relative size of dL/dH")
    axes.set(xlim=(0, len(reach) - 1), ylim=(1e-12, 10))
    axes.legend(loc="lower left")


def draw_reaches(figure, reaches):
    """Draw the size of dL/dH against steps back in time, of networks of several cells.

    reaches: name -> before training, after training: each (steps,).
    """
    axes = figure.subplots()
    for place, (name, (before, after)) in enumerate(reaches.items()):
        color = f"C{place}"
        axes.semilogy(before, color=color, linestyle=":")
        axes.semilogy(after, color=color, label=name)
    axes.plot([], color="0.4", linestyle=":", label="before training")
    axes.set(xlabel="steps back in time", ylabel="relative size of dL/dH")
    axes.set(xlim=(0, 300), ylim=(1e-12, 10))
    axes.legend(loc="lower right")


# ---- tasks 2 and 4 ----


def plot_free_run(figure, dataset):
    """Plot the first true trace of `dataset`, and return update(history).

    It draws over it what the last epoch's network generates: "trace" (T,), in "stage".
    """
    true = dataset.data_x[:, 0, 0].numpy()
    t = dataset.dt * np.arange(len(true))
    axes = figure.subplots()
    axes.plot(t, true, **NEURON, label="neuron")
    (generated,) = axes.plot([], [], **NETWORK, label="network")
    axes.set(xlabel="time", ylabel="V", xlim=(0, t[-1]), ylim=(-2.4, 3.2))
    axes.legend(loc="upper right", ncols=2)

    def update(history):
        report = history[-1]
        generated.set_data(t, report["trace"])
        axes.set_title(f"epoch {len(history)}, {report['stage']}")

    return update


def plot_runs(figure, voltages, dt, warm_up=0, current=None):
    """Set up an animation of two networks that run freely, each on top of the neuron.

    voltages: name -> V (T,), first the neuron's, then those of two networks, which have
    seen their first `warm_up` samples. current: (T,), drawn above.

    Returns update(n), which shows the first n samples.
    """
    neuron, *networks = voltages
    true = voltages[neuron]
    t = dt * np.arange(len(true))
    if current is None:
        title = f"Both see {warm_up} noisy samples of a neuron. Then they are alone."
        panels = figure.subplots(2, sharex=True)
        figure.set_size_inches(8, 5.2)
        lines = []
    else:
        title = "Both are told a new current. Which one follows?"
        above, *panels = figure.subplots(3, sharex=True)
        figure.set_size_inches(8, 6.3)
        (line,) = above.plot([], [], color="black", linewidth=1)
        lines = [Growing(line, current)]
        above.set(ylabel="current", ylim=(current.min() - 0.1, current.max() + 0.1))
    for axes, name, style in zip(panels, networks, (NETWORK, OTHER), strict=True):
        line = plot_run(axes, t, true, voltages[name], warm_up, style)
        lines.append(line)
        axes.set_title(name, color=style["color"])
    panels[-1].set_xlabel("time")
    panels[-1].legend(loc="lower right", bbox_to_anchor=(1, 0.95))
    figure.suptitle(title, x=0.02, ha="left")

    def update(n):
        for line in lines:
            line.show(t, n)

    return update


def plot_run(axes, t, true, V, warm_up, style):
    """Plot the neuron and what a network has seen of it; return how it goes on."""
    axes.plot(t, true, **NEURON, label="neuron")
    axes.plot(t[:warm_up], V[:warm_up], "k.", markersize=3)
    (line,) = axes.plot([], [], marker="o", markevery=[-1], **style)
    axes.set(ylabel="V", xlim=(0, t[-1]), ylim=(-2.8, 2.8), yticks=(-2, 0, 2))
    return Growing(line, V, warm_up)


def draw_clamps(figure, paths):
    """Draw where clamped neurons and networks go, in the plane of V and W.

    paths: label -> V and W, (2, T, N), of N clamps from their end on.
    """
    num_rows = (len(paths) + 1) // 2
    figure.set_size_inches(8, 3.6 * num_rows)
    grid = figure.subplots(num_rows, 2, sharex=True, sharey=True, squeeze=False)
    for axes, (label, (V, W)) in zip(grid.flat, paths.items()):
        draw_flow(axes, EQUATIONS.I, EQUATIONS.a, EQUATIONS.b)
        mark_rest_point(axes, EQUATIONS.I, EQUATIONS.a, EQUATIONS.b)
        axes.plot(V, W, color="black", linewidth=0.8)
        axes.plot(V[0], W[0], "o", color="tab:red", markersize=5)
        axes.set(title=label, xlim=PLANE_V, ylim=PLANE_W)
    for axes in grid[-1]:
        axes.set(xlabel="V")
    for axes in grid[:, 0]:
        axes.set(ylabel="W")


def draw_phase_portrait(figure, true, generated, states):
    """Draw the last period of a free run, in two planes.

    One is that of V and W, the other that of two components of the hidden state.

    true, generated: V and W, each (T,); the network's W is read out of its states.
    states: (T, num_hiddens).
    """
    true_V, true_W = true
    V, W = generated
    last = last_period(V)
    figure.set_size_inches(8, 4.5)
    left, right = figure.subplots(1, 2)
    left.plot(true_V[last], true_W[last], **NEURON, label="neuron")
    draw_quarters(left, np.column_stack([V[last], W[last]]))
    draw_quarters(right, two_components(states[last]))
    title = "One period, in quarters from where V rises through 0"
    figure.suptitle(title, x=0.02, ha="left")
    left.set(xlabel="V", ylabel="W, read out of the state")
    left.legend(loc="center")
    right.set(xlabel="first component of the state", ylabel="second component")


def last_period(V):
    """Find the last whole period of V (T,), from upstroke to upstroke, as a slice.

    All of it if there is none.
    """
    upstrokes = np.flatnonzero(crosses_upwards(V))
    if len(upstrokes) < 2:
        return slice(None)
    return slice(upstrokes[-2], upstrokes[-1] + 1)


def two_components(states):
    """Reduce states (T, num_hiddens) to their first two principal components (T, 2)."""
    # one more unit, always 0: even a single one has two components then
    states = np.pad(states, ((0, 0), (0, 1)))
    # for many units the default solver is random
    pca = PCA(2, svd_solver="full")
    with np.errstate(invalid="ignore"):  # a silent network has no variance to explain
        return pca.fit_transform(states)


def draw_quarters(axes, points):
    """Draw a closed path (T, 2), and mark where each quarter of it begins."""
    every = max(1, len(points) // 40)
    axes.plot(*points.T, marker=".", markevery=every, **NETWORK, label="network")
    circle = {"boxstyle": "circle", "facecolor": "white"}
    for quarter, label in enumerate(("0", "¼", "½", "¾")):
        x, y = points[quarter * (len(points) - 1) // 4]
        axes.text(x, y, label, ha="center", va="center", bbox=circle)
    axes.margins(0.15)


def draw_gates(figure, V, Z, R, dt):
    """Draw V (T,) and both gates, Z and R (T, num_hiddens), along the last 1.2 periods.

    Units are grouped by when they hold their value.
    """
    num_shown = round(1.2 * period() / dt)
    V = np.asarray(V)[-num_shown:]
    Z = np.asarray(Z)[-num_shown:]
    R = np.asarray(R)[-num_shown:]
    order, sizes = group_units(V, Z)
    t = dt * np.arange(len(V))

    figure.set_size_inches(8, 8)
    trace, update_gate, reset_gate = figure.subplots(
        3, sharex=True, height_ratios=(2, 4, 4)
    )
    trace.plot(t, V, **NETWORK)
    trace.set(ylabel="V", xlim=(0, t[-1]))
    draw_gate(update_gate, Z[:, order], sizes, t[-1])
    draw_gate(reset_gate, R[:, order], sizes, t[-1])
    update_gate.set_title("update gate Z: 1 holds, 0 renews")
    reset_gate.set_title("reset gate R of the same units")
    reset_gate.set_xlabel("time")


GROUPS = "hold\nwhile V > 0", "hold\nalways", "hold\nwhile V < 0", "never"


def group_units(V, Z):
    """Sort units into GROUPS: one holds its value while its Z is above 1/2 on average.

    Returns their order, group by group, and the sizes of the groups.
    """
    Z_high = mean_when(V > 0, Z)
    Z_low = mean_when(V <= 0, Z)
    holds_high = Z_high > 0.5
    holds_low = Z_low > 0.5
    conditions = [holds_high & ~holds_low, holds_high & holds_low, holds_low]
    group = np.select(conditions, [0, 1, 2], default=3)
    order = np.lexsort((Z_low - Z_high, group))  # by group first
    return order, np.bincount(group, minlength=len(GROUPS))


def mean_when(condition, gate):
    """Return every unit's mean gate while a condition holds, 0 if it never does."""
    if not condition.any():
        return np.zeros(gate.shape[1])
    return gate[condition].mean(axis=0)


def draw_map(axes, gate, end):
    """Draw a gate (T, num_hiddens) from time 0 to `end` as a map, a row a unit."""
    return axes.imshow(
        gate.T,
        extent=(0, end, gate.shape[1], 0),
        aspect="auto",
        interpolation="nearest",
        cmap="cividis",
        vmin=0,
        vmax=1,
    )


def draw_gate(axes, gate, sizes, end):
    """Draw a gate (T, num_hiddens) from time 0 to `end` as a map, with its groups."""
    image = draw_map(axes, gate, end)
    axes.figure.colorbar(image, ax=axes)
    ends = sizes.cumsum()
    axes.hlines(ends[:-1], 0, end, color="white")
    present = sizes > 0
    labels = [f"{size} {name}" for size, name in zip(sizes, GROUPS) if size > 0]
    axes.set_yticks((ends - sizes / 2)[present], labels)


@dataclass
class Answers:
    """What the neuron and two networks answer to three questions.

    Their keys are "neuron", and "jumps" and "constant": what a network trained under.
    """

    dt: float
    levels: np.ndarray  # constant currents
    frequency: dict  # key -> spikes per time unit at each of them
    poke: np.ndarray  # (T,): a current of 0, but for one pulse
    poked: dict  # key -> V under it, (T,)
    phases: np.ndarray  # at which a pulse comes, in periods
    advance: dict  # key -> by how many periods the next spikes are earlier


ANSWER_STYLES = {"neuron": NEURON, "jumps": NETWORK, "constant": OTHER}


def draw_answers(figure, answers, labels):
    """Draw f-I curves, the response to one pulse, and the response by its phase.

    answers: Answers. labels: key -> what the reader is told.
    """
    figure.set_size_inches(8, 10)
    f_i, pulse, response = figure.subplots(3)
    t = answers.dt * np.arange(len(answers.poke))
    for key, label in labels.items():
        style = ANSWER_STYLES[key]
        f_i.plot(answers.levels, 1000 * answers.frequency[key], **style, label=label)
        pulse.plot(t, answers.poked[key], **style)
        response.plot(answers.phases, answers.advance[key], **style)
    f_i.set(title="Under constant currents: who fires, and how fast?")
    f_i.set(xlabel="constant current I", ylabel="spikes in 1000\ntime units")
    f_i.set(xlim=(-0.2, 1.8), ylim=(-0.4, 10))
    f_i.legend(loc="lower center", bbox_to_anchor=(0.54, 0))
    mark_pulse(pulse, answers.poke, answers.dt)
    pulse.set(title="Poked at rest: who spikes?", xlabel="time", ylabel="V")
    pulse.set(xlim=(0, t[-1] + answers.dt), ylim=(-2.7, 2.4))
    response.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    response.set(title="Poked while they fire: who minds?")
    response.set(ylabel="next spikes earlier\nby, in periods")
    response.set(xlabel="phase of the pulse, in periods (upstroke at 0.47)")
    response.set(xlim=(0, 1))


def draw_gains(figure, by_lag, answers, dt, current):
    """Draw how much the next V changes with a current, and what a step of it does.

    by_lag: label -> derivatives of the next V by the current of this sample, the one
    before, ... (lags,). answers: label -> V (T,), under `current` (T,). The neuron
    comes first.
    """
    figure.set_size_inches(8, 6)
    slopes, step = figure.subplots(2)
    styles = [NEURON, NETWORK, OTHER]
    t = dt * np.arange(len(current))
    for place, (label, gains) in enumerate(by_lag.items()):
        style = styles[place] if place < len(styles) else {}
        slopes.plot(gains, **style, marker="o", label=label)
        step.plot(t, answers[label], **style)
    slopes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    slopes.set(title="At rest: how much does a current change the next V?")
    slopes.set(xlabel="samples ago", ylabel="dV/dI")
    slopes.legend(loc="upper right")
    step.step(t, current - 3.2, where="post", color="black", linewidth=1)
    step.text(t[-1], current[-1] - 3.1, "current", ha="right")
    step.set(title=f"The current steps to {current[-1]:g}: who fires, and when?")
    step.set(xlabel="time", ylabel="V", xlim=(0, t[-1]), ylim=(-3.4, 2.5))


def mark_pulse(axes, poke, dt):
    """Mark at the bottom when there is a current, and how strong it is."""
    on = dt * np.flatnonzero(poke)
    axes.axvspan(on[0], on[-1] + dt, ymax=0.06, color="black")
    axes.text(on[-1] + 3, -2.5, f"pulse of {poke.max():g}")


# ---- task 3 ----


# where a trace of task 3 tells its class: by how long it stays there
STAYS = {"plateau": (0.0, 2.0), "creep": (-1.25, -0.75)}  # V from, to


def draw_samples(figure, dataset, num=2):
    """Draw `num` windows of one neuron of each class, without noise and with it.

    dataset: a FitzhughNagumoClassification. The windows are evenly spread.
    """
    figure.set_size_inches(8, 6)
    rows = figure.subplots(len(dataset.CLASSES), sharex=True, sharey=True)
    t = dataset.dt * np.arange(dataset.T)
    rng = np.random.default_rng(0)
    for label, name in enumerate(dataset.CLASSES):
        axes = rows[label]
        V = dataset.traces[label][:, 0]
        spare = len(V) - dataset.T
        for name_of_part, (low, high) in STAYS.items():
            axes.axhspan(low, high, color="C8", alpha=0.15, linewidth=0)
            axes.text(t[-1], low, name_of_part, ha="right", va="bottom")
        for start in np.linspace(0, spare, num, endpoint=False, dtype=int):
            clean = V[start : start + dataset.T]
            seen = clean + dataset.noise_std * rng.standard_normal(dataset.T)
            (neuron,) = axes.plot(t, clean, **NEURON)
            (glimpse,) = axes.plot(t, seen, color=f"C{label}", linewidth=1)
        axes.set(title=f"class {name}: a = {dataset.CLASSES[name]['a']}", ylabel="V")
        texts = "neuron", "what is seen of it"
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}
        axes.legend([neuron, glimpse], texts, **place)
    rows[-1].set(xlabel="time", xlim=(0, t[-1]))


LEVEL_STYLES = (
    {"color": "C0", "linestyle": "--"},
    {"color": "C2", "linestyle": "-."},
    {"color": "C3", "linestyle": ":"},
)


def draw_accuracy(figure, accuracy, confidence, levels, dt, ideal=None):
    """Draw against how much has been seen: who is right how often, and how sure.

    accuracy, confidence: the network's, (T,); ideal: the ideal observer's accuracy.
    levels: label -> accuracy of one who has seen all of a trace; at most three.
    """
    figure.set_size_inches(8, 8)
    above, below = figure.subplots(2, sharex=True, sharey=True)
    t = dt * np.arange(1, len(accuracy) + 1)
    if ideal is not None:
        above.plot(t, ideal, **IDEAL, label="ideal observer")
    above.plot(t, accuracy, **NETWORK, label="network")
    for place, (label, level) in enumerate(levels.items()):
        above.axhline(level, **LEVEL_STYLES[place], label=label)
    above.set(title="How often is it right?", ylabel="accuracy")
    above.set(xlim=(0, t[-1]), ylim=(0.45, 1.02))
    above.legend(loc="lower right")
    below.plot(t, accuracy, **NETWORK, label="how often it is right")
    dashed = {"color": "black", "linestyle": "--"}
    below.plot(t, confidence, **dashed, label="how sure it is, on average")
    below.set(title="Does it know how often?")
    below.set(xlabel="time seen", ylabel="accuracy, confidence")
    below.legend(loc="lower right")


def draw_confusion(figure, matrix, classes):
    """Draw how many traces of each class (rows) are taken for which class (columns)."""
    figure.set_size_inches(4, 4)
    axes = figure.subplots()
    matrix = np.asarray(matrix)
    display = ConfusionMatrixDisplay(matrix, display_labels=classes)
    display.plot(ax=axes, cmap="Blues", colorbar=False)
    axes.set(xlabel="the network says", ylabel="the neuron is")
    axes.set(title=f"{matrix.trace()} of {matrix.sum()} right")


BELIEVERS = {"ideal": "ideal observer", "trained": "network"}


def plot_arriving(figure, classes, data, beliefs, dt):
    """Set up one trace of each class, and below it what is believed of it.

    data: (T, traces). beliefs: "ideal" and "trained" -> P (T, traces,
    num_classes), the probability of each class after each sample, of which that of the
    second class is drawn. It is marked when the network is sure for the first time, and
    of which class.

    Returns update(n), which shows the first n samples.
    """
    t = dt * np.arange(1, len(data) + 1)
    figure.set_size_inches(8, 5.5)
    panels = figure.subplots(2, len(classes), sharex=True, sharey="row")
    lines = []
    marks = []
    for k, name in enumerate(classes):
        trace, probability = panels[:, k]
        (line,) = trace.plot([], [], color=f"C{k}", linewidth=1.2)
        lines.append(Growing(line, data[:, k]))
        for key, P in beliefs.items():
            (line,) = probability.plot([], [], **STYLES[key], label=BELIEVERS[key])
            lines.append(Growing(line, P[:, k, 1]))
            if key != "ideal":
                marks.append(mark_sure(panels[:, k], classes, P[:, k], t))
        trace.set_title(f"a neuron of class {name}")
        probability.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
        probability.set_xlabel("time")
    panels[0, 0].set(ylabel="V", ylim=(data.min() - 0.2, data.max() + 0.2))
    panels[1, 0].set(ylabel=f"P(class {classes[1]})", ylim=(-0.05, 1.05))
    panels[1, 0].set(xlim=(0, t[-1]))
    believers = panels[1, 0].get_legend_handles_labels()
    figure.legend(*believers, loc="outside lower center", ncols=2)

    def update(n):
        for line in lines:
            line.show(t, n)
        for first, artists in marks:
            for artist in artists:
                artist.set_visible(first < n)

    return update


def mark_sure(panels, classes, P, t):
    """Mark when P (T, num_classes) is sure of a class for the first time, and of which.

    Returns at which sample that is, and what marks it.
    """
    sure = np.flatnonzero(P.max(axis=1) > SURE)
    if len(sure) == 0:
        return len(t), []
    first = sure[0]
    name = classes[P[first].argmax()]
    artists = [axes.axvline(t[first], color="black", linestyle=":") for axes in panels]
    text = f" {100 * SURE:g} % sure: \n class {name} "
    side = "left" if first < len(t) / 2 else "right"  # where there is room
    artists.append(panels[1].text(t[first], 0.68, text, ha=side))
    return first, artists


# ---- sample and hold ----


def draw_held(figure, x, held, answers, labels, dt):
    """Draw one trace: its inputs x (T, 2), V and trigger, the V held, all answers.

    held: (T,). answers, labels: name -> (T,), and how a reader calls it.
    """
    t = dt * np.arange(len(x))
    V, trigger = np.asarray(x).T
    triggered = trigger > 0
    figure.set_size_inches(8, 2 + 1.5 * len(answers))
    panels = figure.subplots(1 + len(answers), sharex=True, sharey=True)
    panels[0].plot(t, V, color="0.4")
    panels[0].plot(t[triggered], V[triggered], "o", color="C1", label="trigger")
    panels[0].set_title("a neuron's V, and triggers", loc="left")
    for axes, (name, answer) in zip(panels[1:], answers.items()):
        axes.plot(t, held, drawstyle="steps-post", **NEURON)
        axes.plot(t, answer, **NETWORK)
        axes.set_title(labels[name])
    panels[-1].set(xlabel="time", xlim=(0, t[-1]), ylim=(-2.5, 2.5))


def draw_writing(figure, x, Z, R, dt):
    """Draw V and triggers, x (T, 2), above both gates, Z and R (T, num_hiddens)."""
    t = dt * np.arange(len(x))
    V, trigger = np.asarray(x).T
    triggered = trigger > 0
    order = np.asarray(Z).mean(axis=0).argsort()
    figure.set_size_inches(8, 7)
    trace, update_gate, reset_gate = figure.subplots(
        3, sharex=True, height_ratios=(2, 4, 4)
    )
    trace.plot(t, V, color="0.4")
    trace.plot(t[triggered], V[triggered], "o", color="C1")
    trace.set_title("a neuron's V, and triggers")
    for axes, gate in ((update_gate, Z), (reset_gate, R)):
        image = draw_map(axes, np.asarray(gate)[:, order], t[-1])
        figure.colorbar(image, ax=axes)
        axes.set_ylabel("unit")
    update_gate.set_title("update gate Z: 1 keeps, 0 is written")
    reset_gate.set_title("reset gate R of the same units")
    reset_gate.set(xlabel="time", xlim=(0, t[-1]))
