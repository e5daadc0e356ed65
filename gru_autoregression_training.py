"""Task 2's training: a new network that generates a neuron's voltage.

    python gru_autoregression_training.py
    python gru_autoregression.py --checkpoint outputs/gru_autoregression_training.pth

It takes some minutes. You should see `period_error`, of free runs through neurons that
are not trained on, fall below 1e-3 in the second stage. The second line judges it.
"""

from argparse import BooleanOptionalAction
from pathlib import Path

import torch

from backstage.optimiser import OPTIMIZERS, make_optimizer
from backstage.pictures import draw_losses, live_window, plot_free_run, save_figure
from backstage.plumbing import (
    FlagParser,
    count,
    count_from_0,
    not_negative,
    positive,
    run,
    seed,
    set_up,
    units,
    write_metrics,
)
from backstage.training import Training, distance, gradient_step
from cells import CELLS
from datasets import FitzhughNagumo
from free_running import judge, run_freely

STEM = "gru_autoregression_training"

parser = FlagParser(__doc__)
flag = parser.add_argument
# data
flag("--num_train", type=count, default=1024, help="trajectories to train on")
flag("--num_samples", type=count, default=512, help="samples per trajectory")
flag("--duration", type=positive, default=400.0, help="its length in time units")
flag(
    "--anywhere",
    action=BooleanOptionalAction,
    default=True,
    help="neurons start anywhere, not at W(0) = 0",
)
flag("--input_noise", type=not_negative, default=0.45, help="largest, on the inputs")
# model
flag("--cell", type=str, choices=CELLS, default="gru", help="the network's step")
flag("--n_hidden", type=units, default=64, help="hidden units")
# training, both stages
flag("--optimizer", type=str, choices=OPTIMIZERS, default="muon", help="or adam")
flag("--batch_size", type=count, default=32, help="trajectories per gradient step")
flag("--max_grad_norm", type=positive, default=0.1, help="longer gradients are clipped")
flag("--seed", type=seed, default=0, help="fixes data, first weights and batches")
flag(
    "--device",
    type=str,
    choices=["auto", "cpu", "cuda"],
    default="auto",
    help="auto: a GPU with Triton, or the CPU",
)
# stage 1: the next step
flag("--num_epochs_one_step", type=count_from_0, default=30, help="passes")
flag("--window", type=count, default=128, help="steps back: truncated BPTT")
flag("--init_lr", type=positive, default=1e-2, help="learning rate; falls to 0")
# stage 2: running freely
flag(
    "--num_epochs", type=count_from_0, default=20, help="epochs of --updates_per_epoch"
)
flag("--updates_per_epoch", type=count, default=25, help="gradient steps per epoch")
flag("--warm_up", type=count, default=50, help="samples seen before a free run")
flag("--first_horizon", type=count, default=100, help="free steps at the beginning")
flag("--horizon", type=count, default=400, help="free steps at the end")
flag("--next_step_weight", type=not_negative, default=30.0, help="of next-step loss")
flag("--free_lr", type=positive, default=5e-4, help="learning rate; falls to 0")
# output
flag(
    "--train_visualization",
    action=BooleanOptionalAction,
    default=True,
    help="draw the pictures",
)
flag("--out_dir", type=Path, default="outputs", help="for pictures, model and metrics")


def train_model(model, train_set, valid_set, args):
    """Train in two stages; return the Training.

    Stage 1 teaches the next step, from measured inputs. Its small errors do no harm
    there, because the next input corrects them. A network that is fed with itself
    corrects nothing: its errors are its next inputs. In stage 2 it runs freely and the
    gradient goes back through that closed loop, so the loss measures an error's
    consequences. The horizon grows on the way, and the learning rate is small: one step
    that is a little too large shifts every spike to come. In both stages the inputs are
    noisy and the targets are not, so that the network learns to filter.

    The best epoch is the one whose free runs through valid_set have the best period,
    once the horizon is full: "score".
    """
    window = None
    if args.train_visualization:
        window = live_window(plot_free_run, valid_set)
    training = Training(
        model,
        args.num_epochs_one_step + args.num_epochs,
        args.out_dir / f"{STEM}.pth",
        best_by="score",
        loss_limit=100.0,  # voltages are of the order 1
        window=window,
        info={"task": "autoregression", "dt": train_set.dt},
    )
    one_step_optimizer = make_optimizer(args.optimizer, model, args.init_lr)
    one_step_schedule = make_schedule(one_step_optimizer, args.num_epochs_one_step)
    free_optimizer = make_optimizer(args.optimizer, model, args.free_lr)
    free_schedule = make_schedule(free_optimizer, args.num_epochs)
    for epoch in training:
        free_epoch = epoch - args.num_epochs_one_step
        if free_epoch <= 0:
            loss = next_step_epoch(
                model,
                train_set,
                one_step_optimizer,
                batch_size=args.batch_size,
                window=args.window,
                input_noise=args.input_noise,
                max_grad_norm=args.max_grad_norm,
            )
            one_step_schedule.step()
            view = validate(model, valid_set, args.warm_up, horizon=None)
            training.report(stage="next step", loss=loss, **view)
        else:
            growth = min(1.0, 2 * free_epoch / args.num_epochs)
            horizon = growing_horizon(args.first_horizon, args.horizon, growth)
            loss = free_running_epoch(
                model,
                train_set,
                free_optimizer,
                horizon=horizon,
                warm_up=args.warm_up,
                num_updates=args.updates_per_epoch,
                batch_size=args.batch_size,
                input_noise=args.input_noise,
                next_step_weight=args.next_step_weight,
                max_grad_norm=args.max_grad_norm,
            )
            free_schedule.step()
            view = validate(model, valid_set, args.warm_up, horizon)
            if growth == 1.0:
                view["score"] = view["period_error"]
            training.report(stage="running freely", loss=loss, **view)
    training.finish()
    return training


