"""Task 3: a GRU tells two neurons apart, from a noisy glimpse of the voltage of one of them.

    python gru_classification_scratch.py                   the hard task: less than a period, in noise
    python gru_classification_scratch.py --task original   the easy one: long clean traces, solved by a threshold

You should see the GRU well ahead of a logistic regression on four summary features in the hard task, and level with it
in the original one, where it proves nothing.
"""

import argparse
import copy
import math
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import STYLE, FitzhughNagumoClassification, LiveWindow, write_gif
from models import (
    GRU,
    FlagParser,
    check_loss,
    device_flag,
    folder,
    number,
    replacing,
    run,
    save_checkpoint,
    save_metrics,
)

STEM = "gru_classification_scratch"
CLASSES = list(FitzhughNagumoClassification.CLASSES)
# the settings that make a task; each can be overridden by its own flag
TASKS = {
    "hard": {
        "duration": 100.0,  # less than a period
        "noise_std": 0.2,
        "random_phase": True,
        "match_period": True,
        "test_factor": 1,
        "num_test": 2000,
        "memory": 2,
        "num_epochs": 26,
    },
    "original": {
        "duration": 400.0,
        "noise_std": 0.0,
        "random_phase": False,
        "match_period": False,
        "test_factor": 2,
        "num_test": 512,
        "memory": 250,
        "num_epochs": 6,
    },
}

parser = FlagParser(__doc__)
flag = parser.add_argument
unset = argparse.SUPPRESS  # as the task has it
flag("--task", choices=list(TASKS), default="hard", help="sets the eight flags after it where they are not given")
flag("--duration", type=number(float, 1, 10_000), default=unset, help="length of a training trace in time units")
flag("--noise_std", type=number(float, 0, 100), default=unset, help="standard deviation of the noise on V")
flag("--random_phase", action=argparse.BooleanOptionalAction, default=unset, help="start anywhere on the limit cycle")
flag("--match_period", action=argparse.BooleanOptionalAction, default=unset, help="give both neurons the same period")
flag("--test_factor", type=number(int, 1, 100), default=unset, help="how many times longer the test traces are")
flag("--num_test", type=number(int, 1, 100_000), default=unset, help="new traces of each class to test on")
flag("--memory", type=number(float, 2, 1e9), default=unset, help="steps that untrained units remember: from 2 to this")
flag("--num_epochs", type=number(int, 1, 100_000), default=unset, help="passes over the training set, redrawn for each")
# data
flag("--num_train", type=number(int, 1, 100_000), default=2048, help="neurons of each class to train on")
flag("--dt", type=number(float, 1e-3, 100), default=0.4, help="time between samples")
# model
flag("--n_hidden", type=number(int, 1, 2048), default=32, help="hidden units")
# training
flag("--batch_size", type=number(int, 1, 100_000), default=64, help="traces per gradient step")
flag("--loss_from", type=number(float, 0, 1), default=0.5, help="share of a trace after which every step is scored")
flag("--init_lr", type=number(float, 1e-9, 1e9), default=2e-2, help="learning rate of Adam; decays to 0 as a cosine")
flag("--max_grad_norm", type=number(float, 1e-9, 1e9), default=0.2, help="a longer gradient is clipped to this norm")
flag("--seed", type=number(int, 0, 2**31 - 1), default=0, help="fixes the data, the first weights and the batches")
flag("--device", type=device_flag, default="auto", help="auto, cpu or cuda")
# output
flag("--train_visualization", action=argparse.BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=folder, default="outputs", help="where pictures, model and metrics go")


@torch.no_grad()
def lengthen_memory(model, longest):
    """Set the update gates' biases so that the units begin with memories of 2 to `longest` steps, evenly spread.

    A unit whose gate Z is constant forgets as Zᵗ does, with a time constant of about τ = 1 / (1 - Z) steps. Gates begin
    near 1/2, which is a memory of two steps: what was seen hundreds of steps ago is lost, and its gradient with it.
    Here Z = σ(b_z) with b_z = log(τ - 1). Source: Tallec and Ollivier (2018), https://arxiv.org/abs/1804.11188
    """
    model.b_z.uniform_(1, longest - 1).log_()


