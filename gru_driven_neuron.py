"""Task 4: a GRU is told its neuron's input current, learns next steps alone, and is then asked what a neuron is asked.

    python gru_driven_neuron.py                         trains under currents that jump
    python gru_driven_neuron.py --currents constant     trains just as long under constant currents

You should see a table of what the neuron and both networks answer (the other network is loaded from checkpoints/).
"""

from argparse import BooleanOptionalAction
from pathlib import Path

import numpy as np
import torch

from datasets import DrivenNeurons, Traces, period, simulate, upward_crossings
from models import GRU, load_checkpoint
from pictures import draw_answers, live_window, plot_free_run, plot_losses, plot_runs
from plumbing import FlagParser, count, follow, positive, run, save_figure, save_gif, set_up, write_metrics

STEM = "gru_driven_neuron"
SHIPPED = Path(__file__).with_name("checkpoints")

parser = FlagParser(__doc__)
flag = parser.add_argument
# data
flag("--currents", type=str, choices=["jumps", "constant"], default="jumps", help="what this network is trained under")
flag("--num_train", type=count, default=1024, help="trajectories to train on")
flag("--num_samples", type=count, default=512, help="samples per trajectory, 0.78 time units apart")
# model
flag("--n_hidden", type=count, default=64, help="hidden units")
# training
flag("--num_epochs", type=count, default=50, help="passes over the training set")
flag("--batch_size", type=count, default=64, help="trajectories per gradient step")
flag("--window", type=count, default=64, help="steps the gradient flows back: truncated BPTT")
flag("--noise_std", type=float, default=0.2, help="largest standard deviation of the noise on V")
flag("--init_lr", type=positive, default=1e-2, help="learning rate of Adam; decays to 0 as a cosine")
flag("--max_grad_norm", type=positive, default=0.1, help="a longer gradient is clipped to this norm")
flag("--seed", type=int, default=0, help="fixes the data, the first weights and the batches")
flag("--device", type=str, choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU with Triton, or the CPU")
# output
flag("--train_visualization", action=BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=Path, default="outputs", help="where pictures, model and metrics go")

DT = 400 / 512  # time units between two samples, as in task 2
REST = -1.1994, -0.6243  # V and W of a neuron at rest, I = 0: every experiment begins here
WARM_UP = 50  # true samples that a network sees before it runs freely


def train_model(model, dataset, valid, args):
    """Train on next steps; after every epoch yield its mean loss, that of `valid` without noise, and a free run."""
    optimizer = torch.optim.Adam(model.parameters(), lr=args.init_lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_epochs)
    I = valid.data_x[:1, :, 1].double().numpy().T
    for _ in range(args.num_epochs):
        loss = train_epoch(model, dataset, optimizer, args)
        schedule.step()
        view_loss = (model.predict(valid.data_x) - valid.data_y).square().mean((1, 2)).sqrt().mean().item()
        trace = network(model)(I)[:-1, 0].clip(-5, 5)  # it may run away
        yield {"stage": args.currents, "loss": loss, "view_loss": view_loss, "trace": trace}


def train_epoch(model, dataset, optimizer, args):
    """One pass over the training set by truncated backpropagation through time; return the mean loss."""
    losses = []
    for indices in torch.randperm(len(dataset)).split(args.batch_size):
        x, y = (data[indices].transpose(0, 1).to(model.device) for data in dataset.tensors)
        # V is noisy, at a level of each trace's own, some hardly at all; the current and the target are not
        level = args.noise_std * 10 ** -(2 * torch.rand(x.shape[1]))
        x[..., 0] += (level * torch.randn(x.shape[:2])).to(x.device)
        H = None
        for x_window, y_window in zip(x.split(args.window), y.split(args.window)):
            states, predictions = model(x_window, H)
            # root mean square of each trace: the noisy ones, of which less can be known, would drown the others
            loss = ((predictions - y_window).square().mean((0, 2)) + 1e-10).sqrt().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            H = states[-1].detach()  # the state is carried on into the next window, the gradient is not
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def neuron(I):
    """The voltages (T, N) of neurons under currents (T, N), each held from one sample to the next."""
    return simulate(*REST, DT * np.arange(len(I)), I)[0]


def network(model):
    """Make of a GRU what can be asked like a neuron: a function of currents (T, N) that returns voltages (T, N)."""

    @torch.no_grad()
    def respond(I):
        V = torch.zeros(*I.shape, 1, device=model.device)
        V[:WARM_UP, :, 0] = torch.tensor(neuron(I[:WARM_UP]))
        current, H = torch.tensor(I).to(V)[..., None], V.new_zeros(I.shape[1], model.num_hiddens)
        for t in range(len(I) - 1):
            H, prediction = model.single_step(torch.cat([V[t], current[t]], dim=-1), H)
            if t + 1 >= WARM_UP:  # before, the voltages are the neuron's
                V[t + 1] = prediction
        return V[..., 0].double().cpu().numpy()

    return respond


LEVELS = np.unique(np.r_[-0.2:1.8:0.05, 0.25:0.4:0.005, 1.4:1.55:0.005].round(3))  # of constant currents
PULSES = np.geomspace(0.03, 4, 200)  # strengths of a pulse
WIDTHS = 2, 5, 15  # samples
PHASES = np.arange(48) / 48


def f_i_curve(respond):
    """The frequency of spikes, per time unit, under each of the constant currents LEVELS; 0 if there are none."""
    spikes = [upward_crossings(trace, DT) for trace in respond(np.tile(LEVELS, (1300, 1)))[500:].T]
    return np.array([1 / np.diff(times).mean() if len(times) > 2 else 0.0 for times in spikes])


def threshold(respond, width, sign=1):
    """The weakest pulse, `width` samples long, that makes a neuron at rest spike; with sign=-1 once it is over."""
    begin = WARM_UP + 30
    I = np.zeros((begin + width + 150, len(PULSES)))
    I[begin : begin + width] = sign * PULSES
    V = respond(I)[begin if sign > 0 else begin + width :]
    spikes = (V > 1).any(0) & (V[-1] < 1)  # up, which no voltage is at rest, and down again
    return PULSES[spikes.argmax()] if spikes.any() else np.nan


def phase_response(respond, strength=0.2, width=4):
    """How far a pulse at each of PHASES advances the rhythm at I = 0.5, in periods; nan without a rhythm."""
    begins = 250 + np.round(PHASES * period() / DT).astype(int)  # phase 0 is sample 250; the upstroke is at 0.47
    I = np.full((begins[-1] + 1000, len(PHASES) + 1), 0.5)  # the last trace is not disturbed
    for k, begin in enumerate(begins):
        I[begin : begin + width, k] += strength
    *spikes, undisturbed = [upward_crossings(trace, DT) for trace in respond(I).T]
    if min(len(times) for times in (*spikes, undisturbed)) < 5:
        return np.full(len(PHASES), np.nan)
    own_period = np.diff(undisturbed)[1:].mean()
    advance = np.array([undisturbed[-1] - times[-1] for times in spikes]) / own_period
    return (advance + 0.5) % 1 - 0.5


def random_currents(num=32, T=WARM_UP + 4096, mean=0.5, std=0.4, time_constant=20.0, seed=0):
    """Currents (T, num) that forget their past within `time_constant`: an Ornstein-Uhlenbeck process."""
    noise, keep = np.random.default_rng(seed).standard_normal((T, num)), np.exp(-DT / time_constant)
    for t in range(1, T):
        noise[t] = keep * noise[t - 1] + np.sqrt(1 - keep**2) * noise[t]
    return mean + std * noise


def coincidence(true, V, window=6.0):
    """The share of spikes of two traces (T, N) that come within `window` time units of each other: 0 none, 1 all."""
    scores = []
    for traces in zip(true[WARM_UP:].T, V[WARM_UP:].T):
        times, own_times = (upward_crossings(trace, DT) for trace in traces)
        near = abs(times[:, None] - own_times) <= window
        scores.append(2 * min(near.any(0).sum(), near.any(1).sum()) / max(1, len(times) + len(own_times)))  # F1
    return np.mean(scores)


def evaluate_model(respond):
    """Do all experiments with a neuron or a network."""
    return {
        "f_i": f_i_curve(respond),
        "threshold": [threshold(respond, width) for width in WIDTHS],
        "rebound": threshold(respond, 100, sign=-1),
        "phase_response": phase_response(respond),
        "random": respond(np.hstack([random_currents(), random_currents(std=0.5, time_constant=1e-9, seed=1)])),
    }


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


def compare(answer, true):
    """Score the answers of evaluate_model by the neuron's own: a dict with the keys of ROWS, nan if there is none."""
    fires = answer["f_i"] > 0
    edges = LEVELS[fires][[0, -1]] if fires.any() else [np.nan, np.nan]
    both = fires & (true["f_i"] > 0)
    period_error = np.median(abs(true["f_i"][both] / answer["f_i"][both] - 1)) if both.any() else np.nan
    own, other = answer["phase_response"], true["phase_response"]
    error = abs((own - other + 0.5) % 1 - 0.5)
    kept = np.arange(len(PHASES)) != error.argmax()  # the response jumps at one phase: a hair decides to which side
    correlation = np.corrcoef(own[kept], other[kept])[0, 1]
    coincidences = [coincidence(*pair) for pair in zip(np.hsplit(true["random"], 2), np.hsplit(answer["random"], 2))]
    scores = *edges, period_error, *answer["threshold"], answer["rebound"], correlation, np.median(error), *coincidences
    return dict(zip(ROWS, map(float, scores)))


def print_table(metrics, names):
    print(f"\n{'':46}" + "".join(f"{name:>15}" for name in names))
    for key, (label, form) in ROWS.items():
        values = [f"{metrics[f'{name}_{key}']:{form}}".replace("nan", "none") for name in names]
        print(f"{label:46}" + "".join(f"{value:>15}" for value in values))


def draw_pictures(out_dir, history, who, answers):
    """Write the losses, what neuron and networks answered, and how they run under one random current."""
    save_figure(out_dir / "driven_losses.png", lambda figure: plot_losses(figure)(history))
    names = {"neuron": "neuron", "jumps": "trained on currents that jump", "constant": "trained on constant currents"}
    poke, I = np.zeros((WARM_UP + 150, 1)), random_currents(1, 700)
    poke[WARM_UP + 30 :][: WIDTHS[1]] = 0.25
    poked, runs = ({name: who[key](current)[WARM_UP:, 0] for key, name in names.items()} for current in (poke, I))
    curves = {name: (answers[key]["f_i"], answers[key]["phase_response"]) for key, name in names.items()}
    save_figure(out_dir / "driven.png", draw_answers, LEVELS, PHASES, poke[WARM_UP:, 0], curves, poked, DT)
    save_gif(out_dir / "driven.gif", range(10, 651, 10), plot_runs, runs, DT, 0, I[WARM_UP:, 0], fps=10)


def main(argv=None):
    args = parser.parse_args(argv)
    set_up(args)
    train_set = DrivenNeurons(args.num_train, args.num_samples, args.currents, args.num_samples * DT, 4 * args.seed)
    model, untrained = (GRU(2, args.n_hidden, 1, residual=True).to(args.device) for _ in range(2))
    untrained.fit_readout(train_set.data_x, train_set.data_y, skip=10)
    valid = DrivenNeurons(32, 200, args.currents, 200 * DT, 4 * args.seed + 1)
    training = train_model(model, train_set, valid, args)  # a generator: nothing has run yet
    view = Traces(neuron(valid.data_x[:1, :, 1].double().numpy().T), DT)
    live = live_window(plot_free_run, view) if args.train_visualization else None
    path, info = args.out_dir / f"{STEM}.pth", {"task": "driven neuron", "currents": args.currents, "dt": DT}
    history, interrupted = follow(training, args.num_epochs, model, path, live, **info)

    shipped = {name: load_checkpoint(SHIPPED / f"driven_{name}.pth", args.device) for name in ("jumps", "constant")}
    models = shipped | {args.currents: model, "untrained": untrained}
    who = {"neuron": neuron} | {name: network(model) for name, model in models.items()}
    who["off by 0.01"] = lambda I: neuron(I + 0.01)
    print("asking all of them, in half a minute or so")
    answers = {name: evaluate_model(respond) for name, respond in who.items()}
    metrics = {"train_seconds": history[-1]["seconds"], "interrupted": interrupted}
    for name, answer in answers.items():
        metrics |= {f"{name}_{key}": value for key, value in compare(answer, answers["neuron"]).items()}
    print_table(metrics, who)
    if args.train_visualization:
        draw_pictures(args.out_dir, history, who, answers)
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
