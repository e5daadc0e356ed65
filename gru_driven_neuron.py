"""Task 4: a GRU is told its neuron's input current, and then asked like a neuron.

    python gru_driven_neuron.py                       trains under currents that jump
    python gru_driven_neuron.py --currents constant   just as long, under constant ones
    python gru_driven_neuron.py --play                opens a window: poke both yourself

It learns next voltages alone. You should see a table of what the neuron and both
networks answer (the other network is loaded from checkpoints/).
"""

from argparse import BooleanOptionalAction
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from backstage.checkpoints import load_checkpoint
from backstage.optimiser import OPTIMIZERS, make_optimizer
from backstage.pictures import (
    Answers,
    draw_answers,
    draw_losses,
    live_window,
    plot_free_run,
    plot_runs,
    save_figure,
    save_gif,
)
from backstage.play import NoWindowError, PokeWindow, refuse_other_flags
from backstage.plumbing import (
    FlagParser,
    count,
    not_negative,
    positive,
    run,
    seed,
    set_up,
    units,
    write_metrics,
)
from backstage.training import Training, distance, fit_readout, gradient_step
from cells import CELLS
from datasets import (
    NEURON,
    DrivenNeurons,
    Traces,
    period,
    rest_point,
    simulate,
    upward_crossings,
)

STEM = "gru_driven_neuron"
SHIPPED = Path(__file__).with_name("checkpoints")

parser = FlagParser(__doc__)
flag = parser.add_argument
# without training
flag("--play", action="store_true", help="train nothing: poke the shipped networks")
flag("--checkpoint", type=Path, help="to play with, in the place of that of the jumps")
# data
flag(
    "--currents",
    type=str,
    choices=["jumps", "constant"],
    default="jumps",
    help="what this network is trained under",
)
flag("--num_train", type=count, default=1024, help="trajectories to train on")
flag("--num_samples", type=count, default=512, help="samples each, 0.78 apart in time")
flag("--noise_std", type=not_negative, default=0.2, help="largest, of the noise on V")
# model
flag("--cell", type=str, choices=CELLS, default="gru", help="the network's step")
flag("--n_hidden", type=units, default=64, help="hidden units")
flag("--untrained", type=units, help="units of the untrained network beside it")
# training
flag("--num_epochs", type=count, default=50, help="passes over the training set")
flag("--batch_size", type=count, default=64, help="trajectories per gradient step")
flag("--window", type=count, default=64, help="steps back: truncated BPTT")
flag("--optimizer", type=str, choices=OPTIMIZERS, default="muon", help="or adam")
flag("--init_lr", type=positive, default=1e-2, help="learning rate; falls to 0")
flag("--max_grad_norm", type=positive, default=0.1, help="longer gradients are clipped")
flag("--seed", type=seed, default=0, help="fixes data, first weights and batches")
flag(
    "--device",
    type=str,
    choices=["auto", "cpu", "cuda"],
    default="auto",
    help="auto: a GPU with Triton, or the CPU",
)
# output
flag(
    "--train_visualization",
    action=BooleanOptionalAction,
    default=True,
    help="draw the pictures",
)
flag("--out_dir", type=Path, default="outputs", help="for pictures, model and metrics")

DT = 400 / 512  # time units between two samples, as in task 2
REST = rest_point(I=0)  # V and W of a neuron at rest: experiments begin here
WARM_UP = 50  # true samples that a network sees before it runs freely
SKIP = 10  # first samples to which an untrained network's readout is not fitted
PULSE_BEGIN = WARM_UP + 30  # the sample at which a neuron at rest is poked
SPIKE_HEIGHT = 1.0  # no voltage at rest under I = 0 is as high

# ---- training ----


