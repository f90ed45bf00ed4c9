"""How much of everything: in full about 53 minutes of one thread of a Xeon, quick within three on two cores.

Rows are kept: several processes on one shelf share the work.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of pictures (`num_`), solver steps, scales and resamples of each part."""

    num_pictures: int = 500
    num_swept: int = 80
    sweep: tuple[float, ...] = (1.0, 1.5, 3.0, 4.5)
    sweep_steps: tuple[int, ...] = (4,)
    table_steps: tuple[int, ...] = (4, 8)
    more_steps: tuple[int, ...] = (2,)
    num_paired: int = 32
    reference_steps: int = 200
    paired_steps: tuple[int, ...] = (4, 5, 8)
    num_paths: int = 24
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

    def network_rows(self, num_contestants: int) -> int:
        """About how many rows of the network all parts take, for the progress bar."""
        others = num_contestants - 1
        per_step = 1 + 2 * (len(self.sweep) - 1)
        sweep = self.num_swept * sum(self.sweep_steps) * per_step * num_contestants
        table = self.num_pictures * 2 * (sum(self.table_steps) * num_contestants + 50 + 2 * sum(self.more_steps))
        paired = self.num_paired * 2 * (2 * self.reference_steps + sum(self.paired_steps) * num_contestants)
        habits = self.num_diverse * self.num_seeds * 2 * (25 + 4 * others) + self.num_negative * 4 * 33
        doubles = self.num_doubles * 2 * 22 + self.num_swept * 8 * len(self.dynamic)
        return sweep + table + paired + habits + doubles + self.num_styled * 2 * (50 + 12)


FULL = Sizes()
QUICK = Sizes(
    num_pictures=8, num_swept=4, sweep=(1.0, 3.0), sweep_steps=(4,), more_steps=(2,), num_paired=2, reference_steps=20,
    paired_steps=(4, 5), num_paths=2, num_diverse=2, num_seeds=2, num_negative=2, num_doubles=4, dynamic=(2.0,),
    num_styled=4, style_minutes=0.03, num_style_scenes=12, num_rounds=1, num_resamples=5,
)  # fmt: skip
