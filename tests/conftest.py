"""One thread for torch in every worker and in every script it starts: with more, workers wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
# a test that wants a window says so; and without its buffer stdout would fail at another place than a user's
for name in ("DISPLAY", "MPLBACKEND", "PYTHONUNBUFFERED"):
    os.environ.pop(name, None)
