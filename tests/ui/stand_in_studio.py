"""`python -m tests.ui.stand_in_studio ...`: the app as it is, but its trainers are `tests.ui.written_runs`.

For tests of the page alone: a run there is a real process in a real folder whose numbers are made up.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import partial

import app
from studio.runs.launch import Launcher
from studio.settings import Settings
from studio.training import services

SECONDS_A_STEP = "0.25"

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    command = (sys.executable, "-m", "tests.ui.written_runs", SECONDS_A_STEP)
    services.Launcher = partial(Launcher, command=command)  # pyright: ignore
    app.run(Settings.load(sys.argv[1:], os.environ))
