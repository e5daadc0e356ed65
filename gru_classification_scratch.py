"""Task 3: a GRU tells two neurons apart, from a noisy glimpse of the voltage of one of them.

    python gru_classification_scratch.py                   the hard task: less than a period, in noise
    python gru_classification_scratch.py --task original   the easy one: long clean traces

You should see the GRU ahead of simple classifiers in the hard task, and nearly as good as an ideal observer; in the
original one it is level with four summary features, and proves nothing.
"""

import math
from argparse import BooleanOptionalAction, Namespace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import cross_entropy

from datasets import FitzhughNagumoClassification, crosses_upwards, period, simulate
from models import GRU
from observers import weigh
from pictures import draw_accuracy, draw_confusion, draw_samples, live_window, plot_arriving, plot_losses
from plumbing import FlagParser, count, follow, positive, run, save_figure, save_gif, set_up, write_metrics

STEM = "gru_classification_scratch"
CLASSES = list(FitzhughNagumoClassification.CLASSES)
# the defaults below are those of the hard task; these are those of the original one
ORIGINAL = {"duration": 400.0, "noise_std": 0.0, "random_phase": False, "match_period": False}
ORIGINAL |= {"num_test": 512, "test_factor": 2, "memory": 250, "loss_from": 0.5}
ORIGINAL |= {"batch_size": 64, "init_lr": 1e-2, "max_grad_norm": 0.2, "num_epochs": 6}

