"""What a training needs around its loop: progress, the best weights, Ctrl-C, its file.

The loop over epochs stands in each script, and works in a notebook alike:

    training = Training(model, num_epochs, path, best_by="view_loss")
    for epoch in training:
        loss = train_epoch(...)
        training.report(loss=loss, view_loss=...)
    history = training.finish()
"""

import copy
import math
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from backstage.checkpoints import save_checkpoint
from backstage.plumbing import ShellError


class Training:
    """A training of num_epochs epochs, whose best weights go to the file `path`.

    best_by: the entry of the reports whose smallest value marks the best epoch; until a
        report has it, the latest epoch is the best.
    loss_limit: an entry whose name contains "loss" has diverged beyond this. By default
        only nan and infinity have: a loss of your own may have any unit.
    window: called with the history after every epoch, to draw it.
    info: what the file says beside the weights.

    A Ctrl-C ends the loop after the epoch (`interrupted` is True then), a second one
    the run. A run that is killed leaves `*_partial.pth`, its best network so far.
    """

    def __init__(
        self,
        model,
        num_epochs,
        path,
        best_by="loss",
        loss_limit=math.inf,
        window=None,
        info=None,
    ):
        self.model = model
        self.num_epochs = num_epochs
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.best_by = best_by
        self.loss_limit = loss_limit
        self.window = window
        self.info = {} if info is None else info
        self.history = []  # the reports, each with the seconds since the beginning
        self.interrupted = False
        self.best_score = None  # of best_by, as soon as a report has it
        self.best_weights = None
        self.begin = time.perf_counter()
        # in a terminal a bar, elsewhere lines
        self.bar = tqdm(total=num_epochs, unit="epoch", file=sys.stdout, disable=None)

    def __iter__(self):
        """Yield the epochs, 1 to num_epochs; each is expected to report."""
        self.begin = time.perf_counter()
        with CtrlC(self._interrupt), self.bar:
            for epoch in range(1, self.num_epochs + 1):
                yield epoch
                if self.interrupted:
                    break

    def _interrupt(self):
        self.interrupted = True
        print("\nstopping after this epoch; once more ends at once", file=sys.stderr)

    def report(self, **values):
        """Say how an epoch went: numbers and strings are shown, all else is kept.

        Raises ShellError if the training has diverged; the file of an older network
        stays as it was.
        """
        values = {name: as_number(value) for name, value in values.items()}
        self._raise_if_diverged(values)
        values["seconds"] = time.perf_counter() - self.begin
        self.history.append(values)
        self._keep_if_best(values.get(self.best_by))
        self._show(values)
        if self.window is not None:
            self.window(self.history)

    def _raise_if_diverged(self, values):
        """Raise ShellError for a number that only a diverged training has."""
        for name, value in values.items():
            if not isinstance(value, float):
                continue
            too_large = "loss" in name and abs(value) > self.loss_limit
            if too_large or math.isnan(value) or math.isinf(value):
                raise ShellError(
                    1,
                    f"training diverged in epoch {len(self.history) + 1}, "
                    f"{name} = {value:.3g}: try a smaller learning rate",
                )

    def _keep_if_best(self, score):
        """Keep the weights, and their file, of an epoch that is the best so far."""
        if score is None:
            is_best = self.best_score is None
        else:
            is_best = self.best_score is None or score <= self.best_score
        if not is_best:
            return
        self.best_score = score
        self.best_weights = copy.deepcopy(self.model.state_dict())
        save_checkpoint(self.partial_path, self.model, **self.info)

    def _show(self, values):
        """Advance the bar, or print a line if there is no terminal."""
        shown = {
            name: value
            for name, value in values.items()
            if isinstance(value, int | float | str) and name != "seconds"
        }
        self.bar.set_postfix(shown)
        self.bar.update()
        if self.bar.disable:  # it shows nothing, but it has put the line together
            print(f"epoch {len(self.history):3d}  {self.bar.postfix}", flush=True)

    def finish(self):
        """Give the model its best weights, write its file, and return the history.

        Raises ValueError if no epoch has reported.
        """
        if self.best_weights is None:
            raise ValueError("no epoch has reported: call training.report(loss=...)")
        if self.best_score is None:
            print(f"note: no epoch has reported {self.best_by!r}: the last one is kept")
        self.model.load_state_dict(self.best_weights)
        save_checkpoint(self.path, self.model, **self.info)
        self.partial_path.unlink(missing_ok=True)
        print(f"wrote {self.path}")
        return self.history

    @property
    def partial_path(self):
        return self.path.with_name(f"{self.path.stem}_partial.pth")


