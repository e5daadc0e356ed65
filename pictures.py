"""Every figure of the scripts: draw_...(figure, ...) draws once; plot_... sets up and returns update(frame)."""

import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from sklearn.decomposition import PCA

from datasets import crosses_upwards, period, simulate


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
    figure.set_size_inches(9, 4.8)
    trace, error = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    trace.plot(t, V, color="0.75", linewidth=5, label="neuron")
    (dots,) = trace.plot([], [], ".", color="0.2", markersize=2, label="its noisy samples")
    (line,) = trace.plot([], [], color="tab:red", linewidth=1.5, label="GRU")
    (noise,) = error.plot([], [], ".", color="0.2", markersize=3)
    (distance,) = error.plot([], [], color="tab:red", linewidth=1.5)
    trace.axvspan(0, t[half - 1], color="0.95")
    error.axvspan(0, t[half - 1], color="0.95")
    trace.text(0, -3.0, " sees every sample, predicts the next", fontsize=11, color="0.3")
    trace.text(t[half - 1], -3.0, " runs freely", fontsize=11, color="0.3")
    trace.set(ylabel="V", xlim=(0, t[-1]), ylim=(-3.2, 2.8))
    trace.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)  # beside the title, clear of the spikes
    error.set(xlabel="time", ylabel="minus the\nneuron", ylim=(-0.45, 0.45))

    def update(history):
        prediction = np.clip(history[-1]["trace"], -5, 5)  # it may run away
        dots.set_data(t[:half], history[-1]["samples"])
        noise.set_data(t[:half], history[-1]["samples"] - V[:half])
        line.set_data(t, prediction)
        distance.set_data(t, prediction - V)
        trace.set_title(f"epoch {len(history)}   error {history[-1]['view_loss']:.1e}", loc="left")

    return update


def draw_neuron(figure, view):
    """Draw the neuron before any network: V and W against time, and in their plane with nullclines and flow."""
    I, a, b, eps = *view.parameters.values(), 1 / 50
    t = np.arange(0, 320, 0.25)
    V, W = (traces[:, 0] for traces in simulate(-0.5, 1.9, t, I, a, b, eps))
    figure.set_size_inches(11, 4.6)
    left, plane = figure.subplots(1, 2)
    left.plot(t, V, color="black", label="V, membrane voltage")
    left.plot(t, W, color="C1", linestyle="--", label="W, recovery variable")
    left.set(xlabel="time", xlim=(0, t[-1]), ylim=(-2.3, 3.0))
    left.legend(loc="upper right", fontsize=11)

    v, w = np.linspace(-2.5, 2.5, 201), np.linspace(-1, 2.2, 201)
    flow = v - v**3 / 3 - w[:, None] + I, eps * (v + a - b * w[:, None])  # dV/dt and dW/dt all over the plane
    plane.streamplot(v, w, *flow, color="0.8", linewidth=0.8, arrowsize=0.9, density=1.1)
    plane.plot(v, v - v**3 / 3 + I, ":", color="C0", label="cubic: dV/dt = 0")
    plane.plot(b * w - a, w, "-.", color="C2", label="line: dW/dt = 0")
    plane.plot(V, W, color="black", linewidth=2.2, label="the trace on the left")
    arrow = {"arrowstyle": "-|>", "mutation_scale": 22, "color": "black"}
    for k in np.searchsorted(t, (30, 88, 110, 133.5)):  # which way round: on both branches, and while V jumps
        plane.annotate("", (V[k + 2], W[k + 2]), (V[k], W[k]), arrowprops=arrow)
    plane.plot(V[0], W[0], "o", color="black")
    rest = v[np.argmin(np.abs(v - v**3 / 3 + I - (v + a) / b))]  # where the two nullclines cross
    plane.plot(rest, (rest + a) / b, "o", markersize=9, markerfacecolor="white", color="C3", label="unstable point")
    plane.set(xlabel="V", ylabel="W", xlim=(-2.5, 2.5), ylim=(-1, 3.0))
    plane.legend(loc="upper center", ncols=2, fontsize=10)