def train_model(model, train_set, valid_set, args):
    """Train on next steps; return the Training.

    view_loss is that of valid_set, without noise; what is shown is a free run.
    """
    window = None
    I = valid_set.data_x[:, :1, 1].double().numpy()  # of the first neuron, (T, 1)
    if args.train_visualization:
        window = live_window(plot_free_run, Traces(neuron(I), DT))
    training = Training(
        model,
        args.num_epochs,
        args.out_dir / f"{STEM}.pth",
        best_by="loss",
        loss_limit=100.0,  # voltages are of the order 1
        window=window,
        info={"task": "driven neuron", "currents": args.currents, "dt": DT},
    )
    optimizer = make_optimizer(args.optimizer, model, args.init_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_epochs)
    for _ in training:
        loss = train_epoch(
            model,
            train_set,
            optimizer,
            batch_size=args.batch_size,
            window=args.window,
            noise_std=args.noise_std,
            max_grad_norm=args.max_grad_norm,
        )
        schedule.step()
        predicted = model.predict(valid_set.data_x)
        respond = network(model)
        trace = respond(I)[:-1, 0]  # drawn with the samples that Traces has as inputs
        training.report(
            stage=args.currents,
            loss=loss,
            view_loss=distance(predicted, valid_set.data_y).item(),
            trace=trace.clip(-5, 5),  # it may run away
        )
    training.finish()
    return training


def train_epoch(
    model, dataset, optimizer, *, batch_size, window, noise_std, max_grad_norm
):
    """One pass by truncated backpropagation through time; return the mean loss."""
    losses = []
    order = torch.randperm(len(dataset))
    for batch in order.split(batch_size):
        x = add_noise(dataset.data_x[:, batch], noise_std).to(model.device)
        y = dataset.data_y[:, batch].to(model.device)
        H = None  # a trace begins
        for x_window, y_window in zip(x.split(window), y.split(window)):
            states, predictions = model(x_window, H)
            loss = distance(predictions, y_window)
            gradient_step(loss, optimizer, max_grad_norm)
            losses.append(loss.detach())
            # the state is carried on into the next window, the gradient is not
            H = states[-1].detach()
    return torch.stack(losses).mean().item()


def add_noise(x, largest):
    """Add noise to the V of traces x (T, B, 1 or 2); a current is known exactly.

    Each trace has a level of its own, from a hundredth of `largest` to all of it.
    """
    T, B, _ = x.shape
    level = largest * 10 ** -(2 * torch.rand(B))
    noisy = x.clone()
    noisy[..., 0] += level * torch.randn(T, B)
    return noisy


# ---- who is asked: functions of currents (T, N) that return voltages (T, N) ----


def neuron(I):
    """The voltages of neurons at rest under currents I, each held for a sample."""
    V, _ = simulate(*REST, DT * np.arange(len(I)), I)
    return V


def neuron_off_by_a_hundredth(I):
    """The true equations, with a current that is known to 0.01: a yardstick."""
    return neuron(I + 0.01)


def network(model):
    """Make of a network what can be asked like a neuron.

    It sees WARM_UP of the neuron's voltages, and from there on its own predictions.
    """

    @torch.no_grad()
    def respond(I):
        T, N = I.shape
        V = torch.zeros(T, N, 1, device=model.device)
        V[:WARM_UP, :, 0] = torch.tensor(neuron(I[:WARM_UP]))
        current = torch.tensor(I).to(V)[..., None]
        H = V.new_zeros(N, model.num_hiddens)
        for t in range(T - 1):
            X = torch.cat([V[t], current[t]], dim=-1)
            H, prediction = model.single_step(X, H)
            if t + 1 >= WARM_UP:
                V[t + 1] = prediction
        return V[..., 0].double().cpu().numpy()

    return respond


class Polynomial:
    """Predicts from two samples of V and of I, by a polynomial fitted to traces."""

    DEGREE = 5
    FARTHEST = 5.0  # it may run away: V is held within this

    def __init__(self, dataset, num_traces=200):
        """Fit it by least squares to the first traces of a DrivenNeurons."""
        x = dataset.data_x[:, :num_traces].double().numpy()  # (T, N, 2)
        pairs = np.concatenate([x[:-1], x[1:]], axis=-1)  # this sample and the next
        targets = dataset.data_y[1:, :num_traces].double().numpy()
        products = PolynomialFeatures(self.DEGREE)
        self.regression = make_pipeline(products, LinearRegression())
        self.regression.fit(pairs.reshape(-1, 4), targets.ravel())

    def respond(self, I):
        """Go on alone after WARM_UP of the neuron's voltages, under currents (T, N)."""
        V = np.zeros(I.shape)
        V[:WARM_UP] = neuron(I[:WARM_UP])
        for t in range(WARM_UP - 1, len(I) - 1):
            pairs = np.stack([V[t - 1], I[t - 1], V[t], I[t]], axis=-1)
            following = self.regression.predict(pairs)
            V[t + 1] = following.clip(-self.FARTHEST, self.FARTHEST)
        return V


