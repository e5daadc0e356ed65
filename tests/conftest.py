"""What every test run begins with, wherever it is started from."""

import os
import signal

import pytest

# in every worker and every script: with more threads they would wait for each other
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "agg"
for name in ("DISPLAY", "WAYLAND_DISPLAY", "PYTHONUNBUFFERED"):
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _sigint():
    """Handle Ctrl-C as Python does, not as a worker of pytest-xdist."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
