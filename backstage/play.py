"""A window in which the reader is the experimenter: `--play`.

`Experiment` goes on sample by sample and knows no window: a neuron, and others that are
to go on as it does. `Stimulus` is the current that is played. A `Window` shows an
experiment in real time, and hands it what the reader does. Times are in the neuron's
time units, unless they are said to be samples or seconds.
"""

import os
import sys
import time
from collections import deque
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from matplotlib.widgets import Slider

from backstage.pictures import LOOK, NETWORK, NEURON, OTHER, open_window
from backstage.training import CtrlC
from datasets import draw_starts, simulate

SHOWN = 400  # samples in the window: two and a half periods of the neuron
TOLERANCE = 6.0  # how near a spike must come to the neuron's to have hit it
SAMPLES_PER_SECOND = 60  # a period of the neuron takes two and a half seconds
MOST_AT_ONCE = 30  # samples a frame: with fewer than two frames a second time is slow
INTERVAL = 25  # milliseconds from the end of a frame to the next

# ---- without a window ----


class NetworkPlayer:
    """A network that goes on sample by sample, by its own `single_step`."""

    def __init__(self, model):
        self.model = model
        self.H = torch.zeros(1, model.num_hiddens)

    @torch.no_grad()
    def step(self, V, I):
        """Take a sample of V, and of the current if it is told; return the next V."""
        inputs = [V, I][: self.model.num_inputs]
        X = torch.tensor([inputs], dtype=torch.float32)
        self.H, prediction = self.model.single_step(X, self.H)
        return prediction.item()


class Score:
    """How many of the neuron's spikes another has hit, and how many are its own."""

    def __init__(self):
        self.num_hit = 0
        self.num_missed = 0
        self.num_own = 0
        self.times_hit = deque(maxlen=SHOWN)  # of the neuron's spikes
        self.times_missed = deque(maxlen=SHOWN)

    def judge(self, neurons_due, neurons, own_due, own):
        """Count the spikes that are due: nothing that comes now can be near to them.

        All are lists of times: of the neuron's spikes those that are due, and all of
        late; and the same of its own.
        """
        for spike in neurons_due:
            if is_near(spike, own):
                self.num_hit += 1
                self.times_hit.append(spike)
            else:
                self.num_missed += 1
                self.times_missed.append(spike)
        for spike in own_due:
            if not is_near(spike, neurons):
                self.num_own += 1


def is_near(spike, others):
    return any(abs(spike - other) <= TOLERANCE for other in others)


class Experiment:
    """A neuron, and others that see its first samples and then go on as it does.

    start: V and W of the neuron.
    others: name -> what has step(V, I), which returns the V that it expects next. It is
    shown the neuron's first samples, and from there on what it has said itself.
    noise: (warm_up,), what is added to those samples; their number is the warm-up's.

    Of the last SHOWN samples: `currents` and, by name, `traces`, that of the "neuron"
    and what each of the others has seen.
    """

    def __init__(self, start, others, dt, noise):
        self.V, self.W = start
        self.others = others
        self.dt = dt
        self.noise = noise
        self.warm_up = len(noise)
        self.num_samples = 0
        self.expected = {}  # name -> the next V
        names = ["neuron", *others]
        self.currents = deque(maxlen=SHOWN)
        self.traces = {name: deque(maxlen=SHOWN) for name in names}
        self.spikes = {name: deque(maxlen=20) for name in names}  # times, of late
        self.scores = {name: Score() for name in others}

    def step(self, I):
        """Hold the current I for one sample."""
        is_warm_up = self.num_samples < self.warm_up
        self._note("neuron", self.V)
        for name, other in self.others.items():
            if is_warm_up:
                V = self.V + self.noise[self.num_samples]
            else:
                V = self.expected[name]
            self._note(name, V)
            self.expected[name] = other.step(V, I)
        self._judge()
        self.currents.append(I)
        V, W = simulate(self.V, self.W, [0.0, self.dt], I)
        self.V = V[1, 0]
        self.W = W[1, 0]
        self.num_samples += 1

    def _note(self, name, V):
        """Note a sample of V, and a spike if it has crossed 0 upwards since the last.

        A spike of the warm-up does not count: it was shown.
        """
        trace = self.traces[name]
        if self.num_samples > self.warm_up and trace[-1] < 0 <= V:
            share = trace[-1] / (trace[-1] - V)
            self.spikes[name].append((self.num_samples - 1 + share) * self.dt)
        trace.append(V)

    def _judge(self):
        neurons = self.spikes["neuron"]
        neurons_due = self._due(neurons)
        for name, score in self.scores.items():
            own = self.spikes[name]
            score.judge(neurons_due, neurons, self._due(own), own)

    def _due(self, spikes):
        """Those that are older than TOLERANCE since this sample."""
        newest = self.num_samples * self.dt - TOLERANCE
        oldest = (self.num_samples - 1) * self.dt - TOLERANCE
        return [spike for spike in spikes if oldest < spike <= newest]