# ---- experiments ----

LEVELS = np.r_[-0.2:1.8:0.05, 0.25:0.4:0.005, 1.4:1.55:0.005]  # constant currents
LEVELS = np.unique(LEVELS.round(3))
PULSES = np.geomspace(0.03, 4, 200)  # strengths of a pulse
WIDTHS = 2, 5, 15  # of a pulse, in samples
PHASES = np.arange(48) / 48


def f_i_curve(respond):
    """Spikes per time unit under each of LEVELS; 0 if there are fewer than three."""
    settling = 500  # samples
    V = respond(np.tile(LEVELS, (settling + 800, 1)))[settling:]
    frequencies = []
    for trace in V.T:
        times = upward_crossings(trace, DT)
        if len(times) > 2:
            frequencies.append(1 / np.diff(times).mean())
        else:
            frequencies.append(0.0)
    return np.array(frequencies)


def threshold(respond, width):
    """The weakest pulse, `width` samples long, that makes a neuron at rest spike."""
    return weakest_pulse(respond, width, sign=1, spike_from=PULSE_BEGIN)


def rebound(respond, width=100):
    """The weakest inhibition after whose end a neuron at rest spikes."""
    return weakest_pulse(respond, width, sign=-1, spike_from=PULSE_BEGIN + width)


def weakest_pulse(respond, width, sign, spike_from):
    """The weakest of PULSES after which there is a spike.

    nan if there is none, or if there is one without a pulse, too.
    """
    end = PULSE_BEGIN + width
    strengths = np.append(PULSES, 0.0)
    I = np.zeros((end + 150, len(strengths)))
    I[PULSE_BEGIN:end] = sign * strengths
    V = respond(I)[spike_from:]
    up = (V > SPIKE_HEIGHT).any(axis=0)
    down_again = V[-1] < SPIKE_HEIGHT  # what stays up has not spiked
    *spikes, _ = up & down_again
    if up[-1] or not any(spikes):  # up without a pulse, or never
        return np.nan
    return PULSES[np.argmax(spikes)]  # the first one that does it


def phase_response(respond, strength=0.2, width=4):
    """How far a pulse at each of PHASES advances the rhythm, in periods.

    nan without a rhythm. Phase 0 is sample 250; the upstroke is at 0.47.
    """
    begins = 250 + np.round(PHASES * period() / DT).astype(int)
    I = np.full((begins[-1] + 1000, len(PHASES) + 1), NEURON.I)
    for k, begin in enumerate(begins):
        I[begin : begin + width, k] += strength
    # the last trace is not disturbed
    *spikes, undisturbed = [upward_crossings(trace, DT) for trace in respond(I).T]
    if min(len(times) for times in (*spikes, undisturbed)) < 5:
        return np.full(len(PHASES), np.nan)
    own_period = np.diff(undisturbed)[1:].mean()
    advance = np.array([undisturbed[-1] - times[-1] for times in spikes])
    return wrap_phase(advance / own_period)


def wrap_phase(phase):
    """Take whole periods off a phase: from -1/2 to 1/2."""
    return (phase + 0.5) % 1 - 0.5


def random_currents(
    num=32, T=WARM_UP + 4096, mean=NEURON.I, std=0.4, time_constant=20.0, seed=0
):
    """Currents (T, num) that forget their past within `time_constant`.

    An Ornstein-Uhlenbeck process.
    """
    I = np.random.default_rng(seed).standard_normal((T, num))
    keep = np.exp(-DT / time_constant)
    for t in range(1, T):
        I[t] = keep * I[t - 1] + np.sqrt(1 - keep**2) * I[t]
    return mean + std * I


def white_noise():
    """Currents that are new at every sample."""
    return random_currents(std=0.5, time_constant=1e-9, seed=1)


def coincidence(true, V, tolerance=6.0):
    """The share of spikes of V (T, N) and `true` that come at the same time.

    Within `tolerance` time units; 0: none, 1: all. The mean over traces of an F1 score.
    """
    scores = []
    for true_trace, trace in zip(true[WARM_UP:].T, V[WARM_UP:].T):
        true_times = upward_crossings(true_trace, DT)
        times = upward_crossings(trace, DT)
        near = abs(true_times[:, None] - times) <= tolerance
        # of either trace those that have one near; the fewer, as one may be near to two
        hits = min(near.any(axis=0).sum(), near.any(axis=1).sum())
        scores.append(2 * hits / max(1, len(true_times) + len(times)))
    return np.mean(scores)