def train_model(
    model, dataset, num_epochs, batch_size, loss_from, init_lr, max_grad_norm, live=None, partial_path=None
):
    """Train on traces whose windows and noise are drawn anew for every epoch; return the history as plain lists.

    loss_from: share of a trace after which the class is asked for at every step. Asked only at the last of a thousand,
        a network learns to answer at that step, and not to know the answer before it or to keep it beyond.
    live: a LiveWindow, where the loss is drawn. partial_path: where the best model so far is kept while training runs.
    Ctrl-C ends training early, and is passed on before the first epoch is through: there is nothing to keep then.
    The model is left with the weights of its best epoch.
    Raises FloatingPointError after an epoch in which training has diverged.
    """
    batches = DataLoader(dataset, batch_size, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=init_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs * len(batches))
    history = {"loss": [], "accuracy": [], "interrupted": False}
    best = copy.deepcopy(model.state_dict())
    # a progress bar in a terminal; where the output goes to a file, a line for every epoch instead
    progress = tqdm(range(1, num_epochs + 1), desc="training", unit="epoch", file=sys.stdout, disable=None)
    try:
        for epoch in progress:
            dataset.redraw()
            loss, accuracy = train_epoch(model, batches, optimizer, schedule, loss_from, max_grad_norm)
            check_loss(loss, epoch, init_lr)
            history["loss"].append(loss)
            history["accuracy"].append(accuracy)
            if loss == min(history["loss"]):
                best = copy.deepcopy(model.state_dict())
                if partial_path:
                    save_checkpoint(partial_path, model, task="classification", dt=dataset.dt)
            progress.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
            if progress.disable:
                print(f"epoch {epoch:3d}  loss {loss:.3f}  accuracy {accuracy:.3f}", flush=True)
            if live:
                live.redraw(draw_history, live.figure, history)
    except KeyboardInterrupt:
        if not history["loss"]:
            raise
        history["interrupted"] = True
    model.load_state_dict(best)
    return history


