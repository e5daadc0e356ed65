"""A model of the system: two numbers of state where the GRU has 64.

    python extras/latent_ode.py --form free
    python extras/latent_ode.py --form structured

The state is V and a second number w, which nobody shows it. How fast they change under
a current I is learnt; such a model is a *neural ODE*:

    free:          dV/dt = F(V, w, I)     dw/dt = G(V, w, I)
    structured:    dV/dt = F(V) - w + I   dw/dt = c_0 + c_1 V + c_2 w

The second is told most of the neuron's equations. A GRU reads the noisy samples before
a free run, and says with which V and w it begins. The model learns from the traces of
task 4, in three or four minutes. Then it is asked what docs/driven.md and
docs/inside.md ask.
Sources: Chen et al. (2018), https://arxiv.org/abs/1806.07366, neural ODEs;
Rubanova et al. (2019), https://arxiv.org/abs/1907.03907, an RNN finds the first state.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from rest_points import (
    CLAMPED_AT,
    HELD,
    NUM_SAMPLES,
    find_rest_points,
    lyapunov_exponents,
    multipliers_at,
    print_result,
    spike_after_clamp,
)
from sklearn.linear_model import LinearRegression
from torch import nn
from tqdm import trange

from backstage.optimiser import make_optimizer
from backstage.plumbing import (
    FlagParser,
    count,
    not_negative,
    run,
    seed,
    set_up,
    units,
    write_metrics,
)
from backstage.training import distance
from datasets import NEURON, DrivenNeurons, simulate
from gru_driven_neuron import (
    DT,
    REST,
    WARM_UP,
    add_noise,
    ask,
    compare,
    compare_f_i,
    f_i_curve,
    neuron,
    print_table,
    random_currents,
)
from models import GRU

STEM = "latent_ode"
SUBSTEPS = 2  # Runge-Kutta steps per sample
SLOW = 0.1  # w is about so much slower than V: a first guess, also in its learning
INIT_LR = 1e-2
MAX_GRAD_NORM = 0.1
FIRST_HORIZON = 10  # free samples at the beginning of training
HORIZON = 100  # and at its end

parser = FlagParser(__doc__)
flag = parser.add_argument
flag("--form", type=str, choices=["free", "structured"], default="free", help="see top")
flag("--n_hidden", type=units, default=32, help="hidden units of F and G")
flag("--noise_std", type=not_negative, default=0.2, help="largest, of the noise on V")
flag("--num_updates", type=count, default=4500, help="gradient steps")
flag("--batch_size", type=count, default=128, help="free runs per gradient step")
flag("--seed", type=seed, default=0, help="fixes data, first weights and batches")
flag("--out_dir", type=Path, default="outputs", help="for the metrics")

# ---- the model: a state s is (B, 2), V and w; a current I is (B, 1) ----


class FreeField(nn.Module):
    """dV/dt and dw/dt as one small network of V, w and I."""

    def __init__(self, num_hiddens):
        super().__init__()
        self.hidden = nn.Linear(3, num_hiddens)
        self.rates = nn.Linear(num_hiddens, 2)
        self.speeds = torch.tensor([1.0, SLOW])

    def forward(self, s, I):
        seen = torch.cat([s, I], dim=-1)
        return self.rates(torch.tanh(self.hidden(seen))) * self.speeds


class StructuredField(nn.Module):
    """dV/dt = F(V) - w + I, where F is a small network; dw/dt is linear."""

    def __init__(self, num_hiddens):
        super().__init__()
        self.F = nn.Sequential(
            nn.Linear(1, num_hiddens), nn.Tanh(), nn.Linear(num_hiddens, 1)
        )
        self.G = nn.Linear(2, 1)
        nn.init.zeros_(self.G.weight)
        nn.init.zeros_(self.G.bias)

    def forward(self, s, I):
        V, w = s.split(1, dim=-1)
        dV = self.F(V) - w + I
        dw = SLOW * self.G(s)
        return torch.cat([dV, dw], dim=-1)


class LatentODE(nn.Module):
    """How fast V and w change (the field), and where they begin (the encoder)."""

    def __init__(self, form, num_hiddens):
        super().__init__()
        Field = FreeField if form == "free" else StructuredField
        self.field = Field(num_hiddens)
        self.encoder = GRU(num_inputs=2, num_hiddens=32, num_outputs=2)

    def encode(self, x):
        """Estimate V and w at the last of samples x (T, B, 2), V and I: s, (B, 2)."""
        _, estimates = self.encoder(x)
        correction, w = estimates[-1].split(1, dim=-1)
        V = x[-1, :, :1] + correction
        return torch.cat([V, w], dim=-1)

    def step(self, s, I, dt=DT):
        """The state a time dt later, I held: the classical Runge-Kutta method."""
        h = dt / SUBSTEPS
        for _ in range(SUBSTEPS):
            k1 = self.field(s, I)
            k2 = self.field(s + h / 2 * k1, I)
            k3 = self.field(s + h / 2 * k2, I)
            k4 = self.field(s + h * k3, I)
            s = s + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return s

    def run(self, s, currents, dt=DT):
        """States (T + 1, B, 2) from s on, each of currents (T, B, 1) held for dt."""
        states = [s]
        for I in currents:
            s = self.step(s, I, dt)
            states.append(s)
        return torch.stack(states)


# ---- training ----


def train_model(model, x, args):
    """Train on free runs from random places of traces x (T, N, 2), V and I.

    They grow longer: from a wrong field nothing is to be learnt about times far off.
    Returns the loss at each update.
    """
    optimizers = [
        torch.optim.Adam(model.field.parameters(), lr=INIT_LR, fused=True),
        make_optimizer("muon", model.encoder, INIT_LR),
    ]
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_updates)
        for optimizer in optimizers
    ]
    T, N, _ = x.shape
    losses = []
    bar = trange(args.num_updates, disable=None)  # None: not in a pipe
    for update in bar:
        growth = (update / args.num_updates) ** 2  # slow at first
        horizon = round(FIRST_HORIZON * (HORIZON / FIRST_HORIZON) ** growth)
        trace = torch.randint(N, (args.batch_size,))
        begin = torch.randint(T - WARM_UP - horizon, (args.batch_size,))
        times = begin + torch.arange(WARM_UP + horizon)[:, None]
        pieces = x[times, trace]  # (WARM_UP + horizon, batch_size, 2)
        # the last sample of the warm-up is the first of the free run
        V = pieces[WARM_UP - 1 :, :, :1]
        I = pieces[WARM_UP - 1 : -1, :, 1:]
        s = model.encode(add_noise(pieces[:WARM_UP], args.noise_std))
        loss = distance(model.run(s, I)[..., :1], V)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        for optimizer, schedule in zip(optimizers, schedules):
            optimizer.step()
            schedule.step()
        losses.append(loss.item())
        bar.set_postfix(horizon=horizon, loss=f"{losses[-1]:.3f}", refresh=False)
    return losses


# ---- what is asked ----


@torch.no_grad()
def answer(model, I, steps_per_sample=1):
    """Go on alone after WARM_UP of the neuron's voltages, under currents I (T, N).

    Returns V and w after the warm-up, (T - WARM_UP, N).
    """
    V = neuron(I[:WARM_UP])
    warm_up = torch.tensor(np.stack([V, I[:WARM_UP]], axis=-1), dtype=torch.float32)
    currents = torch.tensor(I[WARM_UP - 1 : -1, :, None], dtype=torch.float32)
    currents = currents.repeat_interleave(steps_per_sample, dim=0)
    states = model.run(model.encode(warm_up), currents, DT / steps_per_sample)
    V, w = (
        states[steps_per_sample::steps_per_sample].double().numpy().transpose(2, 0, 1)
    )
    return V, w


def network(model, steps_per_sample=1):
    """Make of a model what can be asked like a neuron."""

    def respond(I):
        V, _ = answer(model, I, steps_per_sample)
        return np.concatenate([neuron(I[:WARM_UP]), V])

    return respond


def r2_from_w(model):
    """R² of a line from w to the neuron's W, under the random current."""
    I = random_currents()
    _, W = simulate(*REST, DT * np.arange(len(I)), I)
    _, w = answer(model, I)
    w = w.reshape(-1, 1)
    W = W[WARM_UP:].ravel()
    return LinearRegression().fit(w, W).score(w, W)