def draw_memory(figure, errors, noise_std, before, after, window):
    """Draw errors, name -> (T,), against samples seen, as means over growing spans; and the size of dL/dH."""
    figure.set_size_inches(11, 5.4)
    left, right = figure.subplots(1, 2)
    styles = {"ideal observer": ("0.7", "-", 5), "GRU": ("tab:red", "-", 2.5)}
    for k, (name, error) in enumerate(errors.items()):
        color, style, width = styles.get(name, (f"C{k}", ("--", "-.", ":")[k % 3], 2))
        edges = np.unique(np.geomspace(6, len(error), 14).astype(int))
        means = [np.mean(error[i:j]) for i, j in zip(edges[:-1], edges[1:])]
        left.loglog((edges[:-1] + edges[1:]) / 2, means, style, color=color, linewidth=width, label=name)
    left.loglog(edges, noise_std**2 / edges, color="black", linewidth=0.8, label="σ² / samples seen")
    left.set(xlabel="samples seen", ylabel="mean squared error of the next V", ylim=(None, 0.1))
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=11)
    right.semilogy(np.transpose([before, after]), label=["before training", "after training"])
    right.axvline(window, color="0.6", linestyle=":", label=f"cut in training: {window} steps")
    right.set(xlabel="steps back in time", ylabel="relative size of dL/dH", xlim=(0, len(before) - 1), ylim=(1e-12, 10))
    right.legend(loc="lower left", bbox_to_anchor=(0, 1))


# ---- task 2 ----


def plot_free_run(figure, dataset):
    """Plot the first true trace of `dataset`; return update(history), which draws the last epoch's free run over it."""
    true = dataset.data_x[0].flatten().numpy()
    t = dataset.dt * np.arange(len(true))
    axes = figure.subplots()
    axes.plot(t, true, color="0.6", linewidth=3, label="true")
    (line,) = axes.plot([], [], "--", color="tab:red", label="free running")
    axes.set(xlabel="time", ylabel="V", xlim=(0, t[-1]), ylim=(-2.4, 3.2))
    axes.legend(loc="upper right", ncols=2)

    def update(history):
        line.set_data(t, history[-1]["trace"])
        axes.set_title(f"epoch {len(history)}, {history[-1]['stage']}", loc="left")

    return update


def plot_growing_trace(figure, true, generated, dt, warm_up):
    """Set up the animation of one run; return update(n), which shows its first n samples.

    true, generated: V and W, (2, T); the network's W is read out of its state.
    """
    t = dt * np.arange(true.shape[1])
    figure.set_size_inches(10, 4.5)
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2), height_ratios=(3, 2))
    trace, difference, plane = (figure.add_subplot(place) for place in (grid[0, 0], grid[1, 0], grid[:, 1]))
    (neuron,) = trace.plot([], [], color="0.6", linewidth=4)
    (gru,) = trace.plot([], [], color="tab:red", linewidth=1.5)
    (orbit,) = plane.plot([], [], color="0.6", linewidth=4, label="neuron")
    (path,) = plane.plot([], [], color="tab:red", linewidth=1.5, label="GRU, W read out of its state")
    dots = [plane.plot([], [], "o", color=c, markersize=m)[0] for c, m in (("0.35", 13), ("tab:red", 7))]
    (error,) = difference.plot([], [], color="tab:red", linewidth=1)
    trace.axvspan(0, warm_up * dt, color="0.92")
    trace.text(0, -2.95, " seen", fontsize=11, color="0.3")
    trace.set(ylabel="V", xlim=(0, t[-1]), ylim=(-3.2, 2.6), xticklabels=[])
    difference.set(xlabel="time", ylabel="GRU − neuron", xlim=(0, t[-1]), ylim=(-0.4, 0.4))
    plane.set(xlabel="V", ylabel="W", xlim=(-2.6, 2.6), ylim=(-0.9, 2.4), title="in the plane")
    plane.legend(loc="upper center", fontsize=10)

    def update(n):
        free = slice(min(warm_up, n) - 1, n)
        neuron.set_data(t[:n], true[0, :n])
        gru.set_data(t[free], generated[0, free])
        error.set_data(t[free], generated[0, free] - true[0, free])
        recent = slice(max(0, n - round(period() / dt)), n)  # the last period
        orbit.set_data(*true[:, recent])
        path.set_data(*generated[:, max(recent.start, free.start) : n])
        for dot, values in zip(dots, (true, generated)):
            dot.set_data(*values[:, n - 1 : n])

    return update


