"""A run in words and curves, from the folder that a trainer would leave."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from studio.runs.digest import RunDigest, RunFollower
from studio.runs.events import Failed, Finished, Phase, SampleSaved, Started, Stopped, Validated, Warned
from studio.runs.folder import RunFolder, RunsFolder
from studio.ui.theme import window_colour
from studio.ui.train import view
from studio.ui.train.samples import samples_html, scrubber_html
from studio.ui.train.view import RunState, duration_in_words, head_html, outcome_in_words, phase_in_words
from tests.ui import written_runs
from tests.ui.written_runs import PROMPTS, UNTRAINED, append, config, write_end, write_start, write_steps

TRAINING = RunState(name="running")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunsFolder(tmp_path).create(config(name="Mine & <yours>"))


def digest_of(run: RunFolder) -> RunDigest:
    with RunFollower(run.events_path).reading() as digest:
        return digest


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(40, "40 s"), (150, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min"), (200_000, "2 days 7 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


def test_a_run_tells_its_phase_progress_and_what_is_left(run: RunFolder) -> None:
    write_start(run, when=0.0)
    digest = digest_of(run)
    assert phase_in_words(TRAINING, digest) == "Measuring the untrained student"
    write_steps(run, 1, 30, when=0.0)
    digest = digest_of(run)
    html = head_html(run.config(), TRAINING, digest)
    assert "step 30 of 60, 1.2 s a step, about 36 s left" in html
    assert 'aria-valuenow="50"' in html
    assert "Mine &amp; &lt;yours&gt;" in html
    assert "<yours>" not in html


def test_states_and_their_reasons_are_words() -> None:
    digest = RunDigest()
    assert phase_in_words(RunState(name="queued", words="2 ahead"), digest) == "Waiting for the device: 2 ahead"
    assert phase_in_words(RunState(name="interrupted"), digest) == "Interrupted"
    digest.add(Phase(words="encoding pictures", fraction=0.5))
    assert phase_in_words(TRAINING, digest) == "Encoding pictures 50%"
    assert phase_in_words(RunState(name="starting"), digest) == "Encoding pictures 50%"
    assert "nothing was heard" in phase_in_words(RunState(name="running", words="nothing was heard of it"), digest)


@pytest.mark.parametrize("better", [True, False])
def test_the_end_says_plainly_whether_it_beats_the_untrained_student(run: RunFolder, better: bool) -> None:
    write_start(run, when=0.0)
    write_steps(run, 1, 60, when=0.0)
    append(run, written_runs.measured(60, 60, when=0.0, better=better))
    write_end(run, better=better)
    html = head_html(run.config(), RunState(name="finished"), digest_of(run))
    assert ("Better than untrained" in html) == better
    assert ("Not better than untrained" in html) == (not better)
    assert ("below the untrained student" in html) == better
    assert ("made it worse" in html) == (not better)


def test_a_style_is_told_by_its_held_out_loss(run: RunFolder) -> None:
    """It has no windows and no untrained student; what it has is a loss before and after."""
    said = "Better than before: held-out loss 0.0806, before training 0.1383."
    append(run, Finished(step=60, export="export", beats_untrained=True, words=said))
    html = head_html(run.config(), RunState(name="finished"), digest_of(run))
    assert "<h3>Better than before</h3>" in html
    assert said in html


def test_errors_above_the_start_are_said_while_it_trains() -> None:
    digest = RunDigest()
    assert outcome_in_words(digest) == ""
    digest.add(Started(step=0, num_steps=10, config_sha256="x", pid=1))
    digest.add(Validated(step=5, endpoint_errors=(1.1,), untrained=(1.0,)))
    assert "10.0% above" in outcome_in_words(digest)
    assert "made it worse" not in outcome_in_words(digest)


def test_each_window_has_its_colour_its_curve_and_the_untrained_level(run: RunFolder) -> None:
    write_start(run, when=0.0)
    write_steps(run, 1, 40, when=0.0)
    html = view.windows_html(digest_of(run), run.config())
    charts = html.split('<figure class="window-chart"')[1:]
    assert len(charts) == len(UNTRAINED)
    for window, chart in enumerate(charts):
        assert window_colour(window, 4) in chart
        assert 'class="dashed"' in chart
        assert f"untrained {UNTRAINED[window]:.3g}" in chart
        assert re.search(r'class="line"[^>]* d="M0\.00 ', chart), "the curve begins at step 0"


def test_a_failed_and_a_stopped_run_say_how_to_go_on(run: RunFolder) -> None:
    write_start(run, when=0.0)
    append(run, Failed(step=20, reason="The disk is full: 3 MB free, 200 MB needed."))
    html = head_html(run.config(), RunState(name="failed"), digest_of(run))
    assert "The disk is full: 3 MB free, 200 MB needed." in html
    assert "step 20" in html
    append(run, Started(step=20, num_steps=60, config_sha256="x", pid=1), Stopped(step=25))
    html = head_html(run.config(), RunState(name="stopped"), digest_of(run))
    assert "Stopped at step 25" in html
    assert "disk is full" not in html


def test_the_same_warning_stands_once(run: RunFolder) -> None:
    append(run, *(Warned(kind="nan", words="A loss was no number.", step=step) for step in range(5)))
    assert head_html(run.config(), TRAINING, digest_of(run)).count("A loss was no number.") == 1


def test_a_run_without_steps_has_nothing_broken_in_it(run: RunFolder) -> None:
    digest = digest_of(run)
    html = "".join((
        head_html(run.config(), RunState(name="queued"), digest), view.windows_html(digest, run.config()),
        view.loss_html(digest, run.config()), view.numbers_html(digest, run.config()),
        scrubber_html(digest, None), samples_html(digest, run.samples_dir, None), view.log_html(""),
    ))  # fmt: skip
    assert "None" not in html
    assert "nan" not in html


def test_the_scrubber_goes_back_and_the_teacher_stays(run: RunFolder) -> None:
    write_start(run, when=0.0)
    write_steps(run, 1, 40, when=0.0)
    digest = digest_of(run)
    assert "Samples at step 40" in scrubber_html(digest, None)
    assert "Samples at step 20" in scrubber_html(digest, 20)
    assert "Samples at step 40" in scrubber_html(digest, 999)
    newest, oldest = samples_html(digest, run.samples_dir, None), samples_html(digest, run.samples_dir, 0)
    assert newest != oldest
    for html in (newest, oldest):
        titles = re.findall(r"<figcaption>([^<]*)</figcaption>", html)
        assert titles == ["teacher, many steps", "2 steps", "4 steps", "8 steps"]
        assert html.count("data:image/jpeg") == 4
        assert PROMPTS[0] in html


@pytest.mark.parametrize("file", ["../config.json", "/etc/passwd", "gone.png", "config.json", ".png", "a/b.png"])
def test_a_sample_is_read_from_the_samples_folder_or_not_at_all(run: RunFolder, file: str) -> None:
    append(run, SampleSaved(step=0, num_steps=4, file=file))
    html = samples_html(digest_of(run), run.samples_dir, None)
    assert "This file is gone." in html
    assert "data:" not in html


def test_the_log_is_text_not_markup() -> None:
    html = view.log_html("<script> \x1b[A\x1b[31mred\x1b[0m")
    assert "&lt;script&gt; red" in html