def as_number(value):
    """A tensor or NumPy value of one number as Python's own; all else as it is."""
    is_number = isinstance(value, torch.Tensor | np.generic) and value.ndim == 0
    return value.item() if is_number else value


class CtrlC:
    """While it is entered, a first Ctrl-C calls `respond`.

    A second one goes to whoever was asked before: to Python, which ends the run.
    Only the main thread may take signals: in another one nothing changes.
    """

    def __init__(self, respond):
        self.respond = respond
        self.waits = False
        self.previous_handler = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            handler = signal.signal(signal.SIGINT, self._handle)
            # None: it was not set from Python
            self.previous_handler = signal.SIG_DFL if handler is None else handler
            self.waits = True

    def _handle(self, *_):
        if self.waits:
            self.waits = False
            self.respond()
        else:
            signal.signal(signal.SIGINT, self.previous_handler)
            signal.raise_signal(signal.SIGINT)

    def __exit__(self, *_):
        self.waits = False
        if signal.getsignal(signal.SIGINT) == self._handle:  # no other has come since
            signal.signal(signal.SIGINT, self.previous_handler)


def gradient_step(loss, optimizer, max_grad_norm):
    """Make one update: find the slopes of the loss, clip them, take a step.

    max_grad_norm: the largest norm of the gradient, of all weights together; a longer
    one is shortened to it.
    """
    weights = []
    for group in optimizer.param_groups:
        weights += group["params"]
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, max_grad_norm)
    optimizer.step()


def distance(predicted, true):
    """Take the root of each trace's mean squared error, and the mean of those.

    predicted, true: (T, N, 1). Returns a scalar.
    The noisier a trace, the less can be known of it. Squared, its error would drown
    what the clean ones have to teach.
    """
    squared = (predicted - true).square().mean((0, 2))
    return (squared + 1e-10).sqrt().mean()  # the slope of √ is infinite at 0


@torch.no_grad()
def fit_readout(model, x, y, skip, ridge=1e-8):
    """Fit the readout alone, by least squares: an echo state network.

    x, y: inputs (T, N, num_inputs) and targets (T, N, num_outputs), as in a dataset;
    the first `skip` steps do not count. ridge: a small number on the diagonal of the
    normal equations, which makes them solvable.
    Raises ValueError if no step is left, or a number is not finite.
    """
    if not 0 <= skip < len(x):
        raise ValueError(f"skip = {skip}: expected fewer than the {len(x)} steps of x")
    num_features = model.num_hiddens + 1  # and a 1 for the bias
    gram = ridge * torch.eye(num_features, dtype=torch.float64, device=model.device)
    moment = 0
    # some sequences at a time: all states of all of them would fill the memory
    for x_part, y_part in zip(x.split(32, dim=1), y.split(32, dim=1)):
        inputs = x_part.to(model.W_hh)
        target = y_part.to(model.W_hh)
        states, _ = model(inputs)
        features = nn.functional.pad(model.features(states), (0, 1), value=1.0)
        if model.residual:
            target = target - inputs[..., : model.num_outputs]
        features = features[skip:].flatten(0, 1).double()
        target = target[skip:].flatten(0, 1).double()
        gram = gram + features.t() @ features
        moment = moment + features.t() @ target
    if not (gram.isfinite().all() and moment.isfinite().all()):
        raise ValueError("x or y holds numbers that are not finite")
    solution = torch.linalg.solve(gram, moment).t()
    model.fc.weight.copy_(solution[:, :-1])
    model.fc.bias.copy_(solution[:, -1])