def look_inside(model, num_samples=NUM_SAMPLES):
    """What extras/rest_points.py asks, at the current of all tasks.

    Returns its rest points, V -> multipliers; its exponents; and the samples from a
    voltage clamp to the first spike.
    """
    model.double().requires_grad_(False)
    I = torch.full((1, 1), NEURON.I, dtype=torch.float64)

    def step(s):
        return model.step(s[None], I)[0]

    s = torch.zeros(2, dtype=torch.float64)
    cycle = model.run(s[None], I.expand(2000, 1, 1))[1000:, 0]
    exponents = lyapunov_exponents(
        step, cycle[-1], num_exponents=2, settling=50, num_samples=num_samples
    )
    # the search begins all over the rectangle of the cycle
    low = cycle.amin(dim=0)
    high = cycle.amax(dim=0)
    shares = torch.linspace(0, 1, 12, dtype=torch.float64)
    starts = low + torch.cartesian_prod(shares, shares) * (high - low)
    rest_points = {}
    for point in find_rest_points(step, starts):
        rest_points[point[0].item()] = multipliers_at(step, point)
    for _ in range(8 * HELD):  # a voltage clamp: back to one V eight times a sample
        s[0] = CLAMPED_AT
        (s,) = model.step(s[None], I, DT / 8)
    spike = spike_after_clamp(step, s)
    model.float()
    return rest_points, exponents, spike


def main(argv=None):
    args = parser.parse_args(argv)
    set_up(args.seed, "cpu", args.out_dir)
    # those of task 4
    num_samples = 512
    train_set = DrivenNeurons(
        1024, num_samples, "jumps", duration=num_samples * DT, seed=4 * args.seed
    )
    model = LatentODE(args.form, args.n_hidden)
    train_model(model, train_set.data_x, args)

    true = ask(neuron)
    metrics = {
        f"ode_{row}": score for row, score in compare(ask(network(model)), true).items()
    }
    print_table(metrics, ["ode"])
    halved = compare_f_i(f_i_curve(network(model, steps_per_sample=2)), true["f_i"])
    metrics["half_step_period_error"] = halved["period_error"]
    metrics["r2_of_W_from_w"] = r2_from_w(model)
    print(
        f"\nat half the time step the period is off by {halved['period_error']:.1e}; "
        f"R² of W, from w alone: {metrics['r2_of_W_from_w']:.4f}"
    )
    rest_points, exponents, spike = look_inside(model)
    label = f"the neural ODE ({args.form})"
    print_result(label, CLAMPED_AT, rest_points, exponents, spike)
    metrics["interrupted"] = False
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
