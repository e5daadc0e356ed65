"""One thread for torch in every worker and in every script it starts: with more, workers wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
for name in ("DISPLAY", "MPLBACKEND"):  # a test that wants a window says so
    os.environ.pop(name, None)
