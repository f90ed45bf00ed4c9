"""The real studio, except that its trainer is the fake one: `python -m tests.runs.studio_with_fake_trainer FLAGS`."""

from __future__ import annotations

import logging
import os
import sys

import app
from studio.runs.launch import Launcher
from studio.settings import Settings
from studio.training import TrainingServices
from tests.runs import fake_trainer


class WithFakeTrainer(TrainingServices):
    """Starts the fake trainer in the way the real one is started."""

    def __init__(self, *values, **options) -> None:
        super().__init__(*values, **options, launcher=Launcher(command=fake_trainer.COMMAND))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    app.TrainingServices = WithFakeTrainer
    app.run(Settings.load(sys.argv[1:], os.environ))