def draw_phase_portrait(figure, true, generated, states, dt, I, a, b):
    """Draw the limit cycle, true and generated, and the hidden state's own: one period from the end of the run.

    true, generated: V and W, (2, T); the network's W is read out of its states (T, num_hiddens).
    """
    # the last period, from shortly before a spike to shortly before the next: there all is slow, and the ends meet
    begins = np.flatnonzero(crosses_upwards(true[0])) - round(0.2 * period() / dt)
    last = slice(max(0, begins[-2]), begins[-1] + 2) if len(begins) > 1 else slice(None)

    figure.set_size_inches(11, 4.5)
    left, right = figure.subplots(1, 2)
    v, w = np.linspace(-2.1, 2.2, 200), np.linspace(-0.7, 1.7, 2)
    left.plot(v, v - v**3 / 3 + I, ":", color="0.4", label="dV/dt = 0")
    left.plot(b * w - a, w, "-.", color="0.4", label="dW/dt = 0")
    left.plot(*true[:, last], color="0.6", linewidth=5, label="neuron")
    left.plot(*generated[:, last], "--", color="tab:red", label="GRU, W read out of its state")
    left.set(xlabel="V", ylabel="W", xlim=(-2.4, 2.4), ylim=(-0.7, 2.3), title="the limit cycle")
    left.legend(loc="upper center", ncols=2, fontsize=10)
    states = np.pad(states[last], ((0, 0), (0, 1)))  # one more unit, always 0: even one alone has two components then
    with np.errstate(invalid="ignore"):  # a network that has fallen silent has no variance to explain
        points = PCA(2, svd_solver="full").fit_transform(states)  # what it would choose for many units is random
    right.plot(*points.T, color="black", linewidth=6)  # an edge for the line's pale middle
    pieces = np.stack([points[:-1], points[1:]], axis=1)  # from each sample to the next
    phase = np.linspace(0, 1, len(points))[:-1]
    lines = right.add_collection(LineCollection(pieces, cmap="twilight_shifted", array=phase, linewidth=4))
    arrow = {"arrowstyle": "-|>", "mutation_scale": 22, "color": "black"}
    for k in range(0, len(pieces), max(1, len(points) // 12)):  # which way it goes
        right.annotate("", points[k + 1], points[k], arrowprops=arrow)
    right.margins(0.08)
    right.set(xlabel="first principal component", ylabel="second", title="the same cycle in the hidden state")
    figure.colorbar(lines, ax=right, label="phase")


def draw_gates(figure, V, Z, R, dt):
    """Draw V (T,) and both gates (T, n) of all units along the last 1.2 periods.

    The units are sorted by how much further their update gate is open while V > 0 than while V < 0.
    """
    V, Z, R = (values[-round(1.2 * period() / dt) :] for values in (V, Z, R))
    order = np.argsort(Z[V <= 0].mean(0) - Z[V > 0].mean(0)) if V.min() < 0 < V.max() else slice(None)
    t = dt * np.arange(len(V))

    figure.set_size_inches(8, 7)
    trace, *maps = figure.subplots(3, sharex=True, height_ratios=(2, 3, 3))
    trace.plot(t, V, color="black")
    trace.set(ylabel="V", xlim=(0, t[-1]))
    for axes, gate, name in zip(maps, (Z, R), ("update gate Z", "reset gate R")):
        box = {"extent": (0, t[-1], Z.shape[1], 0), "aspect": "auto", "interpolation": "nearest"}
        image = axes.imshow(gate[:, order].T, cmap="cividis", vmin=0, vmax=1, **box)
        axes.set_ylabel("unit, sorted")
        figure.colorbar(image, ax=axes, label=name)
    maps[-1].set_xlabel("time")


# ---- task 3 ----


def draw_samples(figure, dataset, num=3):
    """Draw the first traces of each class."""
    figure.set_size_inches(8, 5)
    axes = figure.subplots(len(dataset.CLASSES), sharex=True, sharey=True)
    t = dataset.dt * np.arange(dataset.T)
    for label, (name, parameters) in enumerate(dataset.CLASSES.items()):
        for trace in dataset.data[dataset.labels == label][:num]:
            axes[label].plot(t, trace[:, 0], color=f"C{label}", linewidth=1.2, alpha=0.8)
        axes[label].set_title(f"class {name}: a = {parameters['a']}, b = {parameters['b']}", loc="left")
        axes[label].set_ylabel("V")
    axes[-1].set(xlabel="time", xlim=(0, dataset.T * dataset.dt))


def draw_accuracy(figure, metrics, dt):
    """Draw against how much has been seen: who is right how often, and how sure the network is of it."""
    figure.set_size_inches(11, 4.2)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    accuracy, confidence = metrics["accuracy_along_the_way"], metrics["confidence_along_the_way"]
    t = dt * np.arange(1, len(accuracy) + 1)
    if "ideal_accuracy" in metrics:
        left.plot(t, metrics["ideal_accuracy_along_the_way"], color="0.6", linewidth=4, label="ideal observer")
    left.plot(t, accuracy, color="C0", label="GRU")
    left.axhline(metrics["neighbours_accuracy"], color="C2", linestyle="-.", label="15 nearest neighbours, whole trace")
    left.axhline(metrics["features_accuracy"], color="C1", linestyle="--", label="four features, whole trace")
    left.set(xlabel="time seen", ylabel="accuracy", xlim=(0, t[-1]), ylim=(0.45, 1.02))
    left.legend(loc="lower right")
    right.plot(t, accuracy, color="C0", label="GRU: how often it is right")
    right.plot(t, confidence, color="black", linestyle="--", label="GRU: how sure it is, on average")
    right.set(xlabel="time seen", ylabel="share, probability")
    right.tick_params(labelleft=True)
    right.legend(loc="lower right")


def plot_arriving(figure, classes, data, beliefs, dt):
    """Set up one trace of each class, and below it what is believed of it; return update(n): the first n samples.

    data: (classes, T, 1). beliefs: name -> P(class B) after each sample, (classes, T).
    """
    t = dt * np.arange(1, data.shape[1] + 1)
    axes = figure.subplots(2, len(classes), sharex=True, sharey="row", height_ratios=(3, 2))
    styles = {"ideal observer": {"color": "0.65", "linewidth": 5}, "GRU": {"color": "black"}}
    lines = []
    for k, name in enumerate(classes):
        trace, probability = axes[:, k]
        lines.append((trace.plot([], [], color=f"C{k}", linewidth=1.2)[0], data[k].flatten()))
        for label, belief in beliefs.items():
            lines.append((probability.plot([], [], label=label, **styles[label])[0], belief[k]))
        trace.set(title=f"a neuron of class {name}", xlim=(0, t[-1]), ylim=(data.min() - 0.2, data.max() + 0.2))
        probability.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
        probability.set(xlabel="time", ylim=(-0.05, 1.05))
    axes[0, 0].set_ylabel("V")
    axes[1, 0].set_ylabel("P(class B)")
    axes[1, 0].legend(loc="upper left", fontsize=10)

    def update(n):
        for line, values in lines:
            line.set_data(t[:n], values[:n])

    return update


# ---- task 4 ----

WHO = {
    "neuron": {"color": "0.6", "linewidth": 5, "label": "neuron"},
    "jumps": {"color": "tab:red", "label": "GRU, trained under currents that jump"},
    "constant": {"color": "C0", "linestyle": "--", "label": "GRU, trained under constant currents"},
}


def draw_answers(figure, levels, phases, poke, curves, poked, dt):
    """Draw what neuron and networks answer: above, f-I curves; below, the response to one pulse and to its phase.

    curves: name -> (frequency at each of `levels`, advance by a pulse at each of `phases`). poke: a current (T,).
    poked: name -> voltage (T,) under it.
    """
    figure.set_size_inches(10, 8)
    grid = figure.add_gridspec(2, 2)
    above, left, right = (figure.add_subplot(place) for place in (grid[0, :], grid[1, 0], grid[1, 1]))
    for name, (frequency, advance) in curves.items():
        above.plot(levels, 1000 * frequency, **WHO[name])
        left.plot(dt * np.arange(len(poke)), poked[name], **WHO[name])
        right.plot(phases, advance, **WHO[name])
    above.set(xlabel="constant current I", ylabel="spikes in 1000 time units", xlim=(-0.2, 1.8), ylim=(-0.4, 10))
    above.set_title("Under constant currents both networks fire as the neuron does.", loc="left")
    above.legend(loc="lower center")
    on = dt * np.flatnonzero(poke)
    left.axvspan(on[0], on[-1] + dt, ymax=0.04, color="black")
    left.text(on[-1] + 3, -2.42, f"pulse of {poke.max():g}", fontsize=11)
    left.set(xlabel="time", ylabel="V", xlim=(0, dt * len(poke)), ylim=(-2.6, 2.4))
    left.set_title("Poked at rest: one sleeps on.", loc="left")
    right.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    right.set(
        xlabel="phase of a pulse, in periods (upstroke at 0.47)",
        ylabel="spikes earlier by, in periods",
        xlim=(0, 1),
    )
    right.set_title("Poked while it fires: one hardly minds.", loc="left")


def plot_random_current(figure, I, voltages, dt):
    """Set up an animation of neuron and networks under one current I (T,); update(n) shows the first n samples.

    voltages: name -> voltage (T,).
    """
    t = dt * np.arange(len(I))
    figure.set_size_inches(9, 4.5)
    above, below = figure.subplots(2, sharex=True, height_ratios=(1, 3))
    (current,) = above.plot([], [], color="black", linewidth=1)
    above.set(ylabel="current", ylim=(I.min() - 0.1, I.max() + 0.1))
    lines = {name: below.plot([], [], **WHO[name])[0] for name in voltages}
    below.set(xlabel="time", ylabel="V", xlim=(0, t[-1]), ylim=(-2.4, 3.6))
    below.legend(loc="upper center", ncols=3, fontsize=10)

    def update(n):
        current.set_data(t[:n], I[:n])
        for name, line in lines.items():
            line.set_data(t[:n], voltages[name][:n])

    return update