class Stimulus:
    """The current that is played: a constant, pulses, and noise if it is wanted.

    The noise wanders: an Ornstein-Uhlenbeck process of standard deviation STD, which
    forgets its past within TIME_CONSTANT.
    """

    LOWEST = -0.8  # what is beyond is cut off; networks are trained on -0.2 to 1.8
    HIGHEST = 2.2
    STD = 0.4
    TIME_CONSTANT = 20.0

    def __init__(self, dt, constant=0.0, seed=0):
        self.constant = constant
        self.keep = np.exp(-dt / self.TIME_CONSTANT)
        self.rng = np.random.default_rng(seed)
        self.strength = 0.0
        self.samples_left = 0  # of the pulse
        self.is_noisy = False
        self.noise = 0.0

    def pulse(self, strength, width):
        """Begin a pulse of so many samples. It ends one that is still on."""
        self.strength = strength
        self.samples_left = width

    def stop(self):
        """End a pulse, and let the noise begin again at 0."""
        self.samples_left = 0
        self.noise = 0.0

    def next(self):
        """Return the current of the next sample."""
        I = self.constant
        if self.samples_left > 0:
            self.samples_left -= 1
            I += self.strength
        if self.is_noisy:
            fresh = self.STD * self.rng.standard_normal()
            self.noise = self.keep * self.noise + np.sqrt(1 - self.keep**2) * fresh
            I += self.noise
        return float(np.clip(I, self.LOWEST, self.HIGHEST))


# ---- windows ----


class NoWindowError(Exception):
    """Says in a line why no window can be opened here."""


STYLES = NETWORK, OTHER, {"color": "C2", "linestyle": "-."}
V_SHOWN = -2.6, 3.7
MARK = 2.55  # the height at which a spike of the neuron is marked as hit or missed


@dataclass
class Panel:
    """What is drawn of one of the others, on the neuron."""

    axes: Axes
    warm_up: Rectangle
    neuron: Line2D
    dots: Line2D  # samples of the warm-up
    line: Line2D
    hit: Line2D
    missed: Line2D
    title: Text

    def moving(self):
        """What changes in every frame, from the back to the front."""
        lines = [self.neuron, self.dots, self.line, self.hit, self.missed]
        return [self.warm_up, *lines]


def make_panel(axes, style, dt):
    """Prepare axes for one of the others."""
    color = style["color"]
    axes.set(xlim=(-SHOWN * dt, 0), ylim=V_SHOWN, ylabel="V", yticks=(-2, 0, 2))
    warm_up = axes.axvspan(0, 0, ymax=0.8, color="0.93")  # below the words
    (neuron,) = axes.plot([], [], **NEURON)
    (dots,) = axes.plot([], [], "k.", markersize=3)
    (line,) = axes.plot([], [], **style)
    (hit,) = axes.plot([], [], "o", color=color, markersize=7)
    (missed,) = axes.plot([], [], "x", color="black", markersize=8, mew=2)
    title = axes.text(0.01, 0.98, "", transform=axes.transAxes, va="top", color=color)
    return Panel(axes, warm_up, neuron, dots, line, hit, missed, title)


