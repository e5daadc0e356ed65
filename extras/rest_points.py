"""What networks are where they never go: rest points, kicks, a voltage clamp.

    python extras/rest_points.py
    python extras/rest_points.py outputs/gru_driven_neuron.pth --clamp -0.8

Networks of tasks 2 and 4, the shipped ones if none is named, beside the neuron.
A network that is fed with its own prediction is a map from a state s = (V, H), its next
input and what it remembers, to the next s. Three questions can be put to any such map:

- Where does it rest? A *rest point* is an s that one step does not move. Beside it
  every step multiplies a small deviation by the Jacobian. The eigenvalues of that
  matrix, the *multipliers*, say what becomes of it: above 1 in size it grows, below 1
  it dies out.
- On its cycle, where nothing rests: how fast does a small kick grow or die out? The
  rates are the *Lyapunov exponents*. On a cycle the largest is 0, that of a kick along
  the cycle.
- A *voltage clamp*: held at one V for long, and let go, when does it spike?

Draws outputs/clamp.png: let go at nine voltages, where do they go? The W of a network
is read out of its state, by a line fitted while it is shown neurons.
It takes a minute or two. docs/inside.md says what follows from the figures.
Source of the exponents: Benettin et al. (1980), https://doi.org/10.1007/BF02128237
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from torch.func import jacrev, vmap

from backstage.checkpoints import load_checkpoint
from backstage.pictures import draw_clamps, save_figure
from backstage.plumbing import FlagParser, run, set_up
from datasets import NEURON, FitzhughNagumo, rest_point, simulate
from gru_driven_neuron import DT, SHIPPED, SPIKE_HEIGHT

NETWORKS = {  # file: what it is
    SHIPPED / "autoregressiveGRU.pth": "the shipped generator",
    SHIPPED / "driven_jumps.pth": "trained under jumps",
    SHIPPED / "driven_constant.pth": "trained under constant currents",
}

CLAMPED_AT = -0.5  # the voltage of the clamp, where the neuron is in passing only

parser = FlagParser(__doc__)
parser.add_argument(
    "networks", type=Path, nargs="*", default=list(NETWORKS), help="files of networks"
)
parser.add_argument(
    "--clamp",
    type=float,
    default=CLAMPED_AT,
    help="the voltage at which V is held, and let go",
)
parser.add_argument("--out_dir", type=Path, default="outputs", help="for the picture")

# the search for rest points
NUM_STARTS = 100
HIGHEST = 2.0  # the neuron's voltages lie between this and its negative
HELD = 400  # samples for which a network is shown one voltage, before the search
NUM_NEWTON = 100  # steps of Newton's method
LONGEST_NEWTON = 0.5  # a longer step would leave the region in which it is right
AT_REST = 1e-12  # what moves less than this does not move

# the picture
DRAWN_CLAMPS = np.linspace(-1.6, 1.6, 9)
NUM_FOLLOWED = 100  # samples

# the exponents
NUM_EXPONENTS = 3
SETTLING = 200  # samples until it is on its cycle
NUM_SAMPLES = 1250  # eight periods


def neuron_multipliers(V):
    """What a sample, DT, multiplies small deviations from the rest point V by."""
    jacobian = [[1 - V**2, -1], [NEURON.eps, -NEURON.eps * NEURON.b]]
    multipliers = np.exp(DT * np.linalg.eigvals(jacobian))
    return torch.tensor(multipliers)


def neuron_exponents():
    """The exponents on the limit cycle: 0, and one that follows from the divergence.

    The sum of both is the mean, along the cycle, of the trace of the Jacobian.
    """
    t = DT * np.arange(SETTLING + NUM_SAMPLES)
    V, _ = simulate(0.0, 0.0, t)
    V_on_cycle = V[SETTLING:, 0]
    return torch.tensor([0.0, np.mean(1 - V_on_cycle**2 - NEURON.eps * NEURON.b)])


def close_loop(model):
    """Make of a network a map from s = (V, H), (1 + n,), to the next s.

    If it was trained to be told a current, it is told that of all tasks.
    """

    def step(s):
        X = s[:1]
        if model.num_inputs == 2:
            X = torch.cat([X, torch.full_like(X, NEURON.I)])
        H, V = model.single_step(X[None], s[None, 1:])
        return torch.cat([V[0], H[0]])

    return step


@torch.no_grad()
def held_states(model, voltages):
    """States (N, 1 + n) of a network that was held at each of N voltages for long."""
    columns = [voltages, torch.full_like(voltages, NEURON.I)]
    X = torch.stack(columns[: model.num_inputs], dim=-1)  # (N, num_inputs)
    states, readouts = model(X.expand(HELD, *X.shape))
    return torch.cat([readouts[-1], states[-1]], dim=-1)


def find_rest_points(step, starts, num_newton=NUM_NEWTON):
    """Find rest points of a map by Newton's method, from each of `starts` (N, size).

    Returns those within the neuron's range, each once, by their V. There may be more:
    the method finds what is near its starts.
    """
    s = starts
    identity = torch.eye(s.shape[1], dtype=s.dtype)
    for _ in range(num_newton):
        # step(s + ds) = s + ds, where step(s + ds) is about step(s) + jacobian ds
        jacobians = vmap(jacrev(step))(s)
        moved = vmap(step)(s) - s
        # by least squares: a matrix may be singular
        solved = torch.linalg.lstsq(jacobians - identity, -moved[..., None])
        ds = solved.solution[..., 0]
        length = ds.norm(dim=1, keepdim=True)
        s = s + ds * (LONGEST_NEWTON / length).clamp(max=1.0)
    found = {}
    for point in s:
        at_rest = (step(point) - point).norm() < AT_REST
        if at_rest and abs(point[0]) < HIGHEST:
            V = round(point[0].item(), 3)  # the same point from many starts
            found[V] = point
    return [found[V] for V in sorted(found)]


def multipliers_at(step, point):
    """The eigenvalues of the Jacobian at a rest point, the largest first."""
    multipliers = torch.linalg.eigvals(jacrev(step)(point))
    largest_first = multipliers.abs().argsort(descending=True)
    return multipliers[largest_first]


def lyapunov_exponents(
    step, s, num_exponents=NUM_EXPONENTS, settling=SETTLING, num_samples=NUM_SAMPLES
):
    """The rates, per time unit, at which small kicks to a map grow: the largest first.

    s: where to begin, (size,). The kicks are the columns of Q. At each step they are
    made orthogonal again, or all of them would turn into the one that grows fastest.
    """
    Q = torch.eye(len(s), num_exponents, dtype=s.dtype)
    growth = torch.zeros(num_exponents, dtype=s.dtype)
    for t in range(settling + num_samples):
        Q, R = torch.linalg.qr(jacrev(step)(s) @ Q)
        s = step(s)
        if t >= settling:
            growth += R.diagonal().abs().log()
    return (growth / (num_samples * DT)).sort(descending=True).values


def spike_after_clamp(step, s, num_samples=400):
    """Samples from the end of a voltage clamp to the first spike; nan if there is none.

    s: the first sample after the clamp.
    """
    for sample in range(1, num_samples):
        if s[0] > SPIKE_HEIGHT:
            return sample
        s = step(s)
    return float("nan")


def neuron_spike_after_clamp(clamp):
    """The same for the neuron: held at V = clamp, W rests where V has it rest."""
    W = (clamp + NEURON.a) / NEURON.b
    V, _ = simulate(clamp, W, DT * np.arange(400))
    return int(np.argmax(V[:, 0] > SPIKE_HEIGHT))


def follow_neuron():
    """V and W (2, NUM_FOLLOWED, N) after clamps of a neuron at DRAWN_CLAMPS."""
    W = (DRAWN_CLAMPS + NEURON.a) / NEURON.b
    return np.stack(simulate(DRAWN_CLAMPS, W, DT * np.arange(NUM_FOLLOWED)))


@torch.no_grad()
def follow_network(model):
    """The same of a network, its W read out of the state."""
    step = vmap(close_loop(model))
    read_W = fit_line(model)
    V = torch.tensor(DRAWN_CLAMPS)
    s = held_states(model, V)
    path = []
    for _ in range(NUM_FOLLOWED):
        next_V, H = s[:, 0], s[:, 1:]
        path.append([V.numpy(), read_W.predict(H)])
        V = next_V
        s = step(s)
    return np.stack(path, axis=1)


def fit_line(model):
    """Fit a line from the states of a network that is shown neurons to their W."""
    num_samples = 300
    neurons = FitzhughNagumo(64, num_samples, duration=num_samples * DT, seed=3)
    V = neurons.data_x.double()
    columns = [V, torch.full_like(V, NEURON.I)]
    states, _ = model(torch.cat(columns[: model.num_inputs], dim=-1))
    known = slice(50, None)  # from there on the state knows
    H = states[known].flatten(0, 1)
    return LinearRegression().fit(H, neurons.data_w[known].flatten())


def print_result(label, clamp, rest_points, exponents, spike):
    """clamp: V. rest_points: V -> multipliers. spike: samples after the clamp."""
    print(f"\n{label}")
    for V, multipliers in rest_points.items():
        numbers = ", ".join(as_text(number) for number in multipliers[:3])
        print(f"  rest point at V = {V:.3f}, multipliers {numbers}")
    numbers = ", ".join(f"{exponent:z.3f}" for exponent in exponents)  # z: no -0.000
    print(f"  exponents {numbers}")
    print(f"  clamped at {clamp} and let go: spikes after {spike} samples", flush=True)


def as_text(number):
    """A multiplier with three decimals; most are real."""
    number = complex(number)
    if number.imag == 0:
        return f"{number.real:.3f}"
    return f"{number:.3f}"


def look_inside(model, clamp):
    """Ask a network all three questions; return what print_result takes of them."""
    model = model.double().requires_grad_(False)
    step = close_loop(model)
    starts = held_states(
        model, torch.linspace(-HIGHEST, HIGHEST, NUM_STARTS, dtype=torch.float64)
    )
    found = {}
    for point in find_rest_points(step, starts):
        found[point[0].item()] = multipliers_at(step, point)
    exponents = lyapunov_exponents(step, starts[0])
    (clamped,) = held_states(model, torch.tensor([clamp], dtype=torch.float64))
    return found, exponents, spike_after_clamp(step, clamped)


def main(argv=None):
    args = parser.parse_args(argv)
    set_up(0, "cpu", args.out_dir)
    V, _ = rest_point()
    of_neuron = {V: neuron_multipliers(V)}
    spike = neuron_spike_after_clamp(args.clamp)
    print_result("neuron", args.clamp, of_neuron, neuron_exponents(), spike)
    paths = {"neuron": follow_neuron()}
    for path in args.networks:
        try:
            model = load_checkpoint(path)
        except ValueError as error:
            parser.error(error)
        label = NETWORKS.get(path, str(path))
        print_result(label, args.clamp, *look_inside(model, args.clamp))
        paths[label] = follow_network(model)
    save_figure(args.out_dir / "clamp.png", draw_clamps, paths)
    return {"interrupted": False}


if __name__ == "__main__":
    run(main)
