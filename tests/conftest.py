"""What every test run begins with, wherever it is started from."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # in every worker and every script: with more threads they wait for each other
# a test that wants a window says so; and without its buffer stdout would fail at another place than a user's
for name in ("DISPLAY", "MPLBACKEND", "PYTHONUNBUFFERED"):
    os.environ.pop(name, None)
signal.signal(signal.SIGINT, signal.default_int_handler)  # where pytest runs in the background, Ctrl-C may be ignored