parser = FlagParser(__doc__)
flag = parser.add_argument
# data
flag("--task", type=str, choices=["hard", "original"], default="hard", help="original: long and clean, other defaults")
flag("--num_train", type=count, default=2048, help="neurons of each class to train on")
flag("--num_test", type=count, default=2000, help="new traces of each class to test on")
flag("--test_factor", type=count, default=1, help="how many times longer the test traces are")
flag("--duration", type=positive, default=100.0, help="length of a training trace in time units")
flag("--dt", type=positive, default=0.4, help="time between samples")
flag("--noise_std", type=float, default=0.2, help="standard deviation of the noise on V")
flag("--random_phase", action=BooleanOptionalAction, default=True, help="start anywhere on the limit cycle")
flag("--match_period", action=BooleanOptionalAction, default=True, help="give both neurons the same period")
# model
flag("--n_hidden", type=count, default=32, help="hidden units")
flag("--memory", type=positive, default=2, help="units begin with memories of 2 to this many steps")
# training
flag("--num_epochs", type=count, default=24, help="passes over the training set, redrawn for each")
flag("--batch_size", type=count, default=48, help="traces per gradient step")
flag("--loss_from", type=float, default=0.0, help="share of a trace after which every step is scored")
flag("--init_lr", type=positive, default=2e-2, help="learning rate of Adam; decays to 0 as a cosine")
flag("--max_grad_norm", type=positive, default=0.05, help="a longer gradient is clipped to this norm")
flag("--seed", type=int, default=0, help="fixes the data, the first weights and the batches")
flag("--device", type=str, choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU with Triton, or the CPU")
# output
flag("--train_visualization", action=BooleanOptionalAction, default=True, help="draw the pictures")
flag("--out_dir", type=Path, default="outputs", help="where pictures, model and metrics go")


@torch.no_grad()
def lengthen_memory(model, longest):
    """Set the update gates' biases so that the units begin with memories of 2 to `longest` steps, evenly spread.

    A unit whose gate Z is constant forgets as Zᵗ does, with a time constant of about τ = 1 / (1 - Z) steps. Gates begin
    near 1/2, which is a memory of two steps: what was seen hundreds of steps ago is lost, and its gradient with it.
    Here Z = σ(b_z) with b_z = log(τ - 1). Source: Tallec and Ollivier (2018), https://arxiv.org/abs/1804.11188
    """
    model.b_z.uniform_(1, max(1, longest - 1)).log_()


def train_model(model, dataset, view, args):
    """Train on traces whose windows and noise are drawn again for every epoch; yield its mean loss.

    view: traces that are not trained on; "view_loss" is their cross-entropy at the last step, and beside it stands the
    accuracy there.
    """
    num_updates = args.num_epochs * math.ceil(len(dataset) / args.batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.init_lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    for _ in range(args.num_epochs):
        dataset.redraw()
        loss = train_epoch(model, dataset, optimizer, schedule, args)
        logits = model.predict(view.data)[:, -1]
        accuracy = (logits.argmax(-1) == view.labels).double().mean().item()
        yield {"loss": loss, "view_loss": cross_entropy(logits, view.labels).item(), "accuracy": accuracy}


def train_epoch(model, dataset, optimizer, schedule, args):
    """One pass over the training traces; return the mean loss.

    The class is asked for at every step after a share of the trace, `loss_from`. Asked only at the last of a thousand,
    a network learns to answer at that step, and not to know the answer before it or to keep it beyond.
    """
    order, losses = torch.randperm(len(dataset), device=model.device), []
    data, labels = (part.to(model.device)[order] for part in (dataset.data, dataset.labels))  # (N, T, 1), (N,)
    for x, label in zip(data.split(args.batch_size), labels.split(args.batch_size)):
        _, logits = model(x.transpose(0, 1))  # (T, B, number of classes)
        asked = logits[min(int(args.loss_from * len(logits)), len(logits) - 1) :]
        loss = cross_entropy(asked.flatten(0, 1), label.repeat(len(asked)))  # the same label at every step
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def class_probabilities(model, data, batch_size=500):
    """The network's probability of each class after every sample of traces (N, T, 1), as (N, T, classes) on the CPU."""
    return torch.cat([model.predict(x) for x in data.split(batch_size)]).softmax(-1)


def summary_features(data):
    """Mean, standard deviation, share of time above 0 and number of upward crossings of traces (N, T, 1): (N, 4)."""
    V = data.squeeze(-1).numpy()
    above, crossings = np.mean(V >= 0, axis=1), crosses_upwards(V).sum(axis=1)
    return np.column_stack([V.mean(axis=1), V.std(axis=1), above, crossings])


def fit_baselines(dataset):
    """Fit what a network has to beat: name -> (what it looks at in traces (N, T, 1), a classifier of that)."""
    baselines = {
        "features": (summary_features, make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
        "neighbours": (lambda data: data[:, : dataset.T, 0].numpy(), KNeighborsClassifier(min(15, len(dataset)))),
    }
    for features, classifier in baselines.values():
        classifier.fit(features(dataset.data), dataset.labels.numpy())
    return baselines


def clean_windows(dataset, num_phases=1000):
    """Every class's windows without noise, from each of num_phases phases of its limit cycle: (classes, T, phases)."""
    windows = []
    for parameters, pace in zip(dataset.CLASSES.values(), dataset.paces):
        own_period = period(**parameters)
        begins = own_period * (2 + np.arange(num_phases) / num_phases)  # after two periods to settle
        V, W = simulate(0.0, 0.0, np.append(0.0, begins), **parameters)
        windows.append(simulate(V[1:, 0], W[1:, 0], pace * dataset.dt * np.arange(dataset.T), **parameters)[0])
    return torch.tensor(np.stack(windows), dtype=torch.float32)


def ideal_observer(data, windows, noise_std, batch_size=250):
    """The best that can be known: P(class) after every sample of data (N, T, 1), as (N, T, classes).

    The observer knows what a trace of each class would be without noise, from each phase (`windows`), and the noise.
    A class is as likely as its phases are together.
    """
    num_classes, T, num_phases = windows.shape
    V = windows.transpose(0, 1).flatten(1)  # (T, classes * phases)
    beliefs = torch.empty(len(data), T, num_classes)
    for x, belief in zip(data[..., 0].split(batch_size), beliefs.split(batch_size)):  # few at a time stay in the cache
        for t, P in enumerate(weigh(x, V, noise_std)):
            belief[:, t] = P.unflatten(-1, (num_classes, num_phases)).sum(-1)
    return beliefs


def evaluate_beliefs(probabilities, labels, prefix=""):
    """Accuracy and mean confidence of probabilities (N, T, classes), at the end and on the way, for labels (N,)."""
    confidence, predicted = probabilities.double().max(-1)  # (N, T)
    metrics = {}
    for name, values in (("accuracy", (predicted == labels[:, None]).double()), ("confidence", confidence)):
        along_the_way = values.mean(dim=0)  # (T,)
        for part, share in (("_at_quarter", 0.25), ("_at_half", 0.5), ("_at_three_quarters", 0.75), ("", 1)):
            metrics[f"{prefix}{name}{part}"] = along_the_way[math.ceil(share * len(along_the_way)) - 1].item()
        metrics[f"{prefix}{name}_along_the_way"] = along_the_way.tolist()
    return metrics


def evaluate_model(probabilities, baselines, data, labels, ideal=None):
    """Judge the network's beliefs about traces (N, T, 1), those of an ideal observer, and the baselines' verdicts."""
    metrics = evaluate_beliefs(probabilities, labels)
    if ideal is not None:
        metrics |= evaluate_beliefs(ideal, labels, "ideal_")
    for name, (features, classifier) in baselines.items():
        metrics[f"{name}_accuracy"] = float(np.mean(classifier.predict(features(data)) == labels.numpy()))
    matrix = confusion_matrix(labels, probabilities[:, -1].argmax(-1), labels=range(len(CLASSES)))
    return metrics | {"confusion_matrix": matrix.tolist()}


def draw_pictures(out_dir, history, test_set, probabilities, ideal, metrics):
    """Write the classes, the losses, accuracy and confidence over time, and one trace of each class, arriving."""
    save_figure(out_dir / "classification.png", draw_samples, test_set)
    save_figure(out_dir / "classification_losses.png", lambda figure: plot_losses(figure)(history))
    save_figure(out_dir / "classification_accuracy.png", draw_accuracy, metrics, test_set.dt)
    save_figure(out_dir / "cfmat.png", draw_confusion, metrics["confusion_matrix"], CLASSES)
    first_of_each = [test_set.labels.tolist().index(label) for label in range(len(CLASSES))]
    beliefs = {} if ideal is None else {"ideal observer": ideal[first_of_each, :, 1].numpy()}
    beliefs["GRU"] = probabilities[first_of_each, :, 1].numpy()
    frames = np.linspace(test_set.T // 45 + 1, test_set.T, 45, dtype=int)
    shown = (CLASSES, test_set.data[first_of_each].numpy(), beliefs, test_set.dt)
    save_gif(out_dir / "classification.gif", frames, plot_arriving, *shown, fps=9)


def print_table(metrics, dt):
    parts = {"_at_quarter": "a quarter", "_at_half": "half", "_at_three_quarters": "3 quarters", "": "all seen"}
    rows = {"features_": "logistic regression, 4 features", "neighbours_": "15 nearest neighbours", "": "GRU"}
    print(f"\n{f'accuracy on new traces, dt = {dt:g}':34}" + "".join(f"{title:>12}" for title in parts.values()))
    for prefix, label in (rows | {"ideal_": "ideal observer"}).items():
        values = [metrics.get(f"{prefix}accuracy{part}") for part in parts]
        if values[-1] is not None:
            print(f"{label:34}" + "".join(f"{'–' if value is None else f'{value:.4f}':>12}" for value in values))


def main(argv=None):
    args = parser.parse_args(argv)
    if args.task == "original":
        args = parser.parse_args(argv, Namespace(**ORIGINAL))  # its defaults, and what was given
    set_up(args)

    def dataset(offset, num, factor=1):  # no two offsets or seeds share a trajectory
        num_samples = factor * max(1, round(args.duration / args.dt))
        settings = (factor * args.duration, args.noise_std, args.random_phase, args.match_period)
        return FitzhughNagumoClassification(num, num_samples, *settings, seed=4 * args.seed + offset)

    train_set, test_set = dataset(0, args.num_train), dataset(1, args.num_test, args.test_factor)
    model = GRU(num_inputs=1, num_hiddens=args.n_hidden, num_outputs=len(CLASSES)).to(args.device)
    lengthen_memory(model, args.memory)
    training = train_model(model, train_set, dataset(2, 128), args)  # nothing has run yet
    live = live_window(plot_losses) if args.train_visualization else None
    path, info = args.out_dir / f"{STEM}.pth", {"task": "classification", "dt": train_set.dt}
    history, interrupted = follow(training, args.num_epochs, model, path, live, **info)

    probabilities, ideal = class_probabilities(model, test_set.data), None
    if args.random_phase and args.noise_std >= 0.01:  # all phases are equally likely, and no match is exact
        ideal = ideal_observer(test_set.data, clean_windows(test_set), args.noise_std)
    metrics = evaluate_model(probabilities, fit_baselines(train_set), test_set.data, test_set.labels, ideal)
    print_table(metrics, train_set.dt)
    if args.train_visualization:
        draw_pictures(args.out_dir, history, test_set, probabilities, ideal, metrics)
    metrics = {name: value for name, value in metrics.items() if "along_the_way" not in name}  # curves, drawn above
    metrics |= {"train_seconds": history[-1]["seconds"], "interrupted": interrupted}
    write_metrics(args.out_dir / f"{STEM}_metrics.json", metrics, args)
    return metrics


if __name__ == "__main__":
    run(main)
