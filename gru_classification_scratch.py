"""Task 3: a GRU tells two neurons apart, from a noisy glimpse of one of them.

    python gru_classification_scratch.py                   less than a period, in noise
    python gru_classification_scratch.py --task original   long clean traces

You should see the GRU ahead of simple classifiers in the first, the hard task, and
nearly as good as an ideal observer. In the original one it is level with four summary
features, and proves nothing.
"""

import math
from argparse import BooleanOptionalAction, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import cross_entropy

from backstage.optimiser import OPTIMIZERS, make_optimizer
from backstage.pictures import (
    draw_accuracy,
    draw_confusion,
    draw_losses,
    draw_samples,
    live_window,
    plot_arriving,
    plot_losses,
    save_figure,
    save_gif,
)
from backstage.plumbing import (
    FlagParser,
    at_least_1,
    count,
    memory,
    not_negative,
    positive,
    run,
    seed,
    set_up,
    share,
    units,
    write_metrics,
)
from backstage.training import Training, gradient_step
from cells import CELLS
from datasets import FitzhughNagumoClassification, crosses_upwards
from observers import SMALLEST_NOISE, clean_windows, ideal_beliefs

STEM = "gru_classification_scratch"
CLASSES = list(FitzhughNagumoClassification.CLASSES)

parser = FlagParser(__doc__)
flag = parser.add_argument
flag(
    "--task",
    type=str,
    choices=["hard", "original"],
    default="hard",
    help="original: long and clean, with other defaults",
)
# data
flag("--num_train", type=count, default=2048, help="neurons of each class to train on")
flag("--num_test", type=count, default=2000, help="new traces of each class")
flag("--test_factor", type=count, default=1, help="test traces are longer by this")
flag("--duration", type=positive, default=100.0, help="of a trace, in time units")
flag("--dt", type=positive, default=0.4, help="time between samples")
flag("--noise_std", type=not_negative, default=0.2, help="of the noise on V")
flag(
    "--random_phase",
    action=BooleanOptionalAction,
    default=True,
    help="start anywhere on the limit cycle",
)
flag(
    "--match_period",
    action=BooleanOptionalAction,
    default=True,
    help="give both neurons the same period",
)
flag(
    "--pace_range",
    type=at_least_1,
    default=1.0,
    help="each trace at a pace of its own, up to so many times slower or faster",
)
# model
flag("--cell", type=str, choices=CELLS, default="gru", help="the network's step")
flag("--n_hidden", type=units, default=32, help="hidden units")
flag(
    "--memory",
    type=memory,
    default=30.0,
    help="units that can keep begin with memories of up to so many steps",
)
# training
flag("--num_epochs", type=count, default=16, help="passes, redrawn for each")
flag("--batch_size", type=count, default=48, help="traces per gradient step")
flag("--loss_from", type=share, default=0.0, help="asked after this share of a trace")
flag("--optimizer", type=str, choices=OPTIMIZERS, default="muon", help="or adam")
flag("--init_lr", type=positive, default=2e-2, help="learning rate; falls to 0")
flag(
    "--max_grad_norm", type=positive, default=0.05, help="longer gradients are clipped"
)
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

# other defaults of --task original
ORIGINAL = {
    "num_test": 512,
    "test_factor": 2,
    "duration": 400.0,
    "noise_std": 0.0,
    "random_phase": False,
    "match_period": False,
    "memory": 250.0,
    "num_epochs": 6,
    "batch_size": 64,
    "loss_from": 0.5,
    "init_lr": 1e-2,
    "max_grad_norm": 0.2,
}

# the share of a trace that has been seen
ALONG_THE_WAY = {"at_quarter": 0.25, "at_half": 0.5, "at_three_quarters": 0.75}


