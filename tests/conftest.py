"""What every test run begins with, wherever it is started from."""

import os
import signal
import tempfile

import pytest

# in every worker and every script: with more threads they would wait for each other
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "agg"
# fonts and settings of matplotlib that are the tests' own: a user's may be broken
MATPLOTLIB = tempfile.TemporaryDirectory(prefix="matplotlib-")
os.environ["MPLCONFIGDIR"] = MATPLOTLIB.name
for name in ("DISPLAY", "WAYLAND_DISPLAY", "PYTHONUNBUFFERED"):
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _sigint():
    """Handle Ctrl-C as Python does, not as a worker of pytest-xdist."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
