"""A run's sample pictures: the student's few-step grids beside the teacher's many-step one, and the way back in time.

The seeds and prompts are the same at every step, so what changes between two places of the scrubber is the student.
This module does not know gradio, nor how samples are drawn; it reads the files that the run's events name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from studio.runs.digest import RunDigest
from studio.runs.events import SampleSaved
from studio.ui.windows_view import data_uri, plural

TEACHER = 0
GRID_SIDE_PIXELS = 1280
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.(png|jpg|webp)")


def sample_steps(digest: RunDigest) -> list[int]:
    """The training steps at which the student was sampled, in order."""
    return sorted(step for step, grids in digest.samples.items() if any(steps != TEACHER for steps in grids))


def scrubber_html(digest: RunDigest, at: int | None) -> str:
    """The way through the samples: a slider over the steps they were taken at; `at` `None` is the newest."""
    steps = sample_steps(digest)
    if not steps:
        return ""
    place = place_of(steps, at)
    kept = {each.step for each in digest.checkpoints}
    note = ", a checkpoint of this step was written" if steps[place] in kept else ""
    label = f"Samples at step {steps[place]:,}{note}"
    return (
        f'<div class="scrubber"><h3>{label}</h3><input type="range" data-scrub min="0" max="{len(steps) - 1}" step="1" '
        f'value="{place}" aria-label="Samples over training" aria-valuetext="{label}"'
        f"{' disabled' if len(steps) == 1 else ''}><div aria-hidden='true'><span>step {steps[0]:,}</span>"
        f"<span>step {steps[-1]:,}</span></div></div>"
    )


def place_of(steps: list[int], at: int | None) -> int:
    """Which of the steps is shown: the chosen one, or the newest."""
    return steps.index(at) if at in steps else len(steps) - 1


def samples_html(digest: RunDigest, folder: Path, at: int | None) -> str:
    """The grids of one step: the teacher's, then the student's from few steps to more."""
    steps = sample_steps(digest)
    if not steps:
        return (
            '<section class="run-section"><h3>Samples</h3><div class="chart waiting"><span>The first ones are drawn by '
            "the untrained student, before step 1.</span></div></section>"
        )
    step = steps[place_of(steps, at)]
    grids = dict(sorted(digest.samples[step].items()))
    if (teacher := _teacher(digest, step)) is not None:
        grids = {TEACHER: teacher, **{steps: grid for steps, grid in grids.items() if steps != TEACHER}}
    return f'<div class="samples">{"".join(_grid_html(folder, grid) for grid in grids.values())}</div>{_words(grids)}'


def _teacher(digest: RunDigest, step: int) -> SampleSaved | None:
    """The teacher's pictures, which are drawn once or now and then: the newest up to this step, else any."""
    at = sorted(each for each, grids in digest.samples.items() if TEACHER in grids)
    before = [each for each in at if each <= step]
    return digest.samples[(before or at[:1])[-1]][TEACHER] if at else None


def _grid_html(folder: Path, sample: SampleSaved) -> str:
    title = "teacher, many steps" if sample.num_steps == TEACHER else plural(sample.num_steps, "step")
    kind = "teacher" if sample.num_steps == TEACHER else "student"
    alt = f"{title}, training step {sample.step}: {'; '.join(sample.prompts[:8]) or 'held-out captions'}"
    picture = _picture(folder, sample.file)
    shown = f'<img src="{picture}" alt="{escape(alt)}">' if picture else '<p class="facts">This file is gone.</p>'
    return f'<figure class="{kind}"><figcaption>{title}</figcaption>{shown}</figure>'


def _picture(folder: Path, name: str) -> str | None:
    """A picture of the samples folder as text; a name that is more than a name is nobody's."""
    if not _FILE.fullmatch(name):
        return None
    try:
        with Image.open(folder / name, formats=("PNG", "JPEG", "WEBP")) as image:
            return data_uri(image, GRID_SIDE_PIXELS)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def _words(grids: Mapping[int, SampleSaved]) -> str:
    prompts = next((grid.prompts for grid in grids.values() if grid.prompts), ())
    if not prompts:
        return ""
    rows = "".join(f"<li>{escape(prompt)}</li>" for prompt in prompts)
    return f'<details class="captions"><summary>What the samples show</summary><ol>{rows}</ol></details>'
