"""Every figure of the scripts: draw_...(figure, ...) draws once; plot_... sets up and returns update(frame)."""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import ConfusionMatrixDisplay

from datasets import crosses_upwards, period, simulate

NEURON = {"color": "0.7", "linewidth": 6, "label": "neuron"}  # the same in every picture
GRU = {"color": "tab:red", "label": "GRU"}
OTHER = {"color": "C0", "linestyle": "--"}  # another GRU
IDEAL = {"color": "0.7", "linewidth": 6, "label": "ideal observer"}
STYLES = {style["label"]: style for style in (NEURON, GRU, IDEAL)}


def live_window(plot, *data, share=0.1):
    """Open a window for plot(figure, *data), which returns update(shown); return redraw(shown), or None without one."""
    figure = plt.figure()
    if plt.get_backend().lower() == "agg":
        return None
    update, start, spent = plot(figure, *data), time.perf_counter(), 0.0
    plt.show(block=False)

    def redraw(shown):
        nonlocal spent
        begin = time.perf_counter()
        if plt.fignum_exists(figure.number) and spent <= share * (begin - start):  # not closed, and drawing is slow
            update(shown)
            figure.canvas.draw()
            figure.canvas.flush_events()
            spent += time.perf_counter() - begin

    return redraw


def plot_losses(figure):
    """Plot the losses, epoch by epoch; return update(history)."""
    axes = figure.subplots()

    def update(history):
        axes.clear()
        losses = [(report["loss"], report["view_loss"]) for report in history]
        axes.semilogy(range(1, len(losses) + 1), losses, label=["in training", "on traces not trained on"])
        axes.set(xlabel="epoch", ylabel="loss")
        axes.legend()

    return update


# ---- task 1 ----


def plot_filtering(figure, view):
    """Plot the first trace of `view`; update(history) adds its noisy samples and the last epoch's network."""
    V = view.data_y[0].flatten().numpy()
    t, half = view.dt * np.arange(1, len(V) + 1), len(V) // 2
    figure.set_size_inches(8, 5)
    trace, error = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    trace.plot(t, V, **NEURON)
    (dots,) = trace.plot([], [], "k.", markersize=2, label="noisy samples")
    (line,) = trace.plot([], [], **GRU)
    (noise,) = error.plot([], [], "k.", markersize=2)
    (distance,) = error.plot([], [], **GRU)
    trace.axvspan(0, t[half - 1], color="0.95")
    error.axvspan(0, t[half - 1], color="0.95")
    trace.text(t[half - 1] / 2, -3.3, "sees the dots", ha="center", color="0.3")
    trace.text(t[half - 1] * 3 / 2, -3.3, "runs freely", ha="center", color="0.3")
    trace.set(ylabel="V", xlim=(0, t[-1]), ylim=(-3.6, 4.2))
    trace.legend(loc="upper right", ncols=3)
    error.set(xlabel="time", ylabel="minus the\nneuron", ylim=(-0.45, 0.45))

    def update(history):
        prediction = np.clip(history[-1]["trace"], -5, 5)  # it may run away
        dots.set_data(t[:half], history[-1]["samples"])
        noise.set_data(t[:half], history[-1]["samples"] - V[:half])
        line.set_data(t, prediction)
        distance.set_data(t, prediction - V)
        trace.set_title(f"epoch {len(history)}: the error is {history[-1]['view_loss']:.1e}")

    return update


