"""How much of everything: quick within three minutes on two cores, in full about 40.

Measured on a Xeon with two processes on its two cores: together 145 rows of the network a second, a picture decoded and
seen in 0.04 s of one of them, a scene in 0.1 s, an FD in 0.014 s. A full report, 259,000 rows, took 41.6 minutes beside
other work that left its processes 86 % of their cores. Its sweep was of 64 pictures, where chance chose CFG 1.5 for
the delta weights; this one's 128 cost 2 more. 250 more pictures would cost 11, 1,000 more in the race 4.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of pictures (`num_`), solver steps, scales and resamples of each part."""

    num_pictures: int = 500
    num_raced: int = 1000
    num_swept: int = 128
    sweep: tuple[float, ...] = (1.0, 1.5, 3.0, 4.5)
    sweep_steps: tuple[int, ...] = (4,)
    table_steps: tuple[int, ...] = (4, 8)
    more_steps: tuple[int, ...] = (2,)
    num_paired: int = 32
    reference_steps: int = 200
    paired_steps: tuple[int, ...] = (4, 5, 8)
    num_paths: int = 12
    own_path_steps: int = 64
    num_diverse: int = 12
    num_seeds: int = 8
    num_negative: int = 48
    num_doubles: int = 200
    dynamic: tuple[float, ...] = (1.5, 2.0, 3.0)
    num_styled: int = 64
    style_minutes: float = 3.0
    num_style_scenes: int = 600
    num_rounds: int = 5
    num_resamples: int = 60


FULL = Sizes()
QUICK = Sizes(
    num_pictures=8, num_raced=8, num_swept=4, sweep=(1.0, 3.0), sweep_steps=(4,), more_steps=(2,), num_paired=2,
    reference_steps=20, paired_steps=(4, 5), num_paths=2, own_path_steps=16, num_diverse=2, num_seeds=2, num_negative=2,
    num_doubles=4, dynamic=(2.0,), num_styled=4, style_minutes=0.03, num_style_scenes=12, num_rounds=1, num_resamples=5,
)  # fmt: skip