class Window:
    """Shows an experiment in real time, and hands it what the reader does.

    titles: name of one of the others -> what the reader is told.
    A frame draws only what changes, and goes on by as many samples as are due since the
    last one: if drawing is slow, frames are left out, and never wait in a queue.

    A subclass adds the sliders, and says how an experiment begins (`begin`), which
    current comes next (`next_current`), and what its keys do.
    """

    HEIGHTS_BELOW = ()  # of axes below the panels; a panel's is 3

    @LOOK
    def __init__(self, titles, dt, heading, keys):
        self.titles = titles
        self.dt = dt
        self.experiment = None
        self.is_paused = False
        self.interrupted = False
        self.moving = []  # what changes in every frame
        self.words = []  # what changes now and then
        self.fixed = None  # the picture without both
        self.background = None  # the picture with these words
        self.words_drawn = None
        self.last_frame = time.perf_counter()
        self.owed = 0.0  # samples that are due, and not yet played
        self.actions = {"r": self.restart, "p": self.pause, "q": self.close}
        self.figure = open_figure()
        self._lay_out(heading, keys)
        self.timer = self.figure.canvas.new_timer(INTERVAL)
        self.timer.add_callback(self._on_timer)
        # whoever keeps the figure, such as a notebook, keeps what moves it
        self.figure.window = self

    def _lay_out(self, heading, keys):
        self.figure.text(0.01, 0.965, heading, va="center", size=15)
        self.figure.text(0.01, 0.03, keys, va="center", size=13)
        heights = [*[3] * len(self.titles), *self.HEIGHTS_BELOW]
        margins = {"left": 0.08, "right": 0.98, "top": 0.93, "bottom": 0.29}
        self.axes = self.figure.subplots(
            len(heights),
            sharex=True,
            height_ratios=heights,
            gridspec_kw={"hspace": 0.12, **margins},
        )
        self.panels = {}
        for axes, name, style in zip(self.axes, self.titles, STYLES):
            self.panels[name] = make_panel(axes, style, self.dt)
        last = self.axes[-1]
        last.set_xlabel("time before now", labelpad=1)
        for axes in self.axes:
            axes.tick_params(labelsize=12)
        corner = {"ha": "right", "va": "top", "color": "0.3"}
        self.state = last.text(0.99, 0.97, "", transform=last.transAxes, **corner)
        first = self.axes[0]
        marks = "●  hit    ×  missed"
        first.text(0.99, 0.98, marks, transform=first.transAxes, size=13, **corner)
        self.words.append(self.state)
        for panel in self.panels.values():
            self.moving += panel.moving()
            self.words.append(panel.title)

    @LOOK
    def add_slider(self, bottom, label, lowest, highest, start, step):
        """Add a slider; bottom: its place in the figure, from 0 to 1."""
        axes = self.figure.add_axes((0.36, bottom, 0.52, 0.035))
        return Slider(
            axes,
            label,
            lowest,
            highest,
            valinit=start,
            valstep=step,
            valfmt="%g",
            initcolor="none",
        )

    def show(self):
        """Begin, and return as soon as the window is closed; in a notebook, at once.

        Returns whether it was closed by Ctrl-C.
        """
        for artist in (*self.moving, *self.words):
            artist.set_animated(True)  # not drawn with what is fixed
        self.restart()
        connect = self.figure.canvas.mpl_connect
        connect("draw_event", self._on_draw)
        connect("key_press_event", self._on_key)
        connect("button_press_event", self._on_click)
        connect("close_event", self._on_close)
        self.timer.start()
        if not in_notebook():  # which shows the figure itself, after the cell
            with CtrlC(self.interrupt):
                plt.show()
        return self.interrupted

    # ---- what a subclass says ----

    def begin(self):
        """Return a new Experiment."""
        raise NotImplementedError

    def next_current(self):
        """Return the current of the next sample."""
        raise NotImplementedError

    def click(self, event):
        """Respond to a click into the panels."""

    def describe_state(self):
        """Say what the reader should not forget to have switched on."""
        return "paused" if self.is_paused else ""

    # ---- what the reader does ----

    def restart(self):
        """Begin the experiment again."""
        self.experiment = self.begin()

    def pause(self):
        """Stop the time, or let it go on."""
        self.is_paused = not self.is_paused

    def close(self):
        """End the run."""
        plt.close(self.figure)

    def interrupt(self):
        """End the run as soon as nothing is being drawn."""
        self.interrupted = True

    def _on_key(self, event):
        action = self.actions.get(event.key)
        if action is not None:
            action()

    def _on_click(self, event):
        if event.inaxes in self.axes and event.button == 1:
            self.click(event)

    def _on_close(self, _):
        self.timer.stop()

    # ---- time ----

    def _on_timer(self):
        if self.interrupted:
            self.close()
        if not plt.fignum_exists(self.figure.number):
            self.timer.stop()  # in a notebook there is no event that says so
            return
        now = time.perf_counter()
        if not self.is_paused:
            self.owed += (now - self.last_frame) * SAMPLES_PER_SECOND
        self.last_frame = now
        num_steps = min(int(self.owed), MOST_AT_ONCE)
        self.owed -= int(self.owed)  # what is more than that is dropped
        for _ in range(num_steps):
            self.experiment.step(self.next_current())
        self._draw_frame()

    # ---- drawing ----

    def _on_draw(self, _):
        """Keep what was drawn, which is all that does not change, and draw the rest."""
        self.fixed = self.figure.canvas.copy_from_bbox(self.figure.bbox)
        self.words_drawn = None
        self._draw_rest()

    def _draw_frame(self):
        if self.fixed is None:
            return  # the window is not there yet
        self._draw_rest()
        panels = Bbox.union([axes.bbox for axes in self.axes])
        self.figure.canvas.blit(panels)

    def _draw_rest(self):
        """Draw what moves; words only if they have changed: they take the longest."""
        self.update()
        canvas = self.figure.canvas
        words = [text.get_text() for text in self.words]
        if words != self.words_drawn:
            canvas.restore_region(self.fixed)
            for text in self.words:
                self.figure.draw_artist(text)
            self.background = canvas.copy_from_bbox(self.figure.bbox)
            self.words_drawn = words
        canvas.restore_region(self.background)
        for artist in self.moving:
            self.figure.draw_artist(artist)

    def update(self):
        """Move all lines and texts to where the experiment is now."""
        experiment = self.experiment
        num_noted = len(experiment.currents)
        x = (np.arange(num_noted) - num_noted + 1) * self.dt
        now = (experiment.num_samples - 1) * self.dt
        # of the samples in the window, those of the warm-up
        num_gone = experiment.num_samples - num_noted
        num_shown = np.clip(experiment.warm_up - num_gone, 0, num_noted)
        neuron = np.array(experiment.traces["neuron"])
        for name, panel in self.panels.items():
            V = np.array(experiment.traces[name])
            panel.warm_up.set(x=-now, width=experiment.warm_up * self.dt)
            panel.neuron.set_data(x, neuron)
            panel.dots.set_data(x[:num_shown], V[:num_shown])
            panel.line.set_data(x[num_shown:], V[num_shown:])
            score = experiment.scores[name]
            mark_spikes(panel.hit, score.times_hit, now)
            mark_spikes(panel.missed, score.times_missed, now)
            panel.title.set_text(f"{self.titles[name]}: {verdict(score)}")
        self.state.set_text(self.describe_state())