def draw_neuron(figure, view):
    """Draw the neuron before any network: V and W against time, and in their plane with nullclines and flow."""
    I, a, b, eps = *view.parameters.values(), 1 / 50
    t = np.arange(0, 320, 0.1)
    V, W = (traces[:, 0] for traces in simulate(-0.5, 1.9, t, I, a, b, eps))
    figure.set_size_inches(8, 8)
    trace, plane = figure.subplots(2, height_ratios=(2, 3))
    trace.plot(t, V, **NEURON | {"label": "V, membrane voltage"})
    trace.plot(t, W, color="C1", linestyle="--", label="W, recovery variable")
    trace.set(title="The neuron spikes again and again ...", xlabel="time", xlim=(0, t[-1]), ylim=(-2.9, 4.2))
    trace.legend(loc="upper right", ncols=2)
    for x, y, word in (60, 0.6, "jump"), (97, 2.2, "plateau"), (139, -1, "jump"), (153, -2.6, "recovery"):
        trace.text(x, y, word)

    v, w = np.linspace(-2.6, 2.6, 201), np.linspace(-0.9, 2.2, 201)
    flow = v - v**3 / 3 - w[:, None] + I, eps * (v + a - b * w[:, None])  # dV/dt and dW/dt all over the plane
    plane.streamplot(v, w, *flow, color="0.9", linewidth=0.8, arrowsize=0.8, density=0.5)
    plane.plot(v, v - v**3 / 3 + I, ":", color="C0")
    plane.plot(b * w - a, w, "-.", color="C2")
    plane.plot(V, W, **NEURON)
    for k in np.searchsorted(t, (30, 88.5, 110, 134)):  # which way round: on both branches, and while V jumps
        arrow = {"arrowstyle": "-|>", "mutation_scale": 25, "color": "black"}
        plane.annotate("", (V[k + 1], W[k + 1]), (V[k], W[k]), arrowprops=arrow)
    rest = v[np.argmin(np.abs(v - v**3 / 3 + I - (v + a) / b))]  # where the two nullclines cross
    plane.plot(rest, (rest + a) / b, "o", markersize=10, markerfacecolor="white", color="black")
    for x, y, word in (-0.4, 1.87, "start"), (-1.2, 1.34, "jump"), (1, -0.35, "jump"), (rest, -0.45, "unstable point"):
        plane.text(x, y, word)
    plane.text(-1.55, 0.55, "left branch:\nrecovery")
    plane.text(0.65, 0.1, "right branch:\nplateau")
    plane.text(0.35, 0.62, "dV/dt = 0", color="C0")
    plane.text(1.1, 2.03, "dW/dt = 0", color="C2")
    plane.set(title="... because in the plane of V and W all paths lead to one loop.")
    plane.set(xlabel="V", ylabel="W", xlim=(-2.6, 2.6), ylim=(-0.9, 2.2))


def draw_memory(figure, errors, noise_std):
    """Draw errors, name -> (T,), against samples seen, as means over growing spans."""
    figure.set_size_inches(8, 6)
    axes = figure.subplots()
    for k, (name, error) in enumerate(errors.items()):
        others = {"color": f"C{k}", "linestyle": ("--", "-.", ":")[k % 3], "label": name}
        edges = np.unique(np.geomspace(6, len(error), 14).astype(int))
        means = [np.mean(error[i:j]) for i, j in zip(edges[:-1], edges[1:])]
        axes.loglog((edges[:-1] + edges[1:]) / 2, means, **STYLES.get(name, others))
    axes.loglog(edges, noise_std**2 / edges, color="black", linewidth=0.8, label=f"{noise_std**2:g} / samples seen")
    axes.set(xlabel="samples seen", ylabel="mean squared error of the next V", ylim=(None, 0.1))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def draw_reach(figure, before, after, window):
    """Draw the size of dL/dH against steps back in time, before and after training."""
    axes = figure.subplots()
    axes.semilogy(before, color="black", linestyle="--", label="before training")
    axes.semilogy(after, **GRU | {"label": "after training"})
    axes.axvline(window, color="0.6", linestyle=":", label=f"cut in training: {window} steps")
    axes.set(xlabel="steps back in time", ylabel="relative size of dL/dH", xlim=(0, len(before) - 1), ylim=(1e-12, 10))
    axes.legend(loc="center")


# ---- task 2 and task 4 ----


