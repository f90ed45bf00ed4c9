"""What the page says and shows, as text: no browser, no gradio."""

from __future__ import annotations

import logging

import pytest
from PIL import Image

from studio.errors import InvalidRequest, OutOfMemory
from studio.perflow.guidance import paper_guidance
from studio.perflow.windows import TimeWindows, make_plan
from studio.specs import ModelSpec
from studio.types import GenerationRequest, Guidance, Loading, StepPreview, Waiting
from studio.ui import feedback, stage, theme, windows_view
from studio.ui.schedule_field import FIXED, PAPER, SYNC, list_as_guidance, mode_of, stretched


def preview(**changes) -> StepPreview:
    values = {
        "image_index": 0,
        "num_images": 1,
        "step": 2,
        "num_steps": 4,
        "timestep": 750,
        "window": 1,
        "num_time_windows": 4,
        "guidance": 3.0,
        "seconds": 0.07,
        "image": Image.new("RGB", (64, 64), "red"),
    }
    return StepPreview(**{**values, **changes})


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Waiting(num_ahead=2, seconds=8.2), "Waiting for the device: 2 ahead, about 8.2 s."),
        (Waiting(num_ahead=1), "Waiting for the device: 1 ahead."),
        (Loading(message="Downloading SD 1.5", fraction=0.25), "Downloading SD 1.5… 25%"),
        (preview(), "Window 2 of 4, step 2 of 4"),
        (preview(num_images=3, image_index=2), "Picture 3 of 3, window 2 of 4, step 2 of 4"),
    ],
)
def test_events_in_words(event, words) -> None:
    assert feedback.event_in_words(event) == words


def test_bugs_are_logged_and_never_shown(caplog) -> None:
    with caplog.at_level(logging.ERROR):
        words = feedback.failure_in_words(RuntimeError("secret /home/someone/path"))
    assert words == feedback.BROKE
    assert "secret" not in words
    assert "secret" in caplog.text


def test_studio_errors_are_shown_as_they_are() -> None:
    assert feedback.failure_in_words(OutOfMemory("Too big: try 512.")) == "Too big: try 512."


def test_field_errors_name_the_field_as_the_form_does_and_are_escaped() -> None:
    html = feedback.field_error_html(InvalidRequest("num_images", "a whole number", "<script>"))
    assert "Batch count: expected a whole number" in html
    assert "<script>" not in html


@pytest.mark.parametrize(
    ("kind", "on_disk", "words"),
    [
        ("hub", False, "2.1 GB to download"),
        ("hub", True, "2.1 GB on disk"),
        ("builtin", True, "built in"),
        ("builtin", False, "its files are missing"),
    ],
)
def test_a_model_says_where_it_is(kind, on_disk, words) -> None:
    spec = ModelSpec(id="m", title="M", family="sd15", source="a/b", kind=kind, download_bytes=2_132_000_000)
    assert feedback.availability(spec, on_disk=on_disk) == words


def test_a_noncommercial_licence_stands_out() -> None:
    assert "not for commercial use" in feedback.licence_html("cc-by-nc-4.0")
    assert "not for commercial use" not in feedback.licence_html("openrail++")


def test_alt_text_comes_from_the_request_and_stays_inside_its_attribute() -> None:
    request = GenerationRequest(prompt='a "red"\n<cube>', seed=5)
    shown = stage.Shown(
        request=request,
        pictures=(
            stage.ShownPicture(
                source="data:,", thumbnail="data:,", alt=feedback.alt_text(request, 5), seed=5, history_id="x", lens=()
            ),
        ),
        num_time_windows=4,
    )
    assert 'alt="Generated picture: a &quot;red&quot; &lt;cube&gt; (seed 5)"' in stage.result_html(shown)


def test_windows_run_from_violet_to_amber() -> None:
    assert theme.window_colour(0, 4) == theme.STOPS[0]
    assert theme.window_colour(3, 4) == theme.STOPS[-1]
    assert [theme.window_colour(i, 4) for i in range(4)] == list(theme.STOPS)
    assert len({theme.window_colour(i, 8) for i in range(8)}) == 8
    assert theme.window_colour(0, 1) == theme.STOPS[0]


@pytest.mark.parametrize(("steps", "num_time_windows"), [(4, 4), (5, 4), (2, 4), (1, 1), (25, 1), (8, 8)])
def test_the_grid_shows_every_step_and_every_window(steps, num_time_windows) -> None:
    plan = make_plan(TimeWindows(num_time_windows=num_time_windows), steps, Guidance(scales=(3.0,)))
    html = windows_view.grid_html(plan)
    assert html.count("grid-dot") == steps
    assert html.count('class="grid-window') == num_time_windows + 1
    assert windows_view.cost_in_words(plan) == f"{windows_view.plural(steps, 'step')}, {2 * steps} network calls"


def test_the_cost_counts_unguided_steps_once_and_every_picture() -> None:
    plan = make_plan(TimeWindows(num_time_windows=4), 4, Guidance(scales=(7.5, 1.0, 1.0, 1.0)))
    assert windows_view.cost_in_words(plan) == "4 steps, 5 network calls"
    assert windows_view.cost_in_words(plan, 3) == "3 × (4 steps, 5 network calls) = 15 network calls"


@pytest.mark.parametrize("num_time_windows", [1, 2, 4, 8])
def test_the_papers_schedules_are_those_of_the_maths(num_time_windows) -> None:
    for name, mode in ((SYNC, "sync"), (FIXED, "fixed")):
        assert stretched(PAPER[name], num_time_windows) == paper_guidance(mode, num_time_windows).scales


@pytest.mark.parametrize(
    ("guidance", "mode"),
    [
        (Guidance(scales=(1.0,)), "Off"),
        (Guidance(scales=(3.0,)), "Constant"),
        (Guidance(scales=(7.5, 4.0, 4.0, 4.0)), SYNC),
        (Guidance(scales=(2.5, 1.5, 1.5, 1.5)), FIXED),
        (Guidance(scales=(5.0, 4.0, 3.0, 2.0)), "Per window"),
        (Guidance(scales=(29.0, 4.0, 3.0, 2.0)), "Per step"),
        (Guidance(scales=(7.5, 4.0), per="step"), "Per step"),
    ],
)
def test_a_guidance_is_shown_in_its_simplest_form(guidance, mode) -> None:
    assert mode_of(guidance, 4) == mode


def test_a_list_of_scales_is_per_step_or_per_window() -> None:
    assert list_as_guidance("7.5, 4 4;4 3", num_time_windows=4, steps=5).per == "step"
    assert list_as_guidance("7.5,4,4,4", num_time_windows=4, steps=8).per == "window"
    for text in ("7.5,4", "", "a,b,c,d", "nan,1,1,1"):
        with pytest.raises(InvalidRequest, match="guidance"):
            list_as_guidance(text, num_time_windows=4, steps=8)


def test_the_page_asks_no_other_host() -> None:
    page = theme.head() + theme.stylesheet() + theme.studio_theme()._get_theme_css()
    for address in ("https://", "fonts.googleapis", "//cdn", "@import"):
        assert address not in page
