"""`python -m tests.multiview.studio_with_views FOLDER ...`: the app as it is, over the tiny studio of a folder."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import app
from studio.settings import Settings

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    folder = Path(sys.argv[1])
    settings = Settings.load(
        [*sys.argv[2:], "--engine", "diffusion", "--device", "cpu", "--training", "off", "--offline"], os.environ
    )
    app.run(replace(settings, assets_dir=folder / "assets", presets_dir=folder / "presets"))