def plot_free_run(figure, dataset):
    """Plot the first true trace of `dataset`; return update(history), which draws the last epoch's free run over it."""
    true = dataset.data_x[0].flatten().numpy()
    t = dataset.dt * np.arange(len(true))
    axes = figure.subplots()
    axes.plot(t, true, **NEURON)
    (line,) = axes.plot([], [], **GRU)
    axes.set(xlabel="time", ylabel="V", xlim=(0, t[-1]), ylim=(-2.4, 3.2))
    axes.legend(loc="upper right", ncols=2)

    def update(history):
        line.set_data(t, history[-1]["trace"])
        axes.set_title(f"epoch {len(history)}, {history[-1]['stage']}")

    return update


def plot_runs(figure, voltages, dt, warm_up=0, current=None):
    """Set up an animation of networks that run freely, each on top of the neuron; update(n) shows n samples.

    voltages: name -> V (T,), the neuron's first; of the others the first `warm_up` samples are what a network has seen.
    current: (T,), drawn above.
    """
    (_, true), *runs = voltages.items()
    t = dt * np.arange(len(true))
    rows = figure.subplots(len(runs) + (current is not None), sharex=True)
    figure.set_size_inches(8, 3 + 1.1 * len(rows))
    title = f"Both see {warm_up} noisy samples of a neuron. Then they are alone."
    figure.suptitle(title if current is None else "Both are told a new current. Which one follows?", x=0.02, ha="left")
    growing = []
    for axes, (name, V), style in zip(rows[-len(runs) :], runs, (GRU, OTHER)):
        (neuron,) = axes.plot(t, true, **NEURON)
        axes.plot(t[:warm_up], V[:warm_up], "k.", markersize=3)
        growing.append((axes.plot([], [], marker="o", markevery=[-1], **style)[0], warm_up, V))
        axes.set_title(name, color=style["color"])
        axes.set(ylabel="V", xlim=(0, t[-1]), ylim=(-2.8, 2.8), yticks=(-2, 0, 2))
    axes.set_xlabel("time")
    axes.legend(handles=[neuron], loc="lower right", bbox_to_anchor=(1, 0.95))
    if current is not None:
        growing.append((rows[0].plot([], [], color="black", linewidth=1)[0], 0, current))
        rows[0].set(ylabel="current", ylim=(current.min() - 0.1, current.max() + 0.1))

    def update(n):
        for line, begin, values in growing:
            line.set_data(t[begin:n], values[begin:n])

    return update


