"""How much of everything: quick within three minutes, in full within 40, on two cores of one's own.

Measured on a core of a Xeon whose every core was at work: 72 rows of the network a second in batches (LoRAs, where they
are not fused, 55), 0.05 s to decode a picture and look at it, 0.1 s to render a scene, 0.014 s for an FD. In full that
is about 270,000 rows, 20,000 pictures, 1,500 scenes and 10,000 FDs: 90 minutes of such a core, 45 with two. On a
machine with nothing else to do rows came about 1.5 times as fast (a report of 232,000 in 53 minutes of one thread), so
that two cores should take 30. 250 more pictures for everybody would cost another 5 minutes, 1,000 more in the race
another 6, most of them for the teacher's samples: no room for 1,000 pictures, little for 750.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of pictures (`num_`), solver steps, scales and resamples of each part."""

    num_pictures: int = 500
    num_raced: int = 1000
    num_swept: int = 80
    sweep: tuple[float, ...] = (1.0, 1.5, 3.0, 4.5)
    sweep_steps: tuple[int, ...] = (4,)
    table_steps: tuple[int, ...] = (4, 8)
    more_steps: tuple[int, ...] = (2,)
    num_paired: int = 32
    reference_steps: int = 200
    paired_steps: tuple[int, ...] = (4, 5, 8)
    num_paths: int = 24
    own_path_steps: int = 64
    num_diverse: int = 12
    num_seeds: int = 8
    num_negative: int = 64
    num_doubles: int = 200
    dynamic: tuple[float, ...] = (1.5, 2.0, 3.0)
    num_styled: int = 80
    style_minutes: float = 3.0
    num_style_scenes: int = 600
    num_rounds: int = 7
    num_resamples: int = 60


FULL = Sizes()
QUICK = Sizes(
    num_pictures=8, num_raced=8, num_swept=4, sweep=(1.0, 3.0), sweep_steps=(4,), more_steps=(2,), num_paired=2,
    reference_steps=20, paired_steps=(4, 5), num_paths=2, own_path_steps=16, num_diverse=2, num_seeds=2, num_negative=2,
    num_doubles=4, dynamic=(2.0,), num_styled=4, style_minutes=0.03, num_style_scenes=12, num_rounds=1, num_resamples=5,
)  # fmt: skip
