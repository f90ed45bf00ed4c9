"""A guidance schedule becomes one scale per step."""

import pytest

from studio.errors import InvalidRequest
from studio.perflow import CFG_FIXED, CFG_SYNC, num_network_calls, paper_guidance
from studio.perflow.guidance import scales_per_step
from studio.types import Guidance

WINDOWS_OF_FIVE = (0, 0, 1, 2, 3)


def resolve(guidance):
    return scales_per_step(guidance, step_windows=WINDOWS_OF_FIVE, num_time_windows=4)


def test_presets_are_the_papers():
    assert CFG_SYNC.scales == (7.5, 4.0, 4.0, 4.0)
    assert CFG_FIXED.scales == (2.5, 1.5, 1.5, 1.5)
    assert paper_guidance("fixed", 2).scales == (2.5, 1.5)
    assert paper_guidance("sync") == CFG_SYNC
    assert paper_guidance("sync", 1).scales == (7.5,)


def test_scale_per_window_follows_the_windows():
    assert resolve(CFG_SYNC) == (7.5, 7.5, 4.0, 4.0, 4.0)


def test_one_scale_holds_for_all():
    assert resolve(Guidance(scales=(3.0,))) == (3.0,) * 5
    assert resolve(Guidance(scales=(3.0,), per="step")) == (3.0,) * 5


def test_scale_per_step():
    assert resolve(Guidance(scales=(5, 4, 3, 2, 1), per="step")) == (5.0, 4.0, 3.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("guidance", "each"),
    [
        (Guidance(scales=(1, 2)), "4, one per time window"),
        (Guidance(scales=(1, 2, 3, 4), per="step"), "5, one per step"),
    ],
)
def test_a_wrong_count_is_refused_with_the_right_one(guidance, each):
    with pytest.raises(InvalidRequest, match=each) as caught:
        resolve(guidance)
    assert caught.value.field == "guidance"


def test_steps_without_guidance_cost_one_call():
    assert num_network_calls((7.5, 4.0, 1.0, 1.0)) == 6