def draw_phase_portrait(figure, true, generated, states):
    """Draw the last period of a free run, in the plane of V and W and in two components of the hidden state.

    true, generated: V and W, (2, T); the network's W is read out of its states (T, num_hiddens).
    """
    begins = np.flatnonzero(crosses_upwards(generated[0]))  # here the phase is 0
    last = slice(begins[-2], begins[-1] + 1) if len(begins) > 1 else slice(None)
    states = np.pad(states[last], ((0, 0), (0, 1)))  # one more unit, always 0: even one alone has two components then
    with np.errstate(invalid="ignore"):  # a network that has fallen silent has no variance to explain
        components = PCA(2, svd_solver="full").fit_transform(states)  # for many units the default solver is random

    figure.set_size_inches(8, 4.5)
    left, right = figure.subplots(1, 2)
    left.plot(*true[:, last], **NEURON)
    for axes, points in ((left, generated[:, last].T), (right, components)):
        axes.plot(*points.T, marker=".", markevery=max(1, len(points) // 40), **GRU)
        for quarter, label in enumerate("0¼½¾"):
            place = points[quarter * (len(points) - 1) // 4]
            axes.text(*place, label, ha="center", va="center", bbox={"boxstyle": "circle", "facecolor": "white"})
        axes.margins(0.15)
    figure.suptitle("One period, in quarters from where V rises through 0", x=0.02, ha="left")
    left.set(xlabel="V", ylabel="W, read out of the state")
    left.legend(loc="center")
    right.set(xlabel="first component of the state", ylabel="second component")


def draw_gates(figure, V, Z, R, dt):
    """Draw V (T,) and both gates (T, n) along the last 1.2 periods, units grouped by when they hold their value.

    A unit holds its value while its update gate is above 1/2, on average.
    """
    V, Z, R = (np.asarray(values)[-round(1.2 * period() / dt) :] for values in (V, Z, R))
    high, low = (Z[when].sum(0) / max(1, when.sum()) for when in (V > 0, V <= 0))  # every unit's mean update gate
    group = np.select([(high > 0.5) & (low > 0.5), high > 0.5, low > 0.5], [1, 0, 2], 3)
    order = np.lexsort((low - high, group))
    sizes = np.bincount(group, minlength=4)
    ends = sizes.cumsum()
    names = "hold\nwhile V > 0", "hold\nalways", "hold\nwhile V < 0", "never"
    labels = [f"{size} {name}" if size else "" for size, name in zip(sizes, names)]
    t = dt * np.arange(len(V))

    figure.set_size_inches(8, 8)
    trace, *maps = figure.subplots(3, sharex=True, height_ratios=(2, 4, 4))
    trace.plot(t, V, **GRU)
    trace.set(ylabel="V", xlim=(0, t[-1]))
    for axes, gate, name in zip(maps, (Z, R), ("update gate Z: 1 holds, 0 renews", "reset gate R of the same units")):
        box = {"extent": (0, t[-1], Z.shape[1], 0), "aspect": "auto", "interpolation": "nearest"}
        image = axes.imshow(gate[:, order].T, cmap="cividis", vmin=0, vmax=1, **box)
        axes.hlines(ends[:-1], 0, t[-1], color="white")
        axes.set_yticks(ends - sizes / 2, labels)
        axes.set_title(name)
        figure.colorbar(image, ax=axes)
    maps[-1].set_xlabel("time")


def draw_answers(figure, levels, phases, poke, curves, poked, dt):
    """Draw what neuron and networks answer: f-I curves, the response to one pulse, and the response to its phase.

    curves: name -> (frequency at each of `levels`, advance by a pulse at each of `phases`). poke: a current (T,).
    poked: name -> voltage (T,) under it.
    """
    figure.set_size_inches(8, 10)
    f_i, pulse, response = figure.subplots(3)
    for (name, (frequency, advance)), style in zip(curves.items(), (NEURON, GRU, OTHER)):
        f_i.plot(levels, 1000 * frequency, **style | {"label": name})
        pulse.plot(dt * np.arange(len(poke)), poked[name], **style)
        response.plot(phases, advance, **style)
    f_i.set(title="Under constant currents: who fires, and how fast?", xlabel="constant current I")
    f_i.set(ylabel="spikes in 1000\ntime units", xlim=(-0.2, 1.8), ylim=(-0.4, 10))
    f_i.legend(loc="lower center", bbox_to_anchor=(0.54, 0))
    on = dt * np.flatnonzero(poke)
    pulse.axvspan(on[0], on[-1] + dt, ymax=0.06, color="black")
    pulse.text(on[-1] + 3, -2.5, f"pulse of {poke.max():g}")
    pulse.set(title="Poked at rest: who spikes?", xlabel="time", ylabel="V")
    pulse.set(xlim=(0, dt * len(poke)), ylim=(-2.7, 2.4))
    response.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    response.set(title="Poked while they fire: who minds?", ylabel="next spikes earlier\nby, in periods")
    response.set(xlabel="phase of the pulse, in periods (upstroke at 0.47)", xlim=(0, 1))


# ---- task 3 ----


def draw_samples(figure, dataset, num=3):
    """Draw `num` windows of one neuron of each class: without noise, evenly spread, and as the network sees them."""
    figure.set_size_inches(8, 6)
    rows = figure.subplots(len(dataset.CLASSES), sharex=True, sharey=True)
    t, rng = dataset.dt * np.arange(dataset.T), np.random.default_rng(0)
    for label, (axes, name) in enumerate(zip(rows, dataset.CLASSES)):
        V = dataset.traces[label][0]
        for start in np.linspace(0, len(V) - dataset.T, num, endpoint=False, dtype=int):
            clean = V[start : start + dataset.T]
            axes.plot(t, clean, **NEURON)
            noise = dataset.noise_std * rng.standard_normal(dataset.T)
            axes.plot(t, clean + noise, color=f"C{label}", linewidth=1)
        axes.legend(["neuron", "what is seen of it"], loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        axes.set(title=f"class {name}: a = {dataset.CLASSES[name]['a']}", ylabel="V")
    rows[-1].set(xlabel="time", xlim=(0, t[-1]))


def draw_accuracy(figure, metrics, dt):
    """Draw against how much has been seen: who is right how often, and how sure the network is of it."""
    figure.set_size_inches(8, 8)
    above, below = figure.subplots(2, sharex=True, sharey=True)
    accuracy, confidence = metrics["accuracy_along_the_way"], metrics["confidence_along_the_way"]
    t = dt * np.arange(1, len(accuracy) + 1)
    if "ideal_accuracy" in metrics:
        above.plot(t, metrics["ideal_accuracy_along_the_way"], **IDEAL)
    above.plot(t, accuracy, **GRU)
    above.axhline(metrics["neighbours_accuracy"], color="C2", linestyle="-.", label="15 neighbours, whole trace")
    above.axhline(metrics["features_accuracy"], color="C0", linestyle="--", label="four features, whole trace")
    above.set(title="How often is it right?", ylabel="accuracy", xlim=(0, t[-1]), ylim=(0.45, 1.02))
    above.legend(loc="lower right")
    below.plot(t, accuracy, **GRU | {"label": "how often the GRU is right"})
    below.plot(t, confidence, color="black", linestyle="--", label="how sure it is, on average")
    below.set(title="Does it know how often?", xlabel="time seen", ylabel="accuracy, confidence")
    below.legend(loc="lower right")


def draw_confusion(figure, matrix, classes):
    """Draw the confusion matrix: how many traces of each class (rows) are taken for which class (columns)."""
    figure.set_size_inches(4, 4)
    axes = figure.subplots()
    ConfusionMatrixDisplay(np.array(matrix), display_labels=classes).plot(ax=axes, cmap="Blues", colorbar=False)
    axes.set(xlabel="the GRU says", ylabel="the neuron is", title=f"{np.trace(matrix)} of {np.sum(matrix)} right")


def plot_arriving(figure, classes, data, beliefs, dt):
    """Set up one trace of each class, and below it what is believed of it; return update(n): the first n samples.

    data: (classes, T, 1). beliefs: name -> P(class B) after each sample, (classes, T). The moment is marked at which
    the GRU is 95 % sure for the first time.
    """
    t = dt * np.arange(1, data.shape[1] + 1)
    figure.set_size_inches(8, 5.5)
    axes = figure.subplots(2, len(classes), sharex=True, sharey="row")
    lines, marks = [], []
    for k, name in enumerate(classes):
        trace, probability = axes[:, k]
        lines.append((trace.plot([], [], color=f"C{k}", linewidth=1.2)[0], data[k].flatten()))
        for who, belief in beliefs.items():
            lines.append((probability.plot([], [], **STYLES[who])[0], belief[k]))
        P = beliefs["GRU"][k]
        for first in np.flatnonzero(abs(P - 0.5) > 0.45)[:1]:
            says = f" 95 % sure:\n class {classes[int(P[first] > 0.5)]}"
            marks.append((first, probability.text(t[first], 0.68, says)))
            marks += [(first, panel.axvline(t[first], color="black", linestyle=":")) for panel in (trace, probability)]
        trace.set(title=f"a neuron of class {name}", xlim=(0, t[-1]), ylim=(data.min() - 0.2, data.max() + 0.2))
        probability.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
        probability.set(xlabel="time", ylim=(-0.05, 1.05))
    axes[0, 0].set_ylabel("V")
    axes[1, 0].set_ylabel("P(class B)")
    axes[1, 0].legend(loc="lower right", bbox_to_anchor=(1, 0.1))

    def update(n):
        for line, values in lines:
            line.set_data(t[:n], values[:n])
        for first, mark in marks:
            mark.set_visible(first < n)

    return update
