"""What every test run begins with, wherever it is started from."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # in every worker and every script: with more threads they wait for each other
os.environ["MPLBACKEND"] = "agg"  # a test that wants a window says so
for name in ("DISPLAY", "WAYLAND_DISPLAY", "PYTHONUNBUFFERED"):
    os.environ.pop(name, None)
