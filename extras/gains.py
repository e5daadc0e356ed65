"""At rest, how much does the next V change with the current, now and earlier?

    python extras/gains.py
    python extras/gains.py checkpoints/driven_jumps.pth outputs/gru_driven_neuron.pth

Networks of task 4, the shipped ones if none is named. Draws outputs/gains.png: the
derivative of the next V with respect to the current of this sample, of the one before,
and so on; and what follows when the current steps from 0 to 0.5. It prints both; from
which step on each goes on firing; and the derivative with respect to V: how far a
network believes the V that it is shown. docs/driven.md says what follows.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from backstage.checkpoints import load_checkpoint
from backstage.pictures import draw_gains, save_figure
from backstage.plumbing import FlagParser, run, set_up
from datasets import NEURON, simulate, upward_crossings
from gru_driven_neuron import DT, REST, SHIPPED, SPIKE_HEIGHT, network, neuron

NUM_LAGS = 10
SETTLING = 150  # samples at rest, before
STEP_AT = 100  # the sample at which the current steps up from 0
LEVELS = np.arange(0.2, 0.5, 0.01)  # to which it steps, to find where firing begins
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


def step_of_current(levels, num_samples):
    """Currents (T, N) that step from 0 to each of N levels, num_samples before the end.

    By then a network is on its own, and knows its neuron at rest.
    """
    I = np.zeros((STEP_AT + num_samples, len(levels)))
    I[STEP_AT:] = levels
    return I


def latency(V):
    """Samples from the step of the current to the first spike; none: nan."""
    high = np.flatnonzero(V[STEP_AT:] > SPIKE_HEIGHT)
    return float(high[0]) if len(high) > 0 else np.nan


def fires_from(respond):
    """The least of LEVELS to which a step of the current makes it fire and go on.

    nan if there is none.
    """
    settling = 500  # samples: one spike or two are not going on
    V = respond(step_of_current(LEVELS, settling + 800))[STEP_AT + settling :]
    for level, trace in zip(LEVELS, V.T):
        if len(upward_crossings(trace, DT)) > 2:
            return level
    return np.nan


def main(argv=None):
    args = parser.parse_args(argv)
    set_up(0, "cpu", args.out_dir)
    by_lag = {"the neuron, left alone": neuron_gains()}
    asked = {"the neuron, left alone": neuron}
    for path in args.networks:
        try:
            model = load_checkpoint(path)
        except ValueError as error:
            parser.error(error)
        label = LABELS.get(path.stem, str(path))
        of_V, by_lag[label] = gains(model)
        asked[label] = network(model)
        numbers = ", ".join(f"{gain:.3f}" for gain in of_V[:3])
        print(f"{label}: by V of this sample, one before, two before {numbers}")
    I = step_of_current([NEURON.I], 100)
    answers = {label: respond(I)[:, 0] for label, respond in asked.items()}
    for label, of_I in by_lag.items():
        numbers = ", ".join(f"{gain:.3f}" for gain in of_I[:3])
        spike = latency(answers[label])
        level = fires_from(asked[label])
        print(f"{label}: by I {numbers}; spikes {spike:.0f} samples after the step,")
        print(f"    fires after steps of at least {level:.2f}", flush=True)
    after = slice(STEP_AT - 10, None)
    answers = {label: V[after] for label, V in answers.items()}
    path = args.out_dir / "gains.png"
    save_figure(path, draw_gains, by_lag, answers, DT, I[after, 0])
    return {"interrupted": False}


if __name__ == "__main__":
    run(main)