def ask(respond):
    """Do all experiments with a neuron or a network: what it answered, by name."""
    random = random_currents()
    V = respond(np.hstack([random, white_noise()]))  # both at once, which is faster
    return {
        "f_i": f_i_curve(respond),
        "threshold": [threshold(respond, width) for width in WIDTHS],
        "rebound": rebound(respond),
        "phase_response": phase_response(respond),
        "random_current": V[:, : random.shape[1]],
        "white_noise": V[:, random.shape[1] :],
    }


def compare(answer, true):
    """Score an answer against the neuron's own: the metrics of ROWS.

    nan if there is nothing to be scored.
    """
    scores = compare_f_i(answer["f_i"], true["f_i"])
    for width, strength in zip(WIDTHS, answer["threshold"]):
        scores[f"threshold_{width}"] = float(strength)
    scores["rebound"] = float(answer["rebound"])
    scores |= compare_phase_response(answer["phase_response"], true["phase_response"])
    for current in ("random_current", "white_noise"):
        scores[current] = float(coincidence(true[current], answer[current]))
    return scores


def compare_f_i(frequency, true):
    fires = frequency > 0
    scores = dict.fromkeys(("fires_from", "fires_to", "period_error"), np.nan)
    if fires.any():
        scores["fires_from"] = float(LEVELS[fires][0])
        scores["fires_to"] = float(LEVELS[fires][-1])
    both = fires & (true > 0)
    if both.any():
        periods = 1 / frequency[both]
        true_periods = 1 / true[both]
        errors = abs(periods / true_periods - 1)
        scores["period_error"] = float(np.median(errors))
    return scores


def compare_phase_response(advance, true):
    error = abs(wrap_phase(advance - true))
    # the largest error is left out: at one phase the response jumps, and a hair decides
    # to which side
    kept = np.arange(len(error)) != error.argmax()
    correlation = np.corrcoef(advance[kept], true[kept])[0, 1]
    return {
        "phase_response_correlation": float(correlation),
        "phase_response_error": float(np.median(error)),
    }


# ---- the script ----

# the rows of the table: metric -> what a reader sees, format
ROWS = {
    "fires_from": ("fires from I =", ".3f"),
    "fires_to": ("         to I =", ".3f"),
    "period_error": ("period, median relative error", ".1e"),
    "threshold_2": ("weakest pulse that makes it spike, 2 samples", ".2f"),
    "threshold_5": ("                                   5 samples", ".2f"),
    "threshold_15": ("                                  15 samples", ".2f"),
    "rebound": ("weakest inhibition after which it spikes", ".2f"),
    "phase_response_correlation": ("response to a pulse by phase, correlation", ".4f"),
    "phase_response_error": ("                              median error", ".1e"),
    "random_current": ("spikes that coincide, random current", ".3f"),
    "white_noise": ("                      white noise", ".3f"),
}

# how a column calls whom it is about; others by their name
LABELS = {"neuron_off": "off by 0.01"}

# in the pictures
DRAWN = {
    "neuron": "neuron",
    "jumps": "trained on currents that jump",
    "constant": "trained on constant currents",
}


def print_table(metrics, asked):
    titles = [f"{LABELS.get(who, who):>13}" for who in asked]
    print(f"\n{'':46}" + "".join(titles))
    for row, (label, form) in ROWS.items():
        values = [metrics[f"{who}_{row}"] for who in asked]
        cells = [f"{value:{form}}".replace("nan", "none") for value in values]
        print(f"{label:46}" + "".join(f"{cell:>13}" for cell in cells))


