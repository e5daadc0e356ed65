"""What gates are for: networks are written in a moment, and have to keep for long.

    python sample_and_hold.py

Each network sees a neuron's voltage, and now and then a trigger. At every sample it
shall say what the voltage was at the last trigger. You should see that the networks
without gates are off by a third or more, and the GRU by a tenth of that; and what its
gates do at a trigger.
"""

import math
from argparse import BooleanOptionalAction
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import mse_loss

from backstage import fast
from backstage.optimiser import OPTIMIZERS, make_optimizer
from backstage.pictures import (
    draw_held,
    draw_writing,
    live_window,
    plot_losses,
    save_figure,
)
from backstage.plumbing import (
    FlagParser,
    count,
    memory,
    positive,
    run,
    seed,
    set_up,
    share,
    units,
    write_metrics,
)
from backstage.training import Training, fit_readout, gradient_step
from cells import CELLS
from datasets import FitzhughNagumo
from models import GRU

STEM = "sample_and_hold"
DT = 0.4  # time units between two samples, as in task 1
LABELS = {
    "constant": "the best constant",
    "present": "V as it is now",
    "untrained": "untrained GRU",
    "gru": "GRU",
}

parser = FlagParser(__doc__)
flag = parser.add_argument
# data
flag("--num_train", type=count, default=1024, help="trajectories to train on")
flag("--num_test", type=count, default=256, help="new trajectories to test on")
flag("--num_samples", type=count, default=500, help="samples per trajectory")
flag("--trigger_share", type=share, default=0.01, help="of the samples are triggers")
# model
flag(
    "--cell",
    type=str,
    nargs="+",
    choices=CELLS,
    default=["plain", "leaky", "gru"],
    help="the networks' steps, one network each",
)
flag("--n_hidden", type=units, default=32, help="hidden units")
flag(
    "--memory",
    type=memory,
    default=100.0,
    help="units that can keep begin with memories of up to so many steps",
)
# training
flag("--num_epochs", type=count, default=20, help="passes over the training set")
flag("--batch_size", type=count, default=32, help="trajectories per gradient step")
flag("--optimizer", type=str, choices=OPTIMIZERS, default="muon", help="or adam")
flag("--init_lr", type=positive, default=2e-2, help="learning rate; falls to 0")
flag("--max_grad_norm", type=positive, default=0.2, help="longer gradients are clipped")
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
flag("--out_dir", type=Path, default="outputs", help="for pictures, models and metrics")


def hold(V, trigger):
    """What was V at the last trigger, at every sample? V, trigger: (T, N, 1)."""
    held = V.clone()
    for t in range(1, len(V)):
        held[t] = torch.where(trigger[t], V[t], held[t - 1])
    return held


def make_traces(num, num_samples, trigger_share, seed):
    """Simulate neurons, and draw triggers: the first sample of each trace is one.

    Returns the inputs, V and trigger, (T, N, 2), and the targets (T, N, 1).
    """
    V = FitzhughNagumo(num, num_samples, duration=DT * num_samples, seed=seed).data_x
    # [seed, 1]: other numbers than those that say where the neurons start
    chance = np.random.default_rng([seed, 1]).random(V.shape)
    trigger = torch.tensor(chance < trigger_share)
    trigger[0] = True
    return torch.cat([V, trigger], dim=-1), hold(V, trigger)