def train_model(model, train_set, view, args):
    """Train on traces whose windows and noise are drawn again for every epoch.

    view: traces that are not trained on; view_loss is their cross-entropy at the last
    step. Returns the Training.
    """
    num_updates = args.num_epochs * math.ceil(len(train_set) / args.batch_size)
    optimizer = make_optimizer(args.optimizer, model, args.init_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    window = None
    if args.train_visualization:
        window = live_window(plot_losses)
    training = Training(
        model,
        args.num_epochs,
        args.out_dir / f"{STEM}.pth",
        best_by="loss",
        loss_limit=100.0,
        window=window,
        info={"task": "classification", "dt": train_set.dt},
    )
    for _ in training:
        train_set.redraw()
        loss = train_epoch(
            model,
            train_set,
            optimizer,
            schedule,
            batch_size=args.batch_size,
            loss_from=args.loss_from,
            max_grad_norm=args.max_grad_norm,
        )
        logits = model.predict(view.data)[-1]
        right = logits.argmax(-1) == view.labels
        training.report(
            loss=loss,
            view_loss=cross_entropy(logits, view.labels).item(),
            accuracy=right.double().mean().item(),
        )
    training.finish()
    return training


def train_epoch(
    model, dataset, optimizer, schedule, *, batch_size, loss_from, max_grad_norm
):
    """Make one pass over the training traces; return the mean loss.

    The class is asked for at every step after a share of the trace, loss_from. Asked
    only at the last of a thousand steps, a network learns to answer at that step, and
    not to know the answer before it or to keep it beyond.
    """
    order = torch.randperm(len(dataset), device=model.device)
    data = dataset.data.to(model.device)[:, order]  # (T, N, 1)
    labels = dataset.labels.to(model.device)[order]  # (N,)
    first_asked = min(int(loss_from * len(data)), len(data) - 1)
    losses = []
    for x, y in zip(data.split(batch_size, dim=1), labels.split(batch_size)):
        _, logits = model(x)  # (T, B, classes)
        asked = logits[first_asked:]
        same_labels = y.expand(len(asked), -1)  # at every step
        loss = cross_entropy(asked.flatten(0, 1), same_labels.flatten())
        gradient_step(loss, optimizer, max_grad_norm)
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def class_probabilities(model, data, batch_size=500):
    """P of each class after every sample of traces (T, N, 1): (T, N, classes)."""
    parts = [model.predict(x) for x in data.split(batch_size, dim=1)]
    return torch.cat(parts, dim=1).softmax(-1)


def summary_features(data):
    """Four features of each of the traces (T, N, 1): (N, 4).

    Mean, standard deviation, share of time above 0, number of upward crossings.
    """
    V = data[..., 0].numpy()
    above = np.mean(V >= 0, axis=0)
    crossings = crosses_upwards(V).sum(axis=0)
    return np.column_stack([V.mean(axis=0), V.std(axis=0), above, crossings])


@dataclass
class Baseline:
    """A classifier that looks at a whole trace."""

    label: str  # how a table and a picture call it
    features: Any  # a function of traces (T, N, 1): what it looks at, (N, k)
    classifier: Any  # of scikit-learn

    def accuracy(self, data, labels):
        predicted = self.classifier.predict(self.features(data))
        return float(np.mean(predicted == labels.numpy()))


def fit_baselines(dataset):
    """Fit what a network has to beat: key -> Baseline."""

    def raw_trace(data):
        """The first samples, as many as in training."""
        return data[: dataset.T, :, 0].t().numpy()

    num_neighbours = min(15, len(dataset))
    baselines = {
        "features": Baseline(
            "logistic regression, 4 features",
            summary_features,
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        ),
        "neighbours": Baseline(
            f"{num_neighbours} nearest neighbours",
            raw_trace,
            KNeighborsClassifier(num_neighbours),
        ),
    }
    for baseline in baselines.values():
        baseline.classifier.fit(baseline.features(dataset.data), dataset.labels.numpy())
    return baselines


def along_the_way(beliefs, labels):
    """Accuracy and mean confidence after every sample: two curves (T,).

    beliefs: P of each class (T, N, classes). labels: (N,).
    """
    confidence, predicted = beliefs.double().max(-1)  # (T, N)
    accuracy = (predicted == labels).double().mean(dim=1)
    return accuracy.numpy(), confidence.mean(dim=1).numpy()


def evaluate_beliefs(beliefs, labels, prefix=""):
    """Accuracy and mean confidence on the way and at the end: flat metrics."""
    accuracy, confidence = along_the_way(beliefs, labels)
    T = len(accuracy)
    metrics = {}
    for name, curve in (("accuracy", accuracy), ("confidence", confidence)):
        for part, seen in ALONG_THE_WAY.items():
            metrics[f"{prefix}{name}_{part}"] = float(curve[math.ceil(seen * T) - 1])
        metrics[f"{prefix}{name}"] = float(curve[-1])
    return metrics


def evaluate_model(beliefs, baselines, test_set, ideal=None):
    """Judge the network's beliefs, an ideal observer's, and the baselines' verdicts.

    beliefs, ideal: P of each class (T, N, classes), about the traces of test_set.
    """
    metrics = evaluate_beliefs(beliefs, test_set.labels)
    if ideal is not None:
        metrics |= evaluate_beliefs(ideal, test_set.labels, "ideal_")
    for key, baseline in baselines.items():
        accuracy = baseline.accuracy(test_set.data, test_set.labels)
        metrics[f"{key}_accuracy"] = accuracy
    predicted = beliefs[-1].argmax(-1)
    matrix = confusion_matrix(test_set.labels, predicted, labels=range(len(CLASSES)))
    metrics["confusion_matrix"] = matrix.tolist()
    return metrics


def print_table(metrics, baselines, cell, dt):
    titles = ("a quarter", "half", "3 quarters", "all seen")
    heading = f"accuracy on new traces, dt = {dt:g}"
    print(f"\n{heading:34}" + "".join(f"{title:>12}" for title in titles))
    for key, baseline in baselines.items():  # they answer at the end alone
        accuracy = metrics[f"{key}_accuracy"]
        print(f"{baseline.label:34}" + 3 * f"{'–':>12}" + f"{accuracy:12.4f}")
    print_row("GRU" if cell == "gru" else cell, metrics, "")
    if "ideal_accuracy" in metrics:
        print_row("ideal observer", metrics, "ideal_")


def print_row(label, metrics, prefix):
    keys = [f"{prefix}accuracy_{part}" for part in ALONG_THE_WAY]
    keys.append(f"{prefix}accuracy")
    print(f"{label:34}" + "".join(f"{metrics[key]:12.4f}" for key in keys))


def draw_pictures(out_dir, history, test_set, beliefs, ideal, metrics, baselines):
    """Write classes, losses, accuracy, confusions, and a trace of each, arriving."""
    save_figure(out_dir / "classification.png", draw_samples, test_set)
    save_figure(out_dir / "classification_losses.png", draw_losses, history)
    levels = {}
    for key, baseline in baselines.items():
        levels[f"{baseline.label}, whole trace"] = metrics[f"{key}_accuracy"]
    curves = along_the_way(beliefs, test_set.labels)
    ideal_accuracy = None
    if ideal is not None:
        ideal_accuracy, _ = along_the_way(ideal, test_set.labels)
    save_figure(
        out_dir / "classification_accuracy.png",
        draw_accuracy,
        *curves,
        levels,
        test_set.dt,
        ideal=ideal_accuracy,
    )
    matrix = metrics["confusion_matrix"]
    save_figure(out_dir / "cfmat.png", draw_confusion, matrix, CLASSES)
    draw_arriving(out_dir / "classification.gif", test_set, beliefs, ideal)


def draw_arriving(path, test_set, beliefs, ideal, num_frames=45):
    """Write the first trace of each class as an animation, with what is believed."""
    labels = test_set.labels.tolist()
    first_of_each = [labels.index(label) for label in range(len(CLASSES))]
    shown = {}
    if ideal is not None:
        shown["ideal"] = ideal[:, first_of_each].numpy()
    shown["trained"] = beliefs[:, first_of_each].numpy()
    V = test_set.data[:, first_of_each, 0].numpy()
    frames = np.linspace(
        test_set.T // num_frames + 1, test_set.T, num_frames, dtype=int
    )
    save_gif(path, frames, plot_arriving, CLASSES, V, shown, test_set.dt, fps=9)


def parse_flags(argv):
    args = parser.parse_args(argv)
    if args.task == "original":
        # again: what is in the namespace already takes the place of a default
        args = parser.parse_args(argv, Namespace(**ORIGINAL))
    if args.pace_range > 1 and not args.random_phase:
        parser.error("--pace_range: expected --random_phase beside it")
    if args.duration < 2 * args.dt:
        parser.error("--duration, --dt: expected at least two samples")
    return args


def make_dataset(args, num, offset, factor=1):
    """Make traces of `num` neurons of each class; no two offsets or seeds share one."""
    num_samples = factor * round(args.duration / args.dt)
    return FitzhughNagumoClassification(
        num,
        num_samples,
        duration=num_samples * args.dt,  # a whole number of samples
        noise_std=args.noise_std,
        random_phase=args.random_phase,
        match_period=args.match_period,
        pace_range=args.pace_range,
        seed=4 * args.seed + offset,
    )


def main(argv=None):
    args = parse_flags(argv)
    args.device = set_up(args.seed, args.device, args.out_dir)
    train_set = make_dataset(args, args.num_train, offset=0)
    test_set = make_dataset(args, args.num_test, offset=1, factor=args.test_factor)
    view = make_dataset(args, 128, offset=2)
    model = CELLS[args.cell](1, args.n_hidden, len(CLASSES)).to(args.device)
    model.lengthen_memory(args.memory)
    training = train_model(model, train_set, view, args)

    beliefs = class_probabilities(model, test_set.data)
    ideal = None
    # the ideal observer takes all phases for equally likely, and knows the pace
    knows_all = args.random_phase and args.pace_range == 1
    if knows_all and args.noise_std >= SMALLEST_NOISE:
        windows = clean_windows(test_set)
        ideal = ideal_beliefs(test_set.data, windows, args.noise_std)
    baselines = fit_baselines(train_set)
    metrics = evaluate_model(beliefs, baselines, test_set, ideal)
    print_table(metrics, baselines, args.cell, train_set.dt)
    if args.train_visualization:
        draw_pictures(
            args.out_dir,
            training.history,
            test_set,
            beliefs,
            ideal,
            metrics,
            baselines,
        )
    metrics["train_seconds"] = training.history[-1]["seconds"]
    metrics["interrupted"] = training.interrupted
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