def mark_spikes(line, times, now):
    x = np.array(times) - now
    line.set_data(x, np.full(len(x), MARK))


def verdict(score):
    """Say how many spikes were hit."""
    num_spikes = score.num_hit + score.num_missed
    text = f"hit {score.num_hit} of {num_spikes} spikes"
    if score.num_own > 0:
        text += f", and {score.num_own} of its own"
    return text


class PokeWindow(Window):
    """Two networks or three that are told the current, which is the reader's.

    models: name -> a network of V and I; titles: name -> what the reader is told.
    start: V and W at which the neuron begins.
    """

    HEIGHTS_BELOW = (2.2,)
    HEADING = "Grey: the neuron. After the dots both networks know its current alone."
    KEYS = (
        "space or a click: pulse    n: noise    r: start again    p: pause    q: close"
        "\n← →: constant current    ↑ ↓: strength of a pulse"
    )

    def __init__(self, models, titles, start, dt, warm_up):
        super().__init__(titles, dt, self.HEADING, self.KEYS)
        self.models = models
        self.start = start
        self.warm_up = warm_up
        self.stimulus = Stimulus(dt)
        self._lay_out_current()
        self.constant = self.add_slider(
            0.185, "constant current", -0.2, 1.8, start=0.0, step=0.01
        )
        self.strength = self.add_slider(
            0.14, "strength of a pulse", -0.5, 1.5, start=0.3, step=0.01
        )
        self.width = self.add_slider(0.095, "samples it lasts", 1, 100, start=5, step=1)
        self.actions |= {
            " ": self.pulse,
            "n": self.switch_noise,
            "left": lambda: nudge(self.constant, -1),
            "right": lambda: nudge(self.constant, 1),
            "down": lambda: nudge(self.strength, -1),
            "up": lambda: nudge(self.strength, 1),
        }

    def _lay_out_current(self):
        below = self.axes[-1]
        below.set(ylim=(Stimulus.LOWEST, Stimulus.HIGHEST), ylabel="current")
        (self.current,) = below.plot([], [], "k", linewidth=1.2, drawstyle="steps-post")
        self.moving.append(self.current)

    def begin(self):
        """All see the neuron come from `start` under the constant current.

        That is done at once: whatever the reader does comes after it.
        """
        others = {name: NetworkPlayer(model) for name, model in self.models.items()}
        noise = np.zeros(self.warm_up)
        experiment = Experiment(self.start, others, self.dt, noise)
        self.stimulus.stop()
        for _ in range(self.warm_up):
            experiment.step(self.constant.val)
        return experiment

    def next_current(self):
        """Return what the sliders, the keys and the clicks have made of it."""
        self.stimulus.constant = self.constant.val
        return self.stimulus.next()

    def pulse(self):
        """Begin a pulse, as the sliders say."""
        self.stimulus.pulse(self.strength.val, self.width.val)

    def switch_noise(self):
        """Add noise to the current, or no longer."""
        self.stimulus.is_noisy = not self.stimulus.is_noisy

    def click(self, event):
        """Begin a pulse; one in the current's panel is as strong as it is high."""
        if event.inaxes is self.axes[-1]:
            move_slider(self.strength, event.ydata - self.constant.val)
        self.pulse()

    def update(self):
        """Move all lines and texts to where the experiment is now."""
        super().update()
        I = np.array(self.experiment.currents)
        x = (np.arange(len(I)) - len(I) + 1) * self.dt
        self.current.set_data(x, I)

    def describe_state(self):
        """Say what the reader should not forget to have switched on."""
        states = []
        if self.stimulus.is_noisy:
            states.append("noise")
        if self.is_paused:
            states.append("paused")
        return ", ".join(states)


