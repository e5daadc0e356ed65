"""At rest, how much does the next V change with the current, now and earlier?

    python extras/gains.py
    python extras/gains.py checkpoints/driven_jumps.pth outputs/gru_driven_neuron.pth

Networks of task 4, the shipped ones if none is named. Draws outputs/gains.png: the
derivative of the next V with respect to the current of this sample, of the one before,
and so on; and what follows when the current steps from 0 to 0.5. It prints both, and
the derivative with respect to V: how far a network believes the V that it is shown.
docs/driven.md says what follows.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from backstage.checkpoints import load_checkpoint
from backstage.pictures import draw_gains, save_figure
from backstage.plumbing import FlagParser, run, set_up
from datasets import NEURON, simulate
from gru_driven_neuron import DT, REST, SHIPPED, SPIKE_HEIGHT, network, neuron

NUM_LAGS = 10
SETTLING = 150  # samples at rest, before
STEP_AT = 100  # the sample at which the current steps to that of all tasks
LABELS = {
    "driven_jumps": "trained under jumps",
    "driven_constant": "trained under constant currents",
}

parser = FlagParser(__doc__)
parser.add_argument(
    "networks",
    type=Path,
    nargs="*",
    default=[SHIPPED / f"{name}.pth" for name in LABELS],
    help="files of trained networks",
)
parser.add_argument("--out_dir", type=Path, default="outputs", help="for the picture")


def neuron_gains(change=1e-5):
    """Derivatives of V by earlier currents, of a neuron at rest: (NUM_LAGS,).

    A current of one sample pushes V; the push is still there some samples later.
    """
    V_rest, W_rest = REST
    I = np.zeros((NUM_LAGS + 1, 2))
    I[0, 1] = change
    V, _ = simulate(V_rest, W_rest, DT * np.arange(NUM_LAGS + 1), I)
    return (V[1:, 1] - V[1:, 0]) / change


def gains(model):
    """Derivatives of a network's next V, after SETTLING samples at rest.

    Returns those with respect to V and to I, (NUM_LAGS,) each: of the last sample, of
    the one before, and so on.
    """
    V_rest, _ = REST
    x = torch.zeros(SETTLING, 1, 2)
    x[..., 0] = V_rest
    x.requires_grad_()
    _, predictions = model.forward_by_steps(x)
    (slopes,) = torch.autograd.grad(predictions[-1].sum(), x)
    last_first = slopes[:, 0].flip(0)[:NUM_LAGS]
    return last_first.t().numpy()


def step_of_current():
    I = np.zeros((STEP_AT + 100, 1))
    I[STEP_AT:] = NEURON.I
    return I


def latency(V):
    """Samples from the step of the current to the first spike; none: nan."""
    high = np.flatnonzero(V[STEP_AT:] > SPIKE_HEIGHT)
    return float(high[0]) if len(high) > 0 else np.nan


def main(argv=None):
    args = parser.parse_args(argv)
    set_up(0, "cpu", args.out_dir)
    by_lag = {"the neuron, left alone": neuron_gains()}
    I = step_of_current()
    answers = {"the neuron, left alone": neuron(I)[:, 0]}
    for path in args.networks:
        try:
            model = load_checkpoint(path)
        except ValueError as error:
            parser.error(error)
        label = LABELS.get(path.stem, str(path))
        of_V, by_lag[label] = gains(model)
        answers[label] = network(model)(I)[:, 0]
        numbers = ", ".join(f"{gain:.3f}" for gain in of_V[:3])
        print(f"{label}: by V of this sample, one before, two before {numbers}")
    for label, of_I in by_lag.items():
        numbers = ", ".join(f"{gain:.3f}" for gain in of_I[:3])
        spike = latency(answers[label])
        print(f"{label}: by I {numbers}; spikes {spike:.0f} samples after the step")
    after = slice(STEP_AT - 10, None)
    answers = {label: V[after] for label, V in answers.items()}
    path = args.out_dir / "gains.png"
    save_figure(path, draw_gains, by_lag, answers, DT, I[after, 0])
    return {"interrupted": False}


if __name__ == "__main__":
    run(main)