def train_model(model, x, y, view, args, path):
    """Train on traces x (T, N, 2) and y (T, N, 1); return the Training.

    view: inputs and targets of traces that are not trained on, for view_loss. The
    network of the epoch with the smallest loss in training goes to `path`.
    """
    x_view, y_view = view
    num_updates = args.num_epochs * math.ceil(x.shape[1] / args.batch_size)
    optimizer = make_optimizer(args.optimizer, model, args.init_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    window = None
    if args.train_visualization:
        window = live_window(plot_losses)
    training = Training(
        model,
        args.num_epochs,
        path,
        loss_limit=100.0,
        window=window,
        info={"task": "sample and hold", "dt": DT},
    )
    for _ in training:
        losses = []
        order = torch.randperm(x.shape[1], device=x.device)
        for batch in order.split(args.batch_size):
            _, answers = model(x[:, batch])
            loss = mse_loss(answers, y[:, batch])
            gradient_step(loss, optimizer, args.max_grad_norm)
            schedule.step()
            losses.append(loss.detach())
        training.report(
            loss=torch.stack(losses).mean(),
            view_loss=mse_loss(model.predict(x_view), y_view),
        )
    training.finish()
    return training


@torch.no_grad()
def gates(model, x):
    """Both gates of a GRU at every step of traces x (T, N, 2): Z and R, (T, N, n)."""
    x = x.to(model.device)
    states, _ = model(x)
    before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
    Z = torch.sigmoid(x @ model.W_xz + before @ model.W_hz + model.b_z)
    R = torch.sigmoid(x @ model.W_xr + before @ model.W_hr + model.b_r)
    return Z.cpu(), R.cpu()


def measure_gates(x, Z, R):
    """What the gates do, as metrics: their means at triggers and between them.

    And how many of the units have a smaller mean at triggers than between. x, Z, R:
    (T, N, ...). Returns {} if there are no triggers, or nothing else.
    """
    # not the first sample: nothing has been written yet that could be kept
    trigger = x[1:, :, 1] > 0  # (T - 1, N)
    metrics = {}
    if trigger.all() or not trigger.any():
        return metrics
    for name, gate in (("Z", Z), ("R", R)):
        at_trigger = gate[1:][trigger].mean(dim=0)  # of each unit
        between = gate[1:][~trigger].mean(dim=0)
        metrics[f"{name}_at_trigger"] = at_trigger.mean().item()
        metrics[f"{name}_between"] = between.mean().item()
        metrics[f"{name}_lower_at_trigger"] = int((at_trigger < between).sum())
    return metrics


def label(name):
    """What a reader sees instead of the name of a cell or of a simple answer."""
    return LABELS.get(name, f"{name.replace('_', ' ')} network")


def print_table(metrics, answers):
    print(f"\n{'test MSE of the V held':36}")
    for name in answers:
        print(f"{label(name):36}{metrics[f'{name}_mse']:10.2g}")
    if "Z_between" in metrics:
        print(
            "\nmean of the GRU's gates, between triggers and at one: "
            f"Z {metrics['Z_between']:.2f}, {metrics['Z_at_trigger']:.2f}; "
            f"R {metrics['R_between']:.2f}, {metrics['R_at_trigger']:.2f}"
        )


def make_data(args, num, offset):
    return make_traces(
        num, args.num_samples, args.trigger_share, seed=4 * args.seed + offset
    )


def make_network(args, cell):
    torch.manual_seed(args.seed)  # the same, whatever went before
    model = CELLS[cell](2, args.n_hidden, 1).to(args.device)
    model.lengthen_memory(args.memory)
    return model


def main(argv=None):
    args = parser.parse_args(argv)
    args.device = set_up(args.seed, args.device, args.out_dir)
    # no two offsets or seeds share a trajectory
    x, y = make_data(args, args.num_train, offset=0)
    x_test, y_test = make_data(args, args.num_test, offset=1)
    view = make_data(args, 64, offset=2)

    # what takes no training: the best constant, V now, and random weights
    answers = {
        "constant": y.mean().expand_as(y_test),
        "present": x_test[..., :1],
    }
    untrained = make_network(args, "gru")
    fit_readout(untrained, x, y, skip=0)
    answers["untrained"] = untrained.predict(x_test)

    metrics = {"train_seconds": 0.0, "interrupted": False}
    x = x.to(args.device)
    y = y.to(args.device)
    for cell in dict.fromkeys(args.cell):  # each once
        print(f"\n{label(cell)}")
        model = make_network(args, cell)
        path = args.out_dir / f"{STEM}_{cell}.pth"
        training = train_model(model, x, y, view, args, path)
        answers[cell] = model.predict(x_test)
        metrics["train_seconds"] += training.history[-1]["seconds"]
        if fast.may_run(model, textbook=GRU):  # else `gates` is not what it computes
            Z, R = gates(model, x_test)
            metrics.update(measure_gates(x_test, Z, R))
            if args.train_visualization:
                path = args.out_dir / f"{STEM}_gates.png"
                save_figure(path, draw_writing, x_test[:, 0], Z[:, 0], R[:, 0], DT)
        if training.interrupted:
            metrics["interrupted"] = True
            break
    for name, answer in answers.items():
        metrics[f"{name}_mse"] = mse_loss(answer, y_test).item()
    print_table(metrics, answers)
    if args.train_visualization:
        shown = {name: answers[name][:, 0, 0] for name in args.cell if name in answers}
        labels = {name: label(name) for name in shown}
        path = args.out_dir / f"{STEM}.png"
        save_figure(path, draw_held, x_test[:, 0], y_test[:, 0, 0], shown, labels, DT)
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