def train_epoch(model, batches, optimizer, schedule, loss_from, max_grad_norm):
    """One pass over the training traces; return the mean loss, and the accuracy at the last step."""
    device = next(model.parameters()).device
    losses, hits = [], []
    for x, labels in batches:  # (B, T, 1), (B,)
        labels = labels.to(device)
        _, logits = model(x.transpose(0, 1).to(device))  # (T, B, number of classes)
        scored = logits[min(int(loss_from * len(logits)), len(logits) - 1) :]
        loss = cross_entropy(scored.flatten(0, 1), labels.repeat(len(scored)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        hits.append((logits[-1].argmax(-1) == labels).float().mean())
    return torch.stack(losses).mean().item(), torch.stack(hits).mean().item()


@torch.no_grad()
def class_probabilities(model, data, batch_size=500):
    """The network's probability of each class after every sample of traces (N, T, 1), as (N, T, 2) on the CPU."""
    device = next(model.parameters()).device
    logits = [model(x.transpose(0, 1).to(device))[1] for x in data.split(batch_size)]
    return torch.cat(logits, dim=1).softmax(-1).transpose(0, 1).cpu()


def summary_features(data):
    """Mean, standard deviation, share of time above 0 and number of upward crossings of traces (N, T, 1): (N, 4)."""
    V = data.squeeze(-1).numpy()
    above = V >= 0
    crossings = np.sum(~above[:, :-1] & above[:, 1:], axis=1)
    return np.column_stack([V.mean(axis=1), V.std(axis=1), above.mean(axis=1), crossings])


def fit_baseline(dataset):
    """Fit what a network has to beat: a logistic regression on four summary features of the trace."""
    baseline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return baseline.fit(summary_features(dataset.data), dataset.labels.numpy())


def evaluate_model(model, baseline, data, labels):
    """Accuracy on traces (N, T, 1) with labels (N,): at the end, on the way, and that of the baseline.

    Raises ValueError where there is nothing to score, or a label is out of range.
    """
    if len(data) == 0 or len(data) != len(labels):
        raise ValueError(f"data has {len(data)} traces, labels {len(labels)}: expected as many of both, at least one")
    if not torch.isin(labels, torch.arange(len(CLASSES))).all():
        raise ValueError(f"labels from {labels.min()} to {labels.max()}: expected 0 to {len(CLASSES) - 1}")
    predicted = class_probabilities(model, data).argmax(-1)  # (N, T)
    along_the_way = (predicted == labels[:, None]).double().mean(dim=0)  # (T,)
    quarter = len(along_the_way) / 4
    return {
        "accuracy": along_the_way[-1].item(),
        "accuracy_at_quarter": along_the_way[math.ceil(quarter) - 1].item(),
        "accuracy_at_half": along_the_way[math.ceil(2 * quarter) - 1].item(),
        "accuracy_at_three_quarters": along_the_way[math.ceil(3 * quarter) - 1].item(),
        "accuracy_along_the_way": along_the_way.tolist(),
        "baseline_accuracy": float(np.mean(baseline.predict(summary_features(data)) == labels.numpy())),
        "confusion_matrix": confusion_matrix(labels, predicted[:, -1], labels=range(len(CLASSES))).tolist(),
    }


# ---- pictures ----


def draw_history(figure, history):
    """Draw loss and accuracy, epoch by epoch."""
    figure.clear()
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        axes.plot(range(1, len(history[name]) + 1), history[name])
        axes.set(xlabel="epoch", ylabel=name)


def draw_confusion(path, matrix):
    """Draw how many traces of each class were taken for which: rates, and all cells readable."""
    figure = Figure(figsize=(5, 4.4))
    rates = np.array(matrix) / np.maximum(np.sum(matrix, axis=1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(rates, display_labels=[f"class {name}" for name in CLASSES])
    display.plot(ax=figure.subplots(), cmap="Blues", values_format=".3f", im_kw={"vmin": 0, "vmax": 1})
    with replacing(path) as temporary:
        figure.savefig(temporary)


def draw_accuracy(path, metrics, dt):
    """Draw the accuracy against how much of the trace has been seen."""
    figure = Figure()
    axes = figure.subplots()
    accuracy = metrics["accuracy_along_the_way"]
    axes.plot(dt * np.arange(1, len(accuracy) + 1), accuracy, label="GRU")
    axes.axhline(metrics["baseline_accuracy"], color="C1", linestyle="--", label="four features of the whole trace")
    axes.set(xlabel="time seen", ylabel="accuracy", xlim=(0, dt * len(accuracy)), ylim=(0.45, 1.02))
    axes.legend(loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary)


def plot_arriving(figure, data, probabilities, dt):
    """Set up one trace of each class (2, T, 1), P(class B) (2, T) below; return update(n), which shows n samples."""
    t = dt * np.arange(1, data.shape[1] + 1)
    axes = figure.subplots(2, len(CLASSES), sharex=True, sharey="row", height_ratios=(3, 2))
    lines = []
    for k, name in enumerate(CLASSES):
        trace, probability = axes[:, k]
        lines.append((trace.plot([], [], color=f"C{k}", linewidth=1.2)[0], data[k].flatten()))
        lines.append((probability.plot([], [], color="black")[0], probabilities[k]))
        trace.set(title=f"a neuron of class {name}", xlim=(0, t[-1]), ylim=(data.min() - 0.2, data.max() + 0.2))
        probability.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
        probability.set(xlabel="time", ylim=(-0.05, 1.05))
    axes[0, 0].set_ylabel("V")
    axes[1, 0].set_ylabel("P(class B)")

    def update(n):
        for line, values in lines:
            line.set_data(t[:n], values[:n])

    return update


def animate(path, data, probabilities, dt, num_frames=45):
    """Write the traces arriving, and what the network makes of them, as a GIF; play it in a window, too."""
    ends = np.linspace(1, data.shape[1], num_frames, dtype=int)
    live = LiveWindow(share=1.0)
    update = plot_arriving(live.figure, data, probabilities, dt)
    for end in ends:
        live.redraw(update, end)
    live.close()
    figure = Figure()
    with replacing(path) as temporary:
        write_gif(temporary, figure, plot_arriving(figure, data, probabilities, dt), ends, fps=9, hold=9)


def draw_pictures(out_dir, model, test_set, metrics):
    """Draw the two classes, the confusion matrix, the accuracy over time and the animation; return the paths."""
    names = ("classification.png", "cfmat.png", "classification_accuracy.png", "classification.gif")
    paths = [out_dir / name for name in names]
    figure = test_set.visualize_samples()
    with replacing(paths[0]) as temporary:
        figure.savefig(temporary)
    plt.close(figure)
    draw_confusion(paths[1], metrics["confusion_matrix"])
    draw_accuracy(paths[2], metrics, test_set.dt)
    one_of_each = test_set.data[:: len(test_set) // len(CLASSES)]
    animate(paths[3], one_of_each, class_probabilities(model, one_of_each)[..., 1], test_set.dt)
    return paths


# ---- the script ----


def print_table(metrics, dt):
    print(f"\naccuracy on new traces, dt = {dt:g}")
    for name, label in (
        ("baseline_accuracy", "logistic regression on 4 features"),
        ("accuracy_at_quarter", "GRU after a quarter of the trace"),
        ("accuracy_at_half", "GRU after half of it"),
        ("accuracy_at_three_quarters", "GRU after three quarters"),
        ("accuracy", "GRU at the end"),
    ):
        print(f"{label:36}{metrics[name]:8.4f}")


def main(argv=None):
    args = parser.parse_args(argv)
    for name, value in TASKS[args.task].items():
        if name not in args:
            setattr(args, name, value)
    start = time.perf_counter()
    torch.set_num_threads(1)  # products this small lose more to a second thread than they win
    torch.manual_seed(args.seed)
    plt.style.use(STYLE)
    args.out_dir.mkdir(parents=True, exist_ok=True)

    def dataset(offset, num, factor=1):  # no two offsets or seeds share a trajectory
        num_samples = factor * max(1, round(args.duration / args.dt))
        settings = (factor * args.duration, args.noise_std, args.random_phase, args.match_period)
        return FitzhughNagumoClassification(num, num_samples, *settings, seed=4 * args.seed + offset)

    train_set, test_set = dataset(0, args.num_train), dataset(1, args.num_test, args.test_factor)
    model = GRU(num_inputs=1, num_hiddens=args.n_hidden, num_outputs=len(CLASSES)).to(args.device)
    lengthen_memory(model, args.memory)
    live = LiveWindow() if args.train_visualization else None
    partial = args.out_dir / f"{STEM}_partial.pth"
    print(f"while training runs, its best model is in {partial}", flush=True)
    start_training = time.perf_counter()
    hyperparameters = (args.num_epochs, args.batch_size, args.loss_from, args.init_lr, args.max_grad_norm)
    history = train_model(model, train_set, *hyperparameters, live, partial)
    metrics = {"train_seconds": time.perf_counter() - start_training}
    if live:
        live.close()

    metrics |= evaluate_model(model, fit_baseline(train_set), test_set.data, test_set.labels)
    print_table(metrics, train_set.dt)
    written = [args.out_dir / f"{STEM}.pth"]
    save_checkpoint(written[0], model, task="classification", dt=train_set.dt)
    partial.unlink(missing_ok=True)
    if args.train_visualization:
        written += draw_pictures(args.out_dir, model, test_set, metrics)
    del metrics["accuracy_along_the_way"]  # a curve, drawn above; the rest are the figures
    written.append(args.out_dir / f"{STEM}_metrics.json")
    metrics |= {"seconds": time.perf_counter() - start, "interrupted": history["interrupted"], "flags": vars(args)}
    save_metrics(written[-1], metrics)
    for path in written:
        print(f"wrote {path}")
    return metrics


if __name__ == "__main__":
    run(main)