def make_schedule(optimizer, num_epochs):
    """Let the learning rate of an optimizer decay to 0, epoch by epoch."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, num_epochs))


def growing_horizon(first, last, growth):
    """The number of free steps, from `first` to `last` while growth goes from 0 to 1.

    It grows by equal factors.
    """
    return round(first * (last / first) ** growth)


def next_step_epoch(
    model, dataset, optimizer, *, batch_size, window, input_noise, max_grad_norm
):
    """Stage 1: one pass by truncated backpropagation through time; the mean loss."""
    x = dataset.data_x.to(model.device)  # (T, N, 1)
    y = dataset.data_y.to(model.device)
    losses = []
    order = torch.randperm(len(dataset), device=model.device)
    for batch in order.split(batch_size):
        H = None  # a trace begins
        x_windows = add_noise(x[:, batch], input_noise).split(window)
        y_windows = y[:, batch].split(window)
        for x_window, y_window in zip(x_windows, y_windows):
            states, predictions = model(x_window, H)
            loss = distance(predictions, y_window)
            gradient_step(loss, optimizer, max_grad_norm)
            losses.append(loss.detach())
            # the state is carried on into the next window, the gradient is not
            H = states[-1].detach()
    return torch.stack(losses).mean().item()


def free_running_epoch(
    model,
    dataset,
    optimizer,
    *,
    horizon,
    warm_up,
    num_updates,
    batch_size,
    input_noise,
    next_step_weight,
    max_grad_norm,
):
    """Stage 2: run freely, and learn from the distance to the true traces; its mean."""
    x = dataset.data_x.to(model.device)  # (T, N, 1)
    y = dataset.data_y.to(model.device)
    each = torch.arange(batch_size, device=model.device)
    steps = torch.arange(horizon, device=model.device)[:, None]
    losses = []
    for _ in range(num_updates):
        batch = torch.randint(len(dataset), (batch_size,), device=model.device)
        noisy = add_noise(x[:, batch], input_noise)
        true = y[:, batch]
        states, next_steps = model(noisy)
        # each trace runs on from a moment of its own, with what is remembered there
        latest = len(x) - horizon
        start = torch.randint(warm_up, latest + 1, (batch_size,), device=model.device)
        X = noisy[start, each]
        H = states[start - 1, each]
        _, generated = model(X[None], H, future=horizon - 1)
        loss = distance(generated, true[start + steps, each])
        # spikes at a wrong time dominate this loss; their shape, such as an overshoot,
        # is learnt from the next step
        next_step_loss = distance(next_steps, true)
        gradient_step(
            loss + next_step_weight * next_step_loss, optimizer, max_grad_norm
        )
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def add_noise(x, largest):
    """Add noise to traces x (T, B, 1), to three in ten none.

    Each of the others has a level of its own, uniform from 0 to `largest`.
    """
    level = largest * torch.rand_like(x[:1])
    is_noisy = torch.rand_like(x[:1]) > 0.3
    return x + torch.where(is_noisy, level, 0.0) * torch.randn_like(x)


def validate(model, dataset, warm_up, horizon):
    """Run freely: the error of the period, the stage's own loss, a trace to be seen.

    The loss is without noise: of `horizon` free steps, or of next steps if it is None.
    """
    x = dataset.data_x
    true = x[warm_up:]
    generated, _ = run_freely(model, x[:warm_up], len(true))
    if horizon is None:
        view_loss = distance(model.predict(x[:512]), dataset.data_y[:512])
    else:
        view_loss = distance(generated[:horizon], true[:horizon])
    trace = torch.cat([x[:warm_up, 0, 0], generated[:, 0, 0]])
    return {
        "period_error": judge(true, generated, dataset.dt)["period_error"],
        "view_loss": view_loss.item(),
        "trace": trace.numpy(),
    }


def parse_flags(argv):
    args = parser.parse_args(argv)
    longest = args.warm_up + max(args.first_horizon, args.horizon)
    if args.num_epochs > 0 and longest > args.num_samples:
        parser.error(
            f"--num_samples: expected at least {longest}, --warm_up and a whole horizon"
        )
    if args.num_epochs_one_step + args.num_epochs == 0:
        parser.error("--num_epochs_one_step, --num_epochs: expected at least one epoch")
    return args


def main(argv=None):
    args = parse_flags(argv)
    args.device = set_up(args.seed, args.device, args.out_dir)
    # no two offsets or seeds share a trajectory
    train_set = FitzhughNagumo(
        args.num_train,
        args.num_samples,
        duration=args.duration,
        seed=4 * args.seed,
        anywhere=args.anywhere,
    )
    num_valid = args.warm_up + round(1600 / train_set.dt)  # some thirteen periods
    valid_set = FitzhughNagumo(
        16, num_valid, duration=num_valid * train_set.dt, seed=4 * args.seed + 1
    )
    model = CELLS[args.cell](1, args.n_hidden, 1, residual=True).to(args.device)
    training = train_model(model, train_set, valid_set, args)
    if args.train_visualization:
        path = args.out_dir / "autoregression_losses.png"
        save_figure(path, draw_losses, training.history)
    last = training.history[-1]
    metrics = {
        "best_period_error": training.best_score,
        "last_view_loss": last["view_loss"],
        "train_seconds": last["seconds"],
        "interrupted": training.interrupted,
    }
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
