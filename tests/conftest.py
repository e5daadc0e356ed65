"""One thread for torch in every worker and in every script it starts: with more, workers wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
