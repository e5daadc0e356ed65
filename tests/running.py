"""Run the scripts with tiny sizes, each in a process of its own: by `python script.py`, or forked, which is quick.

Most of a tiny run is imports. Where they are not what is tested, it is forked from a server process that has imported
the libraries, but no line of ours: it has its own modules, pipes, signals and exit status, as from the shell.
"""

import os
import runpy
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
TINY = {
    "gru_regression_scratch": "--num_epochs 2 --num_train 4 --num_test 2 --num_samples 100 --duration 40 --n_hidden 4",
    "gru_autoregression": "--retrain --num_epochs_one_step 1 --num_epochs 2 --updates_per_epoch 2 --num_train 4 "
    "--num_test 2 --num_samples 128 --duration 100 --first_horizon 10 --horizon 20 --test_duration 300 --n_hidden 4",
    "gru_classification_scratch": "--num_epochs 2 --num_train 4 --num_test 8 --n_hidden 4 --duration 40 --dt 1",
}
SCRIPTS = list(TINY)
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch._dynamo", "scipy.integrate", "sklearn.decomposition", "sklearn.linear_model", "sklearn.metrics", "tqdm"]
    + ["sklearn.neighbors", "sklearn.pipeline", "sklearn.preprocessing", "matplotlib.pyplot", "matplotlib.animation"]
)


def arguments(stem, flags, out_dir, tiny=True):
    """Return what stands behind `python` on a command line."""
    sizes = TINY[stem].split() if tiny else []
    return [str(TOP / f"{stem}.py"), *sizes, *flags.split(), "--out_dir", str(out_dir)]


def start_script(stem, flags, out_dir, **kwargs):
    options = {"cwd": TOP, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments(stem, flags, out_dir)], **(options | kwargs))


def run_script(stem, flags, out_dir, **kwargs):
    options = {"cwd": TOP, "timeout": 120, "capture_output": True, "text": True}
    return subprocess.run([sys.executable, *arguments(stem, flags, out_dir)], check=False, **(options | kwargs))


class Forked:
    """A script that runs in a forked process, with what the tests use of subprocess.Popen."""

    def __init__(self, argv):
        (stdout, its_stdout), (stderr, its_stderr) = SERVER.Pipe(duplex=False), SERVER.Pipe(duplex=False)
        self.process = SERVER.Process(target=become, args=(argv, its_stdout, its_stderr))
        self.process.start()
        for end in (its_stdout, its_stderr):
            end.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(end.fileno())) for end in (stdout, stderr))

    def send_signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.process.kill()

    def poll(self):
        return self.process.exitcode

    def communicate(self, timeout=None):
        """Return the rest of its two outputs, which are short, once it has ended."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(f"{self.process} ran for more than {timeout} s")
        self.returncode = self.process.exitcode
        with self.stdout, self.stderr:
            return self.stdout.read(), self.stderr.read()


def become(argv, stdout, stderr):
    """Do in this process what `python argv...` would do."""
    for number, end in ((1, stdout), (2, stderr)):
        os.dup2(end.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = argv
    sys.path.insert(0, str(Path(argv[0]).parent))
    runpy.run_path(argv[0], run_name="__main__")


def start_forked(stem, flags, out_dir, tiny=True):
    return Forked(arguments(stem, flags, out_dir, tiny))


def run_forked(stem, flags, out_dir, tiny=True):
    """Return what subprocess.run would."""
    process = start_forked(stem, flags, out_dir, tiny)
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process, process.returncode, stdout, stderr)


def in_a_fresh_process(function):
    """Call function() where its peak of memory is seen: in this process, earlier tests may have had a higher one."""
    with ProcessPoolExecutor(1, mp_context=SERVER) as fresh:
        return fresh.submit(function).result()
