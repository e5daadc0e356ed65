"""--play: a window is driven by a mouse and keys, and what it shows is compared."""

import signal
import sys
from types import ModuleType, SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import FigureManagerBase, KeyEvent, MouseEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg

import gru_autoregression as alone
import gru_driven_neuron as driven
from backstage import play, plumbing
from backstage.checkpoints import load_checkpoint, save_checkpoint
from datasets import FitzhughNagumo, simulate
from models import GRU

SCRIPTS = {"gru_driven_neuron": driven, "gru_autoregression": alone}
FRAME = 0.04  # seconds


# ---- a screen, and a reader before it ----


class Screen(FigureManagerBase):
    """A window without a screen; while it is open, a reader acts."""

    act = None

    def show(self):
        self.canvas.draw()

    @classmethod
    def start_main_loop(cls):
        cls.act(Reader(plt.gcf().window))
        plt.close("all")


class Canvas(FigureCanvasAgg):
    """What a Screen shows."""

    manager_class = Screen


class Clock:
    """Stands where the module `time` does."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Reader:
    """Somebody at the mouse and the keys; frames come every FRAME seconds."""

    def __init__(self, window):
        self.window = window
        self.canvas = window.figure.canvas

    def press(self, key):
        KeyEvent("key_press_event", self.canvas, key)._process()

    def mouse(self, kind, axes, x, y):
        place = axes.transData.transform((x, y))
        MouseEvent(f"{kind}_event", self.canvas, *place, button=1)._process()

    def click(self, axes, x, y):
        self.mouse("button_press", axes, x, y)
        self.mouse("button_release", axes, x, y)

    def drag(self, slider, value):
        self.mouse("button_press", slider.ax, slider.val, 0.5)
        halfway = (slider.val + value) / 2
        self.mouse("motion_notify", slider.ax, halfway, 0.5)
        self.mouse("motion_notify", slider.ax, value, 0.5)
        self.mouse("button_release", slider.ax, value, 0.5)

    def wait(self, num_frames=1, seconds=FRAME):
        for _ in range(num_frames):
            play.time.now += seconds
            for function, positional, named in self.window.timer.callbacks:
                function(*positional, **named)

    def trace(self, name):
        """What is drawn of a player: the dots and the line."""
        panel = self.window.panels[name]
        return np.append(panel.dots.get_ydata(), panel.line.get_ydata())

    def neuron(self):
        panel, *_ = self.window.panels.values()
        return panel.neuron.get_ydata()

    def current(self):
        return np.array(self.window.current.get_ydata())

    def titles(self):
        return [panel.title.get_text() for panel in self.window.panels.values()]

    def picture(self):
        return np.array(self.canvas.buffer_rgba())


@pytest.fixture
def _screen(monkeypatch, tmp_path):
    """As if there were a screen, and time that passes if a Reader waits."""
    monkeypatch.setattr(play, "time", Clock())
    monkeypatch.setattr(alone, "NUM_FIT", 16)
    monkeypatch.chdir(tmp_path)
    screen = ModuleType("screen")
    screen.FigureCanvas = Canvas
    monkeypatch.setitem(sys.modules, "screen", screen)
    before = plt.get_backend()
    plt.switch_backend("module://screen")
    yield
    plt.close("all")
    plt.switch_backend(before)


@pytest.fixture
def play_with(_screen, monkeypatch):
    """Run a script with --play; act(reader) does what a reader does. Returns status."""

    def run(stem, act, *flags):
        monkeypatch.setattr(Screen, "act", act)
        with pytest.raises(SystemExit) as stopped:
            plumbing.run(lambda: SCRIPTS[stem].main(["--play", *flags]))
        assert plt.get_fignums() == []
        return stopped.value.code

    return run


def shipped(name):
    return load_checkpoint(driven.SHIPPED / f"driven_{name}.pth")


# ---- task 4 ----


def test_what_is_shown_is_the_neuron_and_free_runs_under_what_was_played(play_with):
    def act(reader):
        window = reader.window
        reader.wait(15)
        reader.press(" ")
        reader.wait(20)
        reader.drag(window.constant, 0.45)
        reader.wait(25)
        reader.drag(window.width, 20)
        reader.click(window.axes[0], -50, 0)
        reader.wait(15)
        reader.press("n")
        reader.wait(40)
        reader.press("n")
        reader.click(window.axes[-1], -20, 1.2)
        reader.wait(20)

        I = reader.current()[:, None]
        assert len(I) == play.SHOWN - 26
        assert len(np.unique(I)) > 90  # pulses, noise and levels have been played
        V, _ = simulate(*driven.REST, driven.DT * np.arange(len(I)), I)
        np.testing.assert_allclose(reader.neuron(), V[:, 0], atol=1e-6)
        for name in ("jumps", "constant"):
            free_run = driven.network(shipped(name))(I)[:, 0]
            np.testing.assert_allclose(reader.trace(name), free_run, atol=1e-6)
            dots = window.panels[name].dots.get_xdata()
            assert len(dots) == driven.WARM_UP
        x = window.current.get_xdata()
        np.testing.assert_allclose(np.diff(x), driven.DT)
        assert x[-1] == 0

    assert play_with("gru_driven_neuron", act) == 0


def test_a_pulse_from_rest_makes_the_neuron_and_one_network_spike(play_with):
    def act(reader):
        assert reader.titles() == [
            "trained on currents that jump: hit 0 of 0 spikes",
            "trained on constant currents: hit 0 of 0 spikes",
        ]
        reader.wait(10)
        reader.press(" ")
        reader.wait(20)
        assert reader.current().max() == pytest.approx(0.3)
        assert np.count_nonzero(reader.current()) == 5
        assert reader.neuron().max() > driven.SPIKE_HEIGHT
        assert reader.trace("jumps").max() > driven.SPIKE_HEIGHT
        assert reader.trace("constant").max() < -1
        assert reader.titles() == [
            "trained on currents that jump: hit 1 of 1 spikes",
            "trained on constant currents: hit 0 of 1 spikes",
        ]
        panels = reader.window.panels
        assert len(panels["jumps"].hit.get_xdata()) == 1
        assert len(panels["jumps"].missed.get_xdata()) == 0
        assert len(panels["constant"].hit.get_xdata()) == 0
        (missed,) = panels["constant"].missed.get_xdata()
        x = panels["constant"].neuron.get_xdata()
        assert reader.neuron()[x < missed].max() < 0 < reader.neuron().max()

    play_with("gru_driven_neuron", act)


def test_the_time_stands_still_while_it_is_paused(play_with):
    def act(reader):
        reader.wait(5)
        reader.press("p")
        reader.wait()
        before = reader.current(), reader.neuron()
        reader.press(" ")
        reader.wait(50)
        np.testing.assert_array_equal(reader.current(), before[0])
        np.testing.assert_array_equal(reader.neuron(), before[1])
        assert reader.window.state.get_text() == "paused"
        reader.press("p")
        reader.wait(5)  # what has been missed is not made up for
        assert len(reader.current()) - len(before[0]) <= 13
        assert np.count_nonzero(reader.current()) == 5  # the pulse comes now
        assert reader.window.state.get_text() == ""

    play_with("gru_driven_neuron", act)


def test_start_again_is_the_same_state_for_all(play_with):
    def act(reader):
        def state():
            reader.wait(seconds=0)
            traces = [reader.trace(name) for name in ("jumps", "constant")]
            return np.stack([reader.current(), reader.neuron(), *traces])

        first = state()
        assert first.shape == (4, driven.WARM_UP)
        reader.drag(reader.window.width, 60)
        reader.press(" ")
        reader.wait(20)  # the pulse is still on
        assert not np.array_equal(first, state())
        reader.press("r")
        np.testing.assert_array_equal(state(), first)
        assert reader.titles()[0].endswith("hit 0 of 0 spikes")
        reader.wait(10)
        assert not reader.current().any()
        # under another constant current it is another experiment
        reader.drag(reader.window.constant, 0.5)
        reader.press("r")
        assert (state()[0] == 0.5).all()
        assert state()[1].max() > driven.SPIKE_HEIGHT

    play_with("gru_driven_neuron", act)


def test_noise_wanders_about_the_constant_current_until_it_is_switched_off(play_with):
    def act(reader):
        reader.drag(reader.window.constant, 0.5)
        reader.press("n")
        reader.wait(70, seconds=0.1)
        assert reader.window.state.get_text() == "noise"
        I = reader.current()
        assert (np.diff(I) != 0).mean() > 0.95
        assert I.std() == pytest.approx(play.Stimulus.STD, rel=0.4)
        assert np.diff(I).std() < 0.4 * I.std()  # it wanders
        reader.press("n")
        reader.wait(10)
        assert (reader.current()[-20:] == 0.5).all()
        assert reader.window.state.get_text() == ""

    play_with("gru_driven_neuron", act)


def test_sliders_are_moved_by_arrows_and_by_clicks_at_a_height(play_with):
    def act(reader):
        constant = reader.window.constant
        strength = reader.window.strength
        below = reader.window.axes[-1]
        reader.press("right")
        reader.press("right")
        reader.press("left")
        reader.press("up")
        assert (constant.val, strength.val) == (0.01, 0.31)
        reader.drag(constant, -0.19)
        for _ in range(3):
            reader.press("left")
        assert constant.val == constant.valmin
        reader.drag(constant, 0.5)
        reader.click(below, -100, 0.1)  # below the constant: inhibition
        assert strength.val == pytest.approx(-0.4, abs=0.02)
        reader.wait(2)
        assert reader.current()[-1] == pytest.approx(0.1, abs=0.02)
        reader.drag(constant, -0.2)
        reader.click(below, -100, 2.1)
        assert strength.val == strength.valmax
        # a slider is not a panel: no pulse
        assert reader.window.stimulus.samples_left == 5
        reader.wait(10)
        reader.click(reader.window.width.ax, 50, 0.5)
        assert reader.window.stimulus.samples_left == 0

    play_with("gru_driven_neuron", act)


def test_if_drawing_is_slow_frames_are_left_out_and_never_wait(play_with):
    def act(reader):
        reader.wait(10, seconds=0.1)  # ten frames a second: as much time has passed
        num_samples = driven.WARM_UP + play.SAMPLES_PER_SECOND
        assert len(reader.current()) == pytest.approx(num_samples, abs=1)
        before = len(reader.current())
        reader.wait(seconds=60)  # the machine slept
        assert len(reader.current()) == before + play.MOST_AT_ONCE
        reader.wait(seconds=0)
        assert len(reader.current()) == before + play.MOST_AT_ONCE

    play_with("gru_driven_neuron", act)


@pytest.mark.parametrize("stem", SCRIPTS)
def test_a_frame_is_the_picture_that_a_full_drawing_gives(stem, play_with):
    def act(reader):
        for key in (" ", "n", "r", "p", " "):
            reader.press(key)
            reader.wait(12)
            blitted = reader.picture()
            reader.canvas.draw()
            np.testing.assert_array_equal(blitted, reader.picture())

    play_with(stem, act)


def test_another_network_takes_the_place_of_that_of_the_jumps(play_with, tmp_path):
    torch.manual_seed(0)
    model = GRU(2, 3, 1, residual=True)
    save_checkpoint(tmp_path / "mine.pth", model)

    def act(reader):
        reader.wait(10)
        I = reader.current()[:, None]
        free_run = driven.network(model)(I)[:, 0]
        np.testing.assert_allclose(reader.trace("jumps"), free_run, atol=1e-6)
        assert reader.titles()[0].startswith("mine.pth: hit")

    assert play_with("gru_driven_neuron", act, "--checkpoint=mine.pth") == 0


# ---- task 2 ----


def test_all_see_the_same_noisy_samples_and_then_are_alone(play_with):
    warm_up = 50
    fitted_to = FitzhughNagumo(16, 512, duration=512 * alone.DT, seed=0)
    trained = load_checkpoint(alone.SHIPPED)
    untrained = alone.fit_untrained(GRU, 64, fitted_to, seed=0)
    polynomial = alone.Polynomial(fitted_to)

    def act(reader):
        reader.drag(reader.window.noise_std, 0.3)
        reader.wait(10)
        num_seen = len(reader.neuron())
        panel = reader.window.panels["trained"]
        assert len(panel.dots.get_ydata()) == num_seen < warm_up
        assert len(panel.line.get_ydata()) == 0
        reader.wait(135)
        V = reader.neuron()
        noise = reader.trace("trained")[:warm_up] - V[:warm_up]
        assert noise.std() == pytest.approx(0.3, rel=0.3)
        true = simulate(V[0], reader.window.start[1], alone.DT * np.arange(len(V)))
        np.testing.assert_allclose(V, true[0][:, 0], atol=1e-6)

        first = torch.tensor(reader.trace("trained")[:warm_up])[:, None, None]
        num = len(V) - warm_up
        for name, network in {"trained": trained, "untrained": untrained}.items():
            trace = reader.trace(name)
            np.testing.assert_array_equal(trace[:warm_up], first[:, 0, 0])
            _, readouts = network.forward_by_steps(first.float(), future=num)
            free_run = readouts[warm_up - 1 : -1, 0, 0].detach()
            np.testing.assert_allclose(trace[warm_up:], free_run, atol=1e-5)
        expected = polynomial.generate(first, num)[:, 0, 0]
        trace = reader.trace("polynomial")
        np.testing.assert_allclose(trace[warm_up:], expected, atol=1e-9)
        named = [title.split(":")[0] for title in reader.titles()]
        assert named == ["trained network", "untrained network", "polynomial"]

    assert play_with("gru_autoregression", act) == 0


def test_a_key_takes_a_new_neuron_another_the_same_with_new_noise(play_with):
    def act(reader):
        def first_samples():
            reader.wait(10)
            return reader.neuron()[:10], reader.trace("trained")[:10]

        V, seen = first_samples()
        for again in ("r", "noise"):
            if again == "r":
                reader.press("r")
            else:
                reader.drag(reader.window.noise_std, 0.0)
            V_again, seen_again = first_samples()
            np.testing.assert_array_equal(V_again, V)
            assert not np.array_equal(seen_again, seen)
        np.testing.assert_array_equal(seen_again, V)  # without noise
        reader.press(" ")
        V_new, _ = first_samples()
        reader.click(reader.window.axes[1], -100, 0)
        V_newer, _ = first_samples()
        assert len({V[0], V_new[0], V_newer[0]}) == 3

    play_with("gru_autoregression", act)


# ---- without a window ----


class Reciter:
    """Says what stands in a script, whatever it sees."""

    def __init__(self, V):
        self.rest = iter(V[1:])

    def step(self, V, I):
        return next(self.rest)


@pytest.mark.parametrize(
    ("shift", "hit", "missed", "own"),
    [(0, 2, 0, 0), (7, 2, 0, 0), (-7, 2, 0, 0), (8, 0, 2, 2), (-8, 0, 2, 2)],
)
def test_spikes_count_as_hit_if_they_are_within_six_time_units(shift, hit, missed, own):
    num = 300
    dt = driven.DT
    I = driven.NEURON.I
    V, W = simulate(-1, 0, dt * np.arange(num + 20), I)
    V = V[:, 0]
    said = np.roll(V, shift)
    experiment = play.Experiment((V[0], W[0, 0]), {"other": Reciter(said)}, dt, [0] * 9)
    for _ in range(num - 1):
        experiment.step(I)
    score = experiment.scores["other"]
    assert (score.num_hit, score.num_missed, score.num_own) == (hit, missed, own)
    assert len(score.times_hit) == hit
    assert len(score.times_missed) == missed


def test_a_spike_of_its_own_is_counted_and_said():
    experiment = play.Experiment(
        driven.REST, {"other": Reciter(100 * [-1, 1, -1, -1])}, driven.DT, [0, 0]
    )
    for _ in range(30):
        experiment.step(0.0)
    score = experiment.scores["other"]
    assert (score.num_hit, score.num_missed) == (0, 0)
    # at samples 5, 9, 13, 17, 21; a later one may still be hit
    assert score.num_own == 5
    assert play.verdict(score) == "hit 0 of 0 spikes, and 5 of its own"


def test_only_what_can_be_shown_is_kept():
    experiment = play.Experiment(driven.REST, {"other": Reciter([0] * 999)}, 0.5, [0])
    for _ in range(play.SHOWN + 20):
        experiment.step(0.0)
    kept = [experiment.currents, *experiment.traces.values()]
    assert {len(samples) for samples in kept} == {play.SHOWN}


def test_a_current_beyond_the_picture_is_cut_off():
    stimulus = play.Stimulus(driven.DT, constant=1.8)
    stimulus.pulse(1.5, 1)
    assert stimulus.next() == stimulus.HIGHEST
    stimulus.pulse(-5, 2)
    assert stimulus.next() == stimulus.LOWEST


# ---- how it ends ----


@pytest.mark.parametrize("stem", SCRIPTS)
def test_it_trains_nothing_writes_nothing_and_ends_with_0(
    stem, play_with, monkeypatch, tmp_path
):
    monkeypatch.setattr(driven, "train_model", pytest.fail)
    monkeypatch.setattr(alone, "retrain", pytest.fail)

    def act(reader):
        reader.wait(2)
        reader.press("q")
        assert plt.get_fignums() == []

    assert play_with(stem, act) == 0
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_closes_the_window_and_ends_with_130(play_with):
    def act(reader):
        reader.wait(2)
        signal.raise_signal(signal.SIGINT)
        reader.wait()
        assert plt.get_fignums() == []

    assert play_with("gru_driven_neuron", act) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_screen")
def test_in_a_notebook_the_run_ends_and_the_window_goes_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setattr(Screen, "act", lambda reader: pytest.fail("a loop of its own"))
    assert driven.main(["--play"]) == {"interrupted": False}
    reader = Reader(plt.gcf().window)
    reader.canvas.draw()
    reader.wait(10)
    num_samples = len(reader.current())
    assert num_samples > driven.WARM_UP + 20
    plt.close("all")  # some notebooks tell nobody of it
    reader.wait(10)
    assert len(reader.window.experiment.currents) == num_samples


@pytest.fixture
def shell(capsys, monkeypatch):
    """Run a script in this process, as if by a shell."""

    def run_script(stem, flags):
        script = SCRIPTS[stem]
        monkeypatch.setattr(script.parser, "prog", f"{stem}.py")
        with pytest.raises(SystemExit) as stopped:
            script.main(flags.split())
        output = capsys.readouterr()
        assert stopped.value.code == 2
        assert output.err.startswith(f"{stem}.py: error: ")
        assert output.err.count("\n") == 1
        return output.err

    return run_script


@pytest.mark.parametrize("stem", SCRIPTS)
def test_without_a_window_one_line_says_what_is_missing(stem, shell, monkeypatch):
    monkeypatch.setattr(alone, "NUM_FIT", 16)
    monkeypatch.delenv("MPLBACKEND")
    monkeypatch.setattr(sys, "platform", "linux")
    assert "--play: no display to open a window on" in shell(stem, "--play")


@pytest.mark.parametrize(
    ("variables", "found", "said"),
    [
        ({}, (), "no display to open a window on (over ssh: ssh -X)"),
        ({"DISPLAY": ":0"}, (), "no toolkit to open a window with: install python3-tk"),
        ({"DISPLAY": ":0"}, ("_tkinter",), "no window can be opened on this display"),
        ({"WAYLAND_DISPLAY": "x", "MPLBACKEND": "agg"}, (), "MPLBACKEND=agg opens no"),
        ({"MPLBACKEND": "inline"}, (), "needs ipympl: %pip install ipympl, restart"),
        ({"MPLBACKEND": "inline"}, ("ipympl",), "needs ipympl: %matplotlib widget"),
    ],
)
def test_what_is_missing_is_said(variables, found, said, monkeypatch):
    monkeypatch.delenv("MPLBACKEND")
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(play, "find_spec", lambda name: name in found or None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert said in play.what_is_missing()


def test_a_kernel_is_a_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    assert "%matplotlib widget" in play.what_is_missing()


WRONG = [
    ("gru_driven_neuron", "--play --num_epochs 3", "--num_epochs has no effect with"),
    ("gru_driven_neuron", "--play --out_dir x", "--out_dir has no effect with --play"),
    ("gru_driven_neuron", "--checkpoint x", "--checkpoint has no effect without"),
    ("gru_driven_neuron", "--play --checkpoint none.pth", "none.pth: no such file"),
    ("gru_driven_neuron", f"--play --checkpoint {__file__}", "damaged, or not the"),
    (
        "gru_driven_neuron",
        f"--play --checkpoint {alone.SHIPPED}",
        "expected a network that is told V and the current",
    ),
    ("gru_autoregression", "--play --retrain", "--retrain has no effect with --play"),
    ("gru_autoregression", "--play --num_test 3", "--num_test has no effect with"),
    ("gru_autoregression", "--play --checkpoint none.pth", "none.pth: no such file"),
]


@pytest.mark.parametrize(("stem", "flags", "message"), WRONG)
def test_a_wrong_flag_is_one_line_and_status_2(stem, flags, message, shell):
    assert message in shell(stem, flags)
