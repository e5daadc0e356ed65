"""How far back do the slopes reach, before and after training? Networks of task 1.

    python gru_regression_scratch.py --cell plain --out_dir outputs/plain
    python gru_regression_scratch.py --cell leaky --out_dir outputs/leaky
    python gru_regression_scratch.py --cell gru --out_dir outputs/gru
    python extras/reach.py outputs/{plain,leaky,gru}/gru_regression_scratch.pth

Draws outputs/reach.png: the size of the slope of one prediction's error with respect to
the state, against steps back in time.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from backstage.checkpoints import load_checkpoint
from backstage.pictures import draw_reaches, save_figure
from backstage.plumbing import FlagParser, run, set_up
from datasets import FitzhughNagumo
from gru_regression_scratch import gradient_through_time, record

parser = FlagParser(__doc__)
parser.add_argument("networks", type=Path, nargs="+", help="files of trained networks")
parser.add_argument("--out_dir", type=Path, default="outputs", help="for the picture")


def main(argv=None):
    args = parser.parse_args(argv)
    device = set_up(0, "cpu", args.out_dir)
    neurons = FitzhughNagumo(128, 1000, duration=400.0, seed=2)
    samples = record(neurons, noise_std=0.1)
    reaches = {}
    for path in args.networks:
        try:
            trained = load_checkpoint(path, device)
        except ValueError as error:
            parser.error(error)
        cell = type(trained)
        untrained = cell(1, trained.num_hiddens, 1, residual=True)
        before = gradient_through_time(untrained, samples)
        after = gradient_through_time(trained, samples)
        reaches[cell.__name__] = before, after
        for steps in (5, 50, 250):
            print(
                f"{cell.__name__:12}{steps:4} steps back: {before[steps]:.0e} before "
                f"training, {after[steps]:.0e} after it"
            )
    save_figure(args.out_dir / "reach.png", draw_reaches, reaches)
    return {"interrupted": False}


if __name__ == "__main__":
    run(main)
