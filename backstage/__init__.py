"""What makes the scripts run, and nobody has to read to learn about networks."""

import os
from importlib.util import find_spec

# A script that is started from a notebook inherits the notebook's backend. If that is
# not installed beside the script, matplotlib cannot even be imported.
if os.environ.get("MPLBACKEND", "").startswith("module://"):
    package = os.environ["MPLBACKEND"].removeprefix("module://").split(".")[0]
    if find_spec(package) is None:
        del os.environ["MPLBACKEND"]