def draw_pictures(out_dir, history, asked, answers):
    """Write the losses, what all answered, and how they run under a random current."""
    save_figure(out_dir / "driven_losses.png", draw_losses, history)
    poke = np.zeros((WARM_UP + 150, 1))
    poke[PULSE_BEGIN : PULSE_BEGIN + 5] = 0.25
    shown = Answers(
        dt=DT,
        levels=LEVELS,
        frequency={who: answers[who]["f_i"] for who in DRAWN},
        poke=poke[WARM_UP:, 0],
        poked={who: asked[who](poke)[WARM_UP:, 0] for who in DRAWN},
        phases=PHASES,
        advance={who: answers[who]["phase_response"] for who in DRAWN},
    )
    save_figure(out_dir / "driven.png", draw_answers, shown, DRAWN)
    I = random_currents(1, 700)
    runs = {label: asked[who](I)[WARM_UP:, 0] for who, label in DRAWN.items()}
    frames = range(10, len(I) - WARM_UP + 1, 10)
    save_gif(
        out_dir / "driven.gif", frames, plot_runs, runs, DT, 0, I[WARM_UP:, 0], fps=10
    )


def parse_flags(argv):
    args = parser.parse_args(argv)
    if args.play:
        refuse_other_flags(parser, args, used=("play", "checkpoint"))
    elif args.checkpoint is not None:
        parser.error("--checkpoint has no effect without --play")
    if args.num_samples <= SKIP:
        parser.error(f"--num_samples: expected more than {SKIP}")
    return args


def load_shipped(currents, device):
    """Load the network that was trained under these currents."""
    try:
        return load_checkpoint(SHIPPED / f"driven_{currents}.pth", device)
    except ValueError as error:
        return parser.error(error)


def load_network(path):
    """Load a network that is told V and the current, and predicts the next V."""
    try:
        network = load_checkpoint(path)
    except ValueError as error:
        parser.error(error)
    sizes = (network.num_inputs, network.num_outputs)
    if sizes != (2, 1) or not network.per_timestep_readout:
        parser.error(
            f"checkpoint {path}: expected a network that is told V and the current, "
            "and predicts the next V"
        )
    own_dt = network.info.get("dt", DT)
    if own_dt != DT:
        print(f"note: it was trained at dt = {own_dt}, and is played at {DT:g}")
    return network.float()


def play(args):
    """Open a window in which the reader sends currents in; return how it ended."""
    torch.set_num_threads(1)
    titles = {name: DRAWN[name] for name in ("jumps", "constant")}
    networks = {name: load_shipped(name, "cpu") for name in titles}
    if args.checkpoint is not None:
        networks["jumps"] = load_network(args.checkpoint)
        titles["jumps"] = args.checkpoint.name
    try:
        window = PokeWindow(networks, titles, REST, DT, WARM_UP)
    except NoWindowError as error:
        parser.exit(2, f"{parser.prog}: error: --play: {error}\n")
    return {"interrupted": window.show()}


def make_network(args, num_hiddens):
    return CELLS[args.cell](2, num_hiddens, 1, residual=True).to(args.device)


def main(argv=None):
    args = parse_flags(argv)
    if args.play:
        return play(args)
    args.device = set_up(args.seed, args.device, args.out_dir)
    other = "constant" if args.currents == "jumps" else "jumps"
    shipped = load_shipped(other, args.device)
    # no two offsets or seeds share a trajectory
    train_set = DrivenNeurons(
        args.num_train,
        args.num_samples,
        args.currents,
        duration=args.num_samples * DT,
        seed=4 * args.seed,
    )
    valid_set = DrivenNeurons(
        32, 200, args.currents, duration=200 * DT, seed=4 * args.seed + 1
    )
    model = make_network(args, args.n_hidden)
    untrained = make_network(args, args.untrained or args.n_hidden)
    fit_readout(untrained, train_set.data_x, train_set.data_y, SKIP)
    training = train_model(model, train_set, valid_set, args)

    networks = {args.currents: model, other: shipped, "untrained": untrained}
    asked = {"neuron": neuron}
    for name, trained in networks.items():
        asked[name] = network(trained)
    asked["polynomial"] = Polynomial(train_set).respond
    asked["neuron_off"] = neuron_off_by_a_hundredth
    print("asking all of them, in half a minute or so")
    answers = {who: ask(respond) for who, respond in asked.items()}
    metrics = {}
    for who, answer in answers.items():
        scores = compare(answer, answers["neuron"])
        metrics |= {f"{who}_{row}": score for row, score in scores.items()}
    print_table(metrics, asked)
    if args.train_visualization:
        draw_pictures(args.out_dir, training.history, asked, answers)
    metrics["train_seconds"] = training.history[-1]["seconds"]
    metrics["interrupted"] = training.interrupted
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