def nudge(slider, num_steps):
    """Move a slider by so many of its steps."""
    move_slider(slider, slider.val + num_steps * slider.valstep)


def move_slider(slider, value):
    """Move a slider to a value, or to its end."""
    slider.set_val(np.clip(round(value, 2), slider.valmin, slider.valmax))


class AloneWindow(Window):
    """Others that see the first samples of a neuron, with noise, and then are alone.

    make_others: returns name -> what has step(V, I), new ones at each call.
    titles: name -> what the reader is told. I: the neuron's current.
    """

    HEADING = "Grey: a neuron. All see its first samples (dots), and then are alone."
    KEYS = "space or a click: a new neuron    r: this one again    p: pause    q: close"

    def __init__(self, make_others, titles, dt, warm_up, I, seed):
        super().__init__(titles, dt, self.HEADING, self.KEYS)
        self.make_others = make_others
        self.warm_up = warm_up
        self.I = I
        self.rng = np.random.default_rng(seed)
        self.start = self.draw_start()
        self.noise_std = self.add_slider(
            0.13, "noise on the dots", 0.0, 0.5, start=0.1, step=0.01
        )
        self.noise_std.on_changed(lambda _: self.restart())
        self.actions[" "] = self.take_new_neuron

    def draw_start(self):
        """Draw V and W at which a neuron begins."""
        v0, w0 = draw_starts(self.rng, 1)
        return v0[0], w0[0]

    def take_new_neuron(self):
        """Begin with another neuron."""
        self.start = self.draw_start()
        self.restart()

    def click(self, event):
        """Do what the space bar does."""
        self.take_new_neuron()

    def begin(self):
        """All see the same samples of this neuron, with new noise."""
        noise = self.noise_std.val * self.rng.standard_normal(self.warm_up)
        return Experiment(self.start, self.make_others(), self.dt, noise)

    def next_current(self):
        """Return the neuron's, which never changes."""
        return self.I


# ---- where a window can be opened ----

TOOLKITS = "_tkinter", "PyQt6", "PySide6", "PyQt5", "PySide2", "gi", "wx"


def open_figure():
    """Open a window; raise NoWindowError if there can be none."""
    with plt.rc_context({"toolbar": "None"}):  # it would take keys and clicks
        figure = open_window()
    if figure is None:
        raise NoWindowError(what_is_missing())
    manager = figure.canvas.manager
    manager.set_window_title(Path(sys.argv[0]).stem)
    figure.canvas.mpl_disconnect(manager.key_press_handler_id)  # matplotlib's own keys
    figure.set_layout_engine("none")
    figure.set_size_inches(9, 6.8)
    return figure


def in_notebook():
    return "ipykernel" in sys.modules


def what_is_missing():
    """Say in a line why no window can be opened here, and what to do."""
    backend = os.environ.get("MPLBACKEND", "")
    if in_notebook() or "inline" in backend:
        command = "%matplotlib widget"
        if find_spec("ipympl") is None:
            command = f"%pip install ipympl, restart the kernel, {command}"
        return f"in a notebook it needs ipympl: {command}, then %run the script"
    if backend:
        return f"MPLBACKEND={backend} opens no window: unset it"
    has_display = {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if sys.platform == "linux" and not has_display:
        return "no display to open a window on (over ssh: ssh -X)"
    if not any(find_spec(toolkit) for toolkit in TOOLKITS):
        return "no toolkit to open a window with: install python3-tk"
    return "no window can be opened on this display"


# ---- flags ----


def refuse_other_flags(parser, args, used):
    """End the run if a flag is given that has no effect with --play."""
    defaults = vars(parser.parse_args([]))
    for name, value in vars(args).items():
        if name not in used and value != defaults[name]:
            parser.error(f"--{name} has no effect with --play")
